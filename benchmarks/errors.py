"""What ends a measurement."""

from __future__ import annotations


class BenchmarkError(Exception):
    """A row or a program that cannot be measured here; the text says why and what would help."""
