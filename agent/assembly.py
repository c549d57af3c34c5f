"""Puts one agent together from its settings: which sources, which clock, which uplink."""

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from agent.catalogue.load import shipped
from agent.config import AgentSettings
from agent.runtime import NodeAgent
from agent.snapshot import Gpu
from agent.sources import Emit, Source
from agent.sources.ascend import AscendSource
from agent.sources.host import HostSource
from agent.sources.kmsg import KmsgSource
from agent.sources.mounts import MountsSource
from agent.sources.nvidia import NvidiaSource
from agent.sources.overrides import OverridesSource
from agent.sources.pci import PciSource
from agent.sources.pods import PodsSource
from agent.sources.rdma import RdmaSource
from agent.sources.replay import ReplaySource, Scenario
from agent.state import Restored, decode
from agent.state_file import StateFile
from agent.stats import AgentStats


def boot_id() -> str:
    """The kernel's id of this boot; empty where there is none to read."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


async def remembered(file: StateFile, *, node: str = "") -> Restored:
    """What the agent before this one knew of this node; nothing, where that cannot be read or understood."""
    content = await file.load()
    if content is None:
        return Restored()
    try:
        return decode(content, shipped(), boot_id=boot_id(), now=time.time(), node=node)
    except Exception as error:  # noqa: BLE001 - whatever a damaged disk gives back must not keep the agent down
        await file.set_aside(f"{type(error).__name__}: {str(error)[:200]}")
        return Restored()


def real_agent(
    settings: AgentSettings,
    node: str,
    *,
    random: Callable[[], float],
    restored: Restored | None = None,
    state_file: StateFile | None = None,
    takes_directives: bool = False,
) -> NodeAgent:
    """The agent of the machine this process runs on.

    Raises:
        SettingsError: it takes directives, and what it is told of them cannot be used.
    """
    restored = restored or Restored()
    stats = AgentStats()
    agent = NodeAgent(
        node=node,
        boot_id=boot_id(),
        settings=settings,
        stats=stats,
        clock=time.time,
        monotonic=time.monotonic,
        restored=restored,
        state_file=state_file,
    )
    sources = [
        *_plain_sources(settings),
        *_device_sources(settings, agent, restored, random=random, reset=takes_directives),
    ]
    if settings.kmsg:
        sources.append(_kernel_log(settings, agent, restored, stats))
    if settings.pod_resources:
        sources.append(PodsSource(socket=settings.pod_resources))
    if settings.overrides:
        agent.overrides = OverridesSource(
            settings.overrides, catalogue=shipped(), pool=settings.pool, node=node
        )
        sources.append(agent.overrides)
    agent.sources = sources
    if takes_directives and settings.directive_public_key_file:
        _equip(agent, settings)
    return agent


def _plain_sources(settings: AgentSettings) -> Iterator[Source]:
    """What every machine has."""
    yield HostSource(
        disk_paths=_listed(settings.disk_paths),
        proc_root=settings.proc_root,
        sysfs_root=settings.sysfs_root,
        host_root=settings.host_root,
    )
    yield PciSource(sysfs_root=settings.sysfs_root)
    if settings.mount_types:
        yield MountsSource(types=_listed(settings.mount_types), proc_root=settings.proc_root)


def _device_sources(
    settings: AgentSettings,
    agent: NodeAgent,
    restored: Restored,
    *,
    random: Callable[[], float],
    reset: bool,
) -> Iterator[Source]:
    """Accelerators and adapters, whether or not this machine has them."""
    if settings.nvidia:
        released = reset and bool(settings.allow_repairs)
        yield _nvidia(agent.emit, random=random, expected=restored.gpus, is_released=released)
    if settings.ascend:
        yield AscendSource(
            emit=agent.emit, clock=time.time, random=random, hccn_tool=settings.hccn_tool
        )
    if settings.rdma:
        yield RdmaSource(sysfs_root=settings.sysfs_root, exclude=_listed(settings.rdma_exclude))


def _kernel_log(
    settings: AgentSettings, agent: NodeAgent, restored: Restored, stats: AgentStats
) -> Source:
    kmsg = KmsgSource(
        settings.kmsg,
        emit=agent.emit,
        stats=stats,
        clock=time.time,
        boot_seconds=lambda: time.time() - time.monotonic(),
        resume_after=restored.kmsg_sequence,
    )
    agent.kmsg_position = lambda: kmsg.sequence
    return kmsg


def _nvidia(
    emit: Emit, *, random: Callable[[], float], expected: tuple[Gpu, ...], is_released: bool
) -> Source:
    """NVIDIA's source, which a reset needs to be let go of."""

    def make(expected: Iterable[Gpu]) -> Source:
        return NvidiaSource(emit=emit, clock=time.time, random=random, expected=expected)

    if is_released:
        from agent.repairs.release import ReleasableSource

        return ReleasableSource(make, expected=expected)
    return make(expected)


def _equip(agent: NodeAgent, settings: AgentSettings) -> None:
    """Let it take directives. What that needs is loaded here: agents without a key do not pay for it."""
    from agent.repairs.assembly import build
    from agent.repairs.release import ReleasableSource

    agent.repairs = build(
        settings,
        node=agent.node,
        boot_id=boot_id(),
        surroundings=agent,
        nvidia=next((each for each in agent.sources if isinstance(each, ReleasableSource)), None),
        stats=agent.stats,
        clock=time.time,
    )


def _listed(setting: str) -> list[str]:
    """What stands between the commas."""
    return [part.strip() for part in setting.split(",") if part.strip()]


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
