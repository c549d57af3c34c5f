"""The codes we know, as data: each with its meaning, severity, action and the document it comes from."""

from functools import cache
from importlib import resources
from typing import Literal

import msgspec

from contract.vocabulary import Action, Domain, Severity

Clears = Literal["good-for", "device-answers", "driver", "quiet"]


DRIVER_VERDICTS = {
    1: (Severity.FATAL, Action.RESET_DEVICE),
    2: (Severity.FATAL, Action.REBOOT_NODE),
    3: (Severity.CRITICAL, Action.RESET_DEVICE),
    4: (Severity.CRITICAL, Action.RESET_DEVICE),
}
"""What XID 154 changes to, and NVML field 230 → severity and action. Source: NVML API reference, GPU
recovery actions."""


class Code(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of finding."""

    code: str
    meaning: str
    severity: Severity
    action: Action
    domain: Domain
    clears: Clears
    hold: bool
    """Whether the value must be bad for the hold time before it counts."""
    source: str


class _CheckRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    code: str
    meaning: str
    severity: str
    action: str
    domain: str
    hold: bool
    source: str


class _XidRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    xid: int
    meaning: str
    severity: str
    action: str
    clears: Clears
    source: str


class Catalogue(msgspec.Struct, frozen=True):
    """All codes, by code."""

    codes: dict[str, Code]

    def xid(self, number: int) -> Code:
        """The judgement on one XID; an unknown number is shown, never dropped and never acted on."""
        return self.codes.get(f"xid-{number}") or Code(
            code=f"xid-{number}",
            meaning="An XID without a judgement of ours",
            severity=Severity.INFO,
            action=Action.NONE,
            domain=Domain.GPU,
            clears="quiet",
            hold=False,
            source="",
        )


def parse(checks_yaml: bytes, xid_yaml: bytes) -> Catalogue:
    """Both tables as one catalogue.

    Raises:
        msgspec.ValidationError, ValueError: a row is malformed; the message names the value.
    """
    codes = {}
    for row in msgspec.yaml.decode(checks_yaml, type=list[_CheckRow]):
        codes[row.code] = Code(
            code=row.code,
            meaning=row.meaning,
            severity=Severity.from_label(row.severity),
            action=Action.from_label(row.action),
            domain=Domain.from_label(row.domain),
            clears="good-for",
            hold=row.hold,
            source=row.source,
        )
    for xid in msgspec.yaml.decode(xid_yaml, type=list[_XidRow]):
        codes[f"xid-{xid.xid}"] = Code(
            code=f"xid-{xid.xid}",
            meaning=xid.meaning,
            severity=Severity.from_label(xid.severity),
            action=Action.from_label(xid.action),
            domain=Domain.GPU,
            clears=xid.clears,
            hold=False,
            source=xid.source,
        )
    return Catalogue(codes)


@cache
def shipped() -> Catalogue:
    """The catalogue that comes with this version."""
    folder = resources.files(__name__)
    return parse((folder / "checks.yaml").read_bytes(), (folder / "xid.yaml").read_bytes())
