"""The pid file and the status file: a word each, removed at the end."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from clsync.core.paths import shown
from clsync.errors import Exit, OperatorError
from clsync.kernel import places, roles


class SmallFile:
    """A file with one word in it."""

    def __init__(self, path: bytes | None, option: str) -> None:
        """`path` None: there is no such file, and nothing is done."""
        self._path = os.path.abspath(path) if path is not None else None
        self._option = option
        self._begun = False
        self._made: places.Identity | None = None
        """The file; None while nothing was written, or a signal came in the midst of that."""

    def demand_place(self) -> None:
        """See that it can be written, as far as that can be told without doing it. Raises OperatorError."""
        path = self._path
        if path is not None:
            self._tried(lambda: places.demand_place(path))

    def write(self, text: str) -> None:
        """Replace the content. Raises OperatorError."""

        def write(descriptor: int) -> None:
            self._made = places.identity_of(os.fstat(descriptor))
            os.ftruncate(descriptor, 0)
            os.write(descriptor, text.encode())

        self._begun = True
        self._tried(lambda: self._with_it(write))

    def _tried(self, act: Callable[[], None]) -> None:
        try:
            roles.by_somebody(act)
        except places.Unsafe as error:
            raise self._trouble(error, "remove what stands there yourself, or name another path") from None
        except OSError as error:
            raise self._trouble(error, "name a file in a directory that exists and may be written") from None

    def give_away(self) -> None:
        """Give the file to who clsync is about to become. Raises OperatorError."""
        own = roles.own_ids()
        try:
            self._with_it(lambda descriptor: os.fchown(descriptor, own.uid, own.gid))
        except OSError as error:
            hint = "name a file on a file system that keeps owners"
            raise self._trouble(error, hint, f" cannot be given to user {own.uid}") from None

    def _with_it(self, act: Callable[[int], object]) -> None:
        if self._path is not None:
            with places.small_file(self._path) as descriptor:
                act(descriptor)

    def _trouble(self, error: OSError, hint: str, what: str = "") -> OperatorError:
        assert self._path is not None
        return OperatorError(f"--{self._option} {shown(self._path)}{what}: {error.strerror}", hint, Exit.FILES)

    def remove(self) -> None:
        """Remove the file, if it is still the one that was written; empty it where that is forbidden."""
        path, made = self._path, self._made
        if path is None or not self._begun:
            return
        for act in (places.remove, places.empty):
            try:
                roles.by_somebody(partial(act, path, made))
            except OSError:
                continue
            return
