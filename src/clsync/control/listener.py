"""The socket file: made with its owner and mode from the beginning, never in the place of anything else."""

from __future__ import annotations

import errno
import fcntl
import grp
import os
import pwd
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager

from clsync.errors import Exit, OperatorError
from clsync.kernel import roles
from clsync.options.values import shown

LONGEST_PATH = 107
"""Bytes of a path in a socket address (unix(7))."""
_WAITING = 64
"""Connections that may wait to be accepted."""


def owner_of(text: bytes) -> tuple[int, int]:
    """Return the ids of `user` or `user:group`, names or numbers. Raises OperatorError.

    Without a group it is the user's own; -1 where a number has none.
    """
    where = f"--socket-own {shown(text)}"
    user, colon, group = os.fsdecode(text).partition(":")
    try:
        found = pwd.getpwuid(int(user)) if _is_id(user) else pwd.getpwnam(user)
        uid, gid = found.pw_uid, found.pw_gid
    except KeyError:
        if not _is_id(user):
            raise OperatorError(f"{where}: there is no user '{user}'", "see: getent passwd") from None
        uid, gid = int(user), -1
    if colon:
        try:
            gid = int(group) if _is_id(group) else grp.getgrnam(group).gr_gid
        except KeyError:
            raise OperatorError(f"{where}: there is no group '{group}'", "see: getent group") from None
    return uid, gid


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdecimal() and int(text) < 2**32 - 1


class _Listening(socket.socket):
    """Listens once: whoever does it again is the one whom clients take for the daemon (SO_PEERCRED, unix(7))."""

    _listens = False

    def listen(self, backlog: int = _WAITING, /) -> None:
        """Listen. Raises OSError."""
        if not self._listens:
            super().listen(backlog)
            self._listens = True


class Listener:
    """A listening socket at a path, and the file that stands for it."""

    def __init__(self, path: bytes, mode: int, owner: bytes | None) -> None:
        """`path` is relative to the current directory as it is now; `owner`: see `owner_of`. Raises OperatorError."""
        self.path = os.path.abspath(path)
        self._mode = mode
        self._owner = owner_of(owner) if owner is not None else None
        self._identity: tuple[int, int] | None = None
        if len(self.path) > LONGEST_PATH:
            raise OperatorError(
                f"--socket {shown(self.path)} is {len(self.path)} bytes long, and {LONGEST_PATH} is the most",
                "name a shorter one",
            )

    def open(self) -> socket.socket:
        """Make the socket and listen. Raises OperatorError."""
        made = _Listening(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _alone_in(os.path.dirname(self.path)):
                self._bind(made)
                self._open_up()
                made.listen(_WAITING)
        except OSError as error:
            made.close()
            self.remove()
            raise self._trouble(error) from None
        except BaseException:
            made.close()
            self.remove()
            raise
        made.setblocking(False)
        return made

    def remove(self) -> None:
        """Remove the file, if it is still the one that was made."""
        try:
            if self._identity is not None and self._identity == _identity(os.lstat(self.path)):
                roles.by_somebody(lambda: os.unlink(self.path))
        except OSError:
            pass  # gone, or out of reach: the next start replaces it
        self._identity = None

    def _bind(self, made: socket.socket) -> None:
        """Give the socket its path, and nobody any right to it. Raises OSError, OperatorError."""
        mask = os.umask(0o777)
        try:
            try:
                made.bind(self.path)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                self._clear()
                made.bind(self.path)
            self._identity = _identity(os.lstat(self.path))
        finally:
            os.umask(mask)

    def _open_up(self) -> None:
        """Set owner and mode, of what was made and nothing that has taken its place. Raises OSError."""
        descriptor = os.open(self.path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if _identity(os.fstat(descriptor)) != self._identity:
                raise OSError(errno.EBUSY, "something else has taken its place")
            # A socket cannot be opened otherwise, and such a descriptor is changed by its name in /proc (open(2)).
            name = f"/proc/self/fd/{descriptor}"
            if self._owner is not None:
                os.chown(name, *self._owner)
            os.chmod(name, self._mode)
        finally:
            os.close(descriptor)

    def _clear(self) -> None:
        """Remove a socket that nobody listens at any more. Raises OperatorError where it is something else."""
        where = f"--socket {shown(self.path)}"
        if not stat.S_ISSOCK(os.lstat(self.path).st_mode):
            raise OperatorError(
                f"{where} is there, and is no socket", "remove it yourself, or name another path", Exit.FILES
            )
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
            trial.setblocking(False)
            answer = trial.connect_ex(self.path)
        if answer == errno.ECONNREFUSED:
            os.unlink(self.path)
        elif answer not in (0, errno.EAGAIN, errno.ENOENT):
            raise OSError(answer, os.strerror(answer))
        elif answer != errno.ENOENT:
            raise OperatorError(
                f"{where} is in use by another process",
                "stop it (clsync ctl --socket PATH stop), or name another path",
                Exit.FILES,
            )

    def _trouble(self, error: OSError) -> OperatorError:
        given_away = "only root may give it to somebody else: leave --socket-own out"
        hint = {
            errno.EPERM: given_away if self._owner is not None else "remove it yourself, or name another path",
            errno.ENOENT: "create the directory, or name another path",
            errno.ENOTDIR: "name a path in a directory",
        }.get(error.errno or 0, "name a path in a directory that may be written")
        return OperatorError(f"--socket {shown(self.path)}: {error.strerror}", hint, Exit.FILES)


@contextmanager
def _alone_in(directory: bytes) -> Iterator[None]:
    """Keep out other daemons that begin: what is bound and not listened at yet looks like a stale socket to them.

    For a second at most: others may hold locks on the directory, for reasons of their own.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        yield  # it can be written, but not read
        return
    try:
        until = time.monotonic() + 1
        while not _locked(descriptor) and time.monotonic() < until:
            time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
