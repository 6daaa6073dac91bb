"""A live tree to play in: picks what stands there, does one system call at a time and keeps a journal.

Everything random comes from one generator and from sorted listings, so the same seed on the same tree does the
same things. Paths are whole paths as bytes; `outside` is a second area on the same file system.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
import shutil
import stat
import time
from collections.abc import Callable, Iterator

from tests.support.rulesets import Suffixes

FIXED_NS = 1_000_000_000_000_000_000
"""The one mtime of release trees and of files that pretend to be old (ns since the epoch)."""
LONGEST = 3500
"""No path grows beyond this many bytes: rsync cannot send 4096."""
EXCHANGE = 2
"""RENAME_EXCHANGE of rename(2)."""
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # fallocate(2)

_COMMON = tuple(b"a b c d e f alpha beta gamma file1 file2 data.txt index.html".split())
_ODD = (
    b"#hash",
    b";semicolon",
    b"new\nline",
    b"-rf",
    b"--delete",
    b"-",
    b"+ plus",
    b"! bang",
    b"\xff\xfe not utf8",
    b"\x80",
    b"y" * 255,
    b"\xe6" * 255,
    b"back\\slash",
    b"back\\#012",
    b"quote'\"",
    b"glob*?[a-z]",
    b"*",
    b"**",
    b"%p%d%n",
    b"%RSYNC-ARGS%",
    b" lead",
    b"trail ",
    b" ",
    b".hidden",
    b"~",
    b"...",
    b"..x",
    b"\\#012",
    b"gone (deleted)",
    b" (deleted)",
    b"a]b",
    b"%x",
    b"$(id)",
    b"{a,b}",
    b"tab\t",
    b"cr\r",
    b"\x01",
    b"\x7f",
    b"caf\xc3\xa9",
    b".data.txt.AbC123",
    b".~tmp~",
    b"host:path",
    b"x,y",
    b"=",
)
_Fits = Callable[[bytes, int], bool]
_libc = ctypes.CDLL(None, use_errno=True)


class Held:
    """A file kept open for writing over several steps, whatever happens to its name."""

    def __init__(self, path: bytes) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self.descriptor = os.open(path, flags)

    def has_lost_its_name(self, root: bytes) -> bool:
        """Tell whether its name below `root` is gone while others stay: a write is then reported for no name."""
        name = os.readlink(b"/proc/self/fd/%d" % self.descriptor)
        lost = name.endswith(b" (deleted)") or not name.startswith(root + b"/")
        return lost and os.fstat(self.descriptor).st_nlink > 0


class Playground:
    """The tree, an area outside it, and one primitive for everything that can happen to them."""

    def __init__(self, root: bytes, outside: bytes, seed: int | str, suffixes: Suffixes | None = None) -> None:
        """Play in `root`; names end in one of `suffixes` now and then."""
        self.root = root
        self.outside = outside
        self.random = random.Random(seed)
        self.privileged = os.geteuid() == 0
        self.suffixes = suffixes or Suffixes()
        self.held: list[Held] = []
        self.journal: list[tuple[float, str]] = []

    # What stands there

    def directory(self, top: bytes | None = None) -> bytes:
        """Return some directory of the tree, often the root or one near it."""
        at = self.root if top is None else top
        while self.random.random() < 0.7:
            inner = [name for name, mode in self.listing(at) if stat.S_ISDIR(mode)]
            if not inner:
                break
            at = at + b"/" + self.random.choice(inner)
        return at

    def inner_directory(self) -> bytes | None:
        """Return some directory other than the root."""
        return self._search(lambda _, mode: stat.S_ISDIR(mode))

    def file(self) -> bytes | None:
        """Return some regular file."""
        return self._search(lambda _, mode: stat.S_ISREG(mode))

    def entry(self) -> bytes | None:
        """Return anything other than the root."""
        return self._search(lambda _, mode: True)

    def symlink_path(self) -> bytes | None:
        """Return some symlink."""
        return self._search(lambda _, mode: stat.S_ISLNK(mode))

    def linked_file(self) -> bytes | None:
        """Return some file that has another name."""
        return self._search(lambda path, mode: stat.S_ISREG(mode) and os.lstat(path).st_nlink > 1, attempts=12)

    def fixed(self, of_kind: Callable[[int], bool]) -> bytes | None:
        """Return some file or directory that has the fixed mtime of releases."""
        return self._search(lambda path, mode: of_kind(mode) and os.lstat(path).st_mtime_ns == FIXED_NS, attempts=12)

    def outside_entry(self) -> bytes | None:
        """Return something that was moved out of the tree or is waiting to be moved in."""
        names = [name for name, _ in self.listing(self.outside)]
        return self.outside + b"/" + self.random.choice(names) if names else None

    def free(self, directory: bytes | None = None, *, like: bytes | None = None, is_dir: bool = False) -> bytes:
        """Return a path where nothing stands, for a directory or not, or for what stands at `like`."""
        if like is not None:
            is_dir = stat.S_ISDIR(os.lstat(like).st_mode)
        if directory is None:
            directory = self.directory()
        for _ in range(20):
            path = directory + b"/" + self.name(is_dir=is_dir)
            if len(path) < LONGEST and not os.path.lexists(path):
                return path
        return directory + b"/n%08x" % self.random.getrandbits(32)

    def target(self, like: bytes) -> bytes:
        """Return a path to move `like` to: usually free, now and then taken."""
        if self.random.random() < 0.25:
            taken = self.entry()
            if taken is not None:
                return taken
        return self.free(like=like)

    def name(self, *, is_dir: bool = False) -> bytes:
        """Return a name: mostly one of a few (so that names are used again and again), sometimes an odd one."""
        draw = self.random.random()
        if draw < 0.5:
            name = self.random.choice(_COMMON)
        elif draw < 0.75:
            name = b"n%d" % self.random.randrange(100)
        else:
            name = self.random.choice(_ODD)
        endings = self.suffixes.any + (self.suffixes.directory if is_dir else self.suffixes.plain)
        if endings and len(name) < 200 and self.random.random() < 0.2:
            name += self.random.choice(endings)
        return name

    def _check(self, path: bytes, is_dir: bool) -> None:
        """Refuse, as the kernel would, a name whose ending belongs to the other type."""
        if path.endswith(self.suffixes.plain if is_dir else self.suffixes.directory):
            raise OSError(errno.EINVAL, "name of the other type", path)

    def size(self) -> int:
        """Return a file size in bytes, small as a rule."""
        draw = self.random.random()
        if draw < 0.1:
            return 0
        if draw < 0.8:
            return self.random.randrange(1, 300)
        return self.random.randrange(300, 20_000) if draw < 0.97 else self.random.randrange(20_000, 300_000)

    def data(self, size: int | None = None) -> bytes:
        """Return `size` random bytes."""
        return self.random.randbytes(self.size() if size is None else size)

    def height(self, path: bytes) -> int:
        """Return how many bytes the longest path below `path` adds to it."""
        longest = 0
        for directory, directories, files in os.walk(path):
            for name in (*directories, *files):
                longest = max(longest, len(directory) + 1 + len(name) - len(path))
        return longest

    def count(self) -> int:
        """Return the number of entries below the root."""
        return sum(len(directories) + len(files) for _, directories, files in os.walk(self.root))

    def listing(self, directory: bytes) -> list[tuple[bytes, int]]:
        """Return the names in `directory` with their modes, sorted.

        A symlink that has just taken its place is not followed: it may lead out, and what is chosen there be removed.
        """
        here = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            with os.scandir(here) as entries:
                return sorted((os.fsencode(entry.name), _kind(entry)) for entry in entries)
        finally:
            os.close(here)

    def _search(self, fits: _Fits, attempts: int = 6) -> bytes | None:
        for _ in range(attempts):
            directory = self.directory()
            listing = self.listing(directory)
            if listing:
                start = self.random.randrange(len(listing))
                for name, mode in (listing[start:] + listing[:start])[:40]:
                    path = directory + b"/" + name
                    if fits(path, mode):
                        return path
        return None

    # What can be done

    def note(self, *words: object) -> None:
        """Write a line in the journal."""
        self.journal.append((time.time(), " ".join(self._word(word) for word in words)))

    def _word(self, word: object) -> str:
        if not isinstance(word, bytes):
            return str(word)
        short = word.removeprefix(self.root + b"/")
        return repr(short if short is not word else word)[1:]

    def write(self, path: bytes, data: bytes, flags: int = os.O_CREAT | os.O_TRUNC, at: int = 0) -> None:
        """Open `path` with `flags`, write `data` at offset `at`, close."""
        self._check(path, False)
        self.note("write", path, len(data), f"flags={flags:o} at={at}")
        descriptor = self._open(path, flags)
        try:
            if flags & os.O_APPEND:
                os.write(descriptor, data)
            else:
                os.pwrite(descriptor, data, at)
        finally:
            os.close(descriptor)

    def truncate(self, path: bytes, size: int) -> None:
        """Cut or extend a file."""
        self.note("truncate", path, size)
        descriptor = self._open(path)
        try:
            os.ftruncate(descriptor, size)
        finally:
            os.close(descriptor)

    def map(self, path: bytes, data: bytes, at: int = 0) -> None:
        """Write inside a file through a shared mapping; its descriptor is closed before the store."""
        self.note("mmap", path, len(data), f"at={at}")
        descriptor = self._open(path, os.O_RDWR)
        try:
            mapping = mmap.mmap(descriptor, 0)  # keeps a duplicate
        except ValueError as error:
            raise OSError(errno.EINVAL, str(error)) from error  # somebody else has emptied it
        finally:
            os.close(descriptor)
        with mapping:
            room = max(0, min(len(data), len(mapping) - at))  # somebody else may have cut it
            mapping[at : at + room] = data[:room]

    def nameless(self, directory: bytes, data: bytes, path: bytes) -> None:
        """Write a file without a name (O_TMPFILE), then give it one."""
        self._check(path, False)
        self.note("tmpfile", directory, "linked at", path)
        descriptor = os.open(directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o644)
        try:
            os.write(descriptor, data)
            os.link(b"/proc/self/fd/%d" % descriptor, path, src_dir_fd=descriptor, follow_symlinks=True)
        finally:
            os.close(descriptor)

    def append(self, held: Held, data: bytes) -> None:
        """Write to a file that is kept open."""
        self.note("append to held", os.readlink(b"/proc/self/fd/%d" % held.descriptor), len(data))
        os.write(held.descriptor, data)

    @staticmethod
    def _open(path: bytes, flags: int = 0) -> int:
        access = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a fifo that came in between must not block
        descriptor = os.open(path, access | (flags if flags & os.O_RDWR else flags | os.O_WRONLY), 0o644)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "no regular file", path)
        return descriptor

    def punch(self, path: bytes, start: int, length: int) -> None:
        """Make a hole; file systems without holes refuse, which changes nothing."""
        self.note("punch", path, start, length)
        descriptor = self._open(path)
        try:
            mode = _KEEP_SIZE | _PUNCH_HOLE
            _libc.fallocate(descriptor, mode, ctypes.c_int64(start), ctypes.c_int64(length))
        finally:
            os.close(descriptor)

    def mkdir(self, path: bytes) -> None:
        """Make a directory."""
        self._check(path, True)
        self.note("mkdir", path)
        os.mkdir(path)

    def symlink(self, target: bytes, path: bytes) -> None:
        """Make a symlink."""
        self._check(path, False)
        self.note("symlink", target, "at", path)
        os.symlink(target, path)

    def link(self, old: bytes, new: bytes) -> None:
        """Give a file another name."""
        self._check(new, False)
        self.note("link", old, new)
        os.link(old, new, follow_symlinks=False)

    def rename(self, old: bytes, new: bytes, flags: int = 0) -> None:
        """Rename, with the flags of renameat2(2). Paths that would grow too long are refused as the kernel does."""
        if len(new) + self.height(old) > LONGEST or (flags == EXCHANGE and len(old) + self.height(new) > LONGEST):
            raise OSError(errno.ENAMETOOLONG, "kept short", new)
        self._check(new, stat.S_ISDIR(os.lstat(old).st_mode))
        if flags == EXCHANGE:
            self._check(old, stat.S_ISDIR(os.lstat(new).st_mode))
        self.note("exchange" if flags == EXCHANGE else "rename", old, new)
        if _libc.renameat2(-100, old, -100, new, flags) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), new)

    def remove(self, path: bytes) -> None:
        """Remove whatever stands at `path`, trees too."""
        self.note("remove", path)
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path)
        else:
            os.unlink(path)

    def chmod(self, path: bytes, mode: int) -> None:
        """Change the mode."""
        self.note("chmod", path, oct(mode))
        os.chmod(path, mode)

    def chown(self, path: bytes, uid: int, gid: int) -> None:
        """Change the owner, of a symlink itself too."""
        self.note("chown", path, uid, gid)
        os.chown(path, uid, gid, follow_symlinks=False)

    def utime(self, path: bytes, mtime_ns: int) -> None:
        """Set the mtime, of a symlink itself too."""
        self.note("utime", path, mtime_ns)
        os.utime(path, ns=(mtime_ns, mtime_ns), follow_symlinks=False)

    def setxattr(self, path: bytes, value: bytes) -> None:
        """Set a user attribute."""
        self.note("setxattr", path)
        os.setxattr(path, b"user.note", value)

    def mknod(self, path: bytes, mode: int, device: int = 0) -> None:
        """Make a fifo, a socket or a device."""
        self._check(path, False)
        self.note("mknod", path, oct(mode), device)
        os.mknod(path, mode, device)

    def pause(self, seconds: float) -> None:
        """Let the program under test run."""
        time.sleep(seconds)

    def hold(self, path: bytes) -> None:
        """Open a file for writing and keep it open."""
        self.note("hold", path)
        self.held.append(Held(path))

    def release(self) -> None:
        """Close every file that was kept open."""
        for held in self.held:
            os.close(held.descriptor)
        self.held.clear()

    def tree(self, top: bytes, levels: int, width: int, mtime_ns: int | None = None) -> None:
        """Make a filled tree at `top`: `width` files and one or two directories a level."""
        self.mkdir(top)
        for index in range(width):
            path = top + b"/f%d" % index
            self.write(path, self.data(64 if mtime_ns else None))
            if mtime_ns is not None:
                self.utime(path, mtime_ns)
        if levels > 1:
            for index in range(1 if levels > 4 else 2):
                self.tree(top + b"/d%d" % index, levels - 1, width, mtime_ns)
        if mtime_ns is not None:
            self.utime(top, mtime_ns)


def _kind(entry: os.DirEntry[str]) -> int:
    return entry.stat(follow_symlinks=False).st_mode


def lines(journal: list[tuple[float, str]]) -> Iterator[str]:
    """Yield the journal as text, one step a line, with the wall clock (s)."""
    for at, text in journal:
        yield f"{at:.6f} {text}\n"
