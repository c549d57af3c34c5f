"""What each subcommand of the agent does, once its settings are known."""

import asyncio
import random
import sys
import time

import msgspec
import structlog

from agent.assembly import real_agent, remembered, simulated_agent
from agent.config import AgentSettings
from agent.http import Pages, serving
from agent.runtime import NodeAgent
from agent.snapshot import readable_snapshot
from agent.sources.replay import Scenario
from agent.state_file import StateFile
from agent.uplink import Uplink, UplinkSettings
from contract.process import run_until_signal, version

log = structlog.get_logger("agent")


async def run(settings: AgentSettings, node: str) -> int:
    """Sample, check, export and report until SIGTERM or SIGINT."""
    # Reading the state belongs to what a signal ends: as process 1 of a container, nothing else would end it.
    await run_until_signal(_started(settings, node))
    log.info("agent stopped", node=node)
    return 0


async def _started(settings: AgentSettings, node: str) -> None:
    file = StateFile(settings.state_dir) if settings.state_dir else None
    agent = real_agent(
        settings,
        node,
        random=random.random,
        restored=await remembered(file, node=node) if file else None,
        state_file=file,
        takes_directives=True,
    )
    log.info("agent starts", node=node, version=version(), aggregator=settings.aggregator or "none")
    await _working([agent], settings)


async def simulate(settings: AgentSettings, scenario: Scenario) -> int:
    """Run one agent per node of a scenario, all reporting, until SIGTERM or SIGINT."""
    start = time.time()
    agents = [
        simulated_agent(settings, scenario, name, start=start) for name in scenario.node_names()
    ]
    log.info("simulated fleet starts", nodes=len(agents), steps=len(scenario.steps))
    await run_until_signal(_working(agents, settings))
    log.info("simulated fleet stopped")
    return 0


async def _working(agents: list[NodeAgent], settings: AgentSettings) -> None:
    """Everything that runs for these agents; ends by cancellation, or when any part of it fails."""
    async with asyncio.TaskGroup() as tasks:
        for agent in agents:
            if settings.aggregator:
                agent.uplink = Uplink(
                    uplink_settings(settings, agent.node),
                    stats=agent.stats,
                    random=random.random,
                    on_directive=agent.directive,
                )
                tasks.create_task(agent.uplink.run(), name=f"uplink-{agent.node}")
            tasks.create_task(agent.run(), name=f"agent-{agent.node}")
        if settings.http_listen:
            tasks.create_task(_serve(agents, settings), name="http")


async def snapshot(settings: AgentSettings, node: str) -> int:
    """Print this machine's snapshot as JSON."""
    agent = await _sampled(settings, node, samples=2)
    print(msgspec.json.format(msgspec.json.encode(agent.readable())).decode())
    return 0


async def record(settings: AgentSettings, node: str, output: str, seconds: float) -> int:
    """Write one snapshot a tick to a file, as JSON lines, so that others can see what this machine answers."""
    agent = real_agent(settings, node, random=random.random)
    destination = (
        sys.stdout.buffer if output == "-" else await asyncio.to_thread(open, output, "wb")
    )
    count = 0
    try:
        end = time.monotonic() + seconds
        while True:
            await agent.tick()
            destination.write(msgspec.json.encode(readable_snapshot(agent.snapshot)) + b"\n")
            destination.flush()
            count += 1
            if time.monotonic() + settings.sample_seconds > end:
                break
            await asyncio.sleep(settings.sample_seconds)
    finally:
        if output != "-":
            destination.close()
        await asyncio.gather(*(source.close() for source in agent.sources))
    print(f"{count} snapshots of {node} written to {output}", file=sys.stderr)
    return 0


async def _sampled(settings: AgentSettings, node: str, *, samples: int) -> NodeAgent:
    """An agent after a few ticks: enough for rates, and for a driver that is slow to start."""
    agent = real_agent(settings, node, random=random.random)
    try:
        number = 0
        while number < samples or not agent.judging:
            if number:
                await asyncio.sleep(min(0.2, settings.sample_seconds))
            await agent.tick()
            number += 1
    finally:
        await asyncio.gather(*(source.close() for source in agent.sources))
    return agent


async def _serve(agents: list[NodeAgent], settings: AgentSettings) -> None:
    pages = Pages(agents, sample_seconds=settings.sample_seconds, clock=time.time)
    async with serving(pages, settings.http_listen) as port:
        log.info("metrics served", port=port)
        await asyncio.Event().wait()


def uplink_settings(settings: AgentSettings, node: str) -> UplinkSettings:
    """The uplink's part of the agent's settings."""
    return UplinkSettings(
        node=node,
        target=settings.aggregator,
        ca_file=settings.aggregator_ca_file,
        token_file=settings.token_file,
        report_seconds=settings.report_seconds,
        event_buffer=settings.event_buffer,
        agent_version=version(),
    )
