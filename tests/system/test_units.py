"""The units for systemd: it understands them, and what it says of how much they leave open."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.daemon import installed
from tests.support.environment import INHERITED

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")

UNITS = Path(__file__).parents[2] / "systemd"
HARDENED = 60
"""Tenths of the exposure level that systemd-analyze gives at most to a service with the drop-in."""


def analyzed(units: Path, *words: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze with the units in a directory, and those that systemd brings."""
    others = "/usr/lib/systemd/user" if "--user" in words else "/lib/systemd/system"
    path = {"SYSTEMD_UNIT_PATH": f"{units}:{others}", **(env or {})}
    return subprocess.run(
        ["systemd-analyze", *words],
        env={**INHERITED, **path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def unit(directory: Path, source: Path, name: str) -> Path:
    """Write a unit as an instance, with the program where it is installed here."""
    path = directory / name
    path.write_text(source.read_text().replace("ExecStart=clsync ", f"ExecStart={installed()} "))
    return path


@pytest.mark.parametrize("hardened", [False, True])
def test_the_unit_of_the_system(tmp_path: Path, hardened: bool) -> None:
    """It is understood without and with the drop-in, which closes a good part of what is open."""
    made = unit(tmp_path, UNITS / "clsync@.service", "clsync@x.service")
    if hardened:
        (tmp_path / "clsync@x.service.d").mkdir()
        shutil.copy(UNITS / "clsync-hardened.conf", tmp_path / "clsync@x.service.d")
    done = analyzed(tmp_path, "verify", "--man=no", str(made))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    level = analyzed(tmp_path, "security", "--offline=true", f"--threshold={HARDENED}", made.name)
    assert (level.returncode == 0) == hardened, level.stdout + level.stderr


def test_the_unit_of_a_user(tmp_path: Path) -> None:
    made = unit(tmp_path, UNITS / "user/clsync@.service", "clsync@x.service")
    done = analyzed(tmp_path, "--user", "verify", "--man=no", str(made), env={"XDG_RUNTIME_DIR": str(tmp_path)})
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_mistake_would_be_seen(tmp_path: Path) -> None:
    made = unit(tmp_path, UNITS / "clsync@.service", "clsync@x.service")
    made.write_text(made.read_text().replace("Type=exec", "Type=exactly"))
    done = analyzed(tmp_path, "verify", "--man=no", str(made))
    assert "exactly" in done.stderr
