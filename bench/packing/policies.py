"""The placement policies by name: the published ones, and ours as a cluster has it; and ours with parts of it changed."""

import random
from collections.abc import Callable, Mapping
from functools import partial

from aggregator.scores.packing import PackingTerms
from aggregator.scores.terms import ScoreTerms
from bench.packing import rivals
from bench.packing.rivals import Policy
from bench.packing.served import Served, Setting
from bench.packing.trace import Trace

Maker = Callable[[Trace, random.Random], Policy]

POLICIES: Mapping[str, Maker] = {
    "random": rivals.Random,
    "dotprod": rivals.DotProduct,
    "clustering": rivals.Clustering,
    "packing": rivals.GpuPacking,
    "bestfit": rivals.BestFit,
    "fgd": rivals.GradientDescent,
    "fleetmedic": Served,
}

SETTINGS: Mapping[str, Setting] = {
    "model-alone": Setting(
        terms=ScoreTerms(keep_whole=0),
        packing=PackingTerms(order=10),
        scale=1000,
        favours=False,
    ),
    "packing-only": Setting(terms=ScoreTerms(keep_whole=0)),
    "keep-whole-1": Setting(terms=ScoreTerms(keep_whole=1)),
    "order-10": Setting(packing=PackingTerms(order=10)),
    "order-10-gpu-pods-only": Setting(packing=PackingTerms(order=10), cpu_pods="spread"),
    "fragmentation": Setting(packing=PackingTerms(potential=0, fragmentation=1)),
    "no-favourite": Setting(favours=False),
    "scale-1000": Setting(scale=1000),
    "tightest-device": Setting(own_devices=False),
    "cpu-pods-packed": Setting(cpu_pods="packed"),
    "gpu-pods-only": Setting(cpu_pods="spread"),
    "learning": Setting(learns=True),
}

VARIANTS: Mapping[str, Maker] = {
    f"fleetmedic/{name}": partial(Served, setting=setting) for name, setting in SETTINGS.items()
}
"""Ours with one part changed, to see what the part does."""

PUBLISHED_PERCENT: Mapping[str, float] = {
    "random": 87.47,
    "dotprod": 90.85,
    "clustering": 91.88,
    "packing": 92.00,
    "bestfit": 93.08,
    "fgd": 95.39,
}
"""The mean of seeds 42-51 on the default trace at 130 % demand, from the result files of the paper's authors."""
