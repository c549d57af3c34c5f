"""Every code of the catalogue can be raised: by its snapshots through all checks, or by its line through the parser."""

import importlib
import pkgutil

import pytest

import tests.examples
from agent.catalogue.load import shipped
from agent.checks import Context, Limits
from agent.checks.all import Memory, run
from agent.faults import Book, Timing, findings
from agent.faults.events import record_events
from agent.kernel_log import event_from, parse_record
from agent.snapshot import Snapshot
from tests.support import START

MODULES = [
    importlib.import_module(f"tests.examples.{each.name}")
    for each in pkgutil.iter_modules(tests.examples.__path__)
]
SNAPSHOTS: dict[str, list[Snapshot]] = {
    code: shots for module in MODULES for code, shots in getattr(module, "EXAMPLES", {}).items()
}
LINES: dict[str, list[str]] = {
    code: lines for module in MODULES for code, lines in getattr(module, "LINES", {}).items()
}
FALLBACKS: dict[str, str] = {
    code: line for module in MODULES for code, line in getattr(module, "FALLBACKS", {}).items()
}
"""Rows that judge the codes of their kind that have no row of their own."""

LIMITS = Limits(expected_gpus=8)
TIMING = Timing(started_seconds=START)


def observed(shots: list[Snapshot]) -> set[str]:
    memory, codes = Memory(), set()
    for shot in shots:
        checked = run(shot, memory, Context(catalogue=shipped(), limits=LIMITS))
        memory = checked.memory
        codes = {each.code.code for each in checked.observations}
    return codes


def raised(lines: list[str]) -> set[str]:
    events = [
        event_from(parse_record(line.encode()), id=f"kmsg:{n}", time_seconds=START)
        for n, line in enumerate(lines)
    ]
    book = record_events(Book(), [each for each in events if each], shipped(), TIMING)
    return {each.code for each in findings(book, TIMING)}


@pytest.mark.parametrize("code", sorted(SNAPSHOTS))
def test_its_snapshots_show_it(code: str) -> None:
    assert code in observed(SNAPSHOTS[code])


@pytest.mark.parametrize("code", sorted(LINES))
def test_its_lines_raise_it(code: str) -> None:
    assert code in raised(LINES[code])


@pytest.mark.parametrize("code", sorted(FALLBACKS))
def test_it_judges_what_has_no_row_of_its_own(code: str) -> None:
    (found,) = raised([FALLBACKS[code]])
    assert found.startswith(f"{code}-")
    assert found not in shipped().codes
    assert shipped().find(found).severity is shipped().codes[code].severity


def test_there_is_no_code_that_nothing_reaches() -> None:
    reached = {*SNAPSHOTS, *LINES, *FALLBACKS}
    assert sorted(set(shipped().codes) - reached) == []


def test_there_is_no_example_of_a_code_that_is_not_in_the_catalogue() -> None:
    assert sorted({*SNAPSHOTS, *LINES, *FALLBACKS} - set(shipped().codes)) == []
