"""What is remembered of what was handed over."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from clsync.core.signature import Signatures

SETTLED = 100
PATH = b"file"


def found(size: int, changed: int = 50) -> SimpleNamespace:
    """Return what lstat finds."""
    return SimpleNamespace(st_size=size, st_ctime_ns=changed, st_ino=1, st_dev=1)


@pytest.mark.parametrize("leaves_alone", [True, False])
def test_what_has_rested_is_known(leaves_alone: bool) -> None:
    signatures = Signatures(["size"], leaves_alone=leaves_alone)
    before = signatures.of(found(3))
    assert not signatures.unchanged(PATH, before)
    signatures.confirm(PATH, before, found(3), SETTLED)
    assert signatures.unchanged(PATH, signatures.of(found(3, 200)))
    assert not signatures.unchanged(PATH, signatures.of(found(4)))
    signatures.forget([PATH])
    assert not signatures.unchanged(PATH, before)


@pytest.mark.parametrize("leaves_alone", [True, False])
@pytest.mark.parametrize("after", [found(3, 120), found(4, 120), None])
def test_what_changed_on_its_way_is_not(leaves_alone: bool, after: SimpleNamespace | None) -> None:
    signatures = Signatures(["size"], leaves_alone=leaves_alone)
    before = signatures.of(found(3))
    signatures.confirm(PATH, before, after, SETTLED)
    assert not signatures.unchanged(PATH, before)


def test_what_had_just_changed_may_have_changed_again_within_a_tick_of_the_clock() -> None:
    signatures = Signatures(["size"])
    signatures.confirm(PATH, signatures.of(found(3, SETTLED)), found(3, SETTLED), SETTLED)
    assert not signatures.unchanged(PATH, signatures.of(found(3)))


@pytest.mark.parametrize("leaves_alone", [True, False])
def test_a_handler_that_changes_what_it_is_given_is_believed_the_second_time(leaves_alone: bool) -> None:
    signatures = Signatures(["size"], leaves_alone=leaves_alone)
    for changed in (120, 220):
        before = signatures.of(found(3, changed - 20))
        signatures.confirm(PATH, before, found(3, changed), changed)
    assert signatures.unchanged(PATH, signatures.of(found(3, 220))) is not leaves_alone
