"""The index of the faults of clsync 0.4: complete, and every test that it names is there."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from clsync.options.table import LATER

TESTS = Path(__file__).resolve().parents[1]
FAULTS = 57
"""How many are known."""
_KEYS = {"number", "name", "was", "tests"}
_LATER_KEYS = {"later", "options", "missing"}

Fault = dict[str, Any]


def index() -> list[Fault]:
    """Return the faults of old_faults.toml."""
    found = tomllib.loads((TESTS / "old_faults.toml").read_text())["fault"]
    assert isinstance(found, list)
    return found


@cache
def functions(file: str) -> frozenset[str]:
    """Return the tests of a file below tests/; nothing where there is no such file."""
    path = TESTS / file
    tree = ast.parse(path.read_text()) if path.is_file() else ast.Module([], [])
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def faulty(fault: Fault, lacking: Collection[str] = LATER) -> Iterator[str]:
    """Yield what is wrong with an entry; `lacking`: options that there are none of yet."""
    later = "later" in fault
    if fault.keys() != (_KEYS | _LATER_KEYS if later else _KEYS):
        yield f"keys: {sorted(fault)}"
        return
    for key in ("name", "was", *(("missing",) if later else ())):
        if not fault[key]:
            yield f"{key} says nothing"
    if not fault["tests"] and not later:
        yield "no test, and nothing that it waits for"
    if later and (fault["later"] is not True or not fault["options"]):
        yield "later, and no option that it waits for"
    for option in fault.get("options", ()):
        if option not in lacking:
            yield f"--{option} is no option that is missing: name a test for {fault['missing']}"
    for test in fault["tests"]:
        file, _, name = test.partition("::")
        if not name.startswith("test_") or name not in functions(file):
            yield f"there is no test {test}"


@pytest.mark.parametrize("fault", index(), ids=lambda fault: str(fault["number"]))
def test_every_fault_has_its_tests_or_waits_for_an_option(fault: Fault) -> None:
    assert list(faulty(fault)) == []


def test_none_is_left_out_or_told_twice() -> None:
    assert [fault["number"] for fault in index()] == list(range(1, FAULTS + 1))
    assert len({fault["name"] for fault in index()}) == FAULTS


GOOD: Fault = {
    "number": 1,
    "name": "n",
    "was": "w",
    "tests": ["unit/test_old_faults.py::test_none_is_left_out_or_told_twice"],
}
WAITING: Fault = {**GOOD, "tests": [], "later": True, "options": ["chroot"], "missing": "m"}


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        (
            {**GOOD, "tests": ["unit/test_old_faults.py::test_nothing"]},
            "there is no test unit/test_old_faults.py::test_nothing",
        ),
        ({**GOOD, "tests": ["unit/test_nowhere.py::test_x"]}, "there is no test unit/test_nowhere.py::test_x"),
        ({**GOOD, "tests": ["unit/test_old_faults.py::index"]}, "there is no test unit/test_old_faults.py::index"),
        ({**GOOD, "tests": []}, "no test, and nothing that it waits for"),
        ({**GOOD, "was": ""}, "was says nothing"),
        ({**GOOD, "more": 1}, "keys: ['more', 'name', 'number', 'tests', 'was']"),
        ({**WAITING, "options": []}, "later, and no option that it waits for"),
        ({**WAITING, "later": False}, "later, and no option that it waits for"),
        ({**WAITING, "options": ["watch-dir"]}, "--watch-dir is no option that is missing: name a test for m"),
    ],
)
def test_what_an_entry_may_lack_is_noticed(fault: Fault, what: str) -> None:
    assert list(faulty(fault, ["chroot"])) == [what]


def test_an_option_that_comes_asks_for_its_test() -> None:
    assert list(faulty(GOOD)) == []
    assert list(faulty(WAITING, ["chroot"])) == []
    assert list(faulty(WAITING, [])) == ["--chroot is no option that is missing: name a test for m"]
