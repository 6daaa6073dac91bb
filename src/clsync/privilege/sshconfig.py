"""What ssh(1) looks at, and what it runs, by what it says of its own configuration (`ssh -G HOST`)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from clsync.kernel.landlock import READ, READ_FILE, USE, Allowed

_SSH: Final = (
    *(
        Allowed(b"/etc/" + name, READ)
        for name in b"ssh/ssh_config ssh/ssh_config.d ssh/ssh_known_hosts ssh/ssh_known_hosts2 krb5.conf krb5.conf.d"
        b" gss".split()
    ),
    Allowed(b"/dev/tty", USE),
)
_LISTS: Final = (b"userknownhostsfile", b"globalknownhostsfile")
"""Options that take several names."""
_FILES: Final = (b"identityfile", b"certificatefile", b"revokedhostkeys", *_LISTS)
_PROGRAMS: Final = (b"proxycommand", b"knownhostscommand", b"pkcs11provider")
_VARYING: Final = re.compile(rb"%(.)|\$\{([^}]*)\}", re.DOTALL)
"""What stands for something else in the name of a file (ssh_config(5), TOKENS and ENVIRONMENT VARIABLES)."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who runs ssh, and where."""

    user: bytes
    uid: int
    home: bytes
    machine: bytes
    environment: Mapping[bytes, bytes]


class SshConfig:
    """What ssh says of one host."""

    def __init__(self, host: bytes, text: bytes, caller: Caller) -> None:
        """`host` as ssh was given it; `text`: what `ssh -G` has printed."""
        self._pairs = [line.partition(b" ")[::2] for line in text.splitlines()]
        self._caller = caller
        one = dict(self._pairs)
        name = host.removeprefix(b"ssh://").rpartition(b"@")[2]
        self._tokens = {
            b"%": b"%", b"d": caller.home, b"h": one.get(b"hostname", name), b"i": b"%d" % caller.uid,
            b"k": one.get(b"hostkeyalias", name), b"L": caller.machine.partition(b".")[0], b"l": caller.machine,
            b"n": name, b"p": one.get(b"port", b"22"), b"r": one.get(b"user", caller.user), b"u": caller.user,
        }  # fmt: skip

    def jumps(self) -> list[bytes]:
        """Return the hosts on the way, as ssh can be given them."""
        hosts = [host for key, value in self._pairs if key == b"proxyjump" for host in value.split(b",")]
        return [b"ssh://" + host.removeprefix(b"ssh://") for host in hosts if host not in (b"", b"none")]

    def obstacle(self, on_the_way: bool) -> str:
        """Return for what, and by which option, ssh cannot be confined; empty where it can.

        `on_the_way`: a connection there would be shared, at a place where nothing can be made.
        """
        for key, value in self._pairs:
            if key in _PROGRAMS and value not in (b"", b"none"):
                return f"to run something: {key.decode()}"
            if (key, value) == (b"permitlocalcommand", b"yes"):
                return f"to run something: {key.decode()}"
            if key in _FILES and None in map(self._expanded, self._names(key, value)):
                return f"to look at a file whose name only ssh can tell: {key.decode()}"
        one = dict(self._pairs)
        shares = (
            one.get(b"controlmaster") not in (None, b"no", b"false") and one.get(b"controlpath", b"none") != b"none"
        )
        return "to share connections to a host on the way: controlmaster" if on_the_way and shares else ""

    def files(self) -> tuple[Allowed, ...]:
        """Return what ssh looks at."""
        found = [*_SSH, Allowed(self._caller.home + b"/.ssh", READ)]
        for key, value in self._pairs:
            if key not in _FILES:
                continue
            kind = USE if key == b"userknownhostsfile" else READ_FILE
            names = [name for name in map(self._expanded, self._names(key, value)) if name is not None]
            found += [Allowed(name, kind) for name in names]
            if key == b"identityfile":
                found += [Allowed(name + end, READ_FILE) for name in names for end in (b".pub", b"-cert.pub")]
        return (*found, *self._tickets())

    def _tickets(self) -> list[Allowed]:
        """Return where the tickets of Kerberos are kept, if that is said: in a file or a directory (kerberos(7)).

        The usual place lies in /tmp, where anybody could lay a symlink while there are no tickets.
        """
        name = self._caller.environment.get(b"KRB5CCNAME")
        if name is None or (b"gssapiauthentication", b"yes") not in self._pairs:
            return []
        kind, colon, rest = name.rpartition(b":/")
        return [Allowed(b"/" + rest if colon else name, USE)] if kind in (b"", b"FILE", b"DIR", b"DIR:") else []

    @staticmethod
    def _names(key: bytes, value: bytes) -> Sequence[bytes]:
        return value.split(b" ") if key in _LISTS else [value]

    def _expanded(self, name: bytes) -> bytes | None:
        """Return the name of a file as ssh reads it; None: that is not known."""

        def value(found: re.Match[bytes]) -> bytes:
            if found[1] is not None:
                return self._tokens[found[1]]
            return self._caller.environment[found[2]]

        home = self._caller.home + name[1:] if name.startswith(b"~/") else name
        try:
            return _VARYING.sub(value, os.path.expanduser(home))
        except KeyError:
            return None
