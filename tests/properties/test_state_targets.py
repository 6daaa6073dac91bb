"""Whatever several targets get, and in which order: what no journal covers stands there as the index says."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field

from hypothesis import given

from clsync.core.changes import CONTENT, NAME
from clsync.core.listing import SELF, Signature, packed, parts_of, unpack_part, unpacked
from clsync.state.store import Confirmed, Store
from tests.support.proofs import Choices, choices, examples

TARGETS = [b"one", b"two"]
NAMES = [b"a", b"b", b"c"]
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
ROOT = Signature(1, 0, 0, 0, 0o040755, 0, 0, 0)


def recorded(signatures: dict[bytes, Signature | None]) -> dict[bytes, bytes | None]:
    return {path: None if one is None else packed(one) for path, one in signatures.items()}


@dataclass
class Flight:
    """What a handler has been given."""

    signatures: dict[bytes, Signature | None]
    again: set[bytes] = field(default_factory=set)


class World:
    """A source of a few files, two targets, and the state."""

    def __init__(self, place: bytes) -> None:
        self.store = Store.open(place, b"", TARGETS, bytes(16))
        self.clock = 2
        self.source: dict[bytes, Signature] = {}
        self.held: dict[bytes, dict[bytes, Signature]] = {target: {} for target in TARGETS}
        self.flights: dict[bytes, Flight] = {}
        for target in TARGETS:
            listing = parts_of(b"", {SELF: packed(ROOT)})
            self.store.confirm(target, Confirmed({}, {b"": [(b"", listing)]}))

    def change(self, name: bytes, gone: bool) -> None:
        self.clock += 1
        old = self.source.pop(name, None)
        if not gone:
            self.source[name] = Signature(old.ino if old else self.clock, 0, 0, self.clock, 0o100644, 1, 0, 0)
        for flight in self.flights.values():
            if name in flight.signatures:
                flight.again.add(name)

    def begin(self, target: bytes, names: list[bytes]) -> None:
        self.store.hand_over(target, dict.fromkeys(names, CONTENT | NAME), 0.0)
        self.flights[target] = Flight({name: self.source.get(name) for name in names})

    def carry(self, target: bytes, name: bytes) -> None:
        """Let the handler do its work on one path, with what stands there by now."""
        if name in self.flights[target].signatures:
            self.held[target].pop(name, None)
            if name in self.source:
                self.held[target][name] = self.source[name]

    def end(self, target: bytes, confirmed: bool) -> None:
        flight = self.flights.pop(target)
        if confirmed:
            for name in flight.signatures:
                if self.held[target].get(name) != self.source.get(name) and name not in flight.again:
                    self.held[target].pop(name, None)
                    self.held[target] |= {name: self.source[name]} if name in self.source else {}
            again = dict.fromkeys(flight.again, CONTENT | NAME)
            self.store.confirm(target, Confirmed(recorded(flight.signatures), {}, again))

    def check(self) -> None:
        part = self.store._rows.execute("SELECT entries FROM listing").fetchone()[0]
        index = {name: unpacked(record) for name, record in unpack_part(b"", part).items() if name}
        for target in TARGETS:
            covered = {dirty.path for dirty in self.store.dirty(target)}
            for name in NAMES:
                assert name in covered or self.held[target].get(name) == index.get(name), (target, name)


@examples(2)
@given(choices(200))
def test_a_target_holds_what_the_index_says_or_is_excepted(drawn: Choices) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as place:
        world = World(os.fsencode(place))
        for _ in range(40):
            target = drawn.one(TARGETS)
            kind = drawn.number(5)
            if kind < 2:
                world.change(drawn.one(NAMES), drawn.number(3) == 2)
            elif target not in world.flights:
                world.begin(target, drawn.some(NAMES, 3))
            elif kind == 2:
                world.carry(target, drawn.one(NAMES))
            else:
                world.end(target, drawn.number(4) > 0)
            world.check()
        world.store.close()
