"""``python -m bench.packing``: replay a workload on a fleet through placement policies, and compare what they can hand out."""

import argparse
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec

from bench.packing import report
from bench.packing.bound import BoundLine, bound_of, mean_of
from bench.packing.policies import POLICIES, VARIANTS
from bench.packing.replay import Outcome, Task, replay
from bench.packing.runs import progress, run_all
from bench.packing.serving import ServingOutcome, read_serving, serve
from bench.packing.trace import Trace, TraceError, read_trace

TRACES = Path(__file__).parents[2] / ".." / "shared" / "traces"
NODES = TRACES / "openb_node_list_gpu_node.csv"
PODS = TRACES / "openb_pod_list_default.csv"
DUTY = TRACES / "pod_gpu_duty_cycle_anon.csv.gz"
MEMORY = TRACES / "pod_gpu_memory_used_bytes_anon.csv.gz"

DEMAND = 1.3
MAX_SEEDS = 10_000
RISKS = (0.001, 0.01, 0.05)
GPU_MEMORIES_GIB = (80, 141)

EPILOG = """
what happens in a run:
  All pods of the file come in random order, then copies of random ones, until they ask for --demand times the fleet's GPUs.
  Each goes where the policy says, or is refused when it fits nowhere (GPUs, CPU and memory). None leaves. What counts is the
  share of all GPUs that is allocated at the end. The published figures are the mean of seeds 42-51 at 1.3.

examples:
  python -m bench.packing --seeds 42-51
  python -m bench.packing --seeds 42,43 --policy fgd --policy fleetmedic --json
  python -m bench.packing --policy fgd --policy fleetmedic --failing 1,3,5
  python -m bench.packing --bound --seeds 42-51
  python -m bench.packing --serving
  python -m bench.packing --plots docs/images

files:
  nodes  sn,cpu_milli,memory_mib,gpu,model
  pods   name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec   (gpu_spec: models that will do, parted by |; empty: any)
  Other columns are not read. The format is that of Alibaba's cluster-trace-gpu-v2023.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. 0: done; 1: the input cannot be used; 2: the command line cannot."""
    options = _parser().parse_args(arguments)
    try:
        if options.serving:
            return _serving(options)
        if options.bound:
            return _bound(options)
        return _packing(options)
    except TraceError as reason:
        print(f"bench.packing: {reason}", file=sys.stderr)
        return 1


def _packing(options: argparse.Namespace) -> int:
    trace = read_trace(options.nodes, options.pods)
    progress(
        f"{len(trace.rooms)} nodes with {trace.gpu_milli // 1000} GPUs, {len(trace.pods)} pods"
    )
    shares = [0.0, *options.failing]
    tasks = [
        Task(policy=policy, seed=seed, demand=options.demand, failing_percent=failing)
        for failing in shares
        for policy in options.policy or POLICIES
        for seed in options.seeds
    ]
    outcomes = run_all(partial(_replay, trace), tasks, _words)
    rows = report.lines(outcomes)
    if options.json:
        for row in rows:
            print(msgspec.json.encode(row).decode())
    else:
        same = options.demand == DEMAND and options.pods.name == PODS.name
        print(report.table(rows, published=same))
    if options.plots:
        from bench.packing.plots import draw  # matplotlib is wanted for this only

        measured = not options.failing and options.duty.exists() and options.memory.exists()
        served = _served(options) if measured else []
        for path in draw(outcomes, served, options.plots):
            progress(f"drawn: {path}")
    return 0


def _replay(trace: Trace, task: Task) -> Outcome:
    return replay(trace, task)


def _words(outcome: Outcome) -> str:
    task = outcome.task
    failing = f" with {task.failing_percent:g} % failing" if task.failing_percent else ""
    return f"{task.policy}, seed {task.seed}{failing}: {outcome.allocated_percent:.2f} %"


def _bound(options: argparse.Namespace) -> int:
    trace = read_trace(options.nodes, options.pods)
    for failing in options.failing or [0.0]:
        work = partial(_bound_of, trace, options.demand, failing)
        found = run_all(work, options.seeds, lambda line: f"seed {line.seed}: {line.practical} %")
        for line in (*found, mean_of(found)):
            print(msgspec.json.encode(line).decode())
    return 0


def _bound_of(trace: Trace, demand: float, failing: float, seed: int) -> BoundLine:
    return bound_of(trace, seed, demand, failing)


def _serving(options: argparse.Namespace) -> int:
    served = _served(options)
    if options.json:
        for row in served:
            print(msgspec.json.encode(row).decode())
    else:
        print(report.serving_table(served))
    return 0


def _served(options: argparse.Namespace) -> list[ServingOutcome]:
    pods = read_serving(options.duty, options.memory)
    return [
        serve(pods, risk, memory) for memory in GPU_MEMORIES_GIB for risk in (None, *options.risks)
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.packing",
        description="Replay a workload on a fleet through placement policies, "
        "and compare how much of the GPUs each can hand out.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--nodes",
        type=Path,
        default=NODES,
        metavar="CSV",
        help="the fleet (default: openb, in ../shared/traces)",
    )
    add(
        "--pods",
        type=Path,
        default=PODS,
        metavar="CSV",
        help="the workload (default: openb's default trace)",
    )
    add(
        "--seeds",
        type=seeds,
        default=seeds("42-51"),
        help="such as 42-51, or 42,43 (default: 42-51)",
    )
    add(
        "--policy",
        action="append",
        choices=[*POLICIES, *VARIANTS],
        metavar="NAME",
        help=f"one of {', '.join(POLICIES)}; again for more (default: all of these); "
        f"to see what the parts of ours do: {', '.join(VARIANTS)}",
    )
    add(
        "--demand",
        type=_positive,
        default=DEMAND,
        help="GPUs asked for, as a multiple of the fleet's (default: 1.3)",
    )
    add(
        "--failing",
        type=_percents,
        default=[],
        metavar="PERCENTS",
        help="also such as 1,3,5: as many percent of the GPUs fail during the run, each at a random time; "
        "their pods die and come again; half of those GPUs show signs before, which only fleetmedic is told",
    )
    add(
        "--bound",
        action="store_true",
        help="instead: how much any policy could hand out that cannot refuse a pod which fits, per seed and the mean, "
        "as JSON lines; the argument is at the head of bench/packing/bound.py; takes --failing too",
    )
    add(
        "--serving",
        action="store_true",
        help="instead: serving pods by measured use (needs --duty and --memory)",
    )
    add(
        "--risks",
        type=_ratios,
        default=RISKS,
        metavar="RATIOS",
        help="with --serving: allowed shares of time, such as 0.001,0.01 (default: 0.001,0.01,0.05)",
    )
    add(
        "--duty",
        type=Path,
        default=DUTY,
        metavar="CSV.GZ",
        help="with --serving: duty cycles per pod and minute",
    )
    add(
        "--memory",
        type=Path,
        default=MEMORY,
        metavar="CSV.GZ",
        help="with --serving: bytes per pod and minute",
    )
    add("--json", action="store_true", help="one JSON object a line instead of tables")
    add("--plots", type=Path, metavar="DIR", help="also draw the plots into this directory")
    return parser


def seeds(text: str) -> list[int]:
    """``42-45`` or ``42,43`` or both; each seed once, in the order given."""
    found: dict[int, None] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,18})(?:-(\d{1,18}))?\s*", part)
        if not match:
            raise argparse.ArgumentTypeError(f"{text!r}: give seeds such as 42-51 or 42,43")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < first + MAX_SEEDS:
            raise argparse.ArgumentTypeError(
                f"{text!r}: {part} is not a range of 1 to {MAX_SEEDS} seeds"
            )
        found.update(dict.fromkeys(range(first, last + 1)))
    return list(found)


def _percents(text: str) -> list[float]:
    return _floats(text, 0.0, 99.0, "percents from 0 to 99, such as 1,3,5")


def _ratios(text: str) -> list[float]:
    return _floats(text, 0.0, 1.0, "shares of time from 0 to 1, such as 0.01,0.05")


def _positive(text: str) -> float:
    [number] = _floats(text, 0.01, 10.0, "one number from 0.01 to 10, such as 1.3")[:1]
    return number


def _floats(text: str, least: float, most: float, wanted: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(least <= number <= most for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r}: give {wanted}")
    return numbers


if __name__ == "__main__":
    sys.exit(main())
