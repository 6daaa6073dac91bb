"""The units for systemd: it understands them, and what it says of how much they leave open."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.daemon import installed
from tests.support.environment import INHERITED

UNITS = Path(__file__).parents[2] / "systemd"
HARDENED = 60
"""Tenths of the exposure level that systemd-analyze gives at most to a service with the drop-in."""
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


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


@needs_systemd
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


@pytest.mark.parametrize("options", [(), ("--chroot=/", "--nice=-5", "--io-class=realtime"), ("--secure-splitting",)])
def test_the_drop_in_leaves_what_options_need(options: tuple[str, ...]) -> None:
    """What it takes from the capabilities of root changes nothing of the plan, and nothing is missed."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    text = (UNITS / "clsync-hardened.conf").read_text()
    left = [
        name for line in text.splitlines() if line.startswith("CapabilityBoundingSet=") for name in line[22:].split()
    ]
    plain, narrow = (dry_run(head, *options) for head in ([], limited_to(left)))
    assert "clsync, the broker" in plain
    assert [line for line in narrow.splitlines() if "capabilities:" not in line] == [
        line for line in plain.splitlines() if "capabilities:" not in line
    ]


def limited_to(names: list[str]) -> list[str]:
    """Return what starts a program with no capabilities but these."""
    kept = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in names)
    return ["setpriv", f"--bounding-set=-all,{kept}", "--inh-caps=-all", "--"]


def dry_run(head: list[str], *options: str) -> str:
    """Return the plan of a start."""
    with tempfile.TemporaryDirectory() as source, tempfile.TemporaryDirectory() as destination:
        argv = [*head, installed(), f"-W{source}", f"-D{destination}", "--config-file=/NULL/", "--dry-run", *options]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        text = done.stdout.replace(source, "SOURCE").replace(destination, "DESTINATION")
        return re.sub(r"clsync/\d+", "GROUP", text)


@needs_systemd
def test_the_unit_of_a_user(tmp_path: Path) -> None:
    made = unit(tmp_path, UNITS / "user/clsync@.service", "clsync@x.service")
    done = analyzed(tmp_path, "--user", "verify", "--man=no", str(made), env={"XDG_RUNTIME_DIR": str(tmp_path)})
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
def test_a_mistake_would_be_seen(tmp_path: Path) -> None:
    made = unit(tmp_path, UNITS / "clsync@.service", "clsync@x.service")
    made.write_text(made.read_text().replace("Type=exec", "Type=exactly"))
    done = analyzed(tmp_path, "verify", "--man=no", str(made))
    assert "exactly" in done.stderr
