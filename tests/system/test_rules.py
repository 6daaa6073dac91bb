"""Rules: what is rejected does not exist for clsync, on both sides, at the start, in batches, in new directories."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from clsync.errors import Exit
from tests.support.daemon import Daemon
from tests.support.trees import Snapshot, snapshot
from tests.system.world import MODES, ROOT, SYNCED, World

pytestmark = pytest.mark.parametrize("mode", MODES)

SKIP = b"-*\\.skip$\n"


def skipped(path: bytes) -> bool:
    """Tell what SKIP rejects (what is below is asked for by nobody)."""
    return path.endswith(b".skip")


def rejected_part(tree: Snapshot) -> Snapshot:
    """Return what stands at and below rejected names."""
    return {path: entry for path, entry in tree.items() if b".skip" in path}


def names(top: os.PathLike[str]) -> set[bytes]:
    """Return the names of a whole tree."""
    return set(snapshot(os.fsencode(top), content=False)) - {b""}


def options(world: World, mode: str, rules: bytes, *more: str) -> tuple[str, ...]:
    """Return the options for a rules file."""
    (world.top / "rules").write_bytes(rules)
    return (f"-M{mode}", f"-R{world.top}/rules", *more)


def plant(top: os.PathLike[str], content: str, *paths: str) -> None:
    """Write files with one content; names that end with a slash are directories."""
    for path in paths:
        place = os.path.join(top, path)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        if not path.endswith("/"):
            with open(place, "w") as file:
                file.write(content)


def settle(daemon: Daemon) -> None:
    """Wait until the start is over, with the look at all names that follows: from now on events alone count."""
    daemon.wait_for_log(SYNCED)
    os.kill(daemon.pid, signal.SIGHUP)
    daemon.wait_for_log("rules: nothing has changed")  # its loop has turned: the look has begun
    daemon.wait_until(lambda: not daemon.at_work(), what="the end of the look at all names")


@contextmanager
def skipping(world: World, mode: str) -> Iterator[Daemon]:
    """Run with SKIP; at the end all is equal, and what is rejected stands at the destination as it stood before."""
    before = rejected_part(snapshot(bytes(world.destination)))
    with world.daemon(*options(world, mode, SKIP)) as daemon:
        world.wait_for_equal(daemon, ignore=skipped)
        yield daemon
        world.wait_for_equal(daemon, ignore=skipped)
        daemon.stop(signal.SIGQUIT)
        world.demand_equal(skipped)
        assert rejected_part(snapshot(bytes(world.destination))) == before
        assert "Error" not in daemon.output, daemon.output


# -- both sides ------------------------------------------------------------------------------------------------


def test_what_is_rejected_stays_at_the_destination(world: World, mode: str) -> None:
    """It is there only, or there is something else of that name here; beside it all is deleted that has to be."""
    plant(world.destination, "theirs", "x.skip", "d/x.skip", "d.skip/x", "both.skip", "d/both.skip", "gone", "old/f")
    plant(world.source, "ours", "both.skip", "d/both.skip/", "file", "d/file")
    with skipping(world, mode) as daemon:
        plant(world.source, "changed", "d/file", "d/both.skip/x", "both.skip", "d/new")
        world.wait_for_equal(daemon, ignore=skipped)
        (world.source / "both.skip").unlink()
        (world.source / "file").unlink()
        os.kill(daemon.pid, signal.SIGUSR2)


def test_what_is_rejected_is_not_copied(world: World, mode: str) -> None:
    """Made before the start, after it, in a new directory, in one that was moved in, and in one that is compared again."""
    plant(world.source, "ours", "early.skip", "d/early.skip", "d.skip/early", "file")
    plant(world.top, "ours", "outside/x.skip", "outside/x", "outside/d/x.skip", "outside/d.skip/x")
    with skipping(world, mode) as daemon:
        plant(world.source, "ours", "late.skip", "d/late.skip", "d.skip/late", "late", "new.skip/d/x", "new.skip/x.c")
        plant(
            world.source, "ours", "new/x.skip", "new/x", "new/d/x.skip", "new/d.skip/x", "new/d/e/x", "new/d/e/x.skip"
        )
        world.wait_for_equal(daemon, ignore=skipped)
        (world.top / "outside").rename(world.source / "moved in")
        world.wait_for_equal(daemon, ignore=skipped)
        plant(world.source, "ours", "new/d/later.skip", "moved in/later.skip")
        os.kill(daemon.pid, signal.SIGUSR2)
        plant(world.source, "ours", "new/d/last.skip", "new/d/last")
    assert names(world.destination) == {
        b"file", b"d", b"late", b"new", b"new/x", b"new/d", b"new/d/e", b"new/d/e/x", b"new/d/last",
        b"moved in", b"moved in/x", b"moved in/d",
    }  # fmt: skip


def test_a_rejected_file_made_while_a_new_directory_is_synced(world: World, mode: str) -> None:
    """A list made by a walk would miss it."""
    with skipping(world, mode) as daemon:
        for number in range(30):
            plant(world.source, "ours", f"new{number}/x", f"new{number}/d/x")
            plant(world.source, "ours", f"new{number}/x.skip", f"new{number}/d/x.skip", f"new{number}/e.skip/x")
        world.wait_for_equal(daemon, ignore=skipped)


def test_directories_that_hold_what_is_rejected(world: World, mode: str) -> None:
    """Deleted or moved away here: there, they keep just what is rejected."""
    plant(world.source, "ours", "deleted/d/file", "moved/d/file", "deleted/e/file")
    plant(world.destination, "theirs", "deleted/d/x.skip", "moved/d/x.skip", "moved/own")
    with world.daemon(*options(world, mode, SKIP)) as daemon:
        daemon.wait_for_log(SYNCED)
        shutil.rmtree(world.source / "deleted")
        (world.source / "moved").rename(world.source / "there")
        daemon.wait_until(lambda: world.copied("there/d/file") == "ours", what="the new name")
        daemon.wait_until(lambda: not (world.destination / "moved/d/file").exists(), what="the old name")
        daemon.wait_until(lambda: not (world.destination / "deleted/d/file").exists(), what="the deletion")
        daemon.stop(signal.SIGQUIT)
    assert names(world.destination) == {
        b"deleted", b"deleted/d", b"deleted/d/x.skip", b"moved", b"moved/d", b"moved/d/x.skip",
        b"there", b"there/d", b"there/d/file",
    }  # fmt: skip
    assert world.copied("deleted/d/x.skip") == world.copied("moved/d/x.skip") == "theirs"


@pytest.mark.parametrize("monitor", ["fanotify", "inotify"])
def test_a_destination_that_is_rejected_may_lie_inside(world: World, mode: str, monitor: str) -> None:
    """As when a whole system is backed up to a disk that is mounted in it."""
    if monitor == "fanotify" and os.geteuid() != 0:
        pytest.skip("needs root")
    backup, lists = world.source / "mnt/backup", world.source / "mnt/lists"
    backup.mkdir(parents=True)
    plant(world.source, "ours", "d/file", "mnt/other")
    rules = world.file("inside", "-d^mnt$\n")
    trees = (f"-W{world.source}", f"-D{backup}", f"-M{mode}", f"-L{lists}", f"--monitor={monitor}")
    done = world.run(*trees, "--only-initialsync", f"-R{rules}", "-F")
    assert "lies inside" in done.complaint(Exit.DESTINATION)[0]
    with world.bare(*trees, f"-R{rules}", "-t0.1", "-w0") as daemon:
        daemon.wait_for_log(SYNCED)
        plant(world.source, "ours", "d/new")
        daemon.wait_until((backup / "d/new").exists, what="the new file")
        (world.source / "d/file").unlink()
        daemon.wait_until(lambda: not (backup / "d/file").exists(), what="the deletion")
        daemon.stop(signal.SIGQUIT)
    assert names(backup) == {b"d", b"d/new"}


def test_between_rejected_and_permitted_names(world: World, mode: str) -> None:
    """A rename, a hard link and an exchange of the two."""
    plant(world.source, "one", "comes.skip", "goes", "linked.skip", "tree.skip/d/x", "tree.skip/d/y.skip")
    os.link(world.source / "linked.skip", world.source / "linked")
    with skipping(world, mode) as daemon:
        (world.source / "comes.skip").rename(world.source / "comes")
        (world.source / "goes").rename(world.source / "goes.skip")
        (world.source / "tree.skip").rename(world.source / "tree")
        world.wait_for_equal(daemon, ignore=skipped)
        plant(world.source, "two", "linked.skip", "tree/d/y.skip")
        world.wait_for_copy(daemon, "linked", "two")
        os.link(world.source / "comes", world.source / "comes too.skip")
        (world.source / "comes").unlink()
        world.wait_for_equal(daemon, ignore=skipped)
        (world.source / "comes too.skip").rename(world.source / "comes back")
    assert world.copied("comes back") == "one"
    assert world.copied("tree/d/x") == "one"


def test_what_takes_the_place_of_something_else(world: World, mode: str) -> None:
    """Permitted as one type, rejected as another."""
    rules = b"-d^a$\n-f^b$\n"
    plant(world.source, "ours", "a", "b/x")
    with world.daemon(*options(world, mode, rules)) as daemon:
        world.wait_for_equal(daemon)
        (world.source / "a").unlink()
        shutil.rmtree(world.source / "b")
        plant(world.source, "ours", "a/x", "b", "marker")
        world.wait_for_copy(daemon, "marker", "ours")
        daemon.stop(signal.SIGQUIT)
    assert b"a/x" not in names(world.destination)
    assert not (world.destination / "b").is_file()


# -- the letters and the grammar ---------------------------------------------------------------------------------


TREE = ("a/b/x.txt", "a/b/c/x.txt", "a/x.txt", "x.txt", "x.o", "x~", "build/x", "a/build/x", "cache/x", "a/cache/x")
FILES = {path.encode() for path in TREE}
DIRECTORIES = {b"a", b"a/b", b"a/b/c", b"build", b"a/build", b"cache", b"a/cache"}
ALL = FILES | DIRECTORIES


def without(*rejected: bytes) -> set[bytes]:
    """Return ALL but these paths and what is below them."""
    return {path for path in ALL if not any((path + b"/").startswith(top + b"/") for top in rejected)}


@pytest.mark.parametrize("instead", ["link", "file", "dangling"])
def test_a_directory_that_gives_way_to_something_else(world: World, mode: str, instead: str) -> None:
    """Also to a symlink that leads to where it was moved, less a file or two that are gone from there."""
    plant(world.source, "text", "d/a", "d/e/a", "d/e/b", "d/e/f/a", "d/n", "other/")
    with world.daemon(*options(world, mode, SKIP), delays=("-t0.3", "-w0")) as daemon:
        world.wait_for_equal(daemon)
        settle(daemon)
        (world.source / "d").rename(world.source / "other/d")
        for gone in ("n", "e/b", "e/f/a"):
            (world.source / "other/d" / gone).unlink()
        if instead == "file":
            world.write("d")
        else:
            (world.source / "d").symlink_to("other/d" if instead == "link" else "nowhere")
        world.wait_for_equal(daemon)


@pytest.mark.parametrize(
    ("rules", "permitted"),
    [
        (b"-f~$\n-f\\.o$\n-d^build$\n", without(b"x~", b"x.o", b"build")),
        (b"+f\\.txt$\n+d\n-*\n", DIRECTORIES | {path for path in FILES if path.endswith(b".txt")}),
        (b"+*^a/b(/|$)\n+w^$\n+w^a$\n-*\n", {b"a", b"a/b", b"a/b/c", b"a/b/x.txt", b"a/b/c/x.txt"}),
        (b"-d(^|/)cache$\n", without(b"cache", b"a/cache")),
        (b"-w^a/b$\n", without(b"a/b/x.txt", b"a/b/c")),
        (b"-D^A$\n-F\\.TXT$\n-*^a/[[:alpha:]]{2,}$", without(b"a/build", b"a/cache")),
        (b"-*", set()),
        (b"# all\n\n-f^x\\.(o|txt)$\n#-*\n", without(b"x.o", b"x.txt")),
    ],
)
def test_which_rule_decides(world: World, mode: str, rules: bytes, permitted: set[bytes]) -> None:
    """The same at the start, and when the tree appears later."""
    plant(world.source, "early", *TREE)
    done = world.run(*world.trees, *options(world, mode, rules, "--only-initialsync"))
    assert done.code == 0, done.err
    assert names(world.destination) == permitted
    if not permitted:
        return
    (world.top / "later").mkdir()
    inner = World(world.top / "later")
    with inner.daemon(*options(inner, mode, rules)) as daemon:
        settle(daemon)
        plant(inner.source, "late", *TREE)
        daemon.wait_until(lambda: names(inner.destination) == permitted, what="what is permitted")
        daemon.stop(signal.SIGQUIT)
    assert names(inner.destination) == permitted


def test_every_type_but_directories_is_a_file(world: World, mode: str) -> None:
    """Symlinks, also to directories, fifos and sockets, before the start and after it."""
    rules = b"-f^no\n+*\n"
    make: list[Callable[[str], object]] = [
        lambda path: os.symlink("/etc", path),
        lambda path: os.symlink("nowhere", path),
        lambda path: os.mkfifo(path),
    ]
    for number, one in enumerate(make):
        one(f"{world.source}/no{number}")
        one(f"{world.source}/yes{number}")
    with world.daemon(*options(world, mode, rules)) as daemon:
        world.wait_for_equal(daemon, ignore=lambda path: path.startswith(b"no"))
        for number, one in enumerate(make):
            one(f"{world.source}/no later{number}")
            one(f"{world.source}/yes later{number}")
        world.wait_for_equal(daemon, ignore=lambda path: path.startswith(b"no"))
        daemon.stop(signal.SIGQUIT)
    assert {name[:3] for name in names(world.destination)} == {b"yes"}


def test_odd_names(world: World, mode: str) -> None:
    """Rules are about bytes: any may stand in a name, most of them in a rule."""
    rules = b"-f\xff$\n-f^new.line\n-f[*]\n-f^ \n"
    rejected = (b"a\xff", b"new\nline", b"st*r", b" blank", b"d/b\xff")
    permitted = (b"\xff\xfe", b"new", b"a b", b"[x", b"#", b";x", b"-x", b"d/\n")
    top = os.fsencode(world.source)
    with world.daemon(*options(world, mode, rules)) as daemon:
        daemon.wait_for_log(SYNCED)
        os.mkdir(top + b"/d")
        for name in rejected + permitted:
            with open(os.path.join(top, name), "wb") as file:
                file.write(name)
        world.wait_for_equal(daemon, ignore=lambda path: path in rejected)
        daemon.stop(signal.SIGQUIT)
    assert names(world.destination) == {b"d", *permitted}


def test_a_directory_whose_content_alone_counts(world: World, mode: str, request: pytest.FixtureRequest) -> None:
    """`s`: it is made because it is needed, its mode and time are its own."""
    if mode == "rsyncdirect":
        reason = "rsync gives parents of what it sends their attributes"
        request.applymarker(pytest.mark.xfail(strict=True, reason=reason))
    plant(world.source, "ours", "spool/x")
    (world.source / "spool").chmod(0o700)
    (world.destination / "spool").mkdir(mode=0o711)
    with world.daemon(*options(world, mode, b"-s^spool$\n")) as daemon:
        world.wait_for_copy(daemon, "spool/x", "ours")
        plant(world.source, "ours", "spool/later", "spool/d/x")
        (world.source / "spool").chmod(0o750)
        world.wait_for_copy(daemon, "spool/later", "ours")
        world.wait_for_copy(daemon, "spool/d/x", "ours")
        (world.source / "spool/x").unlink()
        daemon.wait_until(lambda: world.copied("spool/x") is None, what="the deletion")
        daemon.stop(signal.SIGQUIT)
    assert (world.destination / "spool").stat().st_mode & 0o777 == 0o711


@pytest.mark.parametrize("monitor", ["inotify", pytest.param("fanotify", marks=[ROOT, pytest.mark.root])])
def test_a_directory_that_is_not_monitored(world: World, mode: str, monitor: str) -> None:
    """`m`: what changes in it is found when everything is compared."""
    plant(world.source, "early", "log/x", "x")
    with world.daemon(*options(world, mode, b"-m^log(/|$)\n", f"--monitor={monitor}")) as daemon:
        world.wait_for_equal(daemon)
        settle(daemon)
        plant(world.source, "late", "log/y", "y")
        world.wait_for_copy(daemon, "y", "late")
        daemon.wait_until(lambda: not daemon.at_work(), what="rest")
        assert world.copied("log/y") is None
        os.kill(daemon.pid, signal.SIGUSR2)
        world.wait_for_equal(daemon)


@pytest.mark.parametrize("monitor", ["inotify", pytest.param("fanotify", marks=[ROOT, pytest.mark.root])])
def test_a_directory_that_a_walk_rule_permits_comes_later(world: World, mode: str, monitor: str) -> None:
    """`W`, and `w`: it is watched like one that was there, whatever rejects the rest."""
    rules = b"+f\\.txt$\n+W^$\n+W^sub$\n+w^sub/d$\n-*\n"
    with world.daemon(*options(world, mode, rules, f"--monitor={monitor}")) as daemon:
        settle(daemon)
        plant(world.source, "ours", "sub/x.txt", "sub/x", "other/x.txt")
        world.wait_for_copy(daemon, "sub/x.txt", "ours")
        plant(world.source, "ours", "sub/y.txt", "sub/d/x.txt")
        world.wait_for_copy(daemon, "sub/y.txt", "ours")
        world.wait_for_copy(daemon, "sub/d/x.txt", "ours")
        plant(world.source, "ours", "sub/d/y.txt")
        world.wait_for_copy(daemon, "sub/d/y.txt", "ours")
        daemon.stop(signal.SIGQUIT)
    assert names(world.destination) == {
        b"sub", b"sub/x.txt", b"sub/y.txt", b"sub/d", b"sub/d/x.txt", b"sub/d/y.txt"
    }  # fmt: skip


WAY = b"+*^a/b(/|$)\n+w^$\n+w^a$\n-*\n"
"""Only what is in a/b; `a` itself is walked and not synced."""


def test_a_way_that_is_moved_in(world: World, mode: str) -> None:
    """What it holds comes with it; nothing is made for one that holds nothing of interest."""
    plant(world.top, "ours", "outside/b/x", "outside/x")
    plant(world.source, "ours", "a/x")
    with world.daemon(*options(world, mode, WAY)) as daemon:
        settle(daemon)
        assert names(world.destination) == set()
        (world.source / "a").rename(world.top / "before")
        (world.top / "outside").rename(world.source / "a")
        world.wait_for_copy(daemon, "a/b/x", "ours")
        daemon.stop(signal.SIGQUIT)
    assert names(world.destination) == {b"a", b"a/b", b"a/b/x"}


def test_a_way_that_is_moved_away(world: World, mode: str) -> None:
    """What it held is permitted, and gone."""
    plant(world.source, "ours", "a/b/x", "a/b/y")
    with world.daemon(*options(world, mode, WAY)) as daemon:
        world.wait_for_copy(daemon, "a/b/x", "ours")
        daemon.wait_for_log(SYNCED)
        (world.source / "a").rename(world.top / "away")
        os.kill(daemon.pid, signal.SIGUSR2)
        daemon.stop(signal.SIGQUIT)
    assert not (world.destination / "a/b").exists()


def test_full_initialsync_deletes_too(world: World, mode: str) -> None:
    """Where rules do not count, they protect nothing."""
    plant(world.destination, "theirs", "x.skip", "d/x.skip")
    plant(world.source, "ours", "d/y.skip")
    done = world.run(*world.trees, *options(world, mode, SKIP, "-F", "--only-initialsync"))
    assert done.code == 0, done.err
    world.demand_equal()


@pytest.mark.parametrize("reread", [False, True])
def test_rules_that_let_nothing_be_synced_are_named(world: World, mode: str, reread: bool) -> None:
    """As in the examples of clsync 0.4: the watched directory itself is rejected, and with it the way to all else."""
    rules = world.file("rules", "" if reread else "+f\\.txt$\n-*\n")
    world.write("a.txt")
    with world.daemon(f"-M{mode}", f"-R{rules}") as daemon:
        daemon.wait_for_log(SYNCED)
        if reread:
            assert "rejects the watched directory" not in daemon.output
            rules.write_text("+f\\.txt$\n-*\n")
            os.kill(daemon.pid, signal.SIGHUP)
        daemon.wait_for_log("Warning: rules, line 2: -*: rejects the watched directory itself: nothing in it is ever")
        rules.write_text("+d^$\n+f\\.txt$\n-*\n")
        os.kill(daemon.pid, signal.SIGHUP)
        world.wait_for_copy(daemon, "a.txt")
        assert daemon.output.count("rejects the watched directory") == 1
