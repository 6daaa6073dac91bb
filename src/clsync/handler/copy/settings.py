"""What is the same for a whole batch, handed to every process that works on it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field

from clsync.handler.base import PathRules
from clsync.handler.copy.trouble import Refused, Unwell, destination_trouble
from clsync.handler.copy.units import Linked, Tree, Unit
from clsync.kernel.capabilities import Capabilities
from clsync.kernel.sandbox import Sandbox
from clsync.kernel.walk import walk


@dataclass(frozen=True, slots=True)
class Settings:
    """How to copy. Can be pickled if the rules can."""

    capabilities: Capabilities
    rules: PathRules | None
    one_file_system: int
    acls: bool
    xattrs: bool
    compares: bool
    """Content that may differ is compared before it is written."""
    groups: frozenset[int]
    """Groups that may be given to files although owners cannot be set."""
    littered: bool = False
    """The run before was cut off: it may have left temporary files."""
    rate: int = 0
    """Bytes a second that are copied at most, 0 for any: by one process then."""
    spares: bool = False
    """What recursive entries would delete is counted, and stays."""
    most: int | None = None
    """Entries that recursive entries may delete, in each process; what is above it is counted, and stays. None: any."""
    clears: bool = False
    """Recursive entries delete, or count that, and do nothing else."""
    exact_modes: bool = False
    """The umask of this process is 0."""
    sandbox: Sandbox | None = None
    """What another process that copies can do besides."""


def _never() -> None:
    """Go on."""


@dataclass(slots=True)
class Context:
    """One process at work on a batch."""

    source: int
    """Descriptor of the source root."""
    destination: int
    device: int
    """st_dev of the source root."""
    settings: Settings
    pause: Callable[[], None] = _never
    """Called often: looks whether to go on. Raises Stopped."""
    failed: dict[bytes, str] = field(default_factory=dict)
    linked: list[Linked] = field(default_factory=list)
    """Names of files with several links that were met and left for later."""
    pending: list[Unit] = field(default_factory=list)
    """Work that was found on the way; the last is the next."""
    files: int = 0
    copied: int = 0
    """Bytes."""
    spared: int = 0
    """What was not deleted."""
    deleted: int = 0
    """What was, where that is counted."""

    @property
    def rules(self) -> PathRules | None:
        """What may be touched."""
        return self.settings.rules

    def blame(self, path: bytes, error: OSError | Refused) -> None:
        """Note that a path cannot be made equal. Raises Unwell where the whole destination is at fault."""
        trouble = destination_trouble(error, path) if isinstance(error, OSError) else error
        if isinstance(trouble, Unwell):
            raise trouble from error
        self.failed[path] = str(trouble)

    def rejects(self, path: bytes, is_dir: bool) -> bool:
        """Tell whether rules keep us from touching a path."""
        rules = self.settings.rules
        return rules is not None and not rules.permits(path, is_dir)

    def reaches(self, directory: bytes) -> bool:
        """Tell whether rules let us enter a directory."""
        rules = self.settings.rules
        return rules is None or rules.reaches(directory)

    def go_through(self, directory: bytes, have: os.stat_result | None, force: bool) -> None:
        """Enter a directory that is not synced itself; it is made only if something in it is.

        `have`: what stands there at the destination.
        """
        if (have is not None and stat.S_ISDIR(have.st_mode)) or self._leads_somewhere(directory):
            self.pending.append(Tree(directory, force))

    def _leads_somewhere(self, directory: bytes) -> bool:
        """Tell whether rules permit anything below a directory of the source."""
        below = walk(self.source, directory, self.reaches, self.settings.one_file_system > 0)
        return any(not self.rejects(path, stat.S_ISDIR(found.st_mode)) for path, found in below)
