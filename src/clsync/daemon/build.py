"""From settings to a mirror: checks what can be checked before anything starts, and chooses what was left open."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from clsync.control.listener import Listener
from clsync.core.paths import is_below, shown
from clsync.core.rules import Rules
from clsync.core.signature import Signatures
from clsync.daemon.course import Course
from clsync.daemon.hooks import Hook
from clsync.daemon.log import Log
from clsync.daemon.mirror import Mirror
from clsync.daemon.parts import Parts
from clsync.daemon.root import Directory
from clsync.errors import Exit, OperatorError
from clsync.handler import command
from clsync.handler.base import Handler
from clsync.handler.command import CommandHandler, CommandStyle
from clsync.handler.copy.handler import CopyHandler
from clsync.handler.plugin.handler import PluginHandler, PluginStyle, PythonValues
from clsync.handler.plugin.values import values_of
from clsync.handler.rsync import RsyncHandler, Target
from clsync.handler.rsync.recipe import ARGUMENTS_MACRO, Recipe
from clsync.kernel.capabilities import Capabilities, probe_destination
from clsync.kernel.process import started_ns
from clsync.monitor import TreeMonitor
from clsync.options import MODULE_MODES, PROGRAM_MODES, Settings
from clsync.options.expansion import expand, macros

_DEFAULT_PROGRAM = {"rsyncdirect": b"rsync", "direct": b"cp"}
_DEFAULT_ARGUMENTS: dict[str, tuple[bytes, ...]] = {
    "simple": (b"sync", b"%label%", b"%EVENT-MASK%", b"%INCLUDE-LIST%"),
    "direct": (b"%INCLUDE-LIST%", b"%destination-dir%/"),
    "rsyncdirect": (ARGUMENTS_MACRO, b"%watch-dir%/", b"%destination-dir%/"),
    "shell": (b"synclist", b"%label%", b"%INCLUDE-LIST-PATH%"),
    "rsyncshell": (b"rsynclist", b"%label%", b"%INCLUDE-LIST-PATH%", b"%EXCLUDE-LIST-PATH%"),
}
_RECURSIVE_ARGUMENTS: dict[str, tuple[bytes, ...]] = {"shell": (b"initialsync", b"%label%", b"%INCLUDE-LIST%")}
"""Of runs that take a whole directory, where these are not those of the others."""


@dataclass
class Plan:
    """What was found out about the settings."""

    settings: Settings
    log: Log
    root: bytes
    """The watched directory, absolute, without symlinks."""
    destination: Target | None
    rules: Rules
    started_ns: int
    """Wall-clock time at which this run began, less a second for clocks that are set."""
    mode: str = ""
    why: str = ""
    """Why this mode was chosen, if it was chosen here."""
    program: bytes = b""
    arguments: list[bytes] = field(default_factory=list)
    local: bytes | None = None
    """The destination, if it is a directory of this machine: absolute, without symlinks."""


def plan(settings: Settings, log: Log) -> Plan:
    """Check the settings against this machine. Raises OperatorError."""
    root = _source(settings.watch_dir)
    destination = _destination(settings.destination_dir)
    made = Plan(settings, log, root, destination, read_rules(settings), started_ns() - 10**9)
    if destination is not None and not destination.remote:
        made.local = _local_destination(destination.text, made, "--destination-dir")
        made.destination = Target(made.local)
    _choose_mode(made)
    if made.mode == "python":
        made.program = _reference(settings.sync_handler or b"")
    elif made.mode in MODULE_MODES:
        made.program = os.path.realpath(settings.sync_handler or b"")
    elif made.mode != "copy":
        made.program = _program(settings.sync_handler or _DEFAULT_PROGRAM.get(made.mode, b""))
        made.arguments = _arguments(made)
    return made


def _source(path: bytes) -> bytes:
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


def _left_out(made: Plan, path: bytes) -> bool:
    """Tell whether a real path inside the watched directory is neither watched nor synced. Raises OSError."""
    settings, rules = made.settings, made.rules
    there = path
    while not os.path.exists(there):
        there = os.path.dirname(there)
    if _one_file_system(settings) and os.stat(there).st_dev != os.stat(made.root).st_dev:
        return True
    inside = path[len(made.root.rstrip(b"/")) + 1 :]
    return not (settings.full_initialsync or rules.permits(inside, True) or rules.reaches(inside))


def _local_destination(path: bytes, made: Plan, option: str) -> bytes:
    """Return the real path of a local destination. Raises OperatorError where it is unusable or overlaps."""
    where, root = f"{option} {shown(path)}", made.root
    try:
        real = os.path.realpath(path, strict=True)
        if not stat.S_ISDIR(os.stat(real).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    except OSError as error:
        hint = f"create it: mkdir -p {shown(path)}" if error.errno == errno.ENOENT else "name a directory"
        raise OperatorError(f"{where}: {error.strerror}", hint, Exit.DESTINATION) from None
    if real == root:
        raise OperatorError(f"{where} is the watched directory itself", "name another one", Exit.DESTINATION)
    if is_below(real, root if root != b"/" else b"") and not _left_out(made, real):
        raise OperatorError(
            f"{where} lies inside the watched directory: it would be copied into itself",
            "name a directory outside of it, or reject it by a rule (-d)",
            Exit.DESTINATION,
        )
    if is_below(root, real if real != b"/" else b""):
        raise OperatorError(
            f"{where} holds the watched directory: syncing would delete it",
            "name a directory of its own",
            Exit.DESTINATION,
        )
    return real


def read_rules(settings: Settings) -> Rules:
    """Read the rules file. Raises OperatorError."""
    path = settings.rules_file
    if path is None:
        return Rules()
    try:
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


def _program(name: bytes, option: str = "--sync-handler") -> bytes:
    """Return the path of a program. Raises OperatorError."""
    if b"/" in name:
        path = os.path.abspath(name)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
        why = "cannot be executed" if os.path.exists(path) else "does not exist"
        raise OperatorError(f"{option} {shown(name)} {why}", "name an executable file", Exit.HANDLER)
    found = shutil.which(os.fsdecode(name))
    if found is None:
        hint = "install rsync, or use --mode=copy" if name == b"rsync" else "install it, or give its full path"
        raise OperatorError(f"{option} {shown(name)} is not in PATH", hint, Exit.HANDLER)
    return os.fsencode(found)


def _hook(made: Plan, name: bytes | None, option: str) -> Hook | None:
    """Return the hook that an option names. Raises OperatorError."""
    if name is None:
        return None
    return Hook(_program(name, f"--{option}"), option, made.settings.label, made.root, made.log)


def _lookup(made: Plan) -> Callable[[bytes], bytes | None]:
    """Return what `%name%` stands for in handler arguments, as far as it does not depend on a run."""

    def value(name: bytes) -> bytes | None:
        if name == b"watch-dir":
            return made.root.rstrip(b"/")
        if name == b"destination-dir":
            return made.destination.text.rstrip(b"/") if made.destination is not None else b""
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


def _recursive_arguments(made: Plan) -> Sequence[bytes]:
    """Return the arguments of runs that take a whole directory."""
    own = made.settings.recursive_arguments
    if own is not None:
        return own
    return (
        made.arguments if made.settings.arguments is not None else _RECURSIVE_ARGUMENTS.get(made.mode, made.arguments)
    )


def _names_lists(made: Plan) -> bool:
    """Tell whether the handler is to be given the list files of clsync 0.4."""
    lists = {command.INCLUDE_FILE, command.EXCLUDE_FILE, command.OBJECTS}
    return made.settings.compat or any(lists & set(macros(argument)) for argument in made.arguments)


def make_listener(settings: Settings) -> Listener | None:
    """Return the control socket, not open yet; None where none is wanted. Raises OperatorError."""
    if settings.socket is None:
        return None
    return Listener(settings.socket, settings.socket_mod, settings.socket_own)


# -- handlers --------------------------------------------------------------------------------------------------


def make_handler(made: Plan) -> Handler:
    """Make the handler of a plan. Raises OperatorError."""
    if made.mode == "copy":
        return _copy_handler(made)
    if made.mode in MODULE_MODES:
        return _plugin_handler(made)
    return _rsync_handler(made) if _is_exact(made) else _command_handler(made)


def _is_exact(made: Plan) -> bool:
    """Tell whether clsync itself knows how to make the destination equal."""
    return made.mode == "copy" or (made.mode == "rsyncdirect" and not _names_lists(made))


def _copy_handler(made: Plan) -> CopyHandler:
    s = made.settings
    assert made.local is not None
    return CopyHandler(
        made.local,
        capabilities=_capabilities(made, made.local),
        rules=made.rules if made.rules else None,
        full_initial=s.full_initialsync > 0,
        one_file_system=_one_file_system(s),
        acls=s.acls > 0,
        xattrs=s.xattrs > 0,
        compares=bool(s.modification_signature),
        timeout=s.timeout_sync,
        destination_check=_destination_check(made.local),
        show_progress=made.log.terminal and s.verbose >= 3,
        log=made.log.info,
    )


def _one_file_system(settings: Settings) -> int:
    return 2 if settings.exclude_mount_points else int(settings.one_file_system > 0)


def _capabilities(made: Plan, local: bytes) -> Capabilities:
    """Try what a local destination can hold, and say once what it cannot. Raises OperatorError."""
    try:
        found = probe_destination(local)
    except OSError as error:
        what = f"destination {shown(local)} cannot be written: {error.strerror}"
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise OperatorError(what, "see its rights and mount options", Exit.DESTINATION) from None
        # What is to be deleted there may make room.
        made.log.warning(f"{what}; free some space there")
        return Capabilities()
    lacks = [what for what in found.lacks() if what not in ("extended attributes", "ACLs")]
    lacks += ["extended attributes"] if made.settings.xattrs and not found.xattrs else []
    lacks += ["ACLs"] if made.settings.acls and not found.acls else []
    if found.time_grain_ns > 1:
        lacks.append(f"times finer than {found.time_grain_ns / 1e9:g} s")
    if lacks:
        made.log.warning(f"the destination cannot hold {', '.join(lacks)}: left out, and not compared")
    return found


def _lacking(found: Capabilities) -> tuple[bytes, ...]:
    """Return the rsync options that leave out what a destination cannot hold."""
    options = (
        (found.owner, (b"--no-owner",)),  # of groups rsync itself sets those that the user may give
        (found.modes, (b"--no-perms",)),
        (found.symlinks, (b"--no-links",)),
        (found.hard_links, (b"--no-hard-links",)),
        (found.devices, (b"--no-devices",)),
        (found.specials, (b"--no-specials",)),
        (found.symlink_times, (b"--omit-link-times",)),
    )
    return tuple(option for can, those in options if not can for option in those)


def _rsync_handler(made: Plan) -> RsyncHandler:
    s = made.settings
    arguments = _own_arguments(made)
    if s.arguments is not None:
        made.destination = _target_in(arguments, made)
        made.local = None
        if made.destination.text and not made.destination.remote:
            there = os.path.join(made.root, made.destination.text)  # rsync runs in the watched directory
            made.local = _local_destination(there, made, "the destination in the arguments,")
            arguments = [made.local + b"/" if a == made.destination.text else a for a in arguments]
            made.destination = Target(made.local)
    target = made.destination or Target(b"")
    check = _destination_check(made.local)
    probed = made.local is not None and os.path.basename(made.program) == b"rsync"
    found = _capabilities(made, made.local) if probed and made.local is not None else Capabilities()
    recipe = Recipe(
        acls=s.acls > 0 and found.acls,
        xattrs=s.xattrs > 0 and found.xattrs,
        one_file_system=_one_file_system(s),
        lacking=_lacking(found),
        compares=bool(s.modification_signature),
        # Where times are coarse, rsync's own comparison of whole seconds is all that can be had.
        modify_window=-1 if found.time_grain_ns <= 100 else found.time_grain_ns // 10**9,
    )
    return RsyncHandler(
        arguments,
        target=target,
        recipe=recipe,
        program=made.program,
        rules=made.rules if made.rules else None,
        full_initial=s.full_initialsync > 0,
        timeout=s.timeout_sync,
        codes_done=s.ignore_exitcode,
        destination_check=check,
        show_progress=made.log.terminal and os.path.basename(made.program) == b"rsync" and s.verbose >= 3,
        log=made.log.info,
    )


def _own_arguments(made: Plan) -> list[bytes]:
    """Expand the arguments; the watched directory becomes `./`: the handler runs there, and no rename can mislead it."""
    lookup = _lookup(made)
    expanded = [a if a == ARGUMENTS_MACRO else expand(a, lookup) for a in made.arguments]
    return [b"./" if _is_root(a, made.root) else a for a in expanded]


def _is_root(argument: bytes, root: bytes) -> bool:
    # With a list rsync takes both spellings for the same; without one, as in the initial sync, it does not.
    return argument.startswith(b"/") and os.path.realpath(argument) == root


_SEPARATE = frozenset(
    b"--rsh --rsync-path --filter --exclude --include --exclude-from --include-from --timeout --contimeout"
    b" --port --password-file --log-file --log-file-format --out-format --bwlimit --temp-dir --partial-dir --backup-dir"
    b" --suffix --compare-dest --copy-dest --link-dest --chmod --chown --usermap --groupmap --address --sockopts"
    b" --max-size --min-size --max-delete --max-alloc --block-size --compress-level --skip-compress --iconv --info"
    b" --debug --stop-after --stop-at --remote-option --checksum-choice --cc --compress-choice --zc --zl --checksum-seed"
    b" --modify-window --protocol --copy-as --outbuf --stderr --files-from --early-input --log-format --config --dparam"
    b" --only-write-batch --read-batch --write-batch --time-limit".split()
)
"""Options of rsync(1) whose value may be the next word."""
_SEPARATE_LETTERS = b"eTBfM@"
"""The same of short ones; they end a bundle."""


def _takes_next(word: bytes) -> bool:
    """Tell whether the word after an option of rsync is its value."""
    if word.startswith(b"--") or not word.startswith(b"-") or len(word) < 2:
        return word in _SEPARATE
    return word[-1:] in _SEPARATE_LETTERS and not any(letter in _SEPARATE_LETTERS for letter in word[1:-1])


def _target_in(arguments: list[bytes], made: Plan) -> Target:
    """Return the destination that the arguments name: the last operand. Raises OperatorError."""
    before = [b"", *arguments]
    operands = [a for a, b in zip(arguments, before, strict=False) if not a.startswith(b"-") and not _takes_next(b)]
    operands = [a for a in operands if a != ARGUMENTS_MACRO]
    if len(operands) > 1:
        return Target(operands[-1])
    if os.path.basename(made.program) == b"rsync":
        raise OperatorError(
            "the arguments name no destination", "end them with: %RSYNC-ARGS% %watch-dir%/ %destination-dir%/"
        )
    return Target(b"")


def _destination_check(local: bytes | None) -> Callable[[], str | None]:
    if local is None:
        return lambda: None
    directory = Directory(local)

    def check() -> str | None:
        trouble = directory.trouble()
        return (
            f"destination {shown(local)}: {trouble}; mount it, or restart clsync if this is meant"
            if trouble
            else None
        )

    return check


def _plugin_handler(made: Plan) -> PluginHandler:
    s = made.settings
    lookup = _lookup(made)
    style = PluginStyle(
        python=made.mode == "python",
        lists=made.mode == "rsyncso",
        recursive=s.have_recursive_sync > 0,
        prefer_include=s.rsync_prefer_include > 0,
        include_limit=s.rsync_inclimit,
        lists_dir=_lists_dir(made),
        keep_lists=s.dont_unlink_lists > 0,
    )
    target = made.destination.text if made.destination is not None else None
    told = (
        PythonValues(s.label, target)
        if style.python
        else values_of(
            s,
            mode=made.mode,
            module=made.program,
            root=made.root,
            destination=target,
            remote=made.destination is not None and made.destination.remote,
            arguments=[[expand(a, lookup) for a in given or ()] for given in (s.arguments, s.recursive_arguments)],
        )
    )
    return PluginHandler(
        made.program,
        style=style,
        root=made.root,
        told=told,
        log=made.log,
        rules=made.rules if made.rules else None,
        full_initial=s.full_initialsync > 0,
        timeout=s.timeout_sync,
        codes_done=s.ignore_exitcode,
        one_file_system=s.one_file_system > 0 or s.exclude_mount_points > 0,
        quiet=s.background > 0,
    )


def _command_handler(made: Plan) -> CommandHandler:
    s = made.settings
    style = CommandStyle(
        one_per_run=made.mode == "simple",
        root_name=b"." if made.mode == "direct" else b"",
        rsync_lists=made.mode in ("rsyncdirect", "rsyncshell"),
        plain_lists=s.synclist_simplify > 0,
        vanished_is_done=made.mode == "rsyncdirect",
        recursive=s.have_recursive_sync > 0,
        prefer_include=s.rsync_prefer_include > 0,
        include_limit=s.rsync_inclimit,
        lists_dir=_lists_dir(made),
        keep_lists=s.dont_unlink_lists > 0,
    )
    return CommandHandler(
        made.program,
        made.arguments,
        recursive_arguments=_recursive_arguments(made),
        style=style,
        root=made.root,
        lookup=_lookup(made),
        label=s.label,
        rules=made.rules if made.rules else None,
        full_initial=s.full_initialsync > 0,
        timeout=s.timeout_sync,
        codes_done=s.ignore_exitcode,
        one_file_system=s.one_file_system > 0 or s.exclude_mount_points > 0,
    )


def _lists_dir(made: Plan) -> bytes | None:
    """Return the directory for list files, made if it is missing. Raises OperatorError."""
    if made.settings.lists_dir is None:
        return None
    path, root = os.path.abspath(made.settings.lists_dir), made.root
    real = os.path.realpath(path)
    inside = real == root or is_below(real, root if root != b"/" else b"")
    if inside and not _left_out(made, real):
        raise OperatorError(
            f"--lists-dir {shown(path)} lies inside the watched directory: each list would be a change",
            "name a directory outside of it, or reject it by a rule (-d)",
            Exit.FILES,
        )
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        found = os.stat(path)
    except OSError as error:
        raise OperatorError(f"--lists-dir {shown(path)}: {error.strerror}", "name a directory", Exit.FILES) from None
    if found.st_mode & 0o077:
        raise OperatorError(
            f"--lists-dir {shown(path)} can be read by others", f"close it: chmod 700 {shown(path)}", Exit.FILES
        )
    return path


# -- the mirror ------------------------------------------------------------------------------------------------


def make_mirror(
    made: Plan, handler: Handler, parts: Parts, set_status: Callable[[str], None], ready: Callable[[], None]
) -> Mirror:
    """Put the stages together. Raises OperatorError."""
    s, log = made.settings, made.log

    def open_monitor(rules: Rules) -> TreeMonitor:
        return TreeMonitor(
            made.root,
            kind=s.monitor,
            rules=rules,
            follow_mounts=not (s.one_file_system or s.exclude_mount_points),
            poll_interval=s.poll_interval,
            log=log.warning,
        )

    return Mirror(
        root=Directory(made.root),
        open_monitor=open_monitor,
        handler=handler,
        parts=parts,
        log=log,
        set_status=set_status,
        one_file_system=_one_file_system(s),
        started_ns=made.started_ns,
        ready=ready,
    )


def make_parts(made: Plan) -> Parts:
    """Make what can be exchanged while the mirror runs. Raises OperatorError."""
    s = made.settings
    return Parts(
        make_handler=lambda: make_handler(made),
        same_handler=_handler_key(made),
        rules=made.rules,
        read_rules=lambda: read_rules(s),
        collect=max(s.delay_collect, 0.0),
        gap=s.delay_sync,
        course=_course(s),
        big=0 if s.cancel_syscalls else s.threshold_bigfile,
        big_delay=max(s.delay_collect_bigfile, 0.0),
        signatures=Signatures(s.modification_signature) if s.modification_signature else None,
        pre_exit=_hook(made, s.pre_exit_hook, "pre-exit-hook"),
        at_exit=_hook(made, s.exit_hook, "exit-hook"),
        standby=os.path.abspath(s.standby_file) if s.standby_file is not None else None,
        # Two runs of our own at one path would delete each other's temporary files, and be repeated for that.
        overlap="safe" if s.threading == "full" and _is_exact(made) else s.threading,
    )


def _course(s: Settings) -> Course:
    return Course(
        skip_initial=s.skip_initialsync > 0,
        only_initial=s.only_initialsync > 0,
        exit_on_no_events=s.exit_on_no_events > 0,
        max_iterations=s.max_iterations,
        retries=s.retries if "retries" in s.given or s.compat else None,
        ignore_failures=s.ignore_failures > 0,
        sync_on_quit=s.sync_on_quit > 0,
    )


def _handler_key(made: Plan) -> object:
    """Return what is equal for plans whose handlers do the same."""
    s = made.settings
    shaping = (
        s.acls, s.xattrs, s.full_initialsync, s.timeout_sync, s.ignore_exitcode, s.lists_dir, s.dont_unlink_lists,
        s.rsync_inclimit, s.rsync_prefer_include, s.synclist_simplify, s.have_recursive_sync, s.compat, s.label,
        bool(s.modification_signature), s.recursive_arguments,
    )  # fmt: skip
    return made.mode, made.program, tuple(made.arguments), made.destination, shaping
