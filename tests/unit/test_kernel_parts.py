"""What the kernel answers, and what is made of it."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clsync.kernel import fanotify
from clsync.kernel.capabilities import probe_destination

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
