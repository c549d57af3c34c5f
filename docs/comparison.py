"""What others judge and what we make of it: comparison.yaml → the tables of health-checks.md."""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import msgspec

from agent.catalogue import Code
from agent.catalogue.load import FILES, rows, shipped
from docs import families

FILE = Path(__file__).with_name("comparison.yaml")
CATALOGUE = Path(__file__).parents[1] / "agent" / "catalogue"

FEW = 3
"""Codes of one pattern that are named one by one."""


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One thing that somebody else judges."""

    theirs: str
    judges: str
    ours: tuple[str, ...] = ()
    """Our codes, by name or shell pattern."""
    shown: tuple[str, ...] = ()
    """Our metrics, where a value is shown and not judged by itself."""
    not_yet: bool = False
    """It belongs here and is missing."""
    why: str = ""
    """How ours differs; where we have nothing, why."""
    proof: tuple[str, ...] = ()
    """Tests (``path::name``) and scenarios that show it, from the project's root."""
    document: str = ""
    """The vendor's document that shows it."""


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one project judges."""

    title: str
    source: str
    """Which state of it was read."""
    about: str = ""
    rows: tuple[Row, ...]


class Difference(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where we hold that others are wrong."""

    title: str
    theirs: str
    ours: str
    proof: tuple[str, ...]


class Comparison(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file."""

    intro: str
    tables: tuple[Table, ...]
    differences_intro: str
    differences: tuple[Difference, ...]


def load() -> Comparison:
    """The file, as it stands.

    Raises:
        msgspec.ValidationError: it is malformed; the message names the place.
    """
    return msgspec.yaml.decode(FILE.read_bytes(), type=Comparison)


def matching(pattern: str) -> tuple[Code, ...]:
    """Our codes by name or shell pattern, those of the NPU driver's own numbers too."""
    return tuple(code for name, code in _all().items() if fnmatchcase(name, pattern))


@cache
def _all() -> Mapping[str, Code]:
    faults = (code for own in families.npu_faults().values() for code in own)
    return {**shipped().codes, **{code.code: code for code in faults}}


def to_markdown() -> str:
    """The whole page."""
    comparison = load()
    return (
        "\n\n".join(
            part.strip() for part in (*_tables(comparison), *_differences(comparison), *_counts())
        )
        + "\n"
    )


def _tables(comparison: Comparison) -> Iterator[str]:
    yield "# Health checks: ours beside others"
    yield "<!-- Written by `python -m docs.health_checks` from docs/comparison.yaml and the catalogue. -->"
    yield comparison.intro
    for table in comparison.tables:
        yield f"## {table.title}"
        yield f"Read at: {table.source}.{' ' + table.about if table.about else ''}"
        lines: list[tuple[str, ...]] = [
            ("they look at", "they judge", "Fleetmedic", "remark"),
            ("---",) * 4,
        ]
        lines += [(row.theirs, row.judges, _ours(row), _remark(row)) for row in table.rows]
        yield "\n".join(f"| {' | '.join(_cell(each) for each in line)} |" for line in lines)
    yield "## Missing"
    yield "What the tables above call *not yet*, in one place:"
    yield "\n".join(
        f"- {row.theirs} ({table.title}): {row.why}"
        for table in comparison.tables
        for row in table.rows
        if row.not_yet
    )


def _ours(row: Row) -> str:
    parts = [_codes(pattern) for pattern in row.ours]
    parts += [f"metric `{name}`" for name in row.shown]
    if row.not_yet:
        parts.append("*not yet*")
    return "; ".join(parts) or "no"


def _codes(pattern: str) -> str:
    found = matching(pattern)
    if len(found) <= FEW:
        return ", ".join(f"{_link(each)} ({each.severity.label})" for each in found)
    worst, mildest = max(each.severity for each in found), min(each.severity for each in found)
    span = worst.label if worst is mildest else f"{mildest.label} to {worst.label}"
    return f"`{pattern}` ({len(found)} codes, {span})"


def _link(code: Code) -> str:
    return f"[`{code.code}`](runbooks/findings/{code.family}.md)"


def _remark(row: Row) -> str:
    return " ".join(filter(None, (row.why, row.document, *map(_proof, row.proof))))


def _proof(path: str) -> str:
    """A link to a test or a scenario."""
    file, _, name = path.partition("::")
    return f"[{name or Path(file).stem}](../{file})"


def _differences(comparison: Comparison) -> Iterator[str]:
    yield "## Where the others are wrong"
    yield comparison.differences_intro
    for number, each in enumerate(comparison.differences, 1):
        proof = ", ".join(map(_proof, each.proof))
        yield f"**{number}. {each.title}** {each.theirs} *Fleetmedic:* {each.ours} Shown by {proof}."


def _counts() -> Iterator[str]:
    yield "## How many codes there are"
    lines: list[tuple[str, ...]] = [
        ("file", "codes", "fatal", "critical", "degraded", "info"),
        ("---",) * 6,
    ]
    total: list[Code] = []
    for name in FILES:
        own = tuple(rows((CATALOGUE / name).read_bytes()))
        total += own
        lines.append((f"`{name}`", *_numbers(own)))
    faults = tuple(code for own in families.npu_faults().values() for code in own)
    total += faults
    lines += [("`ascend.yaml`", *_numbers(faults)), ("all", *_numbers(total))]
    yield "\n".join(f"| {' | '.join(line)} |" for line in lines)
    yield (
        f"They are handled by {len(families.codes())} families, each with [a page](runbooks/README.md)."
        " A number that no file names is shown as `info`, never dropped; an NPU fault is then judged by the"
        " severity that its driver gives it."
    )


def _numbers(codes: tuple[Code, ...] | list[Code]) -> tuple[str, ...]:
    labels = [code.severity.label for code in codes]
    return (
        str(len(labels)),
        *(str(labels.count(each)) for each in ("fatal", "critical", "degraded", "info")),
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").strip() or " "
