"""From a plan to a mirror: puts the stages together."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from clsync.control.listener import Listener
from clsync.core.paths import shown
from clsync.core.signature import Signatures
from clsync.daemon.access import Access
from clsync.daemon.course import Course
from clsync.daemon.handlers import can_compare, is_exact
from clsync.daemon.log import Log
from clsync.daemon.mirror import Mirror
from clsync.daemon.parts import Outlet, Parts
from clsync.daemon.plan import Plan, lookup_of, one_file_system_level
from clsync.daemon.root import Directory
from clsync.errors import Exit, OperatorError
from clsync.handler.base import Handler
from clsync.kernel import places, roles
from clsync.kernel.durable import boot_id
from clsync.kernel.mounts import has_our_clock
from clsync.options import Settings
from clsync.options.brake import Brake
from clsync.options.expansion import expand
from clsync.state import room
from clsync.state.mark import Held, distrust
from clsync.state.place import default_directory, directory_of
from clsync.state.room import Place

if TYPE_CHECKING:
    from clsync.daemon.memory import Memory

_MOST_DELAYS = 12
"""Times the delay of big files that one which is still being written waits."""


def make_mirror(
    plans: Sequence[Plan],
    handlers: Sequence[Handler],
    parts: Parts,
    access: Access,
    set_status: Callable[[str], None],
    ready: Callable[[], None],
    memory: Memory | None = None,
) -> Mirror:
    """Put the stages together. Raises OperatorError."""
    made = plans[0]  # what concerns the source is the same in all
    return Mirror(
        root=memory.root if memory is not None else Directory(made.root, access.ops),
        open_monitor=lambda rules: access.open_monitor(made, rules),
        handlers=handlers,
        parts=parts,
        log=made.log,
        set_status=set_status,
        stands=access.stands,
        one_file_system=one_file_system_level(made.settings),
        max_parallel=made.settings.max_parallel,
        started_ns=made.started_ns,
        ready=ready,
        memory=memory,
    )


def make_parts(plans: Sequence[Plan], access: Access) -> Parts:
    """Make what can be exchanged while the mirror runs. Raises OperatorError."""
    made = plans[0]
    s = made.settings
    return Parts(
        outlets=tuple(_outlet(one, access) for one in plans),
        rules=made.rules,
        rules_read=made.rules_read,
        read_rules=lambda: access.read_rules(made),
        collect=max(s.delay_collect, 0.0),
        gap=s.delay_sync,
        course=_course(s),
        big=0 if s.cancel_syscalls else s.threshold_bigfile,
        big_delay=max(s.delay_collect_bigfile, 0.0),
        big_longest=0.0 if s.compat else _MOST_DELAYS * s.delay_collect_bigfile,
        pre_exit=access.hook(made, "pre-exit-hook"),
        at_exit=access.hook(made, "exit-hook"),
        standby=os.path.abspath(s.standby_file) if s.standby_file is not None else None,
        hours=s.sync_hours,
    )


def _outlet(made: Plan, access: Access) -> Outlet:
    s = made.settings
    return Outlet(
        name=made.name,
        make_handler=lambda: access.new_handler(made),
        same_handler=_handler_key(made),
        signatures=_signatures(made),
        key=_target_key(made),
        local=made.local,
        brake=_brake(made),
        trusted=s.accept_target > 0,
        ask=lambda count: access.ask_to_delete(made, count),
        make_comparison=(lambda: access.new_comparison(made)) if can_compare(made) else None,
        scrub_rate=_scrub_rate(made),
        scrub_content=s.scrub_checksum > 0,
        # Two runs of our own at one path would delete each other's temporary files, and be repeated for that.
        overlap="safe" if s.threading == "full" and is_exact(made) else s.threading,
    )


def _brake(made: Plan) -> Brake | None:
    """Return how much may be deleted unseen; None: anything. Raises OperatorError where that cannot be told."""
    s = made.settings
    given = "max-delete" in s.given
    if not can_compare(made):
        if given or s.accept_target:
            option = "--max-delete" if given else "--accept-target"
            raise OperatorError(f"{option}: the handler alone knows what it deletes", "leave it out")
        return None
    return s.max_delete.of(s.destination_dir) if given or s.arguments is None else None


def _scrub_rate(made: Plan) -> int:
    """Return how many entries a second are compared in the background. Raises OperatorError where that cannot be done."""
    rate = made.settings.scrub_rate.of(made.settings.destination_dir) or 0
    if rate and not can_compare(made):
        raise OperatorError("--scrub-rate: the handler alone knows what is to be there", "leave it out")
    return rate


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


def _signatures(made: Plan) -> Signatures | None:
    """Return the memory of what was handed over, if what is unchanged is not to be handed over again."""
    fields = made.settings.modification_signature
    own = made.mode == "copy" or (is_exact(made) and os.path.basename(made.program) == b"rsync")
    return Signatures(fields, leaves_alone=own) if fields else None


def _handler_key(made: Plan) -> object:
    """Return what is equal for plans whose handlers do the same."""
    s = made.settings
    shaping = (
        s.acls, s.xattrs, s.full_initialsync, s.timeout_sync, s.ignore_exitcode, s.lists_dir, s.dont_unlink_lists,
        s.rsync_inclimit, s.rsync_prefer_include, s.synclist_simplify, s.have_recursive_sync, s.compat, s.label,
        bool(s.modification_signature), s.bwlimit.of(s.destination_dir), s.nice.of(s.destination_dir),
        s.io_class.of(s.destination_dir),
    )  # fmt: skip
    lookup = lookup_of(made)
    arguments = [
        [expand(a, lookup) for a in given or ()] for given in (made.arguments or s.arguments, s.recursive_arguments)
    ]
    return made.mode, made.program, arguments, s.destination_dir, shaping


def _target_key(made: Plan) -> bytes:
    """Return what tells a target, and how it is made equal, from others, also in the next run."""
    s = made.settings
    lookup = lookup_of(made)
    arguments = [expand(argument, lookup) for argument in made.arguments]
    directory = made.directories.get(made.local) if made.local is not None else None
    # What could not be held there was left out: who has other rights, or mounts it in another way, has all of it compared.
    held = made.held.get(made.local) if made.local is not None else None
    parts = (
        made.mode, made.program, arguments, made.destination, directory and directory.identity, s.acls, s.xattrs,
        s.modification_signature, s.one_file_system, s.exclude_mount_points, held and replace(held, reflink=False),
        made.local and made.volumes.get(made.local),
    )  # fmt: skip
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()


def make_room(plans: Sequence[Plan], log: Log) -> Place | None:
    """Return where it is to be kept what the targets hold, made for who keeps it; None: nowhere. Raises OperatorError."""
    made = plans[0]
    wanted = made.settings.state_dir
    asked = wanted if wanted not in (b"auto", b"none", None) else None
    why = next((why for one in plans if (why := _without_state(one))), "")
    if why and asked is not None:
        raise OperatorError(f"--state-dir: there can be no state {why}", "leave it out, or say --state-dir=none")
    directory = state_directory(plans)
    if not why and wanted not in (b"none", None):
        if not (shut := _made_room(directory, log)):
            return Place(directory, asked is not None, boot_id(), has_our_clock(made.root))
        if asked is not None:
            raise shut
        log.warning(f"{shut.message}: this run keeps no state")
    if why:
        log.debug(1, f"there is no state {why}")
    with suppress(OSError, Held):
        distrust(directory)  # what this run does is not written there
    return None


def _made_room(directory: bytes, log: Log) -> OperatorError | None:
    """Make the directory of a state for who keeps it; return why it cannot be there."""
    keeper = roles.keeper_ids()
    with suppress(OSError):  # it shows when the state is opened
        try:
            taken = room.make_room(directory, keeper)
        except places.Unsafe as error:
            return room.refused(directory, error)
        if taken:
            log.warning(f"the state in {shown(directory)} was kept by another user: everything is compared")
        if room.is_shut(directory, keeper):
            return OperatorError(
                f"--state-dir: user {keeper.uid}, who is to keep it, cannot get to {shown(directory)}",
                "let others pass through the directories above (chmod o+x), name another one, or none",
                Exit.FILES,
            )
    return None


def make_memory(plans: Sequence[Plan], place: Place | None, access: Access, log: Log) -> Memory | None:
    """Return what keeps on disk, at that place, what the targets hold."""
    if place is None:
        return None
    from clsync.daemon.memory import Memory  # late: it needs a database

    root = Directory(plans[0].root, access.ops)
    return Memory(root, place, access.for_state(plans[0]), one_file_system_level(plans[0].settings), log)


def state_directory(plans: Sequence[Plan]) -> bytes:
    """Return where the state of these targets is, if there is any."""
    wanted = plans[0].settings.state_dir
    named = os.path.abspath(wanted) if wanted not in (b"none", b"auto", None) else None
    states = named if named is not None else default_directory(os.geteuid() == 0, os.environb)
    instance = b"\0".join(sorted(one.destination.text for one in plans if one.destination is not None))
    return directory_of(states, plans[0].root, instance)


def _without_state(made: Plan) -> str:
    """Tell why nothing is known of what a target holds; nothing if it is."""
    s = made.settings
    if made.mode != "copy" and not (is_exact(made) and os.path.basename(made.program) == b"rsync"):
        return "where the handler alone knows what arrives"
    if s.ignore_exitcode:
        return "with --ignore-exitcode: what failed is taken for done"
    if s.skip_initialsync:
        return "with --skip-initialsync: nobody has looked at the destination"
    if s.full_initialsync and made.rules:
        return "with --full-initialsync: everything is to be handed over at each start"
    if s.chroot is not None or s.mountpoints:
        return "with --chroot or --mountpoints: it would be out of sight"
    return ""


def make_listener(settings: Settings) -> Listener | None:
    """Return the control socket, not open yet; None where none is wanted. Raises OperatorError."""
    if settings.socket is None:
        return None
    return Listener(settings.socket, settings.socket_mod, settings.socket_own)
