"""Users and groups of this system, by name or number."""

from __future__ import annotations

import grp
import os
import pwd
from typing import NamedTuple, Protocol

from clsync.errors import OperatorError
from clsync.options.values import shown


class User(NamedTuple):
    """A user. Without an entry of its own (a bare number) it has no name, and no group is known."""

    uid: int
    name: str | None = None
    gid: int | None = None


class Accounts(Protocol):
    """Where users and groups are looked up."""

    def user(self, text: bytes, option: str) -> User:
        """Return a user by name or number. Raises OperatorError, which names the option."""

    def group(self, text: bytes, option: str) -> int:
        """Return a group by name or number. Raises OperatorError, which names the option."""

    def groups_of(self, user: User, gid: int) -> tuple[int, ...]:
        """Return all groups that a user is in, `gid` being one of them."""


class SystemAccounts:
    """The accounts of this system (getpwnam(3), getgrnam(3))."""

    def user(self, text: bytes, option: str) -> User:
        """Return a user by name or number. Raises OperatorError."""
        name = os.fsdecode(text)
        try:
            found = pwd.getpwuid(int(name)) if _is_number(name) else pwd.getpwnam(name)
        except KeyError:
            if _is_number(name):
                return User(int(name))
            raise OperatorError(f"--{option} {shown(text)}: there is no such user", "see: getent passwd") from None
        return User(found.pw_uid, found.pw_name, found.pw_gid)

    def group(self, text: bytes, option: str) -> int:
        """Return a group by name or number. Raises OperatorError."""
        name = os.fsdecode(text)
        if _is_number(name):
            return int(name)
        try:
            return grp.getgrnam(name).gr_gid
        except KeyError:
            raise OperatorError(f"--{option} {shown(text)}: there is no such group", "see: getent group") from None

    def groups_of(self, user: User, gid: int) -> tuple[int, ...]:
        """Return all groups that a user is in."""
        return tuple(sorted(set(os.getgrouplist(user.name, gid)))) if user.name is not None else (gid,)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()
