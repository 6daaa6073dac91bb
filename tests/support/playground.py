"""A live tree to play in: picks what stands there, does one system call at a time and keeps a journal.

Everything random comes from one generator and from sorted listings, so the same seed on the same tree does the
same things. Paths are whole paths as bytes; `outside` is a second area on the same file system.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import shutil
import stat
import time
from collections.abc import Callable, Iterator

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
        self.descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def has_lost_its_name(self) -> bool:
        """Tell whether the name it was opened by is gone while others stay: a write is then reported for no name."""
        lost = os.readlink(b"/proc/self/fd/%d" % self.descriptor).endswith(b" (deleted)")
        return lost and os.fstat(self.descriptor).st_nlink > 0


class Playground:
    """The tree, an area outside it, and one primitive for everything that can happen to them."""

    def __init__(self, root: bytes, outside: bytes, seed: int, *, skip_suffix: bytes = b"") -> None:
        self.root = root
        self.outside = outside
        self.random = random.Random(seed)
        self.privileged = os.geteuid() == 0
        self.skip_suffix = skip_suffix
        self.held: list[Held] = []
        self.journal: list[tuple[float, str]] = []

    # What stands there

    def directory(self, top: bytes | None = None) -> bytes:
        """Return some directory of the tree, often the root or one near it."""
        at = self.root if top is None else top
        while self.random.random() < 0.7:
            inner = [name for name, mode in self._listing(at) if stat.S_ISDIR(mode)]
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
        return self._search(
            lambda path, mode: stat.S_ISREG(mode) and os.lstat(path).st_nlink > 1, attempts=12
        )

    def outside_entry(self) -> bytes | None:
        """Return something that was moved out of the tree or is waiting to be moved in."""
        names = [name for name, _ in self._listing(self.outside)]
        return self.outside + b"/" + self.random.choice(names) if names else None

    def free(self, directory: bytes) -> bytes:
        """Return a path in `directory` where nothing stands."""
        for _ in range(20):
            path = directory + b"/" + self.name()
            if len(path) < LONGEST and not os.path.lexists(path):
                return path
        return directory + b"/n%08x" % self.random.getrandbits(32)

    def target(self) -> bytes:
        """Return a path to create or to move something to: usually free, now and then taken."""
        if self.random.random() < 0.25:
            taken = self.entry()
            if taken is not None:
                return taken
        return self.free(self.directory())

    def name(self) -> bytes:
        """Return a name: mostly one of a few (so that names are used again and again), sometimes an odd one."""
        draw = self.random.random()
        if draw < 0.5:
            name = self.random.choice(_COMMON)
        elif draw < 0.75:
            name = b"n%d" % self.random.randrange(100)
        else:
            name = self.random.choice(_ODD)
        if self.skip_suffix and len(name) < 200 and self.random.random() < 0.2:
            name += self.skip_suffix
        return name

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

    def _listing(self, directory: bytes) -> list[tuple[bytes, int]]:
        with os.scandir(directory) as entries:
            found = [(entry.name, entry) for entry in entries]
        found.sort(key=lambda pair: pair[0])
        return [(name, _kind(entry)) for name, entry in found]

    def _search(self, fits: _Fits, attempts: int = 6) -> bytes | None:
        for _ in range(attempts):
            directory = self.directory()
            listing = self._listing(directory)
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
        self.note("write", path, len(data), f"flags={flags:o} at={at}")
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o644)
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
        os.truncate(path, size)

    def punch(self, path: bytes, start: int, length: int) -> None:
        """Make a hole; file systems without holes refuse, which changes nothing."""
        self.note("punch", path, start, length)
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            mode = _KEEP_SIZE | _PUNCH_HOLE
            _libc.fallocate(descriptor, mode, ctypes.c_long(start), ctypes.c_long(length))
        finally:
            os.close(descriptor)

    def mkdir(self, path: bytes) -> None:
        """Make a directory."""
        self.note("mkdir", path)
        os.mkdir(path)

    def symlink(self, target: bytes, path: bytes) -> None:
        """Make a symlink."""
        self.note("symlink", target, "at", path)
        os.symlink(target, path)

    def link(self, old: bytes, new: bytes) -> None:
        """Give a file another name."""
        self.note("link", old, new)
        os.link(old, new, follow_symlinks=False)

    def rename(self, old: bytes, new: bytes, flags: int = 0) -> None:
        """Rename, with the flags of renameat2(2). Paths that would grow too long are refused as the kernel does."""
        if len(new) + self.height(old) > LONGEST or (
            flags == EXCHANGE and len(old) + self.height(new) > LONGEST
        ):
            raise OSError(errno.ENAMETOOLONG, "kept short", new)
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


def _kind(entry: os.DirEntry[bytes]) -> int:
    return entry.stat(follow_symlinks=False).st_mode


def lines(journal: list[tuple[float, str]]) -> Iterator[str]:
    """Yield the journal as text, one step a line, with the wall clock (s)."""
    for at, text in journal:
        yield f"{at:.6f} {text}\n"
