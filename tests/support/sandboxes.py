"""Sandboxes of our own processes, made outside a daemon."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from clsync.kernel import sandbox
from clsync.kernel.sandbox import Sandbox
from clsync.options.names import SANDBOX_LAYERS


def usable(make: Callable[[], Sandbox | None]) -> Sandbox:
    """Return a sandbox with all layers that can be had here; skip the test where there are none."""
    before = sandbox.usable()
    sandbox.use(frozenset(layer for layer in SANDBOX_LAYERS if not sandbox.trouble_with(layer)))
    try:
        made = make()
    finally:
        sandbox.use(before)
    if made is None:
        pytest.skip("no sandbox can be had here")
    return made
