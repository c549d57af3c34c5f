"""The small words of an explanation: durations, moments, and a node's state. Pure."""

import math
from datetime import UTC, datetime

from aggregator.policy.model import ClusterNode, Incident
from contract.vocabulary import Phase


def lasting(seconds: float) -> str:
    """``90`` → ``90 s``, ``5400`` → ``1 h 30 min``."""
    if not math.isfinite(seconds):
        return "an unknown time"
    whole = max(0, round(seconds))
    if whole < 120:
        return f"{whole} s"
    if whole < 7_200:
        return f"{whole // 60} min"
    if whole < 172_800:
        minutes = whole % 3_600 // 60
        return f"{whole // 3_600} h {minutes} min" if minutes else f"{whole // 3_600} h"
    return f"{whole // 86_400} d"


def moment(seconds: float) -> str:
    """A Unix time as ``2026-11-26 06:41:07Z``; one that no calendar has, as its number."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%SZ}"
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g}"


def clock(seconds: float, now: float) -> str:
    """A moment and how far off it is: ``2026-11-26 06:41:07Z (in 4 min)``."""
    return f"{moment(seconds)} ({away(seconds, now)})"


def away(seconds: float, now: float) -> str:
    """``in 4 min``, ``4 min ago``."""
    off = seconds - now
    return f"in {lasting(off)}" if off > 0 else f"{lasting(-off)} ago"


def state_of(node: ClusterNode | None, incident: Incident | None) -> str:
    """What a node is, as the middle of a sentence: ``is quarantined by Fleetmedic``."""
    if node is None:
        return "is not listed by the cluster"
    if node.taint is not None and node.taint.effect != "PreferNoSchedule":
        also = " and cordoned" if node.unschedulable and node.cordoned_by else ""
        foreign = " and cordoned by somebody else" if node.unschedulable and not also else ""
        return f"is quarantined{also} by Fleetmedic{foreign}"
    if node.unschedulable and node.cordoned_by:
        return "is cordoned by Fleetmedic"
    if node.unschedulable:
        return "is cordoned by a person or another tool, not by Fleetmedic"
    if node.taint is not None:
        if incident is not None and incident.phase is Phase.QUARANTINED:
            return (
                "has only its bad devices quarantined by Fleetmedic, and serves on with the others"
            )
        probation = incident is not None and incident.phase is Phase.VERIFYING
        return "is on probation by Fleetmedic" if probation else "is avoided by Fleetmedic"
    return "is in service" if incident is None else "is in service and watched"
