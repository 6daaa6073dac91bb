"""A monitor under test, and an oracle: what changed between two snapshots must have been reported, all of it.

    with Watch(root, "fanotify") as watch:
        act()
        watch.expect_complete()   # compares the tree with what it was, and waits for every difference to be told

`python -m tests.support.monitors ROOT KIND` does that in a process of its own and prints what was chosen (JSON).
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from clsync.core.changes import ATTRIB, CONTENT, DOUBT, NAME
from clsync.core.paths import ancestors, parent
from clsync.core.rules import Rules
from clsync.monitor import TreeMonitor
from clsync.monitor.base import Changed
from tests.support.environment import INHERITED
from tests.support.trees import Entry, Snapshot, snapshot

POLL_INTERVAL = 0.1
DEADLINE = float(os.environ.get("CLSYNC_TEST_DEADLINE", "15"))
WRITTEN = CONTENT | NAME | DOUBT
ANYTHING = ATTRIB | WRITTEN
_WHOLE = NAME | DOUBT
"""A directory with one of these is compared with everything below it."""
_TICK_NS = 40_000_000
_SENTINEL = b".sentinel"
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100

_libc = ctypes.CDLL(None, use_errno=True)


def exchange(one: os.PathLike[str], other: os.PathLike[str]) -> None:
    """Swap two names (renameat2(2), RENAME_EXCHANGE). Raises OSError."""
    if _libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fsdecode(one))


class Watch:
    """An armed monitor, all it has said, and the tree as it was when it was armed."""

    def __init__(
        self,
        root: Path,
        kind: str,
        *,
        rules: Rules | None = None,
        follow_mounts: bool = True,
        armed: bool = True,
    ) -> None:
        """Watch `root`; `kind` as `TreeMonitor` takes it. What is there has settled before."""
        self.root = os.path.realpath(os.fsencode(root))
        self.seen: dict[bytes, int] = {}
        self.log: list[str] = []
        self._kind = kind
        self.rules = rules or Rules()
        self.before: Snapshot = {}
        self.monitor = TreeMonitor(
            self.root,
            kind=kind,
            rules=self.rules,
            follow_mounts=follow_mounts,
            poll_interval=POLL_INTERVAL,
            log=self.log.append,
        )
        try:
            if armed:
                self.arm()
        except BaseException:
            self.monitor.close()
            raise

    def arm(self) -> None:
        """Arm to the end."""
        if self._kind == "poll":
            wait_for_clock()
        self.before = inodes(self.root)
        for _ in self.monitor.arm():
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.monitor.close()

    # -- pumping -----------------------------------------------------------------------------------------------

    def pump(self, longest: float = 0.05) -> bool:
        """Wait (s) until the monitor has something to do, and let it do that; True if the window is not empty."""
        due = self.monitor.due()
        wait = longest if due is None else min(longest, max(0.0, due - time.monotonic()))
        poll = select.poll()
        poll.register(self.monitor.fileno(), select.POLLIN)
        poll.poll(wait * 1000)
        return self.monitor.drain()

    def pump_until(self, condition: Callable[[], bool], what: str, timeout: float = DEADLINE) -> None:
        """Pump, the window left alone, until `condition` holds. Raises AssertionError after `timeout` s."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not within {timeout} s; {self.monitor.describe()}"
            self.pump()

    def rest(self) -> None:
        """Pump and take until the monitor has nothing left to do by itself."""
        self.pump_until(lambda: self.monitor.due() != 0.0 and not self.take(), "rest")

    def take(self) -> dict[bytes, int]:
        """End the window; return what was in it (also added to `seen`)."""
        taken: dict[bytes, int] = {}
        for path, bits in named(self.monitor.take()):
            taken[path] = taken.get(path, 0) | bits
            self.seen[path] = self.seen.get(path, 0) | bits
        return taken

    def moved(self, paths: Iterable[bytes], timeout: float = DEADLINE) -> set[tuple[bytes | None, bytes | None]]:
        """Let one window fill until all of `paths` are in it; end it, and return what was moved: (old, new).

        Raises AssertionError where the events do not come.
        """
        wanted = set(paths)
        self.pump_until(lambda: self.monitor.drain() and self.monitor.due() != 0.0, "events", timeout)
        self.pump(0.05)  # what belongs together is not always read at once
        taken = self.monitor.take()
        moves = {(move.old, move.new) for move in self.monitor.moves() if move is not None}
        told = {path for path, _ in named(taken)}
        assert told >= wanted, f"not in the window: {wanted - told}"
        return moves

    def collect(self, condition: Callable[[], bool], timeout: float = DEADLINE) -> bool:
        """Pump and take until `condition` holds; tell whether it came to hold in time (s)."""
        deadline = time.monotonic() + timeout
        while True:
            if self.pump():
                self.take()
            if condition():
                return True
            if time.monotonic() > deadline:
                return False

    # -- the oracle --------------------------------------------------------------------------------------------

    def covers(self, path: bytes, wanted: int = ANYTHING) -> bool:
        """Tell whether what was seen makes a mirror look at `path` hard enough."""
        if self.seen.get(path, 0) & wanted:
            return True
        while path:
            path = parent(path)
            if self.seen.get(path, 0) & _WHOLE:
                return True
        return False

    def directories_of(self) -> set[bytes]:
        """Return the directories below which anything was seen: their own attributes are sent along."""
        return {b"", *(up for path in self.seen for up in ancestors(path))} if self.seen else set()

    def expect(self, paths: Iterable[bytes], wanted: int = ANYTHING, timeout: float = DEADLINE) -> None:
        """Wait until all of `paths` are covered. Raises AssertionError with those that are not."""
        paths = list(paths)
        if not self.collect(lambda: all(self.covers(p, wanted) for p in paths), timeout):
            left = [p for p in paths if not self.covers(p, wanted)]
            raise AssertionError(f"not reported: {left[:20]} ({len(left)}); {self._told()}")

    def expect_complete(self, timeout: float = DEADLINE) -> None:
        """Wait until every difference between the tree as it was and as it is has been reported."""
        after = inodes(self.root)
        left = {p for p in self.before.keys() | after.keys() if self.before.get(p) != after.get(p)}

        def told_of_all() -> bool:
            above = self.directories_of()
            left.difference_update([p for p in left if self._told_of(p, after, above)])
            return not left

        if not self.collect(told_of_all, timeout):
            raise AssertionError(f"not reported: {sorted(left)[:20]} ({len(left)}); {self._told()}")

    def expect_nothing(self, allowed: Callable[[bytes], bool] = lambda path: False) -> None:
        """Make a change of our own, wait for it, and see that nothing else was reported but what is `allowed`."""
        sentinel = os.path.join(self.root, _SENTINEL)
        with open(sentinel, "wb") as file:
            file.write(b"here")
        self.expect([_SENTINEL])
        ours = {_SENTINEL, b""}
        strange = {p: bits for p, bits in self.seen.items() if p not in ours and not allowed(p)}
        assert not strange, f"reported without a reason: {strange}"
        assert not self.seen.get(b"", 0) & _WHOLE, f"everything is in doubt; {self._told()}"

    def expect_no_names(self, allowed: Callable[[bytes], bool]) -> None:
        """The same, but files may be told as written, not as named: they may have other names, which count."""
        self.expect_nothing(lambda path: allowed(path) or self.seen[path] & CONTENT != 0)

    def restart(self) -> None:
        """Take the tree as it is now for the one to compare with; forget what was seen."""
        self.seen.clear()
        self.before = inodes(self.root)

    def _told_of(self, path: bytes, after: Snapshot, above: set[bytes]) -> bool:
        old, new = self.before.get(path), after.get(path)
        if old is None or new is None or old.kind != new.kind:
            return self.covers(path)
        if new.kind == "directory":
            return path in above or self.covers(path)
        other_file = old.rdev != new.rdev
        if other_file or old.digest != new.digest:
            # The other names of a file that was written are found by whoever knows its names.
            return any(self.covers(name, WRITTEN) for name in {path, *new.links, *(() if other_file else old.links)})
        return any(self.covers(name) for name in {path, *new.links, *old.links})

    def _told(self) -> str:
        told = dict(sorted(self.seen.items())[:60])
        return f"seen: {told}; by {self.monitor.describe()}; log: {self.log}"


def inodes(root: bytes) -> Snapshot:
    """Read a tree; the field `rdev` of files holds the inode: another file with the same content is another file."""
    found = snapshot(root, xattrs=True)
    return {path: _with_inode(root, path, entry) for path, entry in found.items()}


def _with_inode(root: bytes, path: bytes, entry: Entry) -> Entry:
    if entry.kind == "directory":
        return entry
    try:
        return entry._replace(rdev=os.lstat(os.path.join(root, path)).st_ino)
    except OSError:
        return entry  # too deep for one path: the rest tells them apart


def named(taken: Iterable[Changed]) -> Iterator[tuple[bytes, int]]:
    """Yield what was taken path by path."""
    for paths, bits in taken:
        for path in paths:
            yield path, bits


def wait_for_clock() -> None:
    """Wait until what was just made is old enough: polling takes very young files for changed ones."""
    until = time.time_ns() + _TICK_NS
    while time.time_ns() < until:
        time.sleep(0.005)


# -- the machine -----------------------------------------------------------------------------------------------


class Mounted:
    """A file system mounted for a test; lazily unmounted if the test leaves it. Needs root."""

    def __init__(self, point: Path, *arguments: str) -> None:
        """`arguments`: what mount(8) takes before the directory."""
        self.point = point
        self._arguments = arguments or ("-t", "tmpfs", "none")

    def __enter__(self) -> Self:
        subprocess.run(["mount", *self._arguments, os.fspath(self.point)], check=True, capture_output=True)
        return self

    def unmount(self) -> None:
        """Unmount as an operator would. Raises AssertionError where it is busy."""
        done = subprocess.run(["umount", os.fspath(self.point)], capture_output=True, text=True)
        assert not done.returncode, done.stderr

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "-l", os.fspath(self.point)], capture_output=True)


def watch_in_child(
    root: Path, kind: str, *, env: Mapping[str, str] | None = None, before: Sequence[str] = ()
) -> tuple[str, str]:
    """Run this module as a program; return (what watches, what was logged). `before`: words before the command.

    Raises AssertionError where it failed.
    """
    command = [*before, sys.executable, "-m", "tests.support.monitors", os.fspath(root), kind]
    here = Path(__file__).parents[2]
    done = subprocess.run(
        command, env={**INHERITED, **(env or {})}, cwd=here, capture_output=True, text=True, timeout=60
    )
    assert not done.returncode, done.stdout + done.stderr
    told = json.loads(done.stdout)
    return told["describe"], "\n".join(told["log"])


def _main(root: Path, kind: str) -> None:
    """Watch a tree, change it, see that all is reported, twice."""
    with Watch(root, kind) as watch:
        for turn in ("one", "two"):
            for number in range(40):
                deep = root / f"{turn}{number}" / "x"
                deep.mkdir(parents=True)
                (deep / "file").write_bytes(b"x")
            (root / "file").write_text(turn)
            (root / f"{turn}0").rename(root / f"{turn}renamed")
            (root / f"{turn}renamed/x/file").write_bytes(b"yy")
            (root / f"{turn}1/x/file").unlink()
            watch.expect_complete()
            watch.restart()
        print(json.dumps({"describe": watch.monitor.describe(), "log": watch.log}))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv[2])
