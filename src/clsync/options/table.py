"""The option table: command line, configuration file, help, manual page and completion are made from it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from clsync.options import values
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
SECURE: Final = {"splitting": "process", "check-execvp-arguments": 1}
"""What `--secure-splitting` stands for, unless it is set."""

MODES: Final = ("rsyncdirect", "copy", "direct", "simple", "shell", "rsyncshell", "rsyncso", "so", "python")
MONITORS: Final = ("auto", "fanotify", "inotify", "poll")
_RETIRED_MONITORS: Final = ("gio",)
SIGNATURE_FIELDS: Final = tuple("dev ino mode nlink uid gid rdev size blksize blocks atime mtime ctime".split())
_SIGNATURE_ALL: Final = frozenset(SIGNATURE_FIELDS) - {"nlink"}
OVERLAPS: Final = ("off", "safe", "full")
SYSCALLS: Final = ("mon_stat",)


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
        " missing when the handler's arguments name the destination.",
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
        " because of an event last time, or something came, went or was replaced. `*`: all but nlink. rsync and the"
        " copier compare content then before they write, so that two directories can be kept equal both ways.",
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
        "List files are written when the handler's arguments ask for them. Default: a private temporary one.",
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
        "It is looked for before each batch, and then every second. Changes are collected meanwhile.",
        completes="file",
    ),
    _flag(
        "background",
        "b",
        _RUN,
        "run in the background, once the tree is watched",
        "The command answers when the start has succeeded, or with the exit code of its failure.",
    ),
    Option(
        "splitting",
        "",
        _V,
        values.numbered(*SPLITTINGS),
        "off",
        _PRIVILEGE,
        "be two, one with rights and one without",
        "HOW",
        "`process`: the first process keeps its rights, watches, and runs handlers and hooks; a second one, nobody without"
        " any capability, decides what is to be done, and answers at the control socket. `thread`: the same with two"
        " threads, which is no protection against code that was made to do something else: they share their memory."
        " `off`, `thread` and `process` may be written 0, 1 and 2. See SPLITTING.",
        completes=" ".join(SPLITTINGS),
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
        "One of: starting, initsync, running, synchandler error, rehashing, preexit, lastsync,"
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
        "Octal. clsync 0.4 gives what the umask leaves of 0777.",
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
}
"""Option, value -> the value used instead, and why."""
ELSEWHERE: Final = {"exit-on-sync-skipping": "is about the audit trail of FreeBSD (BSM), and this is Linux"}
"""Options of clsync 0.4 that mean nothing here -> why."""

FIXED: Final = frozenset(
    "watch-dir one-file-system exclude-mount-points poll-interval monitor threading output pid-file status-file"
    " background skip-initialsync only-initialsync config-file custom-signals compat socket socket-mod"
    " socket-own socket-auth splitting secure-splitting check-execvp-arguments add-permitted-hook-files".split()
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
            "uid:u gid:g privileged-uid privileged-gid"
            " sync-handler-uid sync-handler-gid chroot pivot-root detach-network detach-ipc detach-miscellanea"
            " seccomp-filter"
            " mountpoints preserve-capabilities:C"
            " inherit-capabilities forbid-devices cgroup-group-name cluster-iface:c"
            " cluster-ip:m cluster-port:P cluster-timeout:G cluster-node-name:n cluster-hash-dl-min:o"
            " cluster-hash-dl-max:O cluster-scan-dl-max"
        ).split()
    )
}
"""Options of clsync 0.4 that this version does not have, with their letters: named in the error."""
