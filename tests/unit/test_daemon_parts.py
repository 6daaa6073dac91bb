"""Parts of the daemon that can be looked at alone: messages, the course of a run, the settling of a batch."""

from __future__ import annotations

import asyncio
import errno
import threading
from pathlib import Path
from typing import cast

import pytest

from clsync.core.batch import FORCE, LINKED, REGULAR, Batch, Outcome, Verdict
from clsync.core.changes import ATTRIB, CONTENT, DOUBT, NAME
from clsync.core.classify import CHANGE_SHIFT
from clsync.core.rules import Rules
from clsync.daemon.access import DirectAccess
from clsync.daemon.course import Course
from clsync.daemon.crew import Crew
from clsync.daemon.dump import State
from clsync.daemon.exhaustion import told_of_limits
from clsync.daemon.files import SmallFile
from clsync.daemon.log import ERROR, INFO, WARNING, Log
from clsync.daemon.mirror import Mirror
from clsync.daemon.plan import Plan
from clsync.daemon.resolve import Resolved, bits_of
from clsync.daemon.run import _dump
from clsync.daemon.target import Target
from clsync.errors import Exit, OperatorError
from clsync.handler.base import Handler
from clsync.handler.rsync.recipe import Recipe
from clsync.options import load


@pytest.mark.parametrize(
    ("level", "said"),
    [
        (0, []),
        (ERROR, ["Error: e; do this"]),
        (WARNING, ["Error: e; do this", "Warning: w"]),
        (INFO, ["Error: e; do this", "Warning: w", "Info: i"]),
    ],
)
@pytest.mark.parametrize("output", ["stderr", "stdout"])
def test_messages_up_to_a_level(capfd: pytest.CaptureFixture[str], level: int, said: list[str], output: str) -> None:
    log = Log(output, level)
    log.error("e", "do this")
    log.warning("w")
    log.info("i")
    log.debug(1, "never")
    log.progress("only for somebody who watches")
    captured = capfd.readouterr()
    lines = {"stderr": captured.err, "stdout": captured.out}
    assert lines.pop(output).splitlines() == said
    assert list(lines.values()) == [""]


def test_debug_messages(capfd: pytest.CaptureFixture[str]) -> None:
    log = Log(debug=2)
    for level in (1, 2, 3):
        log.debug(level, "text")
    log.progress("shown")
    first, second, progress = capfd.readouterr().err.splitlines()
    assert first.startswith("Debug1 (pid: ")
    assert second.startswith("Debug2 (pid: ")
    assert second.endswith("): text")
    assert progress == "Info: shown"
    Log(level=0, debug=3).debug(1, "quiet")
    assert capfd.readouterr().err == ""


def test_what_is_no_text_can_be_said(capfd: pytest.CaptureFixture[str]) -> None:
    Log().info("\udcff")
    assert capfd.readouterr().err == "Info: \\udcff\n"


@pytest.mark.parametrize(
    ("course", "ends", "tries"),
    [
        (Course(), False, 0),
        (Course(retries=5), False, 5),
        (Course(retries=5, ignore_failures=True), False, 0),
        (Course(only_initial=True), True, 3),
        (Course(exit_on_no_events=True), True, 3),
        (Course(max_iterations=2), True, 3),
        (Course(max_iterations=2, ignore_failures=True), True, 3),
        (Course(max_iterations=2, retries=1), True, 1),
        (Course(only_initial=True, retries=0), True, 0),
    ],
)
def test_how_often_a_failing_path_is_tried(course: Course, ends: bool, tries: int) -> None:
    assert (course.meant_to_end, course.tries) == (ends, tries)


# -- settling --------------------------------------------------------------------------------------------------


@pytest.fixture
def target() -> Target:
    made = Target(Log(level=0))
    made.big_delay = 10.0
    return made


def settled(target: Target, changes: dict[bytes, int], entries: dict[bytes, int], outcome: Outcome) -> None:
    target.dirty.add(changes.items(), 100.0)
    target.settle(target.dirty.take(), Resolved(entries, 0), outcome, 200.0)


def test_what_fails_for_its_name_alone_is_no_reason_to_give_up(target: Target) -> None:
    entries = {b"a\n": REGULAR, b"b": REGULAR}
    changes = dict.fromkeys(entries, CONTENT)
    for times in (1, 2):
        settled(target, changes, entries, Outcome(Verdict.PARTIAL, {b"a\n": "no"}, frozenset([b"a\n"])))
        assert (target.worst(hopeless=False), target.worst(hopeless=True)) == (0, times)
        target.dirty.hurry()
    settled(target, changes, entries, Outcome(Verdict.PARTIAL, {b"a\n": "another reason"}))
    assert target.worst(hopeless=False) == 3


def test_what_is_done_is_clean(target: Target) -> None:
    settled(target, {b"a": CONTENT}, {b"a": REGULAR}, Outcome(Verdict.DONE))
    assert not target.pending()


def test_an_unwell_target_keeps_everything_and_rests(target: Target) -> None:
    for times in (1, 2):
        settled(
            target, {b"a": CONTENT}, {b"a": REGULAR, b"b": LINKED}, Outcome(Verdict.UNWELL, message="no", code=12)
        )
        assert target.dirty.ready.keys() == {b"a", b"b"}
        assert (target.worst(hopeless=True), target.code, target.failing()) == (times, 12, {b"": "no"})
    due = target.next_at(0.0, hurry=True)
    assert due is not None
    assert due >= target.unwell_until > 0


def test_only_what_failed_waits(target: Target) -> None:
    outcome = Outcome(Verdict.PARTIAL, {b"a": "no"}, code=23)
    settled(target, {b"a": CONTENT, b"b": CONTENT}, {b"a": REGULAR, b"b": REGULAR}, outcome)
    assert (target.dirty.ready, target.failing(), target.worst(hopeless=True), target.code) == (
        {},
        {b"a": "no"},
        1,
        23,
    )
    target.dirty.hurry()
    assert target.dirty.ready.keys() == {b"a"}


def test_what_failed_together_is_tried_again_together(target: Target) -> None:
    """At one time, though times are drawn by lot: as many runs as files would never come to an end."""
    paths = [b"%d" % number for number in range(30)]
    outcome = Outcome(Verdict.PARTIAL, dict.fromkeys(paths, "no"), code=23)
    for _ in range(3):
        settled(target, dict.fromkeys(paths, CONTENT), dict.fromkeys(paths, REGULAR), outcome)
        at = target.dirty.next_ripe()
        assert at is not None
        assert target.dirty.ripen(at) == set(paths)


def test_a_failure_below_a_directory_is_tried_again_by_content(target: Target) -> None:
    """Its own change may have been of attributes only: the directory asked for more."""
    outcome = Outcome(Verdict.PARTIAL, {b"d/a": "no"})
    settled(target, {b"d": NAME, b"d/a": ATTRIB}, {b"d": FORCE}, outcome)
    target.dirty.hurry()
    assert target.dirty.ready[b"d/a"] & NAME


def test_what_is_to_be_done_again_keeps_its_doubt(target: Target) -> None:
    settled(target, {b"d": DOUBT}, {b"d": DOUBT << CHANGE_SHIFT}, Outcome(Verdict.PARTIAL, again=frozenset([b"d"])))
    assert target.dirty.ready == {b"d": DOUBT}
    assert target.dirty.doubts == {b"d": 100.0}


def test_bits_of_an_entry() -> None:
    assert bits_of(REGULAR) == ATTRIB
    assert bits_of(REGULAR | FORCE) == CONTENT
    assert bits_of(REGULAR | FORCE | ATTRIB << CHANGE_SHIFT) == CONTENT | ATTRIB


# -- recipes ---------------------------------------------------------------------------------------------------


def test_the_recipe_for_lists() -> None:
    arguments = Recipe().listed()
    assert {b"-aH", b"-r", b"--delete", b"--delete-missing-args", b"--force", b"--files-from=-"} <= set(arguments)
    assert {b"--from0", b"--modify-window=-1", b"--numeric-ids"} <= set(arguments)
    assert b"--ignore-times" not in arguments
    assert set(Recipe().listed(force=True)) - set(arguments) == {b"--ignore-times"}


def test_bounded_and_flat_lists_recurse_nowhere() -> None:
    assert b"-r" not in Recipe().bounded().listed()
    flat = Recipe().flat().listed()
    assert not {b"-r", b"-aH", b"--delete-missing-args"} & set(flat)
    assert b"-lptgoDHd" in flat
    assert b"--delete" in flat


def test_looking_for_deletions_changes_nothing() -> None:
    assert {b"-n", b"-i", b"-8", b"--ignore-errors"} <= set(Recipe().deletions())


def test_what_is_asked_for_is_in_every_run() -> None:
    recipe = Recipe(acls=True, xattrs=True, one_file_system=2, lacking=(b"--no-owner",), connection=(b"-e", b"ssh"))
    for arguments in (recipe.whole_tree(), recipe.listed(), recipe.flat().listed(), recipe.deletions()):
        assert b"-AXxx" in arguments
        assert b"--no-owner" in arguments
        assert arguments[arguments.index(b"-e") + 1] == b"ssh"
    assert not any(a.startswith(b"-A") for a in Recipe().listed())


# -- what may take long ----------------------------------------------------------------------------------------


class _Quick:
    """A handler that does nothing."""

    rules = None

    async def open(self) -> None:
        return

    async def sync(self, batch: Batch) -> Outcome:
        return Outcome(Verdict.DONE)


def _direct_access() -> DirectAccess:
    return DirectAccess(SmallFile(None, "status-file"), Log(level=0))


def test_other_things_go_on_while_a_handler_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks at the destination, which may hang."""
    answered = threading.Event()
    made = Plan(load([b"-W/", b"-D/"], {}, lambda name: None, 1), Log(level=0), b"/", None, Rules(), 0.0, 0)

    def make(made: Plan) -> Handler:
        assert answered.wait(10), "the event loop has stood still"
        return cast(Handler, _Quick())

    monkeypatch.setattr("clsync.daemon.access.make_handler", make)

    async def story() -> None:
        crew = Crew(cast(Handler, _Quick()), lambda: _direct_access().new_handler(made), 2)
        crew._free.clear()  # the first one is at work
        batch = asyncio.create_task(crew.sync(Batch(1, {}, -1)))
        await asyncio.sleep(0.01)
        answered.set()
        assert (await batch).verdict is Verdict.DONE

    asyncio.run(story())


def test_other_things_go_on_while_a_dump_is_written(tmp_path: Path) -> None:
    queue = {b"d%d/f%d" % (n // 100, n): CONTENT for n in range(100_000)}

    class Big:
        async def states(self) -> list[State]:
            return [State("running", [], (queue, {}, {}, {}), {}, "", False)]

    async def story() -> int:
        dump = asyncio.create_task(
            _dump(cast(Mirror, Big()), bytes(tmp_path / "dump"), _direct_access(), Log(level=0))
        )
        turns = 0
        while not dump.done():
            await asyncio.sleep(0.001)
            turns += 1
        return turns

    assert asyncio.run(story()) > 5
    assert len((tmp_path / "dump/queue/0").read_text().splitlines()) == len(queue)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "no more processes and threads can be started"),
        ((b"--cgroup-pids=9",), "--cgroup-pids=9: no more processes and threads can be started"),
    ],
)
@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), BlockingIOError(errno.EAGAIN, "busy")])
def test_what_cannot_be_started_is_told(error: Exception, options: tuple[bytes, ...], message: str) -> None:
    settings = load([b"-W/src", b"-D/dst", *options], {}, lambda name: None)
    with pytest.raises(OperatorError) as caught, told_of_limits(settings):
        raise error
    assert (caught.value.message, caught.value.code) == (message, Exit.PRIVILEGE)


@pytest.mark.parametrize("error", [RuntimeError("another"), BlockingIOError(errno.EINPROGRESS, "going on")])
def test_defects_stay_what_they_are(error: Exception) -> None:
    settings = load([b"-W/src", b"-D/dst"], {}, lambda name: None)
    with pytest.raises(type(error)) as caught, told_of_limits(settings):
        raise error
    assert caught.value is error
