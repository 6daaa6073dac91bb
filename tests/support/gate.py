"""A file that nobody opens before it is let: what a program does between two files can be chosen."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest


class Gate:
    """Holds whoever opens a file, until it is let go: a write lease on it (fcntl(2), Leases).

    The test that needs it is skipped where the file system gives none. Who opens the file without blocking is
    refused, not held.
    """

    def __init__(self, file: Path, act: Callable[[], object]) -> None:
        """`act` is done while somebody is held at `file`, before the file is opened."""
        self._file, self._act = file, act
        self._lease = -1
        self.passed = False
        """Somebody came, and was let go after `act`."""

    def __enter__(self) -> Self:
        self._lease = os.open(self._file, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.fcntl(self._lease, fcntl.F_SETSIG, signal.SIGURG)  # one that is ignored by default
            fcntl.fcntl(self._lease, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError as error:
            self._close()
            pytest.skip(f"no lease on {self._file}: {error.strerror}")
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._close()
        assert kind is not None or self.passed, f"nobody has opened {self._file}"

    def __call__(self) -> bool:
        """Do the act and let go if somebody has come; tell whether it is done."""
        if not self.passed and fcntl.fcntl(self._lease, fcntl.F_GETLEASE) != fcntl.F_WRLCK:
            self._act()
            self.passed = True
            self._close()
        return self.passed

    def _close(self) -> None:
        if self._lease >= 0:
            os.close(self._lease)
            self._lease = -1
