"""What broker and worker say to each other: what fits comes through, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clsync.core.classify import NOT_PLAIN
from clsync.core.verification import Aspect, Difference
from clsync.privilege.differences import packed_differences, unpacked_differences
from clsync.privilege.looks import packed, packed_plain, unpacked, unpacked_plain
from clsync.privilege.wire import (
    FRAME_LIMIT,
    PATHS_AT_ONCE,
    SIGNATURES,
    Frames,
    Kind,
    Op,
    Refused,
    framed,
    in_frames,
    pack,
    unpack,
)

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
NAME = st.binary(min_size=1, max_size=8).filter(lambda n: n not in (b".", b"..") and not {0, 47} & set(n))
PATH = st.lists(NAME, max_size=4).map(b"/".join)
TEXT = st.binary(max_size=20).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
VALUES = {
    "u": U64,
    "i": st.integers(-(2**63), 2**63 - 1),
    "d": st.floats(allow_nan=False),
    "b": st.booleans(),
    "y": st.binary(max_size=40),
    "o": st.none() | st.binary(max_size=40),
    "s": TEXT,
    "P": st.lists(PATH, max_size=6),
    "I": st.lists(U32, max_size=6),
    "U": st.lists(U64, max_size=6),
    "L": st.lists(st.none() | st.binary(max_size=10), max_size=4),
    "T": st.lists(TEXT, max_size=4),
}
OUTSIDE = (
    b"/", b"/etc/passwd", b"..", b"../x", b"a/..", b"a/../b", b"a/../../b", b".", b"./a", b"a/.", b"a/./b", b"a//b",
    b"a/", b"//", b"a/b/..",
)  # fmt: skip


@given(st.data())
def test_what_is_packed_comes_out_again(data: st.DataObject) -> None:
    signature = data.draw(st.text(st.sampled_from(sorted(VALUES)), max_size=6))
    values = [data.draw(VALUES[kind]) for kind in signature]
    assert unpack(signature, pack(signature, *values)) == values


@given(st.sampled_from(sorted({part for signature in SIGNATURES.values() for part in signature})), st.binary())
def test_noise_is_refused_or_fits(signature: str, noise: bytes) -> None:
    try:
        values = unpack(signature, noise)
    except Refused:
        return
    assert pack(signature, *values) == noise


@pytest.mark.parametrize("path", OUTSIDE)
@pytest.mark.parametrize("around", [[], [b"a"], [b"a", b"b/c"]])
def test_paths_that_lead_out(path: bytes, around: list[bytes]) -> None:
    for paths in ([path, *around], [*around, path]):
        with pytest.raises(Refused):
            unpack("P", pack("P", paths))


def test_a_nul_is_two_paths() -> None:
    with pytest.raises(Refused):
        unpack("P", pack("P", [b"a\0/etc"]))


@pytest.mark.parametrize("path", [b"...", b"..a", b".a", b"a..", b"a/...", b"a/..b/.c", b"-n", b"a\nb", b"\xff"])
def test_odd_names_are_names(path: bytes) -> None:
    assert unpack("P", pack("P", [path, b"", path])) == [[path, b"", path]]


def test_what_is_cut_off_or_too_long() -> None:
    body = pack("uPs", 1, [b"a"], "text")
    for wrong in (body[:-1], body + b"\0", b""):
        with pytest.raises(Refused):
            unpack("uPs", wrong)
    with pytest.raises(Refused):
        framed(Op.LOOK, Kind.REQUEST, 1, bytes(FRAME_LIMIT + 1))


def test_a_frame_that_announces_too_much_is_refused_before_it_comes() -> None:
    frames = Frames()
    frames.feed((FRAME_LIMIT + 1).to_bytes(4, "little") + bytes(6))
    with pytest.raises(Refused):
        frames.next()


@given(st.lists(st.binary(max_size=30), max_size=5), st.integers(1, 7))
def test_frames_come_in_any_pieces(bodies: list[bytes], size: int) -> None:
    stream = b"".join(framed(Op.LOOK, Kind.MORE, n, body) for n, body in enumerate(bodies))
    frames, found = Frames(), []
    for at in range(0, len(stream), size):
        frames.feed(stream[at : at + size])
        while (frame := frames.next()) is not None:
            found.append(frame)
    assert [(frame.number, frame.body) for frame in found] == list(enumerate(bodies))


@given(st.lists(st.binary(max_size=3), max_size=30))
def test_paths_go_in_frames_and_none_is_left_out(paths: list[bytes]) -> None:
    assert [path for part in in_frames(paths) for path in paths[part]] == paths


def test_looks_come_through() -> None:
    here = os.lstat(__file__)
    found, absent, unknown = unpacked(b"".join(map(packed, (here, None, PermissionError(13, "no")))), 3)
    for name in found._fields[1:]:
        assert getattr(found, name) == getattr(here, name)
    assert (found.errno, absent.errno, unknown.errno) == (0, 2, 13)
    with pytest.raises(Refused):
        unpacked(packed(None), 2)


def test_what_is_plain_comes_through(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    here = [os.lstat(tmp_path / name) for name in ("file", "link", ".")]
    records = packed_plain([*here, None, PermissionError(13, "no")])
    assert list(unpacked_plain(records, 5)) == [(5, here[0].st_mtime_ns, here[0].st_ctime_ns), *[NOT_PLAIN] * 4]
    with pytest.raises(Refused):
        unpacked_plain(records, 4)


def test_long_texts_go_in_frames_as_well() -> None:
    paths, texts = [b"%d" % number for number in range(8000)], ["\N{SNOWMAN}" * 1500] * 8000
    parts = list(in_frames(paths, texts))
    assert [path for part in parts for path in paths[part]] == paths
    for part in parts:
        framed(Op.HANDLER_SYNC, Kind.MORE, 1, pack("sPT", "failed", paths[part], texts[part]))


def test_more_paths_than_go_in_a_frame() -> None:
    with pytest.raises(Refused, match="paths at once"):
        unpack("P", pack("P", [b"a"] * (PATHS_AT_ONCE + 1)))


DIFFERENCE = st.builds(Difference, PATH, st.sampled_from([*Aspect, Aspect.SIZE | Aspect.MTIME]), U64)


@given(st.lists(DIFFERENCE, max_size=30))
def test_differences_come_through(found: list[Difference]) -> None:
    signature = SIGNATURES[Op.COMPARE_NEXT].more
    told = [unpack(signature, pack(signature, *part)) for part in packed_differences(found)]
    assert [one for part in told for one in unpacked_differences(*part)] == found


@pytest.mark.parametrize(
    ("aspects", "entries"), [([], [1]), ([1], []), ([1, 1], [1]), ([1 << 12], [1]), ([1 << 31], [1])]
)
def test_differences_that_are_none(aspects: list[int], entries: list[int]) -> None:
    with pytest.raises(Refused):
        unpacked_differences([b"a"], aspects, entries)
