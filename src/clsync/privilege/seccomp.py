"""What a part of clsync that has no privileges and starts no programs may ask of the kernel."""

from __future__ import annotations

import errno
import socket
from typing import Final

from clsync.kernel import seccomp
from clsync.kernel.seccomp import ALLOW, KILL, Only

_CLONE_THREAD: Final = 0x10000
_PR_SET_NAME: Final = 15
_TERMINAL_AND_FILES: Final = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX. Not TIOCSTI, which types at a terminal."""

ALLOWED: Final = tuple(
    (
        # memory, threads, time, signals
        "brk mmap mprotect mremap munmap madvise membarrier futex set_robust_list rseq exit exit_group gettid"
        " sched_getaffinity sched_yield clock_getres clock_gettime clock_nanosleep nanosleep gettimeofday pause"
        " restart_syscall rt_sigaction rt_sigprocmask rt_sigreturn rt_sigtimedwait sigaltstack kill tgkill wait4 waitid"
        # who and where we are
        " getpid getppid getuid geteuid getgid getegid getgroups getresuid getresgid getrusage prlimit64 sysinfo uname"
        " getcwd getrandom umask"
        # files
        " open openat close close_range read readv pread64 write writev pwrite64 lseek dup dup2 dup3 fcntl flock access"
        " faccessat faccessat2 stat lstat fstat newfstatat statx statfs fstatfs getdents64 readlink readlinkat mkdir"
        " mkdirat rmdir unlink unlinkat rename renameat renameat2 ftruncate fchmod fchmodat utimensat fsync fdatasync"
        " memfd_create pipe2 eventfd2"
        # waiting and talking
        " epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 poll ppoll select pselect6 inotify_init1"
        " inotify_add_watch inotify_rm_watch pidfd_open socketpair bind listen connect accept accept4 sendto sendmsg"
        " recvfrom recvmsg shutdown getsockname getpeername getsockopt setsockopt"
    ).split()
)
"""What an event loop with threads, files, signals and local sockets needs, whichever C library and Python it is."""

NEVER: Final = tuple(
    (
        "execve execveat ptrace process_vm_readv process_vm_writev mount umount2 pivot_root chroot unshare setns"
        " move_mount open_tree open_tree_attr fsopen fspick fsmount fsconfig mount_setattr open_by_handle_at pidfd_getfd"
        " init_module finit_module delete_module kexec_load kexec_file_load bpf perf_event_open keyctl add_key"
        " request_key userfaultfd"
        " io_uring_setup io_uring_enter io_uring_register swapon swapoff reboot sethostname setdomainname iopl ioperm"
        " acct settimeofday clock_settime adjtimex clock_adjtime mknod mknodat setuid setgid setreuid setregid"
        " setresuid setresgid setgroups setfsuid setfsgid capset personality"
    ).split()
)
"""What nothing of ours asks for, whatever happens: it is somebody else's code that does, and it ends there."""

CONDITIONS: Final = {
    "clone": Only(0, bits=_CLONE_THREAD),
    "socket": Only(0, values=(socket.AF_UNIX,)),
    "prctl": Only(0, values=(_PR_SET_NAME,)),
    "ioctl": Only(1, values=_TERMINAL_AND_FILES),
}

_FLAGS: Final = (0, socket.SOCK_CLOEXEC, socket.SOCK_NONBLOCK, socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
_PAIRS: Final = Only(1, values=tuple(socket.SOCK_STREAM | flags for flags in _FLAGS))
"""Sockets that have another end from the beginning, and can send nowhere else."""
ANYWHERE: Final = ("socket", "connect")
"""What reaches the sockets of others on this machine."""


def confine(everywhere: bool = True, *, logs: bool = True) -> None:
    """Allow this process, all its threads and all it would start, just that; for good. Raises OSError.

    Not `everywhere`: this thread, and those that it starts, alone. `logs`: it may connect to the system log, and so to any
    local socket that others may reach.

    Other calls fail with EPERM, as a library may have ways that are not known here; the worst ones end the process
    (SIGSYS). clone3(2), whose arguments no filter can see, is answered as by a kernel without it.
    """
    refused = seccomp.error(errno.EPERM)
    actions = dict.fromkeys(ALLOWED, ALLOW) | dict.fromkeys(NEVER, KILL) | {"clone3": seccomp.error(errno.ENOSYS)}
    conditions = CONDITIONS
    if not logs:
        actions |= dict.fromkeys((*ANYWHERE, "socketpair"), refused)
        conditions = {name: only for name, only in CONDITIONS.items() if name != "socket"} | {"socketpair": _PAIRS}
    seccomp.load(seccomp.program(actions, conditions, refused, seccomp.numbers()), everywhere)


def stay_local(everywhere: bool = True, *, logs: bool = True) -> None:
    """Refuse sockets that are not local, and what nothing of ours asks for, and leave all else; for good.

    `everywhere`, `logs`: see `confine`. Raises OSError.
    """
    names = (*NEVER, "socket") if logs else (*NEVER, *ANYWHERE, "socketpair")
    conditions = {"socket": CONDITIONS["socket"]} if logs else {"socketpair": _PAIRS}
    refused = dict.fromkeys(names, seccomp.error(errno.EPERM))
    seccomp.load(seccomp.program(refused, conditions, ALLOW, seccomp.numbers()), everywhere)
