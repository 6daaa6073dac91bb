"""From settings, and what this process is, to a list of steps. Nothing happens here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from clsync.errors import Exit, OperatorError
from clsync.kernel import namespaces
from clsync.kernel.cgroups import NO_LIMITS, Limits
from clsync.kernel.credentials import Ids, mask, names_in
from clsync.options import Settings
from clsync.options.names import SANDBOX_LAYERS
from clsync.options.values import shown
from clsync.privilege.accounts import Accounts, User

_NOBODY: Final = 65534
"""The user and the group that own nothing, where there are no entries for them."""
_BECOMING: Final = mask(("CAP_SETUID", "CAP_SETGID"))
_READING: Final = mask(("CAP_DAC_READ_SEARCH",))
_COPYING: Final = mask(
    (
        *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_SETFCAP", "CAP_MKNOD"),
        "CAP_DAC_READ_SEARCH",
    )
)
"""What making files equal takes of root."""
_BROKER: Final = _COPYING | mask(
    (
        "CAP_KILL",  # handlers that have become somebody else, and the worker
        *("CAP_SETUID", "CAP_SETGID"),
        "CAP_SETPCAP",  # to take from rsync what it has no use for
        "CAP_SYS_NICE",  # --nice below 0
        "CAP_SYS_PTRACE",  # to see whether a handler does anything at all
        "CAP_SYS_ADMIN",  # fanotify marks, private views of mounts, trusted extended attributes
    )
)
"""What the part with rights keeps of a daemon that is split."""
_REMEDIES: Final = {
    "landlock": "use a kernel with Landlock (5.13, lsm=landlock,...), or a container that lets it through",
    "seccomp": "use a kernel with filters of system calls, on x86_64, aarch64 or riscv64",
    "mounts": "use Linux 5.12 or later, or a container in which mounts can be made",
    "processes": "use a kernel or a container that lets namespaces of processes be made",
    "capabilities": "start clsync with CAP_SETPCAP",
}
_SIGNALLING: Final = mask(("CAP_KILL",))
_MARKING: Final = mask(("CAP_SYS_ADMIN",))
"""What marks of whole file systems need (fanotify_mark(2))."""


@dataclass(frozen=True)
class Machine:
    """Who this process is and what it may do now. Capabilities are bits."""

    ids: Ids
    permitted: int
    inheritable: int = 0
    ambient: int = 0
    troubles: Mapping[str, str] = field(default_factory=dict)
    """Layers of the sandbox that cannot be had here (`SANDBOX_LAYERS`) -> why."""


@dataclass(frozen=True)
class Step(ABC):
    """Something that is done once, at the start. `text` says what it is."""

    option: str
    """What asks for it, with its value where `text` does not say that."""

    @property
    @abstractmethod
    def text(self) -> str:
        """Say for a person what is done."""


@dataclass(frozen=True)
class LimitGroup(Step):
    """Enter a group of processes that can use less."""

    group: bytes
    devices: bool
    """Only harmless ones can be opened."""
    limits: Limits = NO_LIMITS

    @property
    def text(self) -> str:
        """Say what is done."""
        memory, pids, cpu = self.limits
        what = ["only harmless devices can be opened"] * self.devices
        what += [f"no more than {memory} bytes of memory are used"] * bool(memory)
        what += [f"no more than {pids} processes and threads run"] * bool(pids)
        what += [f"no more than {cpu} % of a processor are used"] * bool(cpu)
        return f"enter the process group {shown(self.group)}, in which {', '.join(what)}"


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
    no_files: bool = False
    """Read no file, run no program, and remove nothing (Landlock)."""
    local: bool = False
    """Have no sockets but local ones, and none of the worst system calls (seccomp), also where all others are kept."""
    logs: bool = True
    """Be able to connect to the system log. It takes no other connection."""
    room: bytes | None = None
    """A directory that it keeps files of its own in, all the same."""

    @property
    def text(self) -> str:
        """Say what is done."""
        more = ", no network" if self.local or not self.network else ""
        but = f" but in {shown(self.room)}" if self.room is not None else ""
        more += f", no files to read (Landlock){but}" if self.no_files else ""
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
    keeping: int = 0
    """Capabilities of processes that look at the tree for a part without rights."""


class LeftOut(NamedTuple):
    """Why a layer is not used, and how it could be had."""

    why: str
    how: str
    told: bool = False
    """The operator has not chosen it so: it is worth a warning."""


@dataclass(frozen=True)
class SandboxLayers:
    """What is around the programs that clsync itself starts."""

    used: frozenset[str] = frozenset()
    left_out: Mapping[str, LeftOut] = field(default_factory=dict)

    @property
    def lack(self) -> str:
        """Say what the operator should know of; empty where there is nothing."""
        told = [f"{layer} ({left.why}; {left.how})" for layer, left in self.left_out.items() if left.told]
        return f"without {', '.join(told)}" if told else ""


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
    sandbox: SandboxLayers = SandboxLayers()

    @property
    def steps(self) -> tuple[Step, ...]:
        """All steps in their order."""
        return (*self.confinement, *((self.identity,) if self.identity is not None else ()))


def make_plan(s: Settings, machine: Machine, accounts: Accounts) -> Plan:
    """Plan what the settings ask for. Raises OperatorError for what cannot be had."""
    worker = _worker(s, machine, accounts) if s.is_split else None
    own = _own(s, machine, accounts) if worker is None else machine.ids
    kept = _kept(s, machine, own)
    programs = _programs(s, machine, accounts, own, kept)
    # The part with rights has all that our own work at the destination takes, unless other ones are named.
    limited = kept != machine.permitted and (worker is None or "preserve-capabilities" in s.given)
    others = programs != own or (limited and not own.uid)
    keeping = kept & _READING if worker is not None else 0
    roles = Roles(own, programs, machine.ids, kept & _READING if own.uid else 0, others, keeping)
    sandbox = _sandbox(s, machine, programs, kept)
    if worker is not None:
        wanted = s.sandbox != {"off"}
        worker = replace(
            worker,
            no_files=wanted and not machine.troubles.get("landlock"),
            local=wanted and not machine.troubles.get("seccomp"),
            logs=s.output == "syslog" or bool(s.background),  # who leaves a terminal goes on there
        )
    return Plan(tuple(_confinement(s)), _become(s, machine, own, kept, programs), roles, worker, sandbox)


# -- what is out of reach --------------------------------------------------------------------------------------


def _confinement(s: Settings) -> Iterator[Step]:
    if s.forbid_devices > 0 or any(s.group_limits):
        # First: where groups are made may be out of sight later.
        options = {"forbid-devices": s.forbid_devices > 0, **Limits(*s.group_limits).by_option()}
        option = next(name for name, value in options.items() if value)
        yield LimitGroup(option, s.cgroup_group_name, s.forbid_devices > 0, Limits(*s.group_limits))
    if s.detach_miscellanea > 0:
        flags = namespaces.IPC | namespaces.UTS | namespaces.SYSV_SEMAPHORES
        yield Detach("detach-miscellanea", flags, "means of communication and name of the host")
    elif s.detach_ipc > 0:
        yield Detach("detach-ipc", namespaces.IPC, "means of communication")
    if s.detach_network == "everywhere":
        yield Detach("detach-network=everywhere", namespaces.NETWORK, "network, with nothing in it")
    if s.pivot_root != "off" or s.mountpoints:
        option = f"pivot-root={s.pivot_root}" if s.pivot_root != "off" else "mountpoints"
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
    if s.seccomp_filter and (trouble := machine.troubles.get("seccomp")):
        raise OperatorError(
            "--seccomp-filter: no filter of system calls can be had: " + trouble,
            f"{_REMEDIES['seccomp']}; or leave the option out",
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
    if not given and s.is_split and not own.uid:
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
        if s.splitting == "process" and not own.uid and not wanted & _SIGNALLING:
            raise OperatorError(
                "--preserve-capabilities: CAP_KILL is missing, and without it the other process can be told nothing",
                "add CAP_KILL, or leave --splitting=process out",
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
    """Return the option that asks for another identity, with a value of its own."""
    split = s.is_split
    order = (*(() if split else ("uid", "gid")), "preserve-capabilities", "inherit-capabilities")
    found = next((name for name in order if name in s.given), "splitting" if split else "compat")
    return f"{found}={shown(s.text(found.encode()) or b'')}" if found in ("uid", "gid") else found


# -- what our own programs may do ----------------------------------------------------------------------------


def _sandbox(s: Settings, machine: Machine, programs: Ids, kept: int) -> SandboxLayers:
    """Return the layers that are used. Raises OperatorError where one was asked for that cannot be had."""
    left_out = {layer: found for layer in SANDBOX_LAYERS if (found := _lacking(layer, s, machine, programs, kept))}
    demanded = s.sandbox_demanded - {"on"}
    if "on" in s.sandbox:
        demanded = frozenset(SANDBOX_LAYERS if not machine.ids.uid else ("landlock", "seccomp"))
    if s.sandbox != {"auto"}:
        for layer in sorted(demanded & left_out.keys()):
            raise OperatorError(
                f"--sandbox={shown(s.text(b'sandbox') or b'')}: {layer} cannot be had: {left_out[layer].why}",
                f"{left_out[layer].how}; or leave it out: --sandbox=auto",
                Exit.PRIVILEGE,
            )
        unwanted = LeftOut("it was not asked for", "--sandbox=auto")
        left_out |= {layer: unwanted for layer in SANDBOX_LAYERS if layer not in demanded}
    return SandboxLayers(frozenset(SANDBOX_LAYERS) - left_out.keys(), left_out)


def _lacking(layer: str, s: Settings, machine: Machine, programs: Ids, kept: int) -> LeftOut | None:
    """Tell why a layer cannot be had; None where it can."""
    needed = {"mounts": "CAP_SYS_ADMIN", "processes": "CAP_SYS_ADMIN", "capabilities": "CAP_SETPCAP"}.get(layer)
    if layer == "capabilities" and programs.uid:
        return LeftOut("programs of this user have none", "nothing is to be done")
    if needed is not None and not kept & mask((needed,)):
        held = machine.permitted & mask((needed,))
        why = f"clsync does not keep {needed}" if held else f"clsync is started without {needed}"
        more = f"start it with {needed}" if not machine.ids.uid else f"start it as root, or with {needed}"
        how = f"--preserve-capabilities with {needed}" if held else more
        # Only root could have it: what others are told would be nothing to them.
        told = not machine.ids.uid and not held and "preserve-capabilities" not in s.given
        return LeftOut(why, how, told and _runs_own(s))
    if layer == "mounts" and s.chroot is not None and s.pivot_root == "off":
        return LeftOut("the new root is no mount point", "--pivot-root=auto")
    if needed is None and not programs.uid and machine.permitted & _COPYING & ~kept and not kept & _MARKING:
        # Without CAP_SYS_ADMIN it takes no_new_privs, and then root's programs have no more than we have.
        return LeftOut(
            "programs of root would stay without capabilities", "--preserve-capabilities with CAP_SYS_ADMIN"
        )
    trouble = machine.troubles.get(layer)
    return LeftOut(trouble, _REMEDIES[layer], s.is_split or _runs_own(s)) if trouble else None


def _runs_own(s: Settings) -> bool:
    """Tell whether clsync itself starts something: where only programs of the operator are run, nobody misses a layer."""
    return s.mode in (None, "rsyncdirect", "copy")


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
