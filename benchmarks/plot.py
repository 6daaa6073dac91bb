"""The plot: one panel for each row's first metric, one bar for each program."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.results import Result

MISSING = "no plot: matplotlib is not installed (pip install 'clsyncd[bench]')"
_COLUMNS = 2


def plot(results: Sequence[Result], path: Path) -> bool:
    """Draw all rows; false where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn = [result for result in results if result["figures"]]
    lines = max(1, -(-len(drawn) // _COLUMNS))
    figure, panels = pyplot.subplots(lines, _COLUMNS, figsize=(14, 2.8 * lines), squeeze=False)
    for panel in panels.flat[len(drawn) :]:
        panel.axis("off")
    for panel, result in zip(panels.flat, drawn, strict=False):
        metric = result["metrics"][0]
        bars = {
            name: of_one[metric["name"]] for name, of_one in result["figures"].items() if metric["name"] in of_one
        }
        # barh counts from below: the first program stands on top.
        names = list(bars)[::-1]
        drawn_bars = panel.barh(
            names, [bars[name] for name in names], color=["#2a6" if "new" in name else "#999" for name in names]
        )
        panel.bar_label(drawn_bars, fmt="%.3g", padding=3)
        panel.margins(x=0.15)
        panel.set_title(f"{result['row']}: {metric['title']} [{metric['unit']}]", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
    return True
