"""The script that asks a host for its boot and flushes a directory there, as any shell runs it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from clsync.handler.base import HostNews
from clsync.handler.rsync import hosts
from tests.conformance.test_renaming import ODD, SHELLS

BOOT = Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()


class Place:
    """Where a script is run: a home directory, and a `sync` that tells what it was asked for."""

    def __init__(self, top: Path) -> None:
        self.home, self._told = top / "home", top / "told"
        self.home.mkdir()
        self._path = top / "bin"
        self._path.mkdir()

    def syncs(self, as_well: str = "") -> None:
        """Let `sync` do something besides."""
        program = self._path / "sync"
        told = f"printf '%s|' \"$@\" >>{self._told}; pwd -P >>{self._told}"
        program.write_text(f"#!/bin/sh\n{told}\n{as_well}\n")
        program.chmod(0o755)

    def run(self, shell: str, directory: bytes | None) -> HostNews:
        env = {"PATH": f"{self._path}:{os.environ['PATH']}", "HOME": os.fspath(self.home), "LC_ALL": "C"}
        text = hosts.script(directory)
        done = subprocess.run([shell, *SHELLS[shell]], input=text, stdout=subprocess.PIPE, env=env, cwd=self.home)
        return hosts.news(done.stdout)

    @property
    def told(self) -> list[bytes]:
        return self._told.read_bytes().splitlines() if self._told.exists() else []


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    made.syncs()
    return made


@pytest.mark.parametrize("shell", SHELLS)
def test_the_boot_and_nothing_else(place: Place, shell: str) -> None:
    assert place.run(shell, None) == HostNews(BOOT)
    assert place.told == []


@pytest.mark.parametrize("shell", SHELLS)
def test_the_directory_of_the_target_is_flushed(place: Place, shell: str) -> None:
    """Whatever its name is; relative to where a login leads."""
    for name in (b"", b"-", *(name for name in ODD if b"\n" not in name)):
        path = os.path.join(os.fsencode(place.home), name)
        os.makedirs(path, exist_ok=True)
        for directory in (name, path):
            assert place.run(shell, directory) == HostNews(BOOT, flushed=True)
            assert place.told[-1] == b"-f|.|" + (path if name else path[:-1])


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("says", "flushed", "everything"),
    [
        ("case $1 in -f) echo \"sync: invalid option -- 'f'\" >&2; exit 1;; esac", True, True),
        ("case $1 in -f) echo \"sync: error syncing '.': Input/output error\" >&2; exit 1;; esac", False, False),
        ("exit 1", False, False),
    ],
    ids=["an old one", "a broken disk", "silent"],
)
def test_kinds_of_sync(place: Place, shell: str, says: str, flushed: bool, everything: bool) -> None:
    place.syncs(says)
    assert place.run(shell, os.fsencode(place.home)) == HostNews(BOOT, flushed)
    assert (place.told[-1].startswith(b"|") or not place.told[-1].startswith(b"-f|")) is everything


def test_a_directory_that_the_shell_does_not_find(place: Place) -> None:
    assert place.run("dash", b"~/nowhere") == HostNews(BOOT, flushed=True)
    assert len(place.told) == 1
    assert not place.told[0].startswith(b"-f|")


@pytest.mark.parametrize(
    "said",
    [
        b"", b"clsync host\n", b"clsync host\nWindows\n", b"This account is for file transfer only.\n" + BOOT,
        b"clsync host\n" + BOOT[:-1] + b"\n", b"clsync host\n" + BOOT + b" and more\n", b"clsync host",
    ],
)  # fmt: skip
def test_what_is_no_answer(said: bytes) -> None:
    assert hosts.news(said) == HostNews(None)
