"""A mirror of one page, with a state: it changes its source, syncs it, and kills itself at a given step.

Run as `python -m tests.support.small_mirror STATE SOURCE TARGET SEED STEPS`. Steps are SQL statements and the touches
of the target. It knows what it has changed, as a monitor would.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterable

from clsync.core.changes import ATTRIB, CONTENT, DOUBT, NAME, OF_DIRECTORY
from clsync.core.listing import record_of
from clsync.core.paths import ancestors, is_below, join, parent
from clsync.core.rules import Rules
from clsync.core.stamps import YOUNG_NS
from clsync.state import schema
from clsync.state.difference import compare
from clsync.state.scan import here, listings, record
from clsync.state.store import Confirmed, Store
from clsync.state.walker import Scope, Walker
from tests.support.trees import compare_trees, report

TARGET = b"target"
SCOPE = Scope(Rules())
BOOT = bytes(16)
NAMES = [b"a", b"b", b"c\n", b"\xff", b"d d"]
EVERYTHING = NAME | DOUBT


def open_store(state: bytes) -> Store:
    return Store.open(state, b"a source", [TARGET], BOOT)


def to_be_synced(store: Store, root: int) -> dict[bytes, int]:
    """Return what a warm start hands over: the journal, and what differs from the index."""
    found = {dirty.path: dirty.bits for dirty in store.dirty(TARGET)}
    rows = schema.connect(store.path, write=False)
    walker = Walker(root, SCOPE)
    pending = [b""]

    def tell(path: bytes, bits: int) -> None:
        found[path] = found.get(path, 0) | bits

    while pending:
        path = pending.pop()
        for directory in walker.visit(path):
            pending += [join(path, name) for name in compare(rows, directory, tell).directories]
    rows.close()
    return found


def covers(changes: dict[bytes, int], path: bytes) -> bool:
    """Tell whether handing over what has changed makes a path equal."""
    return path in changes or any(changes.get(up, 0) & EVERYTHING for up in [b"", *ancestors(path)])


class Mirror:
    """A source, a target, and the state between them."""

    def __init__(self, state: bytes, source: bytes, target: bytes, seed: int, step: Callable[[], None]) -> None:
        self.source, self.target, self.step = source, target, step
        self.random = random.Random(seed)
        self.store = open_store(state)
        self.store._rows.set_trace_callback(lambda statement: step())
        self.root = os.open(source, os.O_RDONLY | os.O_DIRECTORY)
        self.events: dict[bytes, int] = {}
        self.recent: dict[bytes, int] = {}
        """What was changed during the last sync."""

    # -- the source --------------------------------------------------------------------------------------------

    def paths(self) -> list[bytes]:
        found = [b""]
        for top, directories, files in os.walk(self.source):
            found += [join(top[len(self.source) + 1 :], name) for name in directories + files]
        return sorted(found)

    def note(self, path: bytes, bits: int) -> None:
        self.events[path] = self.events.get(path, 0) | bits
        if bits & NAME:
            self.note(parent(path), ATTRIB) if path else None

    def churn(self, many: int) -> None:
        for _ in range(many):
            self.step()
            try:
                self.change()
            except OSError:
                pass  # a rename into itself, a directory in the place of a file

    def change(self) -> None:
        paths = self.paths()
        directories = [p for p in paths if os.path.isdir(self.at(p)) and not os.path.islink(self.at(p))]
        new = join(self.random.choice(directories), self.random.choice(NAMES))
        old = self.random.choice(paths)
        kind = self.random.randrange(9)
        if kind == 0:
            os.mkdir(self.at(new))
            self.note(new, NAME | OF_DIRECTORY)
        elif kind in (1, 2):
            with open(self.at(new), "wb") as file:
                file.write(self.random.randbytes(3))
            self.note(new, NAME | CONTENT)
        elif kind in (3, 8) and old:
            if kind == 8:  # what came a moment ago goes again
                old = self.random.choice([p for p in paths if p and self.recent.get(p, 0) & NAME] or [old])
            self.note(old, NAME)
            if os.path.isdir(self.at(old)) and not os.path.islink(self.at(old)):
                shutil.rmtree(self.at(old))
            else:
                os.unlink(self.at(old))
        elif kind == 4 and old:
            os.rename(self.at(old), self.at(new))
            self.note(old, NAME | OF_DIRECTORY)
            self.note(new, NAME | OF_DIRECTORY)
        elif kind == 5 and not os.path.islink(self.at(old)):  # through one it would be that of another name
            os.chmod(self.at(old), self.random.choice([0o700, 0o750]))
            self.note(old, ATTRIB)
        elif kind == 6:
            self.rewrite(old)
        elif kind == 7:
            os.symlink(self.random.choice(NAMES), self.at(new))
            self.note(new, NAME)

    def rewrite(self, path: bytes) -> None:
        """Change the content and keep size and mtime."""
        found = os.lstat(self.at(path))
        if stat.S_ISREG(found.st_mode):
            with open(self.at(path), "r+b") as file:
                file.write(self.random.randbytes(found.st_size))
            os.utime(self.at(path), ns=(found.st_mtime_ns, found.st_mtime_ns))
            self.note(path, CONTENT)

    def at(self, path: bytes) -> bytes:
        return join(self.source, path)

    # -- syncing -----------------------------------------------------------------------------------------------

    def sync(self, changes: dict[bytes, int], meanwhile: int) -> None:
        """Hand over some changes, with others made meanwhile."""
        entries = reduced(changes, self.source)
        self.store.hand_over(TARGET, entries, 0.0)
        seen: dict[bytes, bytes | None] = {}
        trees = {}
        for path, bits in entries.items():
            if self.is_directory(path) and bits & EVERYTHING:
                listed = listings(Walker(self.root, SCOPE), path, 10_000)
                assert listed is not None
                trees[path] = listed
            else:
                seen[path] = self.record_of(path)
        self.events = self.recent = {}
        self.churn(meanwhile)
        for path in entries:
            self.carry(path, path in trees)
        self.churn(meanwhile)
        touched = {up for path in entries for up in [b"", *ancestors(path), path]}
        for path in sorted(touched, reverse=True):
            self.carry_attributes(path)
        again = {p: b for p, b in self.events.items() if touches(p, entries)}
        self.store.confirm(TARGET, Confirmed(seen, trees, again))
        if not self.random.randrange(3):
            self.store.flushed(TARGET, self.store.begin_flush())

    def record(self) -> None:
        """Sync everything, and have a scan record it before or after, with changes in between."""
        self.store.begin_record(b"", 0.0)
        self.age()
        self.events = self.recent = {}
        source = here(lambda: os.dup(self.root), SCOPE, self.store.path)
        works: list[Callable[[], object]] = [lambda: self.carry(b"", True), lambda: asyncio.run(record(source))]
        self.random.shuffle(works)
        for work in works:
            work()
            self.churn(2)
            self.age()
        self.store.end_record(TARGET, b"", self.events, 0.0)
        if self.random.randrange(2):
            os.kill(os.getpid(), signal.SIGKILL)  # before what has changed meanwhile is handed over

    def is_directory(self, path: bytes) -> bool:
        return os.path.isdir(self.at(path)) and not os.path.islink(self.at(path))

    def record_of(self, path: bytes) -> bytes | None:
        young = time.time_ns() - YOUNG_NS
        try:
            return record_of(os.lstat(self.at(path)), young)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def carry(self, path: bytes, deep: bool) -> None:
        """Make one path at the target equal, and for directories all that is below."""
        self.step()
        source, target = self.at(path), join(self.target, path)
        try:
            real = self.is_directory(path)
            if os.path.lexists(target) and not (real and os.path.isdir(target) and not os.path.islink(target)):
                shutil.rmtree(target) if os.path.isdir(target) and not os.path.islink(target) else os.unlink(target)
            if real:
                os.makedirs(target, exist_ok=True)
            elif os.path.lexists(source):
                shutil.copy2(source, target, follow_symlinks=False)
        except OSError:
            return  # it changes just now: there is an event
        if real and deep:
            names = set(os.listdir(target)) | (set(os.listdir(source)) if os.path.isdir(source) else set())
            for name in sorted(names):
                self.carry(join(path, name), True)
            self.carry_attributes(path)

    def carry_attributes(self, path: bytes) -> None:
        self.step()
        try:
            if self.is_directory(path):
                shutil.copystat(self.at(path), join(self.target, path))
        except OSError:
            pass

    def run(self) -> None:
        """Sync what is different, then follow changes until the steps are over."""
        self.sync(to_be_synced(self.store, self.root), 0)
        differences = compare_trees(self.source, self.target)
        assert not differences, report(differences)
        pending: dict[bytes, int] = {}
        while True:
            if not self.random.randrange(8):
                self.record()
                pending = self.events
            self.events = {}
            self.churn(4)
            self.age()
            for path, bits in self.events.items():
                pending[path] = pending.get(path, 0) | bits
            self.sync(pending, self.random.randrange(4))
            pending = self.events

    def age(self) -> None:
        """Wait until what was changed is young no more."""
        until = time.time_ns() + YOUNG_NS
        while time.time_ns() <= until:
            time.sleep(0.005)


def touches(path: bytes, entries: Iterable[bytes]) -> bool:
    return any(path == entry or is_below(path, entry) or path == parent(entry) for entry in entries)


def reduced(changes: dict[bytes, int], source: bytes) -> dict[bytes, int]:
    """Cut paths at their first ancestor that is no directory, and leave out what another entry covers."""
    entries: dict[bytes, int] = {}
    for path, bits in changes.items():
        for up in ancestors(path):
            at = join(source, up)
            if os.path.islink(at) or not os.path.isdir(at):
                path, bits = up, NAME | OF_DIRECTORY
                break
        entries[path] = entries.get(path, 0) | bits
    deep = {p for p, b in entries.items() if b & EVERYTHING and os.path.isdir(join(source, p))}
    return {p: b for p, b in sorted(entries.items()) if not any(is_below(p, top) for top in deep)}


def main() -> None:
    state, source, target = map(os.fsencode, sys.argv[1:4])
    seed, left = int(sys.argv[4]), int(sys.argv[5])

    def step() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    Mirror(state, source, target, seed, step).run()


if __name__ == "__main__":
    main()
