"""The fault codes of Ascend NPUs (``ascend.yaml``): eight hundred, so they are read when the first one is asked for."""

from collections.abc import Mapping
from functools import cache
from importlib import resources

import msgspec

from agent.catalogue import Code, Escalation
from contract.vocabulary import Action, Domain, Severity

FAMILIES = {
    Action.NONE: "npu-fault-note",
    Action.RESTART_WORKLOAD: "npu-fault-workload",
    Action.RESET_DEVICE: "npu-fault-reset",
    Action.RESTART_SERVICE: "npu-fault-reset",
    Action.REBOOT_NODE: "npu-fault-reset",
    Action.REPLACE_HARDWARE: "npu-fault-replace",
}
"""The runbook by what would mend the fault: an engineer handles those alike."""


class Lasting(msgspec.Struct, frozen=True, kw_only=True):
    """What a fault is once it has lasted."""

    seconds: float
    severity: Severity
    action: Action


class _Judgement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    severity: str
    action: str


class _Lasting(_Judgement, frozen=True, forbid_unknown_fields=True, kw_only=True):
    seconds: float
    codes: str = ""


class _Escalation(_Judgement, frozen=True, forbid_unknown_fields=True, kw_only=True):
    count: int
    within_seconds: float
    codes: str


class _Level(_Judgement, frozen=True, forbid_unknown_fields=True, kw_only=True):
    level: str
    meaning: str
    lasting: _Lasting | None = None
    codes: str


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    source: str
    source_date: str
    clear_seconds: float
    levels: tuple[_Level, ...]
    lasting: tuple[_Lasting, ...]
    escalations: tuple[_Escalation, ...]
    unknown: tuple[_Judgement, ...]
    meanings: Mapping[str, str]
    modules: Mapping[str, str]


class NpuCodes:
    """Judgements on the driver's fault codes, most severe list first where a code is in several.

    Args:
        text: a file like ``ascend.yaml``.

    Raises:
        msgspec.ValidationError, ValueError: it is malformed.
    """

    def __init__(self, text: bytes) -> None:
        self._file = msgspec.yaml.decode(text, type=_File)
        self._levels: dict[int, _Level] = {}
        for level in self._file.levels:
            for code in level.codes.split():
                self._levels.setdefault(int(code, 16), level)
        self._lasting = {
            int(code, 16): _lasting(row) for row in self._file.lasting for code in row.codes.split()
        }
        self._escalations: dict[int, tuple[Escalation, ...]] = {}
        for row in self._file.escalations:
            for code in row.codes.split():
                known = self._escalations.get(int(code, 16), ())
                self._escalations[int(code, 16)] = (*known, _escalation(row))
        for each in (*self._file.levels, *self._file.unknown):
            _words(each)

    def __len__(self) -> int:
        return len(self._levels)

    @property
    def numbers(self) -> frozenset[int]:
        """All that are listed."""
        return frozenset(self._levels)

    def find(self, number: int, *, severity: int | None = None) -> Code:
        """The judgement on one code.

        Args:
            number: the driver's.
            severity: how bad the driver holds it to be (0 warning … 3 critical); decides where nobody lists the code.
        """
        level = self._levels.get(number)
        name = f"{number:08x}"
        judged = level or self._file.unknown[min(max(severity or 0, 0), 3)]
        worst, action = _words(judged)
        said = (
            level.meaning if level else "nobody lists this code, so the driver's severity decides"
        )
        return Code(
            code=f"npu-{name}",
            meaning=f"{self._what(name)}; {said}.",
            severity=worst,
            action=action,
            domain=Domain.NPU,
            family=FAMILIES[action],
            clears="good-for",
            hold_seconds=0.0,
            clear_seconds=self._file.clear_seconds,
            escalation=self._escalations.get(number, ()),
            source=self._file.source,
            source_date=self._file.source_date,
        )

    def by_name(self, code: str) -> Code | None:
        """The judgement on ``npu-80e01801``; ``None`` where that is no name of a fault code."""
        prefix, _, digits = code.partition("-")
        if prefix != "npu" or not 8 <= len(digits) <= 9 or set(digits) - set("0123456789abcdef"):
            return None
        return self.find(int(digits, 16))

    def lasting(self, number: int) -> Lasting | None:
        """What becomes of it when it stays; ``None``: nothing else."""
        level = self._levels.get(number)
        own = _lasting(level.lasting) if level and level.lasting else None
        return self._lasting.get(number, own)

    def _what(self, name: str) -> str:
        meaning = self._file.meanings.get(name)
        if meaning:
            return meaning
        module = self._file.modules.get(name[:4]) or self._file.modules.get(name[:2])
        return f"Fault in the chip's {module}" if module else "Fault of the chip"


def _words(row: _Judgement) -> tuple[Severity, Action]:
    return Severity.from_label(row.severity), Action.from_label(row.action)


def _lasting(row: _Lasting) -> Lasting:
    severity, action = _words(row)
    return Lasting(seconds=row.seconds, severity=severity, action=action)


def _escalation(row: _Escalation) -> Escalation:
    severity, action = _words(row)
    return Escalation(
        count=row.count, within_seconds=row.within_seconds, severity=severity, action=action
    )


@cache
def npu_codes() -> NpuCodes:
    """The codes that come with this version; read on first use."""
    return NpuCodes((resources.files("agent.catalogue") / "ascend.yaml").read_bytes())
