"""Modes so and rsyncso: sync handlers in C."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from clsync.errors import Exit
from clsync.handler.plugin.layout import Context, Element
from clsync.kernel.process import group_alive
from tests.support.daemon import Daemon
from tests.support.environment import INHERITED
from tests.support.modules import Probe, Seen, compiled, debian_flags, example, our_flags, run_c
from tests.support.trees import Snapshot, snapshot
from tests.system.test_modes import PLANTED, RULES, plant, with_rejected
from tests.system.world import QUICK, ROOT, SYNCED, WATCHING, World

HEADERS = ("clsync", "debian")
UNKNOWN, MISSING, FILE, DIRECTORY = range(4)
FUNCTIONS = {"so": "sync", "rsyncso": "rsync"}


@pytest.fixture
def probe(world: World) -> Probe:
    """Return the module that writes down how it is called."""
    made = Probe(world.top)
    world.environment |= made.environment
    return made


def flags_for(headers: str, world: World) -> tuple[str, ...]:
    """Return the compiler's options for our headers or Debian's."""
    return our_flags() if headers == "clsync" else debian_flags(world.top)


def content(top: Path) -> Snapshot:
    """Return what a tree holds, but for times: the rsync of the example compares them by the second."""
    return {path: entry._replace(mtime_ns=0) for path, entry in snapshot(bytes(top)).items()}


def wait_for_content(world: World, daemon: Daemon) -> None:
    """Wait until both trees hold the same."""
    daemon.wait_until(lambda: content(world.source) == content(world.destination), what="equal content")


def started(world: World, probe: Probe, mode: str, *options: str, delays: tuple[str, ...] = QUICK) -> Daemon:
    """Return the daemon with the module, not started."""
    return world.bare(f"-W{world.source}", f"-M{mode}", probe.option, *delays, *options)


def was_given(probe: Probe, before: int, needed: set[Seen]) -> bool:
    """Tell whether the module was given all these objects, after so many calls."""
    return needed <= {seen for call in probe.named("sync")[before:] for seen in call.objects}


# -- the examples of clsync 0.4 --------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", HEADERS)
def test_example_for_rsyncso(world: World, headers: str) -> None:
    """Unmodified, it makes a live mirror with an rsync of its own."""
    module = compiled(world.top, example("clsync-synchandler-rsyncso.c"), flags_for(headers, world))
    plant(world)
    with world.daemon("-Mrsyncso", f"-S{module}") as daemon:
        wait_for_content(world, daemon)
        world.write("new/deep/file")
        (world.source / "a/f2").unlink()
        shutil.rmtree(world.source / "c")
        (world.source / "f1").rename(world.source / "f9")
        world.write("a/b/f3", "longer than it was")
        wait_for_content(world, daemon)


@pytest.mark.parametrize("headers", HEADERS)
def test_example_for_so(world: World, headers: str) -> None:
    """Unmodified, it copies files with cp; more it cannot do."""
    module = compiled(world.top, example("clsync-synchandler-so.c"), flags_for(headers, world))
    world.write("f1")
    with world.daemon("-Mso", f"-S{module}", "-d1") as daemon:
        wait_for_content(world, daemon)
        world.write("f1", "changed")
        world.write("st*a r")
        wait_for_content(world, daemon)
        daemon.stop()
        assert "API version is 2" in daemon.output
        assert "Goodbye cruel world!" in daemon.output


@pytest.mark.parametrize("headers", HEADERS)
@pytest.mark.parametrize(("name", "mode"), [("handler-backup.c", "rsyncso"), ("handler-pdcp.c", "so")])
def test_examples_of_a_cluster_are_loaded(world: World, name: str, mode: str, headers: str) -> None:
    source = example(f"production/etc/clsync/synchandler/hpc/{name}")
    module = compiled(world.top, source, flags_for(headers, world))
    with world.daemon(f"-M{mode}", f"-S{module}", "-d1", "--skip-initialsync") as daemon:
        daemon.wait_for_log("Initialization OK")
        daemon.wait_for_log(WATCHING)


def test_examples_refuse_what_they_cannot_do(world: World) -> None:
    """Their code is that of the program, and nothing was watched."""
    module = compiled(world.top, example("clsync-synchandler-rsyncso.c"))
    done = world.run(f"-W{world.source}", "-Mrsyncso", f"-S{module}")
    assert done.code == 22
    assert "Error: clsync-synchandler-rsyncso.so: destination-dir is not set.\n" in done.err
    assert "clsyncapi_init answers 22" in done.err
    assert WATCHING not in done.err


# -- what a module is given ------------------------------------------------------------------------------------


def test_objects(world: World, probe: Probe) -> None:
    """Mask, types and path of each; all of a batch in one call."""
    plant(world)
    with started(world, probe, "so", delays=("-t0.2", "-w0")) as daemon:
        (first,) = probe.wait_for(daemon, "sync", 1)
        daemon.wait_for_log(SYNCED)
        assert {seen.path or b"." for seen in first.objects} == PLANTED
        assert set(first.objects) >= {
            Seen(0x40000100, 0, MISSING, DIRECTORY, b""),
            Seen(0x40000100, 0, MISSING, DIRECTORY, b"a"),
            Seen(0x100, 0, MISSING, FILE, b"f1"),
            Seen(0x100, 0, MISSING, FILE, b"link"),
        }
        new = Seen(0x10A, 0, MISSING, FILE, b"n1")
        steps: tuple[tuple[Callable[[], object], set[Seen]], ...] = (
            (lambda: world.write("n1"), {new}),
            (lambda: (world.source / "n1").unlink(), {Seen(0x200, 0, FILE, MISSING, b"n1")}),
            (lambda: (world.source / "a/f2").chmod(0o600), {Seen(0x4, 0, FILE, FILE, b"a/f2")}),
            (lambda: (world.source / "c").chmod(0o700), {Seen(0x40000004, 0, DIRECTORY, DIRECTORY, b"c")}),
            (
                lambda: (world.source / "a").rename(world.source / "z"),
                {
                    Seen(0x40000040, 0, DIRECTORY, MISSING, b"a"),
                    Seen(0x40000900, 0, MISSING, DIRECTORY, b"z"),
                    Seen(0x40000100, 0, MISSING, DIRECTORY, b"z/b"),
                    Seen(0x100, 0, MISSING, FILE, b"z/b/f3"),
                },
            ),
            (lambda: shutil.rmtree(world.source / "z"), {Seen(0x40000600, 0, DIRECTORY, MISSING, b"z")}),
            (lambda: world.write("z"), {Seen(0x10A, 0, MISSING, FILE, b"z")}),
            (lambda: (world.source / "z").unlink(), {Seen(0x200, 0, FILE, MISSING, b"z")}),
        )
        for step, needed in steps:
            before = len(probe.named("sync"))
            with daemon.held():  # all of a step in one batch
                step()
            calls = probe.wait_for(daemon, "sync", before + 1)
            daemon.wait_until(partial(was_given, probe, before, needed), what=f"{needed}, not {calls[-1].objects}")


def test_any_name(world: World, probe: Probe) -> None:
    names = {b"new\nline", b"\xff\xfe", b"-rf", b" ", b"st*ar", b"x" * 255}
    for name in names:
        Path(os.fsdecode(os.path.join(os.fsencode(world.source), name))).touch()
    assert world.run(f"-W{world.source}", "-Mso", probe.option, "--only-initialsync").code == Exit.OK
    (call,) = probe.named("sync")
    assert {seen.path for seen in call.objects} == {b"", *names}


def test_whole_directories(world: World, probe: Probe) -> None:
    """With --have-recursive-sync the initial sync is one object, by its absolute path."""
    plant(world)
    with started(world, probe, "so", "--have-recursive-sync") as daemon:
        (first,) = probe.wait_for(daemon, "sync", 1)
        assert first.objects == [Seen(0x40000100, 1, MISSING, DIRECTORY, os.fsencode(world.source))]
        world.write("new/deep/file")
        place = os.fsencode(world.source / "new")
        daemon.wait_until(lambda: any(s.path == place for c in probe.named("sync") for s in c.objects))
        world.write("f1", "changed")
        daemon.wait_until(lambda: any(s.path == b"f1" for c in probe.named("sync") for s in c.objects))
        (world.source / "f1").unlink()
        gone = Seen(0x200, 0, UNKNOWN, MISSING, b"f1")
        daemon.wait_until(lambda: any(gone in call.objects for call in probe.named("sync")))


def test_lists(world: World, probe: Probe) -> None:
    """Mode rsyncso has the lists of mode rsyncshell, and removes them."""
    with_rejected(world)
    rules = world.file("rules", RULES)
    options = (f"-W{world.source}", "-Mrsyncso", probe.option, f"-R{rules}", "--only-initialsync")
    assert world.run(*options).code == Exit.OK
    (call,) = probe.named("rsync")
    include, included, exclude, excluded = call.texts
    assert included == b"/***\n"
    assert excluded is not None
    assert set(excluded.split()) == {b"/x.o", b"/a/y.o", b"/secretfile", b"/a/secretdir", b"/a/\\[w\\]\\*.o", b"/c"}
    assert include is not None
    assert exclude is not None
    assert not os.path.exists(include)
    assert not os.path.exists(exclude)
    assert not os.path.exists(os.path.dirname(include))


def test_lists_of_what_is_permitted(world: World, probe: Probe) -> None:
    with_rejected(world)
    rules = world.file("rules", RULES)
    options = ("-Mrsyncso", probe.option, f"-R{rules}", "--rsync-prefer-include", "--only-initialsync")
    assert world.run(f"-W{world.source}", *options).code == Exit.OK
    (call,) = probe.named("rsync")
    _, included, exclude = call.texts
    assert exclude is None
    assert included is not None
    assert {b"/a", b"/a/b", b"/f1"} <= set(included.split())
    assert b"secret" not in included


def test_lists_in_parts_are_kept_on_demand(world: World, probe: Probe) -> None:
    plant(world)
    lists = world.top / "lists"
    options = (f"-L{lists}", "-U", "--rsync-inclimit=3", "--rsync-prefer-include", "--only-initialsync")
    assert world.run(f"-W{world.source}", "-Mrsyncso", probe.option, *options).code == Exit.OK
    calls = probe.named("rsync")
    assert len(calls) > 1
    assert len(list(lists.iterdir())) == len(calls)


@pytest.mark.parametrize("mode", FUNCTIONS)
def test_surroundings(world: World, probe: Probe, mode: str) -> None:
    """Phase and number are in the environment and the context, but not while it initialises."""
    world.write("f1")
    source = os.fsencode(world.source)
    stale = {"CLSYNC_STATUS": "stale", "CLSYNC_ITERATION": "7"}
    with world.bare(f"-W{world.source}", f"-M{mode}", probe.option, *QUICK, env=stale) as daemon:
        probe.wait_for(daemon, FUNCTIONS[mode], 1)
        daemon.wait_for_log(SYNCED)
        world.write("f1", "changed")
        probe.wait_for(daemon, FUNCTIONS[mode], 2)
        (init,) = probe.named("init")
        assert (init.status, init.iteration, init.state, init.cwd) == (None, None, 1, source)
        first, second = probe.named(FUNCTIONS[mode])[:2]
        assert (first.status, first.iteration, first.state, first.number) == (b"initsync", b"1", 9, 1)
        assert (second.status, second.iteration, second.state, second.number) == (b"running", b"2", 2, 2)
        assert first.cwd == second.cwd == source
        assert first.pid == second.pid == init.pid != daemon.pid
        # Between calls it keeps no file system busy.
        daemon.wait_until(lambda: os.readlink(f"/proc/{first.pid}/cwd") == "/", what="leaving the tree")
        daemon.stop()
    (deinit,) = probe.named("deinit")
    assert (deinit.state, deinit.cwd, deinit.pid) == (0, source, init.pid)


OFFSETS = {
    "state": 0, "pid": 4, "pid_str": 8, "uid": 88, "gid": 92, "privileged_uid": 96, "privileged_gid": 100,
    "synchandler_uid": 104, "synchandler_gid": 108, "caps": 112, "child_pid": 116, "children": 1140,
    "iteration_num": 1144, "rules": 1152, "rules_count": 23680, "st_dev": 23688, "flags_values_raw": 23696,
    "flags": 31888, "flags_set": 35984, "config_path": 40080, "config_block": 40088, "customsignal": 40096,
    "label": 44200, "watchdir": 44208, "pidfile": 44216, "standbyfile": 44224, "exithookfile": 44232,
    "preexithookfile": 44240, "destdir": 44248, "destproto": 44256, "watchdirwslash": 44264, "destdirwslash": 44272,
    "statusfile": 44280, "socketpath": 44288, "dump_path": 44296, "socket": 44304, "watchdirlen": 44320,
    "destdirlen": 44328, "handlerfpath": 44376, "rulfpath": 44424, "listoutdir": 44440, "retries": 44472,
    "bfilethreshold": 44480, "syncdelay": 44488, "_queues": 44496, "rsyncinclimit": 44560, "synctime": 44568,
    "synctimeout": 44576, "isignoredexitcode": 44592, "indexes_p": 53752, "fsmondata": 53760,
}  # fmt: skip
"""Of fields of `struct ctx` in Debian's build of clsync 0.4 for amd64."""
INCLUDES = "".join(
    f"#include <{name}>\n"
    for name in ("stdio.h", "stddef.h", "clsync/clsync.h", "clsync/configuration.h", "clsync/ctx.h")
)
AMD64 = pytest.mark.skipif(
    os.uname().machine != "x86_64" or sys.maxsize < 2**32, reason="the layout is that of amd64"
)


def layout_printed(world: World, flags: tuple[str, ...]) -> list[int]:
    """Return offset and size of each field, as the compiler sees them, and the size of all."""
    names = [field[0] for field in Context._fields_]
    names[names.index("queues")] = "_queues"
    lines = (f'printf("%zu %zu ", offsetof(struct ctx, {n}), sizeof(((struct ctx *)0)->{n}));' for n in names)
    text = f'{INCLUDES}int main(void) {{ {" ".join(lines)} printf("%zu", sizeof(struct ctx)); return 0; }}'
    return [int(word) for word in run_c(world.top, text, flags).split()]


def test_layout_as_the_compiler_sees_it(world: World) -> None:
    """What is filled in is what modules read: the header and our structure agree."""
    found = []
    for name in (field[0] for field in Context._fields_):
        found += [getattr(Context, name).offset, getattr(Context, name).size]
    assert [*found, len(bytes(Context()))] == layout_printed(world, our_flags())


@AMD64
def test_layout_of_old_modules(world: World) -> None:
    asserts = "".join(f'_Static_assert(offsetof(struct ctx, {n}) == {at}, "{n}");\n' for n, at in OFFSETS.items())
    sizes = '_Static_assert(sizeof(struct ctx) == 53768, "");_Static_assert(sizeof(api_eventinfo_t) == 32, "");\n'
    run_c(world.top, f"{INCLUDES}{asserts}{sizes}int main(void) {{ return 0; }}")
    assert [getattr(Element, name).offset for name, _ in Element._fields_] == [0, 4, 8, 16, 24, 28]


@AMD64
def test_layout_with_the_headers_of_debian(world: World) -> None:
    assert layout_printed(world, debian_flags(world.top)) == layout_printed(world, our_flags())


PRINTS = """
#include <clsync/compilerflags.h>
#include <clsync/clsync.h>
#include <clsync/error.h>
static const char *ctx;
#define TEXT(at) (*(const char **)(ctx + (at)) ? *(const char **)(ctx + (at)) : "NULL")
#define NUMBER(at) (*(const int *)(ctx + (at)))
#define FLAG(at) NUMBER(31888 + 4 * (at)), NUMBER(35984 + 4 * (at))
int clsyncapi_init(struct ctx *given, struct indexes *none) {
    ctx = (const char *)given;
    info("[%s|%s|%s|%s|%s|%s|%s|%s]", TEXT(44200), TEXT(44208), TEXT(44248), TEXT(44256), TEXT(44264), TEXT(44272),
        TEXT(44376), TEXT(44440));
    info("[%d|%s|%d|%d|%d|%d|%d|%d]", NUMBER(4), ctx + 8, NUMBER(88), NUMBER(44320), NUMBER(44328), NUMBER(44472),
        NUMBER(44488), NUMBER(44496));
    info("[%d %d|%d %d|%d %d|%d %d|%d %d|%d %d]", FLAG('M'), FLAG('d'), FLAG('p'), FLAG('U'), FLAG(512 + 2),
        FLAG(512 + 20));
    info("[%s|%s|%d|%d|%d]", TEXT(23696 + 8 * 'l'), TEXT(23696 + 8 * 'r'), NUMBER(44560), NUMBER(44576),
        ctx[44592 + 23] * 10 + ctx[44592 + 24]);
    return 5;
}
int clsyncapi_sync(int n, api_eventinfo_t *elements) { return 0; }
"""


@AMD64
def test_live_values(world: World) -> None:
    """Old modules find at their offsets what holds now."""
    module = compiled(world.top, PRINTS)
    options = ("-llab1", "-r3", "-w2.5", "-t7", "-U", "-x23", "--monitor=inotify", "-k60", "--rsync-inclimit=9")
    lists = world.top / "lists"
    with world.daemon("-Mso", f"-S{module}", "-d1", f"-L{lists}", *options, delays=()) as daemon:
        assert daemon.wait(code=5) == 5
        said = [line.partition("[")[2].rpartition("]")[0] for line in daemon.output.splitlines() if ".so: " in line]
        source, destination = world.source, world.destination
        assert said[:4] == [
            f"lab1|{source}|{destination}|NULL|{source}/|{destination}/|{module}|{lists}",
            f"{daemon.pid}|{daemon.pid}|{os.geteuid()}|{len(str(source))}|{len(str(destination))}|3|3|7",
            "7 1|1 1|0 0|1 1|0 0|2 1",
            "lab1|3|9|60|10",
        ]


@AMD64
def test_live_values_of_a_remote_destination(world: World) -> None:
    module = compiled(world.top, PRINTS)
    done = world.run(f"-W{world.source}", "-Mso", f"-S{module}", "-Drsync://host/module")
    assert done.code == 5
    assert "|rsync://host/module|rsync|" in done.err
    assert f"|{world.source}/|rsync://host/module|" in done.err


# -- what it may call ------------------------------------------------------------------------------------------


def test_messages(world: World, probe: Probe) -> None:
    """They go where clsync's own go, by the same levels."""

    def said(*options: str) -> list[str]:
        done = world.run(f"-W{world.source}", "-Mso", probe.option, "--only-initialsync", *options)
        assert done.code == Exit.OK
        return [line for line in done.err.splitlines() if "probe.so: " in line]

    error, warning = "Error: probe.so: an error, abc (28: No space left on device)", "Warning: probe.so: a warning, 2"
    info = "Info: probe.so: information, i"
    assert said() == [error, warning, info]
    assert said("-v2") == [error, warning]
    assert said("-q") == []
    assert said("-d1")[1].endswith("clsyncapi_init(): a warning, 2")
    assert said("-d1")[-1].endswith("clsyncapi_init(): something for the curious, 1")
    assert said("-d3")[-1].endswith("clsyncapi_init(): something for the very curious, 3")


def acting(world: World, probe: Probe, word: str, mode: str = "so", *options: str) -> tuple[int, str]:
    """Have the module do something in the initial sync, once; return code and standard error of the run."""
    probe.act(word)
    done = world.run(f"-W{world.source}", f"-M{mode}", probe.option, "--only-initialsync", "-r1", *options)
    assert "Traceback" not in done.err
    assert probe.acted
    return done.code, done.err


def test_lists_that_a_module_makes(world: World, probe: Probe) -> None:
    assert acting(world, probe, "list")[0] == Exit.OK
    assert probe.list.read_text().splitlines() == [
        "", "/a", "/a/b", "/a/b/c", "/a/b/d/***", "/gone/***", "/gone", r"/s\*a\\r", r"/b\s",
    ]  # fmt: skip


def test_most_children(world: World, probe: Probe) -> None:
    """The 257th child is refused, with ECANCELED."""
    assert acting(world, probe, "fork")[0] == Exit.OK


def test_a_child_that_cannot_run_its_program(world: World, probe: Probe) -> None:
    """It returns from the module, and must not go on as if it were clsync's."""
    code, error = acting(world, probe, "badexec")
    assert code == 2, "the errno of exec, as the example passes it on"
    assert "clsyncapi_sync answers 2" in error
    assert [(call.function, call.pid) for call in probe.calls] == [
        (name, probe.calls[0].pid) for name in ("init", "sync", "waited", "deinit")
    ]


ENDS_BY_ITSELF = """
#include <stdlib.h>
#include <string.h>
#include <clsync/clsync.h>
#include <clsync/malloc.h>
int clsyncapi_init(struct ctx *ctx, struct indexes *indexes) {
    char *text = malloc(40);
    memset(text, 'x', 40);
    free(text);
    text = xmalloc(32);
    memset(text, 'y', 32);
    return strlen(text) != 32;
}
int clsyncapi_sync(int n, api_eventinfo_t *elements) { return 0; }
"""


def test_a_text_that_fills_its_memory_has_an_end(world: World) -> None:
    """One of the examples needs it, for the name of a directory."""
    module = compiled(world.top, ENDS_BY_ITSELF)
    assert world.run(f"-W{world.source}", "-Mso", f"-S{module}", "--only-initialsync").code == Exit.OK


# -- failures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "word", "how"),
    [
        ("so", "abort", "killed by SIGABRT"),
        ("rsyncso", "segv", "killed by SIGSEGV"),
        ("so", "exit", "exit code 0"),
        ("rsyncso", "critical", "exit code 5"),
    ],
)
def test_a_crash_costs_one_try(world: World, probe: Probe, mode: str, word: str, how: str) -> None:
    """The daemon goes on, and hands the same over to the module once it is loaded again."""
    world.write("f1")
    function = FUNCTIONS[mode]
    probe.act(word)
    with started(world, probe, mode) as daemon:
        first, second = probe.wait_for(daemon, function, 2)[:2]
        assert (
            f"probe.so has ended in clsyncapi_{function}: {how}; it stays dirty and is tried again" in daemon.output
        )
        assert first.pid != second.pid
        assert [call.pid for call in probe.named("init")] == [first.pid, second.pid]
        if mode == "so":
            assert {seen.path for seen in second.objects} >= {b"", b"f1"}
        assert probe.named("deinit") == []
        world.write("f2")
        assert probe.wait_for(daemon, function, 3)[2].pid == second.pid
        daemon.stop(code=0)
    assert [call.pid for call in probe.named("deinit")] == [second.pid]


def test_what_a_crash_leaves_behind_is_ended(world: World, probe: Probe) -> None:
    """It might still change the destination while the next try is made."""
    probe.act("orphan")
    with started(world, probe, "so") as daemon:
        first, second = probe.wait_for(daemon, "sync", 2)[:2]
        assert group_alive(second.pid)
        assert not group_alive(first.pid)


def test_a_crash_is_a_failure(world: World, probe: Probe) -> None:
    code, error = acting(world, probe, "segv")
    assert code == Exit.INCOMPLETE
    assert "not synced: .: probe.so has ended in clsyncapi_sync: killed by SIGSEGV" in error


def test_a_module_that_ends_between_two_batches(world: World, probe: Probe) -> None:
    with started(world, probe, "so") as daemon:
        (first,) = probe.wait_for(daemon, "sync", 1)
        daemon.wait_for_log(SYNCED)
        os.kill(first.pid, signal.SIGKILL)
        daemon.wait_until(lambda: first.pid not in daemon.descendants(), what="its end")
        world.write("f1")
        calls = probe.wait_for(daemon, "sync", 2)
        assert calls[1].pid != first.pid
        assert "Warning: probe.so has ended between two batches\n" in daemon.output


@pytest.mark.parametrize("mode", FUNCTIONS)
def test_codes(world: World, probe: Probe, mode: str) -> None:
    """What the function answers is an exit code; 24 means nothing special."""
    assert acting(world, probe, "24", mode)[0] == 24
    assert acting(world, probe, "24", mode, "-x24")[0] == Exit.OK
    assert acting(world, probe, "-1", mode)[0] == 255
    assert acting(world, probe, "256", mode)[0] == 255
    error = acting(world, probe, "7", mode)[1]
    assert f"probe.so: clsyncapi_{FUNCTIONS[mode]} answers 7" in error


def test_what_fails_is_tried_again(world: World, probe: Probe) -> None:
    """Nothing is named twice in a call: as a part of the tree, and because it changed meanwhile."""
    world.write("f1")
    probe.act("7")
    with started(world, probe, "so", delays=("-t0.1", "-w0.1")) as daemon:
        first, second = probe.wait_for(daemon, "sync", 2)[:2]
        paths = [seen.path for seen in second.objects]
        assert len(paths) == len(set(paths)), paths
        assert first.pid == second.pid, "it has not ended"
        daemon.wait_until(lambda: "answers 7; it stays dirty" in daemon.output)


@pytest.mark.parametrize("word", ["hang", "wait"])
def test_timeout(world: World, probe: Probe, word: str) -> None:
    """A call that takes too long is ended with all it has started, and made again."""
    probe.act(word)
    with started(world, probe, "so", "-k1") as daemon:
        first, _ = probe.wait_for(daemon, "sync", 2)[:2]
        assert "probe.so: clsyncapi_sync took longer than --timeout-sync" in daemon.output
        assert first.pid not in daemon.descendants()
        assert not daemon.descendants(b"sleep")


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_an_end_in_the_middle_of_a_call(world: World, probe: Probe, sent: int) -> None:
    """What the module has started is ended, and then the module cleans up."""
    probe.act("wait")
    with started(world, probe, "so") as daemon:
        daemon.wait_until(lambda: bool(daemon.descendants(b"sleep")), what="its child")
        assert daemon.stop(sent, code=None) == Exit.INCOMPLETE
    assert [call.function for call in probe.calls] == ["init", "sync", "waited", "deinit"]


def test_the_end_of_the_daemon_is_that_of_the_module(world: World, probe: Probe) -> None:
    with started(world, probe, "so") as daemon:
        (call,) = probe.wait_for(daemon, "sync", 1)
        daemon.wait_for_log(SYNCED)
        os.kill(daemon.pid, signal.SIGKILL)
        daemon.wait(code=-signal.SIGKILL)
        assert call.pid not in daemon.family()


@pytest.mark.parametrize("how", ["safe", "full"])
@pytest.mark.parametrize("mode", FUNCTIONS)
def test_batches_may_overlap(world: World, probe: Probe, mode: str, how: str) -> None:
    """One that takes long holds up no other, and ends with the daemon."""
    function = FUNCTIONS[mode]
    with started(world, probe, mode, f"-p{how}") as daemon:
        daemon.wait_for_log(SYNCED)
        probe.act("wait")
        world.write("a/file")
        daemon.wait_until(lambda: bool(daemon.descendants(b"sleep")), what="a call that takes long")
        world.write("b/file")
        _, waiting, other = probe.wait_for(daemon, function, 3)[:3]
        assert waiting.pid != other.pid
        daemon.stop(code=Exit.INCOMPLETE)
    assert [call.pid for call in probe.named("waited")] == [waiting.pid]


# -- start and end ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", FUNCTIONS)
def test_init_can_end_the_start(world: World, probe: Probe, mode: str) -> None:
    done = world.run(f"-W{world.source}", f"-M{mode}", probe.option, env={"PROBE_INIT": "9"})
    assert done.code == 9
    assert f"clsync: --sync-handler {probe.module}: clsyncapi_init answers 9\n" in done.err
    assert WATCHING not in done.err
    assert [call.function for call in probe.calls] == ["init"]


def test_a_crash_in_init_ends_the_start(world: World, probe: Probe) -> None:
    done = world.run(f"-W{world.source}", "-Mso", probe.option, env={"PROBE_INIT": "crash"})
    assert done.code == Exit.HANDLER
    assert f"clsync: --sync-handler {probe.module} has ended in clsyncapi_init: killed by SIGABRT\n" in done.err


FORKS = """
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
int clsyncapi_init(void *ctx, void *indexes) {
    if (!fork())
        _exit(0);
    return system("true") || waitpid(-1, NULL, 0) < 0;
}
int clsyncapi_sync(int n, void *elements) { return 0; }
"""


def test_a_child_that_ends_in_init_ends_nothing_else(world: World) -> None:
    with world.daemon("-Mso", f"-S{compiled(world.top, FORKS)}") as daemon:
        daemon.wait_for_log(SYNCED)
        daemon.stop()


def test_background_tells_what_init_says(world: World, probe: Probe) -> None:
    done = world.run(f"-W{world.source}", "-Mso", probe.option, "-b", env={"PROBE_INIT": "9"})
    assert done.code == 9


@pytest.mark.parametrize("mode", FUNCTIONS)
@pytest.mark.parametrize("answer", [0, 6])
def test_deinit_is_called_at_the_end(world: World, probe: Probe, mode: str, answer: int) -> None:
    """What it answers is the exit code."""
    env = {"PROBE_DEINIT": str(answer)}
    done = world.run(f"-W{world.source}", f"-M{mode}", probe.option, "--only-initialsync", env=env)
    assert done.code == answer
    assert [call.function for call in probe.calls] == ["init", FUNCTIONS[mode], "deinit"]
    assert (probe.calls[-1].status, probe.calls[-1].state) == (b"exiting", 0)
    assert ("clsyncapi_deinit answers 6" in done.err) == (answer == 6)


def test_only_what_it_has_is_called(world: World) -> None:
    """To initialise and to clean up may have no function."""
    world.write("f1")
    module = compiled(world.top, "int clsyncapi_sync(int n, void *elements) { return n == 2 ? 0 : 9; }")
    assert world.run(f"-W{world.source}", "-Mso", f"-S{module}", "--only-initialsync").code == Exit.OK


@pytest.mark.parametrize(
    ("mode", "text", "why"),
    [
        ("so", "int clsyncapi_rsync(void) { return 0; }", "it has no function clsyncapi_sync"),
        ("rsyncso", "int clsyncapi_sync(void) { return 0; }", "it has no function clsyncapi_rsync"),
        ("so", "int nowhere(void); int clsyncapi_sync(void) { return nowhere(); }", "undefined symbol: nowhere"),
    ],
)
def test_modules_that_lack_something(world: World, mode: str, text: str, why: str) -> None:
    done = world.run(f"-W{world.source}", f"-M{mode}", f"-S{compiled(world.top, text)}")
    assert done.code == Exit.HANDLER
    assert why in done.err
    assert WATCHING not in done.err


def refused(world: World, module: Path) -> tuple[str, str]:
    """Return message and hint of a module that must not be loaded."""
    return world.run(f"-W{world.source}", "-Mso", f"-S{module}").complaint(Exit.HANDLER)


def test_files_that_are_no_modules(world: World) -> None:
    assert "No such file" in refused(world, world.top / "missing.so")[0]
    assert "not a regular file" in refused(world, world.source)[0]
    done = world.run(f"-W{world.source}", "-Mso", f"-S{world.file('text.so', 'text')}")
    assert done.code == Exit.HANDLER
    assert "cannot be loaded" in done.err


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o4755, 0o2755, 0o1755])
def test_modules_that_others_may_write(world: World, probe: Probe, mode: int) -> None:
    probe.module.chmod(mode)
    message, hint = refused(world, probe.module)
    assert f"mode {mode:04o}" in message
    assert "chmod" in hint
    assert probe.calls == []


@ROOT
def test_modules_of_others(world: World, probe: Probe) -> None:
    os.chown(probe.module, 65534, 65534)
    message, hint = refused(world, probe.module)
    assert "belongs to user 65534" in message
    assert "chown" in hint
    assert probe.calls == []


def test_a_module_that_is_closed_too_late(world: World, probe: Probe) -> None:
    """It is looked at again before it is loaded again."""
    with started(world, probe, "so") as daemon:
        daemon.wait_for_log(SYNCED)
        probe.module.chmod(0o777)
        probe.act("abort")
        world.write("f1")
        daemon.wait_for_log("others may write it")
        before = len(probe.named("sync"))
        probe.module.chmod(0o755)
        probe.wait_for(daemon, "sync", before + 1)
    assert len(probe.named("init")) == 2


def test_a_module_by_its_name_alone(world: World, probe: Probe) -> None:
    """It is the one in the directory where clsync is started, wherever a link leads."""
    (world.top / "link.so").symlink_to(probe.module.name)
    assert world.run(f"-W{world.source}", "-Mso", "-Slink.so", "--only-initialsync").code == Exit.OK


def test_without_a_compiler(world: World, probe: Probe) -> None:
    """An installation that was made without one says so, and only where a module is asked for."""
    import clsync

    package = world.top / "python/clsync"
    shutil.copytree(Path(clsync.__file__).parent, package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    command = [sys.executable, "-m", "clsync.cli.main", *world.trees, "--only-initialsync"]
    env = {**INHERITED, **world.environment, "PYTHONPATH": str(package.parent)}
    world.write("f1")
    for options, code in ((("-Mso", probe.option), Exit.HANDLER), (("-Mcopy",), Exit.OK)):
        done = subprocess.run([*command, *options], env=env, capture_output=True, text=True, check=False)
        assert done.returncode == code
        assert ("made without a C compiler" in done.stderr) == (code == Exit.HANDLER)


@pytest.mark.parametrize(("mode", "option"), [("rsyncso", "--have-recursive-sync"), ("so", "--synclist-simplify")])
def test_options_without_a_meaning(world: World, probe: Probe, mode: str, option: str) -> None:
    message, _ = world.run(*world.trees, f"-M{mode}", probe.option, option).complaint(Exit.USAGE)
    assert option in message
    assert mode in message


@pytest.mark.parametrize("mode", FUNCTIONS)
def test_a_module_is_needed(world: World, mode: str) -> None:
    message, hint = world.run(*world.trees, f"-M{mode}").complaint(Exit.USAGE)
    assert message == f"--mode={mode} needs a module"
    assert "--sync-handler" in hint
