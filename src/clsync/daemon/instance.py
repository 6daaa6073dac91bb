"""What the daemon offers to the clients of its control socket (`control.server.Instance`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final

from clsync import __version__
from clsync.daemon.access import Access
from clsync.daemon.course import Leaving
from clsync.daemon.health import TargetHealth
from clsync.daemon.mirror import Mirror
from clsync.daemon.plan import Plan
from clsync.daemon.reports import differences, progress, summary
from clsync.daemon.scrub import Passed
from clsync.daemon.switch import Switch
from clsync.daemon.verify import Report, Wish
from clsync.errors import OperatorError
from clsync.options.table import BY_NAME, FIXED

if TYPE_CHECKING:
    from clsync.daemon.memory import Kept

_WAIT_NAMED: Final = 1000
"""Paths of a target that are named to somebody who waits."""
_NAMED: Final = 20
"""Failing paths named in one answer; all are counted."""


class DaemonInstance:
    """One mirror, seen from outside."""

    def __init__(self, mirror: Mirror, switch: Switch, access: Access, pid: int) -> None:
        """`switch`: changes what the mirror goes by; `pid`: the process that is sent signals."""
        self._access, self._pid = access, pid
        self._mirror, self._switch = mirror, switch
        self._started = time.time()

    def info(self) -> tuple[bytes, bytes]:
        """Return the configuration block and the label."""
        settings = self._switch.settings
        return settings.config_block, settings.label

    def status(self) -> Mapping[str, object]:
        """Return what goes on; times are in seconds since 1970, None for what has not been."""
        block, label = self.info()
        plans, health = self._switch.plans, self._mirror.health()
        targets = health.targets
        synced = [target.last_sync for target in targets if target.last_sync is not None]
        failing = [(target, path, why) for target in targets for path, why in target.failing.items()]
        return {
            "version": __version__,
            "pid": self._pid,
            "started_at": self._started,
            "config_block": _text(block),
            "label": _text(label),
            "mode": plans[0].mode,
            "source": _text(plans[0].root),
            "destination": _destination(plans[0]),
            "monitor": health.monitor,
            "phase": health.phase,
            "iteration": max(target.iteration for target in targets),
            "last_sync_at": min(synced) if len(synced) == len(targets) else None,
            "collecting": health.collecting,
            "pending": sum(target.pending for target in targets),
            "in_flight": sum(target.in_flight for target in targets),
            **_kept(health.kept),
            "paused": all(target.paused for target in targets),
            "trouble": next((target.trouble for target in targets if target.trouble), None),
            "next_try_at": min((one.next_tries[b""] for one in targets if b"" in one.next_tries), default=None),
            "held_back": sum(target.held_back for target in targets),
            **_scrubbed([target.scrubbed for target in targets]),
            "failing": len(failing),
            "failures": [
                {
                    "path": _text(path) or ".",
                    "reason": f"{target.name}: {why}" if target.name else why,
                    "next_try_at": target.next_tries.get(path),
                }
                for target, path, why in failing[:_NAMED]
            ],
            "targets": [_target(*pair) for pair in zip(plans, targets, strict=True)] if len(plans) > 1 else [],
        }

    async def wait(self, targets: Collection[str], until_synced: bool) -> Mapping[str, object]:
        """Wait until what has changed by now has arrived. Raises OperatorError where there is no such target."""
        failed = await self._mirror.arrival(self._named(targets), until_synced)
        return {
            "failed": [
                {"target": target, "path": _text(path) or ".", "reason": why}
                for target, paths in failed.items()
                for path, why in islice(paths.items(), _WAIT_NAMED)
            ],
            "failing": sum(map(len, failed.values())),
        }

    async def verify(
        self, targets: Collection[str], content: bool, repair: bool, tell: Callable[[Mapping[str, object]], None]
    ) -> Mapping[str, object]:
        """Compare some targets with the source. Raises OperatorError."""
        called = {plan.name: _destination(plan) or "" for plan in self._switch.plans}

        def destination(report: Report) -> str:
            return called.get(report.name, report.name)

        reports = await self._mirror.verify(
            self._named(targets),
            Wish(content, repair),
            lambda report: tell(progress(report, destination(report))),
        )
        for report in reports:
            for piece in differences(report, destination(report)):
                tell(piece)
        return {"targets": [summary(report, destination(report)) for report in reports]}

    def pause(self, targets: Collection[str], paused: bool) -> None:
        """Hand over nothing to some targets, or go on. Raises OperatorError where there is no such target."""
        self._mirror.pause(self._named(targets), paused)

    def accept(self, targets: Collection[str]) -> None:
        """Let what was held back be deleted at some targets. Raises OperatorError."""
        if not self._mirror.accept(self._named(targets)):
            raise OperatorError("no deletions are held back", "see clsync ctl status")

    def _named(self, targets: Collection[str]) -> set[str]:
        """Return how the mirror calls targets that somebody names. Raises OperatorError."""
        plans = self._switch.plans
        known = {
            one.settings.destination_dir.rstrip(b"/"): one.name for one in plans if one.settings.destination_dir
        } | {one.destination.text.rstrip(b"/"): one.name for one in plans if one.destination is not None}
        names = set()
        for target in targets:
            name = known.get(target.encode("utf-8", "surrogateescape").rstrip(b"/"))
            if name is None:
                these = ", ".join(one.name for one in plans if one.name) or "one alone"
                raise OperatorError(f"there is no target {target}", f"the targets are: {these}")
            names.add(name)
        return names - {""}

    async def dump(self, directory: bytes) -> None:
        """Write the queues to a new directory. Raises OSError."""
        await self._access.write_dump(directory, await self._mirror.states(), asked=True)

    async def set(self, key: str, value: bytes) -> None:
        """Change an option. Raises OperatorError, OSError."""
        option = BY_NAME.get(key)
        if option is not None and option.retired:
            raise OperatorError(f"{key} has no effect: {option.retired}", "leave it out")
        if key in FIXED or key.startswith("config-block"):
            raise OperatorError(f"{key} cannot be changed while clsync runs", "start it again with the option")
        await self._switch.set(key, value)

    def end(self) -> None:
        """End the daemon, as SIGTERM does."""
        self._mirror.leave(Leaving.NOW)


def _destination(made: Plan) -> str | None:
    return _text(made.destination.text) if made.destination is not None else None


def _target(made: Plan, health: TargetHealth) -> Mapping[str, object]:
    return {
        "destination": _destination(made),
        "mode": made.mode,
        "iteration": health.iteration,
        "last_sync_at": health.last_sync,
        "pending": health.pending,
        "in_flight": health.in_flight,
        "failing": len(health.failing),
        "paused": health.paused,
        "held_back": health.held_back,
        **_scrubbed([health.scrubbed]),
        "trouble": health.trouble,
        "next_try_at": health.next_tries.get(b""),
    }


def _kept(kept: Kept | None) -> Mapping[str, object]:
    return {
        "state_dir": _text(kept.directory) if kept is not None else None,
        "state_dirty": kept.dirty if kept is not None else 0,
        "unflushed": kept.unflushed if kept is not None else 0,
        "state_lost": kept.trouble if kept is not None else None,
    }


def _scrubbed(passes: Sequence[Passed | None]) -> Mapping[str, object]:
    """Return when the last passes of the scrub ended, the earliest of them, and how much they found."""
    over = [one for one in passes if one is not None]
    return {
        "scrubbed_at": min(one.ended for one in over) if over and len(over) == len(passes) else None,
        "scrub_found": sum(one.found for one in over),
    }


def _text(raw: bytes) -> str:
    """Return `raw` for JSON: bytes that are no text become lone surrogates (PEP 383), so nothing is lost."""
    return raw.decode("utf-8", "surrogateescape")
