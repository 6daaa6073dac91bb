"""What a monitor may say of a path. All of it is hints: `lstat` decides what a path is.

A change is a small set of bits, kept as a plain int: hundreds of thousands are folded per second.
"""

from __future__ import annotations

from typing import Final

ATTRIB: Final = 1
"""Attributes may differ (mode, owner, times, xattrs), or a directory's list of names."""

CONTENT: Final = 2
"""The bytes of the file may differ, even where size and mtime do not."""

NAME: Final = 4
"""The name was created, removed, moved or exchanged: it may stand for another inode, or for nothing.
A directory that stands here is in doubt with everything below, even where sizes and mtimes agree."""

OF_DIRECTORY: Final = 16
"""Beside NAME: a directory came or went, perhaps something else as well. What is gone without it was none."""

MOVED: Final = 32
"""Beside NAME: by a rename, perhaps in another way as well. For handlers that are told."""

CARRIED: Final = 64
"""Beside NAME: what was renamed here was written before under another name, in the same window."""

UNMOUNTED: Final = 128
"""Beside DOUBT: what was mounted here went."""

DOUBT: Final = 8
"""Nothing is known below this directory (queue overflow, folded siblings, initial sync): compare everything by
metadata, and whatever changed its ctime since the doubt began by content."""
