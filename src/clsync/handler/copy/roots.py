"""Both roots, and what is needed everywhere below them."""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from clsync.handler.copy.attributes import Attributes
from clsync.handler.copy.content import Copier
from clsync.handler.copy.settings import Context
from clsync.handler.copy.trouble import Vanished, source_trouble
from clsync.handler.removal import Removal
from clsync.kernel.files import DIRECTORY_FLAGS, open_beneath

_WORKABLE: Final = 0o700


class Roots:
    """Opens directories below the two roots of a batch; knows how content and attributes are copied there."""

    def __init__(self, context: Context) -> None:
        """`context`: the batch."""
        self.context = context
        self.attributes = Attributes(context.settings)
        self.copier = Copier(lambda: context.pause(), context.settings.rate)
        self.removal = Removal(context, self.open_destination)
        self.device = os.fstat(context.destination).st_dev
        self.no_atime = os.O_NOATIME
        self._privileged = os.geteuid() == 0

    def open_source(self, path: bytes) -> int:
        """Open a directory of the source. Raises Vanished or Refused."""
        try:
            try:
                return open_beneath(self.context.source, path, DIRECTORY_FLAGS | self.no_atime)
            except PermissionError:
                # O_NOATIME is for owners; and what has left the source while it was looked up, a sandbox denies.
                return open_beneath(self.context.source, path, DIRECTORY_FLAGS)
        except OSError as error:
            raise source_trouble(error) from error

    def denied(self, path: bytes, directory: int, error: OSError) -> Exception:
        """Return what an error in an open directory of the source means: a sandbox denies what has left the source."""
        if error.errno == errno.EACCES and not self._is_at(path, directory):
            return Vanished()
        return source_trouble(error)

    def _is_at(self, path: bytes, directory: int) -> bool:
        try:
            there = open_beneath(self.context.source, path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            return os.path.samestat(os.fstat(there), os.fstat(directory))
        finally:
            os.close(there)

    def open_destination(self, path: bytes) -> int:
        """Open a directory of the destination so that names in it can be changed. Raises OSError."""
        root = self.context.destination
        if self._privileged:
            return open_beneath(root, path, DIRECTORY_FLAGS)
        try:
            directory = open_beneath(root, path, DIRECTORY_FLAGS)
        except PermissionError:
            _unlock(root, path)
            directory = open_beneath(root, path, DIRECTORY_FLAGS)
        mode = os.fstat(directory).st_mode
        if mode & _WORKABLE != _WORKABLE:
            try:
                os.fchmod(directory, stat.S_IMODE(mode) | _WORKABLE)
            except PermissionError:
                pass  # not ours: each name in it will say so
        return directory


def _unlock(root: int, path: bytes) -> None:
    """Give ourselves access to a directory of ours. Raises OSError."""
    place = open_beneath(root, path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        os.chmod(b"/proc/self/fd/%d" % place, stat.S_IMODE(os.fstat(place).st_mode) | _WORKABLE)
    finally:
        os.close(place)
