"""Groups of processes, and the devices they may open (cgroups(7)): by a program in version 2, by lists in version 1."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from clsync.kernel.credentials import CapabilitySets, capabilities, mask, set_capabilities
from clsync.kernel.libc import LIBC, checked
from clsync.kernel.mounts import MOUNTINFO

READ: Final = 2
WRITE: Final = 4
_BLOCK: Final = 1
_CHARACTER: Final = 2
_BPF: Final = {"x86_64": 321, "i686": 357, "armv7l": 386, "ppc64le": 361, "s390x": 351}
_BPF_ELSEWHERE: Final = 280
_PROG_LOAD: Final = 5
_PROG_ATTACH: Final = 8
_PROG_TYPE_CGROUP_DEVICE: Final = 15
_ATTACH_CGROUP_DEVICE: Final = 6
_ALLOW_MULTI: Final = 2
_PATIENCE: Final = 5.0
"""Seconds that a group is given to become empty."""
_NAP: Final = 0.01


class Device(NamedTuple):
    """A character device that may be opened."""

    major: int
    minor: int
    access: int
    """`READ`, `WRITE`, or both."""


class Hierarchy(NamedTuple):
    """Where groups can be made."""

    version: int
    here: bytes
    """The directory of the group that this process is in."""


def hierarchies() -> list[Hierarchy]:
    """Return where devices can be forbidden, the best way first. Raises OSError."""
    own = dict(_own_groups())
    found = []
    with open(MOUNTINFO, "rb") as file:
        for line in file:
            before, _, after = line.rstrip(b"\n").partition(b" - ")
            root, point = before.split(b" ")[3:5]
            kind, _, options = after.split(b" ", 2)
            if kind == b"cgroup2" and b"" in own:
                found.append(Hierarchy(2, _below(point, root, own[b""])))
            elif kind == b"cgroup" and b"devices" in options.split(b",") and b"devices" in own:
                found.append(Hierarchy(1, _below(point, root, own[b"devices"])))
    return sorted(found, key=lambda hierarchy: -hierarchy.version)


def _own_groups() -> Iterator[tuple[bytes, bytes]]:
    """Yield the controllers of each hierarchy, nothing for version 2, and the path of our group."""
    with open(b"/proc/self/cgroup", "rb") as file:
        for line in file:
            _, controllers, path = line.rstrip(b"\n").split(b":", 2)
            for controller in controllers.split(b","):
                yield controller, path


def _below(point: bytes, root: bytes, path: bytes) -> bytes:
    """Return the directory of a group below a mount that may show a part of the hierarchy only."""
    inside = path[len(root) :] if root != b"/" and path.startswith(root) else path
    return os.path.normpath(point + b"/" + inside.lstrip(b"/"))


class DeviceGroup:
    """A group of its own below the present one, in which only some devices can be opened.

    A process of its own waits for the end of this one, however it comes, and removes the group then: only root with
    CAP_DAC_OVERRIDE may do that in the topmost group, and this process may be about to become somebody else, who sees
    other mounts.
    """

    def __init__(self, hierarchy: Hierarchy, name: bytes, devices: Iterable[Device]) -> None:
        """Make the group, limit it and enter it. Raises OSError (EEXIST where another process is in it).

        `name`: relative; directories that are missing are made.
        """
        self._home, self._group = hierarchy.here, os.path.join(hierarchy.here, name)
        self._made: list[bytes] = []
        self._caretaker: _Caretaker | None = None
        try:
            self._make(name)
            if hierarchy.version == 2:
                self._filter(devices)
            else:
                self._list(devices)
            self._caretaker = _Caretaker(self._remove)
            _write(self._group + b"/cgroup.procs", b"%d" % os.getpid())
        except OSError:
            self.leave()
            raise

    def leave(self) -> None:
        """Have this process, and all that is in the group with it, put back, and the group removed."""
        if self._caretaker is not None:
            self._caretaker.act()
        else:
            self._remove()

    def let_go(self) -> None:
        """Leave that to others who hold this object: whoever does can have it done at any time."""
        if self._caretaker is not None:
            self._caretaker.let_go()

    def _remove(self) -> None:
        if self._group in self._made:
            self._empty()
        for made in reversed(self._made):
            with suppress(OSError):  # another instance may have a group in the directories above
                os.rmdir(made)

    def _empty(self) -> None:
        """Put back all that is in the group, and remove it: a process that ends is in it a moment longer than listed."""
        until = time.monotonic() + _PATIENCE
        while os.path.isdir(self._group):
            for pid in _read(self._group + b"/cgroup.procs").split():
                with suppress(ProcessLookupError):
                    _write(self._home + b"/cgroup.procs", pid)
            try:
                os.rmdir(self._group)
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > until:
                    return
                time.sleep(_NAP)

    def _make(self, name: bytes) -> None:
        parts = name.split(b"/")
        for count in range(1, len(parts)):
            path = os.path.join(self._home, *parts[:count])
            with suppress(FileExistsError):
                os.mkdir(path, 0o755)
            self._made.append(path)
        with suppress(OSError):
            os.rmdir(self._group)  # what a process that was killed with its caretaker has left
        os.mkdir(self._group, 0o755)
        self._made.append(self._group)

    def _filter(self, devices: Iterable[Device]) -> None:
        program = _load(instructions(devices))
        group = os.open(self._group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _bpf(_PROG_ATTACH, struct.pack("=IIII", group, program, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI))
        finally:
            os.close(group)
            os.close(program)

    def _list(self, devices: Iterable[Device]) -> None:
        _write(self._group + b"/devices.deny", b"a")
        for major, minor, access in devices:
            how = b"r" * bool(access & READ) + b"w" * bool(access & WRITE)
            _write(self._group + b"/devices.allow", b"c %d:%d %s" % (major, minor, how))


class _Caretaker:
    """A process that does something as soon as no process holds this object any more."""

    def __init__(self, act: Callable[[], None]) -> None:
        """Start it; there must be one thread only. Raises OSError."""
        outlet, self._life = os.pipe2(os.O_CLOEXEC)
        self._done, inlet = os.pipe2(os.O_CLOEXEC)
        self._pid = os.fork()
        if self._pid:
            os.close(outlet)
            os.close(inlet)
            return
        try:
            self._wait(outlet, inlet)
            act()
        finally:
            os._exit(0)

    def act(self) -> None:
        """Have it done now, and wait for it."""
        if self._life >= 0:
            os.close(self._life)
            self._life = -1
            os.read(self._done, 1)
            os.close(self._done)
            with suppress(ChildProcessError):  # it is the child of who has split off the background
                os.waitpid(self._pid, 0)

    def let_go(self) -> None:
        """Hold it no more, in this process."""
        if self._life >= 0:
            os.close(self._life)
            os.close(self._done)
            self._life = -1

    def _wait(self, outlet: int, inlet: int) -> None:
        """Wait for the end of all others, deaf to signals, with nothing else in hand, and no rights but one."""
        os.setsid()
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            with suppress(OSError):
                signal.signal(number, signal.SIG_IGN)
        os.chdir(b"/")
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (int(name) for name in os.listdir(b"/proc/self/fd")):
            if descriptor < 3:
                os.dup2(nowhere, descriptor)
            elif descriptor not in (outlet, inlet):
                with suppress(OSError):
                    os.close(descriptor)
        kept = mask(("CAP_DAC_OVERRIDE",)) & capabilities().permitted
        set_capabilities(CapabilitySets(kept, kept, 0))
        os.read(outlet, 1)


def _write(name: bytes, text: bytes) -> None:
    # Not by a buffered file: what the kernel says to it must not be lost.
    file = os.open(name, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(file, text)
    finally:
        os.close(file)


def _read(name: bytes) -> bytes:
    with open(name, "rb") as stream:
        return stream.read()


# -- the filter of version 2 (bpf(2), linux/bpf.h) -----------------------------------------------------------------


def instructions(devices: Iterable[Device]) -> bytes:
    """Return the program that allows these devices, for these ways to open them, and nothing else.

    It is given the kind of the device and the access wanted (two halves of one word), major and minor number.
    """
    code = [
        _instruction(0x61, 2, 1, 0),  # r2 = both
        _instruction(0x61, 4, 1, 4),  # r4 = major
        _instruction(0x61, 5, 1, 8),  # r5 = minor
        _instruction(0xBF, 3, 2),  # r3 = kind
        _instruction(0x57, 3, value=0xFFFF),
        _instruction(0x77, 2, value=16),  # r2 = access
    ]
    for major, minor, access in devices:
        code += [
            _instruction(0x55, 3, offset=7, value=_CHARACTER),  # another kind: the next device
            _instruction(0x55, 4, offset=6, value=major),
            _instruction(0x55, 5, offset=5, value=minor),
            _instruction(0xBF, 6, 2),  # r6 = what is wanted and not allowed
            _instruction(0x57, 6, value=~access),
            _instruction(0x55, 6, offset=2, value=0),
            _instruction(0xB7, 0, value=1),
            _instruction(0x95),
        ]
    code += [_instruction(0xB7, 0, value=0), _instruction(0x95)]
    return b"".join(code)


def _instruction(code: int, target: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return struct.pack("=BBhi", code, source << 4 | target, offset, value)


def _load(code: bytes) -> int:
    buffer, licence = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "=IIQQIIQII16sII",
        *(_PROG_TYPE_CGROUP_DEVICE, len(code) // 8, ctypes.addressof(buffer), ctypes.addressof(licence)),
        *(0, 0, 0, 0, 0, b"clsync_devices", 0, _ATTACH_CGROUP_DEVICE),
    )
    return _bpf(_PROG_LOAD, attributes)


def _bpf(command: int, attributes: bytes) -> int:
    number = _BPF.get(os.uname().machine, _BPF_ELSEWHERE)
    arguments = (ctypes.c_int(command), ctypes.create_string_buffer(attributes, len(attributes)), len(attributes))
    return checked(LIBC.syscall(ctypes.c_long(number), *arguments))
