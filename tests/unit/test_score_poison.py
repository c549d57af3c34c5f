"""What one tenant with a thousand odd pods does to the scores of all others is bounded."""

from typing import Any

import numpy as np
import pytest

from aggregator.scores.book import ScoreBook
from aggregator.scores.terms import Newcomer
from aggregator.scores.typical import TypicalPods
from aggregator.scores.values import PodShape
from aggregator.scoring import mixed
from tests.score_builders import GPU, NOW, facts, put, room, wants

NORMAL = (
    *[PodShape(gpu_count=1, gpu_milli=1000, cpu_milli=8_000, resource=GPU)] * 5,
    *[PodShape(gpu_count=8, gpu_milli=1000, cpu_milli=64_000, resource=GPU)] * 2,
    *[PodShape(gpu_count=1, gpu_milli=500, cpu_milli=4_000, resource=GPU)] * 3,
)

POISON_POINTS = 200
"""Of 1000, that a thousand odd pods of one tenant among five move a node's score for a usual pod by at most …"""

POISON_LOSS = 40
"""… and that the node chosen before is then behind the best."""


@pytest.mark.parametrize(
    "odd",
    [
        lambda n: PodShape(gpu_count=1, gpu_milli=1, resource=GPU),
        lambda n: PodShape(gpu_count=1, gpu_milli=1, cpu_milli=10**9, resource=GPU),
        lambda n: PodShape(gpu_count=1, gpu_milli=1000, cpu_milli=10**9, resource=GPU),
        lambda n: PodShape(gpu_count=1, gpu_milli=999, cpu_milli=1, resource=GPU),
        lambda n: PodShape(gpu_count=1, gpu_milli=1 + n * 7919 % 999, cpu_milli=n, resource=GPU),
        lambda n: PodShape(gpu_count=256, gpu_milli=1000, resource=GPU),
    ],
    ids=["tiny", "tiny-hog", "cpu-hog", "nearly-whole", "all-sizes", "impossible"],
)
def test_a_thousand_odd_pods_of_one_tenant_move_scores_within_a_bound(odd: Any) -> None:
    honest, poisoned = TypicalPods(), TypicalPods()
    for number in range(200):
        shape, tenant = NORMAL[number % len(NORMAL)], f"team-{number % 4}"
        honest.saw(shape, tenant, NOW)
        poisoned.saw(shape, tenant, NOW)
    for number in range(1_000):
        poisoned.saw(odd(number), "odd", NOW)
    book, rng = ScoreBook(), np.random.default_rng(7)
    names = [f"n{number}" for number in range(60)]
    for name in names:
        gpus = (
            rng.choice([0, 100, 300, 500, 700, 1000], size=8)
            if rng.random() < 0.5
            else rng.choice([0, 1000], size=8)
        )
        put(
            book,
            facts(name),
            room(name, gpus.tolist(), cpu_free_milli=int(rng.choice([2_000, 20_000, 90_000]))),
        )
    for pod in (
        wants(1, cpu_milli=2_000),
        wants(8, cpu_milli=2_000),
        wants(1, 500, cpu_milli=1_000),
        wants(1, 300),
    ):
        book.learn(mixed(honest.typical(NOW), 200))
        book.settle(NOW)
        before = settled(book, pod, names)
        book.learn(mixed(poisoned.typical(NOW), 1_200))
        after = settled(book, pod, names)
        assert np.abs(after - before).max() <= POISON_POINTS
        assert after.max() - after[before.argmax()] <= POISON_LOSS


def settled(book: ScoreBook, pod: Newcomer, names: list[str]) -> Any:
    for _ in range(10):
        book.settle(NOW)
    return book.lookup(pod, names)
