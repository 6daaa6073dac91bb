"""What came out, for people: one line for each scenario, phase and way."""

from __future__ import annotations

from tests.faults.life import PHASES, Case, Result

_HEAD = "| Scenario | Phase | Way | Faults | Seeds | Files read | Losses | Longest recovery (s) |"


def table(results: list[Result], seeds: str) -> str:
    """Return a table in Markdown, and a line that sums it up."""
    groups: dict[Case, list[Result]] = {}
    for result in results:
        groups.setdefault(result.case, []).append(result)
    lines = [_HEAD, "|---|---|---|--:|--:|--:|--:|--:|"]
    ordered = sorted(groups, key=lambda case: (case.fault, PHASES.index(case.phase), case.transport))
    lines += [_row(case, groups[case]) for case in ordered]
    wrong = sum(result.failed for result in results)
    lines += [
        "",
        f"{len(results)} runs with the seeds {seeds}: {sum(r.faults for r in results)} faults,"
        f" {sum(r.reads for r in results)} files read while they were replaced,"
        f" {sum(len(r.losses) for r in results)} losses, {wrong} runs with something wrong.",
    ]
    return "\n".join(lines)


def _row(case: Case, results: list[Result]) -> str:
    cells = [case.fault, case.phase, case.transport, sum(r.faults for r in results), len(results)]
    cells += [sum(r.reads for r in results), sum(len(r.losses) for r in results)]
    return "| " + " | ".join(map(str, cells)) + f" | {max(r.recovery for r in results):.1f} |"
