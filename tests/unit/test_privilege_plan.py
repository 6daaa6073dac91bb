"""The plan of privileges: who is who, what is kept, and in which order things are done."""

from __future__ import annotations

import pytest

from clsync.errors import Exit, OperatorError
from clsync.kernel.credentials import Ids, mask
from clsync.options import load
from clsync.options.names import CAPABILITIES
from clsync.privilege.accounts import User
from clsync.privilege.plan import (
    Become,
    ChangeRoot,
    Detach,
    KeepMounts,
    LimitGroup,
    Machine,
    MakePrivate,
    Plan,
    make_plan,
)
from clsync.privilege.report import Course, Own, capability_text, gain_lines, plan_lines

ALL = mask(CAPABILITIES)
FOUR = mask(("CAP_DAC_READ_SEARCH", "CAP_SETUID", "CAP_SETGID", "CAP_KILL"))
MARKS = mask(("CAP_SYS_ADMIN",))
READS = mask(("CAP_DAC_READ_SEARCH",))
ROOT = Ids(0, 0, (0, 7))
NOBODY = Ids(65534, 65534, (65534,))
BACKUP = Ids(34, 34, (34, 40))
AS_ROOT = Machine(ROOT, ALL)
AS_BACKUP = Machine(BACKUP, 0)


USERS = {b"root": (0, 0), b"backup": (34, 34), b"nobody": (65534, 65534)}


class FewAccounts:
    """Three users, one of whom is in another group, too."""

    def user(self, text: bytes, option: str) -> User:
        """Return a user."""
        for name, (uid, gid) in USERS.items():
            if text in (name, b"%d" % uid):
                return User(uid, name.decode(), gid)
        if text.isdigit():
            return User(int(text))
        raise OperatorError(f"--{option} {text.decode()}: there is no such user", "see")

    def group(self, text: bytes, option: str) -> int:
        """Return a group."""
        names = {b"root": 0, b"backup": 34, b"nogroup": 65534}
        return int(text) if text.isdigit() else names[text]

    def groups_of(self, user: User, gid: int) -> tuple[int, ...]:
        """Return all groups of a user."""
        return (gid, 40) if user.name == "backup" else (gid,)


def planned(*argv: str, machine: Machine = AS_ROOT) -> Plan:
    settings = load([b"-W/src", b"-D/dst", *(a.encode() for a in argv)], {}, lambda name: None)
    return make_plan(settings, machine, FewAccounts())


def identity(*argv: str, machine: Machine = AS_ROOT) -> Become:
    found = planned(*argv, machine=machine).identity
    assert found is not None
    return found


@pytest.mark.parametrize("machine", [AS_ROOT, AS_BACKUP], ids=["root", "backup"])
def test_nothing_is_done_that_is_not_asked_for(machine: Machine) -> None:
    plan = planned(machine=machine)
    assert plan.steps == ()
    assert plan.roles.own == plan.roles.programs == machine.ids
    assert not plan.roles.others


def test_another_user_keeps_what_is_needed() -> None:
    plan = planned("-unobody")
    assert plan.identity == Become("uid=nobody", NOBODY, FOUR | MARKS, 0, 0, None)
    assert (plan.roles.own, plan.roles.programs, plan.roles.others) == (NOBODY, ROOT, True)
    assert plan.roles.scanning == READS
    assert identity("-unobody", "--monitor=inotify").kept == FOUR
    assert identity("-unobody", machine=Machine(ROOT, FOUR)).kept == FOUR, "a default that cannot be had"


@pytest.mark.parametrize(
    ("argv", "ids"),
    [
        (("-ubackup",), BACKUP),
        (("-u34",), BACKUP),
        (("-u1234",), Ids(1234, 65534, (65534,))),
        (("-u1234", "-g5"), Ids(1234, 5, (5,))),
        (("-unobody", "-gbackup"), Ids(65534, 34, (34,))),
        (("-gbackup",), Ids(0, 34, (34,))),
        (("--compat=0.4",), NOBODY),
        (("--compat=0.4", "-ubackup"), Ids(34, 65534, (65534, 40))),
    ],
)
def test_names_and_numbers(argv: tuple[str, ...], ids: Ids) -> None:
    assert identity(*argv).ids == ids


@pytest.mark.parametrize("how", ["process", "thread"])
def test_a_worker_is_nobody_or_who_is_named(how: str) -> None:
    plan = planned(f"--splitting={how}")
    assert plan.worker is not None
    assert (plan.worker.ids, plan.worker.network, plan.worker.any_call) == (NOBODY._replace(groups=()), True, True)
    named = planned(f"--splitting={how}", "-ubackup", "--seccomp-filter", "--detach-network=non-privileged").worker
    assert named is not None
    assert (named.ids, named.network, named.any_call) == (BACKUP._replace(groups=()), False, False)
    own = planned(f"--splitting={how}", machine=AS_BACKUP).worker
    assert own is not None
    assert own.ids == BACKUP


def test_the_part_with_rights_is_the_starter_with_less() -> None:
    broker = identity("--splitting=process", "-ubackup")
    assert (broker.ids, broker.bounding) == (ROOT, None)
    assert broker.kept & MARKS
    assert broker.kept & FOUR == FOUR
    assert not broker.kept & mask(("CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_NET_ADMIN"))
    assert identity("--splitting=process", "-CCAP_KILL,CAP_CHOWN").kept == mask(("CAP_KILL", "CAP_CHOWN"))
    plan = planned("--splitting=process")
    assert (plan.roles.own, plan.roles.programs, plan.roles.others) == (ROOT, ROOT, False)
    handlers = planned("--splitting=process", "--sync-handler-uid=backup").roles
    assert (handlers.programs, handlers.others) == (BACKUP, True)
    assert planned("--splitting=process", machine=AS_BACKUP).identity is None


@pytest.mark.parametrize(
    ("argv", "machine", "message"),
    [
        (("-u0",), AS_ROOT, "--uid 0: the part without rights would own the files of root"),
        ((), Machine(ROOT, READS), "--splitting=process: this user may not become another one"),
        (("-ubackup",), Machine(Ids(5, 5, (5,)), 0), "--uid backup: this user may not become another one"),
    ],
)
def test_a_worker_that_cannot_be(argv: tuple[str, ...], machine: Machine, message: str) -> None:
    with pytest.raises(OperatorError) as refused:
        planned("--splitting=process", *argv, machine=machine)
    assert refused.value.message == message
    assert refused.value.code == Exit.PRIVILEGE


def test_the_old_default_is_tried() -> None:
    """Also with another user asked for, handlers are run as the starter."""
    plan = planned("--compat=0.4")
    assert plan.identity is not None
    assert (plan.identity.kept, plan.identity.bounding, plan.roles.programs) == (FOUR, None, ROOT)
    assert planned("--compat=0.4", machine=AS_BACKUP).steps == ()
    assert planned("--compat=0.4", machine=Machine(ROOT, READS)).steps == ()
    assert planned("--compat=0.4", "-u0", "-g0").steps == ()


def test_capabilities_that_are_named_are_all() -> None:
    assert identity("-unobody", "-CCAP_KILL").kept == mask(("CAP_KILL",))
    assert identity("-unobody", "-C", "dac_read_search,CAP_KILL").kept == READS | mask(("CAP_KILL",))
    assert identity("-unobody", "-C", "").kept == 0
    plan = planned("-C", "CAP_KILL")
    assert plan.identity is not None
    assert plan.identity.ids == ROOT
    assert plan.roles.others, "handlers that root runs have more than clsync itself"
    with pytest.raises(OperatorError, match="without CAP_CHOWN") as caught:
        planned("-CCAP_CHOWN,CAP_KILL", machine=Machine(ROOT, FOUR))
    assert caught.value.code == Exit.PRIVILEGE


def test_a_broker_that_can_tell_the_worker_nothing() -> None:
    with pytest.raises(OperatorError, match="CAP_KILL is missing") as caught:
        planned("--splitting=process", "-CCAP_SETUID,CAP_SETGID")
    assert caught.value.code == Exit.PRIVILEGE
    assert planned("--splitting=process", "-CCAP_SETUID,CAP_SETGID,CAP_KILL").worker is not None


def test_without_the_right_to_become_another_user_handlers_are_run_as_ourselves() -> None:
    plan = planned("-unobody", "-CCAP_DAC_READ_SEARCH")
    assert plan.identity is not None
    assert (plan.roles.programs, plan.roles.others) == (NOBODY, False)
    assert plan.identity.bounding == READS
    with pytest.raises(OperatorError, match="--sync-handler-uid root: clsync itself may not become") as caught:
        planned("-unobody", "-C", "CAP_KILL", "--sync-handler-uid=root")
    assert caught.value.code == Exit.PRIVILEGE
    with pytest.raises(OperatorError, match="--uid nobody: this user may not become another one"):
        planned("-unobody", machine=AS_BACKUP)
    assert planned("-ubackup", "-gbackup", "--sync-handler-uid=backup", machine=AS_BACKUP).steps == ()


@pytest.mark.parametrize(
    ("argv", "programs"),
    [
        (("--sync-handler-uid=backup",), BACKUP),
        (("--privileged-uid=backup",), BACKUP),
        (("--privileged-uid=nobody", "--sync-handler-uid=backup"), BACKUP),
        (("--sync-handler-uid=backup", "--sync-handler-gid=5"), Ids(34, 5, (5, 40))),
        (("--sync-handler-gid=5",), Ids(0, 5, (5,))),
        (("--sync-handler-uid=backup", "--compat=0.4", "-u0", "-g0"), Ids(34, 0, (0, 40))),
        (("--sync-handler-uid=0", "-unobody"), ROOT),
    ],
)
def test_who_runs_handlers(argv: tuple[str, ...], programs: Ids) -> None:
    roles = planned(*argv).roles
    assert roles.programs == programs
    assert roles.others


def test_programs_of_other_users_get_no_more_than_clsync() -> None:
    assert identity("-unobody", "--sync-handler-uid=backup").bounding == FOUR | MARKS
    assert identity("-unobody", "--sync-handler-uid=backup", "--compat=0.4").bounding is None


@pytest.mark.parametrize(
    ("how", "inheritable", "ambient"),
    [("", 0, 0), ("empty", 0, 0), ("clsync", FOUR, FOUR), ("permitted", ALL, FOUR), ("dont-touch", 3 | READS, READS)],
)
def test_what_programs_inherit(how: str, inheritable: int, ambient: int) -> None:
    machine = Machine(ROOT, ALL, 3 | READS, 1 | READS)
    found = identity("-unobody", "--monitor=inotify", f"--inherit-capabilities={how}", machine=machine)
    assert (found.inheritable, found.ambient) == (inheritable, ambient)


def test_the_order_and_what_is_said() -> None:
    """Groups are made where they are in sight, and rights are the last thing that goes."""
    asked = "--forbid-devices --detach-ipc=1 --detach-network=everywhere --mountpoints=/a,/b --chroot=/new"
    plan = planned(*asked.split(), "--pivot-root=auto", "-unobody")
    kinds = [LimitGroup, Detach, Detach, Detach, MakePrivate, KeepMounts, ChangeRoot, Become]
    assert [type(step) for step in plan.steps] == kinds
    texts = [step.text for step in plan.steps]
    assert "unmount all but /a, /b" in texts
    assert "make /new the root, and let go of the old one" in texts
    assert texts[-1].startswith(
        "be user 65534, group 65534, groups 65534; capabilities: CAP_DAC_READ_SEARCH, CAP_KILL"
    )
    both = planned("--detach-ipc=1", "--detach-miscellanea")
    assert [step.option for step in both.steps] == ["detach-miscellanea"]


# -- the sandbox -----------------------------------------------------------------------------------------------

LAYERS = frozenset(("landlock", "seccomp", "mounts", "processes", "capabilities"))


@pytest.mark.parametrize(
    ("argv", "machine", "used"),
    [
        ((), AS_ROOT, LAYERS),
        (("--sandbox=on",), AS_ROOT, LAYERS),
        (("--sandbox=off",), AS_ROOT, set()),
        (("--compat=0.4",), AS_ROOT, set()),
        (("--compat=0.4", "--sandbox=auto", "-uroot"), AS_ROOT, LAYERS),
        (("--sandbox=mounts,seccomp",), AS_ROOT, {"mounts", "seccomp"}),
        (("-unobody",), AS_ROOT, LAYERS - {"capabilities"}),
        (("--splitting=process",), AS_ROOT, LAYERS),
        (("--splitting=process", "-CCAP_SYS_ADMIN,CAP_KILL"), AS_ROOT, LAYERS - {"capabilities"}),
        (("--splitting=process",), Machine(ROOT, ALL & ~MARKS), LAYERS - {"mounts", "processes"}),
        (("--splitting=process", "-CCAP_SETPCAP,CAP_KILL"), Machine(ROOT, ALL & ~MARKS), {"capabilities"}),
        (("-unobody", "--monitor=inotify"), AS_ROOT, set()),
        (("-unobody", "--monitor=inotify", "--sync-handler-uid=backup"), AS_ROOT, {"landlock", "seccomp"}),
        (("--chroot=/new",), AS_ROOT, LAYERS - {"mounts"}),
        (("--chroot=/new", "--pivot-root=auto"), AS_ROOT, LAYERS),
        ((), AS_BACKUP, {"landlock", "seccomp"}),
        (("--sandbox=on",), AS_BACKUP, {"landlock", "seccomp"}),
        ((), Machine(ROOT, ALL, troubles={"landlock": "it is old"}), LAYERS - {"landlock"}),
        ((), Machine(ROOT, FOUR), {"landlock", "seccomp"}),
    ],
)
def test_layers_that_are_used(argv: tuple[str, ...], machine: Machine, used: set[str]) -> None:
    """Root's programs regain what clsync has given up: without CAP_SYS_ADMIN a sandbox would keep them from it."""
    found = planned(*argv, machine=machine).sandbox
    assert found.used == used
    assert found.used | found.left_out.keys() == LAYERS


def test_only_what_the_system_lacks_is_told() -> None:
    machine = Machine(BACKUP, 0, troubles={"landlock": "it is old", "mounts": "it is older"})
    assert planned(machine=machine).sandbox.lack.startswith("without landlock (it is old; ")
    assert planned("-Mdirect", "-Scat", machine=machine).sandbox.lack == ""
    assert planned("--sandbox=off", machine=machine).sandbox.lack == ""
    assert planned(machine=AS_BACKUP).sandbox.lack == ""
    contained = Machine(ROOT, ALL & ~mask(("CAP_SYS_ADMIN", "CAP_SETPCAP")))
    assert planned(machine=contained).sandbox.lack == (
        "without mounts (clsync is started without CAP_SYS_ADMIN; start it with CAP_SYS_ADMIN), processes (clsync is"
        " started without CAP_SYS_ADMIN; start it with CAP_SYS_ADMIN), capabilities (clsync is started without"
        " CAP_SETPCAP; start it with CAP_SETPCAP)"
    )
    for meant in (("-Mdirect", "-Scat"), ("--sandbox=off",), ("-CCAP_SETUID,CAP_SETGID",)):
        assert planned(*meant, machine=contained).sandbox.lack == ""


@pytest.mark.parametrize(
    ("argv", "machine", "message"),
    [
        (("--sandbox=mounts",), AS_BACKUP, "--sandbox=mounts: mounts cannot be had: clsync is started without"),
        (("--sandbox=on", "-unobody"), AS_ROOT, "--sandbox=on: capabilities cannot be had: clsync does not keep"),
        (("--sandbox=on",), Machine(ROOT, ALL, troubles={"seccomp": "no"}), "--sandbox=on: seccomp cannot be had: no"),
    ],
)  # fmt: skip
def test_layers_that_are_demanded(argv: tuple[str, ...], machine: Machine, message: str) -> None:
    with pytest.raises(OperatorError) as caught:
        planned(*argv, machine=machine)
    assert caught.value.message.startswith(message)
    assert caught.value.code == Exit.PRIVILEGE


def test_limits_of_the_group() -> None:
    (step,) = planned("--cgroup-memory=512m", "--cgroup-cpu=50").steps
    assert isinstance(step, LimitGroup)
    assert (step.option, step.limits, step.devices) == ("cgroup-memory", (512 << 20, 0, 50), False)
    assert step.text.endswith(
        "no more than 536870912 bytes of memory are used, no more than 50 % of a processor are used"
    )


def test_the_plan_as_text() -> None:
    """Steps are numbered in their order; the part that gives up its rights does so after the tree was looked at."""
    asked = ("--splitting=process", "--forbid-devices", "--seccomp-filter", "--pre-exit-hook=/bin/true")
    settings = load([b"-W/src", b"-D/dst", *(a.encode() for a in asked)], {}, lambda name: None)
    plan = make_plan(settings, AS_ROOT, FewAccounts())
    own = [Own("rsync", "/dst", sandboxed=True)]
    lines = plan_lines(plan, AS_ROOT, settings, own, Course(["look", "write"], ["watch", "sync"]))
    steps = [
        line.split(". ", 1)[1].split(":")[0] for line in lines if line[:3] == "  " + line[2:3] and ". " in line[:6]
    ]
    assert steps == [
        "--forbid-devices",
        "look",
        "write",
        "--splitting",
        "--splitting",
        "--splitting",
        "watch",
        "sync",
    ]
    text = "\n".join(lines)
    assert (
        "  clsync, the worker (a process of its own)\n    identity:      user 65534, group 65534, groups none\n"
        in text
    )
    assert "  the hooks (pre-exit): as the starter has it, or options say\n" in text
    assert "left out" not in text
    assert text.count("clsync, the caretaker") == 1
    caretaker = text.partition("clsync, the caretaker")[2].partition("\n  rsync")[0]
    for row in ("capabilities:  CAP_DAC_OVERRIDE\n", "user 0, group 0", "those of the starter", "topmost one"):
        assert row in caretaker
    assert [line.split()[2] for line in lines if "bounding set:" in line] == ["that", "none", "that"]


def test_the_plan_tells_what_programs_can_get() -> None:
    """No caretaker where there is no group for it."""
    asked = [b"-W/src", b"-D/dst", b"-unobody", b"--sync-handler-uid=backup", b"-CCAP_SETUID,CAP_SETGID"]
    settings = load(asked, {}, lambda name: None)
    plan = make_plan(settings, AS_ROOT, FewAccounts())
    text = "\n".join(plan_lines(plan, AS_ROOT, settings, [], Course([], [])))
    assert "bounding set:  CAP_SETGID, CAP_SETUID (by --uid" in text
    assert "caretaker" not in text


def test_what_more_capabilities_would_give() -> None:
    assert gain_lines(AS_ROOT) == []
    assert any(line.startswith("  CAP_SYS_ADMIN: fanotify marks") for line in gain_lines(AS_BACKUP))
    assert capability_text(ALL) == "all"
    assert capability_text(0) == "none"
    assert capability_text(ALL & ~MARKS) == "all but CAP_SYS_ADMIN"
