"""`clsync verify`: tells in what destinations differ, for people (lines) and programs (JSON)."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from clsync.control.client import Unknown, connected
from clsync.errors import Exit, OperatorError
from clsync.options import Settings, load
from clsync.options.ctl import TIMEOUT
from clsync.options.settings import ReadFile
from clsync.options.values import shown
from clsync.options.verify import VerifyLine, read_verify_line, verify_help

Told = Mapping[str, Any]
INDEX: Final = "index"
"""In place of a destination: what is noted of the source itself."""


def verify(arguments: Sequence[bytes], environ: Mapping[bytes, bytes], read_file: ReadFile) -> int:
    """Do what the arguments after `verify` ask for, print what is found, and return the exit code.

    Raises OperatorError, and OSError where standard output cannot be written.
    """
    line = read_verify_line(arguments)
    if line.help:
        print(verify_help(), end="", flush=True)
        return Exit.OK
    settings = load(line.daemon_line, environ, read_file, os.getpid())
    printer = _Printer(line.json, several=len(settings.destinations) > 1)
    summary = _by_daemon(settings, line, printer)
    if summary is None:
        from clsync.daemon.alone import verify_alone  # late: a daemon that answers needs none of it
        from clsync.daemon.verify import Wish

        summary = verify_alone(settings, Wish(line.content, line.repair), printer.tell)
    return printer.end(summary)


def _by_daemon(settings: Settings, line: VerifyLine, printer: _Printer) -> Told | None:
    """Let the daemon do it that runs with this configuration; None where there is none. Raises OperatorError."""
    if settings.socket is None:
        return None
    try:
        with connected(os.path.abspath(settings.socket), TIMEOUT) as client:
            _demand_same(settings, client.status())
            return client.verify((), line.content, line.repair, printer.tell)
    except Unknown:
        raise OperatorError("the daemon does not know 'verify'", "it is of an older version", Exit.REFUSED) from None
    except OperatorError as error:
        if error.code != Exit.UNREACHABLE or printer.told:
            raise
        return None


def _demand_same(settings: Settings, status: Told) -> None:
    """See that the daemon keeps this tree. Raises OperatorError."""
    source = os.path.realpath(settings.watch_dir)
    if status["source"] != _text(source):
        raise OperatorError(
            f"the daemon at --socket keeps {_printable(str(status['source']))}, not {shown(source)}",
            "name the socket of the other one, or none",
            Exit.REFUSED,
        )


class _Printer:
    """Prints what comes, as it comes."""

    def __init__(self, as_json: bool, several: bool) -> None:
        """`several`: each line names its destination."""
        self._json, self._several = as_json, several
        self._terminal = sys.stderr.isatty()
        self._shown = False
        self.told = False
        """Something has come."""

    def tell(self, what: Told) -> None:
        """Print differences, or how far it is."""
        self.told = True
        if "differences" not in what:
            self._progress(what)
            return
        self._clear()
        for one in what["differences"]:
            if self._json:
                print(json.dumps({"destination": what["destination"], **one}))
            else:
                named = self._several or what["destination"] == INDEX
                print(_line(one, f"{_printable(what['destination'])}: " if named else ""))

    def _progress(self, what: Told) -> None:
        if self._terminal:
            sys.stderr.write(f"\r{what['entries']} entries compared")
            sys.stderr.flush()
            self._shown = True

    def _clear(self) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._shown = False

    def end(self, summary: Told) -> int:
        """Print the numbers; return the exit code."""
        self._clear()
        targets = summary["targets"]
        if self._json:
            print(json.dumps(summary))
        else:
            for target in targets:
                print(_numbers(target))
        sys.stdout.flush()
        if any(target["trouble"] for target in targets):
            return Exit.DESTINATION
        return Exit.INCOMPLETE if any(target["differing"] > target["mended"] for target in targets) else Exit.OK


def _line(one: Told, prefix: str) -> str:
    what = ", ".join(one["what"]) or "not as it is noted"
    more = f" ({one['entries']} entries)" if one["entries"] > 1 else ""
    then = "; mended" if one["mended"] else f"; {_printable(one['reason'])}" if one["reason"] else ""
    return f"{prefix}{_printable(one['path'])}: {what}{more}{then}"


def _numbers(target: Told) -> str:
    where = _printable(target["destination"])
    if target["trouble"]:
        return f"{where}: {_printable(target['trouble'])}"
    found = f"{target['differing']} differ" if target["differing"] else "all agree"
    mended = f", {target['mended']} of them mended" if target["mended"] else ""
    moving = f"; {target['moving']} change all the time" if target["moving"] else ""
    return f"{where}: {target['entries']} entries compared, {found}{mended}{moving}"


def _text(raw: bytes) -> str:
    """Return `raw` as answers have it: bytes that are no text become lone surrogates (PEP 383)."""
    return raw.decode("utf-8", "surrogateescape")


def _printable(text: str) -> str:
    return shown(text.encode("utf-8", "surrogateescape"))
