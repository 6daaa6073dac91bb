"""What clsync itself starts can do no more than it has to: programs that try, and trees that lead elsewhere."""

from __future__ import annotations

import asyncio
import ctypes
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from clsync.errors import Exit
from clsync.kernel import sandbox
from clsync.kernel.credentials import names_in
from clsync.kernel.ops import DirectOps
from clsync.options.names import SANDBOX_LAYERS
from clsync.privilege.profiles import scan_sandbox
from tests.support.daemon import Daemon, installed
from tests.support.remotes import SshHost, missing
from tests.support.rights import NOBODY
from tests.system.test_privileges import AS_NOBODY, open_world
from tests.system.world import AT_ONCE, MODES, ROOT, SYNCED, World, mounted

__all__ = ["open_world"]
PERL = shutil.which("perl")
pytestmark = pytest.mark.skipif(PERL is None, reason="needs perl")

TRIES = r"""#!/usr/bin/perl
use Socket;
exit 0 if grep {{ $_ eq '--version' }} @ARGV;
my $to = '{destination}'; my $top = '{top}';
open(my $report, '>', "$to/report") or die;
sub try {{ print $report $_[0], ' ', ($_[1] ? 'yes' : 'no'), "\n"; }}
my ($f, $d, $s, $u, $l, $n);
sub call {{ my @words = @_; return syscall(shift(@words), @words) == 0; }}
sub own_view {{
    my $child = syscall({clone}, 0x20000 | 17, 0, 0, 0, 0);
    kill(9, $$) if $child == 0;
    return $child > 0;
}}
sub reads {{ return open($f, '<', $_[0]) && defined(readline($f)); }}
sub writes {{ return open($f, '>>', $_[0]) && syswrite($f, 'x') && close($f); }}
try('reads the source', reads('inside'));
try('reads the password file', reads('/etc/shadow'));
try('reads beside the trees', reads("$top/outside"));
try('lists beside the trees', opendir($d, $top));
try('writes the destination', writes("$to/new"));
try('renames at the destination', mkdir("$to/sub") && rename("$to/new", "$to/sub/new"));
try('makes a link at the destination', link("$to/sub/new", "$to/linked"));
try('changes the mode at the destination', chmod(0600, "$to/sub/new"));
try('writes the source', writes('inside'));
try('writes a new file of the source', writes('other'));
try('changes the mode of the source', chmod(0777, 'inside'));
try('removes from the source', unlink('inside'));
try('writes beside the trees', writes("$top/outside"));
try('makes a directory beside the trees', mkdir("$top/made"));
try('writes to /tmp', writes("/tmp/clsync-escaped-$$"));
try('changes the mode outside', chmod(0777, "$top/outside"));
try('changes the owner outside', chown(12, 34, "$top/outside"));
try('changes the time outside', utime(1, 1, "$top/outside"));
try('changes an attribute outside', call({setxattr}, "$top/outside", 'user.x', 'y', 1, 0));
try('moves the outside in', rename("$top/outside", "$to/outside"));
try('links the outside in', link("$top/outside", "$to/outside"));
symlink("$top/outside", "$to/way");
try('reads by a symlink', reads("$to/way"));
try('writes by a symlink', writes("$to/way"));
try('opens the network', socket($s, PF_INET, SOCK_STREAM, 0));
try('reaches a port', socket($s, PF_INET, SOCK_STREAM, 0)
    && connect($s, pack_sockaddr_in({port}, inet_aton('127.0.0.1'))));
try('sends a datagram', socket($u, PF_INET, SOCK_DGRAM, 0)
    && defined(send($u, 'x', 0, pack_sockaddr_in({port}, inet_aton('127.0.0.1')))));
try('reaches a socket', socket($l, PF_UNIX, SOCK_STREAM, 0) && connect($l, pack_sockaddr_un("$top/socket")));
try('signals others', kill(0, getppid() || {pid}));
try('runs what it has copied', do {{ writes("$to/run"); chmod(0755, "$to/run"); system {{ "$to/run" }} 'run'; $? >= 0 }});
try('mounts', call({mount}, 'none', "$to/sub", 'tmpfs', 0, 0) && call({umount}, "$to/sub", 2));
try('opens a device it has made', call({mknod}, "$to/device", 0020600, 0x0103) && open($n, '<', "$to/device"));
try('has a view of mounts of its own', own_view());
try('changes the mode by a tree that can be written', do {{ my $name = 'outside';
    my $writable = pack('Q4', 0, 1, 0, 0);
    my $tree = syscall({open_tree_attr}, -100, $top, 0x8001, $writable, 32);
    $tree >= 0 && call({fchmodat}, $tree, $name, 0777) }});
print $report grep(/^Cap/, <$s>) if open($s, '<', '/proc/self/status');
exit 0;
"""
NUMBERS = {"x86_64": (188, 165, 166, 133, 467, 268, 56)}
KEPT = [
    f"CAP_{name}" for name in "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID LINUX_IMMUTABLE MKNOD SETFCAP".split()
]
INSIDE = {
    "reads the source",
    "writes the destination",
    "renames at the destination",
    "makes a link at the destination",
    "changes the mode at the destination",
}
ATTRIBUTES = {
    "changes the mode outside",
    "changes the owner outside",
    "changes the time outside",
    "changes an attribute outside",
    "changes the mode of the source",
}
NETWORK = {"opens the network", "reaches a port", "sends a datagram", "reaches a socket"}


def tries(world: World, *options: str, port: int = 9, named: bool = True, head: Sequence[str] = ()) -> set[str]:
    """Return what a program could do that clsync took for its rsync; `named`: by an option, else it is found in PATH."""
    setxattr, mount, umount, mknod, open_tree_attr, fchmodat, clone = NUMBERS[os.uname().machine]
    text = TRIES.replace("{{", "\0").replace("}}", "\1")
    for name, value in {
        "destination": world.destination, "top": world.top, "port": port, "setxattr": setxattr, "mount": mount,
        "umount": umount, "mknod": mknod, "open_tree_attr": open_tree_attr, "fchmodat": fchmodat, "clone": clone,
        "pid": os.getpid(),
    }.items():  # fmt: skip
        text = text.replace("{" + name + "}", str(value))
    (world.top / "bin").mkdir(exist_ok=True)
    program = world.file("bin/rsync", text.replace("\0", "{").replace("\1", "}"), 0o755)
    world.write("inside")
    world.file("outside", "secret\n")
    said = (f"-S{program}",) if named else ()
    env = {"PATH": f"{program.parent}:{os.environ['PATH']}"}
    done = world.run(*world.trees, "-Mrsyncdirect", "--only-initialsync", *said, *options, env=env, head=head)
    assert done.code == 0, done.err
    lines = (world.destination / "report").read_text().splitlines()
    return {line.removesuffix(" yes") for line in lines if line.endswith(" yes")}


def attributes(path: Path) -> tuple[object, ...]:
    """Return all that somebody could have changed of a file."""
    found = path.lstat()
    names = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    return path.read_bytes(), found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns, found.st_ctime_ns, names


needs_numbers = pytest.mark.skipif(os.uname().machine not in NUMBERS, reason="its system calls are not known here")


@contextmanager
def listening(world: World) -> Iterator[int]:
    """Listen at a port, and at a socket beside the trees."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind(str(world.top / "socket"))
        local.listen()
        yield server.getsockname()[1]


def clear_up_escaped() -> None:
    """Remove what programs have written to /tmp, those of other tests as well, which may do the same now."""
    for path in Path("/tmp").glob("clsync-escaped-*"):
        path.unlink(missing_ok=True)


@ROOT
@needs_numbers
def test_nothing_is_out_of_reach_of_a_program_of_the_operators(world: World) -> None:
    """As it was: so the other tests can fail."""
    with listening(world) as port:
        found = tries(world, port=port)
    assert found >= INSIDE | ATTRIBUTES | NETWORK | {"reads the password file", "reads beside the trees", "mounts"}
    assert found >= {
        "signals others",
        "opens a device it has made",
        "writes by a symlink",
        "removes from the source",
    }


@ROOT
@needs_numbers
@pytest.mark.parametrize("options", [(), ("--sandbox=on",), ("--sandbox=on", "--xattrs")], ids=str)
def test_a_program_of_root_cannot_break_out(world: World, options: tuple[str, ...]) -> None:
    """Files, attributes, sockets, signals, devices: only the trees are left, and of the source only to look at."""
    with listening(world) as port:
        found = tries(world, *options, port=port, named=bool(options))
    assert found == INSIDE
    assert (world.top / "outside").read_text() == "secret\n"
    assert (world.source / "inside").exists()


@ROOT
@needs_numbers
@pytest.mark.parametrize(
    ("layer", "refused"),
    [
        ("landlock", {"reads the password file", "reads beside the trees", "lists beside the trees", "writes the source",
                      "removes from the source", "writes beside the trees", "writes to /tmp", "reads by a symlink",
                      "links the outside in", "reaches a port", "signals others", "runs what it has copied", "mounts"}),
        ("mounts", {*ATTRIBUTES, "writes the source", "writes beside the trees", "writes by a symlink", "writes to /tmp",
                    "links the outside in", "opens a device it has made"}),
        ("processes", {"signals others"}),
        ("seccomp", {*NETWORK, "mounts", "has a view of mounts of its own"}),
        ("capabilities", {"mounts"}),
    ],
)  # fmt: skip
def test_each_layer_by_itself(world: World, layer: str, refused: set[str]) -> None:
    with listening(world) as port:
        found = tries(world, f"--sandbox={layer}", port=port)
    clear_up_escaped()
    assert found >= INSIDE
    assert not found & refused
    if layer == "capabilities":
        report = (world.destination / "report").read_text()
        held = int(report.partition("CapEff:")[2].split()[0], 16)
        assert names_in(held) == KEPT


# -- trees that lead elsewhere ---------------------------------------------------------------------------------


class Swapper(threading.Thread):
    """Lets a symlink and a directory take each other's place, again and again."""

    def __init__(self, directory: Path, target: Path, pause: float) -> None:
        """`pause`: seconds that each stands at most; 0: as fast as can be."""
        super().__init__(daemon=True)
        self._directory, self._other, self._target = directory, directory.with_name("other"), target
        self._pause, self._over = pause, threading.Event()
        self._chance = random.Random(1)
        self.count = 0

    def run(self) -> None:
        """Go on until the end."""
        while not self._over.is_set():
            try:
                if not os.path.lexists(self._other):
                    self._other.symlink_to(self._target)
                exchange(self._directory, self._other)
                self.count += 1
            except OSError:
                pass  # a handler has taken something away
            if self._pause or not self.count % 64:
                time.sleep(self._chance.random() * self._pause)

    def end(self) -> None:
        """End it, and leave only what was the directory."""
        self._over.set()
        self.join()
        for path in (self._directory, self._other):
            if path.is_symlink():
                path.unlink()
        if self._other.exists():
            if self._directory.exists():
                shutil.rmtree(self._other, ignore_errors=True)
            else:
                self._other.rename(self._directory)


def exchange(one: Path, other: Path) -> None:
    """Let two names take each other's place at once (renameat2(2), RENAME_EXCHANGE)."""
    if ctypes.CDLL(None, use_errno=True).renameat2(-100, bytes(one), -100, bytes(other), 2):
        raise OSError(ctypes.get_errno(), "exchange")


FILES = 30
ROUNDS = 60
SWAPS = 150
OUTSIDE = "outside"


def outside(top: Path) -> dict[str, tuple[object, ...]]:
    """Return all that is to stay as it is."""
    found = top.stat()
    own = (sorted(os.listdir(top)), found.st_mode, found.st_uid, found.st_mtime_ns)
    return {"": own} | {path.name: attributes(path) for path in top.iterdir()}


def leaked(world: World) -> list[str]:
    """Return files of the destination with content from outside; no symlink is followed."""
    found = []
    for where, _, names, directory in os.fwalk(world.destination):
        for name in names:
            try:
                file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory)
            except OSError:
                continue
            if os.read(file, 100) == OUTSIDE.encode():
                found.append(f"{where}/{name}")
            os.close(file)
    return found


@ROOT
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("side", ["source", "destination", "the destination itself"])
def test_a_symlink_swapped_in_leads_nowhere(world: World, mode: str, side: str) -> None:
    """While files below it are changed in all ways: nothing outside is read, written, or given other attributes."""
    elsewhere = world.top / "elsewhere"
    elsewhere.mkdir()
    # What stands where the way leads is named as what is synced there.
    inside = elsewhere / "d" if side == "the destination itself" else elsewhere
    inside.mkdir(exist_ok=True)
    for number in range(FILES):
        world.write(f"d/f{number}")
        path = inside / f"f{number}"
        path.write_text(OUTSIDE)
        path.chmod(0o600)
        os.setxattr(path, "user.name", b"value")
        os.chown(path, 77, 77)
    before = outside(inside)
    directory = os.open(world.source / "d", os.O_RDONLY | os.O_DIRECTORY)
    place = {"source": world.source / "d", "destination": world.destination / "d"}.get(side, world.destination)
    swapper = Swapper(place, elsewhere, 0.02 * (side == "source"))
    with world.daemon(f"-M{mode}", "--sandbox=on", "--xattrs", delays=AT_ONCE) as daemon:
        daemon.wait_for_log(SYNCED)
        swapper.start()
        turn = 0
        while turn < ROUNDS or swapper.count < SWAPS:
            turn += 1
            for number in range(FILES):
                change(directory, f"f{number}", turn)
            assert leaked(world) == []
        swapper.end()
        assert outside(inside) == before
        os.kill(daemon.pid, signal.SIGUSR2)
        world.wait_for_equal(daemon, timeout=60)
    os.close(directory)
    assert outside(inside) == before


def change(directory: int, name: str, turn: int) -> None:
    """Change a file in one of several ways."""
    if turn % 3 == 0:
        file = os.open(name, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW, dir_fd=directory)
        os.write(file, b"%d" % turn)
        os.close(file)
    path = f"/proc/self/fd/{directory}/{name}"
    os.setxattr(path, "user.name", b"%d" % turn)
    os.chmod(path, 0o640 if turn % 2 else 0o644)
    os.chown(path, 1000 + turn % 7, 1000)
    os.utime(path, (turn, turn))


# -- what is not root's ----------------------------------------------------------------------------------------


@ROOT
@pytest.mark.root
def test_a_script_that_does_not_say_what_runs_it(world: World) -> None:
    """It is given to the shell, by a second start: namespaces of processes end with the first one."""
    (world.top / "bin").mkdir()
    world.file("bin/rsync", f'exec {shutil.which("rsync")} "$@"\n', 0o755)
    world.write("file")
    env = {"PATH": f"{world.top}/bin:{os.environ['PATH']}"}
    done = world.run(*world.trees, "-Mrsyncdirect", "--sandbox=on", "--only-initialsync", "--retries=1", env=env)
    assert done.code == 0, done.err
    world.demand_equal()


@ROOT
@pytest.mark.root
def test_a_run_that_is_ended_clears_up(world: World) -> None:
    """With the first process of its namespace all others are killed: who receives has to be done before."""
    with open(world.source / "large", "wb") as file:
        file.write(os.urandom(30_000_000))

    def begun() -> list[str]:
        return [name for name in os.listdir(world.destination) if name.startswith(".large.")]

    for _ in range(4):
        with world.daemon("-Mrsyncdirect", "--sandbox=on", "--bwlimit=1M") as daemon:
            daemon.wait_until(lambda: bool(begun()), what="a temporary file")
            daemon.stop()
        assert not begun()


@ROOT
@needs_numbers
def test_a_program_of_a_user_cannot_break_out(open_world: World) -> None:
    """Without rights of root there are no views of mounts; files, sockets and signals are out of reach all the same."""
    world = open_world
    for path in (world.source, world.destination):
        os.chown(path, NOBODY, NOBODY)
    with listening(world) as port:
        found = tries(world, "--sandbox=on", port=port, head=AS_NOBODY)
        assert found == INSIDE
        os.chmod(world.top / "socket", 0o777)
        for name in ("sub", "linked", "report", "device", "run", "way", "new"):
            subprocess.run(["rm", "-rf", world.destination / name], check=True)
        free = tries(world, port=port, head=AS_NOBODY)
    assert free >= INSIDE | NETWORK | {"reads beside the trees", "signals others", "runs what it has copied"}


WORKER = """
import os, socket, sys
from clsync.options import load
from clsync.privilege.carry import Confinement
settings = load([b"-W/", b"-D/tmp", b"--splitting=process", *map(os.fsencode, sys.argv[3:])], {}, lambda name: None, 1)
Confinement(settings, lambda text: None).become_worker(alone=False)
for what, attempt in (
    ("read", lambda: open("/etc/passwd").read()),
    ("list", lambda: os.listdir("/usr")),
    ("run", lambda: os.posix_spawn("/bin/true", ["true"], {})),
    ("remove", lambda: os.unlink(sys.argv[1])),
    ("reach", lambda: socket.socket().connect(("127.0.0.1", int(sys.argv[2])))),
    ("write", lambda: open(sys.argv[1] + "-open", "a").write("more")),
    ("make", lambda: open(sys.argv[1] + "-new", "x").write("new")),
):
    try:
        attempt()
    except OSError:
        continue
    print(what)
"""


@ROOT
@pytest.mark.parametrize(
    ("options", "expected"),
    [((), []), (("--sandbox=off",), ["read", "list", "run", "remove", "reach", "write", "make"])],
    ids=str,
)
def test_the_part_without_rights_reads_and_writes_nothing(
    open_world: World, options: tuple[str, ...], expected: list[str]
) -> None:
    """Not even where anybody can."""
    os.chown(open_world.top, NOBODY, NOBODY)
    mine, open_to_all = open_world.file("mine", "mine"), open_world.file("mine-open", "")
    open_to_all.chmod(0o666)
    with listening(open_world) as port:
        argv = [sys.executable, "-c", WORKER, str(mine), str(port), *options]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == expected, done.stderr


TRIED = """
from clsync.kernel import seccomp
from clsync.kernel.sandbox import trouble_with
for _ in range(30):
    assert trouble_with("seccomp") == ""
    seccomp.load(seccomp.program({}, {}, seccomp.ALLOW, {}))
"""


@pytest.mark.skipif(bool(sandbox.trouble_with("seccomp")), reason="needs filters")
def test_a_layer_that_was_tried_is_not_in_the_way(world: World) -> None:
    """A filter for all threads can be had at once, though the one that has tried it had one of its own."""
    done = subprocess.run([sys.executable, "-c", TRIED], capture_output=True, text=True, check=False, cwd=world.top)
    assert done.returncode == 0, done.stderr


# -- processes that copy -----------------------------------------------------------------------------------------

COPIER = """
import os, socket, sys
from clsync.kernel import sandbox
from clsync.kernel.landlock import READ, WRITE, Allowed
from clsync.options.names import SANDBOX_LAYERS
from clsync.privilege.profiles import copy_sandbox
sandbox.use(frozenset(SANDBOX_LAYERS))
top = sys.argv[1]
source, destination = (os.open(f"{top}/{name}", os.O_RDONLY) for name in ("source", "destination"))
places = Allowed(b"/proc/self/fd/%d" % source, READ), Allowed(b"/proc/self/fd/%d" % destination, WRITE)
sandbox.stay_within(copy_sandbox(), places)
for what, attempt in (
    ("read the source", lambda: os.open("inside", os.O_RDONLY, dir_fd=source)),
    ("write the source", lambda: os.open("inside", os.O_RDWR, dir_fd=source)),
    ("write the destination", lambda: os.open("new", os.O_RDWR | os.O_CREAT, dir_fd=destination)),
    ("give it away", lambda: os.chown("new", 12, 34, dir_fd=destination)),
    ("make a device", lambda: os.mknod("device", 0o020600, os.makedev(1, 3), dir_fd=destination)),
    ("read beside", lambda: open(top + "/outside")),
    ("write beside", lambda: open(top + "/outside", "a")),
    ("leave", lambda: os.open("../outside", os.O_RDWR, dir_fd=destination)),
    ("run", lambda: os.posix_spawn("/bin/true", ["true"], {})),
    ("reach", lambda: socket.socket().connect(("127.0.0.1", int(sys.argv[2])))),
    ("speak", lambda: socket.socket(socket.AF_UNIX)),
    ("become", lambda: os.setuid(12)),
):
    try:
        attempt()
    except (OSError, ImportError):
        continue
    print(what)
"""


@ROOT
def test_a_process_that_copies_cannot_break_out(world: World) -> None:
    world.write("inside")
    world.file("outside", "secret\\n")
    with listening(world) as port:
        argv = [sys.executable, "-c", COPIER, str(world.top), str(port)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    allowed = ["read the source", "write the destination", "give it away", "make a device"]
    assert done.stdout.splitlines() == allowed, done.stderr


@ROOT
def test_processes_that_copy_are_in_it(world: World) -> None:
    """Those of a running daemon, with their filter and the few rights they need; what they copy is exact."""
    for number in range(3000):
        world.write(f"{number % 30}/f{number}")
    os.mkfifo(world.source / "fifo")
    os.link(world.source / "0/f0", world.source / "link")
    os.mknod(world.source / "device", 0o020600, os.makedev(1, 3))
    os.chown(world.source / "1/f1", 12, 34)
    os.setxattr(world.source / "2/f2", "trusted.name", b"value")
    with world.daemon("-Mcopy", "--xattrs", "--sandbox=on", "--bwlimit=4") as daemon:
        seen: dict[str, str] = {}

        def copying() -> bool:
            for pid in daemon.descendants():
                found = status(pid)
                if found.get("Seccomp") == "2":
                    seen.update(found)
            return bool(seen)

        daemon.wait_until(copying, what="a process that copies")
        assert seen["NoNewPrivs"] == "1"
        assert set(names_in(int(seen["CapEff"], 16))) <= {*KEPT, "CAP_SYS_ADMIN"}
    with world.daemon("-Mcopy", "--xattrs", "--sandbox=on") as daemon:
        daemon.wait_for_equal(bytes(world.source), bytes(world.destination), 30, xattrs=True)
        daemon.wait_for_log(SYNCED)
        world.write("one more")

        def kept() -> list[tuple[str | None, str | None]]:
            found = map(status, daemon.descendants(b"clsync.handler.copy.worker"))
            return [(fields.get("Seccomp"), fields.get("NoNewPrivs")) for fields in found]

        world.wait_for_copy(daemon, "one more")
        daemon.wait_until(lambda: kept() == [("2", "1")], what="one process that is kept, in its sandbox")


def status(pid: int) -> dict[str, str]:
    """Return the fields of proc_pid_status(5); nothing where the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


# -- searches for names ------------------------------------------------------------------------------------------

SEARCHER = """
import os, socket, sys
from clsync.kernel import linkscan
def attempts(root, *options):
    for what, attempt in (
        ("list", lambda: os.listdir(os.open("below", os.O_RDONLY, dir_fd=root))),
        ("look", lambda: os.lstat("file", dir_fd=root)),
        ("read a file", lambda: os.open("file", os.O_RDONLY, dir_fd=root)),
        ("write one", lambda: os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=root)),
        ("remove one", lambda: os.unlink("file", dir_fd=root)),
        ("list elsewhere", lambda: os.listdir("/etc")),
        ("list above", lambda: os.listdir(os.open("..", os.O_RDONLY, dir_fd=root))),
        ("start a program", lambda: os.posix_spawn("/bin/true", ["true"], {})),
        ("be connected", lambda: socket.socket(socket.AF_INET)),
        ("speak", lambda: socket.socket(socket.AF_UNIX)),
        ("be another user", lambda: os.setuid(12)),
    ):
        try:
            attempt()
        except OSError:
            continue
        yield (0, 0), 0, what.encode()
linkscan.names_of = linkscan.catalogue = attempts
linkscan.main()
"""


@ROOT
@pytest.mark.parametrize("options", [[], ["--stat"], ["--all", "0"]], ids=str)
@pytest.mark.parametrize("confined", [True, False])
def test_a_search_for_names_can_only_list(
    world: World, monkeypatch: pytest.MonkeyPatch, options: list[str], confined: bool
) -> None:
    (world.source / "below").mkdir()
    world.write("file")
    program = world.file("python", f"#!/bin/sh\nshift 3\nexec {sys.executable} -c '{SEARCHER}' \"$@\"\n", 0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(sandbox._Layers, "usable", frozenset(SANDBOX_LAYERS) if confined else frozenset())
    can = searched(world.source, options)
    assert can[:2] == ["list", "look"]
    assert len(can) == (2 if confined else 11), can


def searched(root: Path, options: Sequence[str], wishes: bytes = b"") -> list[str]:
    """Return the names that a search finds below a directory."""
    ops = DirectOps(scan_sandbox)
    directory = ops.open(bytes(root))
    scan = ops.scan(directory, options)
    ops.close(directory)
    os.write(scan.inlet, wishes)
    scan.end_input()
    found = b""
    while data := os.read(scan.outlet, 1 << 16):
        found += data
    assert asyncio.run(scan.end(kill=False)) == 0
    return [record.split(b" ", 3)[3].decode() for record in found.split(b"\0")[:-1]]


@ROOT
@pytest.mark.parametrize("options", [[], ["--stat"]], ids=str)
def test_a_search_knows_in_it_what_is_seen_twice(
    world: World, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    """It does not end with as many names as the file has links, though mounts cannot be looked at in the sandbox."""
    monkeypatch.setattr(sandbox._Layers, "usable", frozenset(SANDBOX_LAYERS))
    with mounted("tmpfs", world.source):
        file = world.write("a/file").stat()
        with mounted("bind", world.source / "b", device=str(world.source / "a")):
            found = searched(world.source, options, b"%d %d 1\n" % (file.st_dev, file.st_ino))
    assert sorted(found) == ["a/file", "b/file"]


@ROOT
@pytest.mark.parametrize(
    ("splitting", "layers"), [("off", "on"), ("thread", "on"), ("process", "on"), ("process", "off")]
)
def test_a_search_for_names_is_in_that_sandbox(world: World, splitting: str, layers: str) -> None:
    """The one after the initial sync, and those for single files; they find what is there."""
    (world.top / "outside").mkdir()
    for number in range(3000):
        (world.source / f"{number % 30}/d{number}").mkdir(parents=True)
    name = world.write("29/first")
    os.link(name, world.top / "outside/name")
    inside = (
        ("2", "1") if layers == "on" else tuple(status(os.getpid())[field] for field in ("Seccomp", "NoNewPrivs"))
    )
    seen: dict[bool, dict[str, str]] = {}
    written = 0

    def searching() -> bool:
        """Tell whether both kinds were seen; a name that nobody knows yet is one more reason to search."""
        nonlocal written
        for pid in daemon.descendants(b"clsync.kernel.linkscan"):
            with suppress(OSError, KeyError):  # it may be gone
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                found = status(pid)
                if (found["Seccomp"], found["NoNewPrivs"]) == inside:
                    seen.setdefault(b"--all" in command, found)
        written += 1
        (world.top / "outside/name").write_text(f"{written}")
        return len(seen) == 2

    with world.daemon("-Mcopy", f"--splitting={splitting}", f"--sandbox={layers}") as daemon:
        daemon.wait_until(searching, timeout=60, what="both kinds of searches")
        os.link(name, world.source / "0/second")
        (world.top / "outside/name").write_text("last")
        world.wait_for_equal(daemon)
    for found in seen.values():
        assert (names_in(int(found["CapEff"], 16)) == ["CAP_DAC_READ_SEARCH"]) == (layers == "on")


@ROOT
def test_a_search_by_a_root_that_has_not_all_rights(world: World) -> None:
    """As in a container: the one right to read closed directories that it has is left to it."""
    directory = world.write("closed/one", "text").parent
    os.chown(directory, 12, 34)
    directory.chmod(0o700)
    head = ["setpriv", "--inh-caps=-dac_read_search", "--bounding-set=-dac_read_search"]
    demand_names(world, head)


@ROOT
@pytest.mark.parametrize("splitting", ["off", "process"])
def test_a_search_by_a_user(open_world: World, splitting: str) -> None:
    for path in (open_world.source, open_world.destination):
        os.chown(path, NOBODY, NOBODY)
    os.chown(open_world.write("closed/one", "text"), NOBODY, NOBODY)
    os.chown(open_world.source / "closed", NOBODY, NOBODY)
    demand_names(open_world, AS_NOBODY, f"--splitting={splitting}")


def demand_names(world: World, head: Sequence[str], *options: str) -> None:
    """See that a file that gets more names is found by all of them."""
    said = (*world.trees, "-Mcopy", "--sandbox=on", *AT_ONCE, *options)
    with Daemon(*said, program=[*head, installed()], env=world.environment, cwd=world.top) as daemon:
        daemon.wait_for_log(SYNCED)
        for name in ("closed/two", "three"):
            os.link(world.source / "closed/one", world.source / name)
        world.wait_for_equal(daemon)
        assert (world.destination / "three").samefile(world.destination / "closed/one")
        assert "search for" not in daemon.output


# -- what cannot be had ------------------------------------------------------------------------------------------


@ROOT
@pytest.mark.parametrize(
    ("feature", "layer"), [("landlock", "landlock"), ("seccomp", "seccomp"), ("mount_setattr", "mounts")]
)
def test_a_layer_that_is_missing(world: World, feature: str, layer: str) -> None:
    """By default one warning, and all the rest; an error where it was asked for."""
    world.write("file")
    env = {"CLSYNC_WITHOUT": feature}
    done = world.run(*world.trees, "--only-initialsync", "--monitor=inotify", env=env)
    assert done.code == 0
    (warning,) = done.troubles
    assert f"without {layer}" in warning
    assert world.copied("file") == "file"
    for asked in ("on", layer):
        message, hint = world.run(*world.trees, f"--sandbox={asked}", env=env).complaint(Exit.PRIVILEGE)
        assert message.startswith(f"--sandbox={asked}: {layer} cannot be had: ")
        assert "--sandbox=auto" in hint


@ROOT
def test_a_program_that_cannot_live_in_it(world: World) -> None:
    """It is tried at the start: one warning, or the end of a start that asked for it."""
    outside = world.file("helper", "#!/bin/sh\necho it >&2\n", 0o755)
    (world.top / "bin").mkdir()
    real = shutil.which("rsync")
    assert real is not None
    world.file("bin/rsync", f'#!/bin/sh\n{outside} || exit 9\nexec {real} "$@"\n', 0o755)
    world.write("file")
    env = {"PATH": f"{world.top}/bin:{os.environ['PATH']}"}
    done = world.run(*world.trees, "-Mrsyncdirect", "--only-initialsync", "--monitor=inotify", env=env)
    assert (done.code, world.copied("file")) == (0, "file")
    (warning,) = done.troubles
    assert "bin/rsync is run without a sandbox: exit code 9" in warning
    told = world.run(*world.trees, "-Mrsyncdirect", "--dry-run", env=env).out
    assert re.search(r"sandbox: +none: .*bin/rsync is run without a sandbox: exit code 9", told)
    message, _ = world.run(*world.trees, "-Mrsyncdirect", "--sandbox=on", env=env).complaint(Exit.PRIVILEGE)
    assert message == f"--sandbox: {world.top}/bin/rsync cannot be run in it: exit code 9"


def test_modes_that_run_programs_of_the_operator(world: World) -> None:
    for options in (("-Mdirect",), ("-Mrsyncdirect", "--", "%INCLUDE-LIST-PATH%", "x")):
        message, _ = world.run(*world.trees, "--sandbox=on", *options).complaint(Exit.USAGE)
        assert message.startswith("--sandbox has no meaning in mode ")


# -- the plan ----------------------------------------------------------------------------------------------------


@ROOT
def test_a_dry_run_tells_the_plan_and_does_nothing(world: World) -> None:
    world.write("file")
    before = left_in(world)
    asked = (
        "--splitting=process",
        "--forbid-devices",
        "--cgroup-pids=100",
        "--detach-ipc=1",
        "-z",
        str(world.top / "pid"),
    )
    done = world.run(*world.trees, "--dry-run", *asked)
    assert (done.code, done.err) == (0, "")
    steps = [line.strip().partition(". ")[2] for line in done.out.split("\n\n")[0].splitlines()[1:]]
    assert [step.split(":")[0].split(" ")[0] for step in steps] == [
        *("--forbid-devices", "--detach-ipc", "look", "write"),
        *("--splitting", "--splitting", "--splitting", "watch", "sync"),
    ]
    for text in (
        "no more than 100 processes and threads run",
        "clsync, the broker",
        "clsync, the worker",
        "its own means of communication",
        f"writes {world.destination}, no network",
        "its own view of mounts, read-only but for what it writes",
    ):
        assert text in done.out
    for row in ("bounding set:  that of the starter, for handlers and hooks", "clsync, the caretaker"):
        assert row in done.out
    assert "left out" not in done.out
    assert left_in(world) == before
    message, _ = world.run(*world.trees, "--dry-run", "-D/nowhere").complaint(Exit.DESTINATION)
    assert "/nowhere" in message


def left_in(world: World) -> list[Path]:
    """Return all that there is."""
    return sorted(world.top.rglob("*"))


@ROOT
@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--chroot=/nonexistent",), Exit.PRIVILEGE),
        (("--chroot={top}/empty",), Exit.PRIVILEGE),
        (("--chroot={top}", "--pivot-root=direct"), Exit.PRIVILEGE),
        (("--mountpoints=/nonexistent",), Exit.USAGE),
        (("-s{top}/socket", "--socket-own=nosuch"), Exit.USAGE),
        (("-s/nonexistent/x",), Exit.FILES),
        (("-s{top}/file",), Exit.FILES),
        (("-z/nonexistent/x",), Exit.FILES),
        (("--status-file={top}",), Exit.FILES),
        (("--exit-hook=/nonexistent/x",), Exit.HANDLER),
        (("--seccomp-filter",), Exit.PRIVILEGE),
    ],
)
def test_what_would_hinder_a_start_is_told_beforehand(world: World, options: tuple[str, ...], code: Exit) -> None:
    """By --dry-run as by the start itself, and by the doctor; nothing is changed."""
    world.file("file", "")
    (world.top / "empty").mkdir()
    said = [*world.trees, *(option.format(top=world.top) for option in options)]
    env = {"CLSYNC_WITHOUT": "seccomp"} if "--seccomp-filter" in options else {}
    before = left_in(world)
    told = world.run(*said, "--dry-run", env=env).complaint(code)
    assert left_in(world) == before
    doctor = world.run("doctor", *said, env=env)
    assert (doctor.code, f"clsync would not start: {told[0]}\n  {told[1]}\n" in doctor.out) == (code, True)
    assert world.run(*said, env=env).complaint(code) == told


@ROOT
@pytest.mark.parametrize("option", ["--chroot=/", "--mountpoints=/"])
def test_rights_are_given_up_before_anything_is_watched(world: World, option: str) -> None:
    """Also in the plan of a start whose trees are out of sight."""
    plan = world.run(*world.trees, "--splitting=process", option, "--dry-run").out
    steps = [line.strip().partition(". ")[2] for line in plan.split("\n\n")[0].splitlines()[1:]]
    heads = [step.split(" ")[0] for step in steps if not step.startswith(("--chroot", "--mountpoints"))]
    assert heads == ["look", "read", "--splitting:", "--splitting:", "--splitting:", "watch", "sync"]


@ROOT
def test_rights_that_a_start_needs_are_missed_beforehand(world: World) -> None:
    world.destination.chmod(0o777)
    for path in (world.top, *world.top.parents[:2]):
        path.chmod(0o755)
    for option in ("--detach-ipc=1", "--detach-network=everywhere", "--chroot=/", "--mountpoints=/"):
        told = world.run(*world.trees, option, "--dry-run", head=AS_NOBODY).complaint(Exit.PRIVILEGE)
        assert world.run(*world.trees, option, head=AS_NOBODY).complaint(Exit.PRIVILEGE) == told


@ROOT
def test_the_doctor(world: World) -> None:
    """What there is here, the plan, and with which rights there would be more."""
    done = world.run("doctor", *world.trees)
    assert (done.code, done.err) == (0, "")
    assert f"  rsync to {world.destination}\n" in done.out
    assert re.search(r"^  landlock: +can be had$", done.out, re.M)
    os.chown(world.destination, NOBODY, NOBODY)
    for path in (world.top, *world.top.parents[:2]):
        path.chmod(0o755)
    poor = world.run("doctor", *world.trees, head=AS_NOBODY)
    assert poor.code == 0, poor.err
    assert "  mounts: clsync is started without CAP_SYS_ADMIN; to have it: start it as root" in poor.out
    assert "  CAP_SETUID, CAP_SETGID: --uid, --sync-handler-uid and --splitting" in poor.out
    assert "no_new_privs:  yes" in poor.out
    ill = world.run("doctor", "-W/nowhere", f"-D{world.destination}")
    assert ill.code == Exit.SOURCE
    assert "clsync would not start: --watch-dir /nowhere: " in ill.out
    assert world.run("doctor", env={"HOME": "/nowhere"}).out.startswith("This machine, and who we are here:")
    assert "landlock:      cannot be had" in world.run("doctor", env={"CLSYNC_WITHOUT": "landlock"}).out


# -- destinations on other hosts ---------------------------------------------------------------------------------

OVER_SSH = """#!/bin/bash
case "$*" in *--version*) exit 0;; esac
control=$(printf %s "$*" | sed -n 's|.*ControlPath=\\([^ ]*\\)/%C.*|\\1|p')
can=
try() { if eval "$2" >/dev/null 2>&1; then can="$can+$1"; fi; }
try source 'cat inside'
try key 'cat {ssh}/user'
try known-hosts 'cat {ssh}/known_hosts && : >>{ssh}/known_hosts'
try network 'exec 3<>/dev/tcp/127.0.0.1/{port}'
try control 'touch $control/file'
try shadow 'cat /etc/shadow'
try host-key 'cat /etc/ssh/ssh_host_ed25519_key {ssh}/host'
try write-key ': >>{ssh}/user'
try beside 'ls {ssh}'
try write-beside 'touch {ssh}/authorized_keys'
try write-source 'touch made'
try tmp 'touch /tmp/clsync-escaped-$$'
try attributes 'chmod 777 {ssh}/user.pub'
try others 'kill -0 {pid}'
echo "can: $can" >&2
exit 1
"""


@ROOT
@pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())}")
def test_over_ssh(world: World) -> None:
    """What the configuration of ssh names is found, wherever it is; rsync and ssh reach the host, and nothing else."""
    host = SshHost(world.top, world.destination)
    (world.top / "bin/ssh").unlink()
    (world.top / "conf").mkdir()
    shutil.copy(host.config, world.top / "conf/there.conf")
    head = ["unshare", "-m", "sh", "-c", f'mount --bind {world.top}/conf /etc/ssh/ssh_config.d && exec "$@"', "sh"]
    world.write("inside")
    host.start()
    said = (f"-W{world.source}", f"-D{host.destination}", *AT_ONCE, "--sandbox=on")
    env = {**world.environment, "PATH": os.environ["PATH"]}
    try:
        with Daemon(*said, program=[*head, installed()], env=env, cwd=world.top) as daemon:
            daemon.wait_for_log(SYNCED, timeout=60)
            world.write("later", "more")
            world.wait_for_copy(daemon, "later", "more")
            kept = connected(host.port)
            assert kept
            assert {status(pid)["Seccomp"] for pid in kept} == {"2"}
            daemon.stop()
        with listening(world) as port:
            text = (
                OVER_SSH.replace("{ssh}", str(world.top / "ssh"))
                .replace("{port}", str(port))
                .replace("{pid}", str(os.getpid()))
            )
            world.file("bin/rsync", text, 0o755)
            env["PATH"] = f"{world.top}/bin:{env['PATH']}"
            done = world.run(*said[:2], "--only-initialsync", "--retries=1", head=head, env=env)
            assert done.code != 0
            assert "can: +source+key+known-hosts+network+control " in done.err
    finally:
        host.stop()


def shared_connection(place: Path, said: str) -> str:
    """One that does not stand yet, and has its place where a sandbox can make nothing."""
    (place / "own").mkdir()
    return f"{said}ControlMaster auto\nControlPath {place}/own/%C\nControlPersist 60\n"


def names_that_ssh_expands(place: Path, said: str) -> str:
    (place / "user").rename(place / "user of there")
    return said.replace(f"IdentityFile {place}/user\n", 'IdentityFile "${PLACE}/user of %n"\n')


def a_host_on_the_way(place: Path, said: str) -> str:
    """With a key of its own."""
    (place / "way").mkdir()
    shutil.copy(place / "user", place / "way/key")
    on_the_way = said.replace("Host there", "Host between").replace(f"{place}/user\n", f"{place}/way/key\n")
    return f"{said}ProxyJump between\n{on_the_way}"


@ROOT
@pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())}")
def test_a_connection_that_was_killed_is_kept_anew(world: World) -> None:
    """What it has left in its place is none: the one that a run would make there ends with the processes of that run."""
    host = SshHost(world.top, world.destination)
    host.start()
    try:
        said = (f"-W{world.source}", f"-D{host.destination}", *AT_ONCE, "--sandbox=processes")
        with world.bare(*said, env=host.environment) as daemon:
            daemon.wait_for_log(SYNCED, timeout=60)
            for pid in connected(host.port):
                with suppress(ProcessLookupError):  # ended by itself
                    os.kill(pid, signal.SIGKILL)
            world.write("first")
            world.wait_for_copy(daemon, "first")
            kept = connected(host.port)
            world.write("second")
            world.wait_for_copy(daemon, "second")
            assert {*kept} & {*connected(host.port)}
    finally:
        host.stop()


@ROOT
@pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())}")
@pytest.mark.parametrize("how", [shared_connection, names_that_ssh_expands, a_host_on_the_way])
def test_over_ssh_as_it_may_be_configured(world: World, how: Callable[[Path, str], str]) -> None:
    host = SshHost(world.top, world.destination)
    (world.top / "bin/ssh").unlink()
    (world.top / "conf").mkdir()
    world.file("conf/there.conf", how(world.top / "ssh", host.config.read_text()))
    head = ["unshare", "-m", "sh", "-c", f'mount --bind {world.top}/conf /etc/ssh/ssh_config.d && exec "$@"', "sh"]
    env = {**world.environment, "PATH": os.environ["PATH"], "PLACE": f"{world.top}/ssh"}
    said = (f"-W{world.source}", f"-D{host.destination}", *AT_ONCE, "--sandbox=on")
    host.start()
    try:
        with Daemon(*said, program=[*head, installed()], env=env, cwd=world.top) as daemon:
            daemon.wait_for_log(SYNCED, timeout=60)
            world.write("later", "more")
            world.wait_for_copy(daemon, "later", "more")
    finally:
        host.stop()


@ROOT
@pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())}")
def test_a_connection_of_the_users_that_stands(world: World) -> None:
    """It is used, as it may be the only way in, and it is left alone."""
    host = SshHost(world.top, world.destination)
    (world.top / "bin/ssh").unlink()
    (world.top / "conf").mkdir()
    with tempfile.TemporaryDirectory(dir="/tmp") as place:  # a short path: see unix(7)
        shared = f"ControlMaster auto\nControlPath {place}/own\nControlPersist 60\n"
        config = world.file("conf/there.conf", host.config.read_text() + shared)
        head = [
            "unshare",
            "-m",
            "sh",
            "-c",
            f'mount --bind {world.top}/conf /etc/ssh/ssh_config.d && exec "$@"',
            "sh",
        ]
        said = (f"-W{world.source}", f"-D{host.destination}", "--only-initialsync", "--sandbox=on")
        world.write("inside")
        host.start()
        try:
            subprocess.run(["ssh", "-F", config, "-fN", "there"], check=True, capture_output=True, timeout=30)
            assert world.run(*said, head=head).code == 0
            world.demand_equal()
            assert host.connections == 1
            subprocess.run(["ssh", "-F", config, "-O", "exit", "there"], check=True, capture_output=True, timeout=30)
        finally:
            host.stop()


def connected(port: int) -> list[int]:
    """Return the processes that have a connection to a port of this machine (proc_pid_net(5))."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    sockets = {f"socket:[{row[9]}]" for row in rows if int(row[2].split(":")[1], 16) == port}
    found = set()
    for path in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(path) in sockets:
                found.add(int(path.parts[2]))
        except OSError:
            continue
    return sorted(found)


@ROOT
@pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())}")
@pytest.mark.parametrize("how", ["ProxyCommand /bin/false", "PermitLocalCommand yes"])
def test_an_ssh_that_runs_something(world: World, how: str) -> None:
    """That is the operator's program: it is left alone, and that is said."""
    (world.top / "conf").mkdir()
    world.file("conf/there.conf", f"Host there\n{how}\nBatchMode yes\nHostName 127.0.0.1\nPort 9\n")
    head = ["unshare", "-m", "sh", "-c", f'mount --bind {world.top}/conf /etc/ssh/ssh_config.d && exec "$@"', "sh"]
    said = (f"-W{world.source}", "-Dthere:/x", "--only-initialsync", "--retries=1")
    option = how.split()[0].lower()
    done = world.run(*said, head=head)
    assert f"is run without a sandbox: ssh is configured to run something: {option} (see ssh -G there)" in done.err
    message, _ = world.run(*said, "--sandbox=on", head=head).complaint(Exit.PRIVILEGE)
    assert option in message


# -- trees of several parts --------------------------------------------------------------------------------------


@ROOT
@pytest.mark.parametrize("mode", MODES)
def test_mounts_within_the_trees(world: World, mode: str) -> None:
    """At both sides, and one that comes later: what is on them is read and written as all else is."""
    for name in ("far", "near"):
        (world.source / name).mkdir()
        (world.destination / name).mkdir()
    (world.top / "elsewhere").mkdir()
    (world.top / "elsewhere/file").write_text("file")
    with (
        mounted("bind", world.source / "far", device=str(world.top / "elsewhere")),
        mounted("tmpfs", world.destination / "far"),
        world.daemon(f"-M{mode}", "--sandbox=on") as daemon,
    ):
        daemon.wait_for_log(SYNCED)
        assert world.copied("far/file") == "file"
        world.write("far/later")
        world.wait_for_copy(daemon, "far/later")
        with mounted("tmpfs", world.source / "near"):
            world.write("near/new")
            os.kill(daemon.pid, signal.SIGUSR2)
            world.wait_for_copy(daemon, "near/new")
            daemon.stop()


@ROOT
@pytest.mark.parametrize("mode", MODES)
def test_a_destination_behind_a_symlink(world: World, mode: str) -> None:
    """And rules, whose lists are laid into files, hard links, devices, sockets and fifos."""
    (world.top / "way").symlink_to(world.destination)
    rules = world.file("rules", "-f~$\n")
    for name in ("a/file", "a/backup~", "b/other"):
        world.write(name)
    (world.destination / "a").mkdir()
    (world.destination / "a/old").write_text("old")
    (world.destination / "a/mine~").write_text("mine")
    os.link(world.source / "a/file", world.source / "b/second")
    os.mkfifo(world.source / "fifo")
    os.mknod(world.source / "device", 0o020600, os.makedev(1, 3))
    options = (f"-W{world.source}", f"-D{world.top}/way", f"-M{mode}", f"-R{rules}", "--sandbox=on", *AT_ONCE)
    with world.bare(*options) as daemon:
        daemon.wait_for_log(SYNCED)
        assert (world.destination / "a/file").samefile(world.destination / "b/second")
        assert (world.destination / "fifo").is_fifo()
        assert (world.destination / "device").is_char_device()
        assert not (world.destination / "a/old").exists()
        shutil.rmtree(world.source / "a")
        daemon.wait_until(lambda: not (world.destination / "a/file").exists(), what="the deletion")
        assert world.copied("a/mine~") == "mine"
        world.write("c/d/new")
        world.wait_for_copy(daemon, "c/d/new")
        assert "Warning" not in daemon.output


@ROOT
def test_to_an_rsync_daemon(world: World) -> None:
    """The network is all that there is besides the source: nothing of ssh."""
    place = world.top / "ssh"
    place.mkdir()
    for name in ("user", "user.pub", "known_hosts", "host"):
        (place / name).write_text("secret")
    (world.top / "bin").mkdir()
    world.write("inside")
    with listening(world) as port:
        text = OVER_SSH.replace("{ssh}", str(place)).replace("{port}", str(port)).replace("{pid}", str(os.getpid()))
        world.file("bin/rsync", text, 0o755)
        env = {"PATH": f"{world.top}/bin:{os.environ['PATH']}"}
        said = (f"-W{world.source}", f"-Drsync://127.0.0.1:{port}/data", "--only-initialsync", "--retries=1")
        assert "can: +source+network " in world.run(*said, env=env).err
        led = world.run(*said, env=env | {"RSYNC_CONNECT_PROG": "nc %H 873"}).err
        assert "+shadow" in led, "a program of the operator leads there"
        free = world.run(*said, "--sandbox=off", env=env).err
        assert "can: +source+key+known-hosts+network+" in free
        assert "+shadow+host-key+write-key+beside+write-beside+write-source+tmp+attributes+others " in free
    clear_up_escaped()
