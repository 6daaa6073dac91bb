"""Which of our own programs are run in a sandbox, and whether they can live in it: that is tried."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
from collections.abc import Sequence
from contextlib import suppress

from clsync.core.paths import shown
from clsync.daemon.plan import Plan
from clsync.errors import Exit, OperatorError
from clsync.handler.rsync import Target
from clsync.handler.rsync.connection import chooses_shell
from clsync.kernel import roles, sandbox
from clsync.kernel.landlock import Allowed
from clsync.kernel.process import exit_text, spawn
from clsync.kernel.sandbox import Sandbox
from clsync.privilege import profiles
from clsync.privilege.sshconfig import Caller, SshConfig

_PATIENCE = 20.0
"""Seconds that a program may take to say its version."""


def sandbox_of(made: Plan, target: Target) -> Sandbox | None:
    """Return what the rsync of a plan can do; None where it is left alone. Raises OperatorError.

    What the operator has named keeps its rights, unless the option says otherwise.
    """
    demanded = bool(made.settings.sandbox_demanded)
    if not sandbox.usable() or not (demanded or is_ours(made)):
        return None
    why = ""
    more: tuple[Allowed, ...] = ()
    if target.ssh:
        why, more = _way_of_ssh(made, target)
    if not why:
        local = made.local if not target.remote else None
        found = profiles.rsync_sandbox(
            program=made.program, destination=local, xattrs=made.settings.xattrs > 0, more=more
        )
        why = _trouble(made, found) if found is not None else ""
        if not why:
            return found
    if demanded:
        raise OperatorError(
            f"--sandbox: {shown(made.program)} cannot be run in it: {why}",
            "use --sandbox=auto, or off",
            Exit.PRIVILEGE,
        )
    made.log.warning(f"{shown(made.program)} is run without a sandbox: {why}; --sandbox=off says that this is meant")
    return None


def is_ours(made: Plan) -> bool:
    """Tell whether program, arguments, and the program that leads to another host are those of clsync itself."""
    s, target = made.settings, made.destination
    if s.sync_handler is not None or s.arguments is not None:
        return False
    if target is None or not target.remote:
        return True
    return not (chooses_shell([], os.environb) if target.ssh else b"RSYNC_CONNECT_PROG" in os.environb)


def _trouble(made: Plan, found: Sandbox) -> str:
    """Tell why the program cannot be run in a sandbox; it is tried."""
    if gains := _gains_by_itself(made.program):
        return gains
    within, where = _said(made, [made.program, b"--version"], found)
    if where or within.startswith(b"0\n"):
        return where
    without, _ = _said(made, [made.program, b"--version"], None)
    return "" if without.partition(b"\n")[0] == within.partition(b"\n")[0] else _code(within)


def _code(said: bytes) -> str:
    return exit_text(int(said.partition(b"\n")[0]))


def _gains_by_itself(program: bytes) -> str:
    """Tell whether a program has rights that its user does not have: a sandbox may take them away."""
    with suppress(OSError):
        if os.stat(program).st_mode & (stat.S_ISUID | stat.S_ISGID):
            return "it is run as another user or group (mode)"
        os.getxattr(program, "security.capability")
        return "it has capabilities of its own (security.capability)"
    return ""


def _said(made: Plan, argv: Sequence[bytes], within: Sandbox | None) -> tuple[bytes, str]:
    """Run a program in the watched directory; return its exit code and what it printed, or why it cannot be run."""
    cwd = os.open(made.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with spawn(
            argv, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, sandbox=within
        ) as child:
            try:
                said, _ = child.communicate(timeout=_PATIENCE)
            except subprocess.TimeoutExpired:
                child.kill()
                said = b""
        return b"%d\n%s" % (child.returncode, said), ""
    except OSError as error:
        return b"", error.strerror or str(error)
    finally:
        os.close(cwd)


def _way_of_ssh(made: Plan, target: Target) -> tuple[str, tuple[Allowed, ...]]:
    """Return why ssh cannot be run in a sandbox, or what it looks at: it tells itself how it is configured."""
    caller, files = _caller(), dict[Allowed, None]()
    hosts = {target.host: b""}
    """As ssh is given them -> what it says of them."""
    while unknown := [host for host, text in hosts.items() if not text]:
        host = unknown[0]
        text, why = _said(made, [b"ssh", b"-G", host], None)
        if why:
            return "", ()  # there is no ssh: that is said where it is missed
        hosts[host] = text
        config = SshConfig(host, text.partition(b"\n")[2], caller)
        if obstacle := config.obstacle(on_the_way=host != target.host):
            return f"ssh is configured {obstacle} (see ssh -G {shown(host)})", ()
        files |= dict.fromkeys(config.files())
        hosts |= {jump: b"" for jump in config.jumps() if jump not in hosts}
    found = profiles.rsync_sandbox(program=made.program, destination=None, xattrs=False, more=files)
    for host, text in hosts.items():
        again, why = _said(made, [b"ssh", b"-G", host], found)
        if why or again != text:
            return why or "ssh does not find its configuration in it", ()
    return "", tuple(files)


def _caller() -> Caller:
    """Return who runs ssh: its home directory is that of the user, whatever HOME says."""
    uid = roles.programs_ids().uid
    try:
        entry = pwd.getpwuid(uid)
        user, home = os.fsencode(entry.pw_name), os.fsencode(entry.pw_dir)
    except KeyError:
        user, home = b"", os.environb.get(b"HOME", b"/")
    return Caller(user, uid, home, os.fsencode(os.uname().nodename), dict(os.environb))
