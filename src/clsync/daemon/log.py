"""The daemon's messages: one line each, to one place, with the words of clsync 0.4 before them."""

from __future__ import annotations

import os
import time
from typing import Final

from clsync.options import Settings

ERROR: Final = 1
WARNING: Final = 2
INFO: Final = 3
_PREFIX = {ERROR: "Error: ", WARNING: "Warning: ", INFO: "Info: "}


class Log:
    """Writes messages up to a level (0 nothing, 1 errors, 2 warnings, 3 information), and debug ones."""

    def __init__(self, output: str = "stderr", level: int = INFO, debug: int = 0) -> None:
        """`output`: stderr, stdout or syslog (facility daemon, with the pid)."""
        self.level, self.debug_level = level, debug
        self._syslog = output == "syslog" and os.path.exists("/dev/log")
        self._descriptor = 1 if output == "stdout" else 2
        self.terminal = not self._syslog and os.isatty(self._descriptor)
        if self._syslog:
            self._open_syslog()
        elif output == "syslog":
            self.warning("there is no system log (/dev/log): messages go to standard error")

    @staticmethod
    def _open_syslog() -> None:
        import syslog

        syslog.openlog("clsync", syslog.LOG_PID | syslog.LOG_CONS | syslog.LOG_NDELAY, syslog.LOG_DAEMON)

    def follow(self, settings: Settings) -> None:
        """Say as much as settings ask for from now on."""
        self.level, self.debug_level = 0 if settings.quiet else settings.verbose, settings.debug

    def reach_system_log(self) -> None:
        """Connect to the system log now, if it may be needed: it may be out of sight later."""
        if self._syslog or self.terminal:
            self._open_syslog()

    def leave_terminal(self) -> None:
        """Write to the system log from now on, if messages went to a terminal."""
        if self.terminal:
            self._syslog, self.terminal = True, False
            self._open_syslog()

    def error(self, text: str, hint: str = "") -> None:
        """Say what went wrong, and what to do next."""
        self._write(ERROR, f"{text}; {hint}" if hint else text)

    def warning(self, text: str) -> None:
        """Say what the operator should know."""
        self._write(WARNING, text)

    def info(self, text: str) -> None:
        """Say what goes on."""
        self._write(INFO, text)

    def progress(self, text: str) -> None:
        """Say what goes on to somebody who watches; a log file is spared."""
        if self.terminal or self.debug_level:
            self._write(INFO, text)

    def debug(self, level: int, text: str) -> None:
        """Say what only somebody in search of a fault wants to know."""
        if level <= self.debug_level and self.level:
            at = f" at {time.time():.6f}" if self.debug_level >= 3 else ""
            self._line(f"Debug{level} (pid: {os.getpid()}){at}: {text}", 7)

    def _write(self, level: int, text: str) -> None:
        if level <= self.level:
            self._line(_PREFIX[level] + text, {ERROR: 3, WARNING: 4, INFO: 6}[level])

    def _line(self, text: str, priority: int) -> None:
        if self._syslog:
            import syslog

            syslog.syslog(priority, text)
            return
        try:
            os.write(self._descriptor, (text + "\n").encode("utf-8", "backslashreplace"))
        except OSError:
            pass  # nobody listens any more: that ends no daemon
