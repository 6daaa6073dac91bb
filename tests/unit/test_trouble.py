"""Kinds of trouble of a target, and what is said of it."""

from __future__ import annotations

import pytest

from clsync.core.batch import Outcome, Verdict
from clsync.core.changes import CONTENT
from clsync.core.trouble import BACKOFFS, Trouble, kind_of
from clsync.daemon.log import Log
from clsync.daemon.resolve import Resolved
from clsync.daemon.target import Target


@pytest.mark.parametrize(
    ("message", "code", "kind"),
    [
        ("ssh: connect to host web port 22: Connection refused", 255, Trouble.CONNECTION),
        ("rsync: connection unexpectedly closed (0 bytes received so far) [sender]", 12, Trouble.CONNECTION),
        ("the run ended", 30, Trouble.CONNECTION),
        ("ssh: Could not resolve hostname web", 255, Trouble.CONNECTION),
        ('rsync: [receiver] write failed on "/m/f": No space left on device (28)', 11, Trouble.SPACE),
        ("[receiver] mkstemp failed: Disk quota exceeded (122)", 23, Trouble.SPACE),
        ("@ERROR: auth failed on module data", 5, Trouble.REFUSAL),
        ("root@web: Permission denied (publickey).", 255, Trouble.REFUSAL),
        ("mkdir failed: Read-only file system (30)", 11, Trouble.REFUSAL),
        ("destination /m: another directory stands there now (unmounted, or moved away)", 0, Trouble.ABSENCE),
        ("something else", 1, Trouble.OTHER),
    ],
)
def test_kinds(message: str, code: int, kind: Trouble) -> None:
    assert kind_of(message, code) is kind


def test_each_kind_has_a_back_off() -> None:
    assert BACKOFFS.keys() == set(Trouble)


def test_a_change_of_state_is_told_once(capfd: pytest.CaptureFixture[str]) -> None:
    target = Target(Log(level=3), "web")

    def batch(outcome: Outcome) -> None:
        target.dirty.add([(b"file", CONTENT)], 100.0)
        target.settle(target.dirty.take(), Resolved({b"file": 0}, 0), outcome, 100.0)

    for number in range(5):
        batch(Outcome(Verdict.UNWELL, message=f"Connection refused by port {number}", code=255))
    for number in range(5):
        batch(Outcome(Verdict.UNWELL, message=f"No space left on device: {number} bytes", code=11))
    batch(Outcome(Verdict.DONE))
    batch(Outcome(Verdict.DONE))
    batch(Outcome(Verdict.UNWELL, message="Connection refused", code=255))
    lines = capfd.readouterr().err.splitlines()
    told = [line.partition(";")[0] for line in lines]
    assert told == [
        "Error: web: Connection refused by port 0",
        "Error: web: No space left on device: 0 bytes",
        "Info: target web can be used again",
        "Error: web: Connection refused",
    ]
