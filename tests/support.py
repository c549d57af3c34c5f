"""What several tests need: waiting for something that will be so, and small builders of our own types."""

import asyncio
from collections.abc import Callable
from typing import Any

from agent.snapshot import Gpu, RdmaPort, Snapshot
from contract.vocabulary import (
    Action,
    Domain,
    Event,
    Finding,
    Severity,
    SourceState,
    SourceStatus,
)

START = 1_700_000_000.0
"""A Unix time that tests begin at; none of them reads the wall clock to judge."""


async def until(
    holds: Callable[[], Any], *, seconds: float = 10.0, what: Callable[[], Any] = lambda: ""
) -> Any:
    """The first true value of ``holds``; fails with ``what()`` when none comes in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not (value := holds()):
        assert loop.time() < deadline, f"not within {seconds:g} s: {what() or holds}"
        await asyncio.sleep(0.005)
    return value


def gpu(index: int = 0, **fields: Any) -> Gpu:
    """One GPU; ``index`` decides its bus id."""
    named = {
        "uuid": f"GPU-{index}",
        "pci_bus_id": f"0000:{0x1B + index:02x}:00.0",
        "index": index,
    }
    return Gpu(**{**named, **fields})


def port(device: str = "mlx5_0", state: str = "ACTIVE", **fields: Any) -> RdmaPort:
    """One RDMA port."""
    return RdmaPort(device=device, port=1, state=state, **fields)


def source(name: str, state: SourceState = SourceState.OK, reason: str = "") -> SourceStatus:
    """How one source is doing."""
    return SourceStatus(name=name, state=state, reason=reason)


def snapshot(at: float = 0.0, **fields: Any) -> Snapshot:
    """What a node looked like ``at`` seconds after START; its sources answer unless told otherwise."""
    sources = tuple(source(name) for name in ("nvidia", "rdma", "host"))
    return Snapshot(**{"node": "n1", "taken_seconds": START + at, "sources": sources, **fields})


def xid(number: int, at: float = 0.0, *, origin: str = "kmsg:1", gpu_index: int = 0) -> Event:
    """One XID of one GPU as a source hands it over."""
    return Event(
        id=origin,
        time_seconds=START + at,
        kind="xid",
        subject=gpu(gpu_index).subject,
        message=f"Xid {number}, pid=1",
        code=number,
        finding=f"xid-{number}",
    )


def finding(code: str = "xid-79", severity: Severity = Severity.FATAL, **fields: Any) -> Finding:
    """One finding about GPU 0."""
    given = {
        "subject": gpu().subject,
        "action": Action.REBOOT_NODE,
        "domain": Domain.GPU,
        "evidence": "as seen",
        "since_seconds": START,
        "last_seen_seconds": START,
    }
    return Finding(**{"code": code, "severity": severity, **given, **fields})
