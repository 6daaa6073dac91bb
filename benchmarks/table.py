"""The table, as text for the terminal and for `table.md`."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.results import Result


def table(results: Sequence[Result]) -> str:
    """Return all rows as Markdown."""
    return "\n".join(section(result) for result in results)


def section(result: Result) -> str:
    """Return one row as Markdown: figures of all programs, then its targets."""
    lines = [f"## {result['row']}: {result['title']}", "", _circumstances(result), ""]
    lines += _grid(["program", *(_head(metric) for metric in result["metrics"])], _figures(result))
    targets = [_target(target) for target in result["targets"]]
    if targets:
        lines += ["", *_grid(["target", "limit", "reached", ""], targets)]
    return "\n".join(lines) + "\n"


def _circumstances(result: Result) -> str:
    return (
        f"Scale {result['scale']:g}, median of {result['rounds']} rounds, {result['measured']}, "
        f"load before {result['load']:g}, {result['machine']}."
    )


def _head(metric: dict[str, str]) -> str:
    return f"{metric['title']} [{metric['unit']}]" if metric["unit"] else metric["title"]


def _figures(result: Result) -> list[list[str]]:
    """Return a line for each program, errors in place of figures."""
    lines = []
    for name, version in result["versions"].items():
        label = f"{name} ({version})" if version else name
        figures = result["figures"].get(name, {})
        line = [
            f"{figures[metric['name']]:,.{metric['digits']}f}" if metric["name"] in figures else ""
            for metric in result["metrics"]
        ]
        if name in result["errors"]:
            line[0] = f"{line[0]} failed: {result['errors'][name]}".strip().replace("|", "/")
        lines.append([label, *line])
    return lines


def _target(target: Result) -> list[str]:
    limit = f"<= {target['limit']:g}" + (f" x {target['than']}" if target["than"] else "")
    reached = "" if target["reached"] is None else f"{target['reached']:.3g}"
    verdict = {True: "pass", False: "FAIL", None: "not measured"}[target["met"]]
    return [f"{target['program']} {target['metric']}", limit, reached, verdict]


def _grid(head: list[str], lines: list[list[str]]) -> list[str]:
    """Return a Markdown table with columns of one width, so that it reads well as plain text too."""
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]
    rule = ["-" * width for width in widths]
    return [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in [head, rule, *lines]
    ]
