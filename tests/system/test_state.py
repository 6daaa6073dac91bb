"""The state: what a start knows of the destinations, and what becomes of that."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from clsync.core.changes import CONTENT, DOUBT, NAME
from clsync.core.listing import pack_part, record_of
from clsync.kernel.durable import boot_id
from clsync.state import index, schema
from clsync.state.journal import unpacked
from clsync.state.meta import Meta
from clsync.state.store import Store
from tests.support.churn_run import Settings, run_seed
from tests.support.daemon import Argument, Daemon
from tests.support.flood import flood, held
from tests.system.test_splitting import NOBODY, worker_of
from tests.system.world import MODES, QUICK, ROOT, SYNCED, World, memory_directory, mounted, states, unmount

MONITORS = ("fanotify", "inotify")
SPLIT = "--splitting=process"
WAYS = pytest.mark.parametrize("how", ["off", "process", "thread"])
"""Of splitting: who keeps the state."""
BOTH = pytest.mark.parametrize("how", ["off", "process"])
WARM = "Info: warm start: "
KEPT_AT = 1_000_000_000

pytestmark = ROOT


def database(world: World) -> Path:
    (found,) = states(world).glob("*/state.db")
    return found


def kept(world: World, *args: Argument) -> Daemon:
    """Return a daemon with a state."""
    return world.daemon(f"--state-dir={states(world)}", *args)


def old(world: World, *names: str) -> None:
    """Let files be older than what a file system may stamp in one tick."""
    for name in names:
        path = world.write(name)
        os.utime(path, ns=(KEPT_AT, KEPT_AT))


def journal(world: World) -> list[bytes]:
    """Return what a destination may not hold as the index says."""
    return named(world, "flush = 0")


def unflushed(world: World) -> list[bytes]:
    """Return what was confirmed, and may be lost with the power."""
    return named(world, "flush > 0")


def named(world: World, which: str) -> list[bytes]:
    """Return what rows of the journal name."""
    with closing(sqlite3.connect(f"file:{database(world)}?mode=ro", uri=True)) as rows:
        return [
            path for (row,) in rows.execute(f"SELECT content FROM journal WHERE {which}") for path in unpacked(row)
        ]


def is_complete(world: World) -> bool:
    return bool([*states(world).glob("*/state.db")]) and not journal(world)


def learn(world: World, daemon: Daemon) -> None:
    """Wait until the state knows everything."""
    daemon.wait_for_log("initial sync done ")
    daemon.wait_until(lambda: is_complete(world), what="a complete state")


def differs(daemon: Daemon) -> int:
    """Return how many objects the start that has warmed up found different."""
    daemon.wait_for_log(WARM)
    return int(daemon.output.rpartition(WARM)[2].split()[0])


def tamper(world: World, name: str) -> None:
    """Change a file at the destination behind the back of clsync, of the same size and times."""
    path = world.destination / name
    found = path.stat()
    path.write_text("?" * found.st_size)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def is_tampered(world: World, name: str) -> bool:
    text = world.copied(name)
    return text is not None and set(text) == {"?"}


def restart(world: World, daemon: Daemon) -> None:
    """End a daemon that has a complete state."""
    learn(world, daemon)
    daemon.stop()


@BOTH
@pytest.mark.parametrize("monitor", MONITORS)
@pytest.mark.parametrize("mode", MODES)
def test_only_what_differs_is_handed_over(world: World, mode: str, monitor: str, how: str) -> None:
    old(world, "a/same", "a/gone", "a/changed", "b/moved", "c/below/it")
    options = (f"-M{mode}", f"--monitor={monitor}", f"--splitting={how}")
    with kept(world, *options) as daemon:
        restart(world, daemon)
    tamper(world, "a/same")
    (world.source / "a/gone").unlink()
    (world.source / "a/changed").write_text("other text")
    (world.source / "b/moved").rename(world.source / "a/moved")
    (world.source / "c").rename(world.source / "d")
    world.write("new/file")
    with kept(world, *options) as daemon:
        assert 5 <= differs(daemon) <= 12
        daemon.wait_for_log(SYNCED)
        assert is_tampered(world, "a/same")
        (world.destination / "a/same").write_text("a/same")
        os.utime(world.destination / "a/same", ns=(KEPT_AT, KEPT_AT))
        world.wait_for_equal(daemon)


@pytest.mark.parametrize(
    ("mode", "how"), [("rsyncdirect", "off"), ("copy", "off"), ("copy", "process"), ("rsyncdirect", "thread")]
)
def test_nothing_is_handed_over_where_nothing_differs(world: World, mode: str, how: str) -> None:
    old(world, "a/one", "two")
    with kept(world, f"-M{mode}", f"--splitting={how}") as daemon:
        learn(world, daemon)
        world.write("a/three")
        os.utime(world.source / "two", ns=(1, 1))
        world.wait_for_equal(daemon)
        daemon.wait_until(lambda: is_complete(world), what="a complete state")
        daemon.stop()
    with kept(world, f"-M{mode}", "-v4", f"--splitting={how}") as daemon:
        assert differs(daemon) == 0
        daemon.wait_for_log(SYNCED)
        assert "batch" not in daemon.output
        world.write("a/four")
        world.wait_for_copy(daemon, "a/four")


@BOTH
def test_bounded_runs_count_a_start_without_differences(world: World, how: str) -> None:
    old(world, "a/one")
    state = f"--state-dir={states(world)}"
    for bound in ("--only-initialsync", "--max-iterations=1", "--only-initialsync"):
        ended = world.run(*world.trees, state, bound, f"--splitting={how}")
        assert (ended.code, ended.troubles) == (0, []), ended.err
        assert (WARM in ended.err) == (bound != "--only-initialsync" or is_tampered(world, "a/one")), ended.err
        if bound == "--only-initialsync":
            tamper(world, "a/one")
    assert is_tampered(world, "a/one")


@BOTH
def test_what_a_run_without_a_monitor_may_have_missed_is_looked_at_again(world: World, how: str) -> None:
    """Between its looks something may have come and gone, and still be there: such directories are compared."""
    old(world, "a/one", "b/two")
    slow = world.file(
        "rsync", '#!/bin/sh\nrsync=$(PATH=/usr/bin:/bin command -v rsync)\n"$rsync" "$@"\ntouch "$TOUCHED"\n', 0o755
    )
    state = f"--state-dir={states(world)}"
    environment = {"TOUCHED": str(world.source / "a/during")}
    options = ("-Mrsyncdirect", f"-S{slow}", "--only-initialsync", f"--splitting={how}")
    ended = world.run(*world.trees, state, *options, env=environment)
    assert ended.code == 0, ended.err
    assert b"a" in journal(world)
    assert b"b" not in journal(world)


@BOTH
@pytest.mark.parametrize(
    "damage", [lambda path: path.write_bytes(b"no database" * 1000), lambda path: os.truncate(path, 8000)]
)
def test_a_state_that_is_damaged_is_set_aside(world: World, damage: object, how: str) -> None:
    old(world, "a/one")
    with kept(world, f"--splitting={how}") as daemon:
        restart(world, daemon)
    (world.destination / "a/one").unlink()
    assert callable(damage)
    damage(database(world))
    with kept(world, f"--splitting={how}") as daemon:
        daemon.wait_for_log("is set aside: ")
        learn(world, daemon)
        world.demand_equal()
        assert WARM not in daemon.output
    assert database(world).with_name("state.db.aside").exists()


@WAYS
def test_other_rules_make_it_void(world: World, how: str) -> None:
    old(world, "a/one", "a/two")
    rules = world.file("rules", "-f^a/two$\n+*.*\n")
    split = f"--splitting={how}"
    with kept(world, split) as daemon:
        restart(world, daemon)
    tampered = world.destination / "a/one"
    tampered.unlink()
    with kept(world, split, f"-R{rules}") as daemon:
        daemon.wait_for_log("made with other rules")
        learn(world, daemon)
        world.wait_for_copy(daemon, "a/one")
        rules.write_text("+*.*\n")
        os.kill(daemon.pid, signal.SIGHUP)
        daemon.wait_for_log("rules: read again")
        daemon.wait_until(lambda: is_complete(world), what="a complete state by the new rules")
        daemon.stop()
    with kept(world, split, f"-R{rules}") as daemon:
        assert differs(daemon) == 0


def test_each_destination_has_its_own(world: World) -> None:
    old(world, "a/one")
    other = world.top / "other"
    other.mkdir()
    with kept(world) as daemon:
        restart(world, daemon)
    with world.bare(f"-W{world.source}", f"-D{other}", f"--state-dir={states(world)}") as daemon:
        daemon.wait_for_log(SYNCED)
        assert WARM not in daemon.output
        assert (other / "a/one").read_text() == "a/one"
    assert len([*states(world).glob("*/state.db")]) == 2
    with kept(world) as daemon:
        assert differs(daemon) == 0


SMALL_LISTS = """
import sys
import clsync.daemon.noting
clsync.daemon.noting._LISTED = 10
from clsync.cli.main import main
sys.exit(main())
"""
"""The program, to which ten names are many."""


@BOTH
def test_a_large_directory_that_comes_to_several_destinations_is_known_afterwards(world: World, how: str) -> None:
    """It is recorded once for all of them; what changes in it meanwhile is known as well."""
    others = [world.top / name for name in ("second", "third")]
    for other in others:
        other.mkdir()
    args = [*world.trees, *(f"-D{other}" for other in others), *QUICK, f"--state-dir={states(world)}"]
    program: list[Argument] = [sys.executable, world.file("small.py", SMALL_LISTS)]

    def start() -> Daemon:
        return Daemon(*args, f"--splitting={how}", env=world.environment, cwd=world.top, program=program)

    old(world, "a/one")
    large = world.top / "large"
    for number in range(40):
        (large / f"{number % 4}").mkdir(parents=True, exist_ok=True)
        (large / f"{number % 4}/{number}").write_text(f"{number}")
    with start() as daemon:
        daemon.wait_until(lambda: daemon.output.count("initial sync done") == 3, what="all")
        learn(world, daemon)
        large.rename(world.source / "large")
        for number in range(10):
            world.write(f"large/{number % 4}/new{number}")
        for destination in (world.destination, *others):
            daemon.wait_for_equal(bytes(world.source), bytes(destination))
        restart(world, daemon)
    with start() as daemon:
        assert differs(daemon) == 0
        daemon.wait_until(lambda: daemon.output.count("initial sync done") == 3, what="all")


@BOTH
def test_an_empty_destination_is_another_one(world: World, how: str) -> None:
    old(world, "a/one")
    with kept(world, f"--splitting={how}") as daemon:
        restart(world, daemon)
    (world.destination / "a/one").unlink()
    (world.destination / "a").rmdir()
    with kept(world, f"--splitting={how}") as daemon:
        world.wait_for_copy(daemon, "a/one")


@contextmanager
def disk(image: Path, device: str, place: Path) -> Iterator[None]:
    """Let a device be a disk, and mount it."""
    until = time.monotonic() + 5  # the one before may be on its way out
    while subprocess.run(["losetup", device, image], check=False, capture_output=True).returncode:
        if time.monotonic() > until:
            pytest.skip(f"{device} is used by others")
        time.sleep(0.05)
    try:
        with mounted("xfs", place, device=device):
            yield
            unmount(place)
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


@pytest.mark.skipif(shutil.which("mkfs.xfs") is None, reason="needs mkfs.xfs")
def test_two_disks_that_take_turns(world: World) -> None:
    """XFS tells of the device alone what it is."""
    disks = [world.top / "one", world.top / "other"]
    for image in disks:
        subprocess.run(["truncate", "-s", "320M", image], check=True)
        subprocess.run(["mkfs.xfs", "-q", image], check=True)
    old(world, "a/one")
    device = subprocess.run(["losetup", "-f"], check=True, capture_output=True, text=True).stdout.strip()
    for number, image in enumerate([*disks, *disks]):
        name = world.write(f"b/{number}").name
        with disk(image, device, world.destination), kept(world, "-Mcopy") as daemon:
            daemon.wait_for_log(SYNCED)
            assert (world.destination / "b" / name).exists()
            world.demand_equal()
            restart(world, daemon)


@BOTH
def test_what_could_not_be_held_is_compared_when_it_can(world: World, how: str) -> None:
    """Who runs handlers may not have been allowed to set owners."""
    world.top.chmod(0o755)
    old(world, "a/one", "two")
    os.chown(world.source / "two", 1234, 1234)
    os.chown(world.destination, NOBODY, NOBODY)
    options = ("-Mrsyncdirect", f"--splitting={how}")
    with kept(world, *options, "--sync-handler-uid=nobody") as daemon:
        daemon.wait_for_log("the destination cannot hold owners")
        restart(world, daemon)
    for warm in (False, True):
        with kept(world, *options) as daemon:
            daemon.wait_for_log(SYNCED)
            world.demand_equal()
            assert (WARM in daemon.output) == warm
            restart(world, daemon)


@BOTH
def test_two_destinations_one_of_them_away(world: World, how: str) -> None:
    """The state is one; what is dirty is known of each."""
    old(world, "a/one")
    second = world.top / "second"
    with mounted("tmpfs", second):
        both = (f"-D{second}", f"--splitting={how}")
        with kept(world, *both) as daemon:
            daemon.wait_until(lambda: daemon.output.count("initial sync done") == 2, what="both")
            restart(world, daemon)
        world.write("a/two")
        with kept(world, *both) as daemon:
            daemon.wait_until(lambda: daemon.output.count("initial sync done") == 2, what="both")
            assert 1 <= differs(daemon) <= 2
            assert (second / "a/two").read_text() == "a/two"
            world.demand_equal()


@pytest.mark.parametrize("mode", MODES)
def test_versions_of_a_file_that_one_destination_has_missed(world: World, mode: str) -> None:
    """What it holds may have the size and mtime of the last one."""
    old(world, "a/one")
    second, socket = world.top / "second", world.top / "socket"
    second.mkdir()
    options = (f"-M{mode}", f"-D{second}", f"--socket={socket}")

    def known_size() -> int:
        with closing(sqlite3.connect(f"file:{database(world)}?mode=ro", uri=True)) as rows:
            return index.noted(rows, [b"a/one"])[b"a/one"].size

    with kept(world, *options) as daemon:
        daemon.wait_until(lambda: daemon.output.count("initial sync done") == 2, what="both")
        daemon.wait_until(lambda: is_complete(world), what="a complete state")
        assert world.run("ctl", "-s", socket, "pause", f"--target={second}").code == 0
        file = world.write("a/one", "longer text")
        daemon.wait_until(lambda: known_size() == 11, what="a confirmed file")
        file.write_text("a/two")
        os.utime(file, ns=(KEPT_AT, KEPT_AT))
        daemon.wait_until(lambda: known_size() == 5, what="another one")
        daemon.kill()
    assert (second / "a/one").read_text() == "a/one"
    with kept(world, *options) as daemon:
        daemon.wait_until(lambda: (second / "a/one").read_text() == "a/two", what="the last version")


@BOTH
@pytest.mark.parametrize("mode", MODES)
def test_events_that_were_lost_are_found_without_a_look_at_the_destination(mode: str, how: str) -> None:
    with memory_directory() as top:
        world = World(top)
        old(world, *(f"d{number}/same" for number in range(50)))
        with kept(world, f"-M{mode}", "--monitor=inotify", f"--splitting={how}") as daemon:
            learn(world, daemon)
            tamper(world, "d7/same")
            with held(daemon.family()):
                flood(world.source)
                for number in range(50):
                    for name in ("x", "y", "z"):
                        world.write(f"d{number}/{name}")
            daemon.wait_for_log("what changed unseen was looked for: ")
            world.wait_for_equal(daemon, ignore=lambda path: path == b"d7/same")
            assert is_tampered(world, "d7/same")
            os.kill(daemon.pid, signal.SIGUSR2)
            world.write("d7/last")
            world.wait_for_copy(daemon, "d7/last")
            daemon.wait_until(lambda: is_complete(world), what="a complete state")


@pytest.fixture
def boot(tmp_path: Path) -> list[Argument]:
    """Return a head for commands that lets them see another boot of the machine."""
    other = tmp_path / "boot_id"
    other.write_text("01234567-89ab-cdef-0123-456789abcdef\n")
    script = 'mount --bind "$1" /proc/sys/kernel/random/boot_id && shift && exec "$@"'
    return ["unshare", "-m", "sh", "-c", script, "sh", other]


def test_what_was_not_flushed_is_handed_over_again_after_a_loss_of_power(world: World, boot: list[Argument]) -> None:
    old(world, "flushed")
    state = f"--state-dir={states(world)}"
    calm = (state, "--monitor=inotify")
    assert world.run(*world.trees, *calm, "--exit-on-no-events").code == 0
    daemon = kept(world, "--monitor=inotify").start()
    try:
        daemon.wait_until(lambda: not unflushed(world), 60, what="a flush")
        old(world, "later")
        world.wait_for_copy(daemon, "later")
        daemon.wait_until(lambda: is_complete(world), what="a confirmed file")
    finally:
        daemon.kill()
    tamper(world, "flushed")
    tamper(world, "later")
    ended = world.run(*world.trees, *calm, "--exit-on-no-events", head=boot)
    assert ended.code == 0, ended.err
    assert WARM in ended.err
    assert world.copied("later") == "later"
    assert is_tampered(world, "flushed")


def test_a_state_that_cannot_be_written_ends_nothing(world: World) -> None:
    with mounted("tmpfs", states(world), "size=400k"):
        with kept(world) as daemon:
            daemon.wait_for_log(SYNCED)
            for number in range(3000):
                world.write(f"{number}-{'long' * 40}")
            daemon.wait_for_log("is no longer kept: ", 60)
            world.wait_for_equal(daemon)
        with kept(world) as daemon:
            daemon.wait_for_log(SYNCED)
            assert WARM not in daemon.output


def test_what_others_have_changed_at_the_target_is_found_however_often_the_comparison_fails(world: World) -> None:
    """The state knows nothing of it."""
    fails = world.top / "fails"
    program = world.top / "bin/rsync"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\n[ ! -e {fails} ] || exit 12\nexec {shutil.which("rsync")} "$@"\n')
    program.chmod(0o755)
    old(world, "d/one")
    env = {"PATH": f"{program.parent}:{os.environ['PATH']}"}
    options = f"--state-dir={states(world)}", "-Mrsyncdirect", "--sandbox=off"
    with world.daemon(*options, env=env) as daemon:
        learn(world, daemon)
        (world.destination / "d/theirs").write_text("theirs")
        fails.touch()
        os.kill(daemon.pid, signal.SIGUSR2)
        daemon.wait_for_log("nothing is lost, next try in ")
        fails.unlink()
        world.wait_for_equal(daemon)


def test_a_state_that_is_removed_while_it_is_used_ends_nothing(world: World) -> None:
    with kept(world) as daemon:
        learn(world, daemon)
        (directory,) = states(world).iterdir()
        shutil.rmtree(directory)
        world.write("file")
        daemon.wait_for_log("is no longer kept: it was removed, or another one was put in its place; the next start")
        world.write("more")
        world.wait_for_equal(daemon)
    with kept(world) as daemon:
        daemon.wait_for_log(SYNCED)
        assert WARM not in daemon.output


def test_where_there_can_be_none(world: World) -> None:
    handler = world.file("handler", "#!/bin/sh\n", 0o755)
    state = f"--state-dir={states(world)}"
    for options in (("-Msimple", f"-S{handler}"), ("--skip-initialsync",)):
        message, hint = world.run(*world.trees, state, *options).complaint(22)
        assert message.startswith("--state-dir: there can be no state "), message
        assert "--state-dir=none" in hint
    file = world.file("file", "")
    message, _ = world.run(*world.trees, f"--state-dir={file}", "--only-initialsync").complaint(7)
    assert message.startswith(f"--state-dir: {file}"), message


def test_runs_without_it_are_not_trusted_afterwards(world: World) -> None:
    old(world, "a/one")
    place = {"STATE_DIRECTORY": str(states(world))}
    for options in ((), ("--state-dir=none",), ()):
        ended = world.run(*world.trees, "--only-initialsync", *options, env=place)
        assert WARM not in ended.err, ended.err
    assert WARM in world.run(*world.trees, "--only-initialsync", env=place).err


def test_one_at_a_time(world: World) -> None:
    old(world, "a/one")
    with kept(world) as daemon:
        learn(world, daemon)
        message, hint = world.run(*world.trees, f"--state-dir={states(world)}", "--only-initialsync").complaint(7)
        assert "another process uses the state" in message
        assert "--state-dir" in hint
        ended = world.run(*world.trees, "--only-initialsync", env={"STATE_DIRECTORY": str(states(world))})
        assert (ended.code, len(ended.troubles)) == (0, 1), ended.err
        daemon.stop()
    with kept(world) as daemon:
        assert differs(daemon) == 0


def test_a_killed_worker_leaves_what_the_next_start_goes_on_with(world: World) -> None:
    old(world, "a/one")
    with kept(world, SPLIT) as daemon:
        learn(world, daemon)
        os.kill(worker_of(daemon), signal.SIGKILL)
        daemon.wait_for_log("the worker has ended")
        daemon.wait(code=1)
    world.write("a/two")
    with kept(world, SPLIT) as daemon:
        assert 1 <= differs(daemon) <= 2
        world.wait_for_copy(daemon, "a/two")


def test_a_state_changes_hands(world: World) -> None:
    """To who has no rights it is given; what he has written is not read with rights."""
    old(world, "a/one")
    with kept(world, "--splitting=off") as daemon:
        restart(world, daemon)
    with kept(world, SPLIT) as daemon:
        assert differs(daemon) == 0
        restart(world, daemon)
        owners = {path.stat().st_uid for path in (database(world).parent, *database(world).parent.iterdir())}
        assert owners == {NOBODY}
    with kept(world, "--splitting=off") as daemon:
        daemon.wait_for_log("was kept by another user")
        restart(world, daemon)
        assert WARM not in daemon.output
    assert database(world).stat().st_uid == 0
    with kept(world, SPLIT) as daemon:
        assert differs(daemon) == 0


def forge_journal(rows: sqlite3.Connection, place: bytes) -> None:
    """Let the journal name what lies outside."""
    keys = [key for (key,) in rows.execute("SELECT key FROM target")]
    store = Store.open(place, Meta.read(rows).identity, keys, boot_id())
    store.hand_over(keys[0], {b"../victim": NAME, b"a/../../victim": NAME | CONTENT, b"/etc/victim": DOUBT}, 0.0)
    store.close()


def forge_listing(rows: sqlite3.Connection, place: bytes) -> None:
    """Let the index know names that lead out."""
    record = record_of(os.stat(place), 1 << 62)
    index.put(rows, [(b"a", [(b"", pack_part(b"a", [b"", b"..", b"../../victim"], [record] * 3))])])


@BOTH
@pytest.mark.parametrize(
    ("forge", "told"),
    [(forge_journal, "names what does not lie in the watched"), (forge_listing, "it is damaged at a")],
)
def test_a_forged_state_leads_nowhere(
    world: World, forge: Callable[[sqlite3.Connection, bytes], None], told: str, how: str
) -> None:
    """Whoever may write it can have everything compared, and nothing else."""
    victims = [world.top / "victim", world.destination.parent / "victim.txt"]
    for victim in victims:
        victim.write_text("victim")
    old(world, "a/one")
    with kept(world, f"--splitting={how}") as daemon:
        restart(world, daemon)
    place = database(world).parent
    owner = place.stat().st_uid
    os.chown(place, 0, 0)
    with closing(schema.connect(bytes(database(world)), write=True)) as rows:
        forge(rows, bytes(place))
    for path in (*place.iterdir(), place):
        os.chown(path, owner, owner)
    world.write("a/two")
    with kept(world, f"--splitting={how}") as daemon:
        daemon.wait_for_log(told)
        world.wait_for_equal(daemon)
    assert {victim.read_text() for victim in victims} == {"victim"}


def test_another_user(world: World) -> None:
    world.top.chmod(0o755)
    old(world, "a/one")
    os.chown(world.destination, 65534, 65534)
    with kept(world, "--uid=nobody", "-Mcopy") as daemon:
        restart(world, daemon)
    with kept(world, "--uid=nobody", "-Mcopy") as daemon:
        assert differs(daemon) == 0
    assert database(world).stat().st_uid == 65534


def test_it_is_seen_from_outside(world: World) -> None:
    old(world, "a/one")
    place = world.top / "socket"
    with kept(world, f"--socket={place}") as daemon:
        learn(world, daemon)

        def status() -> dict[str, object]:
            found: dict[str, object] = json.loads(world.run("ctl", f"-s{place}", "--json", "status").out)
            return found

        found = status()
        assert found["state_dir"] == str(database(world).parent)
        assert (found["state_dirty"], found["state_lost"]) == (0, None)
        numbers = itertools.count()

        def awaits_a_flush() -> bool:
            world.write(f"b/{next(numbers)}")  # what was written before may have been flushed by now
            return status()["unflushed"] != 0

        daemon.wait_until(awaits_a_flush, what="something that awaits a flush")


@pytest.mark.churn
@pytest.mark.timeout(0)
@pytest.mark.parametrize(
    ("mode", "monitor", "seed", "how"),
    [
        ("rsyncdirect", "fanotify", 6, "off"),
        ("copy", "inotify", 3, "off"),
        ("copy", "fanotify", 6, "process"),
        ("rsyncdirect", "inotify", 3, "process"),
    ],
)
def test_killed_at_any_moment(mode: str, monitor: str, seed: int, how: str) -> None:
    extra = (f"--splitting={how}",)
    result = run_seed(seed, Settings(mode=mode, monitor=monitor, crash=True, seconds=4, operations=800, extra=extra))
    assert not result.failed, result.details
    assert result.kills
    assert result.warm
