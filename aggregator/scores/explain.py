"""Why a pod goes where it goes: the candidates, what each term says of them, and what would change the order. Pure."""

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from aggregator.scores.book import ScoreBook
from aggregator.scores.model import (
    HEALTHY,
    LEAST_HEALTHY_SCORE,
    MAX_SCORE,
    Judgement,
    Verdict,
    by_use,
    grade,
    no_prize_for_silence,
)
from aggregator.scores.placed import PlacedPod
from aggregator.scores.table import Places, filling_order
from aggregator.scores.terms import Newcomer, Term, bounded, fits, free_words
from aggregator.scores.values import WHOLE, NodeRoom, PodShape

TOP = 5
"""Candidates told of, besides the node that the pod is on."""


ALIKE = 3
"""Points of 1000: nodes that are alike differ by no more, which only says which of them is filled first."""


class TermLine(msgspec.Struct, frozen=True, kw_only=True):
    """One term of one node's score."""

    name: str
    weight: float
    value: float | None
    """0..1; ``None``: it abstains."""
    share: float
    """Of the score's value, that it brings: weight · value ÷ the weights of all terms that speak."""
    words: str


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One node, as the pod would find it."""

    node: str
    place: int
    """Among all nodes, from 1; equal scores share a place."""
    score: int
    verdict: Verdict
    reason: str
    fits: bool
    """By our books."""
    free: str
    report_age_seconds: float | None
    """``None``: it never reported."""
    guessed: bool
    terms: tuple[TermLine, ...]


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """The answer about one kind of pod."""

    candidates: tuple[Candidate, ...]
    """Best first."""
    nodes: int
    """That were compared."""
    change: str
    """What would change the order."""
    unknown: tuple[str, ...]
    """What is not known, in sentences."""


def why(
    book: ScoreBook,
    pod: Newcomer,
    now: float,
    *,
    there: str = "",
    top: int = TOP,
    generic: bool = False,
) -> Why:
    """The candidates for a pod.

    Args:
        book: settled.
        pod: what asks.
        now: Unix time.
        there: the node it is on; empty: it waits. It is told of in any case.
        top: how many of the best are told of.
        generic: the pod only stands for one that cannot be told: the scores are those without a pod in hand.
    """
    table = book.table
    rows = np.flatnonzero([judged is not None for judged in table.judged])
    scores = (book.generic if generic else book.array(pod))[rows]
    scores = no_prize_for_silence(scores, table.verdicts[rows])
    well = table.verdicts[rows] == HEALTHY  # of equals the scheduler is pointed to a healthy one
    order = np.lexsort((filling_order(rows), ~well, -scores))
    chosen = order[: max(top, 2)]
    own = np.flatnonzero(rows == table.index.get(there, -1))
    chosen = np.concatenate((chosen, own[~np.isin(own, chosen)]))
    places = [int((scores > score).sum()) + 1 for score in scores[chosen]]
    ranked = zip(rows[chosen].tolist(), scores[chosen].tolist(), places, strict=True)
    lines = _lines(book, pod, rows[chosen])
    found = tuple(
        _candidate(book, pod, *each, terms, now) for each, terms in zip(ranked, lines, strict=True)
    )
    shown = tuple(each for n, each in enumerate(found) if n < top or each.node == there)
    return Why(
        candidates=shown,
        nodes=len(rows),
        change=_generic(book) if generic else _change(book, pod, found, there),
        unknown=(*_unknown(book, shown), *_not_told(pod, generic=generic)),
    )


def terms_of(book: ScoreBook, pod: Newcomer, row: int) -> tuple[TermLine, ...]:
    """Each term's part of one node's value; those that are switched off are left out."""
    [lines] = _lines(book, pod, np.array([row], dtype=np.int64))
    return lines


def _lines(book: ScoreBook, pod: Newcomer, rows: Places) -> list[tuple[TermLine, ...]]:
    """As ``terms_of``, of several nodes; the terms are asked once for all of them, since some look at the whole fleet."""
    asked = [
        (term, weight, bounded(term.values(pod, rows)).tolist())
        for term, weight in book.terms
        if weight > 0
    ]
    told = []
    for n, row in enumerate(rows.tolist()):
        total = sum(weight for _, weight, values in asked if not math.isnan(values[n]))
        told.append(
            tuple(
                _line(term, weight, values[n], total, term.words(pod, row))
                for term, weight, values in asked
            )
        )
    return told


def _line(term: Term, weight: float, value: float, total: float, words: str) -> TermLine:
    silent = math.isnan(value)
    return TermLine(
        name=term.name,
        weight=weight,
        value=None if silent else round(value, 4),
        share=0.0 if silent else round(weight * value / total, 4),
        words=words,
    )


class NodeWords(msgspec.Struct, frozen=True, kw_only=True):
    """One node's score without a pod in hand, and what its terms say of a typical pod."""

    score: int
    verdict: Verdict
    reason: str
    pod: str
    """The pod that the terms are told of, in words."""
    pod_score: int
    """What that one would find."""
    terms: tuple[TermLine, ...]


def node_words(book: ScoreBook, name: str) -> NodeWords | None:
    """The score of one node; ``None``: it has none."""
    told, row = book.scores.get(name), book.table.index.get(name)
    if told is None or row is None:
        return None
    pod = book.most_common or Newcomer(shape=PodShape(gpu_count=1, gpu_milli=WHOLE))
    return NodeWords(
        score=told.score,
        verdict=told.verdict,
        reason=told.reason,
        pod=shape_words(pod.shape),
        pod_score=int(book.array(pod)[row]),
        terms=terms_of(book, pod, row),
    )


def without(room: NodeRoom, seats: Sequence[Sequence[PlacedPod]], pod: PlacedPod) -> NodeRoom:
    """A node's room as it would be without one of its pods.

    Args:
        room: as it is.
        seats: by device, the pods on it.
        pod: the one to take away.
    """
    gpus = list(room.gpus)
    milli = pod.ask.gpu_milli if isinstance(pod.ask, PodShape) else 0
    for device, there in enumerate(seats[: len(gpus)]):
        sick = device < len(room.sick) and room.sick[device]
        if not sick and any(each.key == pod.key for each in there):
            gpus[device] = min(WHOLE, gpus[device] + milli)
    return msgspec.structs.replace(
        room,
        gpus=tuple(gpus),
        cpu_free_milli=min(room.cpu_milli, room.cpu_free_milli + pod.ask.cpu_milli),
        memory_free_mib=min(room.memory_mib, room.memory_free_mib + pod.ask.memory_mib),
    )


def shape_words(shape: PodShape) -> str:
    """What a pod asks for, in words."""
    resource = shape.resource or "GPUs of any kind"
    if not shape.gpu_count:
        return "no device"
    if shape.gpu_milli < WHOLE:
        devices = f"{shape.gpu_milli / 10:g} % of one device ({resource})"
    else:
        devices = f"{shape.gpu_count} whole device{'s' * (shape.gpu_count > 1)} ({resource})"
    models = f", only {' or '.join(shape.models)}" if shape.models else ""
    return f"{devices}{models}, {shape.cpu_milli / 1000:g} CPU, {shape.memory_mib / 1024:g} GiB"


def _candidate(
    book: ScoreBook,
    pod: Newcomer,
    row: int,
    score: int,
    place: int,
    terms: tuple[TermLine, ...],
    now: float,
) -> Candidate:
    table = book.table
    facts, judged, room = table.facts[row], table.judged[row], table.rooms[row]
    received = facts.received_seconds if facts else None
    return Candidate(
        node=table.names[row],
        place=place,
        score=score,
        verdict=judged.verdict if judged else "unknown",
        reason=judged.reason if judged else "",
        fits=fits(table, pod.shape, row),
        free=free_words(table, row),
        report_age_seconds=None if received is None else max(0.0, now - received),
        guessed=bool(room and room.guessed),
        terms=terms,
    )


def _change(book: ScoreBook, pod: Newcomer, found: Sequence[Candidate], there: str) -> str:
    """What would lift the second over the first, and the pod's own node, where that is another one."""
    if not found:
        return "there is no node to compare"
    if len(found) < 2:
        return f"nothing: {found[0].node} is the only node"
    own = next((each for each in found[2:] if each.node == there), None)
    others = [found[1], own] if own else [found[1]]
    return "; ".join(_lift(book, pod, found[0], each) for each in others)


def _lift(book: ScoreBook, pod: Newcomer, first: Candidate, other: Candidate) -> str:
    """The smallest change of one thing that would put a node before the first."""
    if first.verdict == "sick":
        return f"{other.node} is sick as well: none of these nodes is for new pods ({other.reason})"
    alike = first.score - other.score <= ALIKE and first.verdict == other.verdict
    if alike and not (first.fits or other.fits) and first.verdict == "healthy":
        return f"by our books the pod fits neither {first.node} nor {other.node}"
    if alike:
        return (
            f"{other.node} is as good as {first.node}: equals are filled one after the other, "
            f"{first.node} before {other.node}, unless the scheduler's own plugins see a difference"
        )
    if other.verdict != "healthy":
        well = _if_healthy(book, pod, book.table.index[other.node])
        if well > first.score:
            return f"{other.node} would win if it were healthy ({other.reason})"
        return f"{other.node} would not win even if it were healthy: it would score {well}"
    if not other.fits:
        return f"{other.node} would have to have room for the pod first ({other.free})"
    best = _smallest(book, pod, first, other)
    return best or f"no single term would lift {other.node} over {first.node}"


def _if_healthy(book: ScoreBook, pod: Newcomer, row: int) -> int:
    value = float(book.values(pod, np.array([row], dtype=np.int64))[0])
    facts = book.table.facts[row]
    if np.isnan(value) and facts is not None:
        return by_use(facts, Judgement("healthy", "")).score
    return grade("healthy", value)


def _smallest(book: ScoreBook, pod: Newcomer, first: Candidate, other: Candidate) -> str:
    row = book.table.index[other.node]
    rows = np.array([row], dtype=np.int64)
    gap = (first.score - other.score + 1) / (MAX_SCORE - LEAST_HEALTHY_SCORE)
    told = [
        (term, weight, float(bounded(term.values(pod, rows))[0])) for term, weight in book.terms
    ]
    speaking = [each for each in told if each[1] > 0 and not np.isnan(each[2])]
    total = sum(weight for _, weight, _ in speaking)
    wishes = []
    for term, weight, value in speaking:
        # Rounded up as it is told, so that who brings it about sees it happen.
        needed = math.ceil(round((value + gap * total / weight) * 100, 9)) / 100
        if needed <= 1.0:
            wishes.append((needed - value, term.name, value, needed, term.wish(row, needed)))
    if not wishes:
        return ""
    _, name, value, needed, wish = min(wishes)
    return f"{other.node} would win {wish} ({name}: {value:.2f} → {needed:.2f})"


def _generic(book: ScoreBook) -> str:
    if not book.most_common:
        return (
            "the pod cannot be told, and too few others were seen: nodes are ranked by health and use alone, "
            "whatever the terms say"
        )
    return (
        "the pod cannot be told: nodes are ranked by what several typical pods would find, "
        "and the terms are those of the most common one alone"
    )


def _not_told(pod: Newcomer, *, generic: bool) -> list[str]:
    return (
        [f"what the pod takes: the terms are told of {shape_words(pod.shape)}"] if generic else []
    )


def _unknown(book: ScoreBook, found: Sequence[Candidate]) -> list[str]:
    said = []
    if book.assumed:
        said.append("which pods usually come: too few were seen, so whole devices are assumed")
    if guessed := [each.node for each in found if each.guessed]:
        said.append(f"which pod holds which device on {', '.join(guessed)}: it is guessed")
    if bare := [each.node for each in found if each.free == "not known"]:
        said.append(f"what is free on {', '.join(bare)}: only health and use count there")
    if silent := [each.node for each in found if each.verdict == "unknown"]:
        said.append(f"the state of {', '.join(silent)}: it counts as in the middle")
    return said
