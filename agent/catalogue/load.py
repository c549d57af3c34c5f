"""The catalogue's files → codes. A row that cannot be used names itself."""

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Any

import msgspec

from agent.catalogue import Catalogue, Clears, Code, Escalation
from contract.vocabulary import Action, Domain, Severity

FILES = (
    "unseen.yaml",
    "gpu.yaml",
    "xid.yaml",
    "nvlink5.yaml",
    "sxid.yaml",
    "nvrm.yaml",
    "rdma.yaml",
    "host.yaml",
    "npu.yaml",
    "kernel.yaml",
)


class EscalationRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One step of an escalation, as files write it."""

    count: int
    within_seconds: float
    apart_seconds: float = 0.0
    across_pods: bool = False
    severity: str
    action: str


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    code: str
    meaning: str
    severity: str
    action: str
    domain: str
    family: str
    clears: Clears
    hold_seconds: float | None = None
    clear_seconds: float | None = None
    limits: Mapping[str, float] = {}
    escalation: tuple[EscalationRow, ...] = ()
    patterns: tuple[str, ...] = ()
    subject: str = ""
    source: str
    source_date: str = ""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    codes: list[dict[str, Any]]
    defaults: dict[str, Any] = {}


def parse(*texts: bytes) -> Catalogue:
    """Files of codes as one catalogue.

    Raises:
        msgspec.ValidationError, ValueError: a row is malformed or doubled; the message names row and value.
    """
    codes: dict[str, Code] = {}
    for text in texts:
        for code in rows(text):
            if code.code in codes:
                raise ValueError(f"code {code.code}: it has two rows")
            codes[code.code] = code
    return Catalogue(codes)


def rows(text: bytes) -> Iterable[Code]:
    """The codes of one file."""
    file = msgspec.yaml.decode(text, type=_File)
    for each in file.codes:
        try:
            yield _code(msgspec.convert({**file.defaults, **each}, type=_Row))
        except ValueError as error:  # also what msgspec raises
            raise ValueError(f"code {each.get('code', each)}: {error}") from error


def _code(row: _Row) -> Code:
    return Code(
        code=row.code,
        meaning=row.meaning,
        severity=Severity.from_label(row.severity),
        action=Action.from_label(row.action),
        domain=Domain.from_label(row.domain),
        family=row.family,
        clears=row.clears,
        hold_seconds=row.hold_seconds,
        clear_seconds=row.clear_seconds,
        limits=row.limits,
        escalation=tuple(escalation(each) for each in row.escalation),
        patterns=row.patterns,
        subject=row.subject,
        source=row.source,
        source_date=row.source_date,
    )


def escalation(row: EscalationRow) -> Escalation:
    """One step of an escalation, its words understood.

    Raises:
        ValueError: a word is not one of ours.
    """
    return Escalation(
        count=row.count,
        within_seconds=row.within_seconds,
        apart_seconds=row.apart_seconds,
        across_pods=row.across_pods,
        severity=Severity.from_label(row.severity),
        action=Action.from_label(row.action),
    )


@cache
def shipped() -> Catalogue:
    """The catalogue that comes with this version."""
    folder = resources.files("agent.catalogue")
    return parse(*((folder / name).read_bytes() for name in FILES))
