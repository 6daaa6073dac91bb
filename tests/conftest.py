"""How much is proven: the profiles of hypothesis, for all tests alike.

`HYPOTHESIS_PROFILE=long` asks for fifty times the examples (`make proofs`). A failure prints the blob with which it
is seen again.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.environment import INHERITED
from tests.support.seeds import seed_of_run

settings.register_profile(
    "default",
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("long", settings.get_profile("default"), max_examples=5000, stateful_step_count=100)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


_DISK_BYTES = 16 << 30
"""Of a file full of holes."""
_IN_MEMORY = Path("/dev/shm")
_ENOUGH = 8 << 30
"""Bytes that are to be free there for the tests of all processes, else the file is on disk."""


def pytest_configure(config: pytest.Config) -> None:
    """Let go of the disks of a run at the same place that was killed: it could not be made anew."""
    place = config.getoption("basetemp", None)
    if place is None or hasattr(config, "workerinput"):
        return
    for top in (*Path(place).glob("popen-gw*"), Path(place)):
        if top.is_mount():
            _worked("umount", "-l", os.fspath(top))


@pytest.fixture(scope="session", autouse=True)
def own_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let the tests of one process work on a file system of their own, where that can be had.

    A file-system mark tells of what neighbours do, too; and what waits until a disk is at rest would wait for them.
    It goes with the process: what a test has left in `tmp_path` can be looked at only while that is stopped (--pdb).
    """
    place = tmp_path_factory.getbasetemp()
    roomy = os.access(_IN_MEMORY, os.W_OK) and shutil.disk_usage(_IN_MEMORY).free > _ENOUGH
    with tempfile.NamedTemporaryFile(dir=_IN_MEMORY if roomy else None) as image:
        image.truncate(_DISK_BYTES)
        made = _worked("mkfs.ext4", "-q", "-E", "nodiscard", image.name)
        there = made and _worked("mount", "-o", "loop,noinit_itable,discard", image.name, os.fspath(place))
    yield
    if there:
        _worked("umount", "-l", os.fspath(place))


def _worked(*command: str) -> bool:
    try:
        return not subprocess.run(command, capture_output=True, check=False).returncode
    except FileNotFoundError:
        return False


@pytest.fixture(scope="session", autouse=True)
def states() -> Iterator[None]:
    """Let programs that are run keep their states in a place of these tests."""
    with tempfile.TemporaryDirectory(prefix="clsync-states-") as place, pytest.MonkeyPatch.context() as patch:
        os.chmod(place, 0o711)  # who keeps it may be nobody
        patch.setenv("STATE_DIRECTORY", place)
        patch.setitem(INHERITED, "STATE_DIRECTORY", place)
        yield


@pytest.fixture(autouse=True)
def _way_through(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let other users through to where the tests work: some are about them, and each start of pytest shuts them out."""
    base = tmp_path_factory.getbasetemp()
    for above in (base, *base.parents):
        if not above.stat().st_mode & stat.S_IXOTH:
            above.chmod(0o711)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell with which seed the same is drawn again."""
    terminalreporter.write_line(f"CLSYNC_TEST_SEED={seed_of_run()}")
