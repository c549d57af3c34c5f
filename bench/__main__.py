"""``python -m bench [FIGURE …] [--agent-seconds N]``: measure, print a line each, exit 1 when an aim is missed."""

import argparse
import asyncio
import sys

from bench import (
    agent_cost,
    evictions,
    extender,
    failover,
    intake,
    kernel_log,
    quarantine_storm,
    scheduling,
    taint_latency,
)
from contract.process import configure_logging
from tests.controlplane.binaries import Unavailable

FIGURES = (
    "taint-latency",
    "quarantine-storm",
    "evictions",
    "failover",
    "intake",
    "extender",
    "scheduling",
    "kernel-log",
    "agent-cost",
)


def main() -> int:
    """Run the figures that were named, or all."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=", ".join(FIGURES))
    parser.add_argument(
        "--agent-seconds",
        type=float,
        default=60.0,
        metavar="N",
        help="how long to watch the agent; the figure in docs/performance.md took 600 (default: 60)",
    )
    arguments = parser.parse_args()
    unknown = set(arguments.figures) - set(FIGURES)
    if unknown:
        parser.error(
            f"no figure named {', '.join(sorted(unknown))}; there are {', '.join(FIGURES)}"
        )
    configure_logging("error", "text")
    wanted = arguments.figures or FIGURES
    missed = []
    for name in wanted:
        try:
            aims = asyncio.run(_run(name, arguments.agent_seconds))
        except Unavailable as reason:
            print(f"{name}: not measured: {reason}", file=sys.stderr)
            continue
        missed += [f"{name}: {aim}" for aim, met in aims.items() if not met]
    for each in missed:
        print(f"missed: {each}", file=sys.stderr)
    return 1 if missed else 0


async def _run(name: str, agent_seconds: float) -> dict[str, bool]:
    if name == "taint-latency":
        return await taint_latency.main()
    if name == "quarantine-storm":
        return await quarantine_storm.main()
    if name == "evictions":
        return await evictions.main()
    if name == "failover":
        return await failover.main()
    if name == "intake":
        return await intake.main()
    if name == "extender":
        return await extender.main()
    if name == "scheduling":
        return await scheduling.main()
    if name == "kernel-log":
        return await kernel_log.main()
    return await agent_cost.main(agent_seconds)


if __name__ == "__main__":
    sys.exit(main())
