"""A process that looks at a tree: `clsync.state.scanner.main`, with a socket as argument, in the watched root.

It compares directories with the index and tells only what differs, or writes into the index what it sees. It ends when
its socket is closed. Memory: the names of one directory, and those of directories that are still to be looked at.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import socket
import sqlite3
import sys
from collections import deque
from collections.abc import Callable
from typing import Final

from clsync.core.changes import DOUBT, NAME, OF_DIRECTORY
from clsync.core.listing import DamagedListing
from clsync.core.paths import join, shown
from clsync.core.rules import Rules
from clsync.kernel.landlock import READ_DIR, WRITE, Allowed
from clsync.kernel.sandbox import stay_within
from clsync.state import index, schema
from clsync.state.difference import Seen, compare, pack
from clsync.state.messages import FAILED, FOUND, IDLE, LINKED, RECORD, SHARE, WORK, Inbox, Order, message
from clsync.state.walker import Directory, Scope, Walker

_CHUNK: Final = 1 << 16
_TOLD_AT_ONCE: Final = 1000
_AT_ONCE: Final = 256
"""Directories, or parts of listings, between two looks at the socket, or transactions."""


class Orphaned(Exception):
    """Who has started this scan is gone: what it finds is for nobody."""


class Comparing:
    """Finds what differs from the index."""

    def __init__(self, rows: sqlite3.Connection, tell: Callable[[bytes, int], None]) -> None:
        self._rows, self._tell = rows, tell

    def take(self, directory: Directory) -> Seen:
        """Compare one directory."""
        if not self._rows.in_transaction:
            self._rows.execute("BEGIN")
        return compare(self._rows, directory, self._tell)

    def gone(self, path: bytes) -> None:
        """Note that a directory is not there any more."""
        self._tell(path, NAME | OF_DIRECTORY)

    def unreadable(self, path: bytes) -> None:
        """Note that a directory cannot be looked at."""
        self._tell(path, DOUBT)

    def rest(self) -> None:
        """Let what was written meanwhile be seen, and the log begin anew."""
        if self._rows.in_transaction:
            self._rows.execute("COMMIT")


class Recording:
    """Writes what it sees into the index. What cannot be looked at is not in it."""

    def __init__(self, rows: sqlite3.Connection, wanted: Callable[[], bool]) -> None:
        """`wanted` tells whether what is found is for anybody."""
        self._rows, self._wanted = rows, wanted
        self._seen: list[tuple[bytes, index.Parts]] = []
        self._count = 0

    def take(self, directory: Directory) -> Seen:
        """Record one directory."""
        self._seen.append((directory.path, []))

        def put(first: bytes, part: bytes) -> None:
            self._seen[-1][1].append((first, part))
            self._count += 1
            if self._count >= _AT_ONCE:
                self.rest()
                self._seen.append((directory.path, []))

        return pack(directory, put)

    def gone(self, path: bytes) -> None:
        """Note that a directory is not there any more: who watches will say so."""

    def unreadable(self, path: bytes) -> None:
        """Note that a directory cannot be looked at."""

    def rest(self) -> None:
        """Write what was seen."""
        if not self._count:
            return
        self._rows.execute("BEGIN IMMEDIATE")
        if not self._wanted():
            raise Orphaned
        index.put(self._rows, self._seen)
        self._rows.execute("COMMIT")
        self._seen.clear()
        self._count = 0


class Scanner:
    """Works through directories, gives some away when asked."""

    def __init__(self, connection: socket.socket) -> None:
        """`connection`: to the scan."""
        self._connection, self._inbox = connection, Inbox()
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._messages: deque[tuple[bytes, list[bytes]]] = deque()
        self._pending: list[bytes] = []
        self._told: list[bytes] = []
        self._linked: list[bytes] = []
        self._asked = False
        self._directories = self._entries = 0

    def run(self, root: int, parent: int, order: Order) -> None:
        """Work until the connection is closed. Raises EOFError, Orphaned, sqlite3.Error, DamagedListing.

        `parent`: process id of who has started this one.
        """
        walker = Walker(root, Scope(Rules.parse(order.rules), order.one_file_system), moves=True)
        if order.since:
            walker.since_ns = int(order.since * 1e9)
        rows = schema.connect(order.state, write=order.mode == RECORD)
        task: Comparing | Recording
        if order.mode == RECORD:
            task = Recording(rows, lambda: os.getppid() == parent and not self._is_left())
        else:
            task, walker.exact = Comparing(rows, self._tell), True
        while True:
            self._heed(*self._next())
            if self._pending:
                self._work(walker, task)
                task.rest()
                self._flush()
                self._send(IDLE, [b"%d %d" % (self._directories, self._entries)])

    def _work(self, walker: Walker, task: Comparing | Recording) -> None:
        count = 0
        while self._pending:
            path = self._pending.pop()
            self._look(walker, task, path)
            count += 1
            if count % 16 == 0:
                self._listen()
            if count % _AT_ONCE == 0:
                task.rest()

    def _look(self, walker: Walker, task: Comparing | Recording, path: bytes) -> None:
        found = False
        try:
            for directory in walker.visit(path):
                found = True
                below, linked, entries = task.take(directory)
                self._entries += entries
                self._directories += 1
                if linked:
                    self._note_linked(directory, linked)
                if below:
                    paths = [join(path, name) for name in below]
                    # The first ones first: neighbours in the tree are neighbours in the index.
                    self._pending += filter(walker.enters, reversed(paths))
        except OSError:
            task.unreadable(path)
        else:
            if not found:
                task.gone(path)

    def _note_linked(self, directory: Directory, linked: list[tuple[int, int, bytes]]) -> None:
        for inode, links, name in linked:
            self._linked.append(b"%d %d %d %s" % (directory.device, inode, links, join(directory.path, name)))
        if len(self._linked) >= _TOLD_AT_ONCE:
            self._flush()

    def _tell(self, path: bytes, bits: int) -> None:
        self._told.append(b"%d %s" % (bits, path))
        if len(self._told) >= _TOLD_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        """Say what was found."""
        for letter, found in ((FOUND, self._told), (LINKED, self._linked)):
            self._send(letter, found)
            found.clear()

    # -- the connection ----------------------------------------------------------------------------------------

    def _send(self, letter: bytes, parts: list[bytes]) -> None:
        if parts:
            self._connection.sendall(message(letter, parts))

    def _is_left(self) -> bool:
        """Tell whether nobody is at the other end any more."""
        return any(events & select.POLLHUP for _, events in self._poll.poll(0))

    def _next(self) -> tuple[bytes, list[bytes]]:
        """Return the next message. Raises EOFError."""
        while not self._messages:
            self._read()
        return self._messages.popleft()

    def _read(self) -> None:
        data = self._connection.recv(_CHUNK)
        if not data:
            raise EOFError
        self._messages.extend(self._inbox.feed(data))

    def _listen(self) -> None:
        """Heed what has arrived."""
        while self._poll.poll(0):
            self._read()
        while self._messages:
            self._heed(*self._messages.popleft())
        half = len(self._pending) // 2
        if self._asked and half:
            # The older half: those are the larger subtrees.
            self._asked = False
            self._send(SHARE, self._pending[:half])
            del self._pending[:half]

    def _heed(self, letter: bytes, parts: list[bytes]) -> None:
        if letter == WORK:
            self._pending.extend(parts)
        elif letter == SHARE:
            self._asked = True


def main() -> None:
    """Take a descriptor as argument and work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # stopping is the parent's decision
    parent = os.getppid()
    connection = socket.socket(fileno=int(sys.argv[1]))
    root = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    order: Order = pickle.load(sys.stdin.buffer)
    if order.sandbox is not None:
        state = Allowed(os.path.dirname(order.state), WRITE)
        stay_within(order.sandbox, (Allowed(b"/proc/self/fd/%d" % root, READ_DIR), state))
    try:
        try:
            Scanner(connection).run(root, parent, order)
        except DamagedListing as error:
            connection.sendall(message(FAILED, [b"it is damaged at " + shown(error.args[0]).encode()]))
        except sqlite3.Error as error:
            connection.sendall(message(FAILED, [str(error).encode()]))
        except (EOFError, Orphaned):
            pass
    except ConnectionError:
        pass
