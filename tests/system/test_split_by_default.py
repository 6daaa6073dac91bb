"""Where root starts clsync, it is two processes, unless something speaks against it."""

from __future__ import annotations

import os
import re
import signal
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from clsync.errors import Exit
from tests.support.recorder import Recorder
from tests.support.rights import NOBODY
from tests.system.test_splitting import status_of, tell, worker_of, workers_of
from tests.system.world import ROOT, SYNCED, World

pytestmark = [ROOT, pytest.mark.root]
ONE = "one process does everything: "
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")


def test_root_is_split(world: World) -> None:
    """What is decided is decided by nobody; what is made belongs to who made it before."""
    made = pid_file, status_file, path = world.top / "pid", world.top / "status", world.top / "socket"
    with world.daemon("-Mcopy", "-z", pid_file, f"--status-file={status_file}", "--socket", path) as daemon:
        daemon.wait_for_log(SYNCED)
        worker = status_of(Path(f"/proc/{worker_of(daemon)}"))
        assert (set(worker["Uid"].split()), int(worker["CapPrm"], 16)) == ({str(NOBODY)}, 0)
        assert status_of(Path(f"/proc/{daemon.pid}"))["Uid"].split()[0] == "0"
        assert pid_file.read_text() == str(daemon.pid)
        names = [Path(f"/proc/{pid}/comm").read_text() for pid in (daemon.pid, worker_of(daemon))]
        assert names == ["clsync\n", "clsync-worker\n"]
        assert {(file.stat().st_uid, file.stat().st_gid) for file in made} == {(0, 0)}
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert ONE not in daemon.output
    assert not [file for file in made if file.exists()]


def test_others_are_not(world: World) -> None:
    for path in (world.top, *world.top.parents[:2]):
        path.chmod(0o755)
    for path in (world.source, world.destination):
        os.chown(path, NOBODY, NOBODY)
    done = world.run(*world.trees, "-Mcopy", "--dry-run", head=AS_NOBODY)
    assert (done.code, "worker" in done.out, done.err) == (0, False, "")


def of_nobody(path: Path) -> Path:
    os.chown(path, NOBODY, NOBODY)
    return path


def rules_of_nobody(world: World) -> Sequence[str]:
    return (f"-R{of_nobody(world.file('rules', '-f^no$'))}",)


def rules_in_a_pipe(world: World) -> Sequence[str]:
    return ("-R/dev/stdin",)


def configuration_of_nobody(world: World) -> Sequence[str]:
    return (f"-H{of_nobody(world.file('conf', '[default]'))}",)


def configuration_in_a_home_of_nobody(world: World) -> Sequence[str]:
    world.environment["HOME"] = str(of_nobody(world.file("home", "")).parent / "a")
    (world.top / "a").mkdir()
    of_nobody(world.top / "a")
    return ()


def hook_of_nobody(world: World) -> Sequence[str]:
    return (f"--exit-hook={of_nobody(world.file('hook', '#!/bin/sh', 0o755))}",)


def hook_inside(world: World) -> Sequence[str]:
    disk = next(path for path in world.top.parents if path.is_mount())
    return (f"--mountpoints=/,{disk}", "--exit-hook=/bin/true")


OPTIONS_AGAINST: Sequence[tuple[Sequence[str] | Callable[[World], Sequence[str]], str]] = [
    (("--uid=0",), "--uid is about all of clsync"),
    (("--uid=nobody",), "--uid is about all of clsync"),
    (("--gid=0",), "--gid is about all of clsync"),
    (("--preserve-capabilities=CAP_DAC_OVERRIDE,CAP_CHOWN,CAP_FOWNER",), "--preserve-capabilities is about"),
    (("--inherit-capabilities=clsync",), "--inherit-capabilities is about"),
    (hook_inside, "/bin/true is seen after --mountpoints only"),
]
FILES_AGAINST: Sequence[tuple[Sequence[str] | Callable[[World], Sequence[str]], str]] = [
    (rules_of_nobody, "--rules-file .*/rules: others than root can change .*/rules"),
    (rules_in_a_pipe, "--rules-file /dev/stdin: .*"),
    (configuration_of_nobody, "configuration file .*/conf: others than root can change .*/conf"),
    (configuration_in_a_home_of_nobody, "configuration file .*/a/.clsync.conf: others than root can change .*/a "),
    (hook_of_nobody, "--exit-hook .*/hook: others than root can change .*/hook"),
]


@pytest.mark.parametrize(("options", "why"), [*OPTIONS_AGAINST, *FILES_AGAINST])
def test_what_speaks_against_it(
    world: World, options: Sequence[str] | Callable[[World], Sequence[str]], why: str
) -> None:
    """It goes on as without splitting, and says why in the log and in the plan: a warning, unless options ask for it."""
    world.write("file")
    for path in (world.top, *world.top.parents[:2]):
        path.chmod(0o755)
    more = options(world) if callable(options) else options
    done = world.run(*world.trees, "-Mcopy", "--only-initialsync", *more)
    told = (options, why) in FILES_AGAINST
    assert (done.code, len(done.troubles)) == (0, told)
    assert re.search(f"{'Warning' if told else 'Info'}: {ONE}{why}", done.err)
    world.demand_equal()
    plan = world.run(*world.trees, "-Mcopy", "--dry-run", *more)
    assert re.search(f"splitting: +none: {why}", plan.out), plan
    assert "worker" not in plan.out
    said = ("-v2",) if not told else ("--splitting=off",)
    quiet = world.run(*world.trees, "-Mcopy", "--only-initialsync", *said, *more)
    assert (quiet.code, quiet.troubles) == (0, [])


@pytest.mark.parametrize("capability", ["setuid", "setgid", "kill"])
def test_a_system_that_cannot_give_it(world: World, capability: str) -> None:
    """One warning; where it is asked for by option, it is an error."""
    head = ("setpriv", f"--inh-caps=-{capability}", f"--bounding-set=-{capability}")
    done = world.run(*world.trees, "-Mcopy", "--only-initialsync", head=head)
    assert done.code == 0
    (warning,) = done.troubles
    assert f"one process does everything: clsync is started without CAP_{capability.upper()}" in warning
    told = world.run("doctor", *world.trees, "-Mcopy", head=head)
    assert (
        told.code,
        f"splitting:     cannot be had: clsync is started without CAP_{capability.upper()}" in told.out,
    ) == (
        0,
        True,
    )
    quiet = world.run(*world.trees, "-Mcopy", "--only-initialsync", "--splitting=off", head=head)
    assert (quiet.code, quiet.troubles) == (0, [])


def test_a_container_in_which_root_has_less(world: World) -> None:
    """Without CAP_SYS_ADMIN, rsync is in its sandbox, and can do all that root could; what is left out is told once."""
    head = ("setpriv", "--inh-caps=-all", "--bounding-set=-sys_admin,-setpcap")
    os.chown(world.write("theirs"), 1234, 2345)
    world.source.chmod(0o700)
    plan = world.run(*world.trees, "-Mrsyncdirect", "--dry-run", head=head).out
    assert "clsync, the worker" in plan
    assert f"reads the watched directory, its programs and libraries, writes {world.destination}" in plan
    for layer, lacking in (
        ("mounts", "CAP_SYS_ADMIN"),
        ("processes", "CAP_SYS_ADMIN"),
        ("capabilities", "CAP_SETPCAP"),
    ):
        assert f"  {layer}: clsync is started without {lacking}; to have it: start it with {lacking}\n" in plan
    done = world.run(*world.trees, "-Mrsyncdirect", "--only-initialsync", head=head)
    assert done.code == 0
    (warning,) = done.troubles
    for layer in ("mounts", "processes"):
        assert f"{layer} (clsync is started without CAP_SYS_ADMIN; start it with CAP_SYS_ADMIN), " in warning
    world.demand_equal()
    for meant in (("--sandbox=off",), ("-Mdirect", "-S/bin/true")):
        quiet = world.run(*world.trees, "-Mrsyncdirect", "--only-initialsync", *meant, head=head)
        assert (quiet.code, quiet.troubles) == (0, [])


def test_what_needs_it_is_an_error_without_it(world: World) -> None:
    message, _ = world.run(*world.trees, "--seccomp-filter", "--uid=nobody").complaint(Exit.USAGE)
    assert message == "--seccomp-filter without --splitting"
    done = world.run(*world.trees, "-Mcopy", "--seccomp-filter", "--only-initialsync")
    assert (done.code, done.troubles) == (0, [])


def test_the_old_default_is_none(world: World) -> None:
    with world.daemon("--compat=0.4", "-Mrsyncdirect", f"-L{world.top / 'lists'}", "-R/dev/null") as daemon:
        daemon.wait_for_log("initial sync done")
        assert not workers_of(daemon)
        assert ONE not in daemon.output


def test_a_run_of_one_pass_is_split_as_well(world: World) -> None:
    plan = world.run(*world.trees, "--dry-run", "--only-initialsync").out
    assert "clsync, the worker (a process of its own)" in plan


# -- what is set while it runs -------------------------------------------------------------------------------------


def test_all_can_be_set_as_without_splitting(world: World) -> None:
    """By root: another handler, which is run by root, other destinations and rules, one's own dump."""
    path, second = world.top / "socket", world.top / "second"
    second.mkdir()
    who = world.top / "who"
    recorder, rules = Recorder(world.top, f"id -u >{who}"), world.file("rules", "-f^no$\n")
    world.top.chmod(0o700)
    with world.daemon("-Mcopy", "--socket", path) as daemon:
        daemon.wait_for_log(SYNCED)
        assert workers_of(daemon)
        for key, value in (("destination-dir", str(second)), ("rules-file", str(rules)), ("label", "a b")):
            code, said = tell(world, path, "set", key, value)
            assert code == 0, said
        assert tell(world, path, "wait")[0] == 0  # what was set is in force
        world.write("no")
        world.write("file")
        daemon.wait_until((second / "file").exists, what="the file at the other destination")
        assert not (second / "no").exists()
        assert tell(world, path, "dump", str(world.top / "dump"))[0] == 0
        assert "status == " in (world.top / "dump/instance").read_text()
        for key, value in (("splitting", "off"), ("uid", "1"), ("config-file", "x")):
            assert tell(world, path, "set", key, value)[0] == 9
        assert workers_of(daemon)
    with world.daemon("-Mdirect", "-S/bin/true", "--socket", path) as daemon:
        daemon.wait_for_log(SYNCED)
        assert tell(world, path, "set", "sync-handler", str(recorder.program))[0] == 0
        assert tell(world, path, "wait")[0] == 0
        world.write("other")
        recorder.wait_for_calls(daemon, 1)
        daemon.wait_until(lambda: who.exists() and who.read_text() == "0\n", what="root who has run it")


def test_who_asks_for_it_has_less_that_can_be_set(world: World) -> None:
    path = world.top / "socket"
    with world.daemon("-Mcopy", "--splitting=process", "--socket", path) as daemon:
        daemon.wait_for_log(SYNCED)
        assert tell(world, path, "set", "label", "x")[0] == 9
        os.kill(daemon.pid, signal.SIGTERM)
        daemon.wait(code=None)
