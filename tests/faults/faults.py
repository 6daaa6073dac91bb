"""The faults: each is put between source and destination, arises (`inject`, then `strike` again and again), and heals."""

from __future__ import annotations

import errno
import mmap
import os
import random
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from tests.faults.stage import TRANSPORTS, Stage
from tests.support.daemon import Daemon, installed
from tests.support.environment import INHERITED
from tests.support.flood import flood, held
from tests.system.world import mount

Run = Callable[[], Daemon]
"""Returns the program that runs now."""


class Fault:
    """One kind of fault. Nothing is wrong until `inject`, nor after `heal`."""

    transports: tuple[str, ...] = TRANSPORTS
    needs: tuple[str, ...] = ()
    """Programs and files without which it cannot be had."""
    restarts = False
    """The program is ended by it: to be started anew."""
    sees_all = True
    """The program sees all that happens at the source meanwhile."""
    needs_program = False
    """Nothing can go wrong before the program runs."""
    starts_with_it = True
    """The program may be started while it lasts."""

    def __init__(self, stage: Stage, run: Run, draw: random.Random) -> None:
        """Take the place, the program, and what chance is drawn from."""
        self.stage, self.run, self.random = stage, run, draw
        self.count = 0
        """How often something was done that can go wrong."""

    def prepare(self) -> None:
        """Put it there, before anything is started."""

    def inject(self) -> None:
        """Let it arise."""

    def strike(self) -> None:
        """Do what it does again and again while it lasts."""

    def heal(self) -> None:
        """Let it be over."""

    @property
    def program(self) -> list[str]:
        """What is run."""
        return [installed()]


FAULTS: dict[str, type[Fault]] = {}
"""All of them."""


def fault(name: str) -> Callable[[type[Fault]], type[Fault]]:
    """Put a class into the table."""

    def enter(kind: type[Fault]) -> type[Fault]:
        FAULTS[name] = kind
        return kind

    return enter


def send(pid: int, number: int) -> bool:
    """Send a signal; tell whether there was somebody to take it."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def command(pid: int) -> str:
    """Return the name of a process; nothing where it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""


# Processes


@fault("daemon killed")
class DaemonKilled(Fault):
    """SIGKILL for the daemon alone: what it has started goes on for as long as it likes."""

    restarts = True
    needs_program = True
    sees_all = False

    def inject(self) -> None:
        self.count += send(self.run().pid, signal.SIGKILL)


@fault("handler killed")
class HandlerKilled(Fault):
    """SIGKILL for what the daemon has started."""

    transports = ("rsync", "ssh", "rsyncd")
    _next = 0.0

    def strike(self) -> None:
        daemon = self.run()
        if time.monotonic() > self._next and daemon.running and (children := daemon.descendants()):
            time.sleep(self.random.random() * 0.02)
            self.count += send(self.random.choice(children), signal.SIGKILL)
            self._next = time.monotonic() + self.random.random() * 0.3


class _Wrapped(Fault):
    """The rsync that is found is a script of ours, that does something else before while a file exists."""

    transports = ("rsync", "ssh", "rsyncd")
    script = ""

    def prepare(self) -> None:
        place = self.stage.top / type(self).__name__
        place.mkdir()
        self._sign, self._tally = place / "sign", place / "tally"
        wrapper, path = place / "rsync", self.stage.environment.get("PATH", os.environ["PATH"])
        program = shutil.which("rsync", path=path)
        text = f"if [ -e {self._sign} ]; then echo >>{self._tally}; {self.script}; fi"
        wrapper.write_text(f'#!/bin/sh\n{text}\nexec {program} "$@"\n')
        wrapper.chmod(0o755)
        self.stage.environment["PATH"] = f"{place}:{path}"
        self.stage.arguments += ["--sandbox=off"]  # it could not see the file

    def inject(self) -> None:
        self._sign.touch()

    def heal(self) -> None:
        self._sign.unlink(missing_ok=True)
        if self._tally.exists():
            self.count = self._tally.stat().st_size


@fault("handler stops")
class HandlerStops(Fault):
    """It stops in the middle: --timeout-sync ends it."""

    transports = ("rsync", "ssh", "rsyncd")
    _next = 0.0

    def prepare(self) -> None:
        self.stage.arguments += ["--timeout-sync=8"]

    def strike(self) -> None:
        daemon = self.run()
        if time.monotonic() > self._next and daemon.running and (handlers := self._handlers()):
            self.count += send(self.random.choice(handlers), signal.SIGSTOP)
            self._next = time.monotonic() + self.random.random()

    def _handlers(self) -> list[int]:
        return [pid for pid in self.run().descendants() if command(pid).startswith("rsync")]


@fault("handler hangs")
class HandlerHangs(_Wrapped):
    """It never begins: --timeout-sync ends it."""

    script = "exec sleep 1000"

    def prepare(self) -> None:
        super().prepare()
        self.stage.arguments += ["--timeout-sync=8"]


@fault("64 KiB of stderr")
class MuchStderr(_Wrapped):
    """The handler says more than any pipe holds, and then works or fails."""

    script = (
        "head -c 66000 /dev/zero | tr '\\0' x >&2; case $$ in "
        "*[02468]) echo 'rsync: failed for no reason' >&2; exit 23;; "
        "*[13]) yes 'rsync: \"odd\" failed' | head -c 200000 >&2; exit 12;; esac"
    )


# Other hosts


@fault("host restarted")
class HostRestarted(Fault):
    """sshd or rsyncd and all its connections end, and it comes back."""

    transports = ("ssh", "rsyncd")

    def inject(self) -> None:
        assert self.stage.host is not None
        self.stage.host.stop()
        self.count += 1

    def heal(self) -> None:
        assert self.stage.host is not None
        self.stage.host.start()


@fault("host hangs")
class HostHangs(Fault):
    """sshd or rsyncd stand still in the middle, and come to life again."""

    transports = ("ssh", "rsyncd")

    def prepare(self) -> None:
        self.stage.arguments += ["--timeout-sync=8"]

    def inject(self) -> None:
        self._signal(signal.SIGSTOP)
        self.count += 1

    def heal(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self.stage.host is not None
        for pid in self.stage.host.processes:
            send(pid, number)


# Destinations


class _SmallDisk(Fault):
    """The destination is on a small file system of its own."""

    def prepare(self) -> None:
        disk = self.stage.top / "disk"
        disk.mkdir()
        mount("tmpfs", disk, "size=512m,mode=755")
        self.stage.mounts.append(disk)
        self.stage.destination = self.stage.kept = disk / "destination"
        self.stage.destination.mkdir()
        self._disk, self._ballast = disk, disk / "ballast"


@fault("disk full")
class DiskFull(_SmallDisk):
    """No room at the destination."""

    def inject(self) -> None:
        self.count += 1
        self.strike()

    def strike(self) -> None:
        with suppress(OSError), self._ballast.open("ab") as ballast:
            while ballast.write(bytes(1 << 16)):
                ballast.flush()

    def heal(self) -> None:
        self._ballast.unlink(missing_ok=True)


@fault("disk read-only")
class DiskReadOnly(_SmallDisk):
    """The destination's file system becomes read-only as soon as nobody writes to it."""

    _read_only = False

    def inject(self) -> None:
        self.strike()

    def strike(self) -> None:
        if not self._read_only:
            command = ["mount", "-o", "remount,ro", str(self._disk)]
            self._read_only = not subprocess.run(command, capture_output=True, check=False).returncode
            self.count += self._read_only

    def heal(self) -> None:
        mount("tmpfs", self._disk, "remount,rw")
        self._read_only = False


class _Fuse(Fault):
    """The destination is seen through a FUSE file system."""

    transports = ("rsync", "copy")
    needs = ("bindfs", "gcc", "/dev/fuse")

    def prepare(self) -> None:
        top = self.stage.top
        library, control = top / "failing_disk.so", top / "control"
        code = Path(__file__).with_name("failing_disk.c")
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, code, "-ldl"], check=True)
        control.write_bytes(bytes(4096))
        with control.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), 4096)
        self.stage.kept, self.stage.destination = self.stage.destination, top / "seen"
        self.stage.destination.mkdir()
        # Without hard_remove a file that is open is renamed before another one takes its name: not at once, then.
        fresh = "attr_timeout=0,entry_timeout=0,negative_timeout=0,hard_remove"
        command = ["bindfs", "-f", "-o", fresh, str(self.stage.kept), str(self.stage.destination)]
        environment = {**INHERITED, "LD_PRELOAD": str(library), "FAILING_DISK": str(control)}
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        self.stage.children.append(self.process)
        self.stage.mounts.append(self.stage.destination)
        while not os.path.ismount(self.stage.destination):
            assert self.process.poll() is None, "bindfs has ended"
            time.sleep(0.01)

    def fail(self, thousandths: int, error: int) -> None:
        """Let so many calls of a thousand fail."""
        self._shared[:8] = struct.pack("II", thousandths, error)
        self.count = struct.unpack("III", self._shared[:12])[2]


@fault("I/O errors")
class InputOutputErrors(_Fuse):
    """EIO by chance, or from every call."""

    def inject(self) -> None:
        self.fail(self.random.choice((10, 50, 200, 1000)), errno.EIO)

    def heal(self) -> None:
        self.fail(0, 0)


@fault("disk hangs")
class DiskHangs(_Fuse):
    """The destination's file system does not answer."""

    def prepare(self) -> None:
        super().prepare()
        self.stage.arguments += ["--timeout-sync=8"]

    def inject(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        self.count += 1

    def heal(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@fault("access denied")
class AccessDenied(_Fuse):
    """EACCES by chance, or from every call: as of a destination that another host guards."""

    def inject(self) -> None:
        self.fail(self.random.choice((50, 200, 1000)), errno.EACCES)

    def heal(self) -> None:
        self.fail(0, 0)


@fault("edited by others")
class EditedByOthers(Fault):
    """Somebody writes, moves and removes at the destination; the daemon is asked to compare everything then."""

    sees_all = False

    def strike(self) -> None:
        top = self.stage.kept / "play"
        try:
            places = [Path(path) for path, _, _ in os.walk(top)]
            files = [path for place in places for path in place.iterdir() if path.is_file() and not path.is_symlink()]
            self._edit(self.random.choice(places), self.random.choice(files))
            self.count += 1
        except (OSError, IndexError):
            return  # it was gone, or there is nothing yet

    def _edit(self, place: Path, file: Path) -> None:
        match self.random.randrange(6):
            case 0:
                file.write_bytes(b"edited")
            case 1:
                file.unlink()
            case 2:
                (place / f"foreign{self.random.randrange(5)}").write_bytes(b"not from there")
            case 3:
                (place / f"directory{self.random.randrange(5)}").mkdir()
            case 4:
                file.rename(place / "moved")
            case 5:
                file.unlink()
                file.symlink_to("elsewhere")

    def heal(self) -> None:
        if self.run().running:
            self.run().wait_for_log("Info: watching ", 60)
            send(self.run().pid, signal.SIGUSR2)


# The source


@fault("source unmounted")
class SourceUnmounted(Fault):
    """The watched directory is a mount point, and nothing is mounted there for a while."""

    sees_all = False
    starts_with_it = False  # an empty mount point cannot be told from a directory that was emptied
    _away = False

    def prepare(self) -> None:
        self._disk = self.stage.top / "source-disk"
        self._disk.mkdir()
        self._mount()
        self.stage.mounts.append(self.stage.source)

    def _mount(self) -> None:
        mount("bind", self.stage.source, "", str(self._disk))

    def inject(self) -> None:
        subprocess.run(["umount", "-l", self.stage.source], check=True)
        self._away = True
        self.count += 1

    def strike(self) -> None:
        (self._disk / f"meanwhile{self.random.randrange(9)}").write_text(f"{self.random.random()}")

    def heal(self) -> None:
        if self._away:
            self._mount()
            self._away = False


@fault("queue overflows")
class QueueOverflows(Fault):
    """More happens than the kernel's queue holds, while the daemon is held."""

    needs_program = True

    def prepare(self) -> None:
        self.stage.arguments += ["--monitor=inotify"]

    def inject(self) -> None:
        daemon = self.run()
        if not daemon.running:
            return
        with held((daemon.pid, *daemon.descendants())):
            flood(self.stage.source)
            (self.stage.source / f"drowned{self.random.randrange(20)}").write_text("not told of")
            self.count += 1


@fault("clock jumps")
class ClockJumps(Fault):
    """The daemon's clock, and the mtimes of what is written, go by hours and years in both directions."""

    needs = ("gcc",)

    def prepare(self) -> None:
        self._offset, library = self.stage.top / "offset", self.stage.top / "clock.so"
        code = Path(__file__).with_name("clock.c")
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, code], check=True)
        self._set(0)
        self.stage.arguments += ["--sandbox=off"]
        self.stage.environment |= {"LD_PRELOAD": str(library), "CLOCK_OFFSET_FILE": str(self._offset)}

    def _set(self, seconds: int) -> None:
        for path in (self._offset, self.stage.clock):
            draft = path.with_suffix(".draft")
            draft.write_text(f"{seconds:+}\n")
            draft.replace(path)

    def strike(self) -> None:
        day = 86400
        self._set(self.random.choice((-3650 * day, -day, -3600, -60, -2, 2, 60, 3600, day, 3650 * day)))
        self.count += 1
        time.sleep(self.random.random() * 0.2)

    def heal(self) -> None:
        self._set(0)


def lacking(name: str) -> Iterator[str]:
    """Yield what a fault needs and this machine has not."""
    kind = FAULTS[name]
    if os.geteuid() != 0:
        yield "root"
    for need in kind.needs:
        if not (os.path.exists(need) if need.startswith("/") else shutil.which(need)):
            yield need
