"""Options: every form of the original's command line, configuration blocks, macros, and what is wrong said once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from clsync.errors import Exit, OperatorError
from clsync.options import HelpRequested, Settings, VersionRequested, load
from clsync.options.configfile import parse_config
from clsync.options.expansion import expand, macros
from clsync.options.reference import reference
from clsync.options.settings import table_matches
from clsync.options.table import LATER, OPTIONS, RETIRED, SIGNATURE_FIELDS, Option, Takes
from clsync.options.values import argument_line

BASE = (b"-W/src", b"-D/dst")


def loaded(*argv: bytes, config: bytes | None = None, environ: dict[bytes, bytes] | None = None) -> Settings:
    """Read a command line; `config` is what stands in the file `conf`."""
    return load(argv, environ or {}, lambda name: config if name == b"conf" else None, pid=42)


def refused(*argv: bytes, config: bytes | None = None, **how: dict[bytes, bytes]) -> OperatorError:
    with pytest.raises(OperatorError) as caught:
        loaded(*argv, config=config, **how)
    assert caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value


# -- the command line ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ((b"-t5",), ("delay_collect", 5.0)),
        ((b"-t", b"5"), ("delay_collect", 5.0)),
        ((b"--delay-collect=0.5",), ("delay_collect", 0.5)),
        ((b"--delay-collect", b"0x10"), ("delay_collect", 16.0)),
        ((b"-t010",), ("delay_collect", 8.0)),
        ((b"-t-1",), ("delay_collect", -1.0)),
        ((b"-t", b"1", b"-t2"), ("delay_collect", 2.0)),
        ((b"--max-iter=3",), ("max_iterations", 3)),
        ((b"-d", b"-d"), ("debug", 2)),
        ((b"-dd",), None),
        ((b"-d3",), ("debug", 3)),
        ((b"--debug=3",), ("debug", 3)),
        ((b"-d3", b"-d"), ("debug", 4)),
        ((b"-d3", b"--debug=0"), ("debug", 0)),
        ((b"-v9",), ("verbose", 3)),
        ((b"-M", b"direct,x"), ("mode", "direct")),
        ((b"--monitor=",), ("monitor", "auto")),
        ((b"-l", b""), ("label", b"")),
        ((b"-R",  b""), ("rules_file", None)),
        ((b"-x23,24", b"-x", b"5"), ("ignore_exitcode", frozenset({23, 24, 5}))),
        ((b"-x23", b"-x0,7"), ("ignore_exitcode", frozenset({7}))),
        ((b"-B", b"4294967296"), ("threshold_bigfile", 4294967296)),
        ((b"--only-initial",), ("only_initialsync", 1)),
    ],
)  # fmt: skip
def test_forms_of_options(argv: tuple[bytes, ...], expected: tuple[str, object] | None) -> None:
    if expected is None:
        refused(*BASE, *argv)
    else:
        assert getattr(loaded(*BASE, *argv), expected[0]) == expected[1]


def test_the_command_line_of_the_manual_of_the_original() -> None:
    s = loaded(
        *b"--exit-on-no-events --max-iterations=20 --mode=rsyncdirect -W/var/www_new -Srsync --"
        b" %RSYNC-ARGS% /var/www_new/ /var/www/".split()
    )
    assert (s.exit_on_no_events, s.max_iterations, s.mode) == (1, 20, "rsyncdirect")
    assert (s.watch_dir, s.sync_handler, s.destination_dir) == (b"/var/www_new", b"rsync", None)
    assert s.arguments == (b"%RSYNC-ARGS%", b"/var/www_new/", b"/var/www/")


def test_everything_after_two_dashes_is_for_the_handler() -> None:
    assert loaded(*BASE, b"--", b"-W", b"--", b"x", b"").arguments == (b"-W", b"--", b"x", b"")
    assert loaded(b"one", *BASE, b"-d", b"3").arguments == (b"one", b"3"), "operands may stand anywhere"
    assert loaded(*BASE).arguments is None
    assert loaded(*BASE, b"--", b"").arguments is None, "one empty operand: the mode's own"
    assert loaded(*BASE, b"----=a 'b c'").arguments == (b"a", b"b c")


def test_bytes_that_are_no_text_pass() -> None:
    assert loaded(b"-W/\xff", b"-D", b"\xfe\n").watch_dir == b"/\xff"


@pytest.mark.parametrize("option", [o for o in OPTIONS if o.takes is not Takes.NOTHING], ids=lambda o: o.name)
def test_every_option_can_be_given_by_both_names(option: Option) -> None:
    texts = {
        "mode": b"direct",
        "sync-handler": b"rsync",
        "output": b"stdout",
        "monitor": b"poll",
        "compat": b"0.4",
        "config-file": b"/NULL/",
        "socket-auth": b"null",
        "modification-signature": b"uid",
        "cancel-syscalls": b"mon_stat",
        "threading": b"safe",
        "max-delete": b"20%",
        "custom-signals": b"40:2",
        "sync-hours": b"22:00-06:00",
        "io-class": b"idle",
        "preserve-capabilities": b"CAP_KILL",
        "inherit-capabilities": b"clsync",
        "pivot-root": b"auto",
        "mountpoints": b"/proc",
        "detach-network": b"everywhere",
        "chroot": b"/new",
        "seccomp-filter": b"0",
        "sandbox": b"off",
    }
    text = texts.get(option.name, b"2")
    more: tuple[bytes, ...] = (b"-Hconf",) if option.name in ("config-block", "custom-signals") else ()
    more += (b"-s/run/x",) if option.name.startswith("socket-") else ()
    more += (b"--chroot=/new",) if option.name == "pivot-root" else ()
    more += (b"--forbid-devices",) if option.name == "cgroup-group-name" else ()
    long = loaded(*BASE, *more, b"--" + option.name.encode() + b"=" + text, config=b"[2]\n")
    assert option.name in long.given
    if option.short:
        short = loaded(*BASE, *more, b"-" + option.short.encode() + text, config=b"[2]\n")
        assert getattr(short, option.key) == getattr(long, option.key)


def test_the_mode_of_the_control_socket() -> None:
    assert loaded(*BASE, b"-s/x").socket_mod == 0o600
    s = loaded(*BASE, b"-s/x", b"--socket-mod=0660", b"-l%socket-mod%")
    assert (s.socket_mod, s.label) == (0o660, b"0660")


def test_the_settings_have_a_field_for_every_option() -> None:
    assert table_matches()


def test_help_and_version_come_first() -> None:
    for argv, wanted in (((b"-h", b"-t", b"nonsense"), HelpRequested), ((b"--version",), VersionRequested)):
        with pytest.raises(wanted):
            loaded(*argv)


@pytest.mark.parametrize(
    ("argv", "message", "hint"),
    [
        ((b"-t5s",), "-t: '5s' is not a number of seconds", "without a unit"),
        ((b"--delay-collect=5s",), "--delay-collect: '5s' is not a number of seconds", "without a unit"),
        ((b"--delay-sync=-1",), "--delay-sync: -1.0 is too small", "the least is 0"),
        ((b"-tnan",), "-t: 'nan' is not a number of seconds", "0.5"),
        ((b"-r", b"x"), "-r: 'x' is not a number", "whole number"),
        ((b"-r09",), "-r: '09' is not a number; a number that begins with 0 is octal", "whole number"),
        ((b"-r99999999999",), "-r: 99999999999 is too large", "the most is 2147483647"),
        ((b"-r1_0",), "-r: '1_0' is not a number", "whole number"),
        ((b"-M", b"rsyncdirct"), "-M: 'rsyncdirct' is not known here", "did you mean rsyncdirect?"),
        ((b"-M1",), "-M: '1' is not known here", "possible: rsyncdirect"),
        ((b"--mode=",), "--mode: '' is not known here", "possible"),
        ((b"--monitor=kqueue",), "--monitor: 'kqueue' is not known here", "fanotify"),
        ((b"--modification-signature=uid,gud",), "--modification-signature: 'gud' is not known here", "did you mean"),
        ((b"--modification-signature=*", b"--cancel-syscalls=mon_stat"), "--modification-signature and", "leave"),
        ((b"--cancel-syscalls=*",), "--cancel-syscalls: '*' is not known here", "mon_stat"),
        ((b"--exit-on-sync-skip",), "--exit-on-sync-skipping is about the audit trail of FreeBSD", "leave it out"),
        ((b"-A",), "unknown option -A", "--help"),
        ((b"-x", b"300"), "-x: '300' is not an exit code", "23,24"),
        ((b"-W/a\0b",), "-W: holds a NUL byte", ""),
        ((b"--wathc-dir=/x",), "unknown option --wathc-dir", "did you mean --watch-dir?"),
        ((b"-j",), "unknown option -j", "--help"),
        ((b"-\xff",), "unknown option -\\xff", "--help"),
        ((b"--de=1",), "--de is ambiguous", "--destination-dir, --delay-collect"),
        ((b"--=1",), "unknown option --", "--help"),
        ((b"-t",), "-t needs a value", "write -t SECONDS"),
        ((b"--label",), "--label needs a value", "write --label TEXT"),
        ((b"--help=x",), "--help takes no value, but got 'x'", "write --help alone"),
        ((b"-s/x", b"--socket-mod=rw"), "--socket-mod: 'rw' is not a mode", "octal digits"),
        ((b"-s/x", b"--socket-mod=1777"), "--socket-mod: '1777' is not a mode", "octal digits"),
        ((b"-s/x", b"--socket-mod="), "--socket-mod: '' is not a mode", "octal digits"),
        ((b"-s/x", b"--socket-auth=pam"), "--socket-auth: 'pam' is not known here", "possible: null"),
        ((b"--socket-mod=660",), "--socket-mod without a control socket", "add --socket"),
        ((b"--socket-own=root",), "--socket-own without a control socket", "add --socket"),
        ((b"--socket-auth=null",), "--socket-auth without a control socket", "add --socket"),
        ((b"--cluster-ip=x",), "--cluster-ip is not available in this version of clsync", "leave it out"),
        ((b"--uid=",), "--uid: no name and no number", "0 is root"),
        ((b"--sync-handler-gid= ",), "--sync-handler-gid: no name and no number", "0 is root"),
        ((b"-u4294967295",), "-u: 4294967295 is too large", "4294967294"),
        ((b"-C", b"FOO"), "-C: 'CAP_FOO' is no capability", "capabilities(7)"),
        ((b"--inherit-capabilities=al",), "--inherit-capabilities: 'al' is not known here", "dont-touch"),
        ((b"--pivot-root=auto",), "--pivot-root=auto without a new root", "--chroot"),
        ((b"--mountpoints=/a,b",), "--mountpoints: 'b' is not an absolute path", "from / on"),
        (
            (b"--splitting=off", b"--detach-network=non-privileged"),
            "--detach-network=non-privileged without --splitting",
            "everywhere",
        ),
        ((b"--cgroup-memory=x",), "--cgroup-memory: 'x' is not a number", "with a unit: 512k"),
        ((b"--cgroup-memory=g",), "--cgroup-memory: 'g' is not a number", "with a unit: 512k"),
        ((b"--cgroup-memory=08m",), "--cgroup-memory: '08m' is not a number; a number that begins with 0", "512k"),
        ((b"--bwlimit=5x",), "--bwlimit: '5x' is not a number", "with a unit: 512k"),
        ((b"--detach-ipc=off",), "--detach-ipc: 'off' is not a number", "whole number"),
        ((b"--splitting=off", b"--seccomp-filter"), "--seccomp-filter without --splitting", "leave it out"),
        ((b"--cgroup-group-name=x",), "--cgroup-group-name without --forbid-devices", "add it"),
        ((b"--forbid-devices", b"--cgroup-group-name=../x"), "--cgroup-group-name: '../x' is no name", "relative"),
        ((b"-c",), "-c (--cluster-iface) is not available in this version of clsync", "leave it out"),
        ((b"----='a",), "----: the quotation mark ' is not closed", "add '"),
        (
            (b"--only-initialsync", b"--skip-initialsync"),
            "--skip-initialsync and --only-initialsync exclude",
            "leave",
        ),
        ((b"-Msimple",), "--mode=simple needs a program", "--sync-handler"),
        ((b"-Mso",), "--mode=so needs a module", "--sync-handler"),
        ((b"-Scp",), "--sync-handler cp without a mode", "--mode=direct"),
        ((b"-Mcopy", b"x"), "--mode=copy runs no program", "mode direct"),
    ],
)
def test_what_is_wrong_is_named_with_a_hint(argv: tuple[bytes, ...], message: str, hint: str) -> None:
    error = refused(*BASE, *argv) if hint else None
    if error is None:
        with pytest.raises(OperatorError) as caught:
            loaded(*BASE, *argv)
        error = caught.value
    assert error.message.startswith(message)
    assert hint in error.hint
    assert error.code == 22, "as in the original"


def test_what_has_to_be_said() -> None:
    assert refused(b"-D/dst").message == "no watch directory"
    assert refused(b"-W/src").message == "no destination"
    assert loaded(b"-W/src", b"--", b"x").destination_dir is None


@pytest.mark.parametrize("name", sorted(LATER))
def test_options_that_come_later_are_told_apart_from_unknown_ones(name: str) -> None:
    if name != "---":
        assert "not available in this version" in refused(*BASE, b"--" + name.encode()).message


@pytest.mark.parametrize("option", RETIRED)
def test_switches_for_the_inside_of_the_c_program_are_told_once(option: Option) -> None:
    config = f"[default]\n{option.name} = 1\n".encode()
    for settings in (
        loaded(*BASE, f"--{option.name}".encode(), b"--monitor=poll"),
        loaded(*BASE, b"-Hconf", config=config),
    ):
        (warning,) = settings.warnings
        assert f"{option.name} has no effect: {option.retired}" in warning
    assert option.name in reference()


def test_a_monitor_that_is_gone_is_replaced() -> None:
    settings = loaded(*BASE, b"-Hconf", config=b"[default]\nmonitor = gio\n")
    assert settings.monitor == "auto"
    (warning,) = settings.warnings
    assert warning.endswith(
        "monitor: there is no monitor gio any more; clsync asks the kernel itself: --monitor=auto is used"
    )


def test_signatures_add_up() -> None:
    def fields(*texts: bytes) -> frozenset[str]:
        return loaded(*BASE, *(b"--modification-signature=" + text for text in texts)).modification_signature

    assert fields(b"uid,gid", b"mode") == {"uid", "gid", "mode"}
    assert fields(b"*") == set(SIGNATURE_FIELDS) - {"nlink"}
    assert fields(b"*", b"nlink") == set(SIGNATURE_FIELDS)
    assert fields(b"uid", b"") == set()


# -- the configuration file ------------------------------------------------------------------------------------

CONFIG = b"""\
# a comment
  [default]
watch-dir = /srv/%label%
  destination-dir=/mnt/%label%
label = web
delay-collect = 7

[base]
delay-collect = 1
delay-sync = 2
retries = 3
-- = "a b" %INCLUDE-LIST%

[middle]
config-block-inherits = base
delay-sync = 20
[top]
config-block-inherits = middle
watch-dir = /top
label =
[default]
retries = 9
"""


def test_a_block_is_read_and_macros_are_replaced_whatever_the_order() -> None:
    s = loaded(b"-Hconf", config=CONFIG)
    assert (s.watch_dir, s.destination_dir, s.delay_collect, s.retries) == (b"/srv/web", b"/mnt/web", 7.0, 9)
    assert s.given >= {"watch-dir", "label", "retries"}


def test_the_command_line_stands_above_the_file() -> None:
    s = loaded(b"-Hconf", b"-l", b"mail", b"-t1", config=CONFIG)
    assert (s.watch_dir, s.delay_collect) == (b"/srv/mail", 1.0)


def test_blocks_inherit_along_a_chain() -> None:
    s = loaded(b"-Hconf", b"-Ktop", config=CONFIG)
    assert (s.watch_dir, s.label, s.delay_sync, s.delay_collect, s.retries) == (b"/top", b"", 20.0, 1.0, 3)
    assert s.arguments == (b"a b", b"%INCLUDE-LIST%")
    other = loaded(b"-Hconf", b"-Ktop", b"--config-block-inherits=base", config=CONFIG)
    assert other.delay_sync == 2.0


def test_arguments_of_the_command_line_replace_those_of_the_file() -> None:
    assert loaded(b"-Hconf", b"-Ktop", b"--", b"x", config=CONFIG).arguments == (b"x",)


def test_macros() -> None:
    s = loaded(*BASE, b"-l", b"%PID%-%watch-dir%-%%-%", b"--pid-file=%label%.%nosuch%")
    assert s.label == b"42-/src-%-%"
    assert s.pid_file == b"42-/src-%-%.%nosuch%"
    assert s.warnings == ("--pid-file: %nosuch% is no option and stays as it is",)
    assert s.text(b"destination-dir") == b"/dst"
    assert s.text(b"rules-file") == b""
    assert s.text(b"delay-sync") == b"1"
    assert s.text(b"INCLUDE-LIST") is None
    assert refused(*BASE, b"-l", b"%output%x%label%").message == "--label stands for itself: label -> label"


def test_an_unknown_key_is_a_warning_with_its_place() -> None:
    s = loaded(b"-Hconf", config=b"[default]\nwatch-dir=/a\ndestination-dir=/b\nretrys = 3\n")
    assert s.warnings == ("conf, line 4: retrys: there is no such option, did you mean retries?",)


@pytest.mark.parametrize(
    ("config", "argv", "message"),
    [
        (b"[default]\nnonsense\n", (), "conf, line 2: 'nonsense' is neither a [block] nor key = value"),
        (b"\n= x\n", (), "conf, line 2: '= x' is neither a [block] nor key = value"),
        (b"[]\n", (), "conf, line 1: '[]' is neither a [block] nor key = value"),
        (b"retries = 3\n", (), "conf, line 1: a key before the first [block]"),
        (b"[default]\n\nretries = x\n", (), "conf, line 3: retries: 'x' is not a number"),
        (b"[default]\n-- = 'a\n", (), "conf, line 2: --: the quotation mark ' is not closed"),
        (b"[default]\ncluster-ip = x\n", (), "conf, line 2: cluster-ip is not available in this version of clsync"),
        (b"[a]\nconfig-block-inherits = b\n[b]\nconfig-block-inherits = a\n", (b"-Ka",), "conf: blocks inherit in a"),
        (b"[a]\nconfig-block-inherits = no\n", (b"-Ka",), "conf: block [a] inherits from [no], which is not there"),
        (b"[a]\n", (b"-Kb",), "conf has no block [b]"),
    ],
)
def test_a_faulty_file_is_named_with_the_line(config: bytes, argv: tuple[bytes, ...], message: str) -> None:
    error = refused(*BASE, b"-Hconf", *argv, config=config)
    assert error.message.startswith(message)
    assert error.code == Exit.USAGE


def test_which_file_is_read() -> None:
    asked: list[bytes] = []

    def read(name: bytes) -> bytes | None:
        asked.append(name)
        return b"[default]\nretries=4\n" if name == b"/etc/clsync.conf" else None

    assert load(BASE, {b"HOME": b"/root"}, read).retries == 4
    assert asked == [b"/root/.clsync.conf", b"/etc/clsync/clsync.conf", b"/etc/clsync.conf"]
    asked.clear()
    assert load((*BASE, b"-H/NULL/"), {b"HOME": b"/root"}, read).retries == 0
    assert asked == []


def test_a_file_that_cannot_be_read() -> None:
    def broken(name: bytes) -> bytes:
        raise PermissionError(13, "Permission denied")

    with pytest.raises(OperatorError) as caught:
        load((*BASE, b"-H/x"), {}, broken)
    assert (caught.value.message, caught.value.code) == ("configuration file /x: Permission denied", Exit.FILES)
    error = refused(*BASE, b"-H/missing")
    assert (error.message, error.code) == ("configuration file /missing does not exist", Exit.FILES)
    assert refused(b"-Kx").message == "--config-block without a configuration file"


def test_a_block_that_need_not_exist() -> None:
    """Scripts name their instance by one; who names the file as well means what stands in it."""
    s = loaded(*BASE, b"-Kx")
    assert s.warnings == ("--config-block without a configuration file: the command line alone counts",)
    s = load((*BASE, b"-Kx"), {}, lambda name: b"[default]\nretries = 4\n" if name == b"/etc/clsync.conf" else None)
    assert s.warnings == ("/etc/clsync.conf has no block [x]: the command line alone counts",)
    assert s.retries == 0
    assert refused(*BASE, b"-Kx", b"-Hconf", config=b"[default]\n").message == "conf has no block [x]"


def test_defaults_of_the_original() -> None:
    assert (loaded(*BASE).delay_collect, loaded(*BASE).retries, loaded(*BASE).monitor) == (1.0, 0, "auto")
    for s in (loaded(*BASE, b"--compat=0.4"), loaded(*BASE, environ={b"CLSYNC_COMPAT": b"0.4"})):
        assert (s.delay_collect, s.delay_sync, s.retries, s.monitor) == (30.0, 30.0, 1, "inotify")
    assert loaded(*BASE, b"--compat=0.4", b"-t2").delay_collect == 2.0
    assert loaded(*BASE, b"--compat=off", environ={b"CLSYNC_COMPAT": b"0.4"}).retries == 0
    assert loaded(*BASE, b"-Hconf", config=b"[default]\ncompat = 0.4\n").retries == 1
    block = b"[default]\ncompat = off\n"
    assert loaded(*BASE, b"-Hconf", config=block, environ={b"CLSYNC_COMPAT": b"0.4"}).retries == 0
    assert refused(*BASE, environ={b"CLSYNC_COMPAT": b"9"}).message.startswith("CLSYNC_COMPAT: '9'")


def test_a_block_given_twice_is_merged_and_values_keep_their_signs() -> None:
    parsed = parse_config(b"[a]\nx = 1\r\n[a]\n x=2=3 # no comment\ny=[z]\n", "f")
    assert {key: tuple(values[-1]) for key, values in parsed.blocks[b"a"].items()} == {
        "x": (b"2=3 # no comment", 4),
        "y": (b"[z]", 5),
    }


def test_blanks_around_values_do_not_count() -> None:
    s = loaded(b"-Hconf", config=b"[default]\nwatch-dir =  /a b \t\ndestination-dir=/c \nmode = direct \nlabel = \n")
    assert (s.watch_dir, s.destination_dir, s.mode, s.label) == (b"/a b", b"/c", "direct", b"")


# -- macros and argument lines ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "result"),
    [
        (b"plain", b"plain"),
        (b"%a%", b"A"),
        (b"x%a%y%a%", b"xAyA"),
        (b"%%a%%", b"%a%"),
        (b"%", b"%"),
        (b"p%q", b"p%q"),
        (b"100% %a%", b"100% A"),
        (b"%none%%a%", b"%none%A"),
        (b"%a b%a%", b"%a bA"),
        (b"%1%", b"%1%"),
        (b"%percent%", b"%a%"),
        (b"%\xff%", b"%\xff%"),
    ],
)
def test_expansion_is_one_pass(template: bytes, result: bytes) -> None:
    assert expand(template, {b"a": b"A", b"percent": b"%a%"}.get) == result


def test_macros_are_listed_in_order() -> None:
    assert macros(b"%INCLUDE-LIST% x%%%a%%INCLUDE-LIST%") == [b"INCLUDE-LIST", b"a", b"INCLUDE-LIST"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"", ()),
        (b" a \t b ", (b"a", b"b")),
        (b"'a b' \"c d\"", (b"a b", b"c d")),
        (b"\"fg\"h i'j k'l", (b"fgh", b"ij kl")),
        (b"a '' b", (b"a", b"b")),
        (rb"a\b \"", None),
        (rb'"a\"b" "c\d"', (b'a"b', rb"c\d")),
        (rb"'a\'", (b"a\\",)),
        (b"'a\"b'", (b'a"b',)),
    ],
)
def test_argument_lines(line: bytes, words: tuple[bytes, ...] | None) -> None:
    split: Callable[[], object] = lambda: argument_line(line, None)  # noqa: E731
    if words is None:
        with pytest.raises(ValueError, match="not closed"):
            split()
    else:
        assert split() == words


def test_hooks_that_are_permitted() -> None:
    """They are added up; an empty name clears the list."""
    for words, files in (
        (("/a,/b", "/c"), (b"/a", b"/b", b"/c")),
        (("/a", ",/b"), (b"/b",)),
        (("/a", ""), ()),
        (("/a,",), ()),
    ):
        arguments = [f"--add-permitted-hook-files={word}".encode() for word in words]
        assert loaded(*BASE, *arguments).add_permitted_hook_files == files


def test_secure_splitting_stands_for_others_unless_they_are_set() -> None:
    found = loaded(*BASE, b"--secure-splitting")
    assert (found.splitting, found.check_execvp_arguments) == ("process", 1)
    found = loaded(*BASE, b"--secure-splitting", b"--splitting=thread", b"--check-execvp-arguments=0")
    assert (found.splitting, found.check_execvp_arguments) == ("thread", 0)
