"""An aggregator on the embedded default, this machine's agent, and a simulated fleet with faults.

The aggregator runs in this process; the two agents are separate processes, as they are on real nodes, and
speak to it over the real stream. With DEMO_SECONDS set it ends by itself.
"""

import asyncio
import math
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from aggregator.cluster.observe import ObserveEdge
from aggregator.config import AggregatorSettings
from aggregator.runtime import Aggregator
from contract.process import configure_logging, run_until_signal
from contract.settings import EXIT_BAD_SETTINGS, SettingsError

SCENARIO = Path(__file__).with_name("scenario.yaml")

QUICK = {
    "FLEETMEDIC_AGENT_HOLD_SECONDS": "2",
    "FLEETMEDIC_AGENT_CLEAR_SECONDS": "3",
}
"""Short waits, so that a fault's whole life fits into a minute; real ones are longer."""


class AgentEndedError(Exception):
    """An agent's process ended before the demo did; the message says which, and how."""


def main() -> int:
    """Run the demo until a signal comes, or for DEMO_SECONDS.

    Returns:
        0 done, 1 failed, 2 a setting cannot be used.
    """
    try:
        seconds = demo_seconds(os.environ.get("DEMO_SECONDS", ""))
        port = demo_port(os.environ.get("DEMO_PORT", ""))
    except SettingsError as error:
        print(f"demo: {error}", file=sys.stderr)
        return EXIT_BAD_SETTINGS
    configure_logging("info", "text")
    settings = AggregatorSettings(
        cluster="observe",
        http_listen=f"127.0.0.1:{port}",
        grpc_listen="127.0.0.1:0",
        degraded_hold_seconds=4.0,
        release_after_seconds=3.0,
        silent_after_seconds=15.0,
        flap_window_seconds=60.0,
    )
    aggregator = Aggregator(settings, ObserveEdge())
    failed = ""
    try:
        asyncio.run(run_until_signal(_demo(aggregator, seconds)))
    except* AgentEndedError as errors:
        failed = str(_first(errors))
    except* OSError as errors:
        failed = f"{_first(errors)}; set DEMO_PORT to use another port"
    if failed:
        print(f"demo: {failed}", file=sys.stderr)
        return 1
    print(msgspec.json.encode(summary(aggregator)).decode(), flush=True)
    return 0


def demo_seconds(text: str) -> float | None:
    """How long the demo lasts; ``None``: until a signal.

    Raises:
        SettingsError: no finite number above 0.
    """
    try:
        seconds = float(text) if text else None
    except ValueError:
        seconds = math.nan
    if seconds is not None and not 0 < seconds < math.inf:
        raise SettingsError(
            f"environment DEMO_SECONDS: {text!r} cannot be used (allowed: a finite number > 0)"
        )
    return seconds


def demo_port(text: str) -> int:
    """The page's port; 0 picks a free one.

    Raises:
        SettingsError: no port.
    """
    try:
        port = int(text) if text else 8080
    except ValueError:
        port = -1
    if not 0 <= port <= 65_535:
        raise SettingsError(
            f"environment DEMO_PORT: {text!r} cannot be used "
            "(allowed: a whole number >= 0 and <= 65535; 0 picks a free one)"
        )
    return port


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _demo(aggregator: Aggregator, seconds: float | None) -> None:
    async with asyncio.TaskGroup() as tasks:
        work = tasks.create_task(aggregator.run(), name="aggregator")
        await aggregator.started.wait()
        address = f"127.0.0.1:{aggregator.grpc_port}"
        agents = f"127.0.0.1:{free_port()}"
        real = ("run", "--http-listen", "127.0.0.1:0")
        simulated = ("simulate", "--http-listen", agents, "--log-level", "error", str(SCENARIO))
        async with _agent(real, address) as one, _agent(simulated, address) as many:
            page = f"http://localhost:{aggregator.http_port}"
            print(f"\n  fleet page  {page}   (Ctrl-C ends)")
            print(f"  metrics     {page}/metrics, and every node's by http://{agents}/targets\n")
            sys.stdout.flush()
            await _lasting({"this machine's agent": one, "the simulated fleet": many}, seconds)
        work.cancel()


async def _lasting(processes: dict[str, asyncio.subprocess.Process], seconds: float | None) -> None:
    """Wait for so long, or for ever.

    Raises:
        AgentEndedError: one of the processes ended first.
    """
    waits = {asyncio.create_task(process.wait()): name for name, process in processes.items()}
    try:
        ended, _ = await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waits:
            task.cancel()
    for task in ended:
        raise AgentEndedError(f"{waits[task]} ended early, with exit status {task.result()}")


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def _agent(
    arguments: tuple[str, ...], aggregator: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """An agent process for as long as the block lasts."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "agent",
        *arguments[:1],
        "--aggregator",
        aggregator,
        *arguments[1:],
        env={**os.environ, **QUICK},
        stdin=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(5):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def summary(aggregator: Aggregator) -> dict[str, object]:
    """The demo's last line: what was seen and done."""
    stats = aggregator.stats
    latencies = sorted(stats.detect_to_decision.raw)
    return {
        "nodes": len(aggregator.fleet),
        "gpus": sum(len(node.report.gpus) for node in aggregator.fleet),
        "reports": stats.reports_total,
        "findings": aggregator.fleet.findings_raised_total,
        "incidents_opened": stats.incidents_opened_total,
        "incidents_closed": stats.incidents_closed_total,
        "detect_to_decision_ms_p50": _percentile_ms(latencies, 0.50),
        "detect_to_decision_ms_p99": _percentile_ms(latencies, 0.99),
    }


def _percentile_ms(ascending: list[float], share: float) -> float | None:
    if not ascending:
        return None
    position = min(len(ascending) - 1, int(share * len(ascending)))
    return round(ascending[position] * 1e3, 2)


if __name__ == "__main__":
    sys.exit(main())
