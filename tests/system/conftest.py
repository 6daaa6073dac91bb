"""What the system tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Return an empty source and an empty destination."""
    return World(tmp_path)
