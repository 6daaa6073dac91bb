"""A small machine of its own: a root directory with few files, mounts and a network that nobody else sees.

Programs, libraries and the installed clsync are those of this machine; `/etc`, `/srv`, `/tmp`, `/dev/shm` and all else
is of this place alone, and goes away with it. What is written to `/usr` is kept in a layer above.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

import clsync
from tests.support.daemon import Argument, Daemon, installed

_PROGRAMS = ("unshare", "nsenter", "pivot_root", "ip")
_PATH = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin"
_SETUP = """
top=$1; shift
mount -t tmpfs -o mode=755 site "$top"
cd "$top"
mkdir -p usr etc dev proc run root srv tmp var/run var/tmp mnt old
chmod 1777 tmp var/tmp
for name in bin sbin lib lib32 lib64 libx32; do
    if [ -L "/$name" ]; then cp -a "/$name" .; elif [ -d "/$name" ]; then set -- "$@" "/$name"; fi
done
mount -t tmpfs layers run
mkdir run/usr run/work
mount -t overlay -o "lowerdir=/usr,upperdir=$top/run/usr,workdir=$top/run/work" usr usr
mount --rbind /proc proc
mount -t tmpfs -o mode=755 dev dev
for name in null zero full random urandom tty; do
    : >"dev/$name"
    mount --bind "/dev/$name" "dev/$name"
done
mkdir -m 1777 dev/shm
ln -s /proc/self/fd dev/fd
for name in ld.so.cache ld.so.conf ld.so.conf.d alternatives nsswitch.conf; do
    [ ! -e "/etc/$name" ] || cp -a "/etc/$name" etc
done
for place; do
    mkdir -p ".$place"
    mount --bind "$place" ".$place"
done
ip link set lo up
pivot_root . old
cd /
umount -l old
rmdir old
echo ready
exec cat
"""
_FILES = {
    "etc/passwd": "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n",
}


class Done(NamedTuple):
    """What a program that has ended leaves."""

    code: int
    text: str
    """What it has said on both descriptors."""


class Site:
    """One such machine, and ways to run programs there."""

    def __init__(self, keeper: int) -> None:
        """`keeper`: a process in its namespaces."""
        self._keeper = keeper
        self.environment = {"PATH": _PATH, "HOME": "/root", "SHELL": "/bin/sh", "TMPDIR": "/tmp"}

    def path(self, name: str) -> Path:
        """Return where this process finds an absolute path of the site."""
        return Path(f"/proc/{self._keeper}/root{name}")

    def write(self, name: str, text: str, mode: int = 0o644) -> Path:
        """Write a file, directories above it included."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    def read(self, name: str) -> str | None:
        """Return the text of a file, None where there is none."""
        try:
            return self.path(name).read_text()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def command(self, name: str, script: str) -> None:
        """Make a command of the site: a script in sh(1)."""
        self.write(f"/usr/local/bin/{name}", f"#!/bin/sh\n{script}\n", 0o755)

    def listens(self, port: int) -> bool:
        """Tell whether somebody listens on a port of the site (proc_net(5))."""
        lines = Path(f"/proc/{self._keeper}/net/tcp").read_text().splitlines()[1:]
        return any(f":{port:04X} " in line and line.split()[3] == "0A" for line in lines)

    def program(self, *words: Argument, cwd: str = "/", env: Mapping[str, str] | None = None) -> Daemon:
        """Return a program of the site, not started."""
        enter = ["nsenter", f"--target={self._keeper}", "--mount", "--net", "--"]
        change = ["sh", "-c", 'cd "$0" && exec "$@"', cwd]
        return Daemon(*words, program=[*enter, *change], env={**self.environment, **(env or {})}, cwd="/")

    def run(
        self, *words: Argument, cwd: str = "/", env: Mapping[str, str] | None = None, timeout: float = 30
    ) -> Done:
        """Run a program of the site to its end (s)."""
        with self.program(*words, cwd=cwd, env=env) as program:
            assert program.process is not None
            code = program.process.wait(timeout)
            return Done(code, program.output)


@contextmanager
def site(top: Path) -> Iterator[Site]:
    """Give a site; `top`: an empty directory that it is mounted on. Needs root; skips where it cannot be had."""
    if os.geteuid() != 0 or (lacking := [name for name in _PROGRAMS if shutil.which(name) is None]):
        pytest.skip("needs root" if os.geteuid() != 0 else f"not installed: {lacking}")
    if subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True).returncode:
        pytest.skip("namespaces of our own cannot be had")
    enter = ["unshare", "--mount", "--net", "--propagation=private", "sh", "-ec", _SETUP, "sh"]
    # It ends with its standard input, that is with this process at the latest, and the namespaces with it.
    with subprocess.Popen(
        [*enter, top, *_places()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/"
    ) as keeper:
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        try:
            assert keeper.stdout.readline() == b"ready\n"
            made = Site(keeper.pid)
            for name, text in _FILES.items():
                made.write(f"/{name}", text)
            made.path("/usr/local/bin").mkdir(parents=True, exist_ok=True)
            made.path("/usr/local/bin/clsync").symlink_to(installed())
            yield made
        finally:
            keeper.stdin.close()


def _places() -> list[str]:
    """Return the directories outside of `/usr` that clsync and its interpreter are installed in."""
    package = Path(clsync.__file__).parents[1]
    found = {Path(sys.prefix), Path(sys.base_prefix), package, Path(installed()).parent}
    outside = {place for place in found if not place.is_relative_to("/usr")}
    return sorted(str(p) for p in outside if not any(other in p.parents for other in outside))
