"""From settings to a plan: checks what can be checked before anything starts, and chooses what was left open."""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import stat
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

from clsync.core.paths import is_below, shown
from clsync.core.rules import Rules
from clsync.daemon.log import Log
from clsync.daemon.root import Directory
from clsync.errors import Exit, OperatorError
from clsync.handler.rsync import Target
from clsync.handler.rsync.recipe import ARGUMENTS_MACRO, Recipe
from clsync.kernel import roles
from clsync.kernel.capabilities import Capabilities
from clsync.kernel.mounts import Mount, Place, places_of, read_mounts, seen_within
from clsync.kernel.process import started_ns
from clsync.options import MODULE_MODES, PROGRAM_MODES, Settings
from clsync.privilege import trust

_Places = Sequence[tuple[bytes, Place]]
"""A directory, and all below it on which something is mounted."""
_DEFAULT_PROGRAM = {"rsyncdirect": b"rsync", "direct": b"cp"}
_DEFAULT_ARGUMENTS: dict[str, tuple[bytes, ...]] = {
    "simple": (b"sync", b"%label%", b"%EVENT-MASK%", b"%INCLUDE-LIST%"),
    "direct": (b"%INCLUDE-LIST%", b"%destination-dir%/"),
    "rsyncdirect": (ARGUMENTS_MACRO, b"%watch-dir%/", b"%destination-dir%/"),
    "shell": (b"synclist", b"%label%", b"%INCLUDE-LIST-PATH%"),
    "rsyncshell": (b"rsynclist", b"%label%", b"%INCLUDE-LIST-PATH%", b"%EXCLUDE-LIST-PATH%"),
}


@dataclass
class Plan:
    """What was found out about the settings."""

    settings: Settings
    log: Log
    root: bytes
    """The watched directory, absolute, without symlinks."""
    destination: Target | None
    rules: Rules
    rules_read: float
    """When reading the rules began (monotonic seconds)."""
    started_ns: int
    """Wall-clock time at which this run began, less a second for clocks that are set."""
    name: str = ""
    """What messages call the destination; empty where there is only one."""
    mode: str = ""
    why: str = ""
    """Why this mode was chosen, if it was chosen here."""
    program: bytes = b""
    arguments: list[bytes] = field(default_factory=list)
    local: bytes | None = None
    """The destination, if it is a directory of this machine: absolute, without symlinks."""
    given: Target | None = None
    """What --destination-dir says; the destination may be another one, if the handler's arguments name it."""
    directories: dict[bytes, Directory] = field(default_factory=dict)
    """Local destinations as they were seen first: what stands there later may be a bare mount point."""
    volumes: dict[bytes, bytes] = field(default_factory=dict)
    """What tells their file systems from others, also from those that stand there in their turn."""
    held: dict[bytes, Capabilities] = field(default_factory=dict)
    """What they can hold."""
    made_directories: list[bytes] = field(default_factory=list)
    """Directories that were made for list files, those above first."""

    def clear_away(self) -> None:
        """Remove the directories that were made, where nothing is in them."""
        for path in reversed(self.made_directories):
            with suppress(OSError):
                roles.by_somebody(partial(os.rmdir, path))


def make_plans(settings: Settings, log: Log, before: Sequence[Plan] = ()) -> list[Plan]:
    """Check the settings against this machine; `before`: the plans in force. Return a plan for each destination.

    Raises OperatorError.
    """
    made: list[Plan] = []
    for one in for_each_destination(settings):
        # What was found out about directories is known to all.
        made.append(_make_plan(one, log, (*before, *made, None)[0]))
    for plan in made if len(made) > 1 else ():
        assert plan.destination is not None
        plan.name = shown(plan.destination.text)
    return made


def for_each_destination(settings: Settings) -> list[Settings]:
    """Return the settings as they are for each destination."""
    return [replace(settings, destination_dir=one, destinations=(one,)) for one in settings.destinations] or [
        settings
    ]


def demand_apart(plans: Sequence[Plan]) -> None:
    """See that no destination is, or lies in, another one. Raises OperatorError."""
    mounts = _mounts()
    places = [[] if one.local is None else places_of(one.local, mounts) for one in plans]
    for number, one in enumerate(plans):
        for other, there in zip(plans[number + 1 :], places[number + 1 :], strict=True):
            if one.destination == other.destination or _meet(places[number], there):
                raise OperatorError(
                    f"--destination-dir {other.name}: it is, holds or lies in the other destination {one.name}",
                    "name directories that are apart, and let the handler's arguments say %destination-dir%",
                    Exit.DESTINATION,
                )


def _meet(some: _Places, others: _Places) -> bool:
    """Tell whether a directory is, holds, or lies in another one, by its name or by whatever mounts."""
    for path, place in some:
        for other, there in others:
            names = path == other or is_below(path, other.rstrip(b"/")) or is_below(other, path.rstrip(b"/"))
            if names or place.meets(there):
                return True
    return False


def _make_plan(settings: Settings, log: Log, before: Plan | None = None) -> Plan:
    """Check the settings for one destination against this machine. Raises OperatorError."""
    root = source_directory(settings.watch_dir)
    destination = _destination(settings.destination_dir)
    now = time.monotonic()
    made = Plan(settings, log, root, destination, read_rules(settings), now, started_ns() - 10**9)
    if before is not None:
        made.directories, made.held, made.made_directories = before.directories, before.held, before.made_directories
        made.volumes = before.volumes
    if destination is not None and not destination.remote:
        made.local = local_destination(destination.text, made, "--destination-dir")
        made.destination = Target(made.local)
    made.given = made.destination
    _choose_mode(made)
    if made.mode in ("copy", "rsyncdirect"):
        demand_sane(made)
    if made.mode == "python":
        made.program = _reference(settings.sync_handler or b"")
    elif made.mode in MODULE_MODES:
        made.program = os.path.realpath(settings.sync_handler or b"")
    elif made.mode != "copy":
        made.program = find_program(settings.sync_handler or _DEFAULT_PROGRAM.get(made.mode, b""))
        made.arguments = _arguments(made)
    return made


def source_directory(path: bytes) -> bytes:
    """Return the real path of the watched directory. Raises OperatorError where it cannot be read."""
    where = f"--watch-dir {shown(path)}"
    try:
        root = os.path.realpath(path, strict=True)
        if not stat.S_ISDIR(os.stat(root).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        with os.scandir(root) as entries:
            next(entries, None)
    except OSError as error:
        hint = {
            errno.ENOENT: "create it, or name another directory",
            errno.ENOTDIR: "name a directory; a single file cannot be watched",
            errno.EACCES: "run clsync as a user who may read it",
        }.get(error.errno or 0, "see that it can be read")
        raise OperatorError(f"{where}: {error.strerror}", hint, Exit.SOURCE) from None
    return root


def _destination(path: bytes | None) -> Target | None:
    return Target(path) if path is not None else None


def one_file_system_level(settings: Settings) -> int:
    """Return how other file systems count: 0 as any, 1 as empty directories, 2 not at all."""
    return 2 if settings.exclude_mount_points else int(settings.one_file_system > 0)


def left_out(made: Plan, path: bytes) -> bool:
    """Tell whether a real path inside the watched directory is neither watched nor synced. Raises OSError."""
    settings, rules = made.settings, made.rules
    there = path
    while not os.path.exists(there):
        there = os.path.dirname(there)
    if one_file_system_level(settings) and os.stat(there).st_dev != os.stat(made.root).st_dev:
        return True
    inside = path[len(made.root.rstrip(b"/")) + 1 :]
    return not (settings.full_initialsync or rules.permits(inside, True) or rules.reaches(inside))


def local_destination(path: bytes, made: Plan, option: str) -> bytes:
    """Return the real path of a local destination. Raises OperatorError where it is unusable or overlaps."""
    where, root = f"{option} {shown(path)}", made.root
    try:
        real = os.path.realpath(path, strict=True)
        if not stat.S_ISDIR(os.stat(real).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    except OSError as error:
        hint = f"create it: mkdir -p {shown(path)}" if error.errno == errno.ENOENT else "name a directory"
        raise OperatorError(f"{where}: {error.strerror}", hint, Exit.DESTINATION) from None
    mounts = _mounts()
    seen = {real, *seen_within(root, real, mounts)}
    if root in seen:
        raise OperatorError(f"{where} is the watched directory itself", "name another one", Exit.DESTINATION)
    if any(is_below(path, root.rstrip(b"/")) and not left_out(made, path) for path in seen):
        raise OperatorError(
            f"{where} lies inside the watched directory: it would be copied into itself",
            "name a directory outside of it, or reject it by a rule (-d)",
            Exit.DESTINATION,
        )
    if is_below(root, real.rstrip(b"/")) or _shows(real, made, mounts):
        raise OperatorError(
            f"{where} holds the watched directory, or part of it: syncing would delete it",
            "name a directory of its own",
            Exit.DESTINATION,
        )
    return real


def _shows(destination: bytes, made: Plan, mounts: Sequence[Mount]) -> bool:
    """Tell whether something is mounted in the destination that is the source, holds it, or is a part of it."""
    sources = [place for _, place in places_of(made.root, mounts)]
    own = sources[0]
    if one_file_system_level(made.settings):
        sources = [own]
    (_, itself), *mounted = places_of(destination, mounts)
    return (itself.device != b"" and itself.holds(own)) or any(
        place.device and not itself.holds(place) and any(map(place.meets, sources)) for _, place in mounted
    )


def _mounts() -> list[Mount]:
    """Return what is mounted; nothing where that cannot be told."""
    try:
        return read_mounts()
    except OSError:
        return []


def demand_sane(made: Plan) -> None:
    """See that what clsync itself makes equal is nothing that nobody can mean. Raises OperatorError."""
    destination = made.destination
    if destination is None or made.settings.compat or made.settings.arguments is not None:
        return
    where = f"--destination-dir {shown(made.settings.destination_dir or b'')}"
    if destination.ssh and destination.text.partition(b":")[2].rstrip(b"/") in (b"", b"~", b"."):
        what = "the root directory" if destination.text.endswith(b":/") else "a home directory"
    elif made.local == b"/":
        what = "the root directory"
    elif made.local is not None and made.local in _homes():
        what = "your home directory"
    else:
        return
    raise OperatorError(
        f"{where} is {what}: all that the source does not have would be deleted there",
        "name a directory of its own",
        Exit.DESTINATION,
    )


def _homes() -> set[bytes]:
    """Return the real paths of the home directories of who we are."""
    homes = {os.environb.get(b"HOME", b"")}
    with suppress(KeyError):
        homes.add(os.fsencode(pwd.getpwuid(os.geteuid()).pw_dir))
    return {os.path.realpath(home) for home in homes if home}


def read_rules(settings: Settings) -> Rules:
    """Read the rules file. Raises OperatorError."""
    path = settings.rules_file
    if path is None:
        return Rules()
    try:
        if trust.is_demanded(settings):
            text = trust.read_rules(path)
        else:
            with open(path, "rb") as file:
                text = file.read()
    except OSError as error:
        raise OperatorError(
            f"--rules-file {shown(path)}: {error.strerror}", "name a file that can be read", Exit.USAGE
        ) from None
    return Rules.parse(text, shown(path))


# -- mode, program, arguments ----------------------------------------------------------------------------------


def _choose_mode(made: Plan) -> None:
    settings, destination = made.settings, made.destination
    if settings.mode is not None:
        made.mode = settings.mode
        if made.mode == "copy" and (destination is None or destination.remote):
            raise OperatorError(
                "--mode=copy copies to a local directory only", "use --mode=rsyncdirect", Exit.DESTINATION
            )
        return
    named = settings.sync_handler is not None or settings.arguments is not None or settings.compat
    if named or (destination is not None and destination.remote):
        made.mode, made.why = "rsyncdirect", "the destination or the handler asks for it"
        return
    trouble = _rsync_trouble()
    if trouble:
        made.mode, made.why = "copy", trouble
    else:
        made.mode, made.why = "rsyncdirect", "rsync is installed and fits"


def _rsync_trouble() -> str:
    """Tell why rsync cannot be used here; nothing if it can. It is really run, on an empty directory."""
    import subprocess
    import tempfile

    program = shutil.which("rsync")
    if program is None:
        return "rsync is not installed"
    with tempfile.TemporaryDirectory(prefix="clsync-trial-") as place:
        os.mkdir(f"{place}/from")
        os.mkdir(f"{place}/to")
        argv = [program.encode(), *Recipe().listed(), b"./", f"{place}/to/".encode()]
        run = subprocess.run(argv, input=b"./.absent\0", cwd=f"{place}/from", capture_output=True, check=False)
    if run.returncode:
        return f"rsync does not know what is needed (exit code {run.returncode}; 3.1.3 or later does)"
    return ""


def _reference(text: bytes) -> bytes:
    """Return the name of a function in Python. Raises OperatorError."""
    module, colon, function = text.partition(b":")
    names = [*module.split(b"."), *function.split(b".")]
    if not colon or not all(name.decode("utf-8", "replace").isidentifier() for name in names):
        raise OperatorError(
            f"--sync-handler {shown(text)} names no function", "write package.module:function", Exit.HANDLER
        )
    return text


def find_program(name: bytes, option: str = "--sync-handler") -> bytes:
    """Return the path of a program. Raises OperatorError."""
    if b"/" in name:
        path = os.path.abspath(name)
        if _may_run(path):
            return path
        why = "cannot be executed" if os.path.exists(path) else "does not exist"
        raise OperatorError(f"{option} {shown(name)} {why}", "name an executable file", Exit.HANDLER)
    with roles.as_programs():
        found = shutil.which(os.fsdecode(name))
    if found is None:
        hint = "install rsync, or use --mode=copy" if name == b"rsync" else "install it, or give its full path"
        raise OperatorError(f"{option} {shown(name)} is not in PATH", hint, Exit.HANDLER)
    return os.fsencode(found)


def _may_run(path: bytes) -> bool:
    with roles.as_programs():
        return os.path.isfile(path) and os.access(path, os.X_OK)


def lookup_of(made: Plan) -> Callable[[bytes], bytes | None]:
    """Return what `%name%` stands for in handler arguments, as far as it does not depend on a run."""

    def value(name: bytes) -> bytes | None:
        if name == b"watch-dir":
            return made.root.rstrip(b"/")
        if name == b"destination-dir":
            return made.given.text.rstrip(b"/") if made.given is not None else b""
        if name == b"PID":
            return b"%d" % os.getpid()
        return made.settings.text(name)

    return value


def _arguments(made: Plan) -> list[bytes]:
    """Return the handler's arguments, macros left in them where they depend on a run."""
    arguments = made.settings.arguments
    if arguments is None:
        arguments = _DEFAULT_ARGUMENTS[made.mode]
        if made.mode == "rsyncshell" and made.settings.rsync_prefer_include:
            arguments = arguments[:-1]  # nothing is excluded
        if made.destination is None and made.mode not in PROGRAM_MODES:
            raise OperatorError(
                f"--mode={made.mode} without a destination", "add --destination-dir, or name it in the arguments"
            )
    return list(arguments)
