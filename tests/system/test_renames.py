"""What is renamed at the source is renamed at the destination: inodes stay, and no data moves."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from clsync.control.client import connected
from tests.support.daemon import Daemon
from tests.support.monitors import exchange
from tests.support.remotes import RsyncHost, SshHost, missing
from tests.support.shuffle import Shuffler, play
from tests.system.world import MODES, SYNCED, World

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
NO_STATE = "--state-dir=none"
DELAYS = ("-t0.1", "-w0.05")
MONITORS = [pytest.param("fanotify", marks=needs_root), "inotify"]


def build(top: Path) -> None:
    """Make three directories with names of all kinds, some files, and an empty directory."""
    for name in ("a", "b", "c"):
        (top / name / "sub").mkdir(parents=True)
        for number in range(4):
            (top / f"{name}/sub/{number}").write_text(f"{name}{number}" * 100)
        (top / name / "file").write_text(name * 1000)
        (top / name / os.fsdecode(b"odd \n'\"\\$*\xff")).write_bytes(b"odd")
    (top / "plain").write_text("plain" * 1000)
    (top / "other").write_text("other" * 1000)
    (top / "empty").mkdir()


def inodes(top: Path) -> dict[str, int]:
    """Return path -> inode of everything in a tree."""
    return {os.path.relpath(path, top): path.lstat().st_ino for path in top.rglob("*")}


def follow(world: World, *args: str, env: dict[str, str] | None = None) -> Daemon:
    """Return the program with what the tests need, not started."""
    return world.daemon("-d1", f"--socket={world.top}/socket", *args, env=env, delays=DELAYS)


@contextmanager
def held_up(world: World, daemon: Daemon) -> Iterator[None]:
    """Let all that is done in a `with` block be handed over together."""
    socket = world.top / "socket"
    daemon.wait_until(socket.exists, what="the socket")
    with connected(bytes(socket), timeout=20) as client:
        client.pause([], True)
        with daemon.held():
            yield
        for _ in range(2):
            daemon.wait_until(lambda: asleep(daemon), what="a rest")
            time.sleep(0.03)  # it rests for 10 ms before it reads the next events
        client.pause([], False)


def asleep(daemon: Daemon) -> bool:
    """Tell whether the program waits for something, all of it."""
    try:
        tasks = [task for pid in daemon.family() for task in Path(f"/proc/{pid}/task").iterdir()]
        return all((task / "stat").read_text().rpartition(") ")[2].startswith("S") for task in tasks)
    except OSError:
        return False  # one of them has ended just now


@contextmanager
def one_window(world: World, daemon: Daemon) -> Iterator[None]:
    """Do the same, and wait until it has arrived."""
    batches = ended_batches(daemon)
    with held_up(world, daemon):
        yield
    world.wait_for_equal(daemon)
    # What is renamed while a batch deals with it is left to the next batch.
    daemon.wait_until(lambda: ended_batches(daemon) > batches, what="the end of the batch")


def ended_batches(daemon: Daemon) -> int:
    """Return how many batches have ended."""
    return daemon.output.count("Info: batch ")


def rename_a_directory(top: Path) -> None:
    (top / "a").rename(top / "new")


def rename_a_file(top: Path) -> None:
    (top / "plain").rename(top / "a/new")


def chain(top: Path) -> None:
    (top / "a").rename(top / "n1")
    (top / "n1").rename(top / "n2")
    (top / "n2").rename(top / "b/n3")


def shift(top: Path) -> None:
    (top / "c").rename(top / "d")
    (top / "b").rename(top / "c")
    (top / "a").rename(top / "b")


def ring(top: Path) -> None:
    (top / "a").rename(top / "t")
    (top / "b").rename(top / "a")
    (top / "c").rename(top / "b")
    (top / "t").rename(top / "c")


def swap_at_once(top: Path) -> None:
    exchange(top / "a", top / "b")


def swap_by_hand(top: Path) -> None:
    (top / "a").rename(top / "t")
    (top / "b").rename(top / "a")
    (top / "t").rename(top / "b")


def out_of_what_is_moved(top: Path) -> None:
    (top / "a").rename(top / "new")
    (top / "new/sub").rename(top / "b/moved")


def upside_down(top: Path) -> None:
    (top / "a/sub").rename(top / "sub")
    (top / "a").rename(top / "sub/a")


def into_a_new_directory(top: Path) -> None:
    (top / "new").mkdir()
    (top / "a").rename(top / "new/a")


def over_an_empty_directory(top: Path) -> None:
    (top / "a").rename(top / "empty")


def file_over_file(top: Path) -> None:
    (top / "plain").rename(top / "other")


def take_the_place_of_what_is_gone(top: Path) -> None:
    for path in sorted((top / "b").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (top / "b").rmdir()
    (top / "a").rename(top / "b")


CASES = [
    rename_a_directory, rename_a_file, chain, shift, ring, swap_at_once, swap_by_hand, out_of_what_is_moved, upside_down,
    into_a_new_directory, over_an_empty_directory, file_over_file, take_the_place_of_what_is_gone,
]  # fmt: skip


def demand_kept(world: World, here: dict[str, int], there: dict[str, int]) -> None:
    """Fail if something that stood at both sides, and does so still, was made anew at the destination.

    `here`, `there`: the inodes before.
    """
    changed = anew(world, here, there)
    assert not changed, f"made anew: {changed[:5]} ({len(changed)})"


def anew(world: World, here: dict[str, int], there: dict[str, int]) -> list[str]:
    """Return what was made anew (see `demand_kept`)."""
    copy_of = {inode: there[path] for path, inode in here.items()}
    now, now_there = inodes(world.source), inodes(world.destination)
    return sorted(path for path, inode in now.items() if inode in copy_of and now_there.get(path) != copy_of[inode])


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Return old trees: a start takes no file in them for one that may have changed under its hands."""
    top = tmp_path_factory.mktemp("stock")
    made = {"one": [top / f"one{number}" for number in range(20)], "all": [top / f"all{n}" for n in range(10)]}
    for tree in made["one"]:
        build(tree)
    for tree in made["all"]:
        for case in CASES:
            build(tree / case.__name__)
    young = max(path.lstat().st_ctime for path in top.rglob("*"))
    while time.time() < young + 1.3:
        time.sleep(0.05)
    return made


def source_from(trees: list[Path], world: World) -> World:
    """Let a tree be the source."""
    world.source.rmdir()
    trees.pop().rename(world.source)
    return world


@pytest.fixture
def tree(stock: dict[str, list[Path]], world: World) -> World:
    """Return a world with one old tree."""
    return source_from(stock["one"], world)


@pytest.fixture
def trees(stock: dict[str, list[Path]], world: World) -> World:
    """Return a world with an old tree for each case."""
    return source_from(stock["all"], world)


def be_ready(world: World, daemon: Daemon) -> None:
    """Wait until a rename is not taken for something that may have changed during the start."""
    daemon.wait_for_log(SYNCED.removeprefix("Info: "))
    probe = world.source / "probe"
    with one_window(world, daemon):
        probe.mkdir()  # what is told of a file that was written may come later than its name
    for number in range(20):
        renamed = world.source / f"probe{number}"
        if kept(world, partial(probe.rename, renamed), daemon):
            return
        probe = renamed
    raise AssertionError("nothing is renamed")


def play_cases(world: World, daemon: Daemon) -> None:
    """Let all cases happen at once, each in its tree."""
    here, there = inodes(world.source), inodes(world.destination)
    with one_window(world, daemon):
        for case in CASES:
            case(world.source / case.__name__)
    demand_kept(world, here, there)
    demand_no_litter(world)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("monitor", MONITORS)
def test_what_is_renamed_keeps_its_inode(trees: World, mode: str, monitor: str) -> None:
    with follow(trees, f"--mode={mode}", f"--monitor={monitor}") as daemon:
        be_ready(trees, daemon)
        play_cases(trees, daemon)


@needs_root
@pytest.mark.parametrize(
    ("splitting", "mode", "monitor"),
    [("process", "rsyncdirect", "fanotify"), ("process", "copy", "inotify"), ("thread", "copy", "fanotify")],
)
def test_by_the_part_with_rights(trees: World, splitting: str, mode: str, monitor: str) -> None:
    """The part that decides has none."""
    with follow(trees, f"--splitting={splitting}", f"--mode={mode}", f"--monitor={monitor}") as daemon:
        be_ready(trees, daemon)
        play_cases(trees, daemon)


@needs_root
def test_by_the_user_who_runs_handlers(tree: World) -> None:
    """That is root, while the daemon itself may write nothing."""
    with follow(tree, "--mode=copy", "-unobody") as daemon:
        be_ready(tree, daemon)
        assert kept(tree, partial(ring, tree.source), daemon)


def test_each_alone(trees: World) -> None:
    with follow(trees) as daemon:
        be_ready(trees, daemon)
        for case in CASES:
            assert kept(trees, partial(case, trees.source / case.__name__), daemon), case.__name__


def kept(world: World, act: Callable[[], object], daemon: Daemon) -> bool:
    """Change something, wait until it has arrived, and tell whether all inodes are kept."""
    here, there = inodes(world.source), inodes(world.destination)
    with one_window(world, daemon):
        act()
    demand_no_litter(world)
    return not anew(world, here, there)


def demand_no_litter(world: World) -> None:
    """Fail if something is left over from putting things aside."""
    assert not list(world.destination.rglob(".clsync-*"))


@pytest.mark.parametrize("monitor", MONITORS)
def test_one_rename_after_the_other(tree: World, monitor: str) -> None:
    """Each is told in a window of its own, and the batch before has dealt with the same names."""
    with follow(tree, f"--monitor={monitor}") as daemon:
        be_ready(tree, daemon)
        names = [tree.source / name for name in ("a", "n1", "n2", "b/n3", "n4", "a", "n1")]
        done = [kept(tree, partial(old.rename, new), daemon) for old, new in pairwise(names)]
        # What goes on elsewhere on the file system may keep the queue from being seen empty in between.
        assert any(one and other for one, other in pairwise(done)), done


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("monitor", MONITORS)
def test_what_changes_with_the_rename_arrives(tree: World, mode: str, monitor: str) -> None:
    """Also where neither size nor time tell of it."""
    with follow(tree, f"--mode={mode}", f"--monitor={monitor}") as daemon:
        be_ready(tree, daemon)
        here, there = inodes(tree.source), inodes(tree.destination)
        with one_window(tree, daemon):
            rewrite(tree.source / "a/sub/1")
            (tree.source / "a").rename(tree.source / "new")
            rewrite(tree.source / "new/sub/2")
            (tree.source / "new/sub/3").unlink()
            (tree.source / "new/sub/new").write_text("new")
            (tree.source / "new/sub").chmod(0o700)
            rewrite(tree.source / "plain")
            (tree.source / "plain").rename(tree.source / "renamed")
        changed = {"new/sub/1", "new/sub/2", "renamed", "new/sub/new"}
        assert set(anew(tree, here, there)) <= changed


def rewrite(path: Path) -> None:
    """Change the content, and neither size nor time."""
    found = path.stat()
    with open(path, "r+b") as file:
        file.write(b"!")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


@needs_root
@pytest.mark.parametrize("mode", MODES)
def test_what_had_failed_before_is_not_lost(tree: World, mode: str) -> None:
    """It has the size and the time of its copy: nothing but the dirty set knows of it."""
    busy = tree.destination / "a/file"
    with follow(tree, f"--mode={mode}") as daemon:
        be_ready(tree, daemon)
        with file_mounted(busy):
            rewrite(tree.source / "a/file")
            daemon.wait_for_log("a/file: ")
            (tree.source / "a").rename(tree.source / "new")
            daemon.wait_until(lambda: (tree.destination / "new/sub/0").exists(), what="the directory")
        tree.wait_for_equal(daemon)


@contextmanager
def file_mounted(place: Path) -> Iterator[None]:
    """Let a file be busy for a while, so that nothing can take its place (needs root)."""
    subprocess.run(["mount", "--bind", place, place], check=True)
    try:
        yield
    finally:
        # It may have been moved with its directory.
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            point = line.split()[4]
            if point.startswith(f"{place.parent.parent}/"):
                subprocess.run(["umount", "-l", point], check=True)


@pytest.mark.parametrize("mode", MODES)
def test_away_and_in(tree: World, mode: str) -> None:
    with follow(tree, f"--mode={mode}") as daemon:
        daemon.wait_for_log(SYNCED)
        outside = tree.top / "outside"
        (tree.source / "a").rename(outside)
        (tree.source / "b").rename(tree.source / "a")
        tree.wait_for_equal(daemon)
        outside.rename(tree.source / "c/back")
        tree.wait_for_equal(daemon)
        demand_no_litter(tree)


def nothing_at_the_old_place(there: Path, theirs: Path) -> None:
    shutil.rmtree(there / "a")


def something_at_the_new_place(there: Path, theirs: Path) -> None:
    (there / "new/deep").mkdir(parents=True)
    (there / "new/deep/theirs").write_text("theirs")


def a_symlink_at_the_old_place(there: Path, theirs: Path) -> None:
    (there / "a").rename(theirs)
    (there / "a").symlink_to(theirs)


def a_symlink_at_the_new_place(there: Path, theirs: Path) -> None:
    theirs.mkdir()
    (theirs / "file").write_text("theirs")
    (there / "new").symlink_to(theirs)


def a_file_at_the_old_place(there: Path, theirs: Path) -> None:
    shutil.rmtree(there / "a")
    (there / "a").write_text("theirs")


MEDDLING = [
    nothing_at_the_old_place, something_at_the_new_place, a_symlink_at_the_old_place, a_symlink_at_the_new_place,
    a_file_at_the_old_place,
]  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_what_others_have_done_at_the_destination_does_no_harm(world: World, mode: str) -> None:
    for meddle in MEDDLING:
        build(world.source / meddle.__name__)
    with follow(world, f"--mode={mode}") as daemon:
        daemon.wait_for_log(SYNCED)
        for meddle in MEDDLING:
            top, theirs = world.source / meddle.__name__, world.top / f"theirs of {meddle.__name__}"
            meddle(world.destination / meddle.__name__, theirs)
            before = inodes(theirs)
            (top / "a").rename(top / "new")
            world.wait_for_equal(daemon)
            assert inodes(theirs) == before
        demand_no_litter(world)


@pytest.mark.parametrize("mode", MODES)
def test_rules_that_may_speak_of_what_was_renamed(tree: World, mode: str) -> None:
    """What they protect at the destination stays where it is."""
    rules = tree.file("rules", "-f\\.skip$\n")
    with follow(tree, f"--mode={mode}", f"-R{rules}") as daemon:
        daemon.wait_for_log(SYNCED)
        (tree.destination / "a/theirs.skip").write_text("theirs")
        (tree.source / "a").rename(tree.source / "new")
        tree.wait_for_equal(daemon, ignore=lambda path: path.endswith(b".skip") or path == b"a")
        assert tree.copied("a/theirs.skip") == "theirs"
        assert [path.name for path in (tree.destination / "a").iterdir()] == ["theirs.skip"]


@pytest.mark.parametrize("mode", MODES)
def test_rules_that_speak_of_other_places(tree: World, mode: str) -> None:
    rules = tree.file("rules", "-*^b(/|$)\n")
    shutil.rmtree(tree.source / "b")
    with follow(tree, f"--mode={mode}", f"-R{rules}") as daemon:
        be_ready(tree, daemon)
        assert kept(tree, lambda: rename_a_directory(tree.source), daemon)
        (tree.destination / "b").mkdir()
        (tree.destination / "b/theirs").write_text("theirs")
        (tree.source / "new").rename(tree.source / "b")  # from what counts to what does not
        daemon.wait_until(lambda: not (tree.destination / "new").exists(), what="the deletion")
        assert tree.copied("b/theirs") == "theirs"
        assert os.listdir(tree.destination / "b") == ["theirs"]


def holding_rsync(world: World) -> tuple[Path, Path, dict[str, str]]:
    """Return a file that holds rsync up while it is there, one that tells that it does, and the environment for it."""
    hold, held = world.top / "hold", world.top / "held"
    program = world.top / "bin/rsync"
    program.parent.mkdir()
    waiting = f"while [ -e {hold} ]; do : >{held}; sleep 0.05; done"
    program.write_text(f'#!/bin/sh\n{waiting}\nexec {shutil.which("rsync")} "$@"\n')
    program.chmod(0o755)
    return hold, held, {"PATH": f"{program.parent}:{os.environ['PATH']}"}


@pytest.mark.parametrize("monitor", MONITORS)
def test_what_was_renamed_while_a_batch_dealt_with_it(world: World, monitor: str) -> None:
    """The batch has sent another directory under the old name, which looks like the right one."""
    for name in ("a", "y"):
        path = world.write(f"{name}/file", name)
        os.utime(path, ns=(10**18, 10**18))
    (world.source / "a").rename(world.top / "a")
    hold, held, path_to_it = holding_rsync(world)
    with follow(world, "--mode=rsyncdirect", f"--monitor={monitor}", "--sandbox=off", env=path_to_it) as daemon:
        be_ready(world, daemon)
        hold.touch()
        (world.top / "a").rename(world.source / "a")
        daemon.wait_until(held.exists, what="the handler")
        (world.source / "a").rename(world.source / "b")
        (world.source / "y").rename(world.source / "a")
        hold.unlink()
        world.wait_for_equal(daemon)


def all_is_written_down(world: World) -> bool:
    """Tell whether the state knows what the destination holds."""
    with connected(bytes(world.top / "socket"), timeout=20) as client:
        return client.status()["state_dirty"] == 0


@pytest.mark.parametrize("state", [NO_STATE, "--state-dir=auto"])
def test_killed_between_the_rename_and_the_batch(tree: World, state: str) -> None:
    """The next start makes all of it right, also by what was written down before."""
    hold, held, path_to_it = holding_rsync(tree)
    with follow(tree, "--mode=rsyncdirect", "--sandbox=off", state, env=path_to_it) as daemon:
        be_ready(tree, daemon)
        if state != NO_STATE:
            daemon.wait_until(lambda: all_is_written_down(tree), what="the state of all that was handed over")
        here, there = inodes(tree.source), inodes(tree.destination)
        with held_up(tree, daemon):
            ring(tree.source)
            (tree.source / "other").unlink()
            hold.touch()
        daemon.wait_until(held.exists, what="the handler")
        if state == NO_STATE:
            demand_kept(tree, {path: here[path] for path in here if path != "other"}, there)
        daemon.kill()
    hold.unlink()
    with tree.daemon("--mode=rsyncdirect", "--sandbox=off", state, env=path_to_it) as daemon:
        if state != NO_STATE:
            daemon.wait_for_log("warm start: ")
        tree.wait_for_equal(daemon)
        demand_no_litter(tree)


def test_every_target(tree: World) -> None:
    """Each has its own copy, and each renames it."""
    world = tree
    other = world.top / "other"
    other.mkdir()
    with follow(world, f"-D{other}", "--mode=copy") as daemon:
        daemon.wait_until(lambda: daemon.output.count(SYNCED.removeprefix("Info: ")) == 2, what="both")
        be_ready(world, daemon)
        daemon.wait_for_equal(bytes(world.source), bytes(other))
        before = [inodes(top) for top in (world.source, world.destination, other)]
        with one_window(world, daemon):
            ring(world.source)
        daemon.wait_for_equal(bytes(world.source), bytes(other))
        demand_kept(world, before[0], before[1])
        world.destination = other
        demand_kept(world, before[0], before[2])


def test_a_target_that_lags_behind(world: World) -> None:
    """Another directory has taken the place of what was renamed, in a window that tells of no rename."""
    other, outside = world.top / "other", world.top / "outside"
    other.mkdir()
    outside.mkdir()
    for path in (world.write("a/file", "a"), outside / "file"):
        path.write_text(path.parent.name[0])
        os.utime(path, ns=(10**18, 10**18))
    with follow(world, f"-D{other}", "--mode=copy", "--monitor=inotify") as daemon:
        daemon.wait_until(lambda: daemon.output.count(SYNCED.removeprefix("Info: ")) == 2, what="both")
        be_ready(world, daemon)
        daemon.wait_for_equal(bytes(world.source), bytes(other))
        with connected(bytes(world.top / "socket"), timeout=20) as client:
            client.pause([str(other)], True)
            (world.source / "a").rename(world.source / "b")
            world.wait_for_equal(daemon)
            shutil.rmtree(world.source / "b")
            outside.rename(world.source / "b")
            world.wait_for_equal(daemon)
            client.pause([str(other)], False)
        daemon.wait_for_equal(bytes(world.source), bytes(other))


@pytest.mark.parametrize(
    ("mode", "monitor"), [pytest.param("rsyncdirect", "fanotify", marks=needs_root), ("copy", "inotify")]
)
def test_files_that_look_alike_are_never_taken_for_each_other(world: World, mode: str, monitor: str) -> None:
    outside = world.top / "outside"
    outside.mkdir()
    shuffler = Shuffler(world.source, outside, 7)
    with world.daemon(f"--mode={mode}", f"--monitor={monitor}") as daemon:
        daemon.wait_for_log(SYNCED)
        play(daemon, shuffler, world.destination, turns=8, seed=7)


needs_remotes = pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())}")


@contextmanager
def remote(
    world: World, kind: type[SshHost] | type[RsyncHost], restricted: str = ""
) -> Iterator[tuple[SshHost | RsyncHost, Daemon]]:
    """Run the program with a destination at a host; `restricted`: what is put before the key there."""
    host = kind(world.top, world.destination)
    if restricted:
        key = world.top / "ssh/user.pub"
        key.write_text(restricted + key.read_text())
    host.start()
    try:
        with world.bare(
            f"-W{world.source}",
            f"-D{host.destination}",
            "-d1",
            *DELAYS,
            f"-s{world.top}/socket",
            env=host.environment,
        ) as daemon:
            daemon.wait_for_log(SYNCED)
            yield host, daemon
    finally:
        host.stop()


@needs_remotes
def test_by_ssh(trees: World) -> None:
    with remote(trees, SshHost) as (host, daemon):
        be_ready(trees, daemon)
        play_cases(trees, daemon)
        assert host.connections == 1


@needs_remotes
def test_by_ssh_where_there_is_no_shell(tree: World) -> None:
    """The other end runs nothing but rsync: the batch alone does it."""
    only = 'case \\"$SSH_ORIGINAL_COMMAND\\" in rsync*) exec $SSH_ORIGINAL_COMMAND;; esac; exit 1'
    with remote(tree, SshHost, f'command="{only}" ') as (_, daemon):
        assert not kept(tree, partial(ring, tree.source), daemon)


@needs_remotes
def test_by_an_rsync_daemon(tree: World) -> None:
    with remote(tree, RsyncHost) as (_, daemon):
        assert not kept(tree, lambda: ring(tree.source), daemon)
