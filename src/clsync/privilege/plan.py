"""From settings, and what this process is, to a list of steps. Nothing happens here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from clsync.errors import Exit, OperatorError
from clsync.kernel import namespaces
from clsync.kernel.credentials import Ids, mask, names_in
from clsync.options import Settings
from clsync.options.values import shown
from clsync.privilege.accounts import Accounts, User

_NOBODY: Final = 65534
"""The user and the group that own nothing, where there are no entries for them."""
_BECOMING: Final = mask(("CAP_SETUID", "CAP_SETGID"))
_READING: Final = mask(("CAP_DAC_READ_SEARCH",))
_BROKER: Final = mask(
    (
        *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_SETFCAP", "CAP_MKNOD"),  # mode copy
        "CAP_DAC_READ_SEARCH",
        "CAP_KILL",  # handlers that have become somebody else, and the worker
        *("CAP_SETUID", "CAP_SETGID"),
        "CAP_SYS_PTRACE",  # to see whether a handler does anything at all
        "CAP_SYS_ADMIN",  # fanotify marks, private views of mounts, trusted extended attributes
    )
)
"""What the part with rights keeps of a daemon that is split."""
_MARKING: Final = mask(("CAP_SYS_ADMIN",))
"""What marks of whole file systems need (fanotify_mark(2))."""


@dataclass(frozen=True)
class Machine:
    """Who this process is and what it may do now. Capabilities are bits."""

    ids: Ids
    permitted: int
    inheritable: int = 0
    ambient: int = 0


@dataclass(frozen=True)
class Step(ABC):
    """Something that is done once, at the start. `option` asks for it, `text` says what it is."""

    option: str

    @property
    @abstractmethod
    def text(self) -> str:
        """Say for a person what is done."""


@dataclass(frozen=True)
class LimitDevices(Step):
    """Enter a group of processes with few devices."""

    group: bytes

    @property
    def text(self) -> str:
        """Say what is done."""
        return f"enter the process group {shown(self.group)}, in which only harmless devices can be opened"


@dataclass(frozen=True)
class Detach(Step):
    """Leave namespaces."""

    flags: int
    what: str

    @property
    def text(self) -> str:
        """Say what is done."""
        return f"have one's own {self.what}"


@dataclass(frozen=True)
class MakePrivate(Step):
    """Hide changes of mounts from the rest of the system."""

    @property
    def text(self) -> str:
        """Say what is done."""
        return "hide what is mounted and unmounted from now on from everybody else"


@dataclass(frozen=True)
class KeepMounts(Step):
    """Unmount all but some."""

    points: tuple[bytes, ...]

    @property
    def text(self) -> str:
        """Say what is done."""
        return f"unmount all but {', '.join(map(shown, self.points))}"


@dataclass(frozen=True)
class ChangeRoot(Step):
    """Change the root directory. `how`: see the option pivot-root."""

    path: bytes
    how: str

    @property
    def text(self) -> str:
        """Say what is done."""
        more = {"off": "", "auto-ro": ", let go of the old one, and make all of it read-only"}
        return f"make {shown(self.path)} the root{more.get(self.how, ', and let go of the old one')}"


@dataclass(frozen=True)
class Become(Step):
    """Change ids and capabilities for good, before there is another thread."""

    ids: Ids
    kept: int
    inheritable: int
    ambient: int
    bounding: int | None
    """What programs can get at most; None: as before."""

    @property
    def text(self) -> str:
        """Say what is done."""
        groups = ",".join(map(str, self.ids.groups)) or "none"
        kept = ", ".join(names_in(self.kept)) or "none"
        return f"be user {self.ids.uid}, group {self.ids.gid}, groups {groups}; capabilities: {kept}"


@dataclass(frozen=True)
class GiveUp(Step):
    """Be somebody without any capability, who can never get one again. Of a daemon that is split: its worker."""

    ids: Ids
    """Those it has already: it may not change them."""
    network: bool
    """Keep the network."""
    any_call: bool
    """Keep all system calls."""

    @property
    def text(self) -> str:
        """Say what is done."""
        more = "" if self.network else ", no network"
        return f"be user {self.ids.uid}, group {self.ids.gid}, without capabilities{more}, in the part that has no rights"


@dataclass(frozen=True)
class Roles:
    """Who does what from then on."""

    own: Ids
    programs: Ids
    """Who runs handlers and hooks."""
    starter: Ids
    scanning: int
    """Capabilities of our own processes that look at the tree."""
    others: bool
    """Handlers have rights that clsync itself gives up."""


@dataclass(frozen=True)
class Plan:
    """What is done at the start."""

    confinement: tuple[Step, ...]
    """In this order, before any path is looked at."""
    identity: Become | None
    """Last, before anything is watched."""
    roles: Roles
    worker: GiveUp | None = None
    """Of a daemon that is split: `identity` is that of the other part, then."""

    @property
    def steps(self) -> tuple[Step, ...]:
        """All steps in their order."""
        return (*self.confinement, *((self.identity,) if self.identity is not None else ()))


def make_plan(s: Settings, machine: Machine, accounts: Accounts) -> Plan:
    """Plan what the settings ask for. Raises OperatorError for what cannot be had."""
    worker = _worker(s, machine, accounts) if s.splitting != "off" else None
    own = _own(s, machine, accounts) if worker is None else machine.ids
    kept = _kept(s, machine, own)
    programs = _programs(s, machine, accounts, own, kept)
    # The part with rights has all that our own work at the destination takes, unless other ones are named.
    limited = kept != machine.permitted and (worker is None or "preserve-capabilities" in s.given)
    others = programs != own or (limited and not own.uid)
    roles = Roles(own, programs, machine.ids, kept & _READING if own.uid else 0, others)
    return Plan(tuple(_confinement(s)), _become(s, machine, own, kept, programs), roles, worker)


# -- what is out of reach --------------------------------------------------------------------------------------


def _confinement(s: Settings) -> Iterator[Step]:
    if s.forbid_devices > 0:
        # First: where groups are made may be out of sight later.
        yield LimitDevices("forbid-devices", s.cgroup_group_name)
    if s.detach_miscellanea > 0:
        flags = namespaces.IPC | namespaces.UTS | namespaces.SYSV_SEMAPHORES
        yield Detach("detach-miscellanea", flags, "means of communication and name of the host")
    elif s.detach_ipc > 0:
        yield Detach("detach-ipc", namespaces.IPC, "means of communication")
    if s.detach_network == "everywhere":
        yield Detach("detach-network", namespaces.NETWORK, "network, with nothing in it")
    if s.pivot_root != "off" or s.mountpoints:
        option = "pivot-root" if s.pivot_root != "off" else "mountpoints"
        yield Detach(option, namespaces.FILES | namespaces.FS | namespaces.MOUNTS, "view of mounts")
        yield MakePrivate(option)
    if s.mountpoints:
        yield KeepMounts("mountpoints", s.mountpoints)
    if s.chroot is not None:
        yield ChangeRoot("chroot", s.chroot, s.pivot_root)


# -- who we are --------------------------------------------------------------------------------------------------


def _worker(s: Settings, machine: Machine, accounts: Accounts) -> GiveUp:
    """Return who decides what is to be done, and has no rights: --uid, or nobody; never with supplementary groups."""
    ids = _own(s, machine, accounts, nobody=True)
    if not ids.uid:
        raise OperatorError(
            f"--uid {shown(s.uid or b'')}: the part without rights would own the files of root",
            "name another user, or do without --splitting",
            Exit.PRIVILEGE,
        )
    if ids != machine.ids:
        ids = ids._replace(groups=())
    return GiveUp("splitting", ids, s.detach_network != "non-privileged", not s.seccomp_filter)


def _own(s: Settings, machine: Machine, accounts: Accounts, nobody: bool = False) -> Ids:
    """Return who clsync itself is to be; `nobody`: by default."""
    can = not (_BECOMING | _READING) & ~machine.permitted
    old_default = not machine.ids.uid and (nobody or (s.compat and can))
    if s.uid is None and s.gid is None and not old_default:
        return machine.ids
    if s.uid is not None:
        user = accounts.user(s.uid, "uid")
    else:
        user = _named(accounts, b"nobody") if old_default else _present(machine, accounts)
    if s.gid is not None:
        gid = accounts.group(s.gid, "gid")
    elif s.uid is None or s.compat:
        gid = _named_group(accounts, b"nogroup") if old_default else machine.ids.gid
    else:
        gid = _group_of(user)
    wanted = _ids(machine, accounts, user, gid)
    if wanted != machine.ids and _BECOMING & ~machine.permitted:
        if s.uid is None and s.gid is None:
            asking, hint = f"--splitting={s.splitting}", "let it have CAP_SETUID and CAP_SETGID"
        else:
            asking = f"--uid {shown(s.uid)}" if s.uid is not None else f"--gid {shown(s.gid or b'')}"
            hint = "start clsync as root"
        raise OperatorError(f"{asking}: this user may not become another one", hint, Exit.PRIVILEGE)
    return wanted


def _kept(s: Settings, machine: Machine, own: Ids) -> int:
    """Return the capabilities that clsync itself keeps."""
    given = "preserve-capabilities" in s.given
    if not given and s.splitting != "off" and not own.uid:
        return _BROKER & machine.permitted
    if not given and own.uid == machine.ids.uid:
        return machine.permitted
    wanted = mask(s.preserve_capabilities)
    if given:
        if lacking := names_in(wanted & ~machine.permitted):
            raise OperatorError(
                f"--preserve-capabilities: clsync is started without {', '.join(lacking)}",
                "start it as root, or leave these out",
                Exit.PRIVILEGE,
            )
        return wanted
    if s.monitor in ("auto", "fanotify"):
        wanted |= _MARKING
    return wanted & machine.permitted


def _become(s: Settings, machine: Machine, own: Ids, kept: int, programs: Ids) -> Become | None:
    limited = kept != machine.permitted
    if own == machine.ids and not limited and "inherit-capabilities" not in s.given:
        return None
    inheritable, ambient = {
        "empty": (0, 0),
        "clsync": (kept, kept),
        "permitted": (machine.permitted, kept),
        "dont-touch": (machine.inheritable, machine.ambient & kept),
    }[s.inherit_capabilities]
    # Programs that run as root have the bounding set; those of others get out of it what their files give them.
    bounding = kept | inheritable if limited and programs.uid and own.uid and not s.compat else None
    return Become(_asking(s), own, kept, inheritable, ambient, bounding)


def _asking(s: Settings) -> str:
    """Return the option that asks for another identity."""
    split = s.splitting != "off"
    order = (*(() if split else ("uid", "gid")), "preserve-capabilities", "inherit-capabilities")
    return next((name for name in order if name in s.given), "splitting" if split else "compat")


# -- who our programs are ----------------------------------------------------------------------------------------


def _programs(s: Settings, machine: Machine, accounts: Accounts, own: Ids, kept: int) -> Ids:
    """Return who runs handlers and hooks."""
    uid, uid_option = _first((s.sync_handler_uid, "sync-handler-uid"), (s.privileged_uid, "privileged-uid"))
    gid, gid_option = _first((s.sync_handler_gid, "sync-handler-gid"), (s.privileged_gid, "privileged-gid"))
    can = not _BECOMING & ~kept
    if uid is None and gid is None:
        return machine.ids if can else own
    user = accounts.user(uid, uid_option) if uid is not None else _present(machine, accounts)
    default = machine.ids.gid if s.compat else _group_of(user)
    group = accounts.group(gid, gid_option) if gid is not None else default
    wanted = _ids(machine, accounts, user, group)
    if wanted != own and not can:
        option, text = (uid_option, uid) if uid is not None else (gid_option, gid)
        raise OperatorError(
            f"--{option} {shown(text or b'')}: clsync itself may not become another user then",
            "start it as root, and let it keep CAP_SETUID and CAP_SETGID (--preserve-capabilities)",
            Exit.PRIVILEGE,
        )
    return wanted


def _first(*options: tuple[bytes | None, str]) -> tuple[bytes | None, str]:
    return next((pair for pair in options if pair[0] is not None), options[0])


def _ids(machine: Machine, accounts: Accounts, user: User, gid: int) -> Ids:
    if (user.uid, gid) == machine.ids[:2]:
        return machine.ids
    return Ids(user.uid, gid, accounts.groups_of(user, gid))


def _present(machine: Machine, accounts: Accounts) -> User:
    return accounts.user(b"%d" % machine.ids.uid, "uid")


def _group_of(user: User) -> int:
    return user.gid if user.gid is not None else _NOBODY


def _named(accounts: Accounts, name: bytes) -> User:
    try:
        return accounts.user(name, "uid")
    except OperatorError:
        return User(_NOBODY)


def _named_group(accounts: Accounts, name: bytes) -> int:
    try:
        return accounts.group(name, "gid")
    except OperatorError:
        return _NOBODY
