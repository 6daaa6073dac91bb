"""Whose programs are left: those that do the same work, and have no living starter."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from clsync.kernel.orphans import mark, orphans, work_of

_LEAVES_ONE = """
import os, subprocess, sys
from clsync.kernel.orphans import mark
child = subprocess.Popen(["sleep", "60"], env=os.environb | mark(os.fsencode(sys.argv[1])))
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_who_has_lost_its_starter_is_found(tmp_path: Path) -> None:
    root = os.open(tmp_path, os.O_RDONLY)
    work = work_of(root, b"/destination with blanks")
    os.close(root)
    command = [sys.executable, "-c", _LEAVES_ONE, os.fsdecode(work)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        left = int(starter.stdout.readline())
        try:
            _wait_for_mark(left)
            assert orphans(work) == []
            starter.kill()
            starter.wait()
            assert orphans(work) == [left]
            assert orphans(work + b"/other") == []
        finally:
            os.kill(left, 9)


def _wait_for_mark(pid: int) -> None:
    """Wait until a program is there: its starter goes on before the kernel has put the environment into place."""
    deadline = time.monotonic() + 10
    while b"CLSYNC_WORKS_FOR" not in Path(f"/proc/{pid}/environ").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_our_own_are_not_left() -> None:
    with subprocess.Popen(["sleep", "60"], env=os.environb | mark(b"work")) as child:
        assert orphans(b"work") == []
        child.kill()
