"""`clsync ctl`: asks a running daemon, for people (lines) and programs (JSON)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

from clsync.control.client import Client, Unknown, connected
from clsync.errors import Exit, OperatorError
from clsync.options import value_of
from clsync.options.ctl import CtlLine, ctl_help, read_ctl_line
from clsync.options.settings import ReadFile
from clsync.options.values import shown

Answer = Mapping[str, object]


def ctl(arguments: Sequence[bytes], environ: Mapping[bytes, bytes], read_file: ReadFile) -> tuple[str, int]:
    """Do what the arguments after `ctl` ask for; return what is to be printed, and the exit code.

    Raises OperatorError.
    """
    line = read_ctl_line(arguments)
    if line.help:
        return ctl_help(), Exit.OK
    with connected(_socket(line, environ, read_file), line.timeout) as client:
        try:
            answer = _COMMANDS[line.command](client, line)
        except Unknown:
            raise OperatorError(
                f"the daemon does not know '{line.command}'", "it is of an older version", Exit.REFUSED
            ) from None
    text = json.dumps(answer) + "\n" if line.json else "".join(f"{row}\n" for row in _rows(answer))
    return text, Exit.INCOMPLETE if line.command == "wait" and answer.get("failing") else Exit.OK


def _socket(line: CtlLine, environ: Mapping[bytes, bytes], read_file: ReadFile) -> bytes:
    """Return the path of the daemon's socket, as it was named or as its configuration has it. Raises OperatorError."""
    named = line.values.get("socket")
    if named is None:
        found, warnings = value_of("socket", line.daemon_line(), environ, read_file)
        if not isinstance(found, bytes):
            error = OperatorError(
                "no control socket is named: the configuration has no key socket",
                "name it: clsync ctl --socket PATH, or the daemon's configuration with -H and -K",
            )
            error.warnings = tuple(warnings)
            raise error
        named = found
    return os.path.abspath(named)


# -- commands --------------------------------------------------------------------------------------------------


def _status(client: Client, line: CtlLine) -> Answer:
    try:
        return client.status()
    except Unknown:
        return {**_version(client, line), **_info(client, line), "note": "clsync 0.4 tells no more"}


def _info(client: Client, line: CtlLine) -> Answer:
    block, label = client.info()
    return {"config_block": _text(block), "label": _text(label)}


def _version(client: Client, line: CtlLine) -> Answer:
    return {"version": client.version()[1]}


def _wait(client: Client, line: CtlLine) -> Answer:
    targets = [_text(target) for target in line.targets]
    return client.wait(targets, line.until_synced, line.timeout if "timeout" in line.given else None)


def _pause(client: Client, line: CtlLine) -> Answer:
    paused = line.command == "pause"
    client.pause([_text(target) for target in line.targets], paused)
    return {"paused": paused}


def _accept(client: Client, line: CtlLine) -> Answer:
    client.accept([_text(target) for target in line.targets])
    return {"accepted": True}


def _dump(client: Client, line: CtlLine) -> Answer:
    directory = os.path.abspath(line.operands[0])
    client.dump(directory)
    return {"dump": _text(directory)}


def _set(client: Client, line: CtlLine) -> Answer:
    key, value = line.operands
    major, version = client.version()
    if not major:
        raise OperatorError(
            f"set {shown(key)}: a daemon of clsync 0.4 (it says {version}) would set an empty value",
            "start it again with the option",
            Exit.REFUSED,
        )
    client.set(key, value)
    return {_text(key): _text(value)}


def _stop(client: Client, line: CtlLine) -> Answer:
    client.die()
    return {"stopped": True}


_COMMANDS: Final = {
    "status": _status,
    "info": _info,
    "version": _version,
    "wait": _wait,
    "pause": _pause,
    "resume": _pause,
    "accept": _accept,
    "dump": _dump,
    "set": _set,
    "stop": _stop,
    "die": _stop,
}


# -- for people ------------------------------------------------------------------------------------------------


def _text(raw: bytes) -> str:
    """Return `raw` for JSON: bytes that are no text become lone surrogates (PEP 383), so nothing is lost."""
    return raw.decode("utf-8", "surrogateescape")


def _rows(answer: Answer) -> Iterator[str]:
    """Yield lines of names and values in two columns."""
    width = max(map(len, answer), default=0)
    for name, value in answer.items():
        words = list(_words(name, value))
        yield f"{_printable(name).replace('_', ' '):{width}}  {words[0] if words else '-'}"
        yield from (" " * width + "  " + word for word in words[1:])


def _words(name: str, value: object) -> Iterator[str]:
    match value:
        case None:
            yield "-"
        case bool():
            yield "yes" if value else "no"
        case int() | float() if name.endswith("_at"):
            yield _time(value)
        case list() if name == "targets" and all(isinstance(entry, dict) for entry in value):
            for entry in value:
                yield _target(entry)
        case list():
            for entry in value:
                yield from _words(name, entry)
        case dict():
            parts = (str(part) for name, part in value.items() if name != "next_try_at")
            yield ": ".join(_printable(part) for part in parts if part) + _next_try(value)
        case _:
            yield _printable(str(value))


def _target(entry: Answer) -> str:
    counted = ", ".join(f"{entry.get(what)} {what.replace('_', ' ')}" for what in ("pending", "in_flight", "failing"))
    trouble = f"; {entry.get('trouble')}" if entry.get("trouble") else ""
    trouble += _next_try(entry)
    trouble += "; paused" if entry.get("paused") else ""
    trouble += f"; {entry.get('held_back')} deletions held back" if entry.get("held_back") else ""
    return _printable(f"{entry.get('destination')}: {counted}{trouble}")


def _next_try(entry: Answer) -> str:
    at = entry.get("next_try_at")
    return f" (next try: {_time(at)})" if isinstance(at, int | float) else ""


def _time(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds).astimezone().isoformat(sep=" ", timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return str(seconds)  # what answers is no daemon of ours


def _printable(text: str) -> str:
    return shown(text.encode("utf-8", "surrogateescape"))
