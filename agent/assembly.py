"""Puts one agent together from its settings: which sources, which clock, which uplink."""

import time
from collections.abc import Callable
from pathlib import Path

from agent.config import AgentSettings
from agent.runtime import NodeAgent
from agent.sources import Source
from agent.sources.host import HostSource
from agent.sources.kmsg import KmsgSource
from agent.sources.nvidia import NvidiaSource
from agent.sources.rdma import RdmaSource
from agent.sources.replay import ReplaySource, Scenario
from agent.stats import AgentStats


def boot_id() -> str:
    """The kernel's id of this boot; empty where there is none to read."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def real_agent(settings: AgentSettings, node: str, *, random: Callable[[], float]) -> NodeAgent:
    """The agent of the machine this process runs on."""
    stats = AgentStats()
    agent = NodeAgent(node=node, boot_id=boot_id(), settings=settings, stats=stats, clock=time.time)
    sources: list[Source] = [
        HostSource(disk_paths=[path for path in settings.disk_paths.split(",") if path])
    ]
    if settings.nvidia:
        sources.append(NvidiaSource(emit=agent.emit, clock=time.time, random=random))
    if settings.rdma:
        sources.append(RdmaSource(sysfs_root=settings.sysfs_root))
    if settings.kmsg:
        sources.append(
            KmsgSource(
                settings.kmsg,
                emit=agent.emit,
                stats=stats,
                clock=time.time,
                boot_seconds=time.time() - time.monotonic(),
            )
        )
    agent.sources = sources
    return agent


def simulated_agent(
    settings: AgentSettings, scenario: Scenario, node: str, *, start: float
) -> NodeAgent:
    """The same agent over a scenario instead of hardware."""
    agent = NodeAgent(
        node=node,
        boot_id=f"simulated-{node}",
        settings=settings,
        stats=AgentStats(),
        clock=time.time,
    )
    agent.sources = [
        ReplaySource(scenario, node, name=name, emit=agent.emit, clock=time.time, start=start)
        for name in ("host", "nvidia", "rdma", "kmsg")
    ]
    return agent
