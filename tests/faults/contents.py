"""Files that tell of themselves: whether they are whole, whose they are, and which version."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

FILES = tuple(f"d{number % 3}/whole{number}" for number in range(12))
"""The files that are only ever replaced by a rename, below their directory."""


class Torn(Exception):
    """A file is neither the old one nor the new one."""


def content(name: str, version: int, size: int) -> bytes:
    """Return a version of a file: a line that says what it is, and `size` bytes that agree with it."""
    body = random.Random(f"{name} {version}").randbytes(size)
    digest = hashlib.blake2b(body, digest_size=16).hexdigest()
    return f"{name} {version} {size} {digest}\n".encode() + body


def version_of(name: str, data: bytes) -> int:
    """Return the version of a file that was read. Raises Torn if it is not whole."""
    head, _, body = data.partition(b"\n")
    words = head.decode("ascii", "replace").split()
    if len(words) != 4 or words[0] != name:
        raise Torn(f"{name}: {len(data)} bytes that begin with {data[:60]!r}")
    digest = hashlib.blake2b(body, digest_size=16).hexdigest()
    if words[2:] != [str(len(body)), digest]:
        raise Torn(f"{name}: version {words[1]} has {len(body)} bytes, not {words[2]}, or others")
    return int(words[1])


def versions(top: Path) -> Iterator[tuple[str, int]]:
    """Yield what stands there: all files, or none where the disk is away."""
    with suppress(FileNotFoundError):
        yield from [(name, version_of(name, (top / name).read_bytes())) for name in FILES]


def put(top: Path, name: str, version: int, size: int, mtime_ns: int | None = None) -> None:
    """Replace a file by a rename. Raises OSError."""
    path = top / name
    draft = path.with_name(f".draft-{path.name}")
    draft.write_bytes(content(name, version, size))
    if mtime_ns is not None:
        os.utime(draft, ns=(mtime_ns, mtime_ns))
    draft.replace(path)
