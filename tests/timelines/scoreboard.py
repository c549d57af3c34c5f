"""The scoreboard: one line per scenario that was played in this test run."""

from tests.timelines.outcome import Verdict

PLAYED: list[Verdict] = []
"""In the order in which they were played."""

HEADINGS = (
    "scenario",
    "played",
    "found",
    "delay",
    "false",
    "clear",
    "told",
    "ticks",
    "cpu",
    "asked for in",
)


def lines() -> list[str]:
    """An aligned table: delay is the longest from fault to finding, clear the longest from recovery to clear."""
    rows = [HEADINGS, *(_row(each) for each in PLAYED)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    table = [
        "  ".join(
            cell.ljust(width) if column in (0, len(HEADINGS) - 1) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    found = sum(len(each.delays_seconds) for each in PLAYED)
    expected = sum(each.expected for each in PLAYED)
    false = sum(len(each.false_findings) for each in PLAYED)
    hours = sum(each.outcome.ended for each in PLAYED) / 3600
    return [
        *table,
        f"{len(PLAYED)} scenarios, {hours:.0f} h played: {found} of {expected} findings, {false} false",
    ]


def _row(verdict: Verdict) -> tuple[str, ...]:
    return (
        verdict.title + (" (known gap)" if verdict.is_gap else ""),
        _span(verdict.outcome.ended),
        f"{len(verdict.delays_seconds)}/{verdict.expected}",
        _longest(verdict.delays_seconds),
        str(len(verdict.false_findings)),
        _longest(verdict.clearings_seconds),
        str(verdict.outcome.told),
        str(verdict.outcome.ticks),
        f"{verdict.outcome.cpu_seconds:.2f} s",
        verdict.complaint,
    )


def _longest(seconds: list[float]) -> str:
    return _span(max(seconds)) if seconds else "-"


def _span(seconds: float) -> str:
    if seconds >= 7200:
        return f"{seconds / 3600:.4g} h"
    return f"{seconds:.4g} s"
