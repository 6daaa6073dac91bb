"""Values that may be another one for each destination: `5m`, or `web1:/srv=5m` for one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class PerTarget(Generic[T]):
    """A value for all destinations, and those of some."""

    everywhere: T | None = None
    some: tuple[tuple[bytes, T], ...] = ()

    def of(self, destination: bytes | None) -> T | None:
        """Return the value for a destination, named as it was to `--destination-dir`."""
        return dict(self.some).get(destination or b"", self.everywhere)

    def __bool__(self) -> bool:
        """Whether there is any."""
        return self.everywhere is not None or bool(self.some)

    def __str__(self) -> str:
        """Return all of it as it could be written."""
        each = [f"{destination.decode('utf-8', 'backslashreplace')}={value}" for destination, value in self.some]
        return ",".join([*([str(self.everywhere)] if self.everywhere is not None else []), *each])


def parser(one: Callable[[bytes], T]) -> Callable[[bytes | None, PerTarget[T]], PerTarget[T]]:
    """Return the parser of such values; `one` parses what is for one of them. Empty clears what was before."""

    def parse(text: bytes | None, current: PerTarget[T]) -> PerTarget[T]:
        destination, equals, value = (text or b"").rpartition(b"=")
        if not value:
            return PerTarget()
        if not equals:
            return PerTarget(one(value), current.some)
        return PerTarget(current.everywhere, (*current.some, (destination, one(value))))

    return parse
