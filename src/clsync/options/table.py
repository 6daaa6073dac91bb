"""The option table: command line, configuration file, help, manual page and completion are made from it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from clsync.options import pertarget, values
from clsync.options.brake import NO_BRAKE, USUAL
from clsync.options.hours import Hours
from clsync.options.names import CAPABILITIES, SANDBOX_LAYERS
from clsync.options.pertarget import PerTarget
from clsync.options.values import Parser


class Takes(Enum):
    """Whether an option has a value."""

    VALUE = "value"
    OPTIONAL = "optional"
    """The value must be attached: `-d3`, `--debug=3`."""
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Option:
    """One option. `default` is what it is when nobody sets it, `old_default` what it was in clsync 0.4."""

    name: str
    short: str
    takes: Takes
    parse: Parser
    default: object
    group: str
    help: str
    metavar: str = ""
    details: str = ""
    """More for the manual page."""
    old_default: object = None
    """None: the same."""
    completes: str = ""
    """What shells offer: `dir`, `file`, `command`, or words with blanks."""
    retired: str = ""
    """Accepted with a warning and without effect: what has taken its place."""

    @property
    def key(self) -> str:
        """Return the name as a Python identifier."""
        return self.name.replace("-", "_")


_V, _O, _N = Takes.VALUE, Takes.OPTIONAL, Takes.NOTHING
_WHAT, _WHEN, _HOW, _RUN, _SAY, _CONF = "What", "When", "How", "Course of the run", "Messages and files", "Settings"
_PRIVILEGE = "Privileges"

SPLITTINGS: Final = ("off", "thread", "process")
"""Each may be written as its number, too."""
SECURE: Final = {"splitting": "process", "check-execvp-arguments": 1, "seccomp-filter": 1, "forbid-devices": 1}
"""What `--secure-splitting` stands for, unless it is set."""

OLD_CAPABILITIES: Final = frozenset(("CAP_DAC_READ_SEARCH", "CAP_SETUID", "CAP_SETGID", "CAP_KILL"))
"""What clsync 0.4 keeps."""
MODES: Final = ("rsyncdirect", "copy", "direct", "simple", "shell", "rsyncshell", "rsyncso", "so", "python")
MONITORS: Final = ("auto", "fanotify", "inotify", "poll")
_RETIRED_MONITORS: Final = ("gio",)
SIGNATURE_FIELDS: Final = tuple("dev ino mode nlink uid gid rdev size blksize blocks atime mtime ctime".split())
_SIGNATURE_ALL: Final = frozenset(SIGNATURE_FIELDS) - {"nlink"}
OVERLAPS: Final = ("off", "safe", "full")
SYSCALLS: Final = ("mon_stat",)
PIVOTS: Final = ("off", "direct", "auto", "auto-ro")
NETWORKS: Final = ("off", "non-privileged", "everywhere")
INHERITED: Final = ("empty", "clsync", "permitted", "dont-touch")
_OLD_INHERITED: Final = ("permittied",)


def _flag(name: str, short: str, group: str, text: str, details: str = "") -> Option:
    return Option(name, short, _O, values.flag, 0, group, text, "N", details)


OPTIONS: Final[tuple[Option, ...]] = (
    Option("watch-dir", "W", _V, values.string, None, _WHAT, "directory to watch", "DIR", completes="dir"),
    Option(
        "destination-dir",
        "D",
        _V,
        values.string,
        None,
        _WHAT,
        "where it is copied to",
        "DEST",
        "A local directory, `[user@]host:path` (ssh), or `rsync://host/module/path`. It must exist. It may be"
        " missing when the handler's arguments name the destination. May be repeated, also in a block of the"
        " configuration file: the tree is watched once, and each destination is kept equal by itself; one that is slow"
        " or away keeps no other one waiting. An empty value forgets those before it. With --compat=0.4 the last one"
        " counts.",
        completes="dir",
    ),
    Option(
        "mode",
        "M",
        _V,
        values.choice(*MODES),
        None,
        _WHAT,
        "how changes are handed over",
        "MODE",
        "`rsyncdirect`: rsync, one exact run a batch. `copy`: clsync's own copier, for local destinations."
        " `direct`: any program, once a batch, objects as arguments. `simple`: any program, once per object."
        " `shell`: a program, given a list of what has changed. `rsyncshell`: a program, given the include and exclude"
        " lists for an rsync of its own. `python`: a function written in Python, `-S package.module:function`. `so`,"
        " `rsyncso`: a function of a module in C, as `shell` and `rsyncshell` without starting a program."
        " When not given: `rsyncdirect` where rsync is installed and fits, else `copy`; with -S another program than"
        " rsync it has to be given.",
        completes=" ".join(MODES),
    ),
    Option(
        "sync-handler",
        "S",
        _V,
        values.string,
        None,
        _WHAT,
        "program that is run, or module that is loaded",
        "PROGRAM",
        "Looked up in PATH unless it has a slash. Default: `rsync` in mode rsyncdirect, `cp` in mode direct."
        " In modes so and rsyncso the file of a module: it must belong to root or to the user who starts clsync, and"
        " nobody else may be able to write it.",
        completes="command",
    ),
    Option(
        "rules-file",
        "R",
        _V,
        values.string,
        None,
        _WHAT,
        "file of rules: what is synced",
        "FILE",
        "See RULES.",
        completes="file",
    ),
    _flag(
        "one-file-system",
        "",
        _WHAT,
        "do not enter other file systems",
        "A mount point below the watched directory is copied as an empty directory.",
    ),
    _flag(
        "exclude-mount-points",
        "X",
        _WHAT,
        "leave mount points out altogether",
        "Implies --one-file-system; the mount point itself is left alone as well.",
    ),
    _flag("acls", "", _WHAT, "copy POSIX access control lists"),
    _flag("xattrs", "", _WHAT, "copy extended attributes"),
    Option(
        "delay-collect",
        "t",
        _V,
        values.seconds(-1),
        1.0,
        _WHEN,
        "collect changes for so long",
        "SECONDS",
        "Counted from the first change. 0 or -1: hand over at once.",
        30.0,
    ),
    Option(
        "delay-sync",
        "w",
        _V,
        values.seconds(),
        1.0,
        _WHEN,
        "least time between the starts of two batches",
        "SECONDS",
        "",
        30.0,
    ),
    Option(
        "delay-collect-bigfile",
        "T",
        _V,
        values.seconds(-1),
        10.0,
        _WHEN,
        "collect changes of big files for so long",
        "SECONDS",
        "",
        1800.0,
    ),
    Option(
        "threshold-bigfile",
        "B",
        _V,
        values.size,
        134217728,
        _WHEN,
        "a file above this size is big",
        "BYTES",
        "0: no file is.",
    ),
    Option(
        "poll-interval",
        "",
        _V,
        values.seconds(0.1),
        10.0,
        _WHEN,
        "time between two looks of the monitor `poll`",
        "SECONDS",
    ),
    Option(
        "monitor",
        "",
        _V,
        values.choice(*MONITORS, *_RETIRED_MONITORS, empty="auto"),
        "auto",
        _HOW,
        "how changes are noticed",
        "MONITOR",
        "`fanotify`: one mark per file system, starts at once whatever the size of the tree; needs root."
        " `inotify`: one watch per directory. `poll`: looks at everything again and again. `auto`: the first of"
        " them that can be had, for each file system of the tree.",
        "inotify",
        " ".join(MONITORS),
    ),
    Option(
        "modification-signature",
        "",
        _V,
        values.names(*SIGNATURE_FIELDS, every=_SIGNATURE_ALL),
        frozenset(),
        _WHEN,
        "fields of which one has to change",
        "FIELD[,FIELD...]",
        "What an event names is handed over only if one of these fields of lstat(2) differs from when it was handed over"
        " because of an event last time, or something came, went or was replaced. `*`: all but nlink. Spares two"
        " daemons that keep two directories equal both ways from comparing most of what the other one has written.",
        completes=" ".join(SIGNATURE_FIELDS),
    ),
    Option(
        "cancel-syscalls",
        "",
        _V,
        values.names(*SYSCALLS),
        frozenset(),
        _WHEN,
        "do without some system calls",
        "CALL[,CALL...]",
        "`mon_stat`: do not look at sizes when changes are collected. No file is big then.",
        completes=" ".join(SYSCALLS),
    ),
    Option(
        "timeout-sync",
        "k",
        _V,
        values.seconds(),
        86400.0,
        _HOW,
        "longest time one handler run may take",
        "SECONDS",
        "The run is then ended and its paths are handed over again. 0: as long as it likes.",
    ),
    Option(
        "threading",
        "p",
        _V,
        values.choice(*OVERLAPS, empty="off"),
        "off",
        _HOW,
        "whether batches may overlap",
        "HOW",
        "`off`: one handler runs at a time. `safe`: as soon as a batch is due, it is handed over beside others; what meets"
        " a path that is on its way, or lies above or below one, waits for it. `full`: nothing waits; what was in two"
        " runs at once is handed over once more when both have ended. Mode copy, and rsync without list files, take"
        " `full` for `safe`. Up to 8 handlers run; the initial sync runs alone.",
        completes=" ".join(OVERLAPS),
    ),
    Option(
        "max-parallel",
        "",
        _V,
        values.integer(1),
        16,
        _HOW,
        "most batches on their way at a time",
        "N",
        "Of all destinations together, where there are several.",
    ),
    Option(
        "max-delete",
        "",
        _V,
        pertarget.parser(values.brake),
        PerTarget(USUAL),
        _HOW,
        "most entries that are deleted because they are not found",
        "[DEST=]N|N%|none",
        "When everything is compared (at the start, after an overflow, when rules change), what the source does not have is"
        " deleted at the destination. If that is more than so many entries, or than so much of what the destination is"
        " known to hold (1000 entries as long as that is not known), nothing is deleted for that reason, and all else is"
        " synced. `clsync ctl accept`, or signal RTMIN,"
        " lets it go; before a destination is known, a terminal is asked. What the kernel has reported as deleted is never"
        " held back. Without the option: 1000 entries, or half of what the destination holds if that is more; nothing is"
        " held back under --compat, nor where the handler's arguments are your own. With a destination before it, as"
        " --destination-dir names it, for that one alone. May be repeated.",
        old_default=PerTarget(NO_BRAKE),
    ),
    _flag(
        "accept-target",
        "",
        _HOW,
        "let the first full sync delete what it wants at the destination",
        "However much --max-delete says: also a later one that begins before it is known what the destination holds, as"
        " after a first one that was cut off.",
    ),
    Option(
        "scrub-rate",
        "",
        _V,
        pertarget.parser(values.entries),
        PerTarget(),
        _HOW,
        "entries a second that are compared in the background",
        "[DEST=]N",
        "All of the destination is compared with the watched directory, one pass after the other, by a process of low"
        " priority. What differs, though nothing has changed, is handed over again, and named in a warning; what it would"
        " delete is held back as --max-delete says. The start of a process counts as 5000 entries. 0 or nothing: off. It"
        " rests while nothing can be handed over. May be repeated, as --bwlimit. In modes rsyncdirect (without list files)"
        " and copy. See VERIFY.",
    ),
    _flag(
        "scrub-checksum",
        "",
        _HOW,
        "compare content in the background, too",
        "Of files of equal size and mtime. 64 KiB of it count as one entry of --scrub-rate; over a network rsync reads"
        " as fast as it can.",
    ),
    Option(
        "bwlimit",
        "",
        _V,
        pertarget.parser(values.rate),
        PerTarget(),
        _HOW,
        "most bytes a second",
        "[DEST=]RATE",
        "KiB a second, or with a unit: `512k`, `5m`. With a destination before it, as --destination-dir names it, for that"
        " one alone. May be repeated. In modes rsyncdirect (without list files) and copy.",
    ),
    Option(
        "nice",
        "",
        _V,
        pertarget.parser(values.niceness),
        PerTarget(),
        _HOW,
        "nice value of handlers",
        "[DEST=]N",
        "From -20 to 19; below 0 it needs CAP_SYS_NICE. May be repeated, as --bwlimit.",
    ),
    Option(
        "io-class",
        "",
        _V,
        pertarget.parser(values.io_class),
        PerTarget(),
        _HOW,
        "I/O class of handlers",
        "[DEST=]CLASS",
        "`idle`, `best-effort` or `realtime` (ionice(1)); the last one needs CAP_SYS_ADMIN. May be repeated, as --bwlimit.",
        completes=" ".join(values.IO_CLASSES),
    ),
    Option(
        "retries",
        "r",
        _V,
        values.integer(),
        0,
        _HOW,
        "end after so many failures in a row",
        "TRIES",
        "0: never, what fails is tried again with growing pauses. Runs that are meant to end try three times"
        " when this is not given.",
        1,
    ),
    _flag(
        "ignore-failures",
        "",
        _HOW,
        "go on whatever a handler answers",
        "Paths that failed stay dirty and are tried again; --retries does not end the run.",
    ),
    Option(
        "ignore-exitcode",
        "x",
        _V,
        values.exit_codes,
        frozenset(),
        _HOW,
        "exit codes that mean success",
        "N[,N...]",
        "May be repeated; 0 clears the list.",
    ),
    Option(
        "lists-dir",
        "L",
        _V,
        values.string,
        None,
        _HOW,
        "directory for list files",
        "DIR",
        "List files are written when the handler's arguments ask for them. It has to be closed to others. It is made if"
        " it is missing, and then removed at the end if nothing is left in it. Default: a private temporary one.",
        completes="dir",
    ),
    _flag("dont-unlink-lists", "U", _HOW, "keep list files"),
    Option(
        "rsync-inclimit",
        "",
        _V,
        values.integer(),
        20000,
        _HOW,
        "most lines of an include list",
        "LINES",
        "Only for list files; 0: no limit.",
    ),
    _flag(
        "rsync-prefer-include",
        "",
        _HOW,
        "list what is permitted instead of excluding what is not",
        "Only for list files of mode rsyncdirect.",
    ),
    _flag(
        "synclist-simplify",
        "",
        _HOW,
        "list files of mode shell hold paths alone",
        "Instead of lines `sync LABEL MASK PATH`.",
    ),
    _flag(
        "have-recursive-sync",
        "",
        _HOW,
        "the handler copies whole directories itself",
        "Modes simple, direct, shell and so: the initial sync, and each directory that appears, is one run of its own"
        " with the absolute path of the directory as the only object; in mode shell the arguments are then `initialsync"
        " LABEL PATH`. Other arguments for these runs: key `---` of a configuration block, or `-----=LINE`. Where rules"
        " or other file systems leave something out below, the objects are listed as usual.",
    ),
    _flag("skip-initialsync", "", _RUN, "do not sync everything at the start"),
    _flag("only-initialsync", "", _RUN, "end after the initial sync"),
    _flag("full-initialsync", "F", _RUN, "ignore the rules in the initial sync"),
    _flag("exit-on-no-events", "", _RUN, "end as soon as nothing is left to sync"),
    Option(
        "max-iterations",
        "",
        _V,
        values.integer(),
        0,
        _RUN,
        "end after so many batches",
        "N",
        "The initial sync is the first one. 0: no limit.",
    ),
    _flag(
        "sync-on-quit",
        "",
        _RUN,
        "on QUIT and ALRM, sync once more after the pre-exit hook",
        "These signals let what has changed be synced first in any case; with this option also what changes meanwhile.",
    ),
    Option(
        "pre-exit-hook",
        "",
        _V,
        values.string,
        None,
        _RUN,
        "program that is run before the last batch",
        "PROGRAM",
        "It is given the label, runs in the watched directory, and its exit code does not count. It is run where"
        " --exit-on-no-events or --max-iterations end the run, or QUIT or ALRM, once the initial sync is over. What it"
        " has changed is synced by one more batch; on QUIT and ALRM only with --sync-on-quit.",
        completes="command",
    ),
    Option(
        "exit-hook",
        "",
        _V,
        values.string,
        None,
        _RUN,
        "program that is run at the end",
        "PROGRAM",
        "As --pre-exit-hook, however the run ends; not where the initial sync was not completed, or something could not"
        " be synced.",
        completes="command",
    ),
    Option(
        "standby-file",
        "",
        _V,
        values.string,
        None,
        _RUN,
        "nothing is synced while this file exists",
        "FILE",
        "It is looked for before each batch, and then every second. Changes are collected meanwhile. QUIT and ALRM end"
        " the run without syncing while it exists, with exit code 3 if anything may have changed.",
        completes="file",
    ),
    Option(
        "sync-hours",
        "",
        _V,
        values.hours,
        Hours(),
        _RUN,
        "when batches may be handed over",
        "HOURS",
        "Spans with commas between them: `22:00-06:00`, `Mon-Fri 12:00-13:00,Sat 00:00-24:00`, by the clock of this"
        " machine. Changes are collected meanwhile; a batch that is on its way may end later. QUIT and ALRM end the run"
        " without syncing at any other time, with exit code 3 if anything may have changed. Empty: always.",
    ),
    _flag(
        "background",
        "b",
        _RUN,
        "run in the background, once the tree is watched",
        "The command answers when the start has succeeded, or with the exit code of its failure.",
    ),
    Option(
        "uid",
        "u",
        _V,
        values.account,
        None,
        _PRIVILEGE,
        "user that clsync itself becomes",
        "USER",
        "A name or a number. See PRIVILEGES. Needs root. With --splitting: the part without rights, `nobody` by default."
        " Handlers and hooks are run as --sync-handler-uid says. With"
        " --compat=0.4, started as root: `nobody`.",
        completes="user",
    ),
    Option(
        "gid",
        "g",
        _V,
        values.account,
        None,
        _PRIVILEGE,
        "group that clsync itself becomes",
        "GROUP",
        "Default: the group of --uid; with --compat=0.4 `nogroup`.",
        completes="group",
    ),
    Option(
        "preserve-capabilities",
        "C",
        _V,
        values.capabilities(*CAPABILITIES),
        OLD_CAPABILITIES,
        _PRIVILEGE,
        "capabilities that clsync keeps",
        "CAP_NAME[,...]",
        "When it becomes another user, or where this is given. Just these, nothing where it is empty. When not given:"
        " the default, and CAP_SYS_ADMIN where --monitor is auto or fanotify, which needs it; without it"
        " --monitor=auto is inotify. Handlers run as another user need CAP_SETUID and CAP_SETGID.",
        completes=" ".join(CAPABILITIES),
    ),
    Option(
        "inherit-capabilities",
        "",
        _O,
        values.choice(*INHERITED, *_OLD_INHERITED, empty="empty"),
        "empty",
        _PRIVILEGE,
        "capabilities of handlers that do not run as root",
        "WHICH",
        "`empty`: none. `clsync`: those that clsync keeps. `permitted`: those that clsync was started with."
        " `dont-touch`: what its starter lets it hand on. Handlers that run as root have all that the starter has.",
        completes=" ".join(INHERITED),
    ),
    Option(
        "privileged-uid",
        "",
        _V,
        values.account,
        None,
        _PRIVILEGE,
        "default of --sync-handler-uid",
        "USER",
        "When not given: who starts clsync.",
        completes="user",
    ),
    Option(
        "privileged-gid",
        "",
        _V,
        values.account,
        None,
        _PRIVILEGE,
        "default of --sync-handler-gid",
        "GROUP",
        completes="group",
    ),
    Option(
        "sync-handler-uid",
        "",
        _V,
        values.account,
        None,
        _PRIVILEGE,
        "user that runs handlers and hooks",
        "USER",
        "And what clsync itself does at the destination. When not given: who starts clsync, as long as clsync may still"
        " become that user (CAP_SETUID and CAP_SETGID), else clsync's own.",
        completes="user",
    ),
    Option(
        "sync-handler-gid",
        "",
        _V,
        values.account,
        None,
        _PRIVILEGE,
        "group that runs handlers and hooks",
        "GROUP",
        "When not given: the group of --sync-handler-uid where that is given (with --compat=0.4 that of who starts"
        " clsync). Supplementary groups are those of the user.",
        completes="group",
    ),
    Option(
        "sandbox",
        "",
        _V,
        values.layers(*SANDBOX_LAYERS),
        frozenset(("auto",)),
        _PRIVILEGE,
        "what clsync itself starts can do no more than it has to",
        "HOW",
        "rsync with the arguments that clsync gives it, ssh below it, the processes of mode copy, and the part without"
        " rights (--splitting). `auto`: with all layers that can be had. `on`: with all, which for"
        " a user other than root are landlock and seccomp, or the start ends. `off`: none."
        " Or those that have to be had, with commas: `landlock` (files and directories, TCP), `seccomp` (system calls,"
        " sockets), `mounts` (all but the destination is read-only), `processes` (none but its own are seen),"
        " `capabilities` (of root's programs). A program or arguments of your own are left alone by `auto`. See SANDBOX.",
        frozenset(("off",)),
        completes=" ".join(("auto", "on", "off", *SANDBOX_LAYERS)),
    ),
    Option(
        "chroot",
        "",
        _V,
        values.string,
        None,
        _PRIVILEGE,
        "root directory to change to",
        "DIR",
        "All other paths are those inside. Relative ones are relative to where clsync was started, if that lies inside."
        " It needs `proc` with processes in it, and `dev/null`. Needs root.",
        completes="dir",
    ),
    Option(
        "pivot-root",
        "",
        _V,
        values.choice(*PIVOTS, empty="off"),
        "off",
        _PRIVILEGE,
        "let go of the old root altogether",
        "HOW",
        "Root can leave a mere --chroot. `direct`: the new root is a mount point. `auto`: any directory; where its"
        " `proc` or `dev` are empty, /proc and a small /dev are put there, for clsync alone. `auto-ro`: nothing can be"
        " written inside, but for /tmp, which is empty and in memory.",
        completes=" ".join(PIVOTS),
    ),
    Option(
        "mountpoints",
        "",
        _V,
        values.paths,
        (),
        _PRIVILEGE,
        "mounts that stay in sight",
        "PATH[,PATH...]",
        "All others are out of sight, for clsync and its handlers alone. Paths are those before --chroot. What holds one of"
        " them stays, and so do `/`, /proc and /dev. Needs root.",
    ),
    Option(
        "detach-network",
        "",
        _V,
        values.choice(*NETWORKS, empty="off"),
        "off",
        _PRIVILEGE,
        "have no network",
        "WHERE",
        "`everywhere`: neither clsync nor its handlers; not even the loopback interface. `non-privileged`: the"
        " part without rights alone (--splitting). Needs root.",
        completes=" ".join(NETWORKS),
    ),
    Option(
        "detach-ipc",
        "",
        _V,
        values.integer(),
        0,
        _PRIVILEGE,
        "have shared memory, semaphores and queues of one's own",
        "N",
        "0: no. 1: those of System V and POSIX message queues (IPC namespace) are seen by clsync and its handlers alone."
        " In clsync 0.4 the default is 1, and means the name of the host. Needs root.",
    ),
    _flag(
        "detach-miscellanea",
        "",
        _PRIVILEGE,
        "as --detach-ipc, and have a name of the host of one's own",
        "What sets the host's name later is not seen, nor can clsync or its handlers set it. Needs root.",
    ),
    _flag(
        "seccomp-filter",
        "",
        _PRIVILEGE,
        "allow only system calls that are needed",
        "For the part of clsync that has no rights: needs --splitting. Where it makes another one, it is ended.",
    ),
    _flag(
        "forbid-devices",
        "",
        _PRIVILEGE,
        "allow only harmless devices",
        "clsync and its handlers can open /dev/null, zero, full, random, urandom and the console, and make no device"
        " files: these are not copied. By a group of processes (cgroup) of their own. Needs root.",
    ),
    Option(
        "cgroup-group-name",
        "",
        _V,
        values.group_name,
        b"clsync/%PID%",
        _PRIVILEGE,
        "name of that group",
        "NAME",
        "Below the group that clsync is started in; removed at the end. Also the name of the group that --cgroup-memory,"
        " --cgroup-pids and --cgroup-cpu limit.",
    ),
    Option(
        "cgroup-memory",
        "",
        _V,
        values.amount,
        0,
        _PRIVILEGE,
        "most memory of clsync and its handlers",
        "BYTES",
        "With a unit: `512m`, `2g`. Beyond it the kernel ends one of them. 0: any. By a group of processes (cgroup) of"
        " their own, which has to have the controller. Needs root, or a group that was handed to the user.",
    ),
    Option(
        "cgroup-pids",
        "",
        _V,
        values.integer(),
        0,
        _PRIVILEGE,
        "most processes and threads of clsync and its handlers",
        "N",
        "0: any. Where it is less than the 2 to 7 that clsync and one handler are, the start ends; 20 and more are"
        " sensible. As --cgroup-memory.",
    ),
    Option(
        "cgroup-cpu",
        "",
        _V,
        values.integer(0, 100_000),
        0,
        _PRIVILEGE,
        "most processor time of clsync and its handlers",
        "PERCENT",
        "Of one processor: 150 is one and a half. 0: any. As --cgroup-memory.",
    ),
    Option(
        "splitting",
        "",
        _V,
        values.numbered(*SPLITTINGS, unnumbered="auto"),
        "auto",
        _PRIVILEGE,
        "be two, one with rights and one without",
        "HOW",
        "`process`: the first process keeps its rights, watches, and runs handlers and hooks; a second one, nobody without"
        " any capability, decides what is to be done, and answers at the control socket. `thread`: the same with two"
        " threads, which is no protection against code that was made to do something else: they share their memory."
        " `auto`: `process` where root starts clsync and nothing speaks against it, else `off`. `off`, `thread` and"
        " `process` may be written 0, 1 and 2. See SPLITTING.",
        "off",
        completes=" ".join(("auto", *SPLITTINGS)),
    ),
    _flag(
        "secure-splitting",
        "",
        _PRIVILEGE,
        "split with all that makes it safe",
        f"Stands for {' '.join(f'--{name}={value}' for name, value in SECURE.items())}, each unless it is set.",
    ),
    _flag(
        "check-execvp-arguments",
        "",
        _PRIVILEGE,
        "keep handlers and hooks as they are",
        "Neither the control socket nor a block that a signal switches to can change what is run while clsync runs: the"
        " program, its arguments, the destination, hooks.",
    ),
    Option(
        "add-permitted-hook-files",
        "",
        _V,
        values.more_files,
        (),
        _PRIVILEGE,
        "more hooks that may be set",
        "FILE[,FILE...]",
        "While clsync runs with --splitting or --check-execvp-arguments, hooks can be set to the configured ones and to"
        " these. May be repeated; an empty name clears the list.",
        completes="file",
    ),
    Option("label", "l", _V, values.text, b"nolabel", _SAY, "name of this instance", "TEXT", "Stands for `%label%`."),
    Option(
        "output",
        "Y",
        _V,
        values.choice("stderr", "stdout", "syslog", empty="stderr"),
        "stderr",
        _SAY,
        "where messages go",
        "WHERE",
        completes="stderr stdout syslog",
    ),
    Option("verbose", "v", _O, values.verbosity, 3, _SAY, "0 nothing, 1 errors, 2 warnings, 3 information", "N"),
    _flag("debug", "d", _SAY, "say more; repeat it, or give a number"),
    _flag("quiet", "q", _SAY, "say nothing"),
    Option("pid-file", "z", _V, values.string, None, _SAY, "file for the process id", "FILE", completes="file"),
    Option(
        "status-file",
        "",
        _V,
        values.string,
        None,
        _SAY,
        "file for the current phase",
        "FILE",
        "A regular file. One of: starting, initsync, running, synchandler error, rehashing, preexit, lastsync,"
        " terminating, hold on, exiting.",
        completes="file",
    ),
    Option(
        "socket",
        "s",
        _V,
        values.string,
        None,
        _SAY,
        "control socket, for clsync ctl",
        "PATH",
        "See CONTROL. A socket that a daemon has left behind is replaced, anything else is not. Whoever may write to the"
        " socket can end the daemon and change its options.",
        completes="file",
    ),
    Option(
        "socket-mod",
        "",
        _V,
        values.file_mode,
        values.FileMode(0o600),
        _SAY,
        "permission bits of the control socket",
        "MODE",
        "Octal. Who may connect may look; changes are for root, the owner, and the group if it may write. clsync 0.4 gives"
        " what the umask leaves of 0777, and lets all of them do everything.",
    ),
    Option(
        "socket-own",
        "",
        _V,
        values.string,
        None,
        _SAY,
        "owner of the control socket",
        "USER[:GROUP]",
        "Names or numbers; without a group it is the user's own. Needs root.",
    ),
    Option(
        "socket-auth",
        "",
        _V,
        values.choice("null", empty="null"),
        "null",
        _SAY,
        "how clients of the control socket log in",
        "HOW",
        "`null`: not at all, which is all there is; the permissions of the socket decide.",
        completes="null",
    ),
    Option(
        "dump-dir",
        "",
        _V,
        values.string,
        b"/tmp/clsync-dump-%label%",
        _SAY,
        "directory that signal IO writes the state to",
        "DIR",
        "It must not exist. `instance`: the phase, what is being handed over, what has failed. `queue/0` to `queue/3`:"
        " what waits: changes, big files, names in search of others, and what meets a batch on its way."
        " `threads/`: one file for each batch that is on its way beside others.",
        completes="dir",
    ),
    Option(
        "state-dir",
        "",
        _V,
        values.string,
        b"auto",
        _SAY,
        "directory for what is known of the destinations",
        "DIR|auto|none",
        "It survives this run: the next one compares the watched directory with it, by metadata alone, and hands over what"
        " differs. Each watched directory with its destinations has a directory of its own there. `auto`: below"
        " $STATE_DIRECTORY where that is set (systemd.exec(5)), /var/lib/clsync of root, $XDG_STATE_HOME/clsync of others."
        " `none`: the destinations are compared at each start, as in clsync 0.4. See STATE.",
        completes="dir",
        old_default=b"none",
    ),
    Option(
        "config-file",
        "H",
        _V,
        values.string,
        None,
        _CONF,
        "configuration file",
        "FILE",
        "`/NULL/`: none. See CONFIGURATION.",
        completes="file",
    ),
    Option("config-block", "K", _V, values.text, b"default", _CONF, "block of the configuration file", "NAME"),
    Option(
        "custom-signals",
        "",
        _V,
        values.signal_blocks,
        {},
        _CONF,
        "blocks to which signals switch",
        "N:BLOCK[,...]",
        "On signal N, block BLOCK of the configuration file is laid over all that is set, the command line included, from"
        " the next batch on; the latest one counts most. A block that cannot be used changes nothing. What has to stay:"
        " see CONFIGURATION. 0: none of those before it.",
    ),
    Option("config-block-inherits", "", _V, values.string, None, _CONF, "block that the block builds on", "NAME"),
    Option(
        "compat",
        "",
        _V,
        values.compat,
        False,
        _CONF,
        "defaults of an older version: 0.4",
        "VERSION",
        "Also by CLSYNC_COMPAT in the environment. Delays, retries, the monitor and the default handler arguments"
        " with their list files become those of clsync 0.4.",
        completes="0.4 off",
    ),
    _flag(
        "dry-run",
        "",
        _CONF,
        "show what would be done at the start, and do nothing",
        "Every step in its order, and what each process keeps. What can be seen beforehand to hinder the start is an"
        " error as it would be then.",
    ),
    Option("help", "h", _N, values.nothing, None, _CONF, "show this text"),
    Option("version", "V", _N, values.nothing, None, _CONF, "show the version"),
)

ARGUMENTS_KEY: Final = "--"
"""Key of a configuration block, and long option, for the handler's arguments as one line."""
RECURSIVE_ARGUMENTS_KEY: Final = "---"
"""The same for the arguments of recursive runs (`--have-recursive-sync`)."""


def _retired(name: str, instead: str) -> Option:
    return Option(name, "", _O, values.flag, 0, "", "", retired=instead)


RETIRED: Final = (
    _retired("fts-experimental-optimization", "trees are walked by the fast way in any case"),
    _retired("shm-mprotect", "no memory is shared between processes"),
    _retired("permit-mprotect", "no system call filter forbids mprotect(2)"),
    _retired("forget-privthread-info", "there is no privileged thread whose handle could be found"),
)
"""Switches for the inside of the C program. Old configurations have to start."""
RETIRED_VALUES: Final = {
    ("monitor", "gio"): ("auto", "clsync asks the kernel itself: --monitor=auto is used"),
    ("inherit-capabilities", "permittied"): ("permitted", "that is how it is spelled"),
}
"""Option, value -> the value used instead, and why."""
ELSEWHERE: Final = {"exit-on-sync-skipping": "is about the audit trail of FreeBSD (BSM), and this is Linux"}
"""Options of clsync 0.4 that mean nothing here -> why."""

FIXED: Final = frozenset(
    "watch-dir one-file-system exclude-mount-points poll-interval monitor threading max-parallel output pid-file"
    " status-file background skip-initialsync only-initialsync config-file custom-signals compat socket socket-mod"
    " socket-own socket-auth uid gid preserve-capabilities inherit-capabilities privileged-uid privileged-gid"
    " sync-handler-uid sync-handler-gid chroot pivot-root mountpoints detach-network detach-ipc detach-miscellanea"
    " seccomp-filter forbid-devices cgroup-group-name cgroup-memory cgroup-pids cgroup-cpu sandbox dry-run splitting"
    " secure-splitting check-execvp-arguments add-permitted-hook-files state-dir scrub-rate scrub-checksum".split()
)
"""What cannot be changed while clsync runs."""

FREE: Final = frozenset(
    "delay-collect delay-sync delay-collect-bigfile threshold-bigfile retries ignore-failures exit-on-no-events"
    " max-iterations sync-on-quit verbose debug quiet".split()
)
"""What says neither what is run, nor on what: with `--splitting` the worker, who has no rights, may set it."""

BY_NAME: Final = {option.name: option for option in (*OPTIONS, *RETIRED)}
BY_SHORT: Final = {option.short: option for option in OPTIONS if option.short}

LATER: Final = {
    name: short
    for name, _, short in (
        word.partition(":")
        for word in (
            "cluster-iface:c"
            " cluster-ip:m cluster-port:P cluster-timeout:G cluster-node-name:n cluster-hash-dl-min:o"
            " cluster-hash-dl-max:O cluster-scan-dl-max"
        ).split()
    )
}
"""Options of clsync 0.4 that this version does not have, with their letters: named in the error."""
