"""Other ends for rsync: a real sshd and a real rsync daemon, on ports of their own, that come and go."""

from __future__ import annotations

import getpass
import os
import random
import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from tests.support.daemon import Daemon

PROGRAMS = ("/usr/sbin/sshd", "ssh", "ssh-keygen", "rsync")
LOCAL = "127.0.0.1"
_GIVEN_BY_KERNEL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_RANDOM = random.SystemRandom()
"""Other processes of the tests are to choose other ports."""


class Remote(Protocol):
    """A host that can be copied to."""

    destination: str
    """What clsync is told for the directory."""
    environment: dict[str, str]
    """What clsync needs to come there."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    @property
    def connections(self) -> int: ...
    @property
    def processes(self) -> list[int]: ...


def missing() -> list[str]:
    """Return the programs that are not installed."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


def free_port() -> int:
    """Return a port nobody listens on, of those that the kernel gives to nobody by itself.

    Any other might be that of somebody's connection by the time a server is started, or started again.
    """
    first = int(_GIVEN_BY_KERNEL.read_text().split()[0])
    while True:
        port = _RANDOM.randrange(max(1024, first - 12_000), first)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((LOCAL, port))
            return port


class Server:
    """A program that listens on a port; stopping it ends all its connections."""

    def __init__(self, *command: str) -> None:
        self.port = free_port()
        self._command = [word.format(port=self.port) for word in command]
        self._process: Daemon | None = None
        self._log = ""

    def start(self) -> None:
        """Start it, unless it runs, and wait until it answers."""
        if self._process is not None:
            return
        program, *arguments = self._command
        self._process = Daemon(*arguments, program=[program]).start()
        self._process.wait_until(self._answers, what="an answer")

    def stop(self) -> None:
        """End it and its connections, as the end of a host would."""
        if self._process is not None:
            connections = [pid for pid in self.processes if pid != self._process.pid]
            self._process.kill()
            for pid in connections:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._log, self._process = self.log, None

    @property
    def processes(self) -> list[int]:
        """Those that run now: the server itself, and one or more for each connection."""
        if self._process is None:
            return []
        # A child of rsyncd goes by the command line of the server, one of sshd leaves its session.
        return sorted({self._process.pid, *self._process.descendants(), *self._process.family()})

    @property
    def log(self) -> str:
        """All it has said, in all its lives."""
        return self._log + (self._process.output if self._process is not None else "")

    def _answers(self) -> bool:
        try:
            socket.create_connection((LOCAL, self.port), 1).close()
        except (ConnectionRefusedError, TimeoutError):
            return False
        return True


class SshHost(Server):
    """A host `there`, reached by a program `ssh` with a configuration of its own."""

    def __init__(self, top: Path, directory: Path, *, command: str = "") -> None:
        """Make keys and settings below `top`; `directory` is what is copied to. `command`: all that can be run there."""
        place = top / "ssh"
        place.mkdir()
        super().__init__("/usr/sbin/sshd", "-D", "-e", "-p", "{port}", "-f", os.fspath(place / "sshd_config"))
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", exist_ok=True)  # sshd demands it
        for name in ("host", "user"):
            key = os.fspath(place / name)
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        # Nobody's own start-up files: they take their time, and may leave locks where they are killed.
        (place / "sshd_config").write_text(
            f"ListenAddress {LOCAL}\nHostKey {place}/host\nAuthorizedKeysFile {place}/user.pub\nPidFile none\n"
            "StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nLogLevel VERBOSE\n"
            f"SetEnv HOME={place}\n{f'ForceCommand {command}' if command else ''}\n"
        )
        known = (place / "host.pub").read_text()
        (place / "known_hosts").write_text(f"[{LOCAL}]:{self.port} {known}")
        self.config = place / "config"
        self.config.write_text(
            f"Host there\nHostName {LOCAL}\nPort {self.port}\nUser {getpass.getuser()}\n"
            f"IdentityFile {place}/user\nIdentitiesOnly yes\nUserKnownHostsFile {place}/known_hosts\nLogLevel ERROR\n"
        )
        (top / "bin").mkdir()
        program = top / "bin/ssh"
        self._calls = place / "calls"
        noted = f"printf '%s\\n' \"$@\" >>{self._calls}"
        program.write_text(f'#!/bin/sh\n{noted}\nexec {shutil.which("ssh")} -F {self.config} "$@"\n')
        program.chmod(0o755)
        self.destination = f"there:{directory}"
        self.environment = {"PATH": f"{program.parent}:{os.environ['PATH']}"}

    @property
    def connections(self) -> int:
        """How many were made."""
        return self.log.count("Accepted publickey")

    @property
    def control_paths(self) -> set[Path]:
        """The sockets that the program `ssh` was told to use for kept connections."""
        words = self._calls.read_text().splitlines()
        return {Path(word.removeprefix("ControlPath=")) for word in words if word.startswith("ControlPath=")}

    def keeps(self, control_path: Path) -> bool:
        """Tell whether a connection is kept there."""
        command = ["ssh", "-F", str(self.config), "-O", "check", "-o", f"ControlPath={control_path}", "there"]
        return subprocess.run(command, capture_output=True).returncode == 0


class RsyncHost(Server):
    """A host with an rsync daemon and a module `data`."""

    def __init__(self, top: Path, directory: Path, *, chroot: bool = False) -> None:
        """Make settings below `top`; `directory` is what is copied to. `chroot` (needs root) is rsync's default."""
        settings = top / "rsyncd.conf"
        super().__init__(
            "rsync", "--daemon", "--no-detach", f"--config={settings}", "--port={port}", f"--address={LOCAL}"
        )
        rights = "uid = 0\ngid = 0\n" if os.geteuid() == 0 else ""
        settings.write_text(
            f"log file = {top}/rsyncd.log\nuse chroot = {'yes' if chroot else 'no'}\n"
            f"munge symlinks = no\nread only = no\n{rights}"
            f"[data]\npath = {directory.parent}\n[closed]\npath = {directory.parent}\nread only = yes\n"
        )
        self._told = top / "rsyncd.log"
        self.destination = f"rsync://{LOCAL}:{self.port}/data/{directory.name}"
        self.environment: dict[str, str] = {}

    @property
    def connections(self) -> int:
        """How many were made."""
        return self._told.read_text().count("connect from")
