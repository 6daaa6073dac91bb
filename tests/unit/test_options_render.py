"""The manual page, the list of options and the completions: current, and accepted by the programs that read them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from clsync.errors import Exit
from clsync.options import render, roff
from clsync.options.completion import bash, zsh
from clsync.options.manual import EXIT_TEXTS, manual
from clsync.options.migration import migration
from clsync.options.reference import reference
from clsync.options.table import LATER, MONITORS, OPTIONS, RETIRED
from clsync.options.values import written

TOP = Path(__file__).resolve().parents[2]
SECTIONS = (
    "NAME",
    "SYNOPSIS",
    "DESCRIPTION",
    "OPTIONS",
    "MODES",
    "HANDLER ARGUMENTS AND MACROS",
    "RULES",
    "CONFIGURATION",
    "CONTROL",
    "VERIFY",
    "PRIVILEGES",
    "SPLITTING",
    "SANDBOX",
    "STATE",
    "SIGNALS",
    "FILES",
    "EXIT STATUS",
    "ENVIRONMENT",
    "EXAMPLES",
    "SEE ALSO",
)


def needed(program: str) -> str:
    """Return the path of a program; skip the test without it."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


def test_generated_files_are_current() -> None:
    assert render.stale(TOP) == [], "run make docs"


def test_a_changed_or_missing_file_is_stale_and_written_again(tmp_path: Path) -> None:
    assert sorted(render.write(tmp_path)) == sorted(render.FILES)
    assert render.stale(tmp_path) == []
    (tmp_path / "docs/options.md").write_text("something else")
    (tmp_path / "completions/_clsync").unlink()
    assert sorted(render.stale(tmp_path)) == ["completions/_clsync", "docs/options.md"]
    assert sorted(render.write(tmp_path)) == ["completions/_clsync", "docs/options.md"]
    assert render.write(tmp_path) == []


@pytest.mark.parametrize(("text", "written"), [("a", 0), ("b", 1)])
def test_check_fails_when_something_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, written: int
) -> None:
    (tmp_path / "file").write_text(text)
    monkeypatch.setattr(render, "FILES", {"file": lambda: "a"})
    monkeypatch.setattr("sys.argv", ["render", "--check", "--top", str(tmp_path)])
    assert render.main() == written
    assert ("file" in capsys.readouterr().out) == bool(written)
    assert (tmp_path / "file").read_text() == text


def test_every_option_is_described_everywhere() -> None:
    page = manual()
    for option in OPTIONS:
        assert roff.literal(f"--{option.name}") in page
        assert f"--{option.name}" in reference()
        for make in (bash, zsh):
            assert f"--{option.name}" in make()
    assert all(name in reference() for name in LATER)


def test_the_way_from_clsync_0_4_names_what_is_different_or_missing() -> None:
    rows = [line for line in migration().splitlines() if line.startswith("| `")]
    other = [option for option in OPTIONS if option.old_default is not None]
    assert len(rows) == len(other) > 0
    for row, option in zip(rows, other, strict=True):
        assert f"--{option.name}=" in row
        new, old = written(option.default), written(option.old_default)
        assert new is not None
        assert old is not None
        assert f"| `{new.decode()}` | `{old.decode()}` |" in row
    for name in (*LATER, *(option.name for option in RETIRED)):
        assert f"`--{name}`" in migration()


def test_links_lead_to_files() -> None:
    """In what is written by hand as well."""
    for page in (TOP / "README.md", *(TOP / "docs").rglob("*.md")):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_every_exit_code_is_described() -> None:
    assert EXIT_TEXTS.keys() == set(Exit)
    assert list(EXIT_TEXTS) == sorted(Exit)


# -- the manual page -------------------------------------------------------------------------------------------


def test_the_page_has_its_sections_in_order() -> None:
    headings = [line[5:-1] for line in manual().splitlines() if line.startswith(".SH ")]
    assert headings == list(SECTIONS)


def test_man_has_nothing_to_warn_of() -> None:
    run = subprocess.run(
        [needed("man"), "-l", "--warnings", "-E", "UTF-8", str(TOP / "docs/clsync.1")],
        env=os.environ | {"MANPAGER": "cat", "MAN_KEEP_FORMATTING": "", "LC_ALL": "C.UTF-8", "MANWIDTH": "80"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    # What would vanish if a line were taken for a request, or a character for an escape.
    for text in (r"+f\.txt$", "-f~$", "%RSYNC-ARGS%"):
        assert text in run.stdout


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (
            "see --retries and -S, not a well-known thing",
            r"see \fB\-\-retries\fR and \fB\-S\fR, not a well-known thing",
        ),
        (r"`a-b` \d", r"\fBa\-b\fR \ed"),
        (".not a request", r"\&.not a request"),
        ("'neither", r"\&'neither"),
        ("`.code`", r"\fB.code\fR"),
    ],
)
def test_text_in_roff(text: str, written: str) -> None:
    assert roff.line(text) == written


def test_lines_of_an_example_stay_what_they_are() -> None:
    rows = roff.example(".a\n'b\n~c\\d").splitlines()
    assert rows[3:-2] == [r"\&.a", r"\(aqb", r"\(tic\ed"]


# -- completion ------------------------------------------------------------------------------------------------


def completed(*words: str, cwd: Path = TOP) -> set[str]:
    """Return what bash offers for the last word of a command line, split as readline splits it."""
    script = (
        'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _clsync;'
        ' [[ ${#COMPREPLY[@]} -eq 0 ]] || printf "%s\\n" "${COMPREPLY[@]}"'
    )
    run = subprocess.run(
        [needed("bash"), "--norc", "-c", script, "bash", str(TOP / "completions/clsync.bash"), "clsync", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    return set(run.stdout.splitlines())


def test_bash_offers_options() -> None:
    assert completed("--watch") == {"--watch-dir="}
    named = "mode monitor max-delete max-iterations max-parallel modification-signature mountpoints".split()
    assert completed("--m") == {f"--{name}=" for name in named}
    assert "-W" in completed("-")


@pytest.mark.parametrize("words", [("--monitor", "="), ("--monitor", ""), ("-d", "--monitor", "=", "")])
def test_bash_offers_monitors(words: tuple[str, ...]) -> None:
    assert completed(*words) == set(MONITORS)


def test_bash_offers_the_value_begun() -> None:
    assert completed("--monitor", "=", "fan") == {"fanotify"}
    assert completed("-M", "rsyncd") == {"rsyncdirect"}
    assert completed("-M", "rsync") == {"rsyncdirect", "rsyncshell", "rsyncso"}
    assert completed("--label", "") == set()


def test_bash_offers_commands_and_options_of_ctl(tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    assert completed("ct") == {"ctl"}
    assert completed("do") == {"doctor"}
    assert completed("doctor", "--cgroup-m") == {"--cgroup-memory="}
    assert completed("-d", "ct") == set()
    assert completed("ctl", "st") == {"status", "stop"}
    assert completed("ctl", "status", "--js") == {"--json"}
    assert completed("ctl", "set", "delay-s") == {"delay-sync"}
    assert completed("ctl", "set", "watch-") == set(), "cannot be set"
    assert completed("ctl", "-s", "a", cwd=tmp_path) == {"a file"}
    assert completed("ctl", "--socket", "=", "a", cwd=tmp_path) == {"a file"}


def test_bash_offers_paths(tmp_path: Path) -> None:
    (tmp_path / "a directory").mkdir()
    (tmp_path / "a file").touch()
    assert completed("-W", "a", cwd=tmp_path) == {"a directory"}
    assert completed("-R", "a", cwd=tmp_path) == {"a directory", "a file"}
    assert completed("-W", "x", "--", "--exclude", "a", cwd=tmp_path) == {"a directory", "a file"}


def test_zsh_can_read_its_file() -> None:
    run = subprocess.run(
        [needed("zsh"), "-f", "-n", str(TOP / "completions/_clsync")], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")
