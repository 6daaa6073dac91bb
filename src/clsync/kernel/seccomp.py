"""Filters of system calls (seccomp(2)): what they mean, and their making. Which calls are allowed is not decided here."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from clsync.kernel.credentials import no_new_privileges
from clsync.kernel.features import refuse_if_forced
from clsync.kernel.libc import LIBC, checked

ALLOW: Final = 0x7FFF0000
KILL: Final = 0x80000000
"""End the whole process by SIGSYS."""
_ERRNO: Final = 0x00050000

_LOAD: Final = 0x20
_EQUAL: Final = 0x15
_AT_LEAST: Final = 0x35
_ANY_BIT: Final = 0x45
_RETURN: Final = 0x06
_NUMBER_AT: Final = 0
_ARCHITECTURE_AT: Final = 4
_ARGUMENT_AT: Final = 16
"""Places in struct seccomp_data; the lower half of an argument comes first."""
_X32: Final = 0x40000000
"""A second set of numbers of x86_64."""
_SET_MODE_FILTER: Final = 1
_ALL_THREADS: Final = 1

_TABLE: Final = (
    "accept:43:202 accept4:288:242 access:21:- acct:163:89 add_key:248:217 adjtimex:159:171 bind:49:200 "
    "bpf:321:280 brk:12:214 capset:126:91 chroot:161:51 clock_adjtime:305:266 clock_getres:229:114 "
    "clock_gettime:228:113 clock_nanosleep:230:115 clock_settime:227:112 clone:56:220 clone3:435:435 close:3:57 "
    "close_range:436:436 connect:42:203 delete_module:176:106 dup:32:23 dup2:33:- dup3:292:24 "
    "epoll_create1:291:20 epoll_ctl:233:21 epoll_pwait:281:22 epoll_pwait2:441:441 epoll_wait:232:- "
    "eventfd2:290:19 execve:59:221 execveat:322:281 exit:60:93 exit_group:231:94 faccessat:269:48 "
    "faccessat2:439:439 fchmod:91:52 fchmodat:268:53 fcntl:72:25 fdatasync:75:83 finit_module:313:273 "
    "flock:73:32 fsconfig:431:431 fsmount:432:432 fsopen:430:430 fspick:433:433 fstat:5:80 fstatfs:138:44 "
    "fsync:74:82 ftruncate:77:46 futex:202:98 getcwd:79:17 getdents64:217:61 getegid:108:177 geteuid:107:175 "
    "getgid:104:176 getgroups:115:158 getpeername:52:205 getpid:39:172 getppid:110:173 getrandom:318:278 "
    "getresgid:120:150 getresuid:118:148 getrusage:98:165 getsockname:51:204 getsockopt:55:209 gettid:186:178 "
    "gettimeofday:96:169 getuid:102:174 init_module:175:105 inotify_add_watch:254:27 inotify_init1:294:26 "
    "inotify_rm_watch:255:28 io_uring_enter:426:426 io_uring_register:427:427 io_uring_setup:425:425 "
    "ioctl:16:29 ioperm:173:- iopl:172:- kexec_file_load:320:294 kexec_load:246:104 keyctl:250:219 kill:62:129 "
    "listen:50:201 lseek:8:62 lstat:6:- madvise:28:233 membarrier:324:283 memfd_create:319:279 mkdir:83:- "
    "mkdirat:258:34 mknod:133:- mknodat:259:33 mmap:9:222 mount:165:40 mount_setattr:442:442 move_mount:429:429 "
    "mprotect:10:226 mremap:25:216 munmap:11:215 nanosleep:35:101 newfstatat:262:79 open:2:- "
    "open_by_handle_at:304:265 open_tree:428:428 open_tree_attr:467:467 openat:257:56 pause:34:- "
    "perf_event_open:298:241 personality:135:92 pidfd_getfd:438:438 pidfd_open:434:434 pipe2:293:59 "
    "pivot_root:155:41 poll:7:- ppoll:271:73 prctl:157:167 pread64:17:67 prlimit64:302:261 "
    "process_vm_readv:310:270 process_vm_writev:311:271 pselect6:270:72 ptrace:101:117 pwrite64:18:68 read:0:63 "
    "readlink:89:- readlinkat:267:78 readv:19:65 reboot:169:142 recvfrom:45:207 recvmsg:47:212 rename:82:- "
    "renameat:264:38 renameat2:316:276 request_key:249:218 restart_syscall:219:128 rmdir:84:- rseq:334:293 "
    "rt_sigaction:13:134 rt_sigprocmask:14:135 rt_sigreturn:15:139 rt_sigtimedwait:128:137 "
    "sched_getaffinity:204:123 sched_yield:24:124 select:23:- sendmsg:46:211 sendto:44:206 "
    "set_robust_list:273:99 setdomainname:171:162 setfsgid:123:152 setfsuid:122:151 setgid:106:144 "
    "setgroups:116:159 sethostname:170:161 setns:308:268 setregid:114:143 setresgid:119:149 setresuid:117:147 "
    "setreuid:113:145 setsockopt:54:208 settimeofday:164:170 setuid:105:146 shutdown:48:210 sigaltstack:131:132 "
    "socket:41:198 socketpair:53:199 stat:4:- statfs:137:43 statx:332:291 swapoff:168:225 swapon:167:224 "
    "sysinfo:99:179 tgkill:234:131 umask:95:166 umount2:166:39 uname:63:160 unlink:87:- unlinkat:263:35 "
    "unshare:272:97 userfaultfd:323:282 utimensat:280:88 wait4:61:260 waitid:247:95 write:1:64 writev:20:66"
).split()
"""Names of system calls, their numbers on x86_64, and on all newer machines; `-`: there is none."""


@dataclass(frozen=True, slots=True)
class _Machine:
    column: int
    architecture: int
    """Of linux/audit.h."""
    seccomp: int
    """The number of seccomp(2)."""


_MACHINES: Final = {
    "x86_64": _Machine(1, 0xC000003E, 317),
    "aarch64": _Machine(2, 0xC00000B7, 277),
    "riscv64": _Machine(2, 0xC00000F3, 277),
}


@dataclass(frozen=True, slots=True)
class Only:
    """A call is allowed only with some values of one of its arguments (its lower 32 bits)."""

    argument: int
    values: tuple[int, ...] = ()
    bits: int = 0
    """One of these is set. 0: `values` count."""
    without: int = 0
    """None of these bits is set: that alone counts then."""


def error(number: int) -> int:
    """Return the action that lets a call fail with an errno."""
    return _ERRNO | number


def numbers() -> dict[str, int]:
    """Return the system calls that are known here on this machine. Raises OSError (ENOSYS: on another machine)."""
    column = _machine().column
    rows = (row.split(":") for row in _TABLE)
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


def program(
    actions: Mapping[str, int], conditions: Mapping[str, Only], otherwise: int, known: Mapping[str, int]
) -> bytes:
    """Return the filter (struct sock_filter): what is done with each call, and with all others.

    `conditions`: calls that are allowed with some arguments; with others the action is that of `actions`, if there is
    one for them. Names without a number in `known` are left out.
    """
    code = [
        _instruction(_LOAD, _ARCHITECTURE_AT),
        _instruction(_EQUAL, _machine().architecture, 1, 0),
        _instruction(_RETURN, KILL),
        _instruction(_LOAD, _NUMBER_AT),
        _instruction(_AT_LEAST, _X32, 0, 1),
        _instruction(_RETURN, KILL),
    ]
    for name in sorted(conditions.keys() & known.keys()):
        test = list(_test(conditions[name], actions.get(name, otherwise)))
        code += [_instruction(_EQUAL, known[name], 0, len(test)), *test]
    for name in sorted((actions.keys() - conditions.keys()) & known.keys()):
        code += [_instruction(_EQUAL, known[name], 0, 1), _instruction(_RETURN, actions[name])]
    return b"".join((*code, _instruction(_RETURN, otherwise)))


def _test(only: Only, otherwise: int) -> Iterator[bytes]:
    yield _instruction(_LOAD, _ARGUMENT_AT + 8 * only.argument)
    if only.without:
        yield _instruction(_ANY_BIT, only.without, 1, 0)
        yield _instruction(_RETURN, ALLOW)
    for kind, value in [(_ANY_BIT, only.bits)] if only.bits else [(_EQUAL, value) for value in only.values]:
        yield _instruction(kind, value, 0, 1)
        yield _instruction(_RETURN, ALLOW)
    yield _instruction(_RETURN, otherwise)


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def load(filter_program: bytes, everywhere: bool = True, gains: bool = False) -> None:
    """Put a filter in force for all threads, for good, programs that are run included (Linux 3.17). Raises OSError.

    Not `everywhere`: for this thread alone. `gains`: programs may still get rights by being run; needs CAP_SYS_ADMIN.
    """
    refuse_if_forced("seccomp")
    buffer = ctypes.create_string_buffer(filter_program, len(filter_program))
    description = struct.pack("@HP", len(filter_program) // 8, ctypes.addressof(buffer))
    if not gains:
        no_new_privileges()
    arguments = (ctypes.c_long(_SET_MODE_FILTER), ctypes.c_long(_ALL_THREADS if everywhere else 0), description)
    other = checked(LIBC.syscall(ctypes.c_long(_machine().seccomp), *arguments))
    if other:
        raise OSError(errno.EBUSY, f"thread {other} has a filter of its own")


def _machine() -> _Machine:
    try:
        return _MACHINES[platform.machine()]
    except KeyError:
        raise OSError(errno.ENOSYS, f"system calls of {os.uname().machine} are not known here") from None


def unknown(names: Collection[str]) -> set[str]:
    """Return names that no table here has."""
    return set(names) - {row.partition(":")[0] for row in _TABLE}
