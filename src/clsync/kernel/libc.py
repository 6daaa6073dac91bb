"""The C library, for calls that Python does not offer."""

from __future__ import annotations

import ctypes
import os
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)


def checked(result: int, path: bytes | None = None) -> int:
    """Return `result`; raise OSError with errno and `path` where it is negative."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


def function(name: str, *arguments: Any, result: Any = ctypes.c_int) -> Any:
    """Return a typed function of the C library."""
    found = getattr(LIBC, name)
    found.argtypes = arguments
    found.restype = result
    return found
