"""What outlives a restart of the agent, as JSON. Pure.

A restart neither forges nor forgets a fault: what is kept is the book of faults, the checks' memory, how far
the kernel log was read, and which GPUs this node has; all of it belongs to one boot of the machine.
"""

from typing import Any

import msgspec

from agent.catalogue import Catalogue
from agent.checks import all as all_checks
from agent.faults import Book, Fault, Key, Verdict
from agent.faults.history import Occurrence, rung_met
from agent.snapshot import Gpu
from contract.vocabulary import Action, Severity

VERSION = 1


class StoredFault(msgspec.Struct, frozen=True, kw_only=True):
    """A fault without what the catalogue of the running version says of it."""

    code: str
    subject: str
    evidence: str
    source: str
    since_seconds: float
    last_seen_seconds: float
    raised: bool
    sightings: dict[str, int]
    said: Verdict | None = None
    is_old: bool = False
    severity: Severity
    """As it was judged; of a value that is read each tick this holds until it is read again."""
    action: Action


class StoredHistory(msgspec.Struct, frozen=True, kw_only=True):
    """How often one fault came."""

    code: str
    subject: str
    past: tuple[Occurrence, ...]


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that outlives a restart."""

    version: int = VERSION
    node: str = ""
    boot_id: str
    saved_seconds: float
    kmsg_sequence: int | None = None
    """The kernel's number of the newest record that was judged."""
    gpus: tuple[Gpu, ...] = ()
    """Who they are, nothing measured."""
    faults: tuple[StoredFault, ...] = ()
    history: tuple[StoredHistory, ...] = ()
    memory: dict[str, Any] = {}
    """Each check's own, by its name."""


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What a starting agent goes on from."""

    book: Book = Book()
    memory: all_checks.Memory = all_checks.Memory()
    kmsg_sequence: int | None = None
    gpus: tuple[Gpu, ...] = ()


def encode(
    book: Book,
    memory: all_checks.Memory,
    *,
    boot_id: str,
    kmsg_sequence: int | None,
    gpus: tuple[Gpu, ...],
    node: str = "",
) -> bytes:
    """The state as one JSON document."""
    state = State(
        node=node,
        boot_id=boot_id,
        saved_seconds=book.ticked_seconds,
        kmsg_sequence=kmsg_sequence,
        gpus=tuple(
            Gpu(
                uuid=gpu.uuid,
                pci_bus_id=gpu.pci_bus_id,
                index=gpu.index,
                model=gpu.model,
                serial=gpu.serial,
            )
            for gpu in gpus
        ),
        faults=tuple(_stored(fault) for fault in book.faults.values() if _outlives(fault)),
        history=tuple(
            StoredHistory(subject=subject, code=code, past=past)
            for (subject, code), past in book.history.items()
        ),
        memory=msgspec.to_builtins(memory),
    )
    return msgspec.json.encode(state)


def decode(
    text: bytes, catalogue: Catalogue, *, boot_id: str, now: float, node: str = ""
) -> Restored:
    """What to go on from.

    After a new boot the faults that a boot clears are over and the kernel log starts anew; what was learned of
    the node stays. A part of the memory that another version wrote in another form starts empty.

    Raises:
        msgspec.MsgspecError: it is no state of ours.
    """
    state = msgspec.json.decode(text, type=State)
    if state.version != VERSION:
        raise msgspec.ValidationError(f"version {state.version}, this agent reads {VERSION}")
    if node and state.node and state.node != node:
        raise msgspec.ValidationError(f"it is of node {state.node}, and this is {node}")
    same_boot = bool(boot_id) and state.boot_id == boot_id
    history = {(each.subject, each.code): each.past for each in state.history}
    faults: dict[Key, Fault] = {}
    for stored in state.faults:
        fault = _restored(stored, catalogue, history, now)
        if same_boot or fault.clears == "person" or fault.rung is not None:
            faults[fault.key] = fault
    return Restored(
        book=Book(
            faults=faults,
            history=history,
            cards={gpu.subject: gpu.uuid for gpu in state.gpus if gpu.uuid},
        ),
        memory=_memory(state.memory),
        kmsg_sequence=state.kmsg_sequence if same_boot else None,
        gpus=state.gpus,
    )


def _outlives(fault: Fault) -> bool:
    """A value that was bad for a moment must be bad for its whole time again: nobody looked meanwhile."""
    return fault.raised or fault.clears != "good-for"


def _stored(fault: Fault) -> StoredFault:
    return StoredFault(
        code=fault.code.code,
        subject=fault.subject,
        evidence=fault.evidence,
        source=fault.source,
        since_seconds=fault.since_seconds,
        last_seen_seconds=fault.last_seen_seconds,
        raised=fault.raised,
        sightings=dict(fault.sightings),
        said=fault.said,
        is_old=fault.is_old,
        severity=fault.code.severity,
        action=fault.code.action,
    )


def _restored(
    stored: StoredFault,
    catalogue: Catalogue,
    history: dict[Key, tuple[Occurrence, ...]],
    now: float,
) -> Fault:
    code = catalogue.find(stored.code)
    if code.clears == "good-for":
        code = msgspec.structs.replace(code, severity=stored.severity, action=stored.action)
    return Fault(
        code=code,
        subject=stored.subject,
        evidence=stored.evidence,
        source=stored.source,
        since_seconds=stored.since_seconds,
        last_seen_seconds=stored.last_seen_seconds,
        raised=stored.raised,
        sightings=stored.sightings,
        said=stored.said,
        is_old=stored.is_old,
        rung=rung_met(code, history.get((stored.subject, stored.code), ()), now),
    )


def _memory(parts: dict[str, Any]) -> all_checks.Memory:
    known: dict[str, Any] = {}
    for field in msgspec.structs.fields(all_checks.Memory):
        if field.name in parts:
            try:
                known[field.name] = msgspec.convert(parts[field.name], type=field.type)
            except msgspec.ValidationError:
                continue
    return all_checks.Memory(**known)
