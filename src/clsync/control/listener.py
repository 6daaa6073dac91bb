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
from contextlib import contextmanager, suppress

from clsync.errors import Exit, OperatorError
from clsync.kernel import places, roles
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


class Listening(socket.socket):
    """Listens once: whoever does it again is the one whom clients take for the daemon (SO_PEERCRED, unix(7))."""

    _listens = False
    owner = group = -1
    """Who may ask for changes, beside root: the file's owner, and its group where the mode lets it write."""

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
        self._identity: places.Identity | None = None
        if len(self.path) > LONGEST_PATH:
            raise OperatorError(
                f"--socket {shown(self.path)} is {len(self.path)} bytes long, and {LONGEST_PATH} is the most",
                "name a shorter one",
            )

    def demand_place(self) -> None:
        """See that it can be opened, as far as that can be told without doing it. Raises OperatorError.

        A daemon that answers there now may have ended by the time of the start.
        """
        try:
            with places.reached(self.path) as (directory, name):
                with suppress(FileNotFoundError):
                    self._demand_socket(directory, name)
                places.demand_writable(directory)
        except OSError as error:
            raise self._trouble(error) from None

    def open(self) -> Listening:
        """Make the socket and listen. Raises OperatorError."""
        made = Listening(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with places.reached(self.path) as (directory, name), _alone_in(directory):
                self._bind(made, directory, name)
                self._open_up(made, directory, name)
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
            if self._identity is not None:
                made = self._identity
                roles.by_somebody(lambda: places.remove(self.path, made))
        except OSError:
            pass  # gone, or out of reach: the next start replaces it
        self._identity = None

    def _bind(self, made: socket.socket, directory: int, name: bytes) -> None:
        """Give the socket its path, and nobody any right to it. Raises OSError, OperatorError."""
        mask = os.umask(0o777)
        try:
            try:
                made.bind(self.path)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                self._clear(directory, name)
                made.bind(self.path)
        finally:
            os.umask(mask)

    def _open_up(self, made: Listening, directory: int, name: bytes) -> None:
        """Set owner and mode, of what was made and nothing that has taken its place. Raises OSError."""
        descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            found = os.fstat(descriptor)
            # Who may write into the directory may have exchanged it since it was bound, for another name of anything.
            if not stat.S_ISSOCK(found.st_mode) or found.st_nlink != 1 or found.st_uid != os.geteuid():
                raise places.Unsafe("something else has taken its place")
            self._identity = places.identity_of(found)
            # A socket cannot be opened otherwise, and such a descriptor is changed by its name in /proc (open(2)).
            opened = f"/proc/self/fd/{descriptor}"
            if self._owner is not None:
                os.chown(opened, *self._owner)
            os.chmod(opened, self._mode)
            given = os.fstat(descriptor)
            made.owner, made.group = given.st_uid, given.st_gid if self._mode & stat.S_IWGRP else -1
        finally:
            os.close(descriptor)

    def _clear(self, directory: int, name: bytes) -> None:
        """Remove a socket that nobody listens at any more. Raises OperatorError where it is something else."""
        where = f"--socket {shown(self.path)}"
        self._demand_socket(directory, name)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
            trial.setblocking(False)
            answer = trial.connect_ex(self.path)
        if answer == errno.ECONNREFUSED:
            os.unlink(name, dir_fd=directory)
        elif answer not in (0, errno.EAGAIN, errno.ENOENT):
            raise OSError(answer, os.strerror(answer))
        elif answer != errno.ENOENT:
            raise OperatorError(
                f"{where} is in use by another process",
                "stop it (clsync ctl --socket PATH stop), or name another path",
                Exit.FILES,
            )

    def _demand_socket(self, directory: int, name: bytes) -> None:
        """Refuse what stands there and is something else. Raises OperatorError, OSError."""
        if not stat.S_ISSOCK(os.lstat(name, dir_fd=directory).st_mode):
            raise OperatorError(
                f"--socket {shown(self.path)} is there, and is no socket",
                "remove it yourself, or name another path",
                Exit.FILES,
            )

    def _trouble(self, error: OSError) -> OperatorError:
        if isinstance(error, places.Unsafe):
            hint = "name a path in a directory that only you may write"
            return OperatorError(f"--socket {shown(self.path)}: {error.strerror}", hint, Exit.FILES)
        given_away = "only root may give it to somebody else: leave --socket-own out"
        hint = {
            errno.EPERM: given_away if self._owner is not None else "remove it yourself, or name another path",
            errno.ENOENT: "create the directory, or name another path",
            errno.ENOTDIR: "name a path in a directory",
        }.get(error.errno or 0, "name a path in a directory that may be written")
        return OperatorError(f"--socket {shown(self.path)}: {error.strerror}", hint, Exit.FILES)


@contextmanager
def _alone_in(place: int) -> Iterator[None]:
    """Keep out other daemons that begin: what is bound and not listened at yet looks like a stale socket to them.

    For a second at most: others may hold locks on the directory, for reasons of their own.
    """
    try:
        descriptor = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=place)
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
