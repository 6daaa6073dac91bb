"""A question to whoever sits at the terminal."""

from __future__ import annotations

import asyncio
import os

_TERMINAL = 0


def deletion_question(count: int, name: str) -> str:
    """Return the question whether so many entries may go; `name`: of the target, empty where there is only one."""
    return f"{count} entries at {name or 'the destination'} are not in the source: delete them?"


class Terminal:
    """Asks one question after the other, on standard error; answers come from standard input."""

    def __init__(self) -> None:
        """Nobody is asked yet."""
        self._turn = asyncio.Lock()
        self._line: asyncio.Future[bytes] | None = None
        self._closed = False

    async def ask(self, text: str) -> bool | None:
        """Ask something; return whether the answer is yes, None where there is nobody to ask."""
        async with self._turn:
            if self._closed or not _somebody_is_there():
                return None
            loop = asyncio.get_running_loop()
            self._line = loop.create_future()
            loop.add_reader(_TERMINAL, self._read)
            try:
                os.write(2, f"{text} [y/N] ".encode())
                return (await self._line).strip().lower() in (b"y", b"yes")
            except OSError:
                return None  # it has just gone
            finally:
                loop.remove_reader(_TERMINAL)

    def close(self) -> None:
        """Wait for no answer any more: it is no."""
        self._closed = True
        if self._line is not None and not self._line.done():
            self._line.set_result(b"")

    def _read(self) -> None:
        try:
            line = os.read(_TERMINAL, 4096)
        except OSError:
            line = b""
        if self._line is not None and not self._line.done():
            self._line.set_result(line)


def _somebody_is_there() -> bool:
    """Tell whether somebody may sit there: both are terminals, and we are in its foreground."""
    try:
        return os.isatty(_TERMINAL) and os.isatty(2) and os.tcgetpgrp(_TERMINAL) == os.getpgrp()
    except OSError:
        return False
