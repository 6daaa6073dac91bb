"""Writes what is made from the option table: the manual page, documents about options, shell completion.

python -m clsync.options.render --write     make the files
python -m clsync.options.render --check     tell which are not current; exit code 1 if any
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from clsync.options.completion import bash, zsh
from clsync.options.manual import manual
from clsync.options.migration import migration
from clsync.options.reference import reference

FILES: Final[Mapping[str, Callable[[], str]]] = {
    "docs/clsync.1": manual,
    "docs/options.md": reference,
    "docs/from-clsync-0.4.md": migration,
    "completions/clsync.bash": bash,
    "completions/_clsync": zsh,
}
"""Path in the repository -> what makes its content."""


def stale(top: Path) -> list[str]:
    """Return the files that are missing or are not what the table says."""
    return [name for name, make in FILES.items() if _content(top / name) != make()]


def write(top: Path) -> list[str]:
    """Make the files that are not current; return which."""
    names = stale(top)
    for name in names:
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(FILES[name](), encoding="utf-8")
    return names


def _content(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def main() -> int:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m clsync.options.render", description="Generated documentation.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", action="store_true", help="make the files")
    what.add_argument("--check", action="store_true", help="tell which are not current")
    parser.add_argument("--top", type=Path, default=Path(), help="top of the repository (default: here)")
    options = parser.parse_args()
    names = write(options.top) if options.write else stale(options.top)
    for name in names:
        print(f"{name}: {'written' if options.write else 'not current, make docs mends it'}")
    return 1 if names and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
