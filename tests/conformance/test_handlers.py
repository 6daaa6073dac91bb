"""One suite for all handlers: a batch in, an outcome out, and the destination is what the outcome says."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from clsync.core.batch import MISSING, Batch, Outcome, Verdict
from clsync.core.changes import ATTRIB, CONTENT, DOUBT, NAME
from clsync.core.classify import CHANGE_SHIFT, Classifier
from clsync.core.rules import Rules
from clsync.handler.command import CommandHandler, CommandStyle
from clsync.handler.rsync.recipe import Recipe
from clsync.handler.rsync.run import MOST_STALLS, RESENT_BYTES
from clsync.kernel.process import python_in_reach
from clsync.kernel.walk import lstat_below
from clsync.privilege.profiles import scan_sandbox
from tests.support.bench import ALL_FRESH, EVERYTHING, LOCAL, NONE_FRESH, Bench, local_handler, rsync_handler
from tests.support.remotes import RsyncHost, SshHost, missing
from tests.support.rights import NOBODY, without_privileges
from tests.support.sandboxes import usable
from tests.support.trees import snapshot

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
EXACT = ("rsync", "rsync-flat", "rsync-ssh", "rsync-daemon", "copy")
"""Handlers that make everything equal by themselves."""
PROGRAMS = ("direct",)
"""A program of the operator's, here one that can do most of it."""
ODD_NAMES = (
    b"new\nline", b"#hash", b";semicolon", b"-rf", b"--delete", b"\xff\xfe", b"y" * 255, b"\x80" * 255, b" ", b"\\",
    b"\\#012", b"*", b"[a]", b"?", b"...", b"'\"", b"%s", "é".encode(), b"tab\t", b"~", b"$HOME", b"a b ",
)  # fmt: skip
WRITE_ONLY = Path("/sys/bus/cpu/uevent")
"""A regular file that nobody can read, not even root."""


# -- the handlers ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ssh_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshHost]:
    top = tmp_path_factory.mktemp("ssh")
    host = SshHost(top, top / "unused")
    host.start()
    yield host
    host.stop()


class Module(RsyncHost):
    """An rsync daemon with a directory for each test."""

    def __init__(self, top: Path) -> None:
        """`top`: what the module `data` shows."""
        super().__init__(top, top / "unused")
        self.top, self.url = top, self.destination.rpartition("/")[0]


@pytest.fixture(scope="module")
def rsync_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Module]:
    host = Module(tmp_path_factory.mktemp("rsyncd"))
    host.start()
    yield host
    host.stop()


@pytest.fixture
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """A bench for the handler that the test is run with."""
    made = make_bench(request.param, request, tmp_path)
    yield made
    asyncio.run(made.handler.aclose())


def make_bench(kind: str, request: pytest.FixtureRequest, top: Path) -> Bench:
    if kind == "direct":
        return Bench(top, direct_handler)
    if kind in ("rsync-ssh", "rsync-daemon") and missing():
        pytest.skip(f"not installed: {', '.join(missing())}")
    if kind == "rsync-ssh":
        ssh: SshHost = request.getfixturevalue("ssh_host")
        return Bench(top, lambda b: rsync_handler(b, f"there:{b.destination}", ssh.environment), ssh)
    if kind == "rsync-daemon":
        host: Module = request.getfixturevalue("rsync_host")
        place = host.top / top.name
        place.mkdir()
        return Bench(place, lambda b: rsync_handler(b, f"{host.url}/{top.name}/destination"), host)
    return Bench(top, lambda b: local_handler(kind, b))


def direct_handler(bench: Bench) -> CommandHandler:
    """Rsync as an operator may call it: all that is named, parents included, and nothing else."""
    bench.exact = False  # each run touches the directories of others
    options = [b"-dlptgoDHRI", b"--modify-window=-1", b"--force", b"--delete-missing-args"]
    arguments = [*options, b"%INCLUDE-LIST%", bytes(bench.destination)]
    return CommandHandler(
        b"/usr/bin/rsync",
        arguments,
        style=CommandStyle(root_name=b"."),
        root=bytes(bench.source),
        lookup=lambda name: None,
    )


exact = pytest.mark.parametrize("bench", EXACT, indirect=True)
without_ssh = pytest.mark.parametrize("bench", [kind for kind in EXACT if kind != "rsync-ssh"], indirect=True)
"""Where the way to the destination plays no part: ssh costs most."""
every = pytest.mark.parametrize("bench", EXACT + PROGRAMS, indirect=True)
local = pytest.mark.parametrize("bench", LOCAL, indirect=True)
remote = pytest.mark.parametrize("bench", ["rsync-ssh", "rsync-daemon"], indirect=True)


# -- what is to be made equal ----------------------------------------------------------------------------------


@every
def test_an_empty_batch_is_done(bench: Bench) -> None:
    bench.prepare()
    bench.done({})


@every
def test_what_is_new_is_created(bench: Bench) -> None:
    bench.prepare()
    bench.write("file", "x" * 100_000)
    bench.write("d/e/f/deep")
    (bench.source / "empty").mkdir(mode=0o700)
    (bench.source / "link").symlink_to("d/e")
    (bench.source / "dangling").symlink_to("nowhere")
    os.mkfifo(bench.source / "fifo")
    changes = dict.fromkeys([b"file", b"d", b"empty", b"link", b"dangling", b"fifo"], NAME)
    bench.done(changes | {b"": ATTRIB})


@every
@pytest.mark.parametrize("bits", [CONTENT, NAME])
def test_a_rewrite_with_the_same_size_and_time_is_sent(bench: Bench, bits: int) -> None:
    for name in ("a", "d/b"):
        bench.write(name, "old", at=1_000_000_000)
    bench.prepare()
    for name in ("a", "d/b"):
        bench.write(name, "new", at=1_000_000_000)
    bench.done({b"a": bits, b"d/b": bits})


@without_ssh
def test_only_what_is_named_is_touched(bench: Bench) -> None:
    bench.write("named", "old", at=1_000_000_000)
    bench.write("other", "old", at=1_000_000_000)
    bench.prepare()
    bench.write("named", "newer")
    bench.write("other", "newer")
    (bench.destination / "extra").write_text("not yours")
    assert bench.sync({b"named": CONTENT}).verdict is Verdict.DONE
    assert (bench.destination / "named").read_text() == "newer"
    assert (bench.destination / "other").read_text() == "old"
    assert (bench.destination / "extra").exists()


@every
def test_modes_owners_and_times_follow(bench: Bench) -> None:
    file, directory = bench.write("d/file"), bench.source / "d"
    (bench.source / "link").symlink_to("d")
    bench.prepare()
    file.chmod(0o4751)
    directory.chmod(0o2710)
    if os.geteuid() == 0:
        os.chown(directory, 1234, 4321)
        os.chown(bench.source / "link", 12, 34, follow_symlinks=False)
    for number, path in enumerate((file, directory, bench.source / "link")):
        os.utime(path, ns=(0, 10**18 + number + 1), follow_symlinks=False)
    bench.done({b"d/file": ATTRIB, b"d": ATTRIB, b"link": ATTRIB})


@every
def test_what_is_gone_is_removed(bench: Bench) -> None:
    for name in ("a", "d/b", "d/c/x", "d/c/y", "e/f"):
        bench.write(name)
    bench.prepare()
    for name in ("a", "d/b", "e/f"):
        (bench.source / name).unlink()
    subprocess.run(["rm", "-r", bench.source / "d/c"], check=True)
    bench.done(dict.fromkeys([b"a", b"d/b", b"d/c", b"e/f"], NAME) | dict.fromkeys([b"", b"d", b"e"], ATTRIB))


@every
def test_what_never_was_there_may_be_missing(bench: Bench) -> None:
    bench.write("d/x")
    bench.prepare()
    bench.done({b"never": NAME, b"d/never": NAME, b"no/such/place": NAME})


def stuffed(path: Path) -> None:
    """Make a directory that holds something."""
    (path / "x/y").mkdir(parents=True)
    (path / "x/f").write_text("f")


@exact
def test_each_type_replaces_each_other(bench: Bench) -> None:
    makers: dict[str, Callable[[Path], object]] = {
        "file": lambda p: p.write_text("text"),
        "directory": stuffed,
        "symlink": lambda p: p.symlink_to("elsewhere"),
        "fifo": os.mkfifo,
    }
    pairs = [(old, new) for old in makers for new in makers if old != new]
    for old, new in pairs:
        makers[old](bench.destination / f"{old} to {new}")
        makers[new](bench.source / f"{old} to {new}")
    bench.done({f"{old} to {new}".encode(): NAME for old, new in pairs} | {b"": ATTRIB})


@without_ssh
@pytest.mark.parametrize("bits", [NAME, DOUBT])
def test_a_recursive_entry_makes_all_below_equal(bench: Bench, bits: int) -> None:
    for number in range(20):
        bench.write(f"d/{number}/file", f"text {number}")
    bench.write("d/3/sub/deep")
    bench.prepare()
    subprocess.run(["rm", "-r", bench.source / "d/3", bench.source / "d/4/file"], check=True)
    bench.write("d/3", "a file now")
    bench.write("d/5/file", "rewritten, and longer")
    (bench.source / "d/6/file").unlink()
    bench.write("d/6/file/x/y", "deeper")
    (bench.destination / "d/7/left over").mkdir()
    (bench.destination / "d/7/left over/file").write_text("gone")
    bench.done({b"d": bits})


@without_ssh
def test_a_directory_that_came_by_rename_is_compared_by_content(bench: Bench) -> None:
    for release, text in (("old", "one"), ("new", "two")):
        bench.write(f"{release}/file", text, at=1_000_000_000)
        os.utime(bench.source / release, (10**9, 10**9))
    bench.prepare()
    (bench.source / "old").rename(bench.source / "hold")
    (bench.source / "new").rename(bench.source / "old")
    (bench.source / "hold").rename(bench.source / "new")
    bench.done({b"old": NAME, b"new": NAME, b"": ATTRIB})


@without_ssh
def test_the_whole_tree(bench: Bench) -> None:
    for number in range(30):
        bench.write(f"{number % 3}/{number}", "x" * number)
    os.link(bench.source / "0/0", bench.source / "1/again")
    (bench.destination / "left over").mkdir()
    bench.done({b"": DOUBT})


@every
def test_names_of_one_file_stay_one_file(bench: Bench) -> None:
    bench.write("a", "shared")
    bench.write("d/x", "alone")
    os.link(bench.source / "a", bench.source / "b")
    bench.prepare()
    os.link(bench.source / "a", bench.source / "d/c")
    bench.done({b"a": ATTRIB, b"b": ATTRIB, b"d/c": NAME, b"d": ATTRIB}, ALL_FRESH)
    bench.write("b", "written through one name")
    bench.done(dict.fromkeys([b"a", b"b", b"d/c"], CONTENT))


@without_ssh
def test_a_name_that_leaves_a_group_leaves_the_others(bench: Bench) -> None:
    bench.write("a", "shared", at=1_000_000_000)
    for name in ("b", "c"):
        os.link(bench.source / "a", bench.source / name)
    bench.prepare()
    (bench.source / "c").unlink()
    bench.write("c", "shared", at=1_000_000_000)
    (bench.source / "b").unlink()
    bench.done({b"a": ATTRIB, b"b": NAME, b"c": NAME, b"": ATTRIB})


@local
@pytest.mark.parametrize("kind", ["symlink", "fifo"])
@pytest.mark.parametrize("bits", [NAME, DOUBT])
def test_what_hangs_together_there_and_not_here_is_parted(bench: Bench, kind: str, bits: int) -> None:
    """Not only files: one that is set to rights leaves the others as they were."""

    def make(path: Path, at: int) -> None:
        path.symlink_to("target") if kind == "symlink" else os.mkfifo(path)
        os.utime(path, (at, at), follow_symlinks=False)

    make(bench.source / "l1", 1_000_000_000)
    for name in ("d", "e"):
        (bench.source / name).mkdir()
        for other in ("l2", "l3"):
            os.link(bench.source / "l1", bench.source / name / other, follow_symlinks=False)
    bench.prepare()
    (bench.source / "d/l2").unlink()
    make(bench.source / "d/l2", 2_000_000_000)
    names = [b"l1", b"d/l3", b"e/l2", b"e/l3"]
    bench.done({b"d": bits} | dict.fromkeys(names, ATTRIB))


@exact
def test_odd_names(bench: Bench) -> None:
    bench.prepare()
    changes = {b"": ATTRIB}
    for name in ODD_NAMES:
        bench.write(name, "text")
        bench.write(b"d/" + name + b"/" + name, "below")
        changes |= {name: NAME, b"d/" + name: NAME}
    bench.done(changes)
    for name in ODD_NAMES:
        bench.write(name, "rewritten")
        (bench.source / "d" / os.fsdecode(name) / os.fsdecode(name)).unlink()
    changed = dict.fromkeys(ODD_NAMES, CONTENT)
    bench.done(changed | {b"d/" + n + b"/" + n: NAME for n in ODD_NAMES} | {b"d/" + n: ATTRIB for n in ODD_NAMES})
    for name in ODD_NAMES:
        (bench.source / os.fsdecode(name)).unlink()
    bench.done(dict.fromkeys(ODD_NAMES, NAME) | {b"": ATTRIB})


@pytest.mark.parametrize("bench", PROGRAMS, indirect=True)
def test_odd_names_as_arguments(bench: Bench) -> None:
    for name in ODD_NAMES:
        bench.write(name, "text")
    bench.done(dict.fromkeys(ODD_NAMES, NAME) | {b"": ATTRIB})


@without_ssh
def test_a_symlink_in_the_way_is_not_followed(bench: Bench) -> None:
    outside = bench.source.parent / "outside"
    outside.mkdir()
    (outside / "file").write_text("must stay")
    bench.write("d/file", "inside")
    (bench.destination / "d").symlink_to(outside)
    bench.done({b"d": NAME, b"": ATTRIB})
    assert (outside / "file").read_text() == "must stay"


# -- what is left alone ----------------------------------------------------------------------------------------


class Runs:
    """rsync, and what each run of it was given."""

    def __init__(self, top: Path) -> None:
        """Make the program below `top`."""
        self._notes = top / "runs"
        self._notes.mkdir()
        self.program = top / "rsync"
        self.program.write_text(
            f'#!/bin/sh\nnote=$(mktemp -d {self._notes}/XXXXXX)\nprintf "%s\\0" "$@" >$note/arguments\n'
            'cat >$note/list\nexec rsync "$@" <$note/list\n'
        )
        self.program.chmod(0o755)

    def listed(self, option: bytes) -> list[bytes]:
        """Return what was listed in runs with an option."""
        return [
            path
            for note in self._notes.iterdir()
            if option in (note / "arguments").read_bytes().split(b"\0")
            for path in (note / "list").read_bytes().split(b"\0")[:-1]
        ]


@pytest.mark.parametrize("missing_args", [True, False])
def test_new_attributes_of_a_large_linked_file_do_not_send_it_again(tmp_path: Path, missing_args: bool) -> None:
    """Not even beside a file whose content has to be sent whatever its size and time say."""
    runs, recipe = Runs(tmp_path), Recipe(missing_args=missing_args)
    bench = Bench(tmp_path, lambda b: rsync_handler(b, str(b.destination), recipe=recipe, program=runs.program))
    os.truncate(bench.write("large"), RESENT_BYTES + 1)
    os.link(bench.source / "large", bench.source / "linked")
    bench.write("file", "old", at=1_000_000_000)
    bench.prepare()
    inode = (bench.destination / "large").stat().st_ino
    (bench.source / "large").chmod(0o600)
    bench.write("file", "new", at=1_000_000_000)
    bench.done({b"large": ATTRIB, b"linked": ATTRIB, b"file": CONTENT})
    assert runs.listed(b"--ignore-times") == [b"./file"]
    assert (bench.destination / "large").stat().st_ino == inode


@local
@pytest.mark.parametrize("more", [{}, {b"": ATTRIB}])
def test_a_deletion_beside_a_rewrite_sends_nothing_else(bench: Bench, more: dict[bytes, int]) -> None:
    for name in ("gone", "file", "rest"):
        bench.write(name, "old", at=1_000_000_000)
    bench.prepare()
    inode = (bench.destination / "rest").stat().st_ino
    (bench.source / "gone").unlink()
    bench.write("file", "new", at=1_000_000_000)
    bench.done({b"gone": NAME, b"file": CONTENT} | more)
    assert (bench.destination / "rest").stat().st_ino == inode


# -- what fails ------------------------------------------------------------------------------------------------


@contextmanager
def bound(what: Path, place: Path) -> Iterator[None]:
    """Bind something to a place for a while."""
    subprocess.run(["mount", "--bind", what, place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def one_failure(bench: Bench, outcome: Outcome, path: bytes) -> None:
    """Check that one path failed, with a reason, and everything else is done."""
    assert outcome.verdict is Verdict.PARTIAL, outcome
    assert outcome.failed.keys() == {path}
    assert outcome.failed[path]
    bench.equal(lambda p: p == path or p.startswith(path + b"/"))


@pytest.mark.parametrize("bench", EXACT, indirect=True)
def test_a_name_of_a_linked_file_that_fails_takes_no_other_along(bench: Bench) -> None:
    """Rsync makes the last name of a file first, and where that fails none; rules protect what is in its way."""
    bench.handler.rules = Rules.parse(b"-*^z/theirs$\n", "rules")
    for name in ("b", "c", "z"):
        os.link(bench.write("a") if name == "b" else bench.source / "a", bench.source / name)
    (bench.destination / "z").mkdir()
    (bench.destination / "z/theirs").write_text("theirs")
    outcome = bench.sync(dict.fromkeys((b"a", b"b", b"c", b"z"), NAME) | {b"": ATTRIB})
    assert outcome.failed.keys() == {b"z"}
    bench.equal(lambda p: p == b"z" or p.startswith(b"z/") or p == b"")
    assert (bench.destination / "z/theirs").read_text() == "theirs"


@ROOT
@exact
@pytest.mark.parametrize("recursive", [False, True])
def test_a_file_that_cannot_be_read_fails_alone(bench: Bench, recursive: bool) -> None:
    if not WRITE_ONLY.exists():
        pytest.skip(f"no {WRITE_ONLY} here")
    for name in ("d/a", "d/bad", "d/z", "gone/x"):
        bench.write(name)
    bench.prepare()
    for name in ("d/a", "d/z"):
        bench.write(name, "rewritten")
    subprocess.run(["rm", "-r", bench.source / "gone"], check=True)
    (bench.destination / "d/bad").unlink()
    with bound(WRITE_ONLY, bench.source / "d/bad"):
        if recursive:
            outcome = bench.sync({b"": DOUBT})
            assert outcome.verdict is Verdict.PARTIAL, outcome
            assert len(outcome.failed) == 1
            bench.equal(lambda p: p == b"d/bad")
        else:
            one_failure(
                bench,
                bench.sync({b"d/a": CONTENT, b"d/bad": CONTENT, b"d/z": CONTENT, b"gone": NAME, b"": 1}),
                b"d/bad",
            )
    assert bench.sync({b"d/bad": CONTENT}).verdict is Verdict.DONE
    bench.equal()


@ROOT
@exact
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_name_that_cannot_be_replaced_fails_alone(bench: Bench, kind: str) -> None:
    """A mount point at the destination."""
    for name in ("a", "busy", "z"):
        bench.write(name)
    place = bench.destination / "busy"
    if kind == "file":
        place.touch()
    else:
        place.mkdir()
    with bound(place, place):
        one_failure(bench, bench.sync({b"a": NAME, b"busy": NAME, b"z": NAME, b"": ATTRIB}), b"busy")
    bench.done({b"busy": NAME, b"": ATTRIB})


@pytest.mark.parametrize("kind", LOCAL)
@pytest.mark.parametrize("rules", [None, Rules.parse(b"-f\\.bak$\n", "rules")])
def test_a_directory_that_cannot_be_read_fails_alone(tmp_path: Path, kind: str, rules: Rules | None) -> None:
    """All the rest is made equal, deletions included; what it may hold is not deleted."""

    def sync_all() -> None:
        bench = Bench(tmp_path, lambda b: local_handler(kind, b))
        bench.handler.rules = rules
        for name in ("file", "secret/file", "d/file"):
            bench.write(name)
        bench.prepare()
        bench.write("file", "rewritten")
        bench.write_there("d/left over")
        (bench.source / "secret").chmod(0)
        outcome = bench.hand_over(EVERYTHING, initial=True)
        for top in (bench.source, bench.destination):
            (top / "secret").chmod(0o755)
        one_failure(bench, outcome, b"secret")
        assert (bench.destination / "secret/file").exists()

    without_privileges(tmp_path, sync_all)


@pytest.mark.parametrize("kind", LOCAL)
@pytest.mark.parametrize("secret", ["secret", "secret/file"])
def test_what_is_gone_is_removed_though_something_cannot_be_read(tmp_path: Path, kind: str, secret: str) -> None:
    def sync_some() -> None:
        bench = Bench(tmp_path, lambda b: local_handler(kind, b))
        for name in ("d/gone", "d/stays", "secret/file"):
            bench.write(name)
        bench.prepare()
        (bench.source / "d/gone").unlink()
        (bench.source / secret).chmod(0)
        (bench.destination / secret).rename(bench.destination / "gone too")
        outcome = bench.sync({b"d/gone": NAME, b"gone too": NAME, secret.encode(): NAME, b"d": ATTRIB, b"": ATTRIB})
        one_failure(bench, outcome, secret.encode())
        (bench.source / "secret").chmod(0o755)

    without_privileges(tmp_path, sync_some)


@pytest.mark.parametrize("kind", LOCAL)
@pytest.mark.parametrize("most", [None, 2, 1])
def test_deletions_are_counted_though_something_cannot_be_read(tmp_path: Path, kind: str, most: int | None) -> None:
    """A run of rsync that meets something unreadable deletes nothing, and counts nothing either."""

    def sync_all() -> None:
        bench = Bench(tmp_path, lambda b: local_handler(kind, b))
        for name in ("d/stays", "secret/file", "other"):
            bench.write(name)
        bench.prepare()
        for name in ("foreign", "d/foreign too"):
            (bench.destination / name).write_text("of others")
        (bench.source / "secret").chmod(0)
        outcome = bench.hand_over(EVERYTHING, most_deletions=most)
        assert (outcome.verdict, list(outcome.failed)) == (Verdict.PARTIAL, [b"secret"])
        assert outcome.spared == (2 if most == 1 else 0)
        for name in ("foreign", "d/foreign too"):
            assert (bench.destination / name).exists() == (most == 1), name
        (bench.source / "secret").chmod(0o755)

    without_privileges(tmp_path, sync_all)


@pytest.mark.parametrize("kind", LOCAL)
def test_a_read_only_directory_above_something_new_stays_read_only(tmp_path: Path, kind: str) -> None:
    """Whoever cannot write there without opening it closes it again."""

    def sync_below() -> None:
        bench = Bench(tmp_path, lambda b: local_handler(kind, b))
        bench.write("a/b/c/file")
        (bench.destination / "a/b").mkdir(parents=True)
        for top in (bench.source, bench.destination):
            (top / "a").chmod(0o555)
        bench.done({b"a/b/c/file": NAME, b"": ATTRIB})

    without_privileges(tmp_path, sync_below)


@pytest.mark.parametrize("missing_args", [True, False])
@pytest.mark.parametrize("recursive", [True, False])
def test_what_the_destination_cannot_hold_leaves_nothing_in_its_place(
    tmp_path: Path, missing_args: bool, recursive: bool
) -> None:
    recipe = Recipe(missing_args=missing_args, lacking=(b"--no-links", b"--no-specials"))
    bench = Bench(tmp_path, lambda b: rsync_handler(b, str(b.destination), recipe=recipe))
    (bench.source / "link").symlink_to("nowhere")
    os.mkfifo(bench.source / "fifo")
    for name in ("link", "fifo", "file"):
        bench.write_there(name, "of another time")
    bench.write("file")
    changes = {b"": DOUBT} if recursive else {b"link": NAME, b"fifo": NAME, b"file": NAME, b"": ATTRIB}
    outcome = bench.sync(changes)
    assert outcome.verdict is Verdict.DONE, outcome
    bench.equal(
        lambda path: path in (b"link", b"fifo") and not os.path.lexists(bytes(bench.destination / os.fsdecode(path)))
    )


@without_ssh
def test_what_vanishes_after_it_was_listed_hinders_nobody(bench: Bench) -> None:
    for name in ("a", "vanishes", "d/vanishes", "z"):
        bench.write(name)
    root = os.open(bench.source, os.O_RDONLY)
    classifier = Classifier(lstat_below(root), NONE_FRESH)
    classifier.add((name, NAME) for name in (b"a", b"vanishes", b"d", b"z", b""))
    (bench.source / "vanishes").unlink()
    (bench.source / "d/vanishes").unlink()
    outcome = asyncio.run(bench.handler.sync(Batch(1, classifier.finish(), root)))
    os.close(root)
    assert outcome.verdict is not Verdict.UNWELL, outcome
    assert outcome.failed.keys() <= {b"vanishes"}
    bench.done({b"vanishes": NAME, b"d": DOUBT, b"": ATTRIB})


@local
def test_a_destination_that_is_away_is_unwell_and_nothing_is_deleted(bench: Bench) -> None:
    bench.write("a")
    bench.write("b")
    bench.prepare()
    away = bench.destination.rename(bench.destination.with_name("away"))
    before = snapshot(bytes(away))
    (bench.source / "a").unlink()
    for changes in ({b"a": NAME, b"": ATTRIB}, {b"": DOUBT}):
        outcome = bench.sync(changes)
        assert outcome.verdict is Verdict.UNWELL
        assert outcome.message
        assert not bench.destination.exists()
        assert snapshot(bytes(away)) == before
    away.rename(bench.destination)
    bench.done({b"a": NAME, b"": ATTRIB})


@remote
def test_a_host_that_is_away_is_unwell_and_usable_again(bench: Bench) -> None:
    assert bench.server is not None
    bench.write("a")
    bench.write("b")
    bench.done({b"": DOUBT})
    before = snapshot(bytes(bench.destination))
    (bench.source / "a").unlink()
    bench.server.stop()
    try:
        outcome = bench.sync({b"a": NAME, b"": ATTRIB})
    finally:
        bench.server.start()
    assert outcome.verdict is Verdict.UNWELL
    assert outcome.message
    assert outcome.code in (10, 12, 255)
    assert snapshot(bytes(bench.destination)) == before
    bench.done({b"a": NAME, b"": ATTRIB})


@exact
def test_a_stopped_run_says_so_and_the_next_one_completes_it(bench: Bench) -> None:
    for number in range(2000):
        bench.write(f"{number % 7}/{number}", "text" * 5000)
    outcome = bench.sync({b"": DOUBT}, meanwhile=bench.stop_once(lambda: any(bench.destination.glob("[0-9]/*"))))
    assert outcome.verdict is Verdict.UNWELL, "it was done before it could be stopped"
    assert "stopped" in outcome.message
    assert len(snapshot(bytes(bench.destination), content=False)) < 2008
    bench.done({b"": DOUBT})


def test_a_run_is_stopped_however_early(tmp_path: Path) -> None:
    """Also before the program is started, while its list is written."""
    program, done = tmp_path / "rsync", tmp_path / "done"
    program.write_text(f"#!/bin/sh\nsleep 20\ntouch {done}\n")
    program.chmod(0o755)
    bench = Bench(tmp_path, lambda b: rsync_handler(b, str(b.destination), program=program))
    entries = {b"gone/%d" % number: MISSING | NAME << CHANGE_SHIFT for number in range(10_000, 30_000)}
    for turns in range(1, 10):
        left = iter(range(turns))
        outcome = bench.hand_over(entries, meanwhile=bench.stop_once(partial(is_empty, left)))
        assert (outcome.verdict, outcome.message) == (Verdict.UNWELL, "stopped"), turns
        assert not done.exists(), turns


@pytest.mark.parametrize(("failures", "verdict"), [(MOST_STALLS, Verdict.DONE), (MOST_STALLS + 1, Verdict.UNWELL)])
def test_ends_that_disagree_try_again(tmp_path: Path, failures: int, verdict: Verdict) -> None:
    """A tree that changes under its walk confuses rsync (exit code 2); a few times in a row is another matter."""
    program, left = tmp_path / "rsync", tmp_path / "left"
    left.write_text("x" * failures)
    program.write_text(
        f'#!/bin/sh\nif [ -s {left} ]; then truncate -s -1 {left}; cat >{tmp_path}/list; exit 2; fi\nexec rsync "$@"\n'
    )
    program.chmod(0o755)
    bench = Bench(tmp_path, lambda b: rsync_handler(b, str(b.destination), program=program))
    bench.write("file", "text")
    assert bench.sync({b"file": NAME}).verdict is verdict
    assert (bench.destination / "file").exists() is (verdict is Verdict.DONE)


def is_empty(left: Iterator[int]) -> bool:
    """Take one; tell whether there was none."""
    return next(left, None) is None


def test_what_a_killed_run_leaves_goes_though_rules_reject_its_name(tmp_path: Path) -> None:
    """It would have got a name that they permit."""
    program, pid = tmp_path / "rsync", tmp_path / "pid"
    program.write_text(f'#!/bin/sh\necho $$ >{pid}\nexec rsync "$@"\n')
    program.chmod(0o755)
    bench = Bench(tmp_path, lambda b: rsync_handler(b, str(b.destination), program=program))
    bench.handler.rules = Rules.parse(b"+f\\.txt$\n+d\n-*\n", "rules")
    file = bench.write("d/large.txt")
    os.truncate(file, 16 << 30)

    def kill() -> bool:
        if not any(bench.destination.glob("d/.large.txt.*")):
            return False
        os.killpg(int(pid.read_text()), signal.SIGKILL)
        return True

    outcome = bench.sync({b"d/large.txt": NAME}, meanwhile=kill)
    assert outcome.verdict is Verdict.UNWELL
    assert any(bench.destination.glob("d/.large.txt.*"))
    os.truncate(file, 1000)
    bench.done({b"d/large.txt": NAME, b"d": ATTRIB, b"": ATTRIB})


def test_what_fails_without_a_word_while_a_disk_fails_is_done_again(tmp_path: Path) -> None:
    """The program does not look whether it could give a directory its time again, and answers 0 or 23 for other reasons."""
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("there is no gcc")
    code, library, failed = Path(__file__).with_name("failing_times.c"), tmp_path / "fails.so", tmp_path / "failed"
    subprocess.run([gcc, "-shared", "-fPIC", "-o", library, code, "-ldl"], check=True)
    program = tmp_path / "rsync"
    program.write_text(f'#!/bin/sh\nFAILED={failed} LD_PRELOAD={library} exec rsync "$@"\n')
    program.chmod(0o755)
    bench = Bench(tmp_path, lambda b: rsync_handler(b, str(b.destination), program=program))
    bench.write("bad", "text")
    deep = bench.write("new/deep/file", "text").parent
    os.utime(deep, ns=(10**18, 10**18))
    outcome = bench.sync({b"bad": NAME, b"new": NAME | DOUBT})
    assert sorted(failed.read_text()) == ["n", "t"], "the program is not one that was meant to fail"
    assert (outcome.verdict, list(outcome.failed)) == (Verdict.PARTIAL, [b"bad"])
    assert (bench.destination / "new/deep").stat().st_mtime_ns == 10**18
    bench.done({b"bad": NAME})


@ROOT
@pytest.mark.parametrize("with_rules", [False, True])
def test_what_cannot_be_read_is_not_counted_as_deleted(tmp_path: Path, with_rules: bool) -> None:
    """It may go nowhere; but to the program, which is told to heed no errors then, nothing is there."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("there is no setpriv")
    for above in (tmp_path, *tmp_path.parents[:2]):
        above.chmod(0o755)
    program = tmp_path / "rsync"
    program.write_text(f'#!/bin/sh\nexec {setpriv} --reuid={NOBODY} --regid={NOBODY} --clear-groups rsync "$@"\n')
    program.chmod(0o755)
    bench = Bench(tmp_path, lambda b: rsync_handler(b, str(b.destination), program=program))
    bench.handler.rules = RULES if with_rules else None
    for number in range(20):
        bench.write(f"secret/{number}")
    bench.prepare()
    bench.write_there("foreign")
    for path in (bench.destination, *bench.destination.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    (bench.source / "secret").chmod(0o700)
    outcome = bench.hand_over(EVERYTHING, most_deletions=1)
    assert (outcome.verdict, outcome.spared) == (Verdict.PARTIAL, 0)
    assert b"secret" in outcome.failed
    assert sorted(os.listdir(bench.destination)) == ["secret"]
    assert len(os.listdir(bench.destination / "secret")) == 20


@pytest.mark.parametrize("code", [0, 23])
def test_what_goes_well_is_done_whatever_is_said(tmp_path: Path, code: int) -> None:
    """A banner may look as if a disk failed; of a code the operator says that it means success."""
    program = tmp_path / "rsync"
    program.write_text(f'#!/bin/sh\nrsync "$@" && echo "greetings from host (5)" >&2 && exit {code}\n')
    program.chmod(0o755)
    bench = Bench(tmp_path, lambda b: rsync_handler(b, str(b.destination), program=program, codes_done=(code,)))
    bench.write("d/file", "text")
    bench.done({b"": DOUBT})


def test_what_cannot_be_listed_there_has_failed(tmp_path: Path) -> None:
    """With rules, deletions are looked for by a run of their own; what should go may be where that sees nothing."""
    program = tmp_path / "rsync"
    bench = Bench(tmp_path, lambda b: rsync_handler(b, str(b.destination), program=program))
    says = f'rsync: [generator] opendir \\"{bench.destination}/d\\" failed: Input/output error (5)'
    program.write_text(
        f'#!/bin/sh\nrsync "$@"; code=$?\ncase " $* " in *" -n "*) echo "{says}" >&2; exit 23;; esac\nexit $code\n'
    )
    program.chmod(0o755)
    bench.handler.rules = RULES
    bench.write("d/file", "text")
    outcome = bench.sync({b"": DOUBT})
    assert (outcome.verdict, list(outcome.failed)) == (Verdict.PARTIAL, [b""])
    assert (bench.destination / "d/file").read_text() == "text"


# -- rules -----------------------------------------------------------------------------------------------------

RULES = Rules.parse(b"-*^keep(/|$)\n-f\\.bak$\n", "rules")


def rejected(path: bytes) -> bool:
    """What the rules reject: left out on both sides."""
    return path.startswith(b"keep") or path.endswith(b".bak")


@pytest.mark.parametrize(
    "bench",
    EXACT,
    indirect=True,
)
@pytest.mark.parametrize(
    "changes", [{b"": DOUBT}, {b"d": NAME, b"gone": NAME, b"keep": NAME, b"a.bak": NAME, b"": 1}]
)
def test_what_rules_reject_is_neither_copied_nor_deleted(bench: Bench, changes: dict[bytes, int]) -> None:
    bench.handler.rules = RULES
    for name in ("d/a", "d/new.bak", "keep/new", "a.bak", "b/c/file"):
        bench.write(name)
    theirs = ("keep/old", "keep/d/older", "d/old.bak", "a.bak", "d/left over", "b/c/d/f.bak", "gone")
    for name in theirs:
        path = bench.destination / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("theirs")
    assert bench.sync(changes).verdict is Verdict.DONE
    for name in ("keep/old", "keep/d/older", "d/old.bak", "a.bak", "b/c/d/f.bak"):
        assert (bench.destination / name).read_text() == "theirs", name
    assert not (bench.destination / "d/new.bak").exists()
    assert not (bench.destination / "keep/new").exists()
    assert not (bench.destination / "d/left over").exists()
    if b"d" not in changes:
        bench.equal(lambda p: rejected(p) or p == b"b/c/d" or p in (b"", b"b/c"))


def listing_processes() -> list[int]:
    """Return our processes that list what rules permit."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            parent = int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
            if parent == os.getpid() and b"rsync.spread" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(int(pid))
    return found


def bench_that_lists(top: Path) -> Bench:
    """Return a bench with rules, and so much that they are asked about it by a process of its own."""
    walks = usable(scan_sandbox)
    bench = Bench(top, lambda b: rsync_handler(b, str(b.destination), walks=walks))
    bench.handler.rules = RULES
    for number in range(6000):
        bench.write(f"d{number % 60}/{number}")
    for name in ("d1/x.bak", "keep/x", "d2/new\nline", "d3/\udcff"):
        bench.write(name)
    os.link(bench.source / "d1/1", bench.source / "d5/again")
    bench.write_there("keep/old", "theirs")
    return bench


def test_much_is_listed_by_a_confined_process(tmp_path: Path) -> None:
    bench, seen = bench_that_lists(tmp_path), dict[str, str]()
    expected = {"NoNewPrivs": "1"} | ({"Seccomp": "2"} if "seccomp" in usable(scan_sandbox).layers else {})

    def look() -> bool:
        for pid in listing_processes():
            with suppress(OSError):
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                seen.update((line.split(":\t")[0], line.split(":\t")[1]) for line in lines if ":\t" in line)
        return expected.items() <= seen.items()

    for _ in range(10):  # one may be done before it is seen
        assert bench.sync({b"": DOUBT}, meanwhile=look).verdict is Verdict.DONE
        if expected.items() <= seen.items():
            break
    assert {name: seen.get(name) for name in expected} == expected, "no process was seen to be confined"
    assert not listing_processes()
    assert (bench.destination / "keep/old").read_text() == "theirs"
    bench.equal(lambda p: rejected(p) or p in (b"", b"keep"))


def test_a_list_that_is_cut_off_is_made_again(tmp_path: Path) -> None:
    """Whatever has not been listed may be missing: nothing is confirmed."""
    bench = bench_that_lists(tmp_path)

    def kill() -> bool:
        for pid in listing_processes():
            os.kill(pid, signal.SIGKILL)
            return True
        return False

    outcomes = (bench.sync({b"": DOUBT}, meanwhile=kill) for _ in range(10))  # one may be done before it is killed
    outcome = next(outcome for outcome in outcomes if outcome.verdict is Verdict.UNWELL)
    assert "has ended (killed by SIGKILL)" in outcome.message
    assert bench.sync({b"": DOUBT}).verdict is Verdict.DONE
    bench.equal(lambda p: rejected(p) or p in (b"", b"keep"))


def test_much_is_listed_here_where_python_does_not_find_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Isolated, it heeds neither PYTHONPATH nor the packages of a user."""
    bench, python = bench_that_lists(tmp_path), tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    python_in_reach.cache_clear()
    try:
        assert bench.sync({b"": DOUBT}).verdict is Verdict.DONE
    finally:
        python_in_reach.cache_clear()
    bench.equal(lambda p: rejected(p) or p in (b"", b"keep"))


def test_a_list_that_does_not_come_is_not_waited_for_when_it_is_to_stop(tmp_path: Path) -> None:
    """The file system of the source may answer nobody."""
    bench, stopped = bench_that_lists(tmp_path), list[int]()

    def stop() -> bool:
        for pid in listing_processes():
            os.kill(pid, signal.SIGSTOP)
            stopped.append(pid)
            bench.handler.stop()
            # Without an end to it, nothing else would let the test go on.
            asyncio.get_running_loop().call_later(20, os.kill, pid, signal.SIGKILL)
            return True
        return False

    outcomes = (bench.sync({b"": DOUBT}, meanwhile=stop) for _ in range(10))  # one may be done before it is seen
    outcome = next(outcome for outcome in outcomes if outcome.verdict is Verdict.UNWELL)
    assert stopped
    assert outcome.message == "stopped"
    assert not listing_processes()


@pytest.mark.parametrize(
    "said", [b"", b"?x", b"Tx", b"F../x", b"Dd/../../x", b"U5 ../x", b"Ufive x", b"U" + b"9" * 30 + b" x"]
)
def test_a_list_that_cannot_be_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    """Who lists is confined because of what it meets: it does not do as it likes here either."""
    bench = bench_that_lists(tmp_path)
    monkeypatch.setattr(
        "clsync.handler.rsync.spread._PROGRAM", b"import os; os.write(1, %r)" % (b"T\0" + said + b"\0")
    )
    outcome = bench.sync({b"": DOUBT})
    assert outcome.verdict is Verdict.UNWELL
    assert "says what cannot be" in outcome.message


@local
@pytest.mark.parametrize("changes", [{b"x": NAME}, {b"x/file": NAME}, {b"": DOUBT}])
def test_a_protected_file_does_not_give_way_to_a_directory(bench: Bench, changes: dict[bytes, int]) -> None:
    bench.handler.rules = Rules.parse(b"-f^x$\n", "rules")
    for name in ("x/file", "other", "d/other"):
        bench.write(name)
    bench.write_there("x", "theirs")
    outcome = bench.sync({b"other": NAME, b"d": NAME} | changes)
    assert (bench.destination / "x").read_text() == "theirs"
    assert outcome.verdict is Verdict.PARTIAL, outcome
    assert outcome.failed.keys() <= {b"x", *changes}
    assert all("protected by the rules" in why for why in outcome.failed.values()), outcome
    bench.equal(lambda path: path == b"x")


# -- programs of the operator's --------------------------------------------------------------------------------


def command(bench: Bench, program: str, *arguments: bytes, one_per_run: bool = False) -> CommandHandler:
    return CommandHandler(
        program.encode(),
        arguments,
        style=CommandStyle(one_per_run=one_per_run),
        root=bytes(bench.source),
        lookup=lambda name: None,
    )


@pytest.mark.parametrize("bench", ["direct"], indirect=True)
def test_a_program_per_object_fails_for_its_object_alone(bench: Bench) -> None:
    bench.handler = command(bench, "/bin/cp", b"-a", b"%INCLUDE-LIST%", bytes(bench.destination), one_per_run=True)
    for name in ("a", "z", "-n"):
        bench.write(name)
    outcome = bench.sync({b"a": NAME, b"gone": NAME, b"z": NAME, b"-n": NAME})
    assert outcome.verdict is Verdict.PARTIAL
    assert outcome.failed.keys() == {b"gone"}
    assert outcome.code == 1
    assert sorted(path.name for path in bench.destination.iterdir()) == ["-n", "a", "z"]


@pytest.mark.parametrize("bench", ["direct"], indirect=True)
def test_a_program_that_cannot_be_run_is_unwell(bench: Bench) -> None:
    bench.handler = command(bench, "/no/such/program", b"%INCLUDE-LIST%")
    bench.write("a")
    outcome = bench.sync({b"a": NAME})
    assert outcome.verdict is Verdict.UNWELL
    assert outcome.message == "cannot run /no/such/program: No such file or directory"


@pytest.mark.parametrize("bench", ["direct"], indirect=True)
def test_a_batch_is_split_to_fit_the_arguments(bench: Bench) -> None:
    for number in range(600):
        bench.write(f"f{number}")
    bench.done(dict.fromkeys([f"f{n}".encode() for n in range(600)], NAME) | {b"": ATTRIB})
