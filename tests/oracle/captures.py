"""Where captures of clsync 0.4 are kept, and how one is made."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

from tests.oracle.modes import Mode
from tests.oracle.normal import Capture, normal
from tests.oracle.play import OLD, Program, play
from tests.oracle.scenarios import Scenario

VERSION = "0.4.5"
"""The version whose captures ours is compared with."""
_PLACE = Path(__file__).with_name("captures")


def installed_version() -> str | None:
    """Return the version of clsync 0.4 on this machine; None where there is none."""
    if not os.access(OLD.path, os.X_OK):
        return None
    said = subprocess.run([OLD.path, "-V"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    found = re.search(r"clsync v?([0-9]+\.[0-9.]*[0-9])", (said.stdout + said.stderr).decode("utf-8", "replace"))
    return found[1] if found is not None else None


def capture_path(mode: Mode, scenario: Scenario, version: str = VERSION) -> Path:
    """Return the file of a capture."""
    return _PLACE / version / mode.name / f"{scenario.file_name}.json"


def stored(mode: Mode, scenario: Scenario) -> Capture:
    """Return what clsync 0.4 gave its handler."""
    capture: Capture = json.loads(capture_path(mode, scenario).read_text())
    return capture


def made(program: Program, mode: Mode, scenario: Scenario, top: Path) -> Capture:
    """Run a program, in a directory of its own below `top`; return what it gave its handler."""
    played = play(program, mode, scenario, top / f"{mode.name}-{scenario.file_name}-{program.name}")
    if program is OLD and played.code is not None and played.code < 0:
        return made(program, mode, scenario, top)  # it crashes at its end now and then
    return normal(played, mode, scenario)
