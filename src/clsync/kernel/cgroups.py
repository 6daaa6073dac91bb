"""Groups of processes, and the devices they may open (cgroups(7)): by a program in version 2, by lists in version 1."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from clsync.kernel.libc import LIBC, checked
from clsync.kernel.mounts import MOUNTINFO, private_view

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
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


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
    """A group of its own below the present one, in which only some devices can be opened."""

    def __init__(self, hierarchy: Hierarchy, name: bytes, devices: Iterable[Device]) -> None:
        """Make the group, limit it and enter it. Raises OSError (EEXIST where another process is in it).

        `name`: relative; directories that are missing are made.
        """
        # A view that leads nowhere else: this process may be about to leave the root that it lies in.
        self._home = private_view(hierarchy.here)
        self._made: list[bytes] = []
        self._name = name
        try:
            self._make()
            if hierarchy.version == 2:
                self._filter(devices)
            else:
                self._list(devices)
            self._write(name + b"/cgroup.procs", b"0" if hierarchy.version == 2 else b"%d" % os.getpid())
        except OSError:
            self.leave()
            raise

    def leave(self) -> None:
        """Go back to the old group with all that is in this one, and remove it. Raises OSError."""
        if self._name in self._made:
            for pid in self._read(self._name + b"/cgroup.procs").split():
                with suppress(ProcessLookupError):
                    self._write(b"cgroup.procs", pid)
        for made in reversed(self._made):
            try:
                os.rmdir(made, dir_fd=self._home)
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.ENOTEMPTY) or made == self._name:
                    raise  # another instance has a group in the directories above
        self._made.clear()
        os.close(self._home)

    def _make(self) -> None:
        parts = self._name.split(b"/")
        for path in (b"/".join(parts[:count]) for count in range(1, len(parts))):
            with suppress(FileExistsError):
                os.mkdir(path, 0o755, dir_fd=self._home)
            self._made.append(path)
        with suppress(OSError):
            os.rmdir(self._name, dir_fd=self._home)  # what a process that was killed has left
        os.mkdir(self._name, 0o755, dir_fd=self._home)
        self._made.append(self._name)

    def _filter(self, devices: Iterable[Device]) -> None:
        program = _load(instructions(devices))
        group = os.open(self._name, _DIRECTORY, dir_fd=self._home)
        try:
            _bpf(_PROG_ATTACH, struct.pack("=IIII", group, program, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI))
        finally:
            os.close(group)
            os.close(program)

    def _list(self, devices: Iterable[Device]) -> None:
        self._write(self._name + b"/devices.deny", b"a")
        for major, minor, access in devices:
            how = b"r" * bool(access & READ) + b"w" * bool(access & WRITE)
            self._write(self._name + b"/devices.allow", b"c %d:%d %s" % (major, minor, how))

    def _write(self, name: bytes, text: bytes) -> None:
        # Not by a buffered file: what the kernel says to it must not be lost.
        file = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._home)
        try:
            os.write(file, text)
        finally:
            os.close(file)

    def _read(self, name: bytes) -> bytes:
        file = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._home)
        with open(file, "rb") as stream:
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
