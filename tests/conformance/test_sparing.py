"""A batch that would delete too much deletes nothing; whatever else it has to do is done."""

from __future__ import annotations

import shutil

import pytest

from clsync.core.batch import Verdict
from clsync.core.rules import Rules
from tests.conformance.test_handlers import bench, exact, rsync_host, ssh_host
from tests.support.bench import EVERYTHING, Bench

__all__ = ["bench", "rsync_host", "ssh_host"]

EXTRA = ("extra", "old/1", "old/deep/2", "kept/3")
RULED = pytest.mark.parametrize("rules", [None, Rules.parse(b"-f\\.bak$\n", "rules")], ids=["", "rules"])


def filled(bench: Bench, rules: Rules | None) -> None:
    """Fill both sides: four files are at the destination alone."""
    bench.handler.rules = rules
    for name in ("file", "kept/file"):
        bench.write(name, "new")
    for name in EXTRA:
        bench.write_there(name, "precious")
    bench.write_there("file", "before")


def left(bench: Bench) -> list[str]:
    """Return which of them are still there."""
    return [name for name in EXTRA if (bench.destination / name).exists()]


@exact
@RULED
def test_too_much_is_spared(bench: Bench, rules: Rules | None) -> None:
    filled(bench, rules)
    outcome = bench.hand_over(EVERYTHING, initial=True, most_deletions=3)
    assert outcome.verdict is Verdict.DONE, outcome
    assert outcome.spared >= 4
    assert left(bench) == list(EXTRA)
    assert (bench.destination / "file").read_text() == "new"
    assert (bench.destination / "kept/file").read_text() == "new"
    assert bench.hand_over(EVERYTHING).spared == 0
    bench.equal()


@exact
@RULED
def test_what_is_not_too_much_goes(bench: Bench, rules: Rules | None) -> None:
    filled(bench, rules)
    outcome = bench.hand_over(EVERYTHING, initial=True, most_deletions=10)
    assert (outcome.verdict, outcome.spared) == (Verdict.DONE, 0), outcome
    bench.equal()


@exact
@RULED
def test_nothing_to_delete(bench: Bench, rules: Rules | None) -> None:
    bench.handler.rules = rules
    bench.write("a/file")
    outcome = bench.hand_over(EVERYTHING, initial=True, most_deletions=0)
    assert (outcome.verdict, outcome.spared) == (Verdict.DONE, 0), outcome
    bench.equal()


@exact
def test_a_directory_that_stands_where_a_file_is_to_be(bench: Bench) -> None:
    """It is spared with all the rest, or makes way: never is it a failure."""
    filled(bench, None)
    shutil.rmtree(bench.source / "kept")
    bench.write("kept", "a file now")
    outcome = bench.hand_over(EVERYTHING, initial=True, most_deletions=3)
    assert not outcome.failed
    assert outcome.spared >= 3
    assert left(bench)[:3] == list(EXTRA[:3])
    assert outcome.again <= {b"kept"}
    assert bool(outcome.again) == (bench.destination / "kept").is_dir()
    assert bench.sync(dict.fromkeys(outcome.again, 2)).verdict is Verdict.DONE
    assert (bench.destination / "kept").read_text() == "a file now"
    assert left(bench) == list(EXTRA[:3])
