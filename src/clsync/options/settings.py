"""What the operator wants: command line over configuration block over inherited blocks over defaults."""

from __future__ import annotations

import os.path
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, NamedTuple

from clsync.errors import Exit, OperatorError
from clsync.options import values
from clsync.options.brake import Brake
from clsync.options.commandline import Given, means_nothing, not_yet, read_command_line
from clsync.options.configfile import Block as ConfigBlock
from clsync.options.configfile import ConfigFile, parse_config
from clsync.options.expansion import expand
from clsync.options.hours import Hours
from clsync.options.pertarget import PerTarget
from clsync.options.table import (
    ARGUMENTS_KEY,
    BY_NAME,
    ELSEWHERE,
    FIXED,
    LATER,
    OPTIONS,
    RECURSIVE_ARGUMENTS_KEY,
    RETIRED_VALUES,
    SECURE,
    Option,
    Takes,
)
from clsync.options.values import Invalid, nearest, shown, written

ReadFile = Callable[[bytes], bytes | None]
"""Returns the content of a file, None where there is none. Raises OSError."""

CONFIG_FILES: Final = (
    b"/etc/clsync/clsync.conf",
    b"/etc/clsync.conf",
    b"/usr/local/etc/clsync/clsync.conf",
    b"/usr/local/etc/clsync.conf",
)
DESTINATIONS_KEY: Final = "destination-dir"
NO_CONFIG_FILE: Final = b"/NULL/"
MODULE_MODES: Final = ("so", "rsyncso", "python")
"""Modes that load a module."""
_TASKS: Final = {None: 3, "rsyncdirect": 3, "copy": 2}
"""Processes and threads that syncing takes in a mode; one in all others."""
_WATCHING: Final = 2
"""Threads that following mounts takes, and what waits for a disk."""
PROGRAM_MODES: Final = ("simple", "shell", "rsyncshell", *MODULE_MODES)
"""Modes that need a program or module, and no destination: it knows it."""


@dataclass(frozen=True)
class Settings:
    """The values of all options; names as in the table, dashes made underscores. Times are in seconds."""

    watch_dir: bytes
    destination_dir: bytes | None
    mode: str | None
    sync_handler: bytes | None
    rules_file: bytes | None
    one_file_system: int
    exclude_mount_points: int
    acls: int
    xattrs: int
    delay_collect: float
    delay_sync: float
    delay_collect_bigfile: float
    threshold_bigfile: int
    poll_interval: float
    modification_signature: frozenset[str]
    cancel_syscalls: frozenset[str]
    monitor: str
    timeout_sync: float
    threading: str
    max_parallel: int
    max_delete: PerTarget[Brake]
    accept_target: int
    scrub_rate: PerTarget[int]
    scrub_checksum: int
    bwlimit: PerTarget[int]
    nice: PerTarget[int]
    io_class: PerTarget[str]
    retries: int
    ignore_failures: int
    ignore_exitcode: frozenset[int]
    lists_dir: bytes | None
    dont_unlink_lists: int
    rsync_inclimit: int
    rsync_prefer_include: int
    synclist_simplify: int
    have_recursive_sync: int
    skip_initialsync: int
    only_initialsync: int
    full_initialsync: int
    exit_on_no_events: int
    max_iterations: int
    sync_on_quit: int
    pre_exit_hook: bytes | None
    exit_hook: bytes | None
    standby_file: bytes | None
    sync_hours: Hours
    background: int
    uid: bytes | None
    gid: bytes | None
    preserve_capabilities: frozenset[str]
    inherit_capabilities: str
    privileged_uid: bytes | None
    privileged_gid: bytes | None
    sync_handler_uid: bytes | None
    sync_handler_gid: bytes | None
    sandbox: frozenset[str]
    chroot: bytes | None
    pivot_root: str
    mountpoints: tuple[bytes, ...]
    detach_network: str
    detach_ipc: int
    detach_miscellanea: int
    seccomp_filter: int
    forbid_devices: int
    cgroup_group_name: bytes
    cgroup_memory: int
    cgroup_pids: int
    cgroup_cpu: int
    splitting: str
    secure_splitting: int
    check_execvp_arguments: int
    add_permitted_hook_files: tuple[bytes, ...]
    label: bytes
    output: str
    verbose: int
    debug: int
    quiet: int
    pid_file: bytes | None
    status_file: bytes | None
    socket: bytes | None
    socket_mod: int
    socket_own: bytes | None
    socket_auth: str
    dump_dir: bytes | None
    state_dir: bytes | None
    config_file: bytes | None
    config_block: bytes
    custom_signals: Mapping[int, bytes]
    config_block_inherits: bytes | None
    compat: bool
    dry_run: int
    arguments: tuple[bytes, ...] | None = None
    """Arguments of the handler, not expanded; None: the mode's own."""
    recursive_arguments: tuple[bytes, ...] | None = None
    """The same of recursive runs (`--have-recursive-sync`)."""
    destinations: tuple[bytes, ...] = ()
    """All that `destination_dir` was set to, which has the last one."""
    given: frozenset[str] = frozenset()
    """Names of the options somebody has set."""
    warnings: tuple[str, ...] = field(default=())
    split_by_default: bool = False
    """Whether `--splitting=auto` has become `process`: then what may be changed is the same as without splitting."""
    unsplit: str = ""
    """Why `--splitting=auto` has come to nothing, where the operator's own options or files are the reason."""
    unsplit_by_options: bool = False
    """Whether that are his options: then it is meant."""

    def fixed(self) -> dict[str, Any]:
        """Return the values that cannot be changed while clsync runs, by their names here."""
        return {BY_NAME[name].key: getattr(self, BY_NAME[name].key) for name in FIXED}

    @property
    def is_split(self) -> bool:
        """Whether one part has the rights and another one decides; not known yet where it is `auto`."""
        return self.splitting in ("thread", "process")

    @property
    def sandbox_demanded(self) -> frozenset[str]:
        """Return the layers of the sandbox that have to be had; `on` stands for all."""
        return self.sandbox - {"auto", "off"}

    @property
    def group_limits(self) -> tuple[int, int, int]:
        """Return the most memory (bytes), processes, and percent of a processor, 0 each where there is no limit."""
        return self.cgroup_memory, self.cgroup_pids, self.cgroup_cpu

    def text(self, name: bytes) -> bytes | None:
        """Return what `%name%` stands for; None where there is no such option."""
        option = BY_NAME.get(name.decode("latin-1"))
        if option is None or option.takes is Takes.NOTHING or option.retired:
            return None
        return written(getattr(self, option.key)) or b""


class Block(NamedTuple):
    """A block of the configuration file that is laid over all that was written before."""

    name: bytes


class Assignment(NamedTuple):
    """An option that is set over all that was written before."""

    key: str
    text: bytes


Change = Block | Assignment


class HelpRequested(Exception):
    """`--help` was given."""


class VersionRequested(Exception):
    """`--version` was given."""


def load(
    argv: Sequence[bytes],
    environ: Mapping[bytes, bytes],
    read_file: ReadFile,
    pid: int = 0,
    changes: Sequence[Change] = (),
) -> Settings:
    """Return the settings of a command line (without the program's name) and its configuration file.

    `changes` were made while clsync ran, the latest one last. Raises OperatorError, HelpRequested, VersionRequested.
    """
    line = read_command_line(argv)
    for given in line.options:
        if given.option.name == "help":
            raise HelpRequested
        if given.option.name == "version":
            raise VersionRequested
    layers = _Layers(line.options, environ, pid)
    layers.note_operands(line.operands)
    layers.note_arguments(ARGUMENTS_KEY, line.argument_line, "----")
    layers.note_arguments(RECURSIVE_ARGUMENTS_KEY, line.recursive_line, "-----")
    try:
        layers.read_config(read_file, environ, changes)
        by_key: dict[str, Any] = {
            option.key: layers.value(option.name) for option in OPTIONS if option.takes is not Takes.NOTHING
        }
        if by_key["secure_splitting"]:
            by_key = _secure(by_key, layers.given)
        settings = Settings(
            **by_key,
            arguments=layers.arguments.get(ARGUMENTS_KEY),
            recursive_arguments=layers.arguments.get(RECURSIVE_ARGUMENTS_KEY),
            destinations=layers.destinations(),
            given=frozenset(layers.given),
            warnings=tuple(layers.warnings),
        )
        settings = replace(settings, warnings=(*settings.warnings, *_doubts(settings)))
        check(settings)
    except OperatorError as error:
        error.warnings = tuple(layers.warnings)
        raise
    return settings


def _secure(by_key: dict[str, Any], given: Collection[str]) -> dict[str, Any]:
    """Return the values with those that --secure-splitting stands for; what is for the worker needs one."""
    found = by_key | {BY_NAME[name].key: value for name, value in SECURE.items() if name not in given}
    if found["splitting"] == "auto":
        found["splitting"] = "process"
    if found["splitting"] == "off" and "seccomp-filter" not in given:
        found["seccomp_filter"] = 0
    return found


def value_of(
    name: str, argv: Sequence[bytes], environ: Mapping[bytes, bytes], read_file: ReadFile
) -> tuple[object, list[str]]:
    """Return what a daemon with this command line has for one option, and warnings. Raises OperatorError.

    Nothing else is checked: the rest of its command line need not be known.
    """
    layers = _Layers(read_command_line(argv).options, environ, 0)
    layers.read_config(read_file, environ)
    return layers.value(name), layers.warnings


class _Layers:
    """All that was written, most important first; values are made when they are asked for."""

    def __init__(self, line: Iterable[Given], environ: Mapping[bytes, bytes], pid: int) -> None:
        self.given: dict[str, list[Given]] = {}
        self.arguments: dict[str, tuple[bytes, ...] | None] = {}
        """Argument lines by their keys; None: the mode's own."""
        self.warnings: list[str] = []
        self._pid, self._values = pid, dict[str, object]()
        self._at_work: list[str] = []
        for given in line:
            if not self._retired(given):
                self.given.setdefault(given.option.name, []).append(given)
        self._compat_environment = environ.get(b"CLSYNC_COMPAT")

    def note_operands(self, operands: list[bytes] | None) -> None:
        """Take handler arguments from the command line: one that is empty stands for the mode's own."""
        if operands is not None:
            self.arguments[ARGUMENTS_KEY] = None if operands == [b""] else tuple(operands)

    def note_arguments(self, key: str, line: bytes | None, where: str) -> None:
        """Take handler arguments that are written as one line, unless they are known. Raises OperatorError."""
        if line is None or key in self.arguments:
            return
        try:
            self.arguments[key] = values.argument_line(line, None) or None
        except Invalid as error:
            raise OperatorError(f"{where}: {error.reason}", error.hint) from None

    def read_config(
        self, read_file: ReadFile, environ: Mapping[bytes, bytes], changes: Sequence[Change] = ()
    ) -> None:
        """Add the configuration block and those it inherits from, and lay changes over all of it."""
        config = self._config(read_file, environ)
        if config is not None:
            self._add_own_block(config)
            self._values.clear()
        self._lay_over(changes, config)
        signals = self.value("custom-signals")
        assert isinstance(signals, dict)
        for number, block in signals.items():
            _demand_block(config, block, f"--custom-signals {number}:{shown(block)}")
        self._values.clear()

    def _lay_over(self, changes: Sequence[Change], config: ConfigFile | None) -> None:
        given, arguments = self.given, self.arguments
        self.given, self.arguments = {}, {}
        for change in reversed(changes):
            if isinstance(change, Assignment):
                _demand_option(change.key)
                self._add(change.key, change.text, f"set {change.key}", change.key in self.given)
                continue
            for block in _demand_block(config, change.name, "the signal's block").chain(change.name, None):
                assert config is not None
                self._add_block(config, block)
        for name, layer in given.items():
            self.given.setdefault(name, layer)
        self.arguments = arguments | self.arguments

    def _add_own_block(self, config: ConfigFile) -> None:
        name = self.value("config-block")
        assert isinstance(name, bytes)
        inherits = self.value("config-block-inherits") if "config-block-inherits" in self.given else None
        assert inherits is None or isinstance(inherits, bytes)
        if name not in config.blocks and "config-block" in self.given:
            known = ", ".join(shown(b) for b in config.blocks) or "no block"
            self._without_block(f"{config.name} has no block [{shown(name)}]", f"the file has: {known}")
        for block in list(config.chain(name, inherits)):
            self._add_block(config, block)

    def _add_block(self, config: ConfigFile, block: ConfigBlock) -> None:
        for key, lines in block.items():
            known = key in self.given
            # Destinations add up, of anything else the last line counts.
            for text, number in lines if key == DESTINATIONS_KEY else lines[-1:]:
                self._add(key, text, f"{config.name}, line {number}: {key}", known)

    def _add(self, key: str, text: bytes, where: str, known: bool) -> None:
        """Take a key, unless it is `known` from something more important. Raises OperatorError."""
        if key in (ARGUMENTS_KEY, RECURSIVE_ARGUMENTS_KEY):
            self.note_arguments(key, text, where)
            return
        option = BY_NAME.get(key)
        if option is None or option.takes is Takes.NOTHING:
            if key in LATER:
                raise not_yet(where)
            if key in ELSEWHERE:
                raise means_nothing(where, key)
            guess = nearest(key, BY_NAME)
            self._warn(f"{where}: there is no such option" + (f", did you mean {guess}?" if guess else ""))
            return
        given = Given(option, text, where)
        if not known and not self._retired(given):
            self.given.setdefault(option.name, []).append(given)

    def _retired(self, given: Given) -> bool:
        """Tell whether an option has no effect any more; say so."""
        if given.option.retired:
            self._warn(f"{given.where} has no effect: {given.option.retired}; leave it out")
        return bool(given.option.retired)

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)

    def _config(self, read_file: ReadFile, environ: Mapping[bytes, bytes]) -> ConfigFile | None:
        asked = self.value("config-file")
        if asked == NO_CONFIG_FILE:
            return None
        home = environ.get(b"HOME")
        searched = ((home + b"/.clsync.conf",) if home else ()) + CONFIG_FILES
        for name in (asked,) if isinstance(asked, bytes) else searched:
            try:
                text = read_file(name)
            except OSError as error:
                if asked is None and "config-block" not in self.given:
                    self.warnings.append(f"configuration file {shown(name)} is left out: {error.strerror}")
                    continue
                raise OperatorError(
                    f"configuration file {shown(name)}: {error.strerror}", "see that it can be read", Exit.FILES
                ) from None
            if text is not None:
                return parse_config(text, shown(name))
        if isinstance(asked, bytes):
            raise OperatorError(
                f"configuration file {shown(asked)} does not exist",
                "name another one, or /NULL/ for none",
                Exit.FILES,
            )
        if "config-block" in self.given:
            places = ", ".join(map(shown, searched))
            self._without_block("--config-block without a configuration file", f"none of these exists: {places}")
        return None

    def _without_block(self, what: str, hint: str) -> None:
        """Go on without the block that was asked for, if the command line says itself what to do.

        Scripts for clsync 0.4 name their instance by a block that need not exist. Raises OperatorError.
        """
        if "watch-dir" not in self.given or "config-file" in self.given:
            raise OperatorError(what, hint)
        self._warn(f"{what}: the command line alone counts")

    def value(self, name: str) -> object:
        """Return the value of an option, macros in it replaced. Raises OperatorError."""
        if name not in self._values:
            if name in self._at_work:
                circle = " -> ".join([*self._at_work, name])
                raise OperatorError(f"--{name} stands for itself: {circle}", "write the value instead of the macro")
            self._at_work.append(name)
            self._values[name] = self._made(BY_NAME[name])
            self._at_work.pop()
        return self._values[name]

    def _made(self, option: Option) -> object:
        value: Any = self._default(option)
        if isinstance(value, bytes):
            value = expand(value, lambda name: self._macro(name, f"default of --{option.name}"))
        for given in self.given.get(option.name, ()):
            text = self._expanded(given)
            try:
                value = option.parse(text, value)
            except Invalid as error:
                what = f"{given.where}: " if given.text is not None else f"{given.where} "
                raise OperatorError(f"{what}{error.reason}", error.hint) from None
            if isinstance(value, str) and (option.name, value) in RETIRED_VALUES:
                old = value
                value, instead = RETIRED_VALUES[option.name, value]
                self._warn(f"{given.where}: there is no {option.name} {old} any more; {instead}")
        return value

    def _expanded(self, given: Given) -> bytes | None:
        """Return the text of a value, macros in it replaced."""
        return expand(given.text, lambda name: self._macro(name, given.where)) if given.text is not None else None

    def destinations(self) -> tuple[bytes, ...]:
        """Return all destinations. Raises OperatorError."""
        if self.value("compat"):
            last = self.value(DESTINATIONS_KEY)
            return (last,) if isinstance(last, bytes) else ()
        found: list[bytes] = []
        for given in self.given.get(DESTINATIONS_KEY, ()):
            text = self._expanded(given)
            found = [*found, text] if text else []
        return tuple(found)

    def _default(self, option: Option) -> object:
        if option.name == "compat":
            if self._compat_environment is None:
                return False
            try:
                return values.compat(self._compat_environment, False)
            except Invalid as error:
                raise OperatorError(f"CLSYNC_COMPAT: {error.reason}", error.hint) from None
        if option.old_default is not None and self.value("compat"):
            return option.old_default
        return option.default

    def _macro(self, name: bytes, where: str) -> bytes | None:
        if name == b"PID":
            return b"%d" % self._pid
        option = BY_NAME.get(name.decode("latin-1"))
        if option is None:
            self._warn(f"{where}: %{shown(name)}% is no option and stays as it is")
            return None
        return written(self.value(option.name)) or b""


def _demand_option(key: str) -> None:
    known = {*BY_NAME, ARGUMENTS_KEY, RECURSIVE_ARGUMENTS_KEY}
    if key not in known or (key in BY_NAME and BY_NAME[key].takes is Takes.NOTHING):
        guess = nearest(key, BY_NAME)
        raise OperatorError(
            f"set {key}: there is no such option", f"did you mean {guess}?" if guess else "see --help"
        )


def _demand_block(config: ConfigFile | None, block: bytes, where: str) -> ConfigFile:
    if config is None:
        raise OperatorError(f"{where}: there is no configuration file", "name one with --config-file")
    if block not in config.blocks:
        known = ", ".join(shown(name) for name in config.blocks) or "no block"
        raise OperatorError(f"{where}: {config.name} has no block [{shown(block)}]", f"the file has: {known}")
    return config


def check(settings: Settings) -> None:
    """Refuse what cannot be meant together. Raises OperatorError."""
    s = settings
    if not s.watch_dir:
        raise OperatorError("no watch directory", "say what to watch: clsync -W SOURCE -D DESTINATION")
    for a, b in (
        ("skip-initialsync", "exit-on-no-events"),
        ("skip-initialsync", "only-initialsync"),
        ("skip-initialsync", "full-initialsync"),
        ("only-initialsync", "exit-on-no-events"),
    ):
        if getattr(s, BY_NAME[a].key) and getattr(s, BY_NAME[b].key):
            raise OperatorError(f"--{a} and --{b} exclude each other", "leave one of them out")
    for name in ("socket-mod", "socket-own", "socket-auth"):
        if name in s.given and s.socket is None:
            raise OperatorError(f"--{name} without a control socket", "add --socket, or leave it out")
    for name in ("only-initialsync", "exit-on-no-events", "max-iterations", "pre-exit-hook"):
        if s.threading != "off" and getattr(s, BY_NAME[name].key):
            raise OperatorError(f"--threading={s.threading} and --{name} exclude each other", "leave one of them out")
    _check_privileges(s)
    if s.modification_signature and s.cancel_syscalls:
        raise OperatorError(
            "--modification-signature and --cancel-syscalls=mon_stat exclude each other", "leave one of them out"
        )
    if s.mode in PROGRAM_MODES and s.sync_handler is None:
        what = "module" if s.mode in MODULE_MODES else "program"
        raise OperatorError(f"--mode={s.mode} needs a {what}", "name it with --sync-handler")
    for name, more in (("have-recursive-sync", ()), ("synclist-simplify", ("so", "python"))):
        if getattr(s, BY_NAME[name].key) and s.mode in ("rsyncdirect", "rsyncshell", "rsyncso", "copy", *more):
            raise OperatorError(f"--{name} has no meaning in mode {s.mode}", "leave it out, or use mode shell")
    if s.recursive_arguments is not None and not s.have_recursive_sync:
        raise OperatorError("arguments of recursive runs (---) without recursive runs", "add --have-recursive-sync")
    if s.mode is None and s.sync_handler is not None and os.path.basename(s.sync_handler) != b"rsync":
        raise OperatorError(
            f"--sync-handler {shown(s.sync_handler)} without a mode", "add --mode=direct, simple, shell or rsyncshell"
        )
    for name in ("max-delete", "scrub-rate", "bwlimit", "nice", "io-class"):
        for destination, _ in getattr(s, BY_NAME[name].key).some:
            if destination not in s.destinations:
                raise OperatorError(
                    f"--{name}: {shown(destination)} is no destination", "name it as --destination-dir does"
                )
    if s.bwlimit and s.mode in ("direct", *PROGRAM_MODES):
        raise OperatorError(f"--bwlimit has no meaning in mode {s.mode}", "the handler has to limit itself")
    if s.mode == "copy" and (s.sync_handler is not None or s.arguments is not None):
        raise OperatorError(
            "--mode=copy runs no program", "leave --sync-handler and the arguments out, or use mode direct"
        )
    if s.mode == "python" and s.arguments is not None:
        raise OperatorError("--mode=python takes no arguments", "leave them out: the function is given a batch")
    if s.destination_dir is None and s.arguments is None and s.mode not in PROGRAM_MODES:
        raise OperatorError("no destination", "say where to: clsync -W SOURCE -D DESTINATION")


def _doubts(s: Settings) -> Iterable[str]:
    """Yield warnings on what is hardly meant together."""
    if s.pivot_root != "off" and s.mountpoints:
        yield "--pivot-root and --mountpoints: the old root goes out of sight in any case"


def _check_privileges(s: Settings) -> None:
    """Refuse what cannot be meant together of privileges. Raises OperatorError."""
    if s.pivot_root != "off" and s.chroot is None:
        raise OperatorError(f"--pivot-root={s.pivot_root} without a new root", "name it with --chroot")
    if "cgroup-group-name" in s.given and not s.forbid_devices and not any(s.group_limits):
        raise OperatorError(
            "--cgroup-group-name without --forbid-devices",
            "add it, or --cgroup-memory, --cgroup-pids or --cgroup-cpu; or leave the name out",
        )
    least = 1 + s.is_split + _TASKS.get(s.mode, 1) + (0 if s.only_initialsync else _WATCHING)
    if 0 < s.cgroup_pids < least and s.splitting != "auto":  # which is decided before it is checked again
        raise OperatorError(
            f"--cgroup-pids={s.cgroup_pids} is too small: clsync itself and what syncs are {least} processes and threads",
            "allow 20 and more: what compares, keeps a state or runs side by side takes some as well",
        )
    if s.sandbox_demanded and s.mode not in (None, "rsyncdirect", "copy"):
        raise OperatorError(
            f"--sandbox has no meaning in mode {s.mode}",
            "it is for what clsync itself starts: narrow your program with --sync-handler-uid, --chroot or the like",
        )
    if s.splitting != "off":
        return
    if s.detach_network == "non-privileged":
        raise OperatorError(
            "--detach-network=non-privileged without --splitting",
            "there is one process that does everything: use --detach-network=everywhere, or leave it out",
        )
    if s.seccomp_filter > 0:
        raise OperatorError(
            "--seccomp-filter without --splitting",
            "a process that has to run handlers cannot be kept from running programs: leave it out",
        )


def table_matches() -> bool:
    """Tell whether `Settings` has a field for every option with a value, and no other."""
    extra = {"destinations", "arguments", "recursive_arguments", "given", "warnings"}
    extra |= {"unsplit", "unsplit_by_options", "split_by_default"}
    return {f.name for f in fields(Settings)} - extra == {o.key for o in OPTIONS if o.takes is not Takes.NOTHING}
