"""How long a program may stand still."""

from __future__ import annotations

import asyncio
import os
import sys

from clsync.handler.runner import Runner

_WAITS = b"import select; select.poll().poll(2000)"
"""Waits for nobody, as an rsync that stands still or hears nothing from a busy host, and ends then."""


def test_a_far_program_is_given_more_time_until_one_ends_by_itself() -> None:
    runner = Runner(patience=0.3, far=True)
    root = os.open("/", os.O_RDONLY)

    async def stood_still() -> bool:
        return (await runner.run([os.fsencode(sys.executable), b"-c", _WAITS], cwd=root, env=os.environb)).stood_still

    async def tries() -> list[bool]:
        found = [await stood_still()]
        while found[-1] and len(found) < 10:
            found.append(await stood_still())
        return [*found, await stood_still()]

    try:
        found = asyncio.run(tries())
    finally:
        os.close(root)
    assert found[0]
    assert len(found) > 3, "the patience grew at once"
    assert not found[-2], "it did not grow"
    assert found[-1], "it did not begin anew"
