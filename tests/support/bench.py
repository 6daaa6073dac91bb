"""A source, a destination, and a handler between them: a batch in, an outcome out."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from clsync.core.batch import DIRECTORY, RECURSIVE, Batch, Outcome, Verdict
from clsync.core.changes import DOUBT
from clsync.core.classify import CHANGE_SHIFT, Classifier, Freshness
from clsync.daemon.root import Directory
from clsync.handler.base import Handler
from clsync.handler.copy.handler import CopyHandler
from clsync.handler.rsync import RsyncHandler, Target
from clsync.handler.rsync.recipe import ARGUMENTS_MACRO, Recipe
from clsync.kernel.capabilities import probe_destination
from clsync.kernel.sandbox import Sandbox
from clsync.kernel.walk import lstat_below
from tests.support.remotes import Server
from tests.support.trees import Ignore, compare_trees, report

ALL_FRESH, NONE_FRESH = Freshness(0, 2**63), Freshness(0, 0)
EVERYTHING = {b"": DIRECTORY | RECURSIVE | DOUBT << CHANGE_SHIFT}
"""The entries of an initial sync."""
LOCAL = ("rsync", "rsync-flat", "copy")
"""Handlers that make a directory of this machine equal (see `local_handler`)."""


class Bench:
    """A source, a destination, and a handler between them."""

    def __init__(self, top: Path, make: Callable[[Bench], Handler], server: Server | None = None) -> None:
        """`server`: what has to run for the destination to be there; None where it is a directory of this machine."""
        self.source, self.destination = top / "source", top / "destination"
        for directory in (self.source, self.destination):
            directory.mkdir()
        self.identity = Directory(bytes(self.destination))
        self.server = server
        self.exact = True
        """Times of directories count."""
        self.handler = make(self)

    def write(self, name: str | bytes, text: str = "", at: int | None = None) -> Path:
        """Write a file of the source; `at`: its mtime in seconds."""
        return _write(self.source, name, text, at)

    def write_there(self, name: str | bytes, text: str = "", at: int | None = None) -> Path:
        """Write a file of the destination; `at`: its mtime in seconds."""
        return _write(self.destination, name, text, at)

    def prepare(self) -> None:
        """Make the destination what the source is, by other means."""
        subprocess.run(
            ["rsync", "-aH", "--delete", "--modify-window=-1", f"{self.source}/", f"{self.destination}/"], check=True
        )

    def entries(self, changes: dict[bytes, int], fresh: Freshness = NONE_FRESH) -> tuple[dict[bytes, int], int]:
        """Return the entries of a batch for what stands at the changed paths, and its `attribute_bytes`."""
        root = os.open(self.source, os.O_RDONLY | os.O_DIRECTORY)
        try:
            rules = self.handler.rules
            permits = rules.permits if rules is not None else None
            classifier = Classifier(lstat_below(root), fresh, permits)
            classifier.add(changes.items())
            for names in list(classifier.linked.values()):
                classifier.add_links(names)
            return classifier.finish(), classifier.attribute_bytes
        finally:
            os.close(root)

    def sync(
        self,
        changes: dict[bytes, int],
        fresh: Freshness = NONE_FRESH,
        meanwhile: Callable[[], bool] | None = None,
    ) -> Outcome:
        """Hand over what stands at the changed paths (see `hand_over`)."""
        entries, attribute_bytes = self.entries(changes, fresh)
        return self.hand_over(entries, attribute_bytes=attribute_bytes, meanwhile=meanwhile)

    def stop_once(self, condition: Callable[[], bool]) -> Callable[[], bool]:
        """Return what `hand_over` can do meanwhile: stop the run once a condition holds."""

        def stop() -> bool:
            if not condition():
                return False
            self.handler.stop()
            return True

        return stop

    def hand_over(
        self,
        entries: dict[bytes, int],
        *,
        initial: bool = False,
        attribute_bytes: int = 0,
        most_deletions: int | None = None,
        meanwhile: Callable[[], bool] | None = None,
    ) -> Outcome:
        """Hand over entries. `meanwhile` is called again and again while that goes on, until it answers True."""
        root = os.open(self.source, os.O_RDONLY | os.O_DIRECTORY)
        try:
            batch = Batch(
                1, entries, root, initial=initial, attribute_bytes=attribute_bytes, most_deletions=most_deletions
            )
            return asyncio.run(self._hand_over(batch, meanwhile))
        finally:
            os.close(root)

    async def _hand_over(self, batch: Batch, meanwhile: Callable[[], bool] | None) -> Outcome:
        work = asyncio.create_task(self.handler.sync(batch))
        while meanwhile is not None and not work.done():
            if meanwhile():
                break
            await asyncio.sleep(0)
        return await work

    def done(self, changes: dict[bytes, int], fresh: Freshness = NONE_FRESH) -> None:
        """Hand over changes, which must be done and make both trees equal."""
        outcome = self.sync(changes, fresh)
        assert outcome.verdict is Verdict.DONE, outcome
        self.equal()

    def equal(self, ignore: Ignore | None = None) -> None:
        """Fail where the trees differ."""
        differences = compare_trees(bytes(self.source), bytes(self.destination), ignore)
        if not self.exact:
            differences = [
                d
                for d in differences
                if d.aspect != "mtime_ns" or not os.path.isdir(bytes(self.source) + b"/" + d.path)
            ]
        assert not differences, report(differences)

    def trouble(self) -> str | None:
        """What the daemon asks of a local destination."""
        return self.identity.trouble()


def _write(top: Path, name: str | bytes, text: str, at: int | None) -> Path:
    path = top / os.fsdecode(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text or "content")
    if at is not None:
        os.utime(path, (at, at))
    return path


def rsync_handler(
    bench: Bench,
    target: str,
    environment: dict[str, str] | None = None,
    recipe: Recipe | None = None,
    program: Path | str = "rsync",
    walks: Sandbox | None = None,
    codes_done: Iterable[int] = (),
) -> RsyncHandler:
    """Return a handler that runs rsync (or a `program` that does) for a bench."""
    return RsyncHandler(
        [ARGUMENTS_MACRO, b"./", os.fsencode(target) + b"/"],
        target=Target(os.fsencode(target)),
        recipe=recipe or Recipe(),
        program=os.fsencode(program),
        environment={os.fsencode(k): os.fsencode(v) for k, v in {**os.environ, **(environment or {})}.items()},
        destination_check=(lambda: None) if bench.server else bench.trouble,
        walks=walks,
        codes_done=codes_done,
    )


def copy_handler(bench: Bench, **options: Any) -> CopyHandler:
    """Return a copy handler for a bench."""
    path = bytes(bench.destination)
    return CopyHandler(path, capabilities=probe_destination(path), destination_check=bench.trouble, **options)


def local_handler(kind: str, bench: Bench) -> RsyncHandler | CopyHandler:
    """Return one of the `LOCAL` handlers for a bench."""
    if kind == "copy":
        return copy_handler(bench)
    return rsync_handler(bench, str(bench.destination), recipe=Recipe(missing_args=kind != "rsync-flat"))
