"""What programs are told of a change: the masks of inotify(7) that clsync 0.4 had for it."""

from __future__ import annotations

import pytest

from clsync.core.batch import DIRECTORY, MISSING, REGULAR
from clsync.core.changes import ATTRIB, CONTENT, DOUBT, MOVED, NAME, OF_DIRECTORY
from clsync.core.classify import CHANGE_SHIFT
from clsync.handler.objects import event_mask

MODIFY, TOUCHED, WRITTEN, GONE_FROM, CAME_TO = 0x2, 0x4, 0x8, 0x40, 0x80
CREATED, DELETED, ITSELF_DELETED, ITSELF_MOVED, ISDIR = 0x100, 0x200, 0x400, 0x800, 0x40000000


@pytest.mark.parametrize(
    ("flags", "bits", "mask"),
    [
        (REGULAR, NAME | CONTENT, CREATED | MODIFY | WRITTEN),
        (REGULAR, CONTENT, MODIFY | WRITTEN),
        (REGULAR, ATTRIB, TOUCHED),
        (REGULAR, DOUBT, CREATED),
        (REGULAR, NAME | MOVED, CAME_TO),
        (DIRECTORY, NAME | OF_DIRECTORY, CREATED | ISDIR),
        (DIRECTORY, ATTRIB, TOUCHED | ISDIR),
        (DIRECTORY, NAME | MOVED | OF_DIRECTORY, CREATED | ITSELF_MOVED | ISDIR),
        (MISSING, NAME, DELETED),
        (MISSING, ATTRIB, TOUCHED),
        (MISSING, NAME | MOVED, GONE_FROM),
        (MISSING, NAME | OF_DIRECTORY, DELETED | ITSELF_DELETED | ISDIR),
        (MISSING, NAME | MOVED | OF_DIRECTORY, GONE_FROM | ISDIR),
    ],
)
def test_masks(flags: int, bits: int, mask: int) -> None:
    assert event_mask(flags | bits << CHANGE_SHIFT) == mask
