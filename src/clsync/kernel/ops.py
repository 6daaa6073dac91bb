"""What the pipeline asks of the file tree, in one place: here it is done in this process, without a detour.

The other implementation asks a process that has the rights to look (`daemon.remote`); who asks does not know which.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Final, NamedTuple, Protocol

from clsync.core.classify import Plain, Stat
from clsync.core.listing import Records
from clsync.kernel import linkscan
from clsync.kernel.descriptors import handed_over
from clsync.kernel.fanotify import handle_of
from clsync.kernel.mounts import devices_shown_twice
from clsync.kernel.process import spawn
from clsync.kernel.sandbox import Sandbox
from clsync.kernel.walk import lstat_below, plain_below, walk

_SEARCH: Final = b"import gc; gc.disable(); from clsync.kernel.linkscan import main; main()"
"""It makes no cycles; `-m` takes longer to find the same."""


class Identity(NamedTuple):
    """What a directory is known by."""

    file_system: int
    """Its id, the device where it has none: it survives unmounting and mounting again, a device number need not."""
    inode: int
    handle: bytes
    """Tells it from one that was made later and got the same inode (name_to_handle_at(2)); empty: there are none."""


class Looks:
    """lstat below one open directory."""

    at_once = 64
    """Paths that `expect` is told of at a time."""

    def __init__(
        self,
        lstat: Callable[[bytes], Stat | None],
        plain: Callable[[Sequence[bytes], set[bytes]], Iterable[Plain]],
    ) -> None:
        """`lstat` answers None where nothing stands, and raises OSError for what is neither present nor absent.

        `plain` tells of paths, in their order, which are regular files with one name below real directories alone. It is
        given directories that are known to be real, and may add others to them.
        """
        self.lstat, self.plain = lstat, plain

    def expect(self, paths: Collection[bytes]) -> None:
        """Be told which paths are looked at next."""

    def note(self, records: Records) -> None:
        """Be told where to note what `plain` sees; done where that is for nothing."""


class _DirectLooks(Looks):
    """lstat of this process."""

    def __init__(self, directory: int) -> None:
        super().__init__(lstat_below(directory), partial(plain_below, directory))
        self._directory = directory

    def note(self, records: Records) -> None:
        self.plain = partial(plain_below, self._directory, records=records)


class Scan(Protocol):
    """A search for names beside everything else (see `kernel.linkscan`)."""

    inlet: int
    """Descriptor of its standard input."""
    outlet: int
    """Descriptor of its standard output."""

    def end_input(self) -> None:
        """Close its standard input."""
        ...

    async def end(self, kill: bool) -> int:
        """Wait for its end, after SIGKILL if that is asked for; return its `Popen.returncode`."""
        ...

    def close(self) -> None:
        """Give the pipes back."""
        ...


class KernelOps(Protocol):
    """Looks at the tree. A directory is a number: a descriptor, or what stands for one elsewhere."""

    def open(self, path: bytes) -> int:
        """Open the watched directory, or a destination. Raises OSError."""
        ...

    def close(self, directory: int) -> None:
        """Give it back."""
        ...

    def identity(self, directory: int) -> Identity:
        """Return what an open directory is known by. Raises OSError."""
        ...

    def is_linked(self, directory: int) -> bool:
        """Tell whether an open directory has a name still."""
        ...

    def device(self, directory: int) -> int:
        """Return its device number."""
        ...

    def looks(self, directory: int) -> Looks:
        """Return lstat for paths relative to it."""
        ...

    def walk(
        self, directory: int, top: bytes, enter: Callable[[bytes], bool], one_file_system: bool
    ) -> Iterator[tuple[bytes, Stat]]:
        """Yield (path, lstat) of everything below (see `kernel.walk.walk`)."""
        ...

    def devices_shown_twice(self, directory: int) -> set[int]:
        """Return the devices of which more than one mount stands at and below it."""
        ...

    def scan(self, directory: int, options: Sequence[str]) -> Scan:
        """Start a search for names below it. Raises OSError."""
        ...


class DirectOps:
    """Looks with the rights of this process (see `KernelOps`)."""

    def __init__(self, scan_sandbox: Callable[[], Sandbox | None] = lambda: None) -> None:
        """`scan_sandbox` returns what a search for names can do besides reading directories; None: all that we can."""
        self._scan_sandbox = scan_sandbox

    def open(self, path: bytes) -> int:
        """Open a directory. Raises OSError."""
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self, directory: int) -> None:
        """Give it back."""
        os.close(directory)

    def identity(self, directory: int) -> Identity:
        """Return what an open directory is known by. Raises OSError."""
        found = os.fstat(directory)
        try:
            handle = handle_of(directory)
        except OSError:
            handle = b""
        return Identity(os.fstatvfs(directory).f_fsid or found.st_dev, found.st_ino, handle)

    def is_linked(self, directory: int) -> bool:
        """Tell whether an open directory has a name still."""
        return os.fstat(directory).st_nlink > 0

    def device(self, directory: int) -> int:
        """Return its device number."""
        return os.fstat(directory).st_dev

    def looks(self, directory: int) -> Looks:
        """Return lstat for paths relative to it."""
        return _DirectLooks(directory)

    def walk(
        self, directory: int, top: bytes, enter: Callable[[bytes], bool], one_file_system: bool
    ) -> Iterator[tuple[bytes, Stat]]:
        """Yield everything below."""
        return walk(directory, top, enter, one_file_system)

    def devices_shown_twice(self, directory: int) -> set[int]:
        """Return the devices that are shown twice."""
        return devices_shown_twice(directory)

    def scan(self, directory: int, options: Sequence[str]) -> Scan:
        """Start a search for names below it. Raises OSError."""
        if not os.path.exists(linkscan.__file__):
            return ThreadScan(directory, options)  # our code is out of reach: another root
        return LocalScan(directory, options, self._scan_sandbox())


class LocalScan:
    """A child of this process (see `Scan`)."""

    def __init__(self, directory: int, options: Sequence[str], sandbox: Sandbox | None = None) -> None:
        """Start it, in a sandbox if there is one. Raises OSError."""
        argv = [os.fsencode(sys.executable), b"-I", b"-c", _SEARCH]
        with nullcontext() if sandbox is None else handed_over(pickle.dumps(sandbox)) as order:
            confined = [] if order is None else [b"--sandbox", b"%d" % order]
            self._child = spawn(
                [*argv, *confined, *map(str.encode, options)],
                cwd=directory,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[] if order is None else [order],
                scanner=True,
            )
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._pipes = self._child.stdin, self._child.stdout
        self.inlet, self.outlet = self._child.stdin.fileno(), self._child.stdout.fileno()

    def end_input(self) -> None:
        """Close its standard input."""
        self._pipes[0].close()

    async def end(self, kill: bool) -> int:
        """Wait for its end."""
        if kill:
            self._child.kill()
        code = await asyncio.to_thread(self._child.wait)
        self.close()
        return code

    def close(self) -> None:
        """Give the pipes back."""
        for pipe in self._pipes:
            pipe.close()


class ScanPipes:
    """The ends of a search that is reached by two pipes alone."""

    inlet: int
    outlet: int

    def end_input(self) -> None:
        """Close its standard input."""
        if self.inlet >= 0:
            os.close(self.inlet)
            self.inlet = -1

    def close(self) -> None:
        """Give the pipes back."""
        self.end_input()
        if self.outlet >= 0:
            os.close(self.outlet)
            self.outlet = -1


class ThreadScan(ScanPipes):
    """A thread of this process, from which it takes time (see `Scan`)."""

    def __init__(self, directory: int, options: Sequence[str]) -> None:
        """Start it. Raises OSError."""
        wishes, self.inlet = os.pipe2(os.O_CLOEXEC)
        self.outlet, found = os.pipe2(os.O_CLOEXEC)
        self._code = 1
        arguments = (os.dup(directory), wishes, found, list(map(str.encode, options)))
        self._thread = threading.Thread(target=self._scan, args=arguments, name="scan", daemon=True)
        self._thread.start()

    def _scan(self, directory: int, wishes: int, found: int, options: Sequence[bytes]) -> None:
        try:
            with open(wishes, "rb") as asked, open(found, "wb") as out:
                for (device, inode), links, path in linkscan.scanned(directory, options, asked):
                    out.write(b"%d %d %d %s\0" % (device, inode, links, path))
            self._code = 0
        except OSError:
            pass  # nobody reads it any more, or the tree cannot be read: the code tells
        finally:
            os.close(directory)

    async def end(self, kill: bool) -> int:
        """Wait for its end, which the closed pipes bring about."""
        self.close()
        await asyncio.to_thread(self._thread.join)
        return self._code
