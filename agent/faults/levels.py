"""One tick → faults: held, raised and cleared by what the snapshot shows. Pure."""

from collections.abc import Collection, Iterable, Mapping

import msgspec

from agent.checks import Observation, source_is_ok
from agent.faults import Book, Fault, Key, Timing, device_of
from agent.faults.events import driver_is_content
from agent.faults.history import Occurrence, pruned, remember, rung_met
from agent.snapshot import Snapshot
from contract.vocabulary import SourceState


def advance(
    book: Book,
    snapshot: Snapshot,
    observations: Iterable[Observation],
    timing: Timing,
    resets: Iterable[str] = (),
    unjudged: Collection[str] = (),
) -> Book:
    """One tick: hold, raise and clear by what the snapshot shows.

    Args:
        book: so far.
        snapshot: what was read.
        observations: what the checks saw in it.
        timing: how long is long enough.
        resets: subjects whose counters started again since the tick before.
        unjudged: sources whose check failed: what it said before can neither go on nor end.
    """
    now = snapshot.taken_seconds
    elapsed = _elapsed(book, snapshot)
    book = _other_cards(book, snapshot)
    for subject in resets:
        book = driver_is_content(book, subject, before_seconds=book.answered.get(subject, 0.0))
    seen = {(each.subject, each.code.code): each for each in observations}
    faults = dict(book.faults)
    history = dict(book.history)
    for key, observation in seen.items():
        fault = _observed(faults.get(key), observation, now, elapsed, timing)
        if _came(faults.get(key), fault, observation):
            history[key] = remember(
                history.get(key, ()), Occurrence(at_seconds=now, origin="check"), fault.code
            )
        faults[key] = _with_rung(fault, history, now)
    told = _Told(snapshot)
    content: list[str] = []
    for key, fault in list(faults.items()):
        if key in seen or (fault.clears == "good-for" and fault.source in unjudged):
            continue
        after = _unobserved(_with_rung(fault, history, now), told, elapsed, timing)
        if after is None:
            del faults[key]
            if fault.code.code == "gpu-recovery-action":
                content.append(fault.subject)
        elif after is not fault:
            faults[key] = after
    spans = {
        key: max((rung.within_seconds for rung in fault.code.escalation), default=0.0)
        for key, fault in faults.items()
    }
    after_tick = Book(
        faults=faults,
        history=_kept(history, spans, now),
        ticked_seconds=now,
        answered={**book.answered, **dict.fromkeys(told.counted, now)},
        cards={**book.cards, **{gpu.subject: gpu.uuid for gpu in snapshot.gpus if gpu.uuid}},
    )
    for subject in content:
        after_tick = driver_is_content(after_tick, subject)
    return after_tick


def _elapsed(book: Book, snapshot: Snapshot) -> float | None:
    """Seconds since the tick before, ``None`` at the first; a wall clock that steps back took no time."""
    if not book.ticked_seconds:
        return None
    if snapshot.elapsed_seconds is not None:
        return snapshot.elapsed_seconds
    return max(0.0, snapshot.taken_seconds - book.ticked_seconds)


def _other_cards(book: Book, snapshot: Snapshot) -> Book:
    """What was known of a card that has been replaced says nothing of the new one in its place."""
    replaced = {
        gpu.subject
        for gpu in snapshot.gpus
        if gpu.uuid and book.cards.get(gpu.subject, gpu.uuid) != gpu.uuid
    }
    if not replaced:
        return book
    return msgspec.structs.replace(
        book,
        faults={k: fault for k, fault in book.faults.items() if device_of(k[0]) not in replaced},
        history={k: past for k, past in book.history.items() if device_of(k[0]) not in replaced},
    )


LONGEST_HISTORY_SECONDS = 30 * 86_400.0
"""How long the history of a fault that is over is kept: no rung may reach further back."""


def _kept(
    history: Mapping[Key, tuple[Occurrence, ...]], spans: Mapping[Key, float], now: float
) -> dict[Key, tuple[Occurrence, ...]]:
    return pruned(history, {key: spans.get(key, LONGEST_HISTORY_SECONDS) for key in history}, now)


def _or(own: float | None, usual: float) -> float:
    return usual if own is None else own


def _observed(
    known: Fault | None,
    observation: Observation,
    now: float,
    elapsed: float | None,
    timing: Timing,
) -> Fault:
    bad_seconds = 0.0 if known is None else known.bad_seconds + (elapsed or 0.0)
    hold_seconds = _or(observation.code.hold_seconds, timing.hold_seconds)
    seen_before = known.sightings.get("check", 0) if known else 0
    return Fault(
        code=observation.code,
        subject=observation.subject,
        evidence=observation.evidence,
        source=observation.source,
        since_seconds=now if known is None else known.since_seconds,
        last_seen_seconds=now,
        bad_seconds=bad_seconds,
        raised=(known is not None and known.raised) or bad_seconds >= hold_seconds,
        sightings={"check": 1 + (seen_before if observation.occurrence else 0)},
    )


def _came(known: Fault | None, fault: Fault, observation: Observation) -> bool:
    """Whether this is one more for its history: it happened again, or is raised anew."""
    if not fault.code.escalation:
        return False
    return observation.occurrence or (fault.raised and not (known and known.raised))


def _with_rung(fault: Fault, history: Mapping[Key, tuple[Occurrence, ...]], now: float) -> Fault:
    if not fault.code.escalation and fault.rung is None:
        return fault
    rung = rung_met(fault.code, history.get(fault.key, ()), now)
    return fault if rung == fault.rung else msgspec.structs.replace(fault, rung=rung)


class _Told:
    """What a snapshot tells about the end of faults."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        gpus = [gpu for gpu in snapshot.gpus if not gpu.lost and not gpu.reset_required]
        self.counted = frozenset(
            gpu.subject
            for gpu in gpus
            if gpu.energy_joules_total is not None or gpu.ecc_corrected_total is not None
        )
        self.verdict_free = frozenset(gpu.subject for gpu in gpus if gpu.recovery_action == 0)
        """GPUs of which the driver says that it asks for nothing; not saying it is no such word."""
        self.answering = frozenset(
            {gpu.subject for gpu in gpus if not gpu.recovery_action}
            | {npu.subject for npu in snapshot.npus if npu.health == 0}
            | {port.subject for port in snapshot.rdma_ports if port.state}
        )


def _unobserved(fault: Fault, told: _Told, elapsed: float | None, timing: Timing) -> Fault | None:
    """A fault that no check saw in this tick; ``None``: it is over."""
    if fault.clears == "good-for":
        if not fault.raised:
            return None  # bad for less than the hold time, or out of sight since
        if fault.source and told.snapshot.source(fault.source) is None:
            return None  # nobody asks that source any more
    if fault.source and not source_is_ok(told.snapshot, fault.source):
        return _unseen(fault, told.snapshot, timing)
    if fault.code.code == "gpu-recovery-action" and fault.subject not in told.verdict_free:
        return msgspec.structs.replace(fault, good_seconds=None)
    good_seconds = _good_seconds(fault, told, elapsed)
    long_enough = _or(fault.code.clear_seconds, timing.clear_seconds)
    if good_seconds is not None and good_seconds >= long_enough and fault.rung is None:
        return None
    if fault.raised and good_seconds == fault.good_seconds:
        return fault
    return msgspec.structs.replace(fault, good_seconds=good_seconds, raised=True)


def _unseen(fault: Fault, snapshot: Snapshot, timing: Timing) -> Fault:
    """The source that would show its end cannot be read: time in the dark is no good time."""
    waiting = not fault.raised and fault.clears == "device-answers"
    status = snapshot.source(fault.source)
    may_yet_answer = status is not None and status.state is not SourceState.ABSENT
    patient = snapshot.taken_seconds - timing.started_seconds < timing.hold_seconds
    raised = fault.raised or (waiting and not (may_yet_answer and patient))
    if raised is fault.raised and fault.good_seconds is None:
        return fault
    return msgspec.structs.replace(fault, raised=raised, good_seconds=None)


def _good_seconds(fault: Fault, told: _Told, elapsed: float | None) -> float | None:
    """How long the clearing condition holds; ``None`` while it does not, or where only an event ends it."""
    if not _is_good(fault, told):
        return None
    if fault.good_seconds is not None:
        return fault.good_seconds + (elapsed or 0.0)
    silence = max(0.0, told.snapshot.taken_seconds - fault.last_seen_seconds)
    if fault.is_old and not fault.raised:
        return silence  # a line of before the start that nobody judged yet
    if fault.clears == "quiet":
        return silence if elapsed is None else min(silence, elapsed)
    return 0.0  # of what was raised, the time in the dark is no good time


def _is_good(fault: Fault, told: _Told) -> bool:
    device = device_of(fault.subject)
    if fault.clears == "device-answers":
        return device in told.answering
    if fault.clears == "driver":
        # What came after an old line nobody saw: there the driver's own word of now decides.
        return fault.is_old and device in told.verdict_free
    return fault.clears in ("good-for", "quiet")
