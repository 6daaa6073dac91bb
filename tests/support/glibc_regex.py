"""The C library's own regular expressions, as clsync 0.4 calls them: extended, no captures, C locale, bytes."""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Iterator
from contextlib import contextmanager

REG_EXTENDED, REG_NOSUB = 1, 8
"""Values of glibc's regex.h."""

_libc = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
_LC_ALL_MASK = 0x1FBF
_libc.newlocale.restype = ctypes.c_void_p
_libc.newlocale.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p]
_libc.uselocale.restype = ctypes.c_void_p
_libc.uselocale.argtypes = [ctypes.c_void_p]
_libc.regexec.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int]
_libc.regcomp.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
_libc.regfree.argtypes = [ctypes.c_void_p]
_C_LOCALE = _libc.newlocale(_LC_ALL_MASK, b"C", None)


class Malformed(ValueError):
    """`regcomp` refused the expression."""


class GlibcRegex:
    """A compiled expression. Raises Malformed with the text of regerror(3)."""

    def __init__(self, expression: bytes) -> None:
        self._compiled = ctypes.create_string_buffer(256)  # regex_t has 64 bytes on amd64
        with _c_locale():
            code = _libc.regcomp(self._compiled, expression, REG_EXTENDED | REG_NOSUB)
        if code:
            message = ctypes.create_string_buffer(200)
            _libc.regerror(code, self._compiled, message, len(message))
            raise Malformed(message.value.decode())

    def matches(self, subject: bytes) -> bool:
        """Tell whether the expression matches anywhere in `subject` (without NUL bytes)."""
        with _c_locale():
            return int(_libc.regexec(self._compiled, subject, 0, None, 0)) == 0

    def close(self) -> None:
        """Free what regcomp allocated."""
        _libc.regfree(self._compiled)


@contextmanager
def _c_locale() -> Iterator[None]:
    # Python has chosen the locale of the environment; the original never calls setlocale(3).
    before = _libc.uselocale(_C_LOCALE)
    try:
        yield
    finally:
        _libc.uselocale(before)
