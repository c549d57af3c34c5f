"""The header line: the fleet in a few numbers."""

from collections import Counter
from collections.abc import Iterable

import msgspec

from aggregator.policy.climb import ASKS_A_PERSON
from aggregator.policy.model import Incident
from aggregator.web.deps import WebDeps
from aggregator.web.rows import Moment, NodeRow
from contract.vocabulary import Phase


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What matters first."""

    time_seconds: float
    """Our clock when this was made; pages measure every age against it."""
    version: str
    mode: str
    writes: bool
    """Whether decisions are carried out in a cluster; false in observe mode and dry runs."""
    leading: bool
    synced: bool
    nodes: int
    nodes_by_health: dict[str, int]
    quarantined: int
    reporting: int
    """Nodes whose last report is fresh."""
    newest_report_age_seconds: float | None
    oldest_report_age_seconds: float | None
    gpus: int
    gpus_faulty: int
    """With a finding of strength ``degraded`` or more."""
    gpus_held_idle: int
    """Held by a process, computing nothing."""
    gpu_utilization_ratio: float | None
    """Mean over the nodes that report it."""
    incidents_open: int
    incidents_need_human: int


def summarize(deps: WebDeps, rows: Iterable[NodeRow], moment: Moment) -> Summary:
    """Count what there is."""
    known = list(rows)
    cells = [gpu for row in known for gpu in row.gpus]
    fresh = [row for row in known if row.received_seconds is not None and row.health != "stale"]
    ages = [moment.now - each.received_seconds for each in known if each.received_seconds]
    used = [each.utilization_ratio for each in fresh if each.utilization_ratio is not None]
    mode = deps.mode()
    return Summary(
        time_seconds=moment.now,
        version=deps.version,
        mode=mode,
        writes=mode == "kubernetes",
        leading=deps.leading(),
        synced=moment.view.synced,
        nodes=len(known),
        nodes_by_health=dict(Counter(row.health for row in known)),
        quarantined=sum(row.standing == "quarantined" for row in known),
        reporting=len(fresh),
        newest_report_age_seconds=max(0.0, min(ages)) if ages else None,
        oldest_report_age_seconds=max(0.0, *ages) if ages else None,
        gpus=len(cells),
        gpus_faulty=sum(cell.health != "healthy" for cell in cells),
        gpus_held_idle=sum(cell.held_idle for cell in cells),
        gpu_utilization_ratio=round(sum(used) / len(used), 4) if used else None,
        incidents_open=len(moment.incidents),
        incidents_need_human=sum(_needs_human(each) for each in moment.incidents.values()),
    )


def _needs_human(incident: Incident) -> bool:
    """Whether it waits for somebody: to mend something, or to agree to the next step."""
    asks = ASKS_A_PERSON in incident.next_step and not incident.hold
    return incident.phase is Phase.NEEDS_HUMAN or asks
