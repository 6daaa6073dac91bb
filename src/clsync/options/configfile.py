"""Configuration files: `[block]` lines, `key = value`, `#` comments (the format of GLib's key files)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from clsync.errors import OperatorError
from clsync.options.values import shown

_BLANKS = b" \t\r"
INHERITS = "config-block-inherits"


class Value(NamedTuple):
    """The text of a key, and the line it stands on."""

    text: bytes
    line: int


Block = dict[str, list[Value]]
"""A key may be written several times."""


class ConfigFile(NamedTuple):
    """A configuration file that was read."""

    name: str
    blocks: Mapping[bytes, Block]

    def chain(self, name: bytes, inherits: bytes | None) -> Iterator[Block]:
        """Yield a block and those it inherits from; `inherits` overrides the first one's own word.

        Raises OperatorError where blocks inherit in a circle, or from one that is missing.
        """
        seen = [name]
        block = self.blocks.get(name, {})
        yield block
        parent = inherits or _parent(block)
        while parent:
            if parent in seen:
                circle = " -> ".join(shown(n) for n in [*seen, parent])
                raise OperatorError(f"{self.name}: blocks inherit in a circle: {circle}", f"remove one {INHERITS}")
            if parent not in self.blocks:
                raise OperatorError(
                    f"{self.name}: block [{shown(seen[-1])}] inherits from [{shown(parent)}], which is not there",
                    f"the file has: {', '.join(shown(b) for b in self.blocks) or 'no block'}",
                )
            seen.append(parent)
            block = self.blocks[parent]
            yield block
            parent = _parent(block)


def _parent(block: Block) -> bytes | None:
    value = block.get(INHERITS)
    return value[-1].text if value is not None else None


def parse_config(text: bytes, name: str) -> ConfigFile:
    """Read a configuration file. Raises OperatorError that names the line."""
    blocks: dict[bytes, Block] = {}
    block: Block | None = None
    for number, raw in enumerate(text.split(b"\n"), 1):
        line = raw.strip(_BLANKS)
        if not line or line.startswith(b"#"):
            continue
        if line.startswith(b"[") and line.endswith(b"]") and len(line) > 2:
            block = blocks.setdefault(line[1:-1], {})
            continue
        key, equals, value = line.partition(b"=")
        where = f"{name}, line {number}"
        if not equals or not key.strip(_BLANKS):
            raise OperatorError(f"{where}: '{shown(line)}' is neither a [block] nor key = value", "mend the line")
        if block is None:
            raise OperatorError(f"{where}: a key before the first [block]", "write [default] above it")
        block.setdefault(shown(key.strip(_BLANKS)), []).append(Value(value.strip(_BLANKS), number))
    return ConfigFile(name, blocks)
