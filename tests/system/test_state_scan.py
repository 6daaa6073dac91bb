"""Scans in processes of their own find exactly what differs from the index, whatever the tree is."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from clsync.core.changes import ATTRIB, CONTENT, DOUBT, NAME, OF_DIRECTORY
from clsync.core.listing import record_of, unpacked
from clsync.core.paths import ancestors, join, parent
from clsync.core.rules import Rules
from clsync.core.stamps import YOUNG_NS
from clsync.state import scan
from clsync.state.scan import ScanFailed, Scanned, Source, here
from clsync.state.store import Confirmed, Store
from clsync.state.walker import Scope, Walker
from tests.support import rulesets
from tests.support.daemon import Argument
from tests.support.trees import walk
from tests.system.world import mounted

TARGET = b"target"


class Tree:
    """A source with a state."""

    def __init__(self, place: Path) -> None:
        self.root = place / "source"
        self.root.mkdir()
        self.at = os.fsencode(self.root)
        self.store = Store.open(os.fsencode(place / "state"), b"source", [TARGET], bytes(16))

    def source(self, rules: bytes = b"", one_file_system: int = 0) -> Source:
        scope = Scope(Rules.parse(rules), one_file_system)
        return here(lambda: os.open(self.at, os.O_RDONLY | os.O_DIRECTORY), scope, self.store.path)

    def record(self, rules: bytes = b"", one_file_system: int = 0) -> Scanned:
        """Make the index, when nothing in the tree is young."""
        age()
        self.store.begin_record(b"", 0.0)
        scanned = asyncio.run(scan.record(self.source(rules, one_file_system)))
        self.store.end_record(TARGET, b"", {}, 0.0)
        assert not self.store.lost
        return scanned

    def compare(self, rules: bytes = b"", one_file_system: int = 0) -> dict[bytes, int]:
        async def gather() -> dict[bytes, int]:
            found: dict[bytes, int] = {}
            async for changes in scan.compare(self.source(rules, one_file_system)):
                for path, bits in changes:
                    found[path] = found.get(path, 0) | bits
            return found

        return asyncio.run(gather())

    def snapshot(self) -> dict[bytes, tuple[int, ...]]:
        """Return what decides for all paths, as a plain walk sees it."""
        return {path: fields(seen) for path, _, _, seen in walk(self.at)}


def fields(seen: os.stat_result) -> tuple[int, ...]:
    is_dir = seen.st_mode & 0o170000 == 0o040000
    size, links = (0, 0) if is_dir else (seen.st_size, seen.st_nlink)
    return (
        seen.st_ino,
        seen.st_mode,
        size,
        links,
        seen.st_mtime_ns,
        seen.st_ctime_ns,
        seen.st_uid,
        seen.st_gid,
        seen.st_rdev,
    )


def test_what_is_stamped_after_a_given_time_is_never_sure(tree: Tree) -> None:
    """It may not have arrived as it is seen by then: its content is compared at the next start."""
    for name in ("a", "b"):
        (tree.root / name).mkdir()
        (tree.root / name / "file").write_text(name)
    age()
    since = time.time()
    age()
    (tree.root / "b/file").chmod(0o600)
    (tree.root / "b/new").mkdir()
    age()
    scope = Scope(Rules(), 0)

    def start(mode: bytes) -> scan.Child:
        root = lambda: os.open(tree.at, os.O_RDONLY | os.O_DIRECTORY)  # noqa: E731
        return scan.start(mode, scope, tree.store.path, root, since=since)

    tree.store.begin_record(b"", 0.0)
    asyncio.run(scan.record(Source(start, asyncio.Semaphore(scan.MOST))))
    tree.store.end_record(TARGET, b"", {}, 0.0)
    assert tree.compare() == {b"b": ATTRIB, b"b/file": ATTRIB | CONTENT, b"b/new": ATTRIB}


def age() -> None:
    until = time.time_ns() + YOUNG_NS
    while time.time_ns() <= until:
        time.sleep(0.005)


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    made = Tree(tmp_path)
    yield made
    made.store.close()


def grow(at: bytes, draw: random.Random, many: int) -> None:
    """Make directories, files, links and others with odd names."""
    directories = [at]
    for number in range(many):
        name = draw.choice([b"f%d", b"\xff%d", b"new\nline%d", b" %d ", b"-%d", b"x" * 240 + b"%d"]) % number
        path = join(draw.choice(directories), name)
        kind = draw.randrange(8)
        if kind < 2:
            os.mkdir(path)
            directories.append(path)
        elif kind == 2:
            os.symlink(b"nowhere", path)
        elif kind == 3:
            os.mkfifo(path)
        else:
            Path(os.fsdecode(path)).write_bytes(draw.randbytes(draw.randrange(9)))
            if kind == 4:
                os.link(path, join(draw.choice(directories), b"link%d" % number))


def disturb(tree: Tree, draw: random.Random) -> None:
    """Change one thing."""
    paths = [path for path, *_ in walk(tree.at)]
    path, other = join(tree.at, draw.choice(paths)), join(tree.at, draw.choice(paths))
    kind = draw.randrange(7)
    try:
        if kind == 0:
            os.rename(path, other + b"-moved")
        elif kind == 1:
            os.unlink(path)
        elif kind == 2:
            os.chmod(path, 0o700)
        elif kind == 3:
            os.utime(path, ns=(1, draw.randrange(10**18)), follow_symlinks=False)
        elif kind == 4:
            found = os.lstat(path)
            with open(path, "r+b") as file:
                file.write(draw.randbytes(found.st_size))
            os.utime(path, ns=(1, found.st_mtime_ns))
        elif kind == 5:
            os.rename(path, other)
        else:
            grow(other, draw, 3)
    except OSError:
        pass  # a fifo is not opened, the root is not moved, a file holds nothing


def test_a_tree_in_which_nothing_changed_has_no_differences(tree: Tree) -> None:
    grow(tree.at, random.Random(1), 400)
    scanned = tree.record()
    assert scanned.entries == len(tree.snapshot()) + scanned.directories - 1
    assert tree.compare() == {}


@pytest.mark.parametrize("seed", range(4))
def test_every_difference_is_found_and_nothing_else(tree: Tree, seed: int) -> None:
    draw = random.Random(seed)
    grow(tree.at, draw, 200)
    tree.record()
    before = tree.snapshot()
    for _ in range(draw.choice([1, 5, 40])):
        disturb(tree, draw)
    age()
    after = tree.snapshot()
    found = tree.compare()
    differing = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    deep = {path for path, bits in found.items() if bits & NAME}
    missed = {path for path in differing if path not in found and deep.isdisjoint(ancestors(path))}
    assert not missed, f"seed {seed}"
    assert found.keys() <= differing, f"seed {seed}"


def test_what_kind_of_change_it_is(tree: Tree) -> None:
    for name in ("content", "mode", "longer", "gone", "linked", "replaced", "dir", "old", "dir-gone"):
        (tree.root / name).mkdir() if "dir" in name else (tree.root / name).write_text("same")
    tree.record()
    at = tree.root
    kept = (at / "content").stat().st_mtime_ns
    (at / "content").write_text("SAME")
    os.utime(at / "content", ns=(kept, kept))
    (at / "mode").chmod(0o600)
    (at / "longer").write_text("longer")
    (at / "gone").unlink()
    (at / "another").hardlink_to(at / "linked")
    (at / "new").write_text("same")
    os.rename(at / "new", at / "replaced")
    (at / "dir").chmod(0o700)
    (at / "dir-gone").rmdir()
    (at / "dir-new").mkdir()
    (at / "dir-new" / "in it").mkdir()
    age()
    assert tree.compare() == {
        b"": ATTRIB,
        b"content": ATTRIB | CONTENT,
        b"mode": ATTRIB | CONTENT,
        b"longer": ATTRIB,
        b"gone": NAME,
        b"linked": ATTRIB | CONTENT,
        b"another": NAME,
        b"replaced": NAME,
        b"dir": ATTRIB,
        b"dir-gone": NAME | OF_DIRECTORY,
        b"dir-new": NAME | OF_DIRECTORY,
    }


def test_what_was_young_when_it_was_recorded_is_compared_by_content(tree: Tree) -> None:
    (tree.root / "old").write_text("x")
    tree.record()
    # A clock that has been set back: the stamp is not older than the listing, as with one that ticks slowly.
    (tree.root / "young").write_text("x")
    seen = (tree.root / "young").lstat()
    assert unpacked(record_of(seen, seen.st_ctime_ns)).ctime_ns != seen.st_ctime_ns
    assert unpacked(record_of(seen, seen.st_ctime_ns + 1)).ctime_ns == seen.st_ctime_ns
    tree.store.confirm(TARGET, Confirmed({b"young": record_of(seen, seen.st_ctime_ns)}))
    age()
    assert tree.compare() == {b"": ATTRIB, b"young": ATTRIB | CONTENT}
    tree.store.confirm(TARGET, Confirmed({b"young": record_of(seen, seen.st_ctime_ns + 1)}))
    assert tree.compare() == {b"": ATTRIB}


@pytest.mark.parametrize("seed", range(4))
def test_rules_are_applied_where_the_tree_is_looked_at(tree: Tree, seed: int) -> None:
    draw = random.Random(seed)
    rules = rulesets.make(draw)
    for top in (b"", b"a/", b"beta/", b"a/alpha/", b"q/"):
        for name in (b"a", b"beta", b"alpha", b"q"):
            os.makedirs(join(tree.at, top + name), exist_ok=True)
        for name in (b"file1", b"n17", b"f.skip", b"fvip.skip", b"f.fskip"):
            os.mknod(join(tree.at, top + name))
        for name in (b"d.skip", b"dvip.skip", b"d.dskip"):
            os.makedirs(join(tree.at, top + name) + b"/below")
    tree.record(rules.text)
    assert tree.compare(rules.text) == {}
    for path in tree.snapshot():
        os.chmod(join(tree.at, path), 0o705)
    age()
    permits = Rules.parse(rules.text).permits
    expected = {path for path in tree.snapshot() if permits(path, os.path.isdir(join(tree.at, path)))}
    assert tree.compare(rules.text).keys() == expected, f"seed {seed}"


def test_long_listings_are_compared_part_by_part(tree: Tree) -> None:
    many = tree.root / "many"
    many.mkdir()
    for number in range(5000):
        os.mknod(many / f"{number:05}")
    tree.record()
    parts = sqlite3.connect(os.fsdecode(tree.store.path)).execute(
        "SELECT count(*), max(length(entries)) FROM listing"
    )
    count, longest = parts.fetchone()
    assert count > 20
    assert longest < 16_000
    assert tree.compare() == {}
    (many / "00000").unlink()
    (many / "02500").chmod(0o600)
    os.mknod(many / "02500a")
    os.mknod(many / "\xff")
    age()
    expected = {b"many": ATTRIB, b"many/00000": NAME, b"many/02500": ATTRIB | CONTENT, b"many/02500a": NAME}
    assert tree.compare() == {**expected, b"many/" + os.fsencode("\xff"): NAME}


def test_paths_longer_than_the_kernel_takes(tree: Tree) -> None:
    here = os.open(tree.at, os.O_RDONLY)
    name = b"d" * 200
    for _ in range(25):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.mknod(b"file", dir_fd=here)
    tree.record()
    assert tree.compare() == {}
    os.mknod(b"new", dir_fd=here)
    os.close(here)
    age()
    deepest = b"/".join([name] * 25)
    assert tree.compare() == {deepest: ATTRIB, deepest + b"/new": NAME}


@pytest.mark.root
@pytest.mark.parametrize("level", [0, 1, 2])
def test_mounts_count_as_far_as_they_are_asked_for(tree: Tree, level: int) -> None:
    (tree.root / "mount").mkdir()
    (tree.root / "file").write_text("x")
    with mounted("tmpfs", tree.root / "mount"):
        (tree.root / "mount" / "inside").write_text("x")
        tree.record(one_file_system=level)
        assert tree.compare(one_file_system=level) == {}
        (tree.root / "mount" / "inside").chmod(0o600)
        (tree.root / "mount").chmod(0o711)
        (tree.root / "file").chmod(0o600)
        age()
        expected = [{b"file", b"mount", b"mount/inside"}, {b"file", b"mount"}, {b"file"}][level]
        assert tree.compare(one_file_system=level).keys() == expected


def test_a_directory_that_is_not_in_the_index_is_in_doubt(tree: Tree) -> None:
    (tree.root / "d" / "e").mkdir(parents=True)
    tree.record()
    rows = sqlite3.connect(os.fsdecode(tree.store.path))
    rows.execute("DELETE FROM listing WHERE path = x'64'")
    rows.commit()
    rows.close()
    assert tree.compare() == {b"d": DOUBT}


def test_a_directory_that_cannot_be_read_is_in_doubt(tmp_path: Path) -> None:
    script = "from tests.system.test_state_scan import compare_unreadable; compare_unreadable()"
    drop = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    words: list[Argument] = [*drop, sys.executable, "-c", script, tmp_path]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr


def compare_unreadable() -> None:
    """Run by somebody to whom modes apply, with a directory as argument."""
    tree = Tree(Path(sys.argv[1]))
    for name in ("closed", "blind", "open"):
        (tree.root / name / "below").mkdir(parents=True)
    (tree.root / "closed").chmod(0)
    (tree.root / "blind").chmod(0o400)
    tree.record()
    assert tree.compare() == {b"closed": DOUBT, b"blind": DOUBT}
    (tree.root / "open").chmod(0)
    age()
    assert tree.compare() == {b"closed": DOUBT, b"blind": DOUBT, b"open": DOUBT}
    tree.store.close()


def test_what_changes_during_a_scan_does_no_harm(tree: Tree) -> None:
    grow(tree.at, random.Random(3), 1500)
    changed: set[bytes] = set()
    draw = random.Random(4)

    async def churn() -> None:
        tree.store.begin_record(b"", 0.0)
        recording = asyncio.create_task(scan.record(tree.source()))
        while not recording.done():
            before = tree.snapshot()
            for _ in range(5):
                disturb(tree, draw)
                await asyncio.sleep(0)
            after = tree.snapshot()
            changed.update(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
        await recording
        tree.store.end_record(TARGET, b"", dict.fromkeys(changed, NAME), 0.0)

    age()
    asyncio.run(churn())
    age()
    found = {path for path, bits in tree.compare().items()}
    assert changed
    assert found <= changed
    assert {dirty.path for dirty in tree.store.dirty(TARGET)} == changed | {parent(path) for path in changed}


def test_many_differences_wait_for_who_takes_them(tree: Tree) -> None:
    for number in range(20_000):
        os.mknod(tree.root / f"{number}")
    tree.record()
    for number in range(20_000):
        (tree.root / f"{number}").chmod(0o600)
    os.mkdir(tree.root / "new")

    async def take() -> int:
        count = 0
        async for changes in scan.compare(tree.source()):
            await asyncio.sleep(0.002)
            assert len(changes) <= 1000
            count += len(changes)
        return count

    assert asyncio.run(take()) == 20_002


def test_a_part_of_a_tree_is_recorded_by_itself(tree: Tree) -> None:
    (tree.root / "old").mkdir()
    tree.record()
    (tree.root / "new" / "deep").mkdir(parents=True)
    os.mknod(tree.root / "new" / "file")
    age()
    assert tree.compare() == {b"": ATTRIB, b"new": NAME | OF_DIRECTORY}
    tree.store.begin_record(b"new", 0.0)
    asyncio.run(scan.record(tree.source(), [b"new"]))
    tree.store.end_record(TARGET, b"new", {}, 0.0)
    assert tree.compare() == {b"": ATTRIB}


def test_small_trees_are_listed_at_once(tree: Tree) -> None:
    tree.record()
    (tree.root / "new").mkdir()
    grow(tree.at + b"/new", random.Random(5), 100)
    age()
    root = os.open(tree.at, os.O_RDONLY)
    many = len(tree.snapshot()) * 2
    assert scan.listings(Walker(root, Scope(Rules())), b"new", 50) is None
    listed = scan.listings(Walker(root, Scope(Rules())), b"new", many)
    os.close(root)
    assert listed is not None
    tree.store.confirm(TARGET, Confirmed({}, {b"new": listed}))
    assert tree.compare() == {b"": ATTRIB}


def test_files_with_several_names_are_told(tree: Tree) -> None:
    (tree.root / "d\n").mkdir()
    os.mknod(tree.root / "one")
    os.link(tree.root / "one", tree.root / "d\n" / "two ")
    os.mknod(tree.root / "alone")
    found: list[scan.Linked] = []

    async def compare() -> list[scan.Changes]:
        return [changes async for changes in scan.compare(tree.source(), linked=found.append)]

    tree.record()
    assert asyncio.run(compare()) == []
    seen = os.lstat(tree.root / "one")
    assert sorted(found) == [(seen.st_dev, seen.st_ino, 2, path) for path in (b"d\n/two ", b"one")]


# -- what goes wrong ---------------------------------------------------------------------------------------------


def test_a_damaged_listing_ends_the_scan(tree: Tree) -> None:
    (tree.root / "d").mkdir()
    tree.record()
    rows = sqlite3.connect(os.fsdecode(tree.store.path))
    rows.execute("UPDATE listing SET entries = zeroblob(length(entries)) WHERE path = x'64'")
    rows.commit()
    rows.close()
    with pytest.raises(ScanFailed, match="damaged at d"):
        tree.compare()


def test_a_state_that_is_gone_ends_the_scan(tree: Tree) -> None:
    os.unlink(tree.store.path)
    with pytest.raises(ScanFailed, match="unable to open"):
        tree.compare()


def test_a_scanner_that_is_killed_ends_the_scan(tree: Tree) -> None:
    names = [f"{number:0200}" for number in range(20_000)]  # more than what lies between the processes
    tree.record()
    for name in names:
        os.mknod(tree.root / name)

    async def kill() -> None:
        async for _ in scan.compare(tree.source()):
            for process in scanners(os.getpid()):
                with suppress(ProcessLookupError):  # killed before
                    os.kill(process, signal.SIGKILL)

    with pytest.raises(ChildProcessError, match="the scan has ended"):
        asyncio.run(kill())
    assert scanners(os.getpid()) == []


def scanners(parent: int) -> list[int]:
    found = []
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        with suppress(FileNotFoundError, ProcessLookupError):  # it ends just now
            if b"clsync.state.scanner" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found


def test_scanners_end_with_who_has_started_them(tree: Tree) -> None:
    script = (
        "import asyncio, os, sys\n"
        "from clsync.core.rules import Rules\n"
        "from clsync.state import scan\n"
        "from clsync.state.walker import Scope\n"
        "async def main():\n"
        "    source = scan.here(lambda: os.open(sys.argv[1], os.O_RDONLY), Scope(Rules()), os.fsencode(sys.argv[2]))\n"
        "    async for changes in scan.compare(source):\n"
        "        print('found', flush=True)\n"
        "        await asyncio.sleep(3600)\n"
        "asyncio.run(main())\n"
    )
    for number in range(3000):
        os.mknod(tree.root / f"{number}")
    tree.record()
    for number in range(3000):
        (tree.root / f"{number}").unlink()
    words = [sys.executable, "-c", script, os.fsdecode(tree.at), os.fsdecode(tree.store.path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == b"found\n"
        children = scanners(started.pid)
        assert children
        started.kill()
    deadline = time.monotonic() + 30
    while any(alive(child) for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
