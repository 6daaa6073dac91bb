"""The command `clsync`: arguments in, exit code out. The only place that prints and exits."""

from __future__ import annotations

import os
import sys

from clsync import __version__
from clsync.errors import Exit, OperatorError
from clsync.options import HelpRequested, VersionRequested, load


def main() -> int:
    """Run the command line; return the exit code."""
    try:
        settings = load([os.fsencode(a) for a in sys.argv[1:]], os.environb, _read_file, os.getpid())
        from clsync.daemon.run import run  # late: help and errors in options need none of it

        return run(settings)
    except HelpRequested:
        from clsync.options.help import help_text

        print(help_text(_columns()), end="")
        return Exit.OK
    except VersionRequested:
        print(f"clsync {__version__}")
        return Exit.OK
    except OperatorError as error:
        sys.stderr.write(f"clsync: {error.message}\n" + (f"clsync: {error.hint}\n" if error.hint else ""))
        return error.code
    except KeyboardInterrupt:
        return Exit.OK
    except BrokenPipeError:
        return Exit.FAILURE


def _columns() -> int:
    import shutil

    return shutil.get_terminal_size().columns


def _read_file(path: bytes) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None


if __name__ == "__main__":
    sys.exit(main())
