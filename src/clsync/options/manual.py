"""The manual page clsync(1): the option table, and what has to be said besides."""

from __future__ import annotations

from itertools import groupby
from typing import Final

from clsync import __version__
from clsync.errors import Exit
from clsync.options import ctl, roff, verify
from clsync.options.help import spelled
from clsync.options.reference import NO_DEFAULT, default_cell, old_default_cell
from clsync.options.settings import CONFIG_FILES
from clsync.options.table import FREE, OPTIONS, Option

EXIT_TEXTS: Final = {
    Exit.OK: "The run has ended as it was meant to, or INT or TERM came while nothing was at work.",
    Exit.FAILURE: "An unforeseen error. Nothing is lost: the next start syncs again.",
    Exit.SOURCE: "The watch directory is missing, cannot be read, or is no directory.",
    Exit.INCOMPLETE: "A run that was meant to end has left paths unsynced; they are named. When --retries is given,"
    " the exit code of the last handler run that failed is returned instead, if it is known. Also: INT or TERM has"
    " interrupted a handler, or a run that was meant to end; the next start makes it equal. clsync verify: something"
    " differs.",
    Exit.DESTINATION: "The destination is missing, cannot be used, or overlaps with the watch directory. clsync verify: it"
    " could not be compared.",
    Exit.HANDLER: "The sync handler is missing or cannot be executed.",
    Exit.MONITOR: "The monitor that was asked for cannot watch this tree.",
    Exit.FILES: "The configuration file, pid file, status file, control socket, list directory or state cannot be used.",
    Exit.UNREACHABLE: "clsync ctl: no daemon answers at the control socket, or not in time, or there is no right to ask.",
    Exit.REFUSED: "clsync ctl: the daemon has answered that it cannot do this.",
    Exit.PRIVILEGE: "An identity or a confinement that was asked for cannot be had.",
    Exit.LATE: "clsync wait: not everything has arrived within --timeout.",
    Exit.USAGE: "An option, a value, a rule or a line of the configuration is wrong.",
}

_DESCRIPTION = (
    "clsync keeps a directory tree at a destination equal to the tree in the watch directory: it makes them equal at"
    " the start, notices what changes from then on, collects changes for a moment, and hands them over to a sync"
    " handler in batches. Without -M and -S the handler is rsync(1), or a copier of its own where rsync is not"
    " installed.",
    "The tree is watched before it is compared, so that nothing that changes meanwhile is missed. What the kernel"
    " reports counts as a hint only: when a batch is made, every path is looked at again, and what stands there then is"
    " what is handed over. A path stays dirty until a handler run has confirmed it; what fails is tried again, with"
    " growing pauses, and holds up no other path.",
    "The watch directory is never written. Nothing is deleted at the destination because the watch directory has"
    " vanished or was unmounted: clsync then waits until it is back.",
)

_MODES = {
    "`rsyncdirect`": "Changes go through rsync(1), version 3.1.3 or later at both ends, as a list on its standard input."
    " The destination may be a local directory, `[user@]host:path` (one ssh connection to each host is kept for all runs,"
    " unless ssh's configuration shares connections already), or a module of an rsync daemon. At the start the"
    " destination is asked with one absent name whether it understands such lists; an older way is used if not.",
    "`copy`": "clsync copies by itself, to a local directory. Files are written beside their place and renamed; holes"
    " stay holes, and content is cloned where the file system can. Large batches are shared between worker processes."
    " -S and handler arguments have no meaning here.",
    "`direct`": "Any program, run once for up to 256 arguments, in the watch directory. Objects are relative paths;"
    " deleted ones are named like all others. Directories that are new are expanded to what they hold.",
    "`simple`": "Any program, run once per object, which is named by its absolute path.",
    "`so`": "A module in C that -S names: its function clsyncapi_sync is called with all objects of a batch. It runs in"
    " a process of its own, which is started anew where it has crashed. What clsyncapi_init and clsyncapi_deinit answer,"
    " if it is not 0, is the exit code. Headers: `pkg-config --cflags clsync`.",
    "`rsyncso`": "The same with a function clsyncapi_rsync, which is given an include and an exclude list for rsync.",
}

_MACROS = {
    "`%INCLUDE-LIST%`": "Alone as an argument: one argument per object. Names that begin with a dash get `./` before"
    " them.",
    "`%INCLUDE-LIST-PATH%`": "A file with the objects. In rsyncdirect an include list for rsync, otherwise a line"
    " `sync LABEL MASK PATH` each; names with a newline are left out of such lines.",
    "`%EXCLUDE-LIST-PATH%`": "In rsyncdirect, a file with what the rules reject below directories that are synced with"
    " all their content. Prefer the arguments of clsync: such a list misses what is made after it was written, and"
    " deletes rejected paths that exist only at the destination.",
    "`%RSYNC-ARGS%`": "In rsyncdirect, all arguments by which clsync tells rsync what to do, with the list on standard"
    " input. If list files are asked for as well, or by --compat=0.4, the arguments of clsync 0.4.",
    "`%EVENT-MASK%`": "The changes of a single object as a decimal inotify mask; empty for several objects.",
    "`%TYPE%`": "`sync` (one object), `synclist` or `rsynclist`.",
    "`%watch-dir%`, `%destination-dir%`": "The two directories, absolute if they are local, without a slash at the"
    " end.",
    "`%label%` and every other option": "Its value. Works in values of options as well.",
    "`%PID%`": "The process id of clsync.",
    "`%%`": "A percent sign.",
}

_DEFAULT_ARGUMENTS = """\
rsyncdirect   %RSYNC-ARGS% %watch-dir%/ %destination-dir%/
direct        %INCLUDE-LIST% %destination-dir%/
simple        sync %label% %EVENT-MASK% %INCLUDE-LIST%
"""

_LETTERS = {
    "`f`": "anything but a directory; all actions",
    "`d`": "a directory; all actions",
    "`*`": "both; all actions",
    "`w`": "walking: whether a directory is entered at all; it counts for monitoring, too",
    "`m`": "monitoring: whether changes of the names in a directory count",
    "`s`": "syncing of the directory itself",
}

_RULES = """\
# all but editor backups and what lies in build/
-f~$
-d^build$
"""

_ONLY = """\
# only .txt files, and the directories on the way to them
+f\\.txt$
+d
-*
"""

_CONFIGURATION = """\
[default]
delay-collect = 0.2
output = syslog

[www]
config-block-inherits = default
label = www
watch-dir = /srv/%label%
destination-dir = mirror.example.org:/srv/%label%
pid-file = /run/clsync-%label%.pid
"""

_PRIVILEGES = """\
# mkdir /srv/jail/proc /srv/jail/dev; mount --bind -o ro /usr /srv/jail/usr
[jailed]
chroot = /srv/jail
pivot-root = auto
watch-dir = /data
destination-dir = rsync://backup.example.org/data/
uid = clsync
sync-handler-uid = clsync
monitor = inotify
forbid-devices = 1
"""

_SIGNALS = {
    "`INT`, `TERM`": "End. A handler at work is stopped; what was not confirmed is synced at the next start.",
    "`QUIT`, `ALRM`": "Hand over what is pending, then end.",
    "`HUP`": "Read the rules file again, watch the tree by the new rules, and compare everything. The configuration is"
    " not read again. If the new file is wrong, the old rules stay in force.",
    "`USR1`": "Nothing; clsync 0.4 collects its threads.",
    "`USR2` (12)": "Compare everything with the destinations again, whatever the state says.",
    "`STKFLT` (16)": "Hand over what is pending now, without waiting for the delays.",
    "`RTMIN` (34)": "Delete what --max-delete has held back, at all destinations.",
}

_ENVIRONMENT = {
    "`HOME`": "Where `.clsync.conf` is looked for.",
    "`PATH`": "Where handlers are looked for.",
    "`STATE_DIRECTORY`, `XDG_STATE_HOME`": "See --state-dir.",
    "`TMPDIR`": "Where temporary lists go.",
    "`RSYNC_RSH`": "rsync's remote shell. If it is set, clsync leaves connections to rsync and keeps none of its own.",
    "`CLSYNC_COMPAT`": "As --compat.",
    "`CLSYNC_WITHOUT`": "Kernel features that are not to be used, with commas between them:"
    " `copy_file_range`, `fanotify`, `fanotify_rename`, `fanotify_target`, `inotify`, `landlock`, `memfd`,"
    " `mount_setattr`, `open_tree`, `openat2`, `pidfd`, `reflink`, `renameat2`, `seccomp`.",
    "`CLSYNC_STATUS`": "Set for handlers: `initsync` or `running`.",
    "`CLSYNC_ITERATION`": "Set for handlers: the number of the batch, 1 for the initial sync.",
    "`CLSYNC_WORKS_FOR`": "Set for handlers: who has started them, and for what. If clsync is killed, its next start ends"
    " a handler that is still at work, with its process group; what a handler has put into a session of its own, as"
    " services are, goes on.",
}

_EXAMPLES = (
    ("Keep a local mirror, live:", "clsync -W /srv/data -D /mnt/mirror"),
    ("The same over ssh, collecting for a quarter of a second:", "clsync -t 0.25 -W /srv/data -D host:/srv/data"),
    (
        "To a module of an rsync daemon, by rules:",
        "clsync -W /srv/data -D rsync://host/data -R /etc/clsync/data.rules",
    ),
    ("Make two trees equal once; the exit code tells whether they are:", "clsync --only-initialsync -W /src -D /dst"),
    (
        "Move a busy tree: sync until nothing is left to do, then end:",
        "clsync --exit-on-no-events --max-iterations=20 --mode=rsyncdirect \\\n"
        "    -W/var/www_new -Srsync -- %RSYNC-ARGS% /var/www_new/ /var/www/",
    ),
    (
        "Ask what it does, and end it:",
        "clsync -W /srv/data -D /mnt/mirror -b --socket=/run/clsync.sock\n"
        "clsync ctl -s /run/clsync.sock status\n"
        "clsync ctl -s /run/clsync.sock stop",
    ),
    (
        "Run a program of your own with what has changed:",
        "clsync -W /srv/photos -M direct -S ./make-thumbnails -- %INCLUDE-LIST%",
    ),
)


def manual() -> str:
    """Return docs/clsync.1."""
    return "".join(
        (
            '.\\" Made by `make docs` from src/clsync/options/; changes here are lost.\n',
            roff.title("clsync", 1, f"clsync {__version__}", "User Commands"),
            roff.section("NAME", "clsync \\- keep a directory tree equal to another one, live\n"),
            roff.section(
                "SYNOPSIS",
                "\\fBclsync\\fR \\fB\\-W\\fR \\fISOURCE\\fR [\\fB\\-D\\fR \\fIDESTINATION\\fR] [\\fIOPTION\\fR]..."
                " [\\fB\\-\\-\\fR \\fIHANDLER-ARGUMENT\\fR...]\n.br\n"
                "\\fBclsync ctl\\fR [\\fIOPTION\\fR]... \\fICOMMAND\\fR [\\fIARGUMENT\\fR]...\n.br\n"
                "\\fBclsync doctor\\fR [\\fIOPTION\\fR]...\n.br\n"
                "\\fBclsync verify\\fR [\\fB\\-\\-checksum\\fR] [\\fB\\-\\-repair\\fR] [\\fB\\-\\-json\\fR]"
                " [\\fIOPTION\\fR]...\n",
            ),
            roff.section("DESCRIPTION", *map(roff.paragraph, _DESCRIPTION)),
            roff.section("OPTIONS", *_options()),
            roff.section("MODES", roff.items(_MODES.items())),
            _arguments(),
            _rules(),
            _configuration(),
            _control(),
            _verify(),
            _privileges(),
            _splitting(),
            _sandbox(),
            _state(),
            roff.section("SIGNALS", roff.items(_SIGNALS.items())),
            roff.section("FILES", *_files()),
            roff.section("EXIT STATUS", *(roff.item(f"`{code:d}`", text) for code, text in EXIT_TEXTS.items())),
            roff.section("ENVIRONMENT", roff.items(_ENVIRONMENT.items())),
            roff.section("EXAMPLES", *(roff.paragraph(text) + roff.example(code) for text, code in _EXAMPLES)),
            roff.section(
                "SEE ALSO", ".BR rsync (1),\n.BR ssh (1),\n.BR fanotify (7),\n.BR inotify (7),\n.BR regex (7)\n"
            ),
        )
    )


def _options() -> list[str]:
    blocks = [
        roff.paragraph(
            "Options and handler arguments may be mixed, and long names may be cut as long as they stay unambiguous. An"
            " optional value has to be attached: -d3, `--debug=3`. A flag without a value adds one, and 0 turns it"
            " off. Where one option is given twice, the last one counts."
        )
    ]
    for name, options in groupby(OPTIONS, key=lambda option: option.group):
        blocks.append(roff.subsection(name))
        blocks += map(_option, options)
    return blocks


def _option(option: Option) -> str:
    default, old = default_cell(option), old_default_cell(option)
    text = option.help[:1].upper() + option.help[1:] + "."
    if default != NO_DEFAULT:
        text += f" Default: {default}"
        text += f" (clsync 0.4: {old})." if old else "."
    return roff.item(f"`{spelled(option).strip()}`", text, option.details)


def _arguments() -> str:
    return roff.section(
        "HANDLER ARGUMENTS AND MACROS",
        roff.paragraph(
            "Operands, or what follows `--`, are the handler's arguments, instead of those that the mode has by"
            " itself:"
        ),
        roff.example(_DEFAULT_ARGUMENTS),
        roff.paragraph(
            "The handler runs in the watch directory. Its exit code 0 confirms all it was given; so do the codes of"
            " --ignore-exitcode, and 24 of rsync. Macros in arguments:"
        ),
        roff.items(_MACROS.items()),
        roff.paragraph("A macro that is not known stays as it was written. What is put in is not expanded again."),
    )


def _rules() -> str:
    return roff.section(
        "RULES",
        roff.paragraph(
            "A rules file has one rule a line: a sign, a letter and a POSIX extended regular expression (regex(7), as"
            " the GNU C library reads it), without blanks between them. `+` permits, `-` rejects, `#` begins a"
            " comment. The expression is searched for in the path relative to the watch directory, which is empty for"
            " that directory itself. The letter says what the rule speaks of:"
        ),
        roff.items(_LETTERS.items()),
        roff.paragraph(
            "For each action the first rule that speaks of it and matches decides. Where none does, the path is"
            " permitted. A path is synced if it is permitted itself and all directories on the way to it may be"
            " walked. What is rejected is neither copied to the destination nor deleted there."
        ),
        roff.example(_RULES),
        roff.example(_ONLY),
    )


def _configuration() -> str:
    return roff.section(
        "CONFIGURATION",
        roff.paragraph(
            "The first of these files that exists is read, or the one that --config-file names: "
            + ", ".join(f"`{name}`" for name in ("~/.clsync.conf", *map(bytes.decode, CONFIG_FILES)))
            + "."
        ),
        roff.paragraph(
            "It has blocks of `key = value` lines; keys are long option names. Blanks around values are cut, and there"
            " are no quotation marks and no escapes. The key `--` holds the handler's arguments as one line, in which"
            " quotation marks group. `%name%` stands for the value of an option."
        ),
        roff.paragraph(
            "The block that is read is `default`, or the one that --config-block names, and then those it inherits"
            " from by `config-block-inherits`. The command line goes before the block, and the block before those it"
            " inherits from. A block that is not there is an error, unless the command line has --watch-dir and no"
            " --config-file: then it counts alone, with a warning."
        ),
        roff.example(_CONFIGURATION),
    )


STATUS_TEXTS: Final = {
    "`version`, `pid`": "Of the daemon.",
    "`started_at`, `last_sync_at`": "When it began, and when a batch was last confirmed, in seconds since 1970; null for"
    " what has not been.",
    "`config_block`, `label`, `mode`, `source`, `destination`": "As it was told; `destination` is null where only the"
    " handler knows it.",
    "`monitor`": "How changes are noticed; empty before the tree is watched.",
    "`phase`": "As in --status-file.",
    "`iteration`": "The number of the last batch.",
    "`collecting`": "Whether changes have come that no batch was made of yet; with fanotify they may be elsewhere on the"
    " file system.",
    "`pending`, `in_flight`": "How many paths are not known to be equal, and how many of them are being handed over.",
    "`targets`": "Where there are several destinations: an object for each, with `destination`, `mode`, `iteration`,"
    " `last_sync_at`, `pending`, `in_flight`, `failing`, `paused`, `held_back`, `scrubbed_at`, `scrub_found`, `trouble` and"
    " `next_try_at`."
    " The numbers beside it are those of all of them.",
    "`scrubbed_at`, `scrub_found`": "When the last pass of --scrub-rate ended, in seconds since 1970 (null: none has), and"
    " how many paths differed.",
    "`state_dir`, `state_dirty`, `unflushed`, `state_lost`": "Where the state is (see STATE), null where there is"
    " none; how many paths it has that a destination may not hold, and how many, with the directories that hold them, a"
    " loss of power may undo; why the next start compares everything, or null.",
    "`paused`": "Whether nothing is handed over, because of `clsync ctl pause`.",
    "`held_back`": "How many entries are left at the destination though the source does not have them (--max-delete).",
    "`trouble`, `next_try_at`": "Why nothing at all can be synced now, and when a destination that could not be used is"
    " tried again, in seconds since 1970; or null.",
    "`failing`, `failures`": "How many paths failed last time, and `path`, `reason` and `next_try_at` of the first 20."
    " Bytes that are no text are lone surrogates.",
}
"""Keys of the status."""


def _control() -> str:
    commands = (
        (f"`{' '.join((c.name, *c.operands))}`", f"{c.help[:1].upper()}{c.help[1:]}. {c.details}".strip())
        for c in ctl.COMMANDS
    )
    options = (
        (f"`{ctl.spelled(option).strip()}`", f"{option.help[:1].upper()}{option.help[1:]}.") for option in ctl.OPTIONS
    )
    return roff.section(
        "CONTROL",
        roff.paragraph(
            "A daemon with --socket answers at a Unix socket, as soon as it begins and until it has ended. `clsync ctl`"
            " asks it, where `ctl` is the first word of the command line:"
        ),
        roff.items(commands),
        roff.items(options),
        roff.paragraph(
            "Without --socket the path is what the daemon's configuration says: the block `default`, or that of"
            " --config-block. Answers are lines of a name and a value, or with --json one object. That of `status` has:"
        ),
        roff.items(STATUS_TEXTS.items()),
        roff.paragraph(
            "Who may write to the socket may ask how things stand, and wait: that is root alone, unless --socket-own or"
            " --socket-mod say otherwise. Root, the owner of the socket, and its group if it may write may ask for"
            " everything. The protocol is the text protocol of clsync 0.4, so its library talks to this"
            " daemon, and `clsync ctl` to that of clsync 0.4. At most 64 clients are connected; one more sends away the"
            " one that has rested longest."
        ),
    )


def _verify() -> str:
    options = ((f"`--{o.name}`", f"{o.help[:1].upper()}{o.help[1:]}. {o.details}".strip()) for o in verify.OPTIONS)
    return roff.section(
        "VERIFY",
        roff.paragraph(
            "`clsync verify`, where `verify` is the first word of the command line, compares each destination with"
            " the watched directory and prints a line for each path that differs: what is missing or extra there, or"
            " which of type, content, size, mtime, mode, owner, group, xattrs and hard links. It takes the options of"
            " the daemon, so that both speak of the same, and these, which are not abbreviated:"
        ),
        roff.items(options),
        roff.paragraph(
            "If a daemon answers at --socket, it does the work: what differs is told only if it differs still when"
            " everything that was on its way has arrived, and nothing has happened to it while it was looked at again."
            " A path that changes all the time is left alone, and counted. The source is compared with the state as"
            " well, in lines of `index`; what is to be handed over goes through the daemon. Without a daemon a repair"
            " hands over nothing but what differs, and what changes meanwhile; a daemon that runs without a socket,"
            " and has a state, is noticed and left in peace."
        ),
        roff.paragraph(
            "What the rules reject does not count, nor what the destination cannot hold. A repair deletes no more"
            " than --max-delete allows. A local destination is compared by a process of low priority, any other one,"
            " or one for which the handler's arguments are your own, by dry runs of rsync: these do not see files that"
            " have become one at the destination and look alike, and with a rate no hard links across directories."
            " Exit code 0: all agree, or do so by now; 3: something differs; 4: a destination could not be compared."
        ),
        roff.paragraph(
            "--scrub-rate lets the daemon do the same all the time, slowly. `clsync ctl status` tells when the last"
            " pass ended, and how much it found."
        ),
        roff.example(
            "clsync verify -W /srv/data -D /mnt/mirror\n"
            "clsync verify -K www --checksum --repair\n"
            "clsync -W /srv/data -D /mnt/mirror --scrub-rate=500"
        ),
    )


def _privileges() -> str:
    return roff.section(
        "PRIVILEGES",
        roff.paragraph(
            "clsync does what its starter may do, and so do its handlers. Started as root, it can be made to do with less."
            " What is asked for and cannot be had ends the start (exit code 10). --debug names each step."
        ),
        roff.paragraph(
            "Another user: With --uid all its threads have the ids and groups of that user, and no capability but those"
            " of --preserve-capabilities: what reading the tree and running handlers needs. Handlers, hooks, and what"
            " clsync itself does at the destination, are run by --sync-handler-uid, root as a rule: mode copy does all its"
            " work in processes of its own then, and starts them for each batch. Where handlers are run by another user"
            " than root, their bounding set is what clsync keeps: sudo(8) gives them no more. The pid file and the status"
            " file belong to --uid."
        ),
        roff.paragraph(
            "This guards against mistakes. As long as clsync keeps CAP_SETUID it can become root; without it"
            " (`-C CAP_DAC_READ_SEARCH`) handlers are run by its own user. CAP_SYS_ADMIN, which fanotify needs, is as"
            " good as root too: --monitor=inotify goes without."
        ),
        roff.paragraph(
            "Another root: With --chroot, everything that options name is looked for inside, but for the configuration"
            " file, and the users and groups of these options. --pivot-root lets go of the rest of the system. A handler"
            " that runs as root can find its way out all the same, by /proc or by mounting something: give it another"
            " user. Programs have to be there: rsync, ssh, and what they need. Python, with clsync, is needed by modes"
            " so, rsyncso and python, and with --uid by mode copy, and by rules in mode rsyncdirect; without it the search"
            " for hard links takes time from the rest."
        ),
        roff.paragraph(
            "Out of reach: Mounts are hidden by --mountpoints, the network by --detach-network, shared memory and the"
            " like by --detach-ipc, devices by --forbid-devices. All of it counts for handlers, too, and for nobody else on"
            " the system."
        ),
        roff.example(_PRIVILEGES),
    )


_LAYERS = {
    "`landlock`": "What can be read is the watch directory, programs and libraries below /usr, and what the way to the"
    " destination takes: keys and configuration of ssh, names of hosts. What can be written is a local destination."
    " TCP only where the destination is remote; no signals to others. Linux 5.13.",
    "`seccomp`": "No system call that copying has no use for: mounts, namespaces, tracing, modules; no socket where the"
    " destination is local. On x86_64, aarch64 and riscv64.",
    "`mounts`": "A view of mounts in which all but the destination is read-only, for modes, owners, times and attributes as"
    " well, and in which no device can be opened at the destination. With CAP_SYS_ADMIN; Linux 5.12.",
    "`processes`": "rsync, and ssh below it, see no processes but their own, and so can signal no others; what they leave"
    " behind ends with them. The kept connection to a host is none of these. With CAP_SYS_ADMIN.",
    "`capabilities`": "Programs of root have those that making files equal takes. With CAP_SETPCAP.",
}


def _sandbox() -> str:
    return roff.section(
        "SANDBOX",
        roff.paragraph(
            "What clsync itself starts is confined by default: rsync and ssh with arguments of clsync's own, the processes"
            " of mode copy, and with --splitting the part without rights. So a symlink that somebody puts into the tree at"
            " the wrong moment leads nowhere. Handlers, hooks, and an rsync with a program or arguments of your own are"
            " not, unless --sandbox=on says so; nor is anything with --compat=0.4. Layers:"
        ),
        roff.items(_LAYERS.items()),
        roff.paragraph(
            "Layers that the system, or the container that root is in, cannot give are left out with one warning. One that"
            " is asked for by its name, or by"
            " `on`, ends the start then (exit code 10). Whether rsync can live in it is tried at the start; so is whether"
            " ssh finds its configuration. An ssh that is configured to run something (ProxyCommand and the like) is left"
            " alone."
        ),
        roff.paragraph(
            "`clsync doctor` tells what this machine can give. With options, and by --dry-run, it tells what a start with"
            " them would do: every step, what each process keeps, what is left out, and how to have it. Its exit code is"
            " that of such a start, as far as can be seen without changing anything."
        ),
    )


def _splitting() -> str:
    return roff.section(
        "SPLITTING",
        roff.paragraph(
            "Where root starts clsync, it is two processes (--splitting=auto, the default), except with --compat=0.4,"
            " and where something speaks against it: --uid, --gid, --preserve-capabilities or --inherit-capabilities; a"
            " configuration, rules or hooks that others than root may write; rules or hooks together with --chroot or"
            " --mountpoints. Then it is one process, and the log says why; so do --dry-run and `clsync doctor`. Where"
            " files of others or the system are the reason, it is a warning."
        ),
        roff.paragraph(
            "With --splitting=process the first process keeps the rights of its starter, less the capabilities it has"
            " no use for. It watches the tree, runs handlers and hooks with all rights, compares (VERIFY), and reads rules"
            " and configuration. Where it is root, it takes these and hooks only from files that nobody but root may write,"
            " nor put others in their place: all directories above are looked at as well, each time. The second one is"
            " nobody, or --uid and --gid, cannot open a file of the tree, cannot start anything, and can connect to"
            " nobody (--sandbox), but for the system log where messages go there. With --seccomp-filter it can make"
            " harmless system calls only, with"
            " --detach-network=non-privileged it has no network. It decides what is handed over and when, and serves the"
            " control socket. Signals go to the first process, whose number stands in the pid file. When one ends, so"
            " does the other. --preserve-capabilities is about the first process."
        ),
        roff.paragraph(
            "What the first process knew at the split, the second one knows as well: settings and environment. A clsync"
            " that is not started as root has no other user for it: it starts nothing, and can open all that clsync"
            " can. Handlers should not be run as the user of the second process, who could take them over: --uid is for"
            " it alone."
        ),
        roff.paragraph(
            "A second process that has not ended 15 seconds after SIGTERM or SIGINT is ended (exit code 1), unless a"
            " hook runs, or a handler that was told to end."
        ),
        roff.paragraph(
            "The second process cannot change what is run. By default everything can be set as without splitting: the"
            " first process hears itself what is asked for by those who may. Where splitting is asked for, `set` takes"
            " what is about time, tries and messages only: "
            + ", ".join(f"`{name}`" for name in sorted(FREE))
            + "; and hooks that are configured, or in --add-permitted-hook-files. Everything else is for the configuration"
            " file, which root alone should be able to write, and the blocks that --custom-signals names."
            " --check-execvp-arguments closes this way, too. A dump goes to --dump-dir, or to where nobody may write."
        ),
        roff.paragraph(
            "With --splitting=thread the two are threads of one process. That guards against mistakes, not against"
            " somebody who makes one of them run other code: they share their memory."
        ),
    )


def _state() -> str:
    return roff.section(
        "STATE",
        roff.paragraph(
            "With a state (--state-dir), clsync remembers what each destination is confirmed to hold, and what it has"
            " begun to hand over. The next start compares the watch directory with that, by metadata alone and without a"
            " look at the destination, and hands over what differs: a *warm start*. It counts as the initial sync: the"
            " phase is `initsync` until everything that differs was handed over once, its batches count as one for"
            " --max-iterations, also if there were none, and `clsync wait` waits for it. Names that the kernel has lost"
            " (queue overflow) and everything that was not watched for a while are found in the same way."
        ),
        roff.paragraph(
            "There is a state by default where clsync itself makes the destination equal: in mode copy, and in mode"
            " rsyncdirect with rsync and the lists of clsync. There is none with --compat, --ignore-exitcode,"
            " --skip-initialsync, --chroot, --mountpoints, nor with --full-initialsync beside rules: to ask"
            " for one there is an error. Such a run lets the next one with a state compare everything."
        ),
        roff.paragraph(
            "With --splitting the part without rights keeps the state, and its directory belongs to that user. The"
            " directories above must let others pass (mode 0711). When clsync is started without --splitting again, such a"
            " state is removed, and everything is compared."
        ),
        roff.paragraph(
            "The directory of a state, and all above it, must belong to root or to who runs clsync, and be closed for"
            " others. Above it, sticky ones like /tmp are as good: there a directory that somebody else has made under the"
            " same name is refused, not taken. Who has named it by --state-dir gets an error, others a run that keeps no"
            " state."
        ),
        roff.paragraph(
            "The state survives being killed at any instant. Another source, destination, file of rules or handler makes"
            " it void; one that is damaged is set aside. Everything is compared then, and the state made anew. What"
            " changes at a destination without clsync is not noticed: signal USR2 compares everything, as does a start"
            " without the state's directory. An empty local destination is noticed. Another clsync at the same"
            " destination, with another state or none, is such a change as well: names that it has brought, and the source"
            " has lost again meanwhile, stay until everything is compared."
        ),
        roff.paragraph(
            "A destination whose disk is not mounted when clsync starts is another destination: where it is mounted later"
            " it is compared by size and time, as a new one."
        ),
        roff.paragraph(
            "What was confirmed is flushed ten seconds after the start and every 30 seconds, if there is anything: the"
            " source, and local destinations, by syncfs(2); hosts behind ssh, on the connection that is kept, by `sync -f`."
            " What was confirmed since is handed over again after the next boot of either side."
            " A host that does not say whether it has booted (an rsync daemon, a forced command, a remote shell of your"
            " own, another system than Linux) is given again at a start, and after it was out of reach, what it was given"
            " within the last two minutes; what else it has lost with its power is found by `clsync verify` or USR2."
        ),
        roff.paragraph(
            "Where changes are found by looking at intervals (--monitor=poll), a file that came and went between two looks"
            " may stay at the destination until everything is compared."
        ),
    )


def _files() -> list[str]:
    return [
        roff.item(
            ", ".join(f"`{name}`" for name in ("~/.clsync.conf", *map(bytes.decode, CONFIG_FILES))),
            "See CONFIGURATION.",
        ),
        roff.item(
            "`/var/lib/clsync/*/`, `~/.local/state/clsync/*/`",
            "What is known of destinations (--state-dir): `state.db`, `state.mark`; `state.db.aside`: one that could not be"
            " used.",
        ),
        roff.item("`$TMPDIR/clsync-*/`", "List files, if the handler's arguments ask for them and -L is not given."),
    ]
