"""What the kernel answers, and what is made of it."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clsync.kernel import fanotify
from clsync.kernel.capabilities import probe_destination
from clsync.kernel.cgroups import hierarchies
from clsync.kernel.mounts import has_our_clock, read_mounts

# -- handles of files ------------------------------------------------------------------------------------------

Opening = Callable[[int, bytes, int], int]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def answering(place: Path, refusals: int, number: int) -> tuple[Opening, list[bytes]]:
    """Return a stand-in for open_by_handle_at(2) that is refused at first, and the handles it is asked for.

    The kernel cannot be made to answer so on demand: it does while an inode's number is given to a new file.
    """
    asked: list[bytes] = []

    def opening(mount: int, handle: bytes, flags: int) -> int:
        asked.append(handle)
        if len(asked) <= refusals:
            ctypes.set_errno(number)
            return -1
        return os.open(place, os.O_PATH | os.O_CLOEXEC)

    return opening, asked


@pytest.mark.parametrize("refusals", [0, 1, 5])
def test_a_handle_is_tried_again_while_its_inode_is_being_given_away(
    tmp_path: Path, mount: int, monkeypatch: pytest.MonkeyPatch, refusals: int
) -> None:
    opening, asked = answering(tmp_path, refusals, errno.ENOMEM)
    monkeypatch.setattr(fanotify, "_open_by_handle_at", opening)
    path, _ = fanotify.path_of_handle(mount, b"handle")
    assert path == bytes(tmp_path)
    assert asked == [b"handle"] * (refusals + 1)
    asked.clear()
    assert fanotify.stat_of_handle(mount, b"handle").st_ino == tmp_path.stat().st_ino
    assert len(asked) == refusals + 1


@pytest.mark.parametrize(("number", "several"), [(errno.ESTALE, False), (errno.EPERM, False), (errno.ENOMEM, True)])
def test_a_handle_that_cannot_be_opened(
    tmp_path: Path, mount: int, monkeypatch: pytest.MonkeyPatch, number: int, several: bool
) -> None:
    """What will not change is not tried again, and nothing is tried for ever."""
    opening, asked = answering(tmp_path, 10**6, number)
    monkeypatch.setattr(fanotify, "_open_by_handle_at", opening)
    for open_it in (fanotify.path_of_handle, fanotify.stat_of_handle):
        asked.clear()
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            open_it(mount, b"handle")
        assert caught.value.errno == number
        assert (len(asked) > 1) == several


# -- what a destination can hold -------------------------------------------------------------------------------


def test_a_directory_that_is_probed_stays_as_it_was(tmp_path: Path) -> None:
    os.utime(tmp_path, ns=(10**18 + 1, 10**18 + 2))
    probe_destination(bytes(tmp_path))
    assert tmp_path.stat().st_mtime_ns == 10**18 + 2
    assert os.listdir(tmp_path) == []


# -- identities and devices ------------------------------------------------------------------------------------

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
IN_A_THREAD = """
import os, subprocess, threading
from clsync.kernel import credentials as c
four = c.mask(("CAP_DAC_READ_SEARCH", "CAP_SETUID", "CAP_SETGID", "CAP_KILL"))
root, nobody, other = c.ids(), c.Ids(65534, 65534, (65534,)), c.Ids(34, 34, (34, 40))
c.become(nobody, c.CapabilitySets(four, four, 0))

def status(where="thread-self"):
    fields = dict(line.split(":", 1) for line in open(f"/proc/{where}/status").read().splitlines())
    return [" ".join(fields[name].split()) for name in ("Uid", "Gid", "Groups", "CapEff", "CapPrm", "CapAmb")]

before = status()
def work():
    for somebody in (root, other):
        with c.assumed(somebody):
            assert status()[0] == " ".join([str(somebody.uid)] * 4)
            assert int(status()[3], 16) == (four if somebody is root else 0)
            assert status(f"self/task/{main}") == before, "the other thread stays who it is"
            made = subprocess.run(["id", "-G"], capture_output=True, text=True).stdout.split()
            assert sorted(map(int, made)) == sorted({somebody.gid, *somebody.groups}), made
        assert status() == before
        try:
            with c.assumed(somebody):
                raise KeyError
        except KeyError:
            assert status() == before
main = threading.get_native_id()
thread = threading.Thread(target=work)
thread.start()
thread.join()
with c.assumed(nobody, c.mask(("CAP_DAC_READ_SEARCH",))):
    assert subprocess.run(["head", "-c1", "/etc/shadow"], stdout=-3).returncode == 0
assert subprocess.run(["head", "-c1", "/etc/shadow"], stderr=-3).returncode == 1
assert status() == before
c.set_capabilities(c.CapabilitySets(0, 0, 0))
try:
    with c.assumed(root):
        print("root again")
except PermissionError:
    print("done")
"""


@NEEDS_ROOT
def test_a_thread_is_somebody_else_for_a_while() -> None:
    """That thread alone; what it starts is that user, and it comes back whatever happens."""
    done = subprocess.run([sys.executable, "-c", IN_A_THREAD], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


@NEEDS_ROOT
@pytest.mark.parametrize("version", [1, 2])
def test_devices_of_a_group(version: int) -> None:
    """By lists or by a program: these ways to open these devices, and nothing else."""
    found = [hierarchy for hierarchy in hierarchies() if hierarchy.version == version]
    if not found:
        pytest.skip("there are no groups of this version here")
    script = f"""
import errno, os
from clsync.kernel import cgroups
(hierarchy,) = [h for h in cgroups.hierarchies() if h.version == {version}]
devices = (cgroups.Device(1, 3, cgroups.READ | cgroups.WRITE), cgroups.Device(1, 5, cgroups.READ))
group = cgroups.Groups(b"clsync-unit/%d" % os.getpid(), [cgroups.Share(hierarchy, devices)])
for name in ("null", "zero", "full"):
    for how in ("O_RDONLY", "O_WRONLY", "O_RDWR"):
        try:
            os.close(os.open(f"/dev/{{name}}", getattr(os, how)))
            print(name, how)
        except PermissionError:
            pass
group.leave()
os.close(os.open("/dev/full", os.O_RDWR))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["null O_RDONLY", "null O_WRONLY", "null O_RDWR", "zero O_RDONLY"], done.stderr
    assert done.returncode == 0, done.stderr
    assert not os.path.exists(found[0].here + b"/clsync-unit")


def test_whose_clock_stamps_a_tree() -> None:
    assert not has_our_clock(b"/proc")
    assert not has_our_clock(b"/")  # /proc is below
    kinds = {mount.point: mount.kind for mount in read_mounts()}
    if kinds.get(b"/dev/shm") == "tmpfs":
        assert has_our_clock(b"/dev/shm/nothing")
