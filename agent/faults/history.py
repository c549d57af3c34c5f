"""How often a fault came, from where and with whose pods: what escalation is judged by. Pure."""

import re
from collections.abc import Iterable, Mapping

import msgspec

from agent.catalogue import Code, Escalation

_GENERATED = re.compile(
    r"(?:-\d{1,5})?(?:-[a-z0-9]*\d[a-z0-9]*(?<=[a-z0-9]{8}))?"
    r"(?:-(?:(?=[a-z]*\d)[a-z0-9]{5}|[b-df-hj-np-tv-xz]{5}))?(?:-\d{1,5})?$"
)
"""Index, ReplicaSet hash, and the five characters (no vowels among their letters) that Kubernetes adds to a name."""

MAX_OCCURRENCES = 64
"""Kept per fault; beyond that the oldest that are alike are told as one."""

LONGEST_BURST_GAPS = 6
"""A failure that goes on without a pause counts again after so many times the pause that would end it."""


class Occurrence(msgspec.Struct, frozen=True, kw_only=True):
    """It happened, once or as one burst."""

    at_seconds: float
    """Unix time of the first of a burst."""
    last_seconds: float = 0.0
    """Of its last; 0: it was only one."""
    origin: str
    """``kmsg`` and ``nvml`` tell of the same fault twice: each is counted for itself."""
    count: int = 1
    pods: tuple[str, ...] = ()
    """Who held the device, ``namespace/pod``."""


def remember(
    past: tuple[Occurrence, ...], happened: Occurrence, code: Code
) -> tuple[Occurrence, ...]:
    """The history with one more occurrence, without what no rung of this code reaches back to."""
    span = max((rung.within_seconds for rung in code.escalation), default=0.0)
    gap = max(1.0, min((rung.apart_seconds for rung in code.escalation), default=0.0))
    kept = [each for each in past if happened.at_seconds - each.at_seconds < span]
    place = _newest_alike(kept, happened)
    if place is not None and _goes_on(kept[place], happened.at_seconds, gap):
        kept[place] = msgspec.structs.replace(
            kept[place],
            count=kept[place].count + happened.count,
            last_seconds=max(_end(kept[place]), happened.at_seconds),
        )
    else:
        kept.append(happened)
    return tuple(kept if len(kept) <= MAX_OCCURRENCES else _shorter(kept))


def _newest_alike(past: list[Occurrence], happened: Occurrence) -> int | None:
    """The place of the newest one of the same origin and pods."""
    for place in range(len(past) - 1, -1, -1):
        if (past[place].origin, past[place].pods) == (happened.origin, happened.pods):
            return place
    return None


def _goes_on(burst: Occurrence, at_seconds: float, gap_seconds: float) -> bool:
    """Whether this still is the same burst; one that never pauses counts again after a while."""
    since_end, since_start = at_seconds - _end(burst), at_seconds - burst.at_seconds
    return since_end < gap_seconds and since_start < LONGEST_BURST_GAPS * gap_seconds


def _shorter(past: list[Occurrence]) -> list[Occurrence]:
    """One entry less: the two oldest that are alike as one, else without the oldest."""
    for place, oldest in enumerate(past):
        for later in range(place + 1, len(past)):
            other = past[later]
            if (other.origin, other.pods) == (oldest.origin, oldest.pods):
                merged = msgspec.structs.replace(oldest, count=oldest.count + other.count)
                return [*past[:place], merged, *past[place + 1 : later], *past[later + 1 :]]
    return past[1:]


def _end(occurrence: Occurrence) -> float:
    return max(occurrence.at_seconds, occurrence.last_seconds)


def rung_met(code: Code, past: Iterable[Occurrence], now: float) -> Escalation | None:
    """The worst rung of the code's escalation that holds now."""
    occurrences = tuple(past)
    met = [rung for rung in code.escalation if _reached(rung, occurrences, now)]
    return max(met, key=lambda rung: (rung.severity, rung.action), default=None)


def _reached(rung: Escalation, past: tuple[Occurrence, ...], now: float) -> bool:
    recent = [each for each in past if now - each.at_seconds < rung.within_seconds]
    if rung.across_pods:
        return len({workload_of(pod) for each in recent for pod in each.pods}) >= rung.count
    origins = {each.origin for each in recent}
    return any(_times(rung, recent, origin) >= rung.count for origin in origins)


def workload_of(pod: str) -> str:
    """What a pod belongs to, by its name: a Job that tries again makes a new pod each time.

    >>> workload_of("team/train-x7k2p"), workload_of("team/serve-6d4cf56db6-x7k2p"), workload_of("team/mpi-worker-3")
    ('team/train', 'team/serve', 'team/mpi-worker')
    """
    return _GENERATED.sub("", pod)


def _times(rung: Escalation, recent: list[Occurrence], origin: str) -> int:
    """How often, as this rung counts; each origin for itself, for they tell of the same."""
    times = 0
    burst: Occurrence | None = None
    for each in sorted(recent, key=lambda each: each.at_seconds):
        if each.origin != origin:
            continue
        if not rung.apart_seconds:
            times += each.count
        elif burst is None or not _goes_on(burst, each.at_seconds, rung.apart_seconds):
            times, burst = times + 1, each
        else:
            burst = msgspec.structs.replace(burst, last_seconds=max(_end(burst), _end(each)))
    return times


def pruned(
    history: Mapping[tuple[str, str], tuple[Occurrence, ...]],
    spans: Mapping[tuple[str, str], float],
    now: float,
) -> dict[tuple[str, str], tuple[Occurrence, ...]]:
    """The history without what is too old for any rung.

    Args:
        history: by (subject, code).
        spans: how far back each still matters, in seconds; what is not in it does not.
        now: Unix time.
    """
    kept = {
        key: tuple(each for each in past if now - each.at_seconds < spans.get(key, 0.0))
        for key, past in history.items()
    }
    return {key: past for key, past in kept.items() if past}
