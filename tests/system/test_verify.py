"""`clsync verify` and the scrub: what differs at a destination is told, proven, and made equal."""

from __future__ import annotations

import json
import mmap
import os
import random
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from clsync.errors import Exit
from clsync.kernel.sandbox import trouble_with
from tests.support.daemon import Daemon
from tests.support.remotes import Remote, RsyncHost, SshHost, missing
from tests.support.trees import snapshot
from tests.system.test_splitting import status_of, workers_of
from tests.system.world import MODES, QUICK, ROOT, SYNCED, Ended, World, states

NO_STATE = "--state-dir=none"
ODD = b"new\nline \x1b[31m \xff"
SHOWN = "new\\nline \\x1b[31m \\xff"


def plant(world: World) -> None:
    """Make something of everything."""
    for name in ("content", "mode", "mtime", "size", "gone", "d/kept"):
        world.write(name, f"what is in {name}")
    world.write("type/file")
    for name in ("one", "other", "alone", "like it"):
        world.write(f"links/{name}", "all alike")
    os.unlink(world.source / "links/other")
    os.link(world.source / "links/one", world.source / "links/other")
    os.utime(world.source / "links/like it", ns=(1, os.stat(world.source / "links/alone").st_mtime_ns))
    os.symlink("here", world.source / "symlink")
    Path(os.fsdecode(bytes(world.source) + b"/" + ODD)).write_text("odd")


def spoil(world: World, glue: bool = True) -> dict[str, set[str]]:
    """Change the destination in all ways; return what is to be told, without what content alone tells."""
    there = world.destination
    rewrite(there / "content", "WHAT IS IN content")
    (there / "mode").chmod(0o600)
    os.utime(there / "mtime", (1, 1))
    (there / "size").write_text("more than that is in size")
    (there / "gone").unlink()
    shutil.rmtree(there / "type")
    (there / "type").write_text("no directory")
    (there / "extra/deep").mkdir(parents=True)
    (there / "extra/deep/file").touch()
    (there / "links/other").unlink()
    shutil.copy2(there / "links/one", there / "links/other")
    os.unlink(there / "symlink")
    os.symlink("there", there / "symlink")
    os.unlink(bytes(there) + b"/" + ODD)
    told = {
        "mode": {"mode"},
        "mtime": {"mtime"},
        "size": {"size", "mtime"},
        "gone": {"missing"},
        "type": {"type"},
        "extra": {"extra"},
        "links/one": {"hard links"},
        "links/other": {"hard links"},
        "symlink": {"content", "mtime"},
        SHOWN: {"missing"},
        ".": {"mtime"},
        "links": {"mtime"},
    }
    if glue:
        os.unlink(there / "links/like it")
        os.link(there / "links/alone", there / "links/like it")
        told |= {"links/alone": {"hard links"}, "links/like it": {"hard links"}}
    return told


def rewrite(path: Path, text: str) -> None:
    """Give a file another content of the same size, and the mtime that it has."""
    before = path.stat()
    assert len(text) == before.st_size
    path.write_text(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def told_by(done: Ended) -> dict[str, set[str]]:
    """Return what a run tells of each path, without the lines of numbers."""
    lines = [line for line in done.out.splitlines() if " entries compared" not in line]
    pairs = [line.partition("; mended")[0].partition(" (")[0].rsplit(": ", 1) for line in lines]
    return {path: set(what.split(", ")) for path, what in pairs}


def synced(world: World, *options: str | Path, env: dict[str, str] | None = None) -> None:
    """Make the destination equal."""
    done = world.run("--only-initialsync", NO_STATE, *options, env=env)
    assert done.code == 0, done.err


@contextmanager
def running(world: World, *options: str | Path, host: Remote | None = None) -> Iterator[Daemon]:
    """Run a daemon that answers, until everything is equal and nothing is left to do; `host`: its destination.

    fanotify would tell it what others do on this file system, and that it has to search for the names of their files.
    """
    where = f"-D{host.destination}" if host is not None else world.trees[1]
    own = (f"--socket={world.top}/socket", "--monitor=inotify", *QUICK)
    with world.bare(world.trees[0], where, *own, *options, env=host.environment if host else None) as daemon:
        daemon.wait_for_log(SYNCED)
        assert world.run("wait", f"-s{world.top}/socket", "--until-synced").code == 0
        world.demand_equal()
        yield daemon


@pytest.mark.parametrize("mode", MODES)
def test_without_a_daemon(world: World, mode: str) -> None:
    """Everything is told, by metadata or with content, nothing is changed; --repair makes it equal."""
    plant(world)
    options = (*world.trees, f"-M{mode}", NO_STATE)
    synced(world, *options)
    equal = world.run("verify", *options, "--checksum")
    assert (equal.code, told_by(equal)) == (0, {}), equal
    assert "all agree" in equal.out
    told = spoil(world)
    before = snapshot(bytes(world.destination))
    done = world.run("verify", *options)
    assert (done.code, told_by(done)) == (Exit.INCOMPLETE, told), done
    assert before == snapshot(bytes(world.destination))
    repaired = world.run("verify", *options, "--repair", "--checksum")
    assert (repaired.code, told_by(repaired)) == (0, told | {"content": {"content"}}), repaired
    assert repaired.out.count("; mended\n") == len(told) + 1
    world.demand_equal()


@pytest.mark.parametrize("mode", MODES)
def test_by_the_daemon(world: World, mode: str) -> None:
    """It goes through its pipeline; what is kept of the destination is part of the proof."""
    plant(world)
    options = (*world.trees, f"-M{mode}", f"--socket={world.top}/socket")
    with running(world, f"-M{mode}", f"--state-dir={states(world)}") as daemon:
        told = spoil(world)
        done = world.run("verify", *options)
        assert (done.code, told_by(done)) == (Exit.INCOMPLETE, told), done
        assert "index: " in done.out
        repaired = world.run("verify", *options, "--repair", "--checksum")
        assert (repaired.code, told_by(repaired)) == (0, told | {"content": {"content"}}), repaired
        world.demand_equal()
        assert "asks for repair" in daemon.output


def test_a_change_that_no_event_tells(world: World) -> None:
    """A store through a mapping shows in the mtime alone: neither the destination nor the index agrees."""
    file = world.write("mapped", "x" * 4096)
    os.utime(file, (1, 1))
    options = (*world.trees, f"--socket={world.top}/socket")
    with running(world, f"--state-dir={states(world)}"), file.open("r+b") as opened:
        with mmap.mmap(opened.fileno(), 4096) as mapping:
            mapping[0] = ord("y")
            if file.stat().st_mtime == 1:
                pytest.skip("this file system gives it no other mtime")
            done = world.run("verify", *options)
            assert (done.code, told_by(done)) == (
                Exit.INCOMPLETE,
                {"mapped": {"mtime"}, "index: mapped": {"not as it is noted"}},
            ), done
            repaired = world.run("verify", *options, "--repair")
            assert (repaired.code, told_by(repaired)) == (0, {"mapped": {"mtime"}}), repaired
            world.demand_equal()


@pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())}")
@pytest.mark.parametrize("kind", [SshHost, RsyncHost])
def test_at_another_host(world: World, kind: type[SshHost] | type[RsyncHost]) -> None:
    """A dry run tells it, whatever the names are; only files that became one while equal are not seen so."""
    plant(world)
    host = kind(world.top, world.destination)
    host.start()
    try:
        options = (f"-W{world.source}", f"-D{host.destination}", NO_STATE)
        synced(world, *options, env=host.environment)
        told = spoil(world, glue=False)
        done = world.run("verify", *options, env=host.environment)
        found = told_by(done)
        assert done.code == Exit.INCOMPLETE, done
        assert found.pop("links/other", found.pop("links/one", set())) == {"hard links"}
        assert found.pop("type") in ({"missing"}, {"type"})
        assert found == {path: told[path] for path in told.keys() - {"links/one", "links/other", "type"}}
        repaired = world.run("verify", *options, "--repair", "--checksum", env=host.environment)
        assert repaired.code == 0, repaired
        assert "content: content; mended" in repaired.out
        world.demand_equal()
    finally:
        host.stop()


@pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())}")
def test_a_scrub_of_another_host(world: World) -> None:
    """It goes directory by directory."""
    plant(world)
    host = RsyncHost(world.top, world.destination)
    host.start()
    try:
        with running(world, NO_STATE, "--scrub-rate=5000", "--scrub-checksum", host=host) as daemon:
            with daemon.held():  # what is changed step by step is not to be mended in between
                told = spoil(world, glue=False)
            world.wait_for_equal(daemon)
            for path in ("content", "size", "extra", SHOWN):
                daemon.wait_for_log(
                    f"scrub: {path} differs ({', '.join(sorted(told.get(path, {'content'}), reverse=True))})"
                )
            options = (f"-W{world.source}", f"-D{host.destination}", f"--socket={world.top}/socket", "--checksum")
            done = world.run("verify", *options, env=host.environment)
            assert (done.code, told_by(done)) == (0, {}), done
    finally:
        host.stop()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("own", [False, True], ids=["", "arguments"])
def test_rules(world: World, mode: str, own: bool) -> None:
    """What they reject is neither missing nor too much, and keeps the directories in which it lies."""
    if own and mode == "copy":
        pytest.skip("it takes none")
    world.write("kept")
    world.write("not this.bak")
    world.write("out/in")
    rules = world.file("rules", "-f\\.bak$\n-d^out$\n")
    arguments = ("--", "%RSYNC-ARGS%", f"{world.source}/", f"{world.destination}/") if own else ()
    options = (*world.trees, f"-M{mode}", f"-R{rules}", NO_STATE)
    synced(world, *options, *arguments)
    (world.destination / "out").mkdir()
    (world.destination / "old/deep").mkdir(parents=True)
    for name in ("alone.bak", "out/alone", "old/stays.bak", "old/deep/goes", "old/goes"):
        (world.destination / name).touch()
    told = {".": {"mtime"}, "old/deep": {"extra"}, "old/goes": {"extra"}}
    done = world.run("verify", *options, *arguments)
    assert (done.code, told_by(done)) == (Exit.INCOMPLETE, told), done
    assert world.run("verify", *options, "--repair", *arguments).code == 0
    assert os.listdir(world.destination / "old") == ["stays.bak"]
    again = world.run("verify", *options, *arguments)
    assert (again.code, told_by(again)) == (0, {}), again


@ROOT
@pytest.mark.root
@pytest.mark.parametrize("mode", MODES)
def test_owners_and_extended_attributes(world: World, mode: str) -> None:
    """Extended attributes count where they are synced."""
    file = world.write("file")
    os.setxattr(file, "user.a", b"1")
    synced(world, *world.trees, f"-M{mode}", "--xattrs")
    os.chown(world.destination / "file", 5, 6)
    os.setxattr(world.destination / "file", "user.a", b"2")
    plain = world.run("verify", *world.trees, f"-M{mode}", NO_STATE)
    assert told_by(plain) == {"file": {"owner", "group"}}, plain
    done = world.run("verify", *world.trees, f"-M{mode}", "--xattrs", NO_STATE, "--repair")
    assert told_by(done) == {"file": {"owner", "group", "xattrs"}}, done
    assert done.code == 0
    assert os.getxattr(world.destination / "file", "user.a") == b"1"


def test_json(world: World) -> None:
    """Programs get every name as it is."""
    plant(world)
    synced(world, *world.trees)
    os.unlink(bytes(world.destination) + b"/" + ODD)
    done = world.run("verify", *world.trees, NO_STATE, "--json")
    *differences, summary = map(json.loads, done.out.splitlines())
    (odd,) = (one for one in differences if one["path"] != ".")
    assert odd["path"].encode("utf-8", "surrogateescape") == ODD
    assert (odd["what"], odd["mended"], odd["destination"]) == (["missing"], False, str(world.destination))
    assert summary["targets"][0]["differing"] == 2


@contextmanager
def written(world: World) -> Iterator[None]:
    """Change the source all the time."""
    stop = threading.Event()

    def write() -> None:
        draw = random.Random(7)
        while not stop.wait(draw.choice((0.005, 0.05, 0.1))):
            one, other = (world.source / f"live/{draw.randrange(5)}/{draw.randrange(9)}" for _ in range(2))
            try:
                match draw.randrange(5):
                    case 0 | 1:
                        one.write_text("x" * draw.randrange(99))
                    case 2:
                        one.rename(other)
                    case 3:
                        one.unlink()
                    case 4:
                        one.chmod(draw.choice((0o600, 0o644)))
            except OSError:
                continue

    for number in range(5):
        (world.source / f"live/{number}").mkdir(parents=True)
    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        stop.set()
        writer.join()


@pytest.mark.parametrize("mode", MODES)
def test_what_is_on_its_way_is_no_difference(world: World, mode: str) -> None:
    """Neither verify nor the scrub takes it for one, and both find what is."""
    plant(world)
    options = (*world.trees, f"-M{mode}", f"--socket={world.top}/socket", "--checksum")
    with running(world, f"-M{mode}", "--scrub-rate=10000", "--scrub-checksum", NO_STATE) as daemon:
        with written(world):
            done = world.run("verify", *options)
            assert (done.code, told_by(done)) == (0, {}), done
            assert "scrub: " not in daemon.output, daemon.output
            with daemon.held():
                rewrite(world.destination / "content", "WHAT IS IN content")
            daemon.wait_for_log("scrub: content differs (content)")
        world.wait_for_equal(daemon)
        assert daemon.output.count("scrub: ") == 1, daemon.output


@ROOT
@pytest.mark.skipif(any(map(trouble_with, ("landlock", "seccomp"))), reason="needs Landlock and filters")
def test_what_compares_can_do_nothing_else(world: World) -> None:
    """It has the right to read closed directories, and no other."""
    plant(world)
    with running(world, "-Mcopy", "--scrub-rate=1") as daemon:
        found: list[dict[str, str]] = []

        def seen() -> bool:
            for pid in daemon.descendants(b"clsync.handler.compare.child"):
                with suppress(FileNotFoundError, ProcessLookupError):
                    found[:] = [status_of(Path(f"/proc/{pid}"))]
            return bool(found) and found[0]["Seccomp"] == "2"

        daemon.wait_until(seen, what="a process that compares, in its sandbox")
        assert found[0]["NoNewPrivs"] == "1"
        assert int(found[0]["CapEff"], 16) == 1 << 2, "CAP_DAC_READ_SEARCH alone"


@pytest.mark.parametrize("mode", MODES)
def test_the_scrub_mends(world: World, mode: str) -> None:
    """Everything becomes equal by itself, is named once, and shows in the status."""
    plant(world)
    with running(
        world, f"-M{mode}", "--scrub-rate=5000", "--scrub-checksum", f"--state-dir={states(world)}"
    ) as daemon:
        with daemon.held():
            told = spoil(world)
        world.wait_for_equal(daemon)
        # Where the pass at work comes by only later, a directory gets its time back with what is in it.
        for path in (told.keys() | {"content"}) - {".", "links"}:
            daemon.wait_for_log(f"scrub: {path} differs (")

        def status() -> dict[str, object]:
            found: dict[str, object] = json.loads(world.run("ctl", f"-s{world.top}/socket", "-j", "status").out)
            return found

        daemon.wait_until(lambda: status()["scrubbed_at"] is not None, what="a pass")
        assert daemon.output.count("scrub: content differs") == 1


@pytest.mark.parametrize("mode", MODES)
def test_too_much_is_not_deleted(world: World, mode: str) -> None:
    """What is there alone waits for a word; --repair and the scrub alike."""
    plant(world)
    with running(world, f"-M{mode}", "--scrub-rate=5000", "--max-delete=3", NO_STATE) as daemon:
        precious = world.top / "precious"
        precious.mkdir()
        for number in range(5):
            (precious / str(number)).touch()
        precious.rename(world.destination / "precious")  # at once: three of them might go
        daemon.wait_for_log("are left there: more than --max-delete allows")
        options = (*world.trees, f"-M{mode}", f"--socket={world.top}/socket")
        done = world.run("verify", *options, "--repair")
        assert done.code == Exit.INCOMPLETE, done
        assert "precious: extra (6 entries); 6 entries that the source does not have are left there" in done.out
        assert len(os.listdir(world.destination / "precious")) == 5
        assert world.run("ctl", f"-s{world.top}/socket", "accept").code == 0
        world.wait_for_equal(daemon)
        assert daemon.output.count("more than --max-delete allows") == 1
    alone = (*world.trees, f"-M{mode}", NO_STATE, "--max-delete=0", "--repair")
    (world.destination / "precious").touch()
    assert world.run("verify", *alone).code == Exit.INCOMPLETE
    assert world.run("verify", *alone, "--accept-target").code == 0
    world.demand_equal()


def test_two_destinations(world: World) -> None:
    """Each has its lines."""
    second = world.top / "second"
    second.mkdir()
    world.write("file")
    both = (*world.trees, f"-D{second}", NO_STATE)
    synced(world, *both)
    (second / "file").chmod(0o600)
    done = world.run("verify", *both)
    assert f"{second}: file: mode\n" in done.out
    assert f"{world.destination}: 2 entries compared, all agree\n" in done.out
    assert world.run("verify", *both, "--repair").code == 0
    assert world.run("verify", *both).code == 0


def test_what_cannot_be_read_is_told(world: World) -> None:
    """A destination that is away is no destination that agrees."""
    world.write("file")
    done = world.run("verify", f"-W{world.source}", "-Drsync://127.0.0.1:1/nothing", NO_STATE)
    assert done.code == Exit.DESTINATION, done
    assert "rsync://127.0.0.1:1/nothing: " in done.out
    with running(world, NO_STATE) as daemon:
        world.destination.rename(world.top / "elsewhere")
        world.destination.mkdir()
        done = world.run("verify", *world.trees, f"--socket={world.top}/socket")
        assert done.code == Exit.DESTINATION, done
        world.destination.rmdir()
        (world.top / "elsewhere").rename(world.destination)
        world.wait_for_equal(daemon)


def test_refusals(world: World) -> None:
    """What cannot be verified is an error that says so."""
    shell = (*world.trees, "-Mshell", "-S/bin/true")
    message, _ = world.run("verify", *shell).complaint(Exit.USAGE)
    assert "the handler alone knows" in message
    message, _ = world.run(*shell, "--scrub-rate=5").complaint(Exit.USAGE)
    assert message.startswith("--scrub-rate")
    message, _ = world.run("verify", *world.trees, "--rep").complaint(Exit.USAGE)
    assert "--rep" in message
    with running(world, f"--state-dir={states(world)}"):
        other = (f"-W{world.destination}", f"-D{world.source}", f"--socket={world.top}/socket")
        message, _ = world.run("verify", *other).complaint(Exit.REFUSED)
        assert str(world.destination) in message
        held = (*world.trees, f"--state-dir={states(world)}", "--repair")
        message, _ = world.run("verify", *held).complaint(Exit.UNREACHABLE)
        assert "a daemon keeps these destinations equal" in message


@ROOT
@pytest.mark.root
@pytest.mark.parametrize(
    ("mode", "how"), [("rsyncdirect", "off"), ("rsyncdirect", "process"), ("copy", "process"), ("copy", "thread")]
)
def test_whoever_decides(world: World, mode: str, how: str) -> None:
    """The part that answers, and decides, may read neither tree: the other one compares, whether asked or by itself."""
    world.source.chmod(0o700)
    world.destination.chmod(0o700)
    rewritten, file = world.write("rewritten"), world.write("d/file")
    for path in (rewritten, file, file.parent):
        path.chmod(0o700)
    options = (*world.trees, f"-M{mode}", f"--socket={world.top}/socket")
    split = f"--splitting={how}"
    with running(world, f"-M{mode}", split, f"--state-dir={states(world)}") as daemon:
        assert bool(workers_of(daemon)) is (how == "process")
        rewrite(world.destination / "rewritten", "REWRITTEN")
        (world.destination / "d/file").unlink()
        (world.destination / "extra").touch()
        told = {"d/file": {"missing"}, "extra": {"extra"}, "d": {"mtime"}, ".": {"mtime"}}
        done = world.run("verify", *options)
        assert (done.code, told_by(done)) == (Exit.INCOMPLETE, told), done
        assert "index: " in done.out
        done = world.run("verify", *options, "--repair", "--checksum")
        assert (done.code, told_by(done)) == (0, told | {"rewritten": {"content"}}), done
        world.demand_equal()
    with running(world, f"-M{mode}", split, NO_STATE, "--scrub-rate=5000", "--scrub-checksum") as daemon:
        with daemon.held():
            rewrite(world.destination / "rewritten", "REWRITTEN")
        world.wait_for_equal(daemon)
        daemon.wait_for_log("scrub: rewritten differs (content): handed over again")


@ROOT
@pytest.mark.root
def test_a_scrub_is_no_reason_for_one_process(world: World) -> None:
    world.write("file")
    with running(world, "-Mcopy", NO_STATE, "--scrub-rate=5000") as daemon:
        assert workers_of(daemon)
        assert "one process does everything" not in daemon.output


def test_who_asks_may_go_away(world: World) -> None:
    """A client that leaves ends its verification, and the daemon goes on."""
    plant(world)
    with running(world, NO_STATE) as daemon:
        client = Daemon(
            "verify", *world.trees, f"--socket={world.top}/socket", env=world.environment, cwd=world.top
        ).start()
        daemon.wait_for_log("asks for verify")
        client.kill()
        daemon.wait_until(lambda: not daemon.at_work(), what="the end of the comparison")
        world.write("later")
        world.wait_for_copy(daemon, "later")


@ROOT
@pytest.mark.root
@pytest.mark.parametrize("mode", MODES)
def test_with_fewer_rights(world: World, mode: str) -> None:
    """Who runs handlers compares: a daemon that is nobody may neither read the one nor write the other."""
    world.write("file").chmod(0o600)
    with running(world, f"-M{mode}", NO_STATE, "--uid=nobody", "--scrub-rate=5000") as daemon:
        (world.destination / "file").unlink()
        world.wait_for_equal(daemon)
        daemon.wait_for_log("scrub: file differs (missing): handed over again")
        done = world.run("verify", *world.trees, f"--socket={world.top}/socket", "--checksum")
        assert (done.code, told_by(done)) == (0, {}), done
