"""What clsync is taken for, each with the programs that are really used."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clsync.errors import Exit
from tests.support.daemon import Daemon
from tests.support.trees import snapshot
from tests.system.test_modes import PLANTED, plant
from tests.system.world import AT_ONCE, QUICK, SYNCED, World

COPY_TO_NODES = """#!/bin/sh
# Copies the named objects of the current directory to all nodes; what is gone goes there, too.
set -e
for node in {nodes}; do
    for object; do
        if [ -d "$object" ] && [ ! -L "$object" ]; then
            mkdir -p "$node/$object"
        elif [ -e "$object" ] || [ -L "$object" ]; then
            cp -dp --parents -- "$object" "$node"
        else
            rm -rf -- "$node/$object"
        fi
    done
done
"""


def names(directory: Path) -> set[str]:
    """Return all that lies below a directory, by relative paths; what vanishes meanwhile is left out."""
    return {os.fsdecode(path) for path in snapshot(bytes(directory), content=False)} - {""}


def test_mirror(world: World) -> None:
    plant(world)
    with world.daemon("--mode=rsyncdirect") as daemon:
        world.wait_for_equal(daemon)
        world.write("a/new/file")
        (world.source / "f1").unlink()
        (world.source / "a/b").rename(world.source / "c/b")
        world.wait_for_equal(daemon)


def test_instant_mirror(world: World) -> None:
    """Where it has to be quick the delays are nothing: those of the file would take half a minute."""
    world.file(".clsync.conf", "[default]\ndelay-collect = 30\ndelay-sync = 30\n")
    with world.daemon("--mode=rsyncdirect", delays=AT_ONCE) as daemon:
        daemon.wait_for_log(SYNCED)
        for number in range(5):
            world.write(f"file{number}")
            world.wait_for_copy(daemon, f"file{number}")
        world.wait_for_equal(daemon)


KEYS_ALONE = r"""
# The way there, and the keys: nothing else.
+w^$
+w^[^/]+$
+w^[^/]+/\.ssh$
+f^[^/]+/\.ssh/authorized_keys$
-*
"""


def test_keys_of_all_users_and_nothing_else(world: World) -> None:
    """Homes are not the business of the other machine; who may log in there is."""
    for user in ("ann", "bob"):
        for file in ("authorized_keys", "id_ed25519", "known_hosts"):
            world.write(f"{user}/.ssh/{file}", f"{file} of {user}")
        world.write(f"{user}/diary")
    script = world.file("push", COPY_TO_NODES.format(nodes=world.destination), 0o755)
    rules = world.file("rules", KEYS_ALONE)
    with world.daemon("-Mdirect", f"-S{script}", f"-R{rules}", "--", "%INCLUDE-LIST%") as daemon:
        daemon.wait_for_log(SYNCED)
        assert world.copied("ann/.ssh/authorized_keys") == "authorized_keys of ann"
        world.write("ann/.ssh/authorized_keys", "another key")
        world.write("ann/.ssh/id_ed25519", "another secret")
        world.write("eve/.ssh/authorized_keys", "a new one's")
        world.write("eve/.ssh/id_ed25519", "a new secret")
        world.wait_for_copy(daemon, "ann/.ssh/authorized_keys", "another key")
        world.wait_for_copy(daemon, "eve/.ssh/authorized_keys", "a new one's")
        (world.source / "bob/.ssh/authorized_keys").unlink()
        gone = world.destination / "bob/.ssh/authorized_keys"
        daemon.wait_until(lambda: not gone.exists(), what="the end of bob's access")
    keys = {"ann/.ssh/authorized_keys", "eve/.ssh/authorized_keys"}
    assert {name for name in names(world.destination) if (world.destination / name).is_file()} == keys


@contextmanager
def busy_writer(world: World, end: threading.Event) -> Iterator[None]:
    """Write to the source until told to end."""

    def write() -> None:
        number = 0
        while not end.wait(0.005):
            number += 1
            world.write(f"busy/{number % 20}", f"{number}\n")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def once(world: World) -> tuple[str, ...]:
    """Return the options of the atomic sync in the manual of clsync 0.4."""
    return (
        "--exit-on-no-events",
        "--max-iterations=20",
        "--mode=rsyncdirect",
        f"-W{world.source}",
        "-Srsync",
        "--",
        "%RSYNC-ARGS%",
        f"{world.source}/",
        f"{world.destination}/",
    )


def test_one_sync_of_a_tree_that_is_written_to(world: World) -> None:
    """It goes on until the tree has come to rest, and then source and destination are equal."""
    plant(world)
    end = threading.Event()
    with busy_writer(world, end), world.bare(*once(world)) as daemon:
        daemon.wait_for_log(SYNCED)
        end.set()
        daemon.wait()
    world.demand_equal()
    assert (world.destination / "busy").is_dir()


def test_one_sync_of_a_tree_that_never_rests(world: World) -> None:
    """The number of batches ends it all the same."""
    plant(world)
    with busy_writer(world, threading.Event()):
        done = world.run(*QUICK, *once(world))
    assert done.code == Exit.OK, done.err
    assert world.copied("a/b/f3") == "a/b/f3"


SERVER = """#!/bin/sh
# A server with data of its own, until it is stopped.
echo $$ >"$1/server.pid"
trap 'echo stopped >>"$1/data"; rm "$1/server.pid"; exit' TERM
while :; do
    echo request >>"$1/data"
    sleep 0.01
done
"""
STOP_HERE = """#!/bin/sh
kill "$(cat {source}/server.pid)"
while [ -e {source}/server.pid ]; do sleep 0.01; done
"""
START_THERE = """#!/bin/sh
# What was written last has to be there before the server is.
diff -r {source} {destination} && tail -n 1 {destination}/data >{top}/started
"""


def test_a_server_moves_with_its_data(world: World) -> None:
    """It serves until all but the last is copied, is stopped by the first hook, and started there by the second."""
    plant(world)
    places = {"source": world.source, "destination": world.destination, "top": world.top}
    stop = world.file("stop", STOP_HERE.format(**places), 0o755)
    start = world.file("start", START_THERE.format(**places), 0o755)
    server = subprocess.Popen([world.file("server", SERVER, 0o755), world.source])
    try:
        hooks = (f"--pre-exit-hook={stop}", f"--exit-hook={start}")
        with world.bare(*hooks, *once(world)) as daemon:
            daemon.wait()
        assert server.wait(10) == 0
    finally:
        server.kill()
        server.wait()
    assert (world.top / "started").read_text() == "stopped\n"
    world.demand_equal()


def test_a_copy_for_each_of_many_nodes(world: World) -> None:
    """A program that copies to all of them is told what has changed, once."""
    plant(world)
    nodes = [world.top / f"node{number}" for number in range(3)]
    for node in nodes:
        node.mkdir()
    script = world.file("push", COPY_TO_NODES.format(nodes=" ".join(map(str, nodes))), 0o755)
    with world.bare(
        f"-W{world.source}", "-Mdirect", f"-S{script}", "-t0.05", "-w0", "--", "%INCLUDE-LIST%"
    ) as daemon:
        daemon.wait_for_log(SYNCED)
        assert all(names(node) == names(world.source) for node in nodes)
        world.write("a/new/file")
        world.write("-f odd\nname")
        shutil.rmtree(world.source / "c")
        (world.source / "f1").rename(world.source / "f9")
        wanted = names(world.source)
        daemon.wait_until(lambda: all(names(node) == wanted for node in nodes), what="all nodes")
        for node in nodes:
            daemon.wait_until(lambda: (node / "a/new/file").read_text() == "a/new/file", what="its content")  # noqa: B023


def echoed(daemon: Daemon, end: str) -> list[set[str]]:
    """Return the words of all lines that end with a word."""
    return [set(line.split()) - {end} for line in daemon.output.splitlines() if line.split()[-1:] == [end]]


def test_dry_run(world: World) -> None:
    """With `echo` for a handler it is seen what would be copied, and nothing is."""
    plant(world)
    with world.daemon("-Mdirect", "-Secho", "--compat=0.4") as daemon:
        end = f"{world.destination}/"
        planted = {name.decode() for name in PLANTED}
        daemon.wait_until(lambda: planted in echoed(daemon, end), what="all objects")
        world.write("n1")
        daemon.wait_until(lambda: {"n1"} in echoed(daemon, end), what="the new one")
    assert os.listdir(world.destination) == []


@pytest.mark.parametrize("mode", ["rsyncdirect", "rsyncshell"])
def test_dry_run_of_rsync(world: World, mode: str) -> None:
    """The same with its arguments."""
    plant(world)
    lists = world.top / "lists"
    done = world.run(*world.trees, f"-M{mode}", "-Secho", "--compat=0.4", "-llab", f"-L{lists}", "--only-initialsync")
    assert done.code == Exit.OK, done.err
    said = re.sub(r"/\.clsync-(list|exclist)[.0-9]+", r"/\1", done.out)
    assert (
        said
        == {
            "rsyncdirect": f"-aH --delete --exclude-from {lists}/exclist --include-from {lists}/list --exclude=*"
            f" {world.source}/ {world.destination}/\n",
            "rsyncshell": f"rsynclist lab {lists}/list {lists}/exclist\n",
        }[mode]
    )
    assert os.listdir(world.destination) == []


MAKEFILE = """
page.html: page.txt
\techo run >>../runs
\tsed 's/^/<p>/' page.txt >../page
\tmv ../page page.html
"""


def put(world: World, text: str, than: Path) -> None:
    """Put a new page.txt in place, at once and with a later time than another file has, as make needs it."""
    new = world.file("new", text)
    while new.stat().st_mtime_ns <= than.stat().st_mtime_ns:
        new.write_text(text)
    new.rename(world.source / "page.txt")


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_when_something_has_changed(world: World) -> None:
    """What make makes lies in the tree as well; rules keep it from starting the next run."""
    world.write("Makefile", MAKEFILE)
    world.write("page.txt", "one\n")
    rules = world.file("rules", "-f\\.html$\n")
    page = world.source / "page.html"
    with world.bare(f"-W{world.source}", "-Mdirect", "-Smake", f"-R{rules}", "-t0.05", "-w0", "--", "-s") as daemon:
        daemon.wait_until(page.exists, what="the first page")
        for text in ("two\n", "three\n"):
            put(world, text, than=page)
            daemon.wait_until(lambda: page.read_text() == f"<p>{text}", what=f"page {text}")  # noqa: B023
    assert (world.top / "runs").read_text() == "run\n" * 3
