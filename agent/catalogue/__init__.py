"""The codes we know, as data: each with its meaning, severity, action and the document it comes from."""

from collections.abc import Mapping
from typing import Literal

import msgspec

from contract.vocabulary import Action, Domain, Severity

Clears = Literal["good-for", "quiet", "device-answers", "driver", "boot", "person"]
"""What ends a finding, beside a person's word:

``good-for``: its value was good for ``clear_seconds``; ``quiet``: no repeat for ``clear_seconds``;
``device-answers``: the device has answered cleanly for ``clear_seconds``; ``driver``: the driver takes its verdict
back, or the device was reset; ``boot``: a new boot, nothing less. A new boot ends all of them but ``person``.
"""

DRIVER_VERDICTS = {
    1: (Severity.FATAL, Action.RESET_DEVICE),
    2: (Severity.FATAL, Action.REBOOT_NODE),
    3: (Severity.CRITICAL, Action.RESET_DEVICE),
    4: (Severity.CRITICAL, Action.RESET_DEVICE),
    6: (Severity.CRITICAL, Action.RESET_DEVICE),
    7: (Severity.FATAL, Action.REBOOT_NODE),
}
"""What XID 154 changes to, and NVML field 230 → severity and action; other values are shown, never acted on. Source:
NVML API reference, GPU recovery actions; 6 (bus reset) and 7 (system reboot) as nvidia-ml-py names them."""


class Escalation(msgspec.Struct, frozen=True, kw_only=True):
    """So many within so long make it worse than one alone."""

    count: int
    within_seconds: float
    apart_seconds: float = 0.0
    """Occurrences closer together than this are one: a failure may write many lines."""
    across_pods: bool = False
    """Count the different workloads whose pods held the device, not occurrences: then it is not the workload's fault."""
    severity: Severity
    action: Action


class Code(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of finding."""

    code: str
    meaning: str
    severity: Severity
    action: Action
    domain: Domain
    family: str
    """The runbook: docs/runbooks/findings/<family>.md."""
    clears: Clears
    hold_seconds: float | None = None
    """How long the value must be bad before it counts; ``None``: as the settings say; 0: at once."""
    clear_seconds: float | None = None
    """``None``: as the settings say."""
    limits: Mapping[str, float] = {}
    """Thresholds of the check, by name, units in the names."""
    escalation: tuple[Escalation, ...] = ()
    """Mildest first."""
    patterns: tuple[str, ...] = ()
    """Regular expressions that raise it from the kernel log; named groups fill ``subject``."""
    subject: str = ""
    """What a kernel-log match is about: ``host``, ``rdma:{device}``."""
    source: str
    """The document that the judgement comes from."""
    source_date: str = ""
    """Of that document, where it has one."""


class Catalogue(msgspec.Struct, frozen=True):
    """All codes, by code."""

    codes: Mapping[str, Code]

    def find(self, code: str) -> Code:
        """The judgement on one code.

        A sub-code without a row of its own is judged as the code it belongs to (``xid-145-7`` as ``xid-145``); a code
        that nobody knows is shown, never dropped and never acted on.
        """
        known = self.codes.get(code)
        if known is not None:
            return known
        parent = self.codes.get(code.rpartition("-")[0])
        if parent is not None:
            return msgspec.structs.replace(parent, code=code)
        return _npu_fault(code) or _unknown(code)

    def over(self, code: Code) -> Code:
        """A judgement that did not come from here, as this catalogue would have it; overrides have their say."""
        return code

    def xid(self, number: int) -> Code:
        """The judgement on one XID."""
        return self.find(f"xid-{number}")


def _npu_fault(code: str) -> Code | None:
    if not code.startswith("npu-"):
        return None
    # Late: eight hundred codes are not read on machines without NPUs.
    from agent.catalogue.ascend import npu_codes

    return npu_codes().by_name(code)


def _unknown(code: str) -> Code:
    family = code.partition("-")[0]
    return Code(
        code=code,
        meaning=f"{family.upper()} code without a judgement of ours",
        severity=Severity.INFO,
        action=Action.NONE,
        domain=Domain.NPU if family == "npu" else Domain.GPU,
        family=family,
        clears="quiet",
        hold_seconds=0.0,
        source="",
    )
