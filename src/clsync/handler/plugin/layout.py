"""The structures of the C interface (include/clsync/), as modules see them in memory."""

from __future__ import annotations

import ctypes
from ctypes import c_byte, c_char, c_char_p, c_int, c_long, c_short, c_size_t, c_uint, c_uint32, c_ulong, c_void_p
from typing import Final

OPTIONS: Final = 1024
"""Length of the arrays that are indexed by option."""
ARGUMENTS: Final = 256
"""Most arguments of a handler."""

UNKNOWN, MISSING, FILE, DIRECTORY = 0, 1, 2, 3
"""`eventobjtype_t`: what stands at a path. A file is anything but a directory."""
NOTHING_MORE, RECURSIVELY = 0, 1
"""`eventinfo_flags_t`."""


class Element(ctypes.Structure):
    """`api_eventinfo_t`: one object of a batch."""

    _fields_ = (
        ("evmask", c_uint32),
        ("flags", c_uint32),
        ("path_len", c_size_t),
        ("path", c_void_p),
        ("objtype_old", c_int),
        ("objtype_new", c_int),
    )


class _Regex(ctypes.Structure):
    """`regex_t` of the GNU C library."""

    _fields_ = (
        ("buffer", c_void_p),
        ("allocated", c_size_t),
        ("used", c_size_t),
        ("syntax", c_ulong),
        ("fastmap", c_void_p),
        ("translate", c_void_p),
        ("re_nsub", c_size_t),
        ("bits", c_uint),
    )


class _Rule(ctypes.Structure):
    _fields_ = (("num", c_int), ("expr", _Regex), ("objtype", c_uint), ("perm", c_int), ("mask", c_int))


class _Queue(ctypes.Structure):
    _fields_ = (("collectdelay", c_uint), ("stime", c_long))


class _Arguments(ctypes.Structure):
    _fields_ = (("v", c_char_p * ARGUMENTS), ("c", c_int), ("isexpanded", c_byte * ARGUMENTS))


class Context(ctypes.Structure):
    """`struct ctx`: what a module is told about clsync."""

    _fields_ = (
        ("state", c_int),
        ("pid", c_int),
        ("pid_str", c_char * 65),
        ("pid_str_len", c_size_t),
        ("uid", c_uint),
        ("gid", c_uint),
        ("privileged_uid", c_uint),
        ("privileged_gid", c_uint),
        ("synchandler_uid", c_uint),
        ("synchandler_gid", c_uint),
        ("caps", c_uint32),
        ("child_pid", c_int * 256),
        ("children", c_int),
        ("iteration_num", c_uint32),
        ("rules", _Rule * 256),
        ("rules_count", c_size_t),
        ("st_dev", c_ulong),
        ("flags_values_raw", c_char_p * OPTIONS),
        ("flags", c_int * OPTIONS),
        ("flags_set", c_int * OPTIONS),
        ("config_path", c_char_p),
        ("config_block", c_char_p),
        ("customsignal", c_char_p * 513),
        ("label", c_char_p),
        ("watchdir", c_char_p),
        ("pidfile", c_char_p),
        ("standbyfile", c_char_p),
        ("exithookfile", c_char_p),
        ("preexithookfile", c_char_p),
        ("destdir", c_char_p),
        ("destproto", c_char_p),
        ("watchdirwslash", c_char_p),
        ("destdirwslash", c_char_p),
        ("statusfile", c_char_p),
        ("socketpath", c_char_p),
        ("dump_path", c_char_p),
        ("socket", c_int),
        ("socketmod", c_uint),
        ("socketuid", c_uint),
        ("socketgid", c_uint),
        ("watchdirlen", c_size_t),
        ("destdirlen", c_size_t),
        ("watchdirsize", c_size_t),
        ("destdirsize", c_size_t),
        ("watchdirwslashsize", c_size_t),
        ("destdirwslashsize", c_size_t),
        ("watchdir_dirlevel", c_short),
        ("handlerfpath", c_char_p),
        ("handler_handle", c_void_p),
        ("handler_funct", c_void_p * 4),
        ("rulfpath", c_char_p),
        ("rulfpathsize", c_size_t),
        ("listoutdir", c_char_p),
        ("notifyenginefunct", c_void_p * 3),
        ("retries", c_int),
        ("bfilethreshold", c_size_t),
        ("syncdelay", c_uint),
        ("queues", _Queue * 4),
        ("rsyncinclimit", c_uint),
        ("synctime", c_long),
        ("synctimeout", c_uint),
        ("sigset", c_void_p),
        ("isignoredexitcode", c_byte * 256),
        ("blockthread", c_ulong * 16),
        ("blockthread_count", c_size_t),
        ("chroot_dir", c_char_p),
        ("permitted_hookfile", c_char_p * 257),
        ("permitted_hookfiles", c_int),
        ("mountpoint", c_char_p * 257),
        ("mountpoints", c_int),
        ("synchandler_args", _Arguments * 2),
        ("synchandler_argf", c_int),
        ("indexes_p", c_void_p),
        ("fsmondata", c_void_p),
    )
