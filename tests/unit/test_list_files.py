"""The list files of a run."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import pytest

from clsync.handler.listfiles import ListFiles


@pytest.mark.parametrize(("included", "excluded"), [(b"short", b"x" * 200), (b"x" * 200, b"short")])
def test_lists_that_cannot_be_written_are_not_left(tmp_path: Path, included: bytes, excluded: bytes) -> None:
    """Neither the one that failed nor the one before it."""
    lists = ListFiles(bytes(tmp_path))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            lists.write_both(included, excluded)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == []
    assert len(lists.write_both(included, excluded)) == len(os.listdir(tmp_path)) == 2
