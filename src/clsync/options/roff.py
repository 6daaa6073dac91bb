"""Manual pages: the few roff requests that one needs (man(7)), from text with `code` in backquotes."""

from __future__ import annotations

import re
from collections.abc import Iterable

_MARKED = re.compile(r"`(?P<code>[^`]+)`|(?P<option>(?<![\w-])--?[A-Za-z][\w-]*)")
_SPECIAL = str.maketrans({"\\": r"\e", "-": r"\-", "^": r"\(ha", "~": r"\(ti", "`": r"\(ga", "'": r"\(aq"})
_PLAIN = str.maketrans({"\\": r"\e", "^": r"\(ha", "~": r"\(ti"})


def title(name: str, section: int, footer: str, header: str) -> str:
    """Return the first line of a page."""
    return f'.TH {name.upper()} {section} "" "{footer}" "{header}"\n'


def section(name: str, *blocks: str) -> str:
    """Return a section with its blocks."""
    return f'.SH "{name}"\n' + "".join(blocks)


def subsection(name: str) -> str:
    """Return the heading of a part of a section."""
    return f'.SS "{name}"\n'


def paragraph(text: str) -> str:
    """Return a paragraph."""
    return f".PP\n{line(text)}\n"


def item(term: str, *texts: str) -> str:
    """Return a term with what it means; further texts are paragraphs below the first."""
    first, *more = [text for text in texts if text] or [""]
    return f".TP\n{line(term)}\n{line(first)}\n" + "".join(f".IP\n{line(text)}\n" for text in more)


def items(pairs: Iterable[tuple[str, str]]) -> str:
    """Return a list of terms."""
    return "".join(item(term, text) for term, text in pairs)


def example(text: str) -> str:
    """Return lines as they are, indented."""
    lines = (_guarded(literal(row)) for row in text.strip("\n").split("\n"))
    return ".PP\n.RS 4\n.nf\n" + "".join(f"{row}\n" for row in lines) + ".fi\n.RE\n"


def line(text: str) -> str:
    """Return text in one line: code and options bold."""
    parts: list[str] = []
    at = 0
    for found in _MARKED.finditer(text):
        parts.append(text[at : found.start()].translate(_PLAIN))
        parts.append(r"\fB" + literal(found["code"] or found["option"]) + r"\fR")
        at = found.end()
    parts.append(text[at:].translate(_PLAIN))
    return _guarded("".join(parts))


def literal(text: str) -> str:
    """Return text of which every character stays what it is."""
    return text.translate(_SPECIAL)


def _guarded(text: str) -> str:
    """Keep a line from being taken for a request."""
    return rf"\&{text}" if text.startswith((".", "'")) else text
