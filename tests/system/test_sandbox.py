"""What clsync itself starts can do no more than it has to: programs that try, and trees that lead elsewhere."""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from clsync.errors import Exit
from clsync.kernel.credentials import names_in
from tests.support.rights import NOBODY, without_privileges
from tests.system.world import AT_ONCE, MODES, ROOT, SYNCED, World

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
try('signals the daemon', kill(0, getppid()));
try('runs what it has copied', do {{ writes("$to/run"); chmod(0755, "$to/run"); system {{ "$to/run" }} 'run'; $? >= 0 }});
try('mounts', call({mount}, 'none', "$to/sub", 'tmpfs', 0, 0) && call({umount}, "$to/sub", 2));
try('opens a device it has made', call({mknod}, "$to/device", 0020600, 0x0103) && open($n, '<', "$to/device"));
print $report grep(/^Cap/, <$s>) if open($s, '<', '/proc/self/status');
exit 0;
"""
NUMBERS = {"x86_64": (188, 165, 166, 133)}
KEPT = [f"CAP_{name}" for name in "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID LINUX_IMMUTABLE MKNOD SETFCAP".split()]
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
REMOVES = {"removes from the source", "moves the outside in"}


def tries(world: World, *options: str, port: int = 9, named: bool = True, head: Sequence[str] = ()) -> set[str]:
    """Return what a program could do that clsync took for its rsync; `named`: by an option, else it is found in PATH."""
    setxattr, mount, umount, mknod = NUMBERS[os.uname().machine]
    text = TRIES.replace("{{", "\0").replace("}}", "\1")
    for name, value in {
        "destination": world.destination, "top": world.top, "port": port, "setxattr": setxattr, "mount": mount,
        "umount": umount, "mknod": mknod,
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


@ROOT
@needs_numbers
def test_nothing_is_out_of_reach_of_a_program_of_the_operators(world: World) -> None:
    """As it was: so the other tests can fail."""
    with listening(world) as port:
        found = tries(world, port=port)
    assert found >= INSIDE | ATTRIBUTES | NETWORK | {"reads the password file", "reads beside the trees", "mounts"}
    assert found >= {"signals the daemon", "opens a device it has made", "writes by a symlink", "removes from the source"}


@ROOT
@needs_numbers
@pytest.mark.parametrize("options", [(), ("--sandbox=on",)], ids=str)
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
                      "links the outside in", "reaches a port", "signals the daemon", "runs what it has copied", "mounts"}),
        ("mounts", {*ATTRIBUTES, "writes the source", "writes beside the trees", "writes by a symlink", "writes to /tmp",
                    "links the outside in", "opens a device it has made"}),
        ("seccomp", {*NETWORK, "mounts"}),
        ("capabilities", {"mounts"}),
    ],
)  # fmt: skip
def test_each_layer_by_itself(world: World, layer: str, refused: set[str]) -> None:
    with listening(world) as port:
        found = tries(world, f"--sandbox={layer}", port=port)
    escaped = list(Path("/tmp").glob("clsync-escaped-*"))
    for path in escaped:
        path.unlink()
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
OUTSIDE = "outside"


def outside(world: World) -> dict[str, tuple[object, ...]]:
    """Return all that is to stay as it is."""
    top = world.top / "elsewhere"
    found = top.stat()
    own = (sorted(os.listdir(top)), found.st_mode, found.st_uid, found.st_mtime_ns)
    return {"": own} | {path.name: attributes(path) for path in top.iterdir()}


def leaked(world: World) -> list[Path]:
    """Return files of the destination with content from outside."""
    found = []
    for directory, _, names in os.walk(world.destination):
        for path in (Path(directory, name) for name in names):
            try:
                if not path.is_symlink() and not path.parent.is_symlink() and path.read_text() == OUTSIDE:
                    found.append(path)
            except OSError:
                continue
    return found


@ROOT
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("side", ["source", "destination"])
def test_a_symlink_swapped_in_leads_nowhere(world: World, mode: str, side: str) -> None:
    """While files below it are changed in all ways: nothing outside is read, written, or given other attributes."""
    elsewhere = world.top / "elsewhere"
    elsewhere.mkdir()
    for number in range(FILES):
        world.write(f"d/f{number}")
        path = elsewhere / f"f{number}"
        path.write_text(OUTSIDE)
        path.chmod(0o600)
        os.setxattr(path, "user.name", b"value")
        os.chown(path, 77, 77)
    before = outside(world)
    directory = os.open(world.source / "d", os.O_RDONLY | os.O_DIRECTORY)
    swapper = Swapper((world.source if side == "source" else world.destination) / "d", elsewhere, 0.02 * (side == "source"))
    with world.daemon(f"-M{mode}", "--sandbox=on", "--xattrs", delays=AT_ONCE) as daemon:
        daemon.wait_for_log(SYNCED)
        swapper.start()
        for turn in range(1, ROUNDS + 1):
            for number in range(FILES):
                change(directory, f"f{number}", turn)
            assert leaked(world) == []
        swapper.end()
        assert swapper.count > ROUNDS
        assert outside(world) == before
        os.kill(daemon.pid, signal.SIGUSR2)
        world.wait_for_equal(daemon, timeout=60)
    os.close(directory)
    assert outside(world) == before


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
