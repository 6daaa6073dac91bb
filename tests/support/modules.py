"""Modules in C for modes so and rsyncso, compiled against the headers that are installed."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.daemon import Daemon
from tests.support.environment import INHERITED

EXAMPLES = Path("/usr/share/doc/clsync/examples")
"""Where the package clsync of Debian has its examples."""
_PROBE = Path(__file__).with_name("probe.c")
_DEBIAN_HEADERS = Path("/usr/include/clsync/ctx.h")
_DEBIAN_FLAGS = "".join(
    f"#define {name}\n"
    for name in (
        "_DEBUG_SUPPORT",
        "CAPABILITIES_SUPPORT",
        "UNSHARE_SUPPORT",
        "GETMNTENT_SUPPORT",
        "THREADING_SUPPORT",
    )
)
"""How Debian's binary is built; its package has no compilerflags.h."""


@cache
def our_flags() -> tuple[str, ...]:
    """Return the compiler's options for the headers that clsync has installed."""
    if shutil.which("cc") is None or shutil.which("pkg-config") is None:
        pytest.skip("no C compiler or no pkg-config")
    place = {"PKG_CONFIG_PATH": f"{sys.prefix}/share/pkgconfig"}
    found = subprocess.run(
        ["pkg-config", "--cflags", "clsync"], env={**INHERITED, **place}, capture_output=True, text=True, check=True
    )
    return tuple(shlex.split(found.stdout))


def debian_flags(top: Path) -> tuple[str, ...]:
    """Return the compiler's options for the headers of libclsync-dev; `top`: for what that package lacks."""
    our_flags()
    if not _DEBIAN_HEADERS.exists():
        pytest.skip("libclsync-dev is not installed")
    place = top / "debian"
    for name, text in (
        ("clsync/compilerflags.h", _DEBIAN_FLAGS),
        ("sys/capability.h", "#include <linux/types.h>\n"),
    ):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    # The example calls functions that it does not declare, as those headers do not either.
    return "-include", "clsync/compilerflags.h", f"-I{place}", "-Wno-implicit-function-declaration"


def example(name: str) -> Path:
    """Return an example of Debian's package."""
    path = EXAMPLES / name
    if not path.exists():
        pytest.skip("the examples of Debian's package clsync are not there")
    return path


def compiled(top: Path, source: Path | str, flags: Sequence[str] | None = None) -> Path:
    """Compile a source file, or a text, to a module in `top`; return its path."""
    if isinstance(source, str):
        (top / "module.c").write_text(source)
        source = top / "module.c"
    module = top / f"{source.stem}.so"
    options = our_flags() if flags is None else flags
    command = ["cc", "-fPIC", "-shared", *options, "-o", str(module), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    module.chmod(0o755)
    return module


def run_c(top: Path, text: str, flags: Sequence[str] | None = None) -> str:
    """Compile a program and return what it prints."""
    source, program = top / "program.c", top / "program"
    source.write_text(text)
    flags = our_flags() if flags is None else flags
    subprocess.run(["cc", "-Wall", "-Werror", *flags, "-o", program, source], check=True)
    return subprocess.run([program], capture_output=True, text=True, check=True).stdout


class Seen(NamedTuple):
    """An object that a module was given."""

    mask: int
    flags: int
    old: int
    new: int
    path: bytes


class Call(NamedTuple):
    """A call of a function of the module."""

    function: str
    status: bytes | None
    iteration: bytes | None
    state: int
    number: int
    cwd: bytes | None
    pid: int
    objects: list[Seen]
    texts: list[bytes | None]
    """Path and content of the include list, then of the exclude list."""


class Probe:
    """The module of `probe.c`, and what it has written."""

    def __init__(self, top: Path) -> None:
        """Compile it in the directory `top`."""
        self.module = compiled(top, _PROBE)
        self._log, self._act = top / "probe.log", top / "probe.log.act"
        self.list = top / "probe.log.list"
        self.environment = {"PROBE": str(self._log)}

    @property
    def option(self) -> str:
        """The option that makes it the handler."""
        return f"-S{self.module}"

    def act(self, word: str) -> None:
        """Have it do something once, with its next call."""
        self._act.with_suffix(".new").write_text(word)
        self._act.with_suffix(".new").rename(self._act)

    @property
    def acted(self) -> bool:
        """Whether it has begun to do so."""
        return not self._act.exists()

    @property
    def calls(self) -> list[Call]:
        """All calls so far."""
        text = self._log.read_text() if self._log.exists() else ""
        return [_call(line.split()) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def named(self, function: str) -> list[Call]:
        """Return the calls of one function."""
        return [call for call in self.calls if call.function == function]

    def wait_for(self, daemon: Daemon, function: str, number: int) -> list[Call]:
        """Wait until a function was called so often; return the calls."""
        daemon.wait_until(lambda: len(self.named(function)) >= number, what=f"call {number} of {function}")
        return self.named(function)


def _call(words: list[str]) -> Call:
    function, status, iteration, state, number, cwd, pid, *rest = words
    objects: list[Seen] = []
    texts: list[bytes | None] = []
    if function == "sync":
        for numbers, path in zip(rest[::2], rest[1::2], strict=True):
            mask, flags, old, new, ended = map(int, numbers.split(","))
            assert ended, "the path ends where its length says"
            objects.append(Seen(mask, flags, old, new, _text(path) or b""))
    else:
        texts = [_text(word) for word in rest]
    return Call(
        function, _text(status), _text(iteration), int(state), int(number), _text(cwd), int(pid), objects, texts
    )


def _text(word: str) -> bytes | None:
    return None if word == "-" else bytes.fromhex(word.removeprefix("x"))
