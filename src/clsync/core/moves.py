"""Renames: where things stood when a window opened, where they stand now, and the steps from one to the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from enum import Enum
from typing import NamedTuple

from clsync.core.paths import ancestors, join, parent


class Trace(NamedTuple):
    """Something that left the name under which it stood when the window opened."""

    holder: Hashable
    """The directory that held it, as the monitor tells directories apart."""
    name: bytes
    is_dir: bool
    fresh: bool
    """It came while the window was open: it had no place before."""
    since: float
    """It happened after this time (monotonic seconds)."""


class Move(NamedTuple):
    """Where something stood when the window opened, and where it stands now."""

    old: bytes | None
    """None: nowhere below the root, or that is not known."""
    new: bytes | None
    """None: it is gone."""
    is_dir: bool
    since: float
    """It happened after this time (monotonic seconds)."""
    inode: int = 0


_DEEPEST = 100
"""Directories one in the other that were all moved, or removed, above which nothing is known: that is a limit of ours."""


def moves_of(
    traces: Mapping[Hashable, Trace],
    now: Callable[[Hashable], bytes | None],
    inode: Callable[[Hashable], int] = lambda key: 0,
) -> list[Move]:
    """Return the moves that leave these traces: one for each thing that had a place, or has one.

    `now` answers where a thing, or a directory that held one, stands now.
    """
    former = _Former(traces, now)
    found = []
    for key, trace in traces.items():
        old, new = former.of(key), now(key)
        if old is not None or new is not None:
            found.append(Move(old, new, trace.is_dir, trace.since, inode(key) if new is not None else 0))
    return found


class _Former:
    """Tells where things stood when the window opened."""

    def __init__(self, traces: Mapping[Hashable, Trace], now: Callable[[Hashable], bytes | None]) -> None:
        self._traces, self._now = traces, now
        self._moved = {now(key): key for key, trace in traces.items() if trace.is_dir}
        self._known: dict[Hashable, bytes | None] = {}
        self._depth = 0

    def of(self, key: Hashable) -> bytes | None:
        """Return the former path of a thing; None where it had none, or that is not known."""
        if key not in self._known:
            self._known[key] = None  # what leads back to itself is not known
            if self._depth < _DEEPEST:
                self._depth += 1
                self._known[key] = self._found(key)
                self._depth -= 1
        return self._known[key]

    def _found(self, key: Hashable) -> bytes | None:
        trace = self._traces.get(key)
        if trace is None:
            path = self._now(key)
            return None if path is None else self._before(path)
        if trace.fresh:
            return None
        holder = self.of(trace.holder)
        return None if holder is None else join(holder, trace.name)

    def _before(self, path: bytes) -> bytes | None:
        """Return the former path of a directory that was not moved itself."""
        for up in reversed((*ancestors(path), path)):
            key = self._moved.get(up)
            if key is not None:
                old = self.of(key)
                return None if old is None else old + path[len(up) :]
        return path


class Kind(Enum):
    """What a step does."""

    MAKE = "make"
    """A directory at `target`, which may be there already."""
    MOVE = "move"
    """What stands at `source` to `target`; what stands there and is no part of the plan makes way."""
    SWAP = "swap"
    """What stands at `source`, and at `target`."""


class Step(NamedTuple):
    """One change of names. Paths are those of the moment at which it is its turn."""

    kind: Kind
    source: bytes
    target: bytes
    is_dir: bool
    """What is moved is a directory; else it is a regular file."""


class _Made(NamedTuple):
    """A directory that did not exist: known by its path in the end."""

    path: bytes


_Node = bytes | _Made
"""A thing at the destination: known by its path when the window opened."""
_Slot = tuple[_Node, bytes]
"""A name in a directory."""


class Plan:
    """The steps by which a destination that has everything in its old place gets some of it into its new one."""

    def __init__(
        self,
        moves: Iterable[Move],
        wanted: Callable[[Move], bool],
        *,
        came: Callable[[bytes], bool],
        spare: Callable[[int], bytes],
        swaps: bool,
    ) -> None:
        """`moves`: all of a window; `wanted` chooses those to be made.

        `came` tells whether a directory may have been made meanwhile, so that the destination may not have it.
        `spare` gives names in the root for what stands in another one's way. `swaps`: the destination can swap names.
        """
        moves = list(moves)
        self._by_new = {move.new: move for move in moves if move.new is not None}
        self._left = {move.old for move in moves if move.old is not None}
        self._came, self._spare, self._swaps = came, spare, swaps
        chosen = [move for move in moves if move.old is not None and move.new is not None and wanted(move)]
        self._chosen: dict[bytes, Move] = {move.old: move for move in chosen if move.old is not None}
        self._drop_homeless()
        self._others = {m.old: m for m in moves if m.old is not None and m.old not in self._chosen}
        """What has left its place, but is left there: where it stands in the way, it is put aside."""
        self._nodes: dict[bytes, _Node] = {b"": b""}
        self._at: dict[_Node, _Slot] = {}
        """Things that are not where they stood."""
        self._held: dict[_Slot, _Node] = {}
        self._goals: dict[_Node, _Slot] = {}
        self.steps: list[Step] = []
        self._changes: list[list[tuple[_Node, _Slot]]] = []
        """What each step puts where."""
        self._aside: set[_Slot] = set()
        """Names that were used for what stood in another one's way."""
        self._solve()

    def _drop_homeless(self) -> None:
        """Leave out what would go into a directory that stays where it was."""
        stays = {m.new for m in self._by_new.values() if m.is_dir and m.old is not None and m.old not in self._chosen}
        while stays:
            homeless = {
                old
                for old, move in self._chosen.items()
                if move.new is not None and any(up in stays for up in ancestors(move.new))
            }
            stays = {self._chosen.pop(old).new for old in homeless}

    # -- what stands where -------------------------------------------------------------------------------------

    def _node(self, path: bytes) -> _Node:
        """Return the directory that is to stand at `path` in the end."""
        if path not in self._nodes:
            for up in (*ancestors(path), path):  # as deep as a path can be
                if up not in self._nodes:
                    self._nodes[up] = self._found(up)
        return self._nodes[path]

    def _found(self, path: bytes) -> _Node:
        move = self._by_new.get(path)
        if move is not None:
            return move.old if move.old is not None else self._made(path)
        above = self._node(parent(path))
        if isinstance(above, _Made):
            return self._made(path)
        same = join(above, _last(path))
        return self._made(path) if same in self._left or self._came(path) else same

    def _made(self, path: bytes) -> _Made:
        made = _Made(path)
        self._goals[made] = self._node(parent(path)), _last(path)
        return made

    def _slot(self, node: _Node) -> _Slot:
        found = self._at.get(node)
        if found is not None:
            return found
        assert isinstance(node, bytes)
        return parent(node), _last(node)

    def _path(self, node: _Node) -> bytes:
        parts = []
        while node:
            node, name = self._slot(node)
            parts.append(name)
        return b"/".join(reversed(parts))

    def _exists(self, node: _Node) -> bool:
        return not isinstance(node, _Made) or node in self._at

    # -- the steps ---------------------------------------------------------------------------------------------

    def _solve(self) -> None:
        for old, move in self._chosen.items():
            assert move.new is not None
            self._goals[old] = self._node(parent(move.new)), _last(move.new)
        for node in (*self._others, *self._goals):
            if self._exists(node):
                self._held[self._slot(node)] = node
        pending = deque(self._goals)
        self._queue = deque(self._goals)
        self._blocked: dict[_Node, list[_Node]] = {}
        while True:
            while self._queue:
                self._try(self._queue.popleft())
            while pending and self._in_place(pending[0]):
                pending.popleft()
            if not pending:
                return
            first = self._in_ring(pending[0])
            if first is None:
                pending.popleft()  # two that want one place: it stays as it is
            else:
                self._unlock(first)

    def _in_place(self, node: _Node) -> bool:
        return self._exists(node) and self._slot(node) == self._goals[node]

    def _try(self, node: _Node) -> None:
        if self._in_place(node):
            return
        obstacle = self._obstacle(node)
        if isinstance(obstacle, bytes) and obstacle in self._others:
            self._put_aside(obstacle)
            obstacle = self._obstacle(node)
        if obstacle is None:
            self._put(node, self._goals[node])
        else:
            self._blocked.setdefault(obstacle, []).append(node)

    def _obstacle(self, node: _Node) -> _Node | None:
        """Return what has to be elsewhere first; None if nothing has."""
        goal = self._goals[node]
        if not self._exists(goal[0]):
            return goal[0]
        holder = self._held.get(goal, node)
        if holder != node and not self._may_replace(node, holder):
            return holder
        return self._first_pending(goal[0], node) if self._lies_in(goal[0], node) or goal[0] == node else None

    def _may_replace(self, node: _Node, holder: _Node) -> bool:
        """Tell whether a file stands where another one is to stand, and need not be kept."""
        if isinstance(node, _Made) or isinstance(holder, _Made) or holder not in self._others:
            return False
        return not (self._chosen[node].is_dir or self._others[holder].is_dir)

    def _moved(self, node: bytes) -> Move:
        return self._chosen[node] if node in self._chosen else self._others[node]

    def _first_pending(self, below: _Node, top: _Node) -> _Node:
        """Return what is to leave a directory that is to go to a place below itself."""
        while below != top and not (below in self._goals and not self._in_place(below)):
            below = self._slot(below)[0]
        return below

    def _in_ring(self, node: _Node) -> bytes | None:
        """Return one of those that wait for each other, and for which `node` waits; None: none of them can be moved."""
        waiting: list[_Node] = []
        seen: set[_Node] = set()
        while node not in seen:
            seen.add(node)
            waiting.append(node)
            obstacle = None if self._in_place(node) else self._obstacle(node)
            if obstacle is None:
                return None
            node = obstacle
        ring = waiting[waiting.index(node) :]
        movable = (one for one in ring if isinstance(one, bytes) and self._slot(one) not in self._aside)
        return next(movable, None)

    def _unlock(self, node: bytes) -> None:
        """Break a ring: swap two of it, or put one aside."""
        other = self._held.get(self._goals[node])
        mutual = other is not None and self._goals[other] == self._slot(node)
        if (
            self._swaps
            and other is not None
            and mutual
            and not (self._lies_in(node, other) or self._lies_in(other, node))
        ):
            self._swap(node, other)
            return
        self._put_aside(node)

    def _put_aside(self, node: bytes) -> None:
        slot = b"", self._spare(len(self._aside))
        self._aside.add(slot)
        self._put(node, slot)

    def _lies_in(self, node: _Node, directory: _Node) -> bool:
        while node:
            node = self._slot(node)[0]
            if node == directory:
                return True
        return False

    def _put(self, node: _Node, slot: _Slot) -> None:
        """Move a thing, or make a directory, and let those go on that have waited for it."""
        if isinstance(node, _Made):
            kind, source, is_dir = Kind.MAKE, b"", True
        else:
            kind, source, is_dir = Kind.MOVE, self._path(node), self._moved(node).is_dir
            self._held.pop(self._slot(node), None)
        self._at[node] = slot
        self._held[slot] = node
        self.steps.append(Step(kind, source, self._path(node), is_dir))
        self._changes.append([(node, slot)])
        self._queue.extend(self._blocked.pop(node, ()))

    def _swap(self, node: bytes, other: _Node) -> None:
        here, there = self._slot(node), self._slot(other)
        self.steps.append(Step(Kind.SWAP, self._path(node), self._path(other), self._chosen[node].is_dir))
        self._at[node], self._at[other] = there, here
        self._held[there], self._held[here] = node, other
        self._changes.append([(node, there), (other, here)])
        for moved in (node, other):
            self._queue.extend(self._blocked.pop(moved, ()))

    # -- what came of it ---------------------------------------------------------------------------------------

    def done(self, steps: int) -> list[Move]:
        """Return the moves that are made after the first `steps` steps."""
        self._rewind(steps)
        return [move for old, move in self._chosen.items() if self._path(old) == move.new]

    def made(self, steps: Iterable[int]) -> list[bytes]:
        """Return the directories in their places that some of the steps have made; `done` comes first."""
        nodes = [self._changes[number][0][0] for number in steps]
        return [node.path for node in nodes if isinstance(node, _Made) and self._path(node) == node.path]

    def aside_ever(self) -> list[bytes]:
        """Return all names for what stands in the way that the steps use."""
        return [slot[1] for slot in self._aside]

    def aside(self, steps: int) -> list[bytes]:
        """Return where something stands that has not come to its place after the first `steps` steps."""
        self._rewind(steps)
        return [slot[1] for slot in self._at.values() if slot in self._aside]

    def _rewind(self, steps: int) -> None:
        self._at = {node: slot for changes in self._changes[:steps] for node, slot in changes}


def _last(path: bytes) -> bytes:
    return path[path.rfind(b"/") + 1 :]
