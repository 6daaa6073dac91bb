"""Real overflows: more is told than any queue of inotify(7) holds.

The limit is one of the whole machine. It is left as it is: whoever runs beside the test would have the short queue too.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

_LIMIT = Path("/proc/sys/fs/inotify/max_queued_events")


def flood(directory: os.PathLike[str]) -> None:
    """Let so much happen to two files in turns that who watches `directory`, and does not read, is told no more."""
    with ExitStack() as stack:
        made = [tempfile.mkstemp(prefix="flood", dir=directory) for _ in range(2)]
        for number, path in made:
            stack.callback(Path(path).unlink, missing_ok=True)
            stack.callback(os.close, number)
        for _ in range(int(_LIMIT.read_text()) // 2 + 1):
            for number, _path in made:
                os.utime(number)  # the same again would be one event with the last one


@contextmanager
def held(processes: Iterable[int]) -> Iterator[None]:
    """Let processes stand still; who has ended does not matter."""
    stopped = [*processes]
    _send(stopped, signal.SIGSTOP)
    try:
        yield
    finally:
        _send(stopped, signal.SIGCONT)


def _send(processes: Iterable[int], number: signal.Signals) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)
