"""What stands at the source, beside what the index says of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import aclosing, suppress
from itertools import islice
from typing import Final

from clsync.core.classify import Stat
from clsync.core.listing import record_of, signature_of
from clsync.daemon.keeping import Keeping
from clsync.kernel.ops import Looks
from clsync.state import scan
from clsync.state.store import Store

FAR: Final = 1 << 62
"""Nanoseconds: a time beside which no time stamp is young."""
Look = Callable[[bytes], Stat | None]


class Unknown(Exception):
    """What differs cannot be told from the state."""


class Indexed:
    """Answers questions about the source of one state."""

    def __init__(self, keeping: Keeping) -> None:
        self._keeping, self._root, self._access = keeping, keeping.root, keeping.access

    async def differences(
        self, tops: Iterable[bytes], over: Callable[[scan.Scanned], None] = lambda seen: None
    ) -> AsyncGenerator[scan.Changes, None]:
        """Yield what differs from the index at and below directories; `over` is told how much there was to look at.

        Raises Unknown where that cannot be told.
        """
        store = self._keeping.kept
        if store is None or not self._keeping.complete:
            raise Unknown
        try:
            async with aclosing(scan.compare(self._keeping.scanned(), tops, over=over)) as found:
                async for part in found:
                    yield part
        except scan.ScanFailed as error:
            await self._access.apart(store.give_up, str(error))
            raise Unknown from None
        except OSError as error:
            self._keeping.log.warning(f"the source cannot be compared with the state: {error}")
            raise Unknown from None

    async def unlike(self, paths: Collection[bytes]) -> set[bytes]:
        """Return those of some paths that look otherwise than the index says; a later ctime alone is no such thing."""
        store = self._keeping.kept
        return set() if store is None else await self._access.apart(self._unlike, store, paths)

    def _unlike(self, store: Store, paths: Collection[bytes]) -> set[bytes]:
        noted = store.noted(paths)
        with self._root.opened() as root:
            found = set[bytes]()
            for path, look in looked_for(self._root.ops.looks(root), paths):
                seen, known = look(path), noted.get(path)
                if seen is None or known is None or not signature_of(seen, FAR).looks_like(known):
                    found.add(path)
        return found

    async def gone(self, paths: Collection[bytes]) -> set[bytes]:
        """Return those of some paths at which nothing stands at the source, or nobody can look."""
        return await self._access.apart(self._gone, paths)

    def _gone(self, paths: Collection[bytes]) -> set[bytes]:
        found = set(paths)
        with suppress(OSError), self._root.opened() as root:
            for path, look in looked_for(self._root.ops.looks(root), paths):
                with suppress(OSError):
                    if look(path) is not None:
                        found.discard(path)
        return found

    async def gone_below(self, tops: Collection[bytes], root: int) -> list[bytes]:
        """Return what the index has below some directories and is not there any more, without what lies below that.

        `root`: the watched directory, open.
        """
        store, looks = self._keeping.kept, self._root.ops.looks(root)

        def modes(paths: Sequence[bytes]) -> Iterator[int | None]:
            for path, look in looked_for(looks, paths):
                try:
                    found = look(path)
                except OSError:
                    yield 0  # it is there, whatever it is
                else:
                    yield None if found is None else found.st_mode

        return [] if store is None or not tops else await self._access.apart(store.gone, tops, modes)

    async def altered(self, store: Store) -> list[bytes]:
        """Return the directories in which names came or went since they were recorded. Raises OSError.

        Another file, or a file that is another one, shows by itself at the next start.
        """
        return await self._access.apart(self._altered, store)

    def _altered(self, store: Store) -> list[bytes]:
        with self._root.opened() as root:
            looks = self._root.ops.looks(root)

            def record(paths: Sequence[bytes]) -> Iterator[bytes | None]:
                for path, look in looked_for(looks, paths):
                    try:
                        found = look(path)
                    except OSError:
                        found = None
                    # Unlike all that was young when it was recorded.
                    yield None if found is None else record_of(found, FAR)

            return store.altered(record)


def looked_for(looks: Looks, paths: Iterable[bytes]) -> Iterator[tuple[bytes, Look]]:
    """Yield paths with what looks at them; who looks is told in good time what is asked for."""
    left = iter(paths)
    while part := list(islice(left, looks.at_once)):
        looks.expect(part)
        for path in part:
            yield path, looks.lstat
