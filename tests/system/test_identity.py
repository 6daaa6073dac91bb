"""Handlers and hooks are what the starter is: the same rights, network, environment and signals."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping

import pytest

from tests.support.daemon import Daemon, installed
from tests.support.modules import compiled
from tests.system.world import QUICK, SYNCED, World

LOOKS = """#!/bin/bash
mkdir -p "{place}"
cat /proc/self/status >"{place}/status"
for name in /proc/self/ns/*; do readlink "$name"; done >"{place}/namespaces"
ls -l /proc/self/fd >"{place}/descriptors"
ulimit -a >"{place}/limits"
env -0 >"{place}/environment"
pwd -P >"{place}/directory"
printf '%s\\0' "$@" >"{place}/arguments"
: >"{place}/done"
"""
"""Notes how it is run, each thing in a file of its own. Unlike others, bash leaves the signal mask as it is."""
SAME = "Uid Gid Groups CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Seccomp Umask Cpus_allowed".split()
"""Fields of proc_pid_status(5) that are those of the starter."""
MODULE = """
#include <stdlib.h>
#include <unistd.h>
#include <sys/wait.h>
#include <clsync/clsync.h>
static struct ctx *ctx_p;
int clsyncapi_init(struct ctx *ctx, struct indexes *indexes) { ctx_p = ctx; return 0; }
int clsyncapi_sync(int n, api_eventinfo_t *elements) {
    int status, pid = clsyncapi_fork(ctx_p);
    if (!pid) {
        execl(getenv("PROGRAM"), "handler", (char *)NULL);
        _exit(99);
    }
    return waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status) : 98;
}
"""
STARTER = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGUSR1})
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
os.dup2(os.open("/dev/zero", os.O_RDONLY), 77)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Starts a program with signals blocked or ignored, and a descriptor too many, as a careless parent does."""
CARELESS = [sys.executable, "-c", STARTER, installed()]


class Look:
    """A program that notes how it is run, and what it has noted."""

    def __init__(self, world: World, name: str) -> None:
        """Make it beside the trees."""
        self.place = world.top / f"{name}-looks"
        self.program = world.file(name, LOOKS.format(place=self.place), 0o755)

    @property
    def done(self) -> bool:
        """Whether it has run."""
        return (self.place / "done").exists()

    def read(self, name: str) -> str:
        """Return what it has noted of one thing."""
        return (self.place / name).read_text()

    @property
    def status(self) -> dict[str, str]:
        """The fields of proc_pid_status(5)."""
        return {
            key: value.strip() for key, _, value in (line.partition(":") for line in self.read("status").splitlines())
        }

    @property
    def environment(self) -> dict[str, str]:
        """Its environment, but for what a shell sets."""
        words = self.read("environment").split("\0")[:-1]
        found = dict(word.split("=", 1) for word in words)
        return {name: value for name, value in found.items() if name not in ("_", "PWD", "OLDPWD", "SHLVL")}

    @property
    def descriptors(self) -> dict[int, str]:
        """Number -> what is open, but for the list itself."""
        found = re.findall(r" (\d+) -> (.*)", self.read("descriptors"))
        return {int(number): what for number, what in found if not re.fullmatch(r"/proc/\d+/fd", what)}


def demand_same(look: Look, starter: Look, world: World, told: Mapping[str, str]) -> None:
    """Fail if a program is not run as the starter runs one itself, in the watched directory."""
    mine, theirs = starter.status, look.status
    assert {name: theirs[name] for name in SAME} == {name: mine[name] for name in SAME}
    if os.geteuid() == 0:
        assert theirs["Uid"].split() == theirs["Gid"].split() == ["0"] * 4
        assert theirs["CapEff"] == theirs["CapPrm"] == theirs["CapBnd"]
    assert int(theirs["SigBlk"], 16) == 0
    # What clsync itself listens to is heard by its programs, too.
    assert int(theirs["SigIgn"], 16) & ~int(mine["SigIgn"], 16) == 0
    for name in ("namespaces", "limits"):
        assert look.read(name) == starter.read(name)
    assert look.read("directory") == f"{world.source}\n"
    assert set(look.descriptors) == {0, 1, 2}
    assert look.descriptors[0] == "/dev/null"
    assert look.environment == starter.environment | look_told(look, told)


def look_told(look: Look, told: Mapping[str, str]) -> dict[str, str]:
    """Return what clsync adds to the environment: what is `told`, the number of the batch, and of handlers the mark."""
    iteration = look.environment["CLSYNC_ITERATION"]
    assert iteration.isdigit()
    mark = {name: value for name, value in look.environment.items() if name == "CLSYNC_WORKS_FOR"}
    assert not mark or told["CLSYNC_STATUS"] == "initsync"
    return {**told, "CLSYNC_ITERATION": iteration, **mark}


@pytest.mark.parametrize("mode", ["direct", "simple", "shell", "rsyncshell", "so"])
def test_handlers_and_hooks_are_run_as_the_starter_is(world: World, mode: str) -> None:
    """Whatever signals the starter has blocked, and whatever it has left open."""
    handler, pre, last, starter = (Look(world, name) for name in ("handler", "pre-exit", "exit", "starter"))
    world.environment |= {"PROGRAM": str(handler.program), "OWN": "some\nvalue \xe4"}
    named = compiled(world.top, MODULE) if mode == "so" else handler.program
    hooks = (f"--pre-exit-hook={pre.program}", f"--exit-hook={last.program}")
    options = (f"-W{world.source}", f"-M{mode}", f"-S{named}", "-llab1", "--exit-on-no-events", *hooks, *QUICK)
    target = [f"-D{world.destination}"] if mode == "direct" else []
    world.write("file")
    with Daemon(*options, *target, env=world.environment, cwd=world.top, program=CARELESS) as daemon:
        daemon.wait()
        # The same by the starter, without clsync between.
        env = daemon.environment
        subprocess.run([starter.program], env=env, check=True, stdin=subprocess.DEVNULL, start_new_session=True)
    for look, status in ((handler, "initsync"), (pre, "preexit"), (last, "exiting")):
        demand_same(look, starter, world, {"CLSYNC_STATUS": status})
    assert pre.read("arguments") == last.read("arguments") == "lab1\0"


def test_exit_codes_are_heard(world: World) -> None:
    """Started by who ignores the end of children, it knows of a handler's failure all the same."""
    handler = world.file("handler", "#!/bin/sh\nexit 7\n", 0o755)
    options = ("-Mdirect", f"-S{handler}", "--only-initialsync", "--retries=1")
    with Daemon(*world.trees, *options, env=world.environment, cwd=world.top, program=CARELESS) as daemon:
        daemon.wait(code=7)


def test_blocked_signals_are_heard(world: World) -> None:
    """Started by who blocks TERM, it can be ended by TERM all the same."""
    with Daemon(*world.trees, *QUICK, env=world.environment, cwd=world.top, program=CARELESS) as daemon:
        daemon.wait_for_log(SYNCED)
        daemon.stop()
