"""Where a case takes place: a source, a destination, what can fail between them, and who writes and watches."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.faults.author import sow
from tests.support.churn import (
    Plan,
    Writer,
    build,
    change_mtime,
    copy_a_tree,
    exchange_files_of_one_mtime,
    exchange_releases,
    make_a_release,
    move_a_stamped_copy_over_a_file,
    move_out_change_and_move_back,
    put_another_directory_in_its_place,
    rewrite_at_the_same_size_and_mtime,
    write_through_a_mapping,
    write_through_one_of_several_names,
)
from tests.support.playground import FIXED_NS, Playground
from tests.support.remotes import RsyncHost, SshHost
from tests.support.trees import Difference, Snapshot, compare, snapshot

TRANSPORTS = ("rsync", "copy", "ssh", "rsyncd")
UNSEEN = frozenset(
    (
        change_mtime,
        copy_a_tree,
        exchange_files_of_one_mtime,
        exchange_releases,
        make_a_release,
        move_a_stamped_copy_over_a_file,
        move_out_change_and_move_back,
        put_another_directory_in_its_place,
        rewrite_at_the_same_size_and_mtime,
        write_through_a_mapping,
        write_through_one_of_several_names,
    )
)
"""What changes content and keeps size and mtime: nobody can tell who was not there when it happened."""


class Stage:
    """The directories of one case. What faults need is put between them before anything is started."""

    def __init__(self, transport: str, seed: int) -> None:
        """Make source and destination in memory or on disk, as the seed says."""
        self.random = random.Random(f"stage {seed}")
        self.seed, self.transport = seed, transport
        place = self.random.choice(("/dev/shm", "/var/tmp"))
        self.top = Path(os.path.realpath(tempfile.mkdtemp(prefix=f"clsync-faults-{seed}-", dir=place)))
        self.top.chmod(0o755)
        self.source, self.destination = self.top / "source", self.top / "destination"
        self.kept = self.destination
        """Where what is at the destination can be read, also while the destination fails."""
        self.clock = self.top / "clock"
        self.state = self.top / "state"
        self.arguments: list[str] = []
        self.environment: dict[str, str] = {}
        self.host: SshHost | RsyncHost | None = None
        self.mounts: list[Path] = []
        self.children: list[subprocess.Popen[bytes]] = []
        for made in (self.source, self.destination):
            made.mkdir()

    def fill(self) -> None:
        """Make what stands at the source before the program starts."""
        for name in ("play", "aside"):
            (self.source / name).mkdir()
        build(self.playground("build"), 0)
        for above, _, files in os.walk(bytes(self.source)):
            for file in files:
                full = os.path.join(above, file)
                if os.lstat(full).st_mtime_ns == FIXED_NS:
                    os.utime(full, follow_symlinks=False)  # one cannot be told from another by size and mtime
        sow(self.source, self.random)

    def playground(self, name: str) -> Playground:
        """Return a playground in a part of the source; `aside` is another part of it."""
        return Playground(bytes(self.source / "play"), bytes(self.source / "aside"), f"{name} {self.seed}")

    def connect(self) -> None:
        """Start the host, if there is one, and say how the program comes to the destination."""
        destination = str(self.destination)
        if self.transport in ("ssh", "rsyncd"):
            ssh = self.transport == "ssh"
            # Out of its root, rsyncd would have to change symlinks that lead there.
            host = SshHost(self.top, self.destination) if ssh else RsyncHost(self.top, self.destination, chroot=True)
            self.host = host
            host.start()
            destination = host.destination
            self.environment |= host.environment
        mode = "copy" if self.transport == "copy" else "rsyncdirect"
        self.arguments += [f"-W{self.source}", f"-D{destination}", f"-M{mode}", "-t0.1", "-w0.1"]
        self.arguments += [f"--state-dir={self.state}"]

    # What is done to the source

    def writer(self, number: int, seconds: float, operations: int, *, seen: bool) -> Writer:
        """Start who plays for a time (s); `seen`: the program sees all of it happen."""
        plan = Plan(f"play {self.seed} {number}", seconds, operations, frozenset() if seen else UNSEEN)
        ground = self.playground("")
        return Writer(ground.root, ground.outside, [plan], self.top / f"journal-{number}")

    def helper(self, module: str, *words: str) -> subprocess.Popen[bytes]:
        """Start a program of this package that ends with its standard input."""
        command = [sys.executable, "-m", f"tests.faults.{module}", *words]
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2], env=os.environ
        )
        self.children.append(child)
        return child

    # What must be true

    def wanted(self) -> Snapshot:
        """Read the source."""
        return snapshot(bytes(self.source))

    def differences(self, wanted: Snapshot) -> list[Difference]:
        """Compare the destination with what it ought to be."""
        try:
            return compare(wanted, snapshot(bytes(self.kept)))
        except OSError as error:
            return [Difference(b"", "unreadable", None, str(error))]

    def remove(self) -> None:
        """Remove all of it."""
        for child in self.children:
            with suppress(ProcessLookupError):
                child.send_signal(signal.SIGCONT)
            child.kill()
            child.communicate()
        if self.host is not None:
            self.host.stop()
        for place in reversed(self.mounts):
            subprocess.run(["umount", "-l", place], check=False, capture_output=True)
        shutil.rmtree(self.top, ignore_errors=True)


@contextmanager
def stage(transport: str, seed: int) -> Iterator[Stage]:
    """Give a stage, and remove it."""
    made = Stage(transport, seed)
    try:
        yield made
    finally:
        made.remove()
