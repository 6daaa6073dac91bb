"""The command `clsync`: arguments in, exit code out. The only place that prints and exits."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from clsync import __version__
from clsync.core.paths import printable
from clsync.errors import Exit, OperatorError
from clsync.kernel.signals import remember
from clsync.options import Change, HelpRequested, ReadFile, Settings, VersionRequested, load
from clsync.options.ctl import WAIT
from clsync.options.ctl import WORD as CTL
from clsync.options.help import DOCTOR
from clsync.options.verify import WORD as VERIFY

_ASKING: Final = (
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGQUIT,
    signal.SIGALRM,
    signal.SIGSTKFLT,
    signal.SIGIO,
    signal.SIGRTMIN,
)
"""Signals that ask a running daemon for something."""


def main() -> int:
    """Run the command line; return the exit code."""
    _open_standard_files()
    _be_ready_for_signals()
    arguments = [os.fsencode(a) for a in sys.argv[1:]]
    try:
        if arguments[:1] in ([CTL], [WAIT]):
            from clsync.cli.ctl import ctl

            text, code = ctl(arguments[arguments[0] == CTL :], os.environb, _read_file)
            return _show(text) or code
        if arguments[:1] == [VERIFY]:
            from clsync.cli.verify import verify

            return _printed(lambda: verify(arguments[1:], os.environb, _read_file))
        environ, pid = dict(os.environb), os.getpid()
        read_file: ReadFile = _read_file

        def reload(
            changes: Sequence[Change], through: Callable[[ReadFile], ReadFile] = lambda read_file: read_file
        ) -> Settings:
            return decided_as(load(arguments, environ, through(read_file), pid, changes), settings)

        if arguments[:1] == [DOCTOR]:
            from clsync.cli.doctor import doctor

            text, code = doctor(arguments[1:], environ, read_file, pid)
            return _show(text) or code
        known: dict[bytes, bytes | None] = {}
        settings = load(arguments, environ, _remembering(known, read_file), pid)
        from clsync.privilege import trust  # late, as below
        from clsync.privilege.splitting import decided, decided_as

        settings = decided(settings, list(known))
        if trust.is_demanded(settings):
            read_file = trust.read_config
            settings = decided_as(load(arguments, environ, _remembering(known, read_file), pid), settings)
        if settings.dry_run:
            from clsync.daemon.doctor import dry_run

            for warning in settings.warnings:
                sys.stderr.write(f"clsync: {warning}\n")
            return _show(dry_run(settings))
        if settings.chroot is not None or settings.mountpoints:
            read_file = _known_only(known)  # the files are out of reach from now on
        _be_ready_for_signals(settings.custom_signals)
        from clsync.daemon.run import run  # late: help and errors in options need none of it

        return run(settings, reload)
    except HelpRequested:
        from clsync.options.help import help_text

        return _show(help_text(_columns()))
    except VersionRequested:
        return _show(f"clsync {__version__}\n")
    except OperatorError as error:
        lines = [*error.warnings, error.message, *([error.hint] if error.hint else [])]
        sys.stderr.write("".join(f"clsync: {printable(line)}\n" for line in lines))
        return error.code


def _show(text: str) -> int:
    """Print a text; return the exit code."""

    def show() -> int:
        print(text, end="", flush=True)
        return Exit.OK

    return _printed(show)


def _printed(act: Callable[[], int]) -> int:
    """Return the exit code of what prints, or that of a standard output that cannot be written."""
    try:
        return act()
    except OSError as error:
        # What is left in the buffer cannot be written either: Python would say so at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if error.errno != errno.EPIPE:
            sys.stderr.write(f"clsync: standard output cannot be written: {error.strerror}\n")
        return Exit.FAILURE


def _open_standard_files() -> None:
    """See that no file of ours becomes standard input, output or error, where these are closed."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _be_ready_for_signals(custom: Iterable[int] = ()) -> None:
    """Until the loop runs: INT and TERM end us, and what asks for something is remembered, but for a dump: of nothing.

    INT also where a shell has started us in the background, and so has it ignored: later it counts as well. What
    started us may have signals blocked, or CHLD ignored, which hides exit codes: neither holds for us and our programs.
    """

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    for asking in (*_ASKING, *custom):
        signal.signal(asking, remember if asking != signal.SIGIO else lambda number, frame: None)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _columns() -> int:
    import shutil

    return shutil.get_terminal_size().columns


def _read_file(path: bytes) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _known_only(known: dict[bytes, bytes | None]) -> Callable[[bytes], bytes | None]:
    """Return what answers for files that were read before."""
    return lambda path: known.get(path)


def _remembering(known: dict[bytes, bytes | None], read_file: ReadFile) -> ReadFile:
    """Return what reads files, and notes what was in them."""

    def read(path: bytes) -> bytes | None:
        known[path] = None  # also where it cannot be read
        known[path] = read_file(path)
        return known[path]

    return read


if __name__ == "__main__":
    sys.exit(main())
