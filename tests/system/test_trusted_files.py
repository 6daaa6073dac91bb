"""--splitting=process for root: what says what is run is read only where nobody but root may write it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.daemon import installed
from tests.support.rights import NOBODY
from tests.system.world import ROOT, SYNCED, World

pytestmark = [ROOT, pytest.mark.root]
SPLIT = "--splitting=process"
HINT = "with --splitting=process nobody but root may write it"


def of_nobody(path: Path) -> None:
    os.chown(path, NOBODY, NOBODY)


def open_to_all(path: Path) -> None:
    path.chmod(0o666)


def open_to_a_group(path: Path) -> None:
    path.chmod(0o664)


def below_one_of_nobody(path: Path) -> None:
    of_nobody(path.parent)


def below_an_open_one(path: Path) -> None:
    path.parent.chmod(0o775)


def behind_a_link_of_nobody(path: Path) -> None:
    path.rename(path.with_name("real"))
    path.symlink_to("real")
    os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


def behind_a_link_into_one_of_nobody(path: Path) -> None:
    place = path.parent.parent / "elsewhere"
    place.mkdir()
    path.rename(place / "real")
    path.symlink_to(place / "real")
    of_nobody(place)


SPOILED = (
    of_nobody,
    open_to_all,
    open_to_a_group,
    below_one_of_nobody,
    below_an_open_one,
    behind_a_link_of_nobody,
    behind_a_link_into_one_of_nobody,
)
Spoil = Callable[[Path], None]


@pytest.fixture
def place(world: World) -> Path:
    """Return a directory for files that say what is run."""
    made = world.top / "etc"
    made.mkdir()
    return made


def configuration(world: World, place: Path, more: str = "splitting = process") -> Path:
    """Write a configuration with a block for signal 40."""
    path = place / "conf"
    path.write_text(
        f"[default]\nwatch-dir = {world.source}\ndestination-dir = {world.destination}\nmode = copy\n"
        f"delay-collect = 0.05\ndelay-sync = 0.05\ncustom-signals = 40:other\n{more}\n[other]\nexit-hook = /bin/true\n"
    )
    return path


@pytest.mark.parametrize("spoil", SPOILED)
def test_a_configuration_that_others_may_write(world: World, place: Path, spoil: Spoil) -> None:
    path = configuration(world, place)
    spoil(path)
    message, hint = world.run(f"-H{path}").complaint(7)
    assert message.startswith(f"configuration file {path}: others than root can change {world.top}/")
    assert "owner " in message
    assert "mode 0" in message
    assert hint.startswith(HINT)


def test_one_that_is_found_counts_as_one_that_is_named(world: World, place: Path) -> None:
    """The file in a home directory says what root is to run, if root's home it is."""
    configuration(world, place).rename(place / ".clsync.conf")
    of_nobody(place)
    message, _ = world.run(env={"HOME": str(place)}).complaint(7)
    assert f"others than root can change {place} (owner {NOBODY}, mode 0755)" in message


@pytest.mark.parametrize("spoil", SPOILED)
def test_rules_that_others_may_write(world: World, place: Path, spoil: Spoil) -> None:
    path = place / "rules"
    path.write_text("-f^no$\n")
    spoil(path)
    message, hint = world.run(*world.trees, SPLIT, "-Mcopy", f"-R{path}").complaint(22)
    assert message.startswith(f"--rules-file {path}: others than root can change {world.top}/")
    assert hint.startswith(HINT)


def test_a_hook_that_others_may_write(world: World, place: Path) -> None:
    hook = place / "hook"
    hook.write_text("#!/bin/sh\n")
    hook.chmod(0o755)
    of_nobody(place)
    message, hint = world.run(*world.trees, SPLIT, "-Mcopy", f"--exit-hook={hook}").complaint(5)
    assert message.startswith(f"--exit-hook {hook}: others than root can change {place}")
    assert hint.startswith(HINT)


def test_rules_are_read_again_only_while_they_are_roots(world: World, place: Path) -> None:
    path = place / "rules"
    path.write_text("-f^no$\n")
    with world.daemon(SPLIT, "-Mcopy", f"-R{path}") as daemon:
        daemon.wait_for_log(SYNCED)
        of_nobody(path)
        path.write_text("-f^yes$\n")
        os.kill(daemon.pid, signal.SIGHUP)
        daemon.wait_for_log(f"others than root can change {path}")
        daemon.wait_for_log("the old rules stay in force")
        world.write("no")
        world.write("yes")
        world.wait_for_copy(daemon, "yes")
        assert world.copied("no") is None
        os.chown(path, 0, 0)
        os.kill(daemon.pid, signal.SIGHUP)
        world.wait_for_copy(daemon, "no")


def test_settings_are_read_again_only_while_they_are_roots(world: World, place: Path) -> None:
    """By a custom signal, and where an option is set: the rest of them comes from the file."""
    path, control = configuration(world, place), world.top / "socket"
    told = f"configuration file {path}: others than root can change {place}"
    with world.bare(f"-H{path}", "--socket", control) as daemon:
        daemon.wait_for_log(SYNCED)
        place.chmod(0o777)
        os.kill(daemon.pid, 40)
        daemon.wait_for_log(told)
        daemon.wait_for_log("the old settings stay in force")
        ended = world.run("ctl", "-s", control, "set", "delay-sync", "0.1")
        assert (ended.code, told in ended.err) == (9, True), ended
        world.write("file")
        world.wait_for_copy(daemon, "file")
        place.chmod(0o755)
        os.kill(daemon.pid, 40)
        daemon.wait_for_log("in force from the next batch on")
        world.write("other")
        world.wait_for_copy(daemon, "other")


def test_a_sticky_directory_above_does_no_harm(world: World, place: Path) -> None:
    """Nobody can take away from it what is root's: the tests themselves run in /tmp."""
    place.chmod(0o1777)
    path = configuration(world, place)
    with world.bare(f"-H{path}") as daemon:
        daemon.wait_for_log(SYNCED)


@pytest.mark.parametrize("more", ["splitting = off", "splitting = thread"])
def test_nobody_else_is_kept_from_his_own_ways(world: World, place: Path, more: str) -> None:
    path = configuration(world, place, more)
    place.chmod(0o777)
    with world.bare(f"-H{path}") as daemon:
        daemon.wait_for_log(SYNCED)


def test_whoever_is_not_root_has_files_of_his_own(world: World, place: Path) -> None:
    """There is nothing to be gained by them."""
    path = configuration(world, place)
    for one in (world.source, world.destination, place, path):
        of_nobody(one)
    for above in [world.top, *list(world.top.parents)[:2]]:
        above.chmod(0o755)
    as_nobody = ["setpriv", "--reuid=65534", "--clear-groups"]
    if subprocess.run([*as_nobody, installed(), "--version"], capture_output=True, check=False).returncode:
        pytest.skip("the program cannot be run by somebody else where it is")
    ended = world.run(f"-H{path}", "--only-initialsync", head=as_nobody)
    assert ended.code == 0, ended
