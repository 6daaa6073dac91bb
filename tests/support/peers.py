"""Command lines of other programs for the same work, set as well as they can be."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

_LSYNCD = """
settings {{ nodaemon = true, insist = true, maxProcesses = 1, inotifyMode = "CloseWrite or Modify" }}
sync {{ default.rsync, source = "{source}", target = "{destination}", delay = 1, delete = true,
  rsync = {{ archive = true, hard_links = true, _extra = {{ "--modify-window=-1", "--force" }} }} }}
"""


def clsync(source: Path, destination: Path, _: Path) -> list[str]:
    """Clsync 0.4 as Debian has it."""
    delays = ["-t1", "-w1", "-T1"]
    rights = ["--uid=root", "--gid=root", "--retries=3", "--ignore-failures=1"]
    return ["/usr/bin/clsync", "-H/NULL/", "-Mrsyncdirect", f"-W{source}", f"-D{destination}", *delays, *rights]


def lsyncd(source: Path, destination: Path, scratch: Path) -> list[str]:
    """Lsyncd 2.2 with hard links and exact times."""
    settings = scratch / "lsyncd.lua"
    settings.write_text(_LSYNCD.format(source=source, destination=destination))
    return ["/usr/bin/lsyncd", str(settings)]


def rsync(source: Path, destination: Path, _: Path) -> list[str]:
    """Full runs of rsync without end, nothing taken for unchanged: the harness checks itself against it.

    rsync -H can hang for ever when files vanish, its --timeout notwithstanding: hence timeout(1).
    """
    run = "rsync -aH --delete --force --modify-window=-1 --ignore-times --numeric-ids"
    paths = f"{shlex.quote(str(source))}/ {shlex.quote(str(destination))}/"
    return ["/bin/sh", "-c", f"while :; do timeout --kill-after=1 3 {run} {paths}; sleep 0.1; done"]


PEERS: dict[str, Callable[[Path, Path, Path], list[str]]] = {"clsync": clsync, "lsyncd": lsyncd, "rsync": rsync}
