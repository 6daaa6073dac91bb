"""`clsync doctor`: what this machine can give, and what a start with the same options would do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clsync.options import ReadFile, load, value_of

_ANY_TREES = (b"--watch-dir=/", b"--destination-dir=/")
"""For settings without any: nothing is looked for there."""


def doctor(
    arguments: Sequence[bytes], environ: Mapping[bytes, bytes], read_file: ReadFile, pid: int
) -> tuple[str, int]:
    """Return what is to be printed, and the exit code that a start would have. Raises OperatorError."""
    from clsync.daemon.doctor import examine
    from clsync.privilege.splitting import decided

    looked_for: list[bytes] = []

    def read(path: bytes) -> bytes | None:
        looked_for.append(path)
        return read_file(path)

    source, _ = value_of("watch-dir", arguments, environ, read)
    known = source is not None
    settings = load(arguments if known else [*_ANY_TREES, *arguments], environ, read_file, pid)
    settings = decided(settings, looked_for)
    text, code = examine(settings, known)
    warnings = "".join(f"clsync: {warning}\n" for warning in settings.warnings)
    return warnings + text, code
