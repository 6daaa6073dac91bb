"""Argument lists for rsync. The recipes were fuzzed against receivers 3.1.3 to 3.5.0; see docs/decisions/."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

ARGUMENTS_MACRO = b"%RSYNC-ARGS%"
LIST = (b"--files-from=-", b"--from0")
MERGE = b"--filter=merge "
"""What precedes the name of a file of rules."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Which arguments make batches exact at one target."""

    missing_args: bool = True
    """The receiver understands `--delete-missing-args` (recipe S2); otherwise recipe F2 is used."""
    flat_lists: bool = False
    """A directory in a list stands for itself alone, even if it has come to be one after it was listed."""
    most: int | None = None
    """Entries that a run deletes at most; what is above it is counted (`blame.spared`). None: any."""
    deletes: bool = True
    """What is not at the source goes."""
    makes_way: bool = True
    """A directory with content gives way to what is none, or to nothing, at the source."""
    acls: bool = False
    xattrs: bool = False
    one_file_system: int = 0
    """1: mount points are copied as empty directories, 2: they are left out."""
    lacking: tuple[bytes, ...] = ()
    """Options that switch off what the destination cannot hold."""
    modify_window: int = -1
    """Seconds by which mtimes may differ; -1: compared to the nanosecond (rsync 3.1.3)."""
    compares: bool = False
    """Content that may differ is compared before it is sent: what is equal there is not written again."""
    rate: int = 0
    """KiB a second at most, 0 for any."""
    connection: tuple[bytes, ...] = ()
    """Options for the way to a remote target."""

    def whole_tree(self) -> list[bytes]:
        """Return the arguments that make everything below the source equal."""
        return [b"-aH", *self._common()]

    def listed(self, *, force: bool = False) -> list[bytes]:
        """Return the arguments for a list on standard input; `force`: content is sent whatever size and mtime say."""
        forced = [b"--checksum" if self.compares else b"--ignore-times"] if force else []
        if self.missing_args:
            # Under --files-from, -a does not mean -r.
            return [
                b"-aH",
                *([] if self.flat_lists else [b"-r"]),
                *self._common(),
                b"--delete-missing-args",
                *forced,
                *LIST,
            ]
        return [b"-lptgoDHd", *self._common(), *forced, *LIST]

    def deletions(self) -> list[bytes]:
        """Return the arguments that print what a list would delete, and change nothing."""
        return [b"-n", b"-i", b"-8", *self.listed(), b"--ignore-errors"]

    def differences(self, *, listed: bool, content: bool) -> list[bytes]:
        """Return the arguments that print in what the target differs, and change nothing.

        `listed`: in the content of the directories of a list; otherwise in everything. `content`: files of equal size
        and mtime are read as well.
        """
        what = self.flat().listed() if listed else self.whole_tree()
        by = [b"--checksum"] if content else []
        return [b"-n", b"-8", b"--out-format=%i %n", *what, *by, b"--ignore-errors"]

    def bounded(self) -> Recipe:
        """Return the recipe for lists in which nothing is recursive: rules decide on every path."""
        return replace(self, flat_lists=True)

    def flat(self) -> Recipe:
        """Return the recipe for receivers that know no missing arguments."""
        return replace(self, missing_args=False)

    def _common(self) -> list[bytes]:
        letters = (b"A" if self.acls else b"") + (b"X" if self.xattrs else b"") + b"x" * self.one_file_system
        return [
            *([b"-" + letters] if letters else []),
            b"--modify-window=%d" % self.modify_window,
            b"--numeric-ids",
            # Each of them lets a directory with content give way.
            *([b"--delete"] if self.makes_way and self.deletes else []),
            *([b"--force"] if self.makes_way else []),
            *([b"--max-delete=%d" % self.most] if self.most is not None else []),
            *self.lacking,
            *([b"--bwlimit=%d" % self.rate] if self.rate else []),
            *self.connection,
        ]


def shell_words(words: Sequence[bytes]) -> bytes:
    """Join words for rsync's `-e`, which splits at blanks and knows quotation marks (a doubled one is literal)."""
    return b" ".join(b"'" + w.replace(b"'", b"''") + b"'" if b" " in w or b"'" in w else w for w in words)
