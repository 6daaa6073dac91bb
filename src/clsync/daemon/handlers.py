"""From a plan to its sync handler."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence

from clsync.core.paths import is_below, shown
from clsync.daemon.plan import Plan, left_out, local_destination, lookup_of, one_file_system_level
from clsync.daemon.root import Directory
from clsync.daemon.sandboxes import sandbox_of
from clsync.errors import Exit, OperatorError
from clsync.handler import command
from clsync.handler.base import Handler
from clsync.handler.command import CommandHandler, CommandStyle
from clsync.handler.compare.base import Comparison
from clsync.handler.compare.local import LocalComparison
from clsync.handler.copy.handler import CopyHandler
from clsync.handler.copy.settings import Settings as CopySettings
from clsync.handler.plugin.handler import PluginHandler, PluginStyle, PythonValues
from clsync.handler.plugin.values import values_of
from clsync.handler.rsync import RsyncHandler, Target
from clsync.handler.rsync.dryrun import DryRuns
from clsync.handler.rsync.program import Program
from clsync.handler.rsync.recipe import ARGUMENTS_MACRO, Recipe
from clsync.kernel import places, roles
from clsync.kernel.capabilities import Capabilities, probe_for_programs
from clsync.kernel.files import volume_of
from clsync.kernel.priority import Priority, trouble_with
from clsync.kernel.process import HERE
from clsync.options import MODULE_MODES
from clsync.options.expansion import expand, macros
from clsync.privilege.profiles import compare_sandbox, copy_sandbox, scan_sandbox

_RECURSIVE_ARGUMENTS: dict[str, tuple[bytes, ...]] = {"shell": (b"initialsync", b"%label%", b"%INCLUDE-LIST%")}
"""Of runs that take a whole directory, where these are not those of the others."""


def make_handler(made: Plan) -> Handler:
    """Make the handler of a plan. Raises OperatorError."""
    if made.mode == "copy":
        return _copy_handler(made)
    if made.settings.sandbox_demanded and not is_exact(made):
        raise OperatorError(
            f"--sandbox has no meaning in mode {made.mode} with list files",
            "leave the list files out of the handler's arguments, or --sandbox",
        )
    if made.mode in MODULE_MODES:
        return _plugin_handler(made)
    return _rsync_handler(made) if is_exact(made) else _command_handler(made)


def is_exact(made: Plan) -> bool:
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
        one_file_system=one_file_system_level(s),
        acls=s.acls > 0,
        xattrs=s.xattrs > 0,
        compares=True,
        timeout=s.timeout_sync,
        destination_check=_destination_check(made),
        show_progress=made.log.terminal and s.verbose >= 3,
        priority=priority_of(made),
        rate=_rate(made),
        sandbox=copy_sandbox(),
        log=made.log.info,
    )


def _rate(made: Plan) -> int:
    """Return the bytes a second that may go to a target; 0: any number."""
    return made.settings.bwlimit.of(made.settings.destination_dir) or 0


_NEEDED_FOR = {
    "nice": "a value below that of clsync itself needs CAP_SYS_NICE: start it as root, or name a higher one",
    "io-class": "realtime needs CAP_SYS_ADMIN or CAP_SYS_NICE: start clsync as root, or use best-effort or idle",
}


def priority_of(made: Plan) -> Priority:
    """Return the priority of what works for a target. Raises OperatorError where it cannot be given."""
    s = made.settings
    wanted = Priority(s.nice.of(s.destination_dir), s.io_class.of(s.destination_dir))
    for option, part in (("nice", Priority(wanted.nice)), ("io-class", Priority(None, wanted.io_class))):
        trouble = trouble_with(part) if part else ""
        if trouble:
            value = part.nice if part.nice is not None else part.io_class
            raise OperatorError(f"--{option}={value}: {trouble}", _NEEDED_FOR[option])
    return wanted


def _capabilities(made: Plan, local: bytes) -> Capabilities:
    """Try what a local destination can hold, and say once what it cannot. Raises OperatorError."""
    if local in made.held:
        return made.held[local]
    try:
        found = probe_for_programs(local)
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
    made.held[local] = found
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
    arguments, target, recipe = _rsync_parts(made)
    return RsyncHandler(
        arguments,
        target=target,
        recipe=recipe,
        program=made.program,
        rules=made.rules if made.rules else None,
        full_initial=s.full_initialsync > 0,
        timeout=s.timeout_sync,
        codes_done=s.ignore_exitcode,
        destination_check=_destination_check(made),
        show_progress=made.log.terminal and os.path.basename(made.program) == b"rsync" and s.verbose >= 3,
        priority=priority_of(made),
        sandbox=sandbox_of(made, target),
        walks=scan_sandbox(),
        log=made.log.info,
    )


def _rsync_parts(made: Plan) -> tuple[list[bytes], Target, Recipe]:
    """Return arguments, target and recipe; note what the arguments say of the target. Raises OperatorError."""
    s = made.settings
    arguments = _own_arguments(made)
    if s.arguments is not None:
        made.destination = _target_in([b"./" if a == HERE else a for a in arguments], made)
        made.local = None
        if made.destination.text and not made.destination.remote:
            there = os.path.join(made.root, made.destination.text)  # rsync runs in the watched directory
            made.local = local_destination(there, made, "the destination in the arguments,")
            arguments = [made.local + b"/" if a == made.destination.text else a for a in arguments]
            made.destination = Target(made.local)
    probed = made.local is not None and os.path.basename(made.program) == b"rsync"
    found = _capabilities(made, made.local) if probed and made.local is not None else Capabilities()
    recipe = Recipe(
        acls=s.acls > 0 and found.acls,
        xattrs=s.xattrs > 0 and found.xattrs,
        one_file_system=one_file_system_level(s),
        lacking=_lacking(found),
        compares=True,
        rate=-(-_rate(made) // 1024),
        # Where times are coarse, rsync's own comparison of whole seconds is all that can be had.
        modify_window=-1 if found.time_grain_ns <= 100 else found.time_grain_ns // 10**9,
    )
    return arguments, made.destination or Target(b""), recipe


def can_compare(made: Plan) -> bool:
    """Tell whether it can be told what differs at the destination; otherwise the handler alone knows."""
    return made.mode == "copy" or (is_exact(made) and os.path.basename(made.program) == b"rsync")


def make_comparison(made: Plan) -> Comparison:
    """Make what compares the destination of a plan. Raises OperatorError."""
    s = made.settings
    if made.local is not None and s.arguments is None:
        return LocalComparison(made.local, _comparison_settings(made, made.local), _destination_check(made))
    # Arguments of the operator's own may leave something out: rsync alone knows.
    arguments, target, recipe = _rsync_parts(made)
    program = Program(
        arguments,
        target=target,
        recipe=recipe,
        name=made.program,
        timeout=s.timeout_sync,
        codes_done=s.ignore_exitcode,
        environment=os.environb,
        show_progress=False,
        priority=priority_of(made),
        sandbox=sandbox_of(made, target),
    )
    return DryRuns(program, one_file_system_level(s))


def _comparison_settings(made: Plan, local: bytes) -> CopySettings:
    s = made.settings
    return CopySettings(
        capabilities=_capabilities(made, local),
        rules=None,
        one_file_system=one_file_system_level(s),
        acls=s.acls > 0,
        xattrs=s.xattrs > 0,
        compares=False,
        groups=frozenset(),
        sandbox=compare_sandbox(xattrs=s.xattrs > 0),
    )


def _own_arguments(made: Plan) -> list[bytes]:
    """Expand the arguments; the watched directory becomes `HERE`: no rename and no unmount can mislead rsync."""
    lookup = lookup_of(made)
    expanded = [a if a == ARGUMENTS_MACRO else expand(a, lookup) for a in made.arguments]
    return [HERE if _is_root(a, made.root) else a for a in expanded]


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


def _destination_check(made: Plan) -> Callable[[], str | None]:
    local = made.local
    if local is None:
        return lambda: None
    if local not in made.directories:
        made.directories[local] = there = Directory(local)
        with there.opened() as root:
            made.volumes[local] = volume_of(root)
    directory = made.directories[local]

    def check() -> str | None:
        with roles.as_programs():
            trouble = directory.trouble()
        return (
            f"destination {shown(local)}: {trouble}; mount it, or restart clsync if this is meant"
            if trouble
            else None
        )

    return check


def _plugin_handler(made: Plan) -> PluginHandler:
    s = made.settings
    lookup = lookup_of(made)
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
        priority=priority_of(made),
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
        lookup=lookup_of(made),
        label=s.label,
        target=made.destination.text if made.destination is not None else b"",
        rules=made.rules if made.rules else None,
        full_initial=s.full_initialsync > 0,
        timeout=s.timeout_sync,
        codes_done=s.ignore_exitcode,
        one_file_system=s.one_file_system > 0 or s.exclude_mount_points > 0,
        priority=priority_of(made),
    )


def _lists_dir(made: Plan) -> bytes | None:
    """Return the directory for list files, made if it is missing. Raises OperatorError."""
    if made.settings.lists_dir is None:
        return None
    path, root = os.path.abspath(made.settings.lists_dir), made.root
    real = os.path.realpath(path)
    inside = real == root or is_below(real, root if root != b"/" else b"")
    if inside and not left_out(made, real):
        raise OperatorError(
            f"--lists-dir {shown(path)} lies inside the watched directory: each list would be a change",
            "name a directory outside of it, or reject it by a rule (-d)",
            Exit.FILES,
        )
    try:
        made.made_directories += roles.by_somebody(lambda: _made_with_parents(path))
        mode = roles.by_somebody(lambda: _mode_of(path))
    except places.Unsafe as error:
        hint = f"give it to who runs the handler, and close it: chmod 700 {shown(path)}"
        raise OperatorError(f"--lists-dir {shown(path)}: {error.strerror}", hint, Exit.FILES) from None
    except OSError as error:
        raise OperatorError(f"--lists-dir {shown(path)}: {error.strerror}", "name a directory", Exit.FILES) from None
    if mode & 0o077:
        raise OperatorError(
            f"--lists-dir {shown(path)} can be read by others", f"close it: chmod 700 {shown(path)}", Exit.FILES
        )
    return path


def _made_with_parents(path: bytes) -> list[bytes]:
    """Make a directory if it is missing, for who runs the handler; return what was made. Raises OSError."""
    who = roles.programs_ids()

    def give(directory: int) -> None:
        if os.geteuid() != who.uid:
            os.fchown(directory, who.uid, who.gid)

    return places.make_directories(path, 0o700, give)


def _mode_of(path: bytes) -> int:
    """Return the permission bits of a directory that is nobody else's. Raises OSError."""
    descriptor = places.own_directory(path)
    try:
        return os.fstat(descriptor).st_mode
    finally:
        os.close(descriptor)


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
