"""What the daemon offers to the clients of its control socket (`control.server.Instance`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Final

from clsync import __version__
from clsync.daemon.course import Leaving
from clsync.daemon.dump import State
from clsync.daemon.mirror import Mirror
from clsync.daemon.switch import Switch
from clsync.errors import OperatorError
from clsync.options.table import BY_NAME, FIXED

_NAMED: Final = 20
"""Failing paths named in one answer; all are counted."""


class DaemonInstance:
    """One mirror, seen from outside."""

    def __init__(self, mirror: Mirror, switch: Switch, write_dump: Callable[[bytes, State], None], pid: int) -> None:
        """`switch`: changes what the mirror goes by; `pid`: the process that is sent signals."""
        self._write_dump, self._pid = write_dump, pid
        self._mirror, self._switch = mirror, switch
        self._started = time.time()

    def info(self) -> tuple[bytes, bytes]:
        """Return the configuration block and the label."""
        settings = self._switch.settings
        return settings.config_block, settings.label

    def status(self) -> Mapping[str, object]:
        """Return what goes on; times are in seconds since 1970, None for what has not been."""
        block, label = self.info()
        made, health = self._switch.plan, self._mirror.health()
        return {
            "version": __version__,
            "pid": self._pid,
            "started_at": self._started,
            "config_block": _text(block),
            "label": _text(label),
            "mode": made.mode,
            "source": _text(made.root),
            "destination": _text(made.destination.text) if made.destination is not None else None,
            "monitor": health.monitor,
            "phase": health.phase,
            "iteration": health.iteration,
            "last_sync_at": health.last_sync,
            "collecting": health.collecting,
            "pending": health.pending,
            "in_flight": health.in_flight,
            "trouble": health.trouble,
            "failing": len(health.failing),
            "failures": [
                {"path": _text(path) or ".", "reason": reason}
                for path, reason in islice(health.failing.items(), _NAMED)
            ],
        }

    async def dump(self, directory: bytes) -> None:
        """Write the queues to a new directory. Raises OSError."""
        self._write_dump(directory, await self._mirror.state())

    async def set(self, key: str, value: bytes) -> None:
        """Change an option. Raises OperatorError."""
        option = BY_NAME.get(key)
        if option is not None and option.retired:
            raise OperatorError(f"{key} has no effect: {option.retired}", "leave it out")
        if key in FIXED or key.startswith("config-block"):
            raise OperatorError(f"{key} cannot be changed while clsync runs", "start it again with the option")
        await self._switch.set(key, value)

    def end(self) -> None:
        """End the daemon, as SIGTERM does."""
        self._mirror.leave(Leaving.NOW)


def _text(raw: bytes) -> str:
    """Return `raw` for JSON: bytes that are no text become lone surrogates (PEP 383), so nothing is lost."""
    return raw.decode("utf-8", "surrogateescape")
