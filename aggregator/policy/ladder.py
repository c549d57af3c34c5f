"""The ladder: which repairs a finding asks for, in which order, how often and for how long. Types only.

The data is ``ladder.yaml`` beside this file; people may replace it. What a rung does is fixed in code, when and
how often is data.
"""

from enum import StrEnum

import msgspec

from contract.vocabulary import Finding


class Rung(StrEnum):
    """One step of a repair, from least to most intrusive."""

    TAINT = "taint"
    """No new pods. Always the first; what of it is on is a matter of severity and budget, not of the ladder."""
    DRAIN_DEVICE = "drain-device"
    """Move the pods that hold the bad device, where the kubelet says which; else all of them."""
    DRAIN = "drain"
    """Cordon, and move every pod that a drain moves."""
    RESET_DEVICE = "reset-device"
    RESTART_SERVICE = "restart-service"
    REBOOT_NODE = "reboot-node"
    REPLACE = "replace"
    """Hand over to people, with all the evidence."""


DRAINS = frozenset({Rung.DRAIN_DEVICE, Rung.DRAIN})
REPAIRS = frozenset({Rung.RESET_DEVICE, Rung.RESTART_SERVICE, Rung.REBOOT_NODE})
"""Those that an agent carries out under a directive of the same name."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often, how soon again and how long one rung may be tried on one node. All times in seconds."""

    most_attempts: int = 1
    """Within the window, on one node, or one device where the rung is about a device; beyond it the ladder climbs."""
    window_seconds: float = 86_400.0
    cool_down_seconds: float = 0.0
    """Least time between the starts of two attempts on one node."""
    time_limit_seconds: float = 600.0
    """An attempt without an outcome by then is over, and never repeated."""


class Ladder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that ``ladder.yaml`` says."""

    bounds: dict[Rung, Bounds]
    by_action: dict[str, tuple[Rung, ...]]
    """The action that a finding suggests → rungs in order."""
    by_code: dict[str, tuple[Rung, ...]] = {}
    """Exceptions, by the finding's code."""

    def rungs(self, finding: Finding) -> tuple[Rung, ...]:
        """What would mend this finding, in order; of an action that the file does not name, the taint alone."""
        named = self.by_code.get(finding.code)
        return named or self.by_action.get(finding.action.label, (Rung.TAINT,))

    def bounds_of(self, rung: Rung) -> Bounds:
        """How often and how long; a rung that the file does not name is tried once."""
        return self.bounds.get(rung, Bounds())
