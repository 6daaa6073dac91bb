"""Relative paths as the kernel spells them: `bytes`, no leading or trailing slash, `b""` is the root."""

from __future__ import annotations

from collections.abc import Iterator


def parent(path: bytes) -> bytes:
    """Return the directory that holds `path`; the root is its own parent."""
    return path[: max(path.rfind(b"/"), 0)]


def join(directory: bytes, name: bytes) -> bytes:
    """Return `name` below `directory` (either may be empty)."""
    if not directory:
        return name
    return directory + b"/" + name if name else directory


def ancestors(path: bytes) -> Iterator[bytes]:
    """Yield the proper ancestors of `path` from the top down, without the root itself."""
    at = path.find(b"/")
    while at >= 0:
        yield path[:at]
        at = path.find(b"/", at + 1)


def leads_out(path: bytes) -> bool:
    """Tell whether a path is none relative to a root: absolute, or with an empty, `.` or `..` component, or a NUL."""
    return bool(path) and (b"\0" in path or not {b"", b".", b".."}.isdisjoint(path.split(b"/")))


def is_below(path: bytes, directory: bytes) -> bool:
    """Tell whether `path` lies strictly below `directory`."""
    if not directory:
        return bool(path)
    return path.startswith(directory) and path[len(directory) : len(directory) + 1] == b"/"


def shown(path: bytes) -> str:
    """Return `path` for a person: undecodable bytes and control characters escaped, never parsed back."""
    return printable(path.decode("utf-8", "backslashreplace")) or "."


def printable(text: str) -> str:
    """Return `text` with escapes for all that a terminal would not show as it is: control and format characters."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
