"""The catalogue's patterns over one kernel-log line. Pure.

All patterns are one regular expression, tried at the start of the line only: a line that is not for us is refused by
the first letters of each, and what a user can put into the middle of a line (the name of a process) proves nothing.
"""

import re
from collections.abc import Iterator

import msgspec

from agent.catalogue import Catalogue, Code
from agent.catalogue.load import shipped
from agent.kernel_log.addresses import normalise_bus_id
from agent.kernel_log.record import Record
from contract.vocabulary import Event
from contract.wire import MAX_TEXT

_PCI = r"(?P<pci>(?:[0-9a-fA-F]{4,8}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7])"
_SHAPES = {
    "(?P<pci>)": _PCI,
    "(?P<dev>)": r"(?P<dev>[A-Za-z][\w!-]{0,31})",
    "(?P<mlx5>)": rf"mlx5_core {_PCI}: (?:\w{{1,40}}:\d{{1,6}}:\(pid \d{{1,10}}\): )?",
}
"""What a row may write in short."""

_OVER = "over"
_CALLER = re.compile(r"\[ {0,8}[TC]\d{1,10}\] ")
"""Which thread wrote the line, as ``dmesg`` puts it before the message where the kernel was built to say so."""
_GROUP = re.compile(r"\(\?P(<|=)(\w+)([>)])")
_MAX_NAME = 128
"""Characters of a matched name that go into a subject."""


class _Rule(msgspec.Struct, frozen=True):
    """One pattern of one code."""

    code: Code
    groups: tuple[tuple[str, str], ...]
    """(name in the subject, name in the combined expression)"""
    over: str
    """The combined name of the group that says the trouble is over; empty: there is none."""


class Rules(msgspec.Struct, frozen=True):
    """All patterns, ready to use."""

    expression: re.Pattern[str]
    rules: dict[str, _Rule]
    """By the name of the empty group that ends each pattern."""

    def match(self, text: str) -> tuple[Code, str, bool] | None:
        """(code, subject, whether it says that the trouble is over) of one line; ``None``: not for us."""
        start = 0
        if text.startswith("[") and (caller := _CALLER.match(text)):
            start = caller.end()
        match = self.expression.match(text, start)
        if match is None:
            return None
        rule = self.rules[match.lastgroup or ""]
        found = {name: _named(name, match[combined] or "") for name, combined in rule.groups}
        over = bool(rule.over) and match[rule.over] is not None
        return rule.code, rule.code.subject.format_map(found), over


def compile_rules(catalogue: Catalogue) -> Rules:
    """The patterns of a catalogue, in its order.

    Raises:
        ValueError: a pattern is no regular expression, or lacks what its subject names; it names the code.
    """
    parts, rules = [], {}
    for number, (code, pattern) in enumerate(_patterns(catalogue)):
        text, end = _expanded(pattern), f"end_{number}"
        names = _names(code, text)
        renamed = _GROUP.sub(
            lambda group, n=number: f"(?P{group[1]}{group[2]}_{n}{group[3]}",  # type: ignore[misc]
            text,
        )
        rules[end] = _Rule(
            code=code,
            groups=tuple((name, f"{name}_{number}") for name in names if name != _OVER),
            over=f"{_OVER}_{number}" if _OVER in names else "",
        )
        parts.append(f"(?:{renamed})(?P<{end}>)")
    return Rules(_compiled("|".join(parts) or r"(?!)", catalogue), rules)


def kernel_event(record: Record, *, id: str, time_seconds: float) -> Event | None:  # noqa: A002
    """What a record says by the shipped rules; ``None`` for ordinary noise.

    A line that says that a trouble is over gives an event that clears it, as a person's word does.
    """
    matched = _SHIPPED.match(record.text)
    if matched is None:
        return None
    code, subject, over = matched
    if over:
        return Event(
            id=id, time_seconds=time_seconds, kind="clear", subject=subject, message=code.code
        )
    return Event(
        id=id,
        time_seconds=time_seconds,
        kind="kernel",
        subject=subject,
        message=record.text[:MAX_TEXT],
        finding=code.code,
    )


def _compiled(text: str, catalogue: Catalogue) -> re.Pattern[str]:
    try:
        return re.compile(text, re.ASCII | re.DOTALL)
    except re.error:
        for code, pattern in _patterns(catalogue):
            try:
                re.compile(_expanded(pattern))
            except re.error as error:
                raise ValueError(f"code {code.code}: pattern {pattern!r}: {error}") from error
        raise


def _patterns(catalogue: Catalogue) -> Iterator[tuple[Code, str]]:
    for code in catalogue.codes.values():
        for pattern in code.patterns:
            yield code, pattern


def _expanded(pattern: str) -> str:
    for short, full in _SHAPES.items():
        pattern = pattern.replace(short, full)
    return pattern


def _names(code: Code, text: str) -> tuple[str, ...]:
    """The groups of one pattern, once it is known that they fill the subject."""
    names = tuple(name for sign, name, _ in _GROUP.findall(text) if sign == "<")
    if not code.subject:
        raise ValueError(f"code {code.code}: it has patterns and no subject")
    try:
        code.subject.format_map(dict.fromkeys(names, ""))
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(
            f"code {code.code}: its pattern {text!r} does not fill its subject {code.subject!r}: {error}"
        ) from error
    return names


def _named(name: str, value: str) -> str:
    """A matched name as findings write it: one word, of bounded length, addresses in one form."""
    if name == "pci":
        return normalise_bus_id(value)
    if name == "controller":
        return value.lower()
    return value[:_MAX_NAME]


_SHIPPED = compile_rules(shipped())
"""Made while the agent starts and not at the first line: reading files would hold up the event loop."""
