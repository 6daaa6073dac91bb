"""Stopping work that goes on in a thread."""

from __future__ import annotations

import os

from clsync.handler.copy.trouble import Stopped


class Control:
    """Says whether to go on; its descriptor becomes readable when not."""

    def __init__(self) -> None:
        """Raises OSError where no descriptor is left."""
        self.reason = ""
        """Why the work is to end, empty when it is not."""
        self.descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def stop(self, reason: str) -> None:
        """End the work soon. May be called from any thread; the first reason counts."""
        if not self.reason and self.descriptor >= 0:
            self.reason = reason
            os.eventfd_write(self.descriptor, 1)

    def reset(self) -> None:
        """Forget an earlier stop."""
        if self.reason:
            self.reason = ""
            os.eventfd_read(self.descriptor)

    def pause(self) -> None:
        """Raise Stopped when the work is to end."""
        if self.reason:
            raise Stopped

    def close(self) -> None:
        """Close the descriptor; there is nothing to stop any more."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
