"""What docs/security.md says is shown by a test is shown by one that there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from clsync.privilege import profiles
from clsync.privilege.seccomp import ALLOWED, ANYWHERE, CONDITIONS
from clsync.privilege.seccomp import NEVER as _NEVER
from tests.fuzz.corpus import TARGETS

NEVER = frozenset(_NEVER)

_TOP = Path(__file__).parents[2]
_TEXT = (_TOP / "docs" / "security.md").read_text()
_QUOTED = sorted(set(re.findall(r"`([^`]+)`", _TEXT)))
_SOURCES = "\n".join(path.read_text() for path in (_TOP / "tests").rglob("*.py"))


@pytest.mark.parametrize("name", [word for word in _QUOTED if re.fullmatch(r"test_\w+", word)])
def test_tests_are_there(name: str) -> None:
    assert f"def {name}(" in _SOURCES


@pytest.mark.parametrize("name", [word for word in _QUOTED if re.fullmatch(r"[\w/]+\.py", word)])
def test_files_are_there(name: str) -> None:
    assert (_TOP / "tests" / name).exists() or (_TOP / "src" / "clsync" / name).exists()


def test_targets_are_those_that_there_are() -> None:
    inputs = _TEXT[_TEXT.index("## Fuzzed") : _TEXT.index("## Not protected")]
    told = {name for line in inputs.splitlines() if line.startswith("| ") for name in re.findall(r"`([\w-]+)`", line)}
    # Those that take root are told as well.
    assert told >= set(TARGETS)
    assert {name for name in told - set(TARGETS) if not name.startswith("fanotify")} == set()


def test_system_calls_are_counted() -> None:
    """The worker's numbers, and those of what is started."""
    begin = _TEXT.index("### System calls of each process")
    rows = [
        line.split(" | ") for line in _TEXT[begin : _TEXT.index("### Layers")].splitlines() if line.startswith("| ")
    ]
    told = {row[0].removeprefix("| "): [int(number) for number in re.findall(r"\d+", row[1])] for row in rows}
    local = len(NEVER - profiles.NEEDED_BY_RSYNC | {"socket"})
    assert told["worker"] == [len(NEVER) + len(ANYWHERE)]
    logs = "worker whose messages go to the system log (`--output=syslog`, `--background`)"
    assert told[logs] == [len(NEVER)]
    mute = len({*ALLOWED} - {*ANYWHERE, "socketpair"})
    assert told["worker, `--seccomp-filter`"] == [mute, len(CONDITIONS), len({*ALLOWED})]
    assert told["rsync, to a local directory"] == [local]
    assert told["rsync, elsewhere; ssh"] == [local - 1]
    looking = "scanners of the state, processes that compare, or list what rules permit"
    assert told[looking] == [len(NEVER | {"socket"})]
    assert told["searches for names"] == [len(NEVER | {"socket"})]
    assert told["processes of mode copy, those that delete or rename for another user"] == [
        len(NEVER - profiles.NEEDED_BY_COPIES | {"socket"})
    ]
    assert not NEVER & {*ALLOWED, *CONDITIONS}


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)\)", _TEXT))
def test_links_lead_somewhere(link: str) -> None:
    assert (_TOP / "docs" / link).exists()
