"""Listing directories and looking at paths below one open root descriptor; any depth, any name."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeVar

from clsync.core.classify import NOT_PLAIN, Plain, Stat, plain
from clsync.core.listing import Records
from clsync.core.paths import ancestors
from clsync.core.stamps import YOUNG_NS
from clsync.kernel.files import DIRECTORY_FLAGS, GONE, PATH_LIMIT, open_beneath

S = TypeVar("S", bound=Stat)
_PART: Final = 512
"""Entries of a directory that are looked at before the first of them is told."""


def lstat_below(root: int) -> Callable[[bytes], os.stat_result | None]:
    """Return an lstat for paths relative to the directory descriptor `root`; None where nothing stands.

    Raises OSError for what is neither present nor absent (EIO, EACCES).
    """
    lstat = os.lstat

    def look(path: bytes) -> os.stat_result | None:
        try:
            return lstat(path or b".", dir_fd=root)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:
            if len(path) < PATH_LIMIT:
                raise
            return _lstat_deep(root, path)

    return look


def plain_below(
    root: int, paths: Sequence[bytes], real: set[bytes], records: Records | None = None
) -> Iterator[Plain]:
    """Yield what stands at paths relative to the descriptor `root`, as far as it is plain.

    `real`: directories that are known to be no symlinks, nor to lie behind one; others that are met are added.
    `records` takes what was seen.
    """
    young_ns = time.time_ns() - YOUNG_NS
    lstat, here, stands = os.lstat, b"", True
    for path in paths:
        cut = path.rfind(b"/")
        directory = path[:cut] if cut > 0 else b""
        if directory != here:
            here, stands = directory, not directory or directory in real or _is_real(root, directory, real)
        if not stands:
            yield NOT_PLAIN
            continue
        try:
            found = lstat(path, dir_fd=root)
        except OSError:
            yield NOT_PLAIN
        else:
            seen = plain(found)
            if records is not None and seen is not NOT_PLAIN:
                records.note(path, found, young_ns)
            yield seen


def _is_real(root: int, directory: bytes, real: set[bytes]) -> bool:
    for up in (*ancestors(directory), directory):
        if up not in real:
            try:
                if not stat.S_ISDIR(os.lstat(up, dir_fd=root).st_mode):
                    return False
            except OSError:
                return False
            real.add(up)
    return True


def lstat_straight(root: int) -> Callable[[bytes], os.stat_result | None]:
    """As `lstat_below`, but what lies behind a symlink does not stand there. Directories are looked at once."""
    return straight(lstat_below(root))


def straight(look: Callable[[bytes], S | None]) -> Callable[[bytes], S | None]:
    """Return what looks as `look` does, but sees nothing behind a symlink. Directories are looked at once."""
    real: dict[bytes, bool] = {}

    def look_straight(path: bytes) -> S | None:
        for up in ancestors(path):
            if up not in real:
                found = look(up)
                real[up] = found is not None and stat.S_ISDIR(found.st_mode)
            if not real[up]:
                return None
        return look(path)

    return look_straight


def _lstat_deep(root: int, path: bytes) -> os.stat_result | None:
    above, _, name = path.rpartition(b"/")
    try:
        directory = open_beneath(root, above, DIRECTORY_FLAGS)
    except OSError as error:
        if error.errno in GONE:
            return None
        raise
    try:
        return os.lstat(name, dir_fd=directory)
    except FileNotFoundError:
        return None
    finally:
        os.close(directory)


def list_directory(root: int, path: bytes) -> list[os.DirEntry[bytes]]:
    """Return the entries of a directory below `root`; empty where there is none. Raises OSError (EACCES, EIO).

    There is none behind a symlink: what that leads to lies elsewhere, and would be listed as if it were here.
    """
    try:
        directory = open_beneath(root, path, DIRECTORY_FLAGS)
    except OSError as error:
        if error.errno in GONE:
            return []
        raise
    try:
        with os.scandir(b"/proc/self/fd/%d" % directory) as entries:
            return list(entries)
    finally:
        os.close(directory)


def walk(
    root: int,
    top: bytes,
    enter: Callable[[bytes], bool] = lambda path: True,
    one_file_system: bool = False,
    unreadable: Callable[[bytes, OSError], None] = lambda path, error: None,
) -> Iterator[tuple[bytes, os.stat_result]]:
    """Yield (path, lstat) of everything below the directory `top`, parents first.

    Directories for which `enter` says no are yielded, not entered; with `one_file_system`, other devices
    neither. What vanishes on the way is left out. A directory that cannot be read is yielded as any other, and
    told to `unreadable`, and so is what cannot be looked at (EIO, EACCES). Raises nothing.
    """
    device = None
    if one_file_system:
        try:
            itself = lstat_below(root)(top)
        except OSError as error:
            unreadable(top, error)
            return
        device = itself.st_dev if itself else None
    pending = [top]
    while pending:
        directory = pending.pop()
        inside = directory + b"/" if directory else b""
        for name, found in _entries(root, directory, unreadable):
            path = inside + name
            if isinstance(found, OSError):
                unreadable(path, found)
                continue
            yield path, found
            if stat.S_ISDIR(found.st_mode) and (device is None or found.st_dev == device) and enter(path):
                pending.append(path)


def _entries(
    root: int, directory: bytes, unreadable: Callable[[bytes, OSError], None]
) -> Iterator[tuple[bytes, os.stat_result | OSError]]:
    """Yield (name, lstat) of all in a directory, or why it cannot be told; a directory that cannot be read is told.

    Nothing is held open while it yields: a file system that somebody wants to unmount would be busy.
    """
    names: list[bytes] | None = None
    done = 0
    while names is None or done < len(names):
        try:
            here = open_beneath(root, directory, DIRECTORY_FLAGS)
        except OSError as error:
            if error.errno not in GONE:
                unreadable(directory, error)
            return
        try:
            if names is None:
                names = os.listdir(b"/proc/self/fd/%d" % here)
            seen = list(_seen(here, names[done : done + _PART]))
        except OSError as error:
            unreadable(directory, error)
            return
        finally:
            os.close(here)
        done += _PART
        yield from seen


def _seen(directory: int, names: Iterable[bytes]) -> Iterator[tuple[bytes, os.stat_result | OSError]]:
    lstat = os.lstat
    for name in names:
        try:
            yield name, lstat(name, dir_fd=directory)
        except FileNotFoundError:
            pass
        except OSError as error:
            yield name, error
