"""Which mount holds a directory, and which can be seen below it, whatever the order in which they are listed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clsync.kernel import mounts
from clsync.kernel.mounts import Mount, mounts_at_and_below

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def listed(*lines: tuple[int, int, str]) -> list[Mount]:
    return [Mount(number, parent, b"8:%d" % number, point.encode(), "ext4") for number, parent, point in lines]


def found(root: str, lines: Sequence[Mount]) -> tuple[int, list[str]]:
    """Return the number of the holder, and the points below, for both orders of the lines."""
    one, other = (mounts_at_and_below(root.encode(), list(each)) for each in (lines, reversed(lines)))
    assert one == other
    return one[0].number, [mount.point.decode() for mount in one[1]]


EARLY = listed((22, 27, "/proc"), (24, 27, "/dev"), (25, 24, "/dev/shm"), (27, 1, "/"), (40, 27, "/srv/tree/bound"))


@pytest.mark.parametrize(
    ("root", "holder", "below"),
    [
        ("/srv/tree", 27, ["/srv/tree/bound"]),
        ("/srv/tree/bound", 40, []),
        ("/srv/tree/boundless", 27, []),
        ("/a", 27, []),
        ("/dev", 24, ["/dev/shm"]),
        ("/dev/shm/x", 25, []),
        ("/", 27, ["/dev", "/dev/shm", "/proc", "/srv/tree/bound"]),
    ],
)
def test_the_root_is_listed_after_what_is_mounted_there(root: str, holder: int, below: list[str]) -> None:
    assert found(root, EARLY) == (holder, below)


def test_who_is_its_own_parent_is_the_root() -> None:
    assert found("/a", listed((5, 1, "/a"), (1, 1, "/"))) == (5, [])
    assert found("/", listed((5, 1, "/a"), (1, 1, "/"))) == (1, ["/a"])


def test_what_is_mounted_over_is_not_seen() -> None:
    lines = listed((1, 0, "/"), (2, 1, "/a"), (3, 2, "/a"), (4, 3, "/a"), (5, 2, "/a/gone"), (6, 4, "/a/seen"))
    assert found("/a", lines) == (4, ["/a/seen"])
    assert found("/a/gone", lines) == (4, [])
    assert found("/", lines) == (1, ["/a", "/a/seen"])


def test_a_mount_hides_what_stood_below_its_point() -> None:
    lines = listed((1, 0, "/"), (2, 1, "/a/b/c"), (3, 2, "/a/b/c/d"), (4, 1, "/a"), (5, 4, "/a/b"), (6, 1, "/a.b"))
    assert found("/a/b/c/d", lines) == (5, [])
    assert found("/a", lines) == (4, ["/a/b"])
    assert found("/", lines) == (1, ["/a", "/a/b", "/a.b"])


def test_one_that_is_moved_may_be_older_than_what_it_hides() -> None:
    lines = listed((1, 0, "/"), (2, 1, "/a"), (3, 1, "/a/b"))
    assert found("/a/b", lines) == (2, [])


def test_automounts_stand_under_what_they_have_mounted() -> None:
    """The point of an automounter is under the file system that it has mounted there, and so it is below that."""
    lines = listed((9, 8, "/net/host"), (8, 7, "/net/host"), (7, 1, "/net"), (6, 9, "/net/host/deep"), (1, 0, "/"))
    assert found("/net/host", lines) == (9, ["/net/host/deep"])
    assert found("/net", lines) == (7, ["/net/host", "/net/host/deep"])
    assert mounts_at_and_below(b"/net", lines)[1][0].number == 9


def test_what_is_mounted_over_the_root_is_not_seen() -> None:
    """Whoever has a root directory does not leave it for what comes over it (see the real one below)."""
    lines = listed((1, 0, "/"), (2, 1, "/"), (3, 2, "/a"), (4, 1, "/b"))
    assert found("/", lines) == (1, ["/b"])
    assert found("/a", lines) == (1, [])


def test_a_root_that_is_not_listed() -> None:
    """After chroot(2) to a directory that is no mount point."""
    lines = listed((80, 27, "/proc"), (81, 27, "/srv/tree/bound"), (82, 81, "/srv/tree/bound/deep"), (83, 27, "/"))
    assert mounts_at_and_below(b"/srv/tree", lines)[0] == Mount(27, 27, b"", b"/", "")
    for some in (lines, lines[:3]):  # with and without one that covers it
        assert found("/srv/tree", some) == (27, ["/srv/tree/bound", "/srv/tree/bound/deep"])
        assert found("/srv/tree/bound/x", some) == (81, [])
        assert found("/", some) == (27, ["/proc", "/srv/tree/bound", "/srv/tree/bound/deep"])
    assert mounts_at_and_below(b"/x", []) == (Mount(0, 0, b"", b"/", ""), [])


def test_one_without_its_parent_misleads_nobody() -> None:
    """They may come and go while they are listed."""
    assert found("/a/b", [*EARLY, *listed((90, 89, "/a"))]) == (27, [])
    assert found("/a/b", listed((90, 89, "/a"), (80, 27, "/proc"), (81, 27, "/b"))) == (27, [])


def twice(top: Path, monkeypatch: pytest.MonkeyPatch, lines: list[Mount]) -> set[int]:
    monkeypatch.setattr(mounts, "read_mounts", lambda: lines)
    root = os.open(top, os.O_RDONLY)
    try:
        return mounts.devices_shown_twice(root)
    finally:
        os.close(root)


def test_devices_shown_twice_below_a_root_that_is_not_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = os.stat(tmp_path).st_dev
    name = b"%d:%d" % (os.major(device), os.minor(device))
    lines = [
        Mount(22, 27, b"0:21", b"/proc", "proc"),
        Mount(30, 27, name, bytes(tmp_path / "again"), "ext4"),
        Mount(31, 27, b"0:99", bytes(tmp_path / "other"), "tmpfs"),
    ]
    assert twice(tmp_path, monkeypatch, lines) == {device}
    assert not mounts.has_our_clock(bytes(tmp_path))  # of a kind that nobody has told


def test_devices_of_which_mountinfo_has_another_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files on btrfs have that of their subvolume."""
    lines = [
        Mount(27, 1, b"0:4321", b"/", "btrfs"),
        Mount(30, 27, b"0:4321", bytes(tmp_path / "again"), "btrfs"),
        Mount(31, 27, b"0:99", bytes(tmp_path / "other"), "tmpfs"),
    ]
    assert twice(tmp_path, monkeypatch, lines) == {os.stat(tmp_path).st_dev, os.makedev(0, 4321)}
    assert twice(tmp_path, monkeypatch, lines[::2]) == set()


# -- as the kernel does it ---------------------------------------------------------------------------------------

Place = tuple[int, bytes]
"""A directory: the mount, and the path from the root of that one."""


class Model:
    """All mounts have the same directories; lookups go from one component to the next."""

    def __init__(self) -> None:
        self.at: dict[Place, int] = {}

    def lookup(self, path: bytes, start: Place = (1, b"")) -> Place:
        mount, rest = start
        for name in filter(None, path.split(b"/")):
            mount, rest = self._top((mount, rest + b"/" + name))
        return mount, rest

    def _top(self, place: Place) -> Place:
        while place in self.at:
            place = self.at[place], b""
        return place

    def mount(self, path: bytes) -> None:
        self.at[self._top(self.lookup(path))] = len(self.at) + 2

    def move(self, old: bytes, new: bytes) -> None:
        number, rest = self.lookup(old)
        target = self._top(self.lookup(new))
        if rest or number in (1, *(mount for mount, _ in self.up(target))):
            return
        del self.at[next(place for place, mount in self.at.items() if mount == number)]
        self.at[target] = number

    def up(self, place: Place) -> Iterator[Place]:
        """Yield a place, and where the mount that it is on is mounted, and so on."""
        places = {mount: place for place, mount in self.at.items()}
        while True:
            yield place
            if place[0] not in places:
                return
            place = places[place[0]]

    def listed(self, start: Place) -> Iterator[Mount]:
        """Yield what mountinfo shows to who has that root."""
        parents = {mount: place[0] for place, mount in self.at.items()}
        for number in (1, *self.at.values()):
            point = b""
            for mount, rest in self.up((number, b"")):
                if mount == start[0] and (rest + b"/").startswith(start[1] + b"/"):
                    yield Mount(number, parents.get(number, 0), b"", rest[len(start[1]) :] + point or b"/", "")
                    break
                point = rest + point


PATHS = st.lists(st.sampled_from([b"/a", b"/b", b"/c"]), max_size=3).map(b"".join)
STEPS = st.lists(st.tuples(PATHS, st.none() | PATHS), max_size=12)


@given(STEPS, PATHS, st.lists(PATHS, min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_as_the_model_does(
    steps: list[tuple[bytes, bytes | None]], jail: bytes, roots: list[bytes], random: object
) -> None:
    model = Model()
    for path, to in steps:
        if to is None:
            model.mount(path)
        else:
            model.move(path, to)
    model.mount(jail + b"/proc")  # else nobody there could read mountinfo
    start = model.lookup(jail)
    lines = list(model.listed(start))
    random.shuffle(lines)  # type: ignore[attr-defined]
    for root in (*roots, *(mount.point for mount in lines)):
        holder, below = mounts_at_and_below(root or b"/", lines)
        assert holder.number == model.lookup(root, start)[0]
        top = root.rstrip(b"/") + b"/"
        may = [mount for mount in lines if mount.point.startswith(top) and mount.point != b"/"]
        assert sorted(below) == sorted(m for m in may if model.lookup(m.point, start) == (m.number, b""))


MADE = """
mount --make-rprivate /
mount -t tmpfs ground "$1"
mkdir -p "$1/top/late/b" "$1/top/a/b/c" "$1/top/a/h" "$1/top/bound" "$1/top/tree/inner" "$1/top/proc"
cd "$1/top"
mount -t tmpfs late late; mkdir -p late/b/x late/h
mount -t tmpfs hidden a/h
mount --move late a
mkdir a/b/y; mount -t tmpfs one a/b; mkdir a/b/c; mount -t tmpfs two a/b/c; mkdir a/b/c/d; mount -t tmpfs three a/b/c
mount --bind tree bound
mount -t tmpfs over /
[ -z "$4" ] || mount -t proc proc proc
exec "$2" -c "$3" "$1/top" $4
"""
ASKED = """
import json, os, sys
from clsync.kernel.mounts import devices_shown_twice, has_our_clock, mounts_at_and_below, read_mounts

def number(path):
    held = os.open(path, os.O_PATH)
    try:
        with open(f"/proc/self/fdinfo/{held}") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("mnt_id:"))
    finally:
        os.close(held)

def directories(top):
    for directory, below, _ in os.walk(top):
        below[:] = [name for name in below if name != "proc"]
        yield directory

top = sys.argv[1]
if len(sys.argv) > 2:
    os.chroot(top)
    top = "/"
answers = []
for root in directories(top):
    numbers = {number(directory) for directory in directories(root)} - {number(root)}
    holder, below = mounts_at_and_below(os.fsencode(root), read_mounts())
    ours = sorted(mount.number for mount in below if mount.kind != "proc")
    answers.append([root, number(root), holder.number, sorted(numbers), ours])
    if holder.device:
        assert os.stat(root).st_dev == os.makedev(*map(int, holder.device.split(b":"))), root
twice = devices_shown_twice(os.open(top, os.O_RDONLY)) == {os.stat(top).st_dev}
print(json.dumps([answers, twice, has_our_clock(os.fsencode(top))]))
"""


def privately(script: str, *words: str) -> str:
    """Run a script as root in a mount namespace of its own; return what it prints."""
    arguments = ["unshare", "-m", "sh", "-ec", script, "sh", *words]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode and "unshare" in done.stderr:
        pytest.skip(done.stderr)
    assert not done.returncode, done.stderr
    return done.stdout


@NEEDS_ROOT
@pytest.mark.parametrize("jail", ["", "jail"])
def test_as_the_kernel_does(tmp_path: Path, jail: str) -> None:
    answers, twice, clock = json.loads(privately(MADE, str(tmp_path), sys.executable, ASKED, jail))
    assert len(answers) >= 8
    for root, holder, ours, below, ours_below in answers:
        assert (ours, ours_below) == (holder, below), root
    assert twice
    assert clock is not bool(jail)


@NEEDS_ROOT
def test_mounts_that_others_hide_go_as_well(tmp_path: Path) -> None:
    """The one that hides the other may be older than it, and be listed earlier."""
    script = """
    mount --make-rprivate /
    mount -t tmpfs kept "$1"
    cd "$1"
    mkdir -p late a/b
    mount -t tmpfs late late
    mount -t tmpfs hidden a/b
    mount --move late a
    exec "$2" -c "$3" "$1"
    """
    kept = """
import os, sys
from clsync.privilege.root import keep_mounts
keep_mounts((os.fsencode(sys.argv[1]),))
with open("/proc/self/mountinfo") as file:
    print(*(line.rsplit(maxsplit=2)[1] for line in file if sys.argv[1] in line))
"""
    assert privately(script, str(tmp_path), sys.executable, kept) == "kept\n"
