"""`%name%` in values and handler arguments: one pass, so what was put in is never expanded again."""

from __future__ import annotations

from collections.abc import Callable, Iterator


def expand(template: bytes, lookup: Callable[[bytes], bytes | None]) -> bytes:
    """Return `template` with each `%name%` replaced by `lookup(name)`, and `%%` by `%`.

    Where `lookup` answers None the macro stays as written. A `%` that begins no macro is an ordinary character.
    Names are made of ASCII letters, digits and dashes and begin with a letter.
    """
    if b"%" not in template:
        return template
    return b"".join(_pieces(template, lookup))


def macros(template: bytes) -> list[bytes]:
    """Return the names of the macros in `template`, in the order in which they stand there."""
    names: list[bytes] = []
    expand(template, names.append)
    return names


def _pieces(template: bytes, lookup: Callable[[bytes], bytes | None]) -> Iterator[bytes]:
    at = 0
    while (start := template.find(b"%", at)) >= 0 and (end := template.find(b"%", start + 1)) >= 0:
        yield template[at:start]
        name = template[start + 1 : end]
        at = end + 1
        if not name:
            yield b"%"
        elif name[:1].isalpha() and name.replace(b"-", b"").isalnum():
            value = lookup(name)
            yield template[start:at] if value is None else value
        else:
            yield template[start:end]
            at = end  # the second sign may begin a macro
    yield template[at:]
