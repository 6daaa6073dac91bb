"""What is deleted at a local destination by clsync itself, before rsync runs by rules."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clsync.core.rules import Rules
from clsync.handler.rsync.clearing import Clearing, Stopped
from clsync.kernel.files import opened

RULES = Rules.parse(b"-*\\.skip(/|$)\n", "rules")


def plant(top: Path, *names: str) -> None:
    """Write files."""
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(name)


def left(top: Path) -> set[str]:
    """Return what stands there that is no directory."""
    return {os.fspath(path.relative_to(top)) for path in top.rglob("*") if path.is_symlink() or not path.is_dir()}


def clear(top: Path, *paths: bytes, spared: tuple[bytes, ...] = (), stopping: bool = False) -> dict[bytes, str]:
    """Clear paths; return what could not be removed."""
    with opened(bytes(top)) as root:
        clearing = Clearing(root, RULES, spared, lambda: stopping)
        clearing.clear(paths)
    return clearing.failed


def test_what_rules_protect_stays_with_the_directories_that_hold_it(tmp_path: Path) -> None:
    plant(tmp_path, "d/a", "d/e/b", "d/e/x.skip", "f", "g.skip", "h.skip/a")
    assert clear(tmp_path, b"d", b"f", b"g.skip", b"h.skip", b"none", b"d/none/below") == {}
    assert left(tmp_path) == {"d/e/x.skip", "g.skip", "h.skip/a"}


def test_directories_that_are_spared_stay_whatever_rules_say(tmp_path: Path) -> None:
    plant(tmp_path, "d/mnt/a", "d/b", "e/b")
    assert clear(tmp_path, b"d", b"e", spared=(b"d/mnt",)) == {}
    assert left(tmp_path) == {"d/mnt/a"}
    assert not (tmp_path / "e").exists()


def test_no_symlink_is_followed(tmp_path: Path) -> None:
    plant(tmp_path, "outside/a", "top/d/b")
    (tmp_path / "top/d/link").symlink_to(tmp_path / "outside")
    (tmp_path / "top/way").symlink_to(tmp_path / "outside")
    assert clear(tmp_path / "top", b"d", b"way/a") == {}
    assert left(tmp_path) == {"outside/a", "top/way"}


def test_it_ends_when_it_is_told_to(tmp_path: Path) -> None:
    plant(tmp_path, "a")
    with pytest.raises(Stopped):
        clear(tmp_path, b"a", stopping=True)
    assert left(tmp_path) == {"a"}
