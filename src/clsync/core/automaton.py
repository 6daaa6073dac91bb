"""Searching by a deterministic automaton that is made as it is used: a byte is looked at once, whatever the subject is.

`re` tries one way after the other. Where repetitions stand in repetitions, or behind each other, that can take a time
that doubles with every byte of a subject; and subjects are names that anybody may choose.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Final

WORD: Final = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz")
_END: Final = 256
_MOST_NODES: Final = 4000
_MOST_STATES: Final = 2000


class Condition(Enum):
    """What may be asked of a place between two bytes."""

    START = 0
    END = 1
    EDGE = 2
    """A word begins or ends."""
    NO_EDGE = 3
    WORD_BEGINS = 4
    WORD_ENDS = 5


class TooLarge(Exception):
    """There would be more nodes than are worth it."""


class Nodes:
    """What an expression is made of; each node is a number, and made after what follows it."""

    def __init__(self) -> None:
        """Begin with the match itself."""
        self.sets: dict[int, tuple[frozenset[int], int]] = {}
        self.forks: dict[int, list[int]] = {}
        self.places: dict[int, tuple[Condition, int]] = {}
        self.match = 0
        self._count = 0

    def _next(self) -> int:
        self._count += 1
        if self._count > _MOST_NODES:
            raise TooLarge
        return self._count

    def one_of(self, members: frozenset[int], after: int) -> int:
        """Add one byte. Raises TooLarge."""
        number = self._next()
        self.sets[number] = members, after
        return number

    def place(self, condition: Condition, after: int) -> int:
        """Add a condition. Raises TooLarge."""
        number = self._next()
        self.places[number] = condition, after
        return number

    def fork(self, ways: Iterable[int]) -> int:
        """Add a choice; to a loop, the way back is added later (`forks`). Raises TooLarge."""
        number = self._next()
        self.forks[number] = list(ways)
        return number


class _State:
    """All nodes that may come next."""

    __slots__ = ("after_word", "at_start", "members", "moves")

    def __init__(self, members: frozenset[int], at_start: bool, after_word: bool) -> None:
        self.members, self.at_start, self.after_word = members, at_start, after_word
        self.moves: dict[int, _State] = {}


class Automaton:
    """Tells whether an expression matches anywhere in a subject."""

    def __init__(self, nodes: Nodes, first: int) -> None:
        """`first`: the node with which the expression begins."""
        self._nodes, self._first = nodes, first
        self._found = _State(frozenset(), False, False)
        self._states: dict[tuple[frozenset[int], bool, bool], _State] = {}

    def search(self, subject: bytes) -> bool:
        """Tell whether it matches somewhere."""
        found, state = self._found, self._state(frozenset((self._first,)), True, False)
        for byte in subject:
            following = state.moves.get(byte)
            if following is None:
                following = self._move(state, byte)
            if following is found:
                return True
            state = following
        return (state.moves.get(_END) or self._move(state, _END)) is found

    def __reduce__(self) -> tuple[type[Automaton], tuple[Nodes, int]]:
        """Go to another process without what was made meanwhile."""
        return Automaton, (self._nodes, self._first)

    def _state(self, members: frozenset[int], at_start: bool, after_word: bool) -> _State:
        key = members, at_start, after_word
        state = self._states.get(key)
        if state is None:
            if len(self._states) >= _MOST_STATES:
                self._forget()
            state = self._states[key] = _State(*key)
        return state

    def _forget(self) -> None:
        for state in self._states.values():
            state.moves.clear()
        self._states.clear()

    def _move(self, state: _State, byte: int) -> _State:
        reached = self._reached(state, byte)
        if self._nodes.match in reached:
            following = self._found
        else:
            sets = self._nodes.sets
            after = (sets[node] for node in reached if node in sets)
            members = frozenset([self._first, *(target for members, target in after if byte in members)])
            following = self._state(members, False, byte in WORD)
        state.moves[byte] = following
        return following

    def _reached(self, state: _State, byte: int) -> set[int]:
        """Return the nodes that can be reached without another byte, where `byte` is the next one."""
        nodes, pending, reached = self._nodes, list(state.members), set[int]()
        holds = _holding(state.at_start, byte == _END, state.after_word, byte in WORD)
        while pending:
            node = pending.pop()
            if node in reached:
                continue
            reached.add(node)
            pending += nodes.forks.get(node, ())
            if node in nodes.places:
                condition, after = nodes.places[node]
                if condition in holds:
                    pending.append(after)
        return reached


def _holding(start: bool, end: bool, word_before: bool, word_after: bool) -> set[Condition]:
    """Return what holds at a place."""
    found = {Condition.EDGE if word_before != word_after else Condition.NO_EDGE}
    if start:
        found.add(Condition.START)
    if end:
        found.add(Condition.END)
    if word_after and not word_before:
        found.add(Condition.WORD_BEGINS)
    if word_before and not word_after:
        found.add(Condition.WORD_ENDS)
    return found
