"""The rows of the table, in its order."""

from __future__ import annotations

from benchmarks.rows.base import Row
from benchmarks.rows.batch import Batch
from benchmarks.rows.flood import Flood
from benchmarks.rows.initial import Initial
from benchmarks.rows.latency import Latency
from benchmarks.rows.start import Start

ROWS: tuple[Row, ...] = (
    Start(rule=False),
    Start(rule=True),
    Flood(),
    Latency(),
    Batch(),
    Initial(one=False),
    Initial(one=True),
)
