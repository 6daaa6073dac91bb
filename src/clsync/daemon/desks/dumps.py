"""Dumps: the worker says what is in them, and makes nothing itself."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from typing import Any, Final

from clsync.daemon.answers import Answers, WithDescriptors
from clsync.daemon.desks.shared import Shared, known
from clsync.daemon.dump import DumpDirectory, begin_dump
from clsync.daemon.witness import Witness
from clsync.privilege.wire import Op, Refused

_DIRECTORY: Final = re.compile(rb"[0-9]{1,9}|([0-9]{1,9}/)?(queue|threads)")
_FILE: Final = re.compile(rb"([0-9]{1,9}/)?(instance|(queue|threads)/[0-9]{1,19})")
_MOST: Final = 16
"""Dumps at once, for each target."""


class Dumps:
    """Makes the directories and files of dumps."""

    def __init__(self, shared: Shared, witness: Witness | None) -> None:
        """`witness`: knows where somebody wants one who may say so; None: they go to --dump-dir alone."""
        self._shared, self._witness = shared, witness
        self._open: dict[int, DumpDirectory] = {}
        self.quick: Answers = {
            Op.DUMP: self._begin,
            Op.DUMP_DIRECTORY: self._directory,
            Op.DUMP_FILE: self._file,
            Op.DUMP_END: self._end,
        }
        self.slow: Answers = {}

    def close(self) -> None:
        """Give everything back."""
        for dump in self._open.values():
            dump.close()
        self._open.clear()

    def _begin(self, directory: bytes | None) -> Sequence[Any]:
        if directory is None:
            directory = self._shared.now.settings.dump_dir
        elif self._witness is None or not self._witness.has_named(directory):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if directory is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        self._shared.demand_room(self._open, _MOST)
        number = self._shared.number()
        self._open[number] = begin_dump(directory)
        return (number,)

    def _directory(self, number: int, name: bytes) -> Sequence[Any]:
        dump: DumpDirectory = known(self._open, number)
        if not _DIRECTORY.fullmatch(name):
            raise Refused("a directory that no dump has")
        dump.directory(name)
        return ()

    def _file(self, number: int, name: bytes) -> WithDescriptors:
        dump: DumpDirectory = known(self._open, number)
        if not _FILE.fullmatch(name):
            raise Refused("a file that no dump has")
        return WithDescriptors((), (dump.file(name),))

    def _end(self, number: int) -> Sequence[Any]:
        known(self._open, number).close()
        del self._open[number]
        return ()
