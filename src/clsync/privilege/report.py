"""A plan for people: every step in its order, what each process keeps, and what is left out. Nothing happens here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from clsync.kernel.credentials import Ids, mask, names_in
from clsync.options import Settings
from clsync.options.names import CAPABILITIES
from clsync.options.values import shown
from clsync.privilege.plan import Become, Detach, GiveUp, LimitGroup, Machine, MakePrivate, Plan
from clsync.privilege.profiles import KEPT, KEPT_FOR_NAMES

_ALL: Final = mask(CAPABILITIES)
GAINS: Final = {
    (
        "CAP_SYS_ADMIN",
    ): "fanotify marks: the start takes no time, whatever the size of the tree; views of mounts of one's"
    " own, namespaces, `trusted.` attributes",
    ("CAP_DAC_READ_SEARCH",): "what belongs to others is read and synced",
    (
        "CAP_CHOWN",
        "CAP_FOWNER",
        "CAP_DAC_OVERRIDE",
        "CAP_FSETID",
    ): "owners, modes and times of all files are kept at a local destination",
    ("CAP_MKNOD",): "device files are copied",
    ("CAP_SETFCAP",): "capabilities of files are copied",
    ("CAP_SETUID", "CAP_SETGID"): "--uid, --sync-handler-uid and --splitting with a user without rights",
    ("CAP_SETPCAP",): "rights that a program has no use for are kept from it",
}
"""Capabilities, and what clsync can do with them."""


@dataclass(frozen=True)
class Own:
    """What clsync itself starts, for one destination."""

    name: str
    """`rsync`, or what copies."""
    destination: str
    sandboxed: bool
    why_not: str = ""
    network: bool = False


@dataclass(frozen=True)
class _Process:
    name: str
    rows: tuple[tuple[str, str], ...]


class Course(NamedTuple):
    """What is done beside the steps of a plan."""

    before: Sequence[str]
    """With all rights: after what is around the process, and before it becomes somebody else."""
    after: Sequence[str]
    """With those that it keeps."""


def plan_lines(plan: Plan, machine: Machine, s: Settings, own: Sequence[Own], course: Course) -> list[str]:
    """Return the plan as lines of text."""
    lines = ["Steps, in this order:"]
    steps = [f"--{step.option}: {step.text}" for step in plan.confinement]
    last = [f"--{plan.identity.option}: {plan.identity.text}"] if plan.identity is not None else []
    if plan.worker is not None:
        apart = "process" if s.splitting == "process" else "thread"
        split = f"--splitting: begin a second {apart}, the worker"
        last = [split, *last, f"--{plan.worker.option}: in the worker, {plan.worker.text}"]
    for number, text in enumerate([*steps, *course.before, *last, *course.after], 1):
        lines.append(f"  {number}. {text}")
    lines += ["", "What each process keeps:"]
    for process in _processes(plan, machine, s, own):
        lines.append(f"  {process.name}")
        lines += [f"    {name + ':':<15}{text}" for name, text in process.rows]
    if plan.sandbox.left_out and s.sandbox != {"off"}:
        lines += ["", "Layers of the sandbox that are left out:"]
        lines += [f"  {layer}: {left.why}; to have it: {left.how}" for layer, left in plan.sandbox.left_out.items()]
    return lines


def _processes(plan: Plan, machine: Machine, s: Settings, own: Sequence[Own]) -> Iterator[_Process]:
    become = plan.identity
    kept = become.kept if become is not None else machine.permitted
    ids = become.ids if become is not None else plan.roles.own
    if plan.worker is None:
        why = (("splitting", f"none: {s.unsplit}"),) if s.unsplit else ()
        yield _process("clsync", ids, kept, plan, bounding=_bounding(become), more=why)
    else:
        broker = "clsync, the broker (watches, runs handlers and hooks)"
        yield _process(broker, ids, kept, plan, bounding=_bounding(become))
        worker = plan.worker
        apart = s.splitting == "process"
        yield _process(
            f"clsync, the worker (a {s.splitting} of its own)",
            worker.ids,
            0,
            plan,
            bounding="none" if machine.permitted & mask(("CAP_SETPCAP",)) else "that of the starter",
            no_new_privs=True,
            seccomp=_calls(worker),
            landlock=f"reads no file, starts and removes nothing{_but_state(s)}" if worker.no_files else "",
            namespaces=() if worker.network else ("network",),
            more=(("processes", "it can start none (RLIMIT_NPROC)"),) if apart else (),
        )
    if any(isinstance(step, LimitGroup) for step in plan.confinement):
        yield _caretaker(plan, machine)
    for one in own:
        yield _own_process(one, plan, machine, s, kept)
    handlers = _handlers(s, exact=bool(own))
    if handlers:
        yield _process(handlers, plan.roles.programs, _of_programs(plan, machine), plan)


def _bounding(become: Become | None) -> str:
    """Tell what programs can get at most."""
    if become is not None and become.bounding is not None:
        return f"{capability_text(become.bounding)} (by --uid with --sync-handler-uid or --privileged-uid)"
    return "that of the starter, for handlers and hooks; --uid with --sync-handler-uid or --privileged-uid narrows it"


def _caretaker(plan: Plan, machine: Machine) -> _Process:
    """Return who waits for the end of all others: it was begun before any other step."""
    return _process(
        "clsync, the caretaker (removes the process group after the end of all others)",
        machine.ids,
        machine.permitted & mask(("CAP_DAC_OVERRIDE",)),
        replace(plan, confinement=()),
        bounding="that of the starter, but it runs nothing",
        more=(
            (
                "why",
                "only such a process may remove a group in the topmost one, and the others may have no rights then",
            ),
        ),
    )


def _calls(worker: GiveUp) -> str:
    if not worker.any_call:
        return "only what an event loop needs" + ("" if worker.logs else ", no connection to anybody")
    sockets = "no sockets but local ones" if worker.logs else "no connection to anybody"
    return f"{sockets}, no programs, mounting, tracing, loading and the like" if worker.local else ""


def _but_state(s: Settings) -> str:
    """Tell of the files that the part without rights keeps, where it may have some."""
    return "" if s.state_dir in (None, b"none") else "; but in the directory of its state, if there is one"


_SPACES: Final = {"mounts": "view of mounts, read-only but for what it writes", "processes": "processes"}
"""Layers of the sandbox -> what is its own of a program."""


def _own_process(one: Own, plan: Plan, machine: Machine, s: Settings, kept: int) -> _Process:
    programs, used = plan.roles.programs, plan.sandbox.used if one.sandboxed else frozenset[str]()
    rights = _of_programs(plan, machine)
    if "capabilities" in used or (used and one.name != "rsync"):
        rights &= KEPT | (KEPT_FOR_NAMES if s.xattrs > 0 or one.name != "rsync" else 0)
    copies = one.name != "rsync"
    where = one.destination
    reads = "reads the watched directory"
    if one.network:
        written = f"{reads}, its programs and libraries, what ssh and names of hosts take; writes only where the"
        written += " kept connection is"
    elif copies:
        written = f"{reads}, writes {where}, runs nothing, no network"
    else:
        written = f"{reads}, its programs and libraries, writes {where}, no network"
    network = "" if one.network else ", no network"
    return _process(
        f"{one.name} to {where}{' (begun by clsync for large batches)' if copies else ''}",
        programs,
        rights,
        plan,
        no_new_privs=bool({"landlock", "seccomp"} & used) and (copies or not kept & mask(("CAP_SYS_ADMIN",))),
        seccomp=f"no mounting, tracing, loading and the like{network}{', no programs' if copies else ''}"
        if "seccomp" in used
        else "",
        landlock=written if "landlock" in used else "",
        namespaces=[text for layer, text in _SPACES.items() if layer in used and not copies],
        more=(("sandbox", f"none: {one.why_not}"),) if one.why_not else (),
    )


def _of_programs(plan: Plan, machine: Machine) -> int:
    """Return the capabilities of programs: those of root are regained by being run."""
    if not plan.roles.programs.uid:
        return machine.permitted
    if plan.identity is not None:
        return plan.identity.ambient
    return machine.ambient


def _handlers(s: Settings, exact: bool) -> str:
    """Name the programs of the operator that are run; `exact`: his handler is an rsync that clsync gives arguments to."""
    own = not exact and (s.sync_handler is not None or s.arguments is not None or s.mode == "direct")
    hooks = [name for name, hook in (("pre-exit", s.pre_exit_hook), ("exit", s.exit_hook)) if hook is not None]
    named = f"the sync handler {shown(s.sync_handler or b'')}".rstrip() if own else ""
    both = " and ".join(filter(None, (named, f"the hooks ({', '.join(hooks)})" if hooks else "")))
    return f"{both}: as the starter has it, or options say" if both else ""


def _process(
    name: str,
    ids: Ids,
    kept: int,
    plan: Plan,
    *,
    bounding: str = "",
    no_new_privs: bool = False,
    seccomp: str = "",
    landlock: str = "",
    namespaces: Sequence[str] = (),
    more: tuple[tuple[str, str], ...] = (),
) -> _Process:
    spaces = [step.what for step in plan.confinement if isinstance(step, Detach)]
    spaces += ["mounts hidden from others"] if any(isinstance(step, MakePrivate) for step in plan.confinement) else []
    group = next((shown(step.group) for step in plan.confinement if isinstance(step, LimitGroup)), "")
    groups = ",".join(map(str, ids.groups)) or "none"
    return _Process(
        name,
        (
            ("identity", f"user {ids.uid}, group {ids.gid}, groups {groups}"),
            ("capabilities", capability_text(kept)),
            *((("bounding set", bounding),) if bounding else ()),
            ("no_new_privs", "yes" if no_new_privs else "no"),
            ("seccomp", seccomp or "no filter"),
            ("Landlock", landlock or "no limit"),
            ("namespaces", ", ".join(f"its own {what}" for what in (*spaces, *namespaces)) or "those of the starter"),
            ("cgroup", group or "that of the starter"),
            *more,
        ),
    )


def capability_text(bits: int) -> str:
    """Name capabilities for a person."""
    lacking = _ALL & ~bits
    if not lacking:
        return "all"
    if not bits:
        return "none"
    if len(names_in(lacking)) < 6:
        return f"all but {', '.join(names_in(lacking))}"
    return ", ".join(names_in(bits))


def gain_lines(machine: Machine) -> list[str]:
    """Tell what more could be done with which capabilities; nothing where all of them are there."""
    missing = [(names, text) for names, text in GAINS.items() if mask(names) & ~machine.permitted]
    if not missing:
        return []
    return ["With more capabilities:", *(f"  {', '.join(names)}: {text}" for names, text in missing)]
