"""The overrides as people write them → entries. Every mistake is named at once, with its remedy. Pure."""

import datetime
import difflib
import math
import re
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from agent import plain_yaml
from agent.catalogue import Catalogue, Escalation
from agent.catalogue.load import EscalationRow, escalation
from agent.overrides import Override, Overrides, matching
from contract.vocabulary import Action, Severity

MAX_BYTES = 256 * 1024
MAX_ENTRIES = 500
MAX_TEXT = 500
"""Characters of a reason; a pattern has fewer still."""
MAX_PATTERN = 200
MAX_PATTERNS = 100
MAX_HOLD_SECONDS = 86_400.0
MAX_CLEAR_SECONDS = 30 * 86_400.0
MIN_LIMIT = 1e-9
MAX_LIMIT = 1e12
"""A limit outside of these decides nothing: it always holds, never holds, or cannot be divided by."""
MAX_TOLD = 50
"""Mistakes told at once."""

NUMBERED = re.compile(r"(xid|sxid(-nonfatal)?|npu)-([0-9a-f]+(-[a-z0-9]+)*|[0-9a-f-]*[*?[].*)")
"""Codes of vendors, who have more of them than our tables, and patterns of such: these need no row."""


class OverridesError(ValueError):
    """The file cannot be used; the message has one line per mistake."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        told = problems[:MAX_TOLD]
        if len(problems) > len(told):
            told.append(f"and {len(problems) - len(told)} more")
        super().__init__("\n".join(told))


def parse(text: bytes, catalogue: Catalogue) -> Overrides:
    """Understand a file; an empty one overrides nothing.

    Args:
        text: the file.
        catalogue: what there is to override.

    Raises:
        OverridesError: what cannot be used, all of it; each line names entry, value and remedy.
    """
    try:
        content = plain_yaml.load(text, most_bytes=MAX_BYTES)
    except ValueError as error:
        raise OverridesError([str(error)]) from None
    entries = _entries(content)
    problems: list[str] = []
    understood = []
    for number, raw in enumerate(entries, start=1):
        override, wrong = _override(raw, catalogue)
        problems += [f"entry {number}{_named(raw)}: {each}" for each in wrong]
        if override is not None:
            understood.append(override)
    if problems:
        raise OverridesError(problems)
    return Overrides(tuple(understood))


def _entries(content: Any) -> list[Any]:
    if content is None:
        return []
    if not isinstance(content, dict) or set(content) != {"overrides"}:
        raise OverridesError(
            [f"{_shown(content)}: the file must have one key, 'overrides:', with a list under it"]
        )
    entries = content["overrides"]
    if entries is None:
        return []
    if not isinstance(entries, list):
        raise OverridesError(
            [f"overrides: {_shown(entries)} is no list; begin each entry with '- code: …'"]
        )
    if len(entries) > MAX_ENTRIES:
        raise OverridesError(
            [f"{len(entries)} entries; {MAX_ENTRIES} are allowed: use patterns ('xid-*')"]
        )
    return entries


def _override(raw: Any, catalogue: Catalogue) -> tuple[Override | None, list[str]]:
    """One entry, or what is wrong with it."""
    if not isinstance(raw, dict):
        return None, [f"{_shown(raw)} is no entry; write 'code: …' and what changes"]
    values: dict[str, Any] = {}
    wrong: list[str] = []
    for key, value in raw.items():
        field = _FIELDS.get(key) if isinstance(key, str) else None
        if field is None:
            wrong.append(f"unknown field {_shown(key)}{_nearest(key, _FIELDS)}")
            continue
        try:
            values[key] = field(value)
        except ValueError as error:  # also what msgspec raises
            wrong.append(f"{key}: {_shown(value)} cannot be used: {error}")
    wrong += [
        f"it has no {needed}; add '{needed}: …'"
        for needed in ("code", "reason")
        if needed not in raw
    ]
    if not raw.keys() & _CHANGES:
        wrong.append(f"it changes nothing; give one of {', '.join(sorted(_CHANGES))}")
    wrong += _against(catalogue, values)
    wrong += _inconsistent(values)
    return (None, wrong) if wrong else (Override(**values), [])


def _against(catalogue: Catalogue, values: Mapping[str, Any]) -> list[str]:
    """What the catalogue has to say about an entry."""
    pattern = values.get("code")
    if pattern is None:
        return []
    matched = [catalogue.codes[name] for name in matching(pattern, catalogue.codes)]
    if not matched and NUMBERED.fullmatch(pattern):
        matched = [catalogue.find(pattern)]  # a sub-code has the limits of its code
    if not matched:
        return [f"no code is called {pattern!r}{_nearest(pattern, catalogue.codes)}"]
    wrong = []
    for name, value in values.get("limits", {}).items():
        shipped = [code.limits[name] for code in matched if name in code.limits]
        if shipped:
            wrong += _out_of_range(name, value, may_be_zero=all(each == 0 for each in shipped))
        else:
            known = {each for code in matched for each in code.limits}
            wrong.append(
                f"limits: {name[:MAX_PATTERN]!r} is no limit of {pattern!r}{_nearest(name, known)}"
            )
    return wrong


def _out_of_range(name: str, value: float, *, may_be_zero: bool) -> list[str]:
    """A limit that no check could work with."""
    is_span = name == "seconds" or name.endswith(("_seconds", "_seconds_min"))
    most, unit = (MAX_CLEAR_SECONDS, " seconds") if is_span else (MAX_LIMIT, "")
    if MIN_LIMIT <= value <= most or (may_be_zero and value == 0):
        return []
    return [f"limits: {name} {value:g} cannot be used: expected {MIN_LIMIT:g} to {most:g}{unit}"]


def _inconsistent(values: Mapping[str, Any]) -> list[str]:
    """What would keep pods away without a word on what to do about it.

    Both sides are asked of one entry, so that no combination of entries gets there either.
    """
    wrong = []
    severity, action = values.get("severity"), values.get("action")
    if severity is not None and severity >= Severity.CRITICAL and action in (None, Action.NONE):
        wrong.append(
            f"severity {severity.label} keeps pods away: say in the same entry what mends it, "
            f"with one of action: {', '.join(_mending())}"
        )
    if action is Action.NONE and severity is None:
        wrong.append(
            "action none: say in the same entry how bad it is then, with severity: info or degraded"
        )
    wrong += [
        f"escalation: {step.severity.label} with action none; use one of {', '.join(_mending())}"
        for step in values.get("escalation", ())
        if step.severity >= Severity.CRITICAL and step.action is Action.NONE
    ]
    return wrong


def _mending() -> list[str]:
    return [action.label for action in Action if action is not Action.NONE]


def _text(most: int) -> Callable[[Any], str]:
    def convert(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError("expected text; put it in quotes")  # noqa: TRY004 - told, not raised on
        text = " ".join(value.split())
        if not (1 <= len(text) <= most and text.isprintable()):
            raise ValueError(f"expected 1 to {most} printable characters")
        return text

    return convert


def _patterns(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError("expected a list of shell patterns, as in [h100, 'a100-*']")  # noqa: TRY004
    if not 1 <= len(value) <= MAX_PATTERNS:
        raise ValueError(f"expected 1 to {MAX_PATTERNS} patterns; leave it out for all")
    return tuple(_text(MAX_PATTERN)(each) for each in value)


def _seconds(most: float) -> Callable[[Any], float]:
    def convert(value: Any) -> float:
        seconds = _number(value)
        if not 0 <= seconds <= most:
            raise ValueError(f"expected 0 to {most:g} seconds")
        return seconds

    return convert


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("expected a number")  # noqa: TRY004
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError("expected a finite number")
    return number


def _limits(value: Any) -> dict[str, float]:
    if not isinstance(value, dict) or not value:
        raise ValueError("expected 'name: number' lines")
    limits = {}
    for name, each in value.items():
        try:
            limits[_text(MAX_PATTERN)(name)] = _number(each)
        except ValueError as error:
            raise ValueError(f"{_shown(name)}: {error}") from None
    return limits


def _escalation(value: Any) -> tuple[Escalation, ...]:
    steps = [escalation(row) for row in msgspec.convert(value, type=list[EscalationRow])]
    for step in steps:
        if step.count < 1:
            raise ValueError(f"count {step.count} is too small; expected 1 or more")
        if not 0 < step.within_seconds <= MAX_CLEAR_SECONDS:
            raise ValueError(
                f"within_seconds {step.within_seconds:g}: expected more than 0, "
                f"at most {MAX_CLEAR_SECONDS:g}"
            )
    return tuple(sorted(steps, key=lambda step: step.severity))


def _word(kind: type[Severity] | type[Action]) -> Callable[[Any], Severity | Action]:
    return lambda value: kind.from_label(_text(MAX_PATTERN)(value))


def _yes_or_no(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("expected true or false")  # noqa: TRY004
    return value


_CHANGES: Mapping[str, Callable[[Any], Any]] = {
    "severity": _word(Severity),
    "action": _word(Action),
    "hold_seconds": _seconds(MAX_HOLD_SECONDS),
    "clear_seconds": _seconds(MAX_CLEAR_SECONDS),
    "limits": _limits,
    "escalation": _escalation,
    "ignore": _yes_or_no,
}
_FIELDS: Mapping[str, Callable[[Any], Any]] = {
    "code": _text(MAX_PATTERN),
    "pools": _patterns,
    "models": _patterns,
    "nodes": _patterns,
    **_CHANGES,
    "reason": _text(MAX_TEXT),
}


def _nearest(name: Any, known: Any) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(str(name)[:MAX_PATTERN], names, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    if not names:
        return "; there is none to set"
    shown = ", ".join(names) if len(names) <= 12 else f"{len(names)} names, as {names[0]!r}"
    return f"; known: {shown}"


def _named(raw: Any) -> str:
    code = raw.get("code") if isinstance(raw, dict) else None
    return f" ({code[:MAX_PATTERN]})" if isinstance(code, str) and code.isprintable() else ""


def _shown(value: Any) -> str:
    """A value as people know it, cut short."""
    if isinstance(value, datetime.date):  # and times
        return value.isoformat()
    try:
        return reprlib.repr(value)
    except ValueError:  # Python does not write out numbers of many thousand digits
        return "a number"
