"""The plots of docs/packing.md."""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import matplotlib as mpl
import numpy as np

from bench.packing.policies import PUBLISHED_PERCENT
from bench.packing.replay import Outcome
from bench.packing.serving import ServingOutcome

mpl.use("Agg")
mpl.rcParams["svg.hashsalt"] = "fleetmedic"  # else each drawing differs from the last in its ids

from matplotlib import pyplot as plt  # noqa: E402 - the backend must be chosen first
from matplotlib.axes import Axes  # noqa: E402

COLOURS = {
    "random": "#9e9e9e",
    "dotprod": "#8c6bb1",
    "clustering": "#41ab5d",
    "packing": "#2b8cbe",
    "bestfit": "#e6a000",
    "fgd": "#e34a33",
    "fleetmedic": "#1a1a1a",
}

OTHERS = "#6b6b6b"

DASHED = frozenset({"packing"})
"""Else it hides the curve of clustering."""


def draw(outcomes: Sequence[Outcome], served: Sequence[ServingOutcome], folder: Path) -> list[Path]:
    """The plots that these runs can show, as SVG files. Returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    failing = any(each.task.failing_percent for each in outcomes)
    drawn = []
    if not failing:
        drawn.append(
            _save(
                folder / "packing-allocation.svg", lambda axes: _curves(axes, outcomes, "allocated")
            )
        )
        drawn.append(
            _save(
                folder / "packing-fragmentation.svg",
                lambda axes: _curves(axes, outcomes, "fragmented"),
            )
        )
        drawn.append(_save(folder / "packing-policies.svg", lambda axes: _ranges(axes, outcomes)))
    else:
        drawn.append(_save(folder / "packing-failing.svg", lambda axes: _failing(axes, outcomes)))
    if served:
        drawn.append(_save(folder / "packing-serving.svg", lambda axes: _serving(axes, served)))
    return drawn


def _save(path: Path, paint: Callable[[Axes], None]) -> Path:
    figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
    axes.grid(visible=True, alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    paint(axes)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path


def _curves(axes: Axes, outcomes: Sequence[Outcome], what: str) -> None:
    """Mean over the seeds, against demand; the last half of the way, where policies part."""
    asked = np.arange(0.0, 100 * outcomes[0].task.demand + 0.5, 1.0)
    for policy, group in reversed(_by_policy(outcomes)):
        values = [np.interp(asked, each.asked_curve, _curve(each, what)) for each in group]
        axes.plot(
            asked,
            np.mean(values, axis=0),
            color=COLOURS.get(policy, OTHERS),
            label=policy,
            linestyle="--" if policy in DASHED else "-",
            linewidth=2.2 if policy == "fleetmedic" else 1.4,
        )
    axes.set_xlabel("GPUs asked for so far, % of the fleet")
    if what == "allocated":
        axes.set_ylabel("GPUs allocated, % of the fleet")
        axes.set_xlim(80, asked[-1])
        axes.set_ylim(76, 100)
        axes.plot(asked, np.minimum(asked, 100), color="#bbbbbb", linestyle=":", label="no loss")
    else:
        axes.set_ylabel("idle GPUs that typical pods cannot use, %")
        axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9)


def _curve(outcome: Outcome, what: str) -> Sequence[float]:
    return outcome.allocated_curve if what == "allocated" else outcome.fragmented_curve


def _ranges(axes: Axes, outcomes: Sequence[Outcome]) -> None:
    """Final allocation per policy: a dot per seed, the mean as a line with its number, the published mean as a diamond."""
    groups = _by_policy(outcomes)
    for place, (policy, group) in enumerate(groups):
        values = [each.allocated_percent for each in group]
        mean = fmean(values)
        axes.scatter(
            values, [place] * len(values), color=COLOURS.get(policy, OTHERS), s=22, alpha=0.6
        )
        axes.plot(
            [mean, mean],
            [place - 0.28, place + 0.28],
            color=COLOURS.get(policy, OTHERS),
            linewidth=2.4,
        )
        axes.text(mean, place + 0.34, f"{mean:.2f}", fontsize=8, ha="center", va="bottom")
        if policy in PUBLISHED_PERCENT:
            axes.scatter(
                PUBLISHED_PERCENT[policy],
                place - 0.3,
                marker="D",
                s=26,
                facecolors="white",
                edgecolors="black",
                zorder=3,
            )
    axes.set_yticks(range(len(groups)), [policy for policy, _ in groups])
    axes.set_ylim(-0.6, len(groups) - 0.2)
    axes.set_xlabel(
        "GPUs allocated at the end, %\n(dot: a seed, line: mean, diamond: published mean)"
    )


def _failing(axes: Axes, outcomes: Sequence[Outcome]) -> None:
    """Final allocation against the share of GPUs that fail."""
    for policy, group in reversed(_by_policy(outcomes)):
        shares = sorted({each.task.failing_percent for each in group})
        means = [
            fmean(each.allocated_percent for each in group if each.task.failing_percent == share)
            for share in shares
        ]
        axes.plot(shares, means, marker="o", color=COLOURS.get(policy, OTHERS), label=policy)
    axes.set_xticks(sorted({each.task.failing_percent for each in outcomes}))
    axes.set_xlabel("GPUs that fail during the run, %")
    axes.set_ylabel("GPUs allocated at the end, % of all")
    axes.legend(frameon=False, fontsize=9)


def _serving(axes: Axes, served: Sequence[ServingOutcome]) -> None:
    """GPUs needed per rule and size of memory, with the overloaded share of time above."""
    names = [
        "requests" if each.rule == "requests" else f"risk {each.risk_allowed:.1%}"
        for each in served
    ]
    labels = list(dict.fromkeys(names))
    memories = sorted({each.gpu_memory_gib for each in served})
    width = 0.8 / len(memories)
    for number, memory in enumerate(memories):
        for name, each in zip(names, served, strict=True):
            if each.gpu_memory_gib == memory:
                at = labels.index(name) + (number - (len(memories) - 1) / 2) * width
                axes.bar(
                    at,
                    each.gpus,
                    width * 0.95,
                    color=("#2b8cbe", "#a6bddb")[number % 2],
                    label=f"{memory} GiB" if name == labels[0] else None,
                )
                axes.text(at, each.gpus + 1, f"{each.overload_ratio:.3%}", ha="center", fontsize=8)
    axes.set_title("above each bar: share of the GPUs' time that was overloaded", fontsize=9)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlabel("placed by requests, or by measured use with the overload risk allowed")
    axes.set_ylabel(f"GPUs for {served[0].pods} serving pods")
    axes.legend(frameon=False, fontsize=9, title="GPU memory")


def _by_policy(outcomes: Sequence[Outcome]) -> list[tuple[str, list[Outcome]]]:
    groups: dict[str, list[Outcome]] = {}
    for each in outcomes:
        groups.setdefault(each.task.policy, []).append(each)
    return list(groups.items())
