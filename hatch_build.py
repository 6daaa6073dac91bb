"""Builds the one part of clsync that is not Python: what C sync handlers may call (modes so and rsyncso).

Where no C compiler is found ($CC, cc) it is left out; all other modes work without it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "src/clsync/handler/plugin"
SOURCE = f"{PACKAGE}/host.c"
LIBRARY = "_host.so"


class HostLibraryHook(BuildHookInterface):  # type: ignore[misc]
    """Compiles the library into the wheel; of an editable installation, into the source tree."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build it."""
        if self.target_name != "wheel":
            return
        editable = version == "editable"
        self._place = os.path.join(self.root, PACKAGE) if editable else tempfile.mkdtemp(prefix="clsync-build-")
        path = os.path.join(self._place, LIBRARY)
        trouble = self._compile(path)
        if trouble:
            self.app.display_warning(f"without modes so and rsyncso: {trouble}")
        elif not editable:
            build_data["force_include"][path] = f"{PACKAGE.removeprefix('src/')}/{LIBRARY}"
            build_data["pure_python"] = False
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"py3-none-{platform}"  # it knows nothing of Python

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Clean up."""
        if self.target_name == "wheel" and version != "editable":
            shutil.rmtree(self._place, ignore_errors=True)

    def _compile(self, path: str) -> str:
        """Return what hinders it, nothing if it was made."""
        compiler = shlex.split(os.environ.get("CC", "cc"))
        flags = ["-std=gnu11", "-O2", "-Wall", "-fPIC", "-shared"]
        what = [f"-I{self.root}/include", "-o", f"{path}.new", f"{self.root}/{SOURCE}"]
        try:
            subprocess.run([*compiler, *flags, *what], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            return str(error)
        os.replace(f"{path}.new", path)
        return ""
