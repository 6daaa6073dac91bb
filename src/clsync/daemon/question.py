"""A question to whoever sits at the terminal."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

_TERMINAL = 0


class Terminal:
    """Asks one question after the other, on standard error; answers come from standard input."""

    def __init__(self) -> None:
        """Nobody is asked yet."""
        self._questions: list[tuple[str, Callable[[bool], None]]] = []

    @staticmethod
    def there() -> bool:
        """Tell whether somebody may sit there: both are terminals, and we are in its foreground."""
        try:
            return os.isatty(_TERMINAL) and os.isatty(2) and os.tcgetpgrp(_TERMINAL) == os.getpgrp()
        except OSError:
            return False

    def ask(self, text: str, answered: Callable[[bool], None]) -> None:
        """Ask something; `answered` is told whether the answer is yes. Call within an event loop."""
        self._questions.append((text, answered))
        if len(self._questions) == 1:
            self._show()
            asyncio.get_running_loop().add_reader(_TERMINAL, self._read)

    def close(self) -> None:
        """Wait for no answer any more."""
        if self._questions:
            asyncio.get_running_loop().remove_reader(_TERMINAL)
            self._questions.clear()

    def _show(self) -> None:
        os.write(2, f"{self._questions[0][0]} [y/N] ".encode())

    def _read(self) -> None:
        try:
            line = os.read(_TERMINAL, 4096)
        except OSError:
            line = b""
        _, answered = self._questions.pop(0)
        if self._questions:
            self._show()
        else:
            asyncio.get_running_loop().remove_reader(_TERMINAL)
        answered(line.strip().lower() in (b"y", b"yes"))
