"""What has come of a verification, for programs and people: plain data, as it goes through JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Final

from clsync.daemon.verify import Report

_AT_ONCE: Final = 100
"""Differences in one piece."""


def progress(report: Report, destination: str) -> Mapping[str, object]:
    """Return how far it is at one target."""
    return {"destination": destination, "entries": report.entries}


def differences(report: Report, destination: str) -> Iterator[Mapping[str, object]]:
    """Yield what differs at one target, in pieces."""
    everything = report.reasons.get(b"", "")
    pairs = iter(sorted(report.differences.items()))
    while piece := list(islice(pairs, _AT_ONCE)):
        yield {
            "destination": destination,
            "differences": [
                {
                    "path": text(path) or ".",
                    "what": one.words,
                    "entries": one.entries,
                    "mended": path in report.mended,
                    "reason": "" if path in report.mended else report.reasons.get(path, everything),
                }
                for path, one in piece
            ],
        }


def summary(report: Report, destination: str) -> Mapping[str, object]:
    """Return the numbers of one target."""
    return {
        "destination": destination,
        "entries": report.entries,
        "differing": len(report.differences) + report.more,
        "mended": len(report.mended),
        "moving": report.moving,
        "trouble": report.trouble or None,
    }


def text(raw: bytes) -> str:
    """Return `raw` for JSON: bytes that are no text become lone surrogates (PEP 383), so nothing is lost."""
    return raw.decode("utf-8", "surrogateescape")
