"""Small fleets for tests of the scores: nodes with so much free, in a book that is settled."""

from collections.abc import Sequence
from typing import Any

from aggregator.scores.book import ScoreBook
from aggregator.scores.model import NodeFacts, judge
from aggregator.scores.terms import Newcomer, ScoreTerms
from aggregator.scores.values import WHOLE, NodeRoom, PodShape

NOW = 1_760_000_000.0
GPU = "nvidia.com/gpu"


def room(name: str, gpus: Sequence[int], **changes: Any) -> NodeRoom:
    known: dict[str, Any] = {
        "name": name,
        "resource": GPU,
        "model": "H100",
        "cpu_milli": 96_000,
        "memory_mib": 1_000_000,
        "cpu_free_milli": 96_000,
        "memory_free_mib": 1_000_000,
        "gpus": tuple(gpus),
    }
    return NodeRoom(**(known | changes))


def facts(name: str, **changes: Any) -> NodeFacts:
    known: dict[str, Any] = {"name": name, "received_seconds": NOW, "gpu_count": 8}
    return NodeFacts(**(known | changes))


def wants(count: int = 1, milli: int = WHOLE, *, workload: str = "", **changes: Any) -> Newcomer:
    shape = PodShape(gpu_count=count, gpu_milli=milli, **changes)
    return Newcomer(shape=shape, workload=workload)


def put(book: ScoreBook, known: NodeFacts, left: NodeRoom | None = None) -> None:
    """One node, as of ``NOW``."""
    book.take_health(known, judge(known, NOW, 30.0))
    book.take_room(known.name, left)


def book_of(*rooms: NodeRoom, terms: ScoreTerms | None = None) -> ScoreBook:
    """Healthy nodes with these rooms, settled at ``NOW``."""
    book = ScoreBook(terms)
    for each in rooms:
        put(book, facts(each.name), each)
    book.settle(NOW)
    return book
