"""What rsync's last argument means: a local directory, a path behind ssh, or a module of an rsync daemon."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

_URL = re.compile(rb"[a-z][a-z0-9+.-]*://")
_HOST = re.compile(rb"((?:[^:/@]*@)?(?:\[[^\]/]*\]|[^:/]*)):(:?)(.*)", re.DOTALL)
"""Host, second colon of a daemon, path."""


@dataclass(frozen=True, slots=True)
class Target:
    """A destination as rsync(1) reads it: a colon before the first slash makes it a remote one."""

    text: bytes

    @property
    def remote(self) -> bool:
        """Tell whether the destination is on another host (or spoken to as if it were)."""
        return bool(_URL.match(self.text) or _HOST.match(self.text))

    @property
    def daemon(self) -> bool:
        """Tell whether an rsync daemon answers there (`rsync://host/module`, `host::module`)."""
        host = _HOST.match(self.text)
        return bool(_URL.match(self.text) or (host and host[2]))

    @property
    def ssh(self) -> bool:
        """Tell whether a remote shell leads there (`host:path`, `user@host:path`)."""
        return self.remote and not self.daemon

    @property
    def host(self) -> bytes:
        """Return what ssh is to be given: `user@host`, without the brackets of an IPv6 address."""
        found = _HOST.match(self.text)
        return found[1].replace(b"[", b"").replace(b"]", b"") if found else b""

    @property
    def directory(self) -> bytes:
        """Return the path at the other end of ssh; empty: where a login leads."""
        found = _HOST.match(self.text)
        return found[3] if found else b""

    @property
    def argument(self) -> bytes:
        """Return the argument for rsync: with one trailing slash, as the content goes there."""
        return self.text if self.text.endswith((b"/", b":")) else self.text + b"/"

    def prefixes(self) -> list[bytes]:
        """Return what rsync may put before a path of this target in its messages."""
        if not self.remote:
            return [os.path.realpath(self.text), self.text]
        found = _HOST.match(self.text)
        path = found[3] if found else b""
        if not self.daemon:
            return [path, b"/"]
        # A daemon names paths as its module shows them.
        url = _URL.match(self.text)
        module = self.text[url.end() :].partition(b"/")[2] if url else path
        return [b"/" + module.partition(b"/")[2], b"/"]
