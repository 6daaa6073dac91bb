"""The environment that programs of the tests inherit."""

from __future__ import annotations

import os

INHERITED = dict(os.environ)
"""As it was when tests were collected. pytest adds to `os.environ` and takes from it while tests run, so a thread that
copies it then may meet a variable that is gone (KeyError)."""
