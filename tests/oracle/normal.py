"""What a program gave its handler, without what differs from run to run: pids, times, temporary paths, order.

The runs of a step are merged, as how changes are put into batches is a matter of time.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from tests.oracle.handler import Run
from tests.oracle.modes import OBJECTS, Mode
from tests.oracle.play import MARK, Played
from tests.oracle.scenarios import Place, Scenario

Step = dict[str, list[str]]
Capture = dict[str, Step]
"""Name of a step -> facts: kind -> what was seen."""

_MASKS = {
    0x2: "modify", 0x4: "attrib", 0x8: "close_write", 0x40: "moved_from", 0x80: "moved_to", 0x100: "create",
    0x200: "delete", 0x400: "delete_self", 0x800: "move_self", 0x40000000: "isdir",
}  # fmt: skip
"""Names of inotify(7)."""
_LIST = re.compile(rb"[^ =]*/\.clsync-(list|exclist)((?:\.[0-9]+){4})$")
_TYPES = ("unknown", "missing", "file", "directory")
_ELEMENT = re.compile(rb"([0-9]+) ([0-9]+) ([0-9]+) ([0-9]+) ([0-9]+) (.*)", re.DOTALL)
"""As `recorder.c` writes it."""
_AROUND = {b"clsyncapi_init", b"clsyncapi_deinit"}
_LINE = re.compile(rb"sync (?P<label>\S*) (?P<mask>[0-9]+) (?P<path>.*)", re.DOTALL)


def normal(played: Played, mode: Mode, scenario: Scenario) -> Capture:
    """Return what is to be compared."""
    reader = _Reader(played.place, mode, scenario)
    capture = {name: reader.step(runs) for name, runs in played.steps.items()}
    for earlier, later in pairwise(played.steps):
        if "argv" in capture[later]:
            capture[later]["iteration"] = [_progress(played.steps[earlier], played.steps[later])]
    if played.code is not None:
        capture["end"] = {"exit code": [str(played.code)]}
    return capture


def _progress(earlier: Sequence[Run], later: Sequence[Run]) -> str:
    if "unset" in (run.iteration for run in later):
        return "unset"
    before, now = ([int(run.iteration) for run in runs if run.iteration != "unset"] for runs in (earlier, later))
    return "as before" if max(now) <= max(before, default=0) else "grows"


def facts(step: Step) -> set[str]:
    """Return a step as lines."""
    return {f"{kind} {value}" for kind, values in step.items() for value in values}


def text(capture: Capture) -> str:
    """Return what stands in the file of a capture: JSON with a line for each kind of fact."""
    steps = []
    for name, step in capture.items():
        kinds = [f"  {json.dumps(kind)}: {json.dumps(values)}" for kind, values in step.items()]
        steps.append(f" {json.dumps(name)}: {{" + ("\n" + ",\n".join(kinds) + "\n }" if kinds else "}"))
    return "{\n" + ",\n".join(steps) + "\n}\n"


class _Reader:
    """Reads the runs of one mode and scenario."""

    def __init__(self, place: Place, mode: Mode, scenario: Scenario) -> None:
        self._mode, self._scenario = mode, scenario
        self._places = [
            (os.fsencode(place.source), b"<W>"),
            (os.fsencode(place.destination), b"<D>"),
            (os.fsencode(place.top), b"<top>"),
        ]

    def step(self, runs: Iterable[Run]) -> Step:
        """Merge the runs of a step."""
        found: dict[str, set[str]] = {}
        told_nothing = 0
        for run in runs:
            own = list(self._facts(run))
            if not any(kind in _TOLD for kind, _ in own):
                continue  # there was nothing but the mark
            for kind, value in own:
                found.setdefault(kind, set()).add(value)
            told_nothing += ("object", _NOTHING) in own
        if told_nothing:
            found["runs"] = {str(told_nothing)}  # their number is all that there is
        return {kind: sorted(found[kind]) for kind in _ORDER if kind in found}

    def _facts(self, run: Run) -> Iterator[tuple[str, str]]:
        if _AROUND.intersection(run.arguments):
            yield "called", f"{self._shown(run.arguments[0])} in {self._shown(run.directory)}, status {run.status}"
            return
        words, objects, mask = self._split(run)
        named = [o for o in objects if not MARK.search(o)]
        yield "argv", " ".join(map(self._shown, words))
        yield "directory", self._shown(run.directory)
        yield "status", run.status
        if run.status == "initsync":
            yield "iteration", run.iteration
        for o in named:
            yield from self._element(o) if self._mode.module else self._object(o, mask)
        for word, content in run.lists.items():
            yield from self._listed(word, content)
        if not objects and not run.lists and not any(MARK.search(word) for word in run.arguments):
            yield "object", _NOTHING

    def _split(self, run: Run) -> tuple[list[bytes], list[bytes], int | None]:
        """Return (argument list without objects and masks, objects, mask)."""
        arguments = self._arguments(run)
        if OBJECTS not in arguments:
            return run.arguments, [], None
        at = arguments.index(OBJECTS)
        after = len(arguments) - at - 1
        end = len(run.arguments) - after
        words = [*run.arguments[:at], *([b"<object>"] if end > at else []), *run.arguments[end:]]
        mask = None
        if "%EVENT-MASK%" in arguments:
            place = arguments.index("%EVENT-MASK%")
            given = run.arguments[place]
            mask, words[place] = (int(given), b"<mask>") if given.isdigit() else (None, b"<no mask>")
        return words, run.arguments[at:end], mask

    def _arguments(self, run: Run) -> Sequence[str]:
        if self._scenario.arguments is not None:
            return self._scenario.arguments
        recursive = self._scenario.recursive and run.arguments[:1] == [b"initialsync"]
        return self._mode.recursive_arguments if recursive else self._mode.arguments

    def _object(self, name: bytes, mask: int | None) -> Iterator[tuple[str, str]]:
        yield "object", self._shown(name)
        if mask is not None:
            yield from (("mask", f"{self._shown(name)}: {bit}") for bit in _bits(mask))

    def _element(self, word: bytes) -> Iterator[tuple[str, str]]:
        parts = _ELEMENT.fullmatch(word)
        assert parts is not None, word
        mask, flags, old, new, length = map(int, parts.groups()[:5])
        name, shown = parts[6], self._shown(parts[6])
        yield from self._object(name, mask)
        yield "types", f"{shown}: {_TYPES[old]}, {_TYPES[new]}"
        if flags:
            yield "flags", f"{shown}: {flags}"
        if length != len(name):
            yield "length", f"{shown}: {length}"

    def _listed(self, word: bytes, content: bytes) -> Iterator[tuple[str, str]]:
        kind = "exclude" if b"/.clsync-exclist." in word else "include"
        lines = [line for line in content.split(b"\n")[:-1] if not MARK.search(line)]
        if content and not content.endswith(b"\n"):
            yield kind, "<no newline at the end>"
        for line in lines:
            parts = None if self._mode.rsync or kind == "exclude" else _LINE.fullmatch(line)
            if parts is None:
                yield kind, self._shown(line)
                continue
            yield "label", parts["label"].decode()
            yield from self._object(parts["path"], int(parts["mask"]))

    def _shown(self, word: bytes) -> str:
        for path, name in self._places:
            word = word.replace(path, name)
        word = _LIST.sub(lambda found: b"<%s>" % found[1], word)
        return os.fsdecode(word)


_NOTHING = "<none>"
_TOLD = ("object", "include", "called")
_ORDER = (
    "runs", "called", "argv", "directory", "status", "iteration", "label", "object", "mask", "types", "flags", "length",
    "include", "exclude",
)  # fmt: skip


def _bits(mask: int) -> list[str]:
    named = [name for bit, name in _MASKS.items() if mask & bit]
    rest = mask & ~sum(_MASKS)
    return [*named, *([hex(rest)] if rest else [])]


def differing(old: Mapping[str, Step], new: Mapping[str, Step]) -> Iterator[tuple[str, str]]:
    """Yield (step, fact) of all that is not the same: `- fact` is what the old program gave alone, `+ fact` the new."""
    for step in {**old, **new}:
        before, now = facts(old.get(step, {})), facts(new.get(step, {}))
        yield from ((step, f"- {fact}") for fact in sorted(before - now))
        yield from ((step, f"+ {fact}") for fact in sorted(now - before))
