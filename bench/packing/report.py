"""What the runs showed: one JSON object a line for machines, tables for people. Pure."""

from collections.abc import Sequence
from statistics import fmean, stdev

import msgspec

from bench.packing.policies import PUBLISHED_PERCENT
from bench.packing.replay import Outcome
from bench.packing.serving import ServingOutcome


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One policy: the allocated share of all GPUs in percent, its mean, and by seed."""

    policy: str
    mean: float
    seeds: dict[str, float]
    failing_percent: float | None = None
    """Of all GPUs, during the run; not there when none fails."""
    killed: float | None = None
    """Mean over the seeds of pods that ran on a GPU when it failed."""
    whole_node_percent: float | None = None
    """Of the pods that asked for eight GPUs, how many found a place when they came; not there when none asked."""


def lines(outcomes: Sequence[Outcome]) -> list[Line]:
    """One per policy and share of failing GPUs, in the order of the runs."""
    groups: dict[tuple[float, str], list[Outcome]] = {}
    for each in outcomes:
        groups.setdefault((each.task.failing_percent, each.task.policy), []).append(each)
    return [
        Line(
            policy=policy,
            mean=round(fmean(each.allocated_percent for each in group), 3),
            seeds={str(each.task.seed): round(each.allocated_percent, 3) for each in group},
            failing_percent=failing or None,
            killed=round(fmean(each.killed for each in group), 1) if failing else None,
            whole_node_percent=_whole_nodes(group),
        )
        for (failing, policy), group in groups.items()
    ]


def _whole_nodes(group: Sequence[Outcome]) -> float | None:
    asked = sum(each.whole_node_asked for each in group)
    return round(100 * sum(each.whole_node_placed for each in group) / asked, 1) if asked else None


def table(rows: Sequence[Line], *, published: bool) -> str:
    """For people. ``published``: whether the runs can be compared with the published ones."""
    text = []
    for failing in dict.fromkeys(row.failing_percent for row in rows):
        text.append(f"{failing:g} % of GPUs failing" if failing else "allocated share of all GPUs")
        text.append(
            f"{'policy':<27}{'mean':>8}{'least':>8}{'most':>8}{'spread':>8}{'8-GPU pods':>12}"
            + (f"{'killed':>9}" if failing else f"{'published':>11}{'difference':>12}")
        )
        text += [_row(row, published) for row in rows if row.failing_percent == failing]
        text.append("")
    return "\n".join(text)


def serving_table(rows: Sequence[ServingOutcome]) -> str:
    """For people."""
    heading = f"{'placed by':<14}{'risk':>7}{'memory':>9}{'pods':>6}{'GPUs':>6}"
    text = [heading + f"{'overload min':>14}{'of time':>9}{'worst GPU':>11}{'memory short':>14}"]
    for row in rows:
        risk = "" if row.rule == "requests" else f"{row.risk_allowed:.1%}"
        text.append(
            f"{row.rule:<14}{risk:>7}{row.gpu_memory_gib:>5} GiB{row.pods:>6}{row.gpus:>6}"
            f"{row.overload_minutes:>14}{row.overload_ratio:>9.3%}{row.worst_gpu_ratio:>11.2%}"
            f"{row.memory_overruns:>14}"
        )
    return "\n".join(text)


def _row(row: Line, published: bool) -> str:
    values = list(row.seeds.values())
    spread = stdev(values) if len(values) > 1 else 0.0
    text = f"{row.policy:<27}{row.mean:>8.2f}{min(values):>8.2f}{max(values):>8.2f}{spread:>8.2f}"
    whole = row.whole_node_percent
    text += f"{'-':>12}" if whole is None else f"{whole:>10.0f} %"
    if row.killed is not None:
        return text + f"{row.killed:>9.1f}"
    known = PUBLISHED_PERCENT.get(row.policy) if published else None
    if known is None:
        return text + f"{'-':>11}{'-':>12}"
    return text + f"{known:>11.2f}{row.mean - known:>+12.2f}"
