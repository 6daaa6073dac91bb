"""Whole trees as values: `snapshot` reads one, `compare` says entry by entry where two differ.

Names are bytes, every name the kernel accepts is handled, and so are paths longer than PATH_MAX: the walk
holds one directory descriptor per level and never names a file by its whole path.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

Ignore = Callable[[bytes], bool]
"""Told a relative path, says whether it (and all below it) is left out."""

_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}
_BLOCK = 1 << 16
_ZEROS = bytes(_BLOCK)
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ESTALE)


class Entry(NamedTuple):
    """What stands at one path. Fields that do not apply to a kind are empty."""

    kind: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    digest: str
    target: bytes
    rdev: int
    links: tuple[bytes, ...]
    """All names of the inode below the root, when there are at least two."""
    xattrs: tuple[tuple[str, bytes], ...]
    sparse: bool
    """A regular file that owns fewer blocks than its size asks for."""


Snapshot = dict[bytes, Entry]


class Difference(NamedTuple):
    """One aspect of one path in which two trees differ."""

    path: bytes
    aspect: str
    source: object
    destination: object

    def __str__(self) -> str:
        return f"{shown(self.path)}: {self.aspect}: {self.source!r} at the source, {self.destination!r} here"


def shown(path: bytes) -> str:
    """Return `path` for a person, shortened in the middle when it is long."""
    text = repr(path)[1:] if path else "(root)"
    return text if len(text) <= 160 else f"{text[:80]}...{text[-70:]}"


def snapshot(root: bytes, ignore: Ignore | None = None, *, xattrs: bool = False, content: bool = True) -> Snapshot:
    """Read the tree below `root` (itself included as `b""`). What vanishes meanwhile is left out.

    Raises OSError where something exists and cannot be read.
    """
    tree: Snapshot = {}
    inodes: dict[tuple[int, int], list[bytes]] = {}
    for path, name, directory, seen in walk(root, ignore):
        try:
            tree[path] = _entry(name, directory, seen, xattrs, content)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            continue
        if seen.st_nlink > 1 and not stat.S_ISDIR(seen.st_mode):
            inodes.setdefault((seen.st_dev, seen.st_ino), []).append(path)
    for names in inodes.values():
        if len(names) > 1:
            group = tuple(sorted(names))
            for name in names:
                tree[name] = tree[name]._replace(links=group)
    return tree


def walk(root: bytes, ignore: Ignore | None = None) -> Iterator[tuple[bytes, bytes, int, os.stat_result]]:
    """Yield (path, name, descriptor of its directory, lstat), a directory before its content."""
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stack: list[tuple[int, bytes, list[bytes]]] = []
    try:
        yield b"", b".", top, os.fstat(top)
        stack.append((top, b"", []))
        yield from _level(stack[-1], ignore)
        while stack:
            directory, prefix, pending = stack[-1]
            if not pending:
                os.close(directory)
                stack.pop()
                continue
            name = pending.pop()
            child = _enter(directory, name)
            if child is not None:
                stack.append((child, prefix + name + b"/", []))
                yield from _level(stack[-1], ignore)
    finally:
        for directory, _, _ in stack:
            os.close(directory)


def _level(
    level: tuple[int, bytes, list[bytes]], ignore: Ignore | None
) -> Iterator[tuple[bytes, bytes, int, os.stat_result]]:
    directory, prefix, pending = level
    for text in os.listdir(directory):
        name = os.fsencode(text)
        path = prefix + name
        if ignore is not None and ignore(path):
            continue
        try:
            seen = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            continue
        if stat.S_ISDIR(seen.st_mode):
            pending.append(name)
        yield path, name, directory, seen


def _enter(directory: int, name: bytes) -> int | None:
    try:
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise


def _entry(name: bytes, directory: int, seen: os.stat_result, xattrs: bool, content: bool) -> Entry:
    kind = _KINDS[stat.S_IFMT(seen.st_mode)]
    regular = kind == "file"
    device = kind.endswith("device")
    attributes: tuple[tuple[str, bytes], ...] = ()
    if xattrs and kind in ("file", "directory"):
        attributes = _xattrs(name, directory)
    return Entry(
        kind=kind,
        mode=stat.S_IMODE(seen.st_mode),
        uid=seen.st_uid,
        gid=seen.st_gid,
        mtime_ns=seen.st_mtime_ns,
        size=seen.st_size if regular else 0,
        digest=_digest(name, directory, seen.st_size) if regular and content else "",
        target=os.readlink(name, dir_fd=directory) if kind == "symlink" else b"",
        rdev=seen.st_rdev if device else 0,
        links=(),
        xattrs=attributes,
        sparse=regular and seen.st_blocks * 512 < seen.st_size,
    )


def _digest(name: bytes, directory: int, size: int) -> str:
    if not size:
        return ""
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    try:
        if size <= _BLOCK:
            return hashlib.blake2b(os.read(file, size + 1), digest_size=12).hexdigest()
        return _digest_of_blocks(file)
    finally:
        os.close(file)


def _digest_of_blocks(file: int) -> str:
    """Hash what is not zero, so that a hole and a block of zeros are the same and holes cost nothing."""
    state = hashlib.blake2b(digest_size=12)
    at = 0
    while True:
        try:
            at = os.lseek(file, at, os.SEEK_DATA) & -_BLOCK
        except OSError as error:
            if error.errno == errno.ENXIO:
                return state.hexdigest()
            raise
        block = os.pread(file, _BLOCK, at)
        if not block:
            return state.hexdigest()
        if block != _ZEROS[: len(block)]:
            state.update(b"%d:" % at + block)
        at += _BLOCK


def _xattrs(name: bytes, directory: int) -> tuple[tuple[str, bytes], ...]:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    file = os.open(name, flags, dir_fd=directory)
    try:
        return tuple(sorted((key, os.getxattr(file, key)) for key in os.listxattr(file)))
    finally:
        os.close(file)


def compare(
    source: Mapping[bytes, Entry], destination: Mapping[bytes, Entry], *, sparse: bool = False
) -> list[Difference]:
    """Say where `destination` is not what `source` is, by path; an entry can differ in several aspects.

    `sparse` also demands that sparse files are sparse here.
    """
    found: list[Difference] = []
    for path in sorted(source.keys() | destination.keys()):
        ours, theirs = source.get(path), destination.get(path)
        if ours is None or theirs is None:
            kinds = (ours.kind if ours else None, theirs.kind if theirs else None)
            found.append(Difference(path, "missing" if theirs is None else "left over", *kinds))
        elif ours != theirs:
            found.extend(_aspects(path, ours, theirs, sparse))
    return found


def _aspects(path: bytes, ours: Entry, theirs: Entry, sparse: bool) -> Iterator[Difference]:
    if ours.kind != theirs.kind:
        yield Difference(path, "type", ours.kind, theirs.kind)
        return
    for aspect, mine, its in zip(Entry._fields, ours, theirs, strict=True):
        if aspect == "sparse":
            if sparse and mine and not its:
                yield Difference(path, aspect, mine, its)
        elif mine != its:
            if aspect == "mode":
                yield Difference(path, aspect, oct(ours.mode), oct(theirs.mode))
            else:
                yield Difference(path, aspect, mine, its)


def compare_trees(
    source: bytes,
    destination: bytes,
    ignore: Ignore | None = None,
    *,
    xattrs: bool = False,
    sparse: bool = False,
) -> list[Difference]:
    """Read both trees and `compare` them."""
    return compare(
        snapshot(source, ignore, xattrs=xattrs), snapshot(destination, ignore, xattrs=xattrs), sparse=sparse
    )


def report(differences: list[Difference], most: int = 20) -> str:
    """Return the first `most` differences, one a line, and how many there are."""
    lines = [f"{len(differences)} differences in {len({d.path for d in differences})} paths"]
    lines += [f"  {difference}" for difference in differences[:most]]
    if len(differences) > most:
        lines.append(f"  ... and {len(differences) - most} more")
    return "\n".join(lines)
