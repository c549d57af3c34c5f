"""The checks over recorded inputs, and the list of what they know: no agent runs, nothing is written."""

import asyncio
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import msgspec

from agent.catalogue import Catalogue, Code
from agent.catalogue.ascend import npu_codes
from agent.checks import Limits
from agent.faults import Book, Fault, Key, Timing, findings
from agent.judge import Judge
from agent.kernel_log import Record, event_from, parse_record
from agent.snapshot import Snapshot, snapshot_from_readable
from agent.sources import Reading, Source, SourceAbsentError, SourceError
from agent.sources.pci import PciSource
from agent.sources.rdma import RdmaSource
from contract.vocabulary import (
    Event,
    Finding,
    Severity,
    SourceState,
    SourceStatus,
    readable,
)

NODE = "offline"
EVENTS_AT_ONCE = 1_000
SECONDS_AT_ONCE = 10.0
"""Of a kernel log: what a running agent might have heard in one go; alike lines further apart are no single failure."""
TIMING = Timing()


class InputError(Exception):
    """An input cannot be read; the message names it and what to do."""


async def check(
    *,
    kmsg: Path | None,
    sysfs_root: Path | None,
    recording: Path | None,
    catalogue: Catalogue,
) -> tuple[Finding, ...]:
    """Everything that these inputs show, worst first; what was raised once stays, however old it is.

    Args:
        kmsg: a kernel log, as ``dmesg`` or /dev/kmsg give it.
        sysfs_root: a sysfs tree, or a copy of one.
        recording: what ``record`` wrote.
        catalogue: how to judge.

    Raises:
        InputError: one of them cannot be read.
    """
    recorded = [*(_recorded(recording) if recording else ())]
    found = _judged(recorded, _batches(_events(kmsg)) if kmsg is not None else (), catalogue)
    if sysfs_root is not None:
        # By itself: a single look has no before and after, whatever else was recorded.
        found = _joined(found, _judged([await _tree(sysfs_root)], (), catalogue))
    return found


def _judged(
    snapshots: Sequence[Snapshot], batches: Iterable[list[Event]], catalogue: Catalogue
) -> tuple[Finding, ...]:
    """What these snapshots show, oldest first, and the kernel log beside them."""
    judge = Judge(
        catalogue=_lasting(catalogue, at_once=len(snapshots) < 2), limits=Limits(), timing=TIMING
    )
    of_npus: dict[Key, Fault] = {}
    newest = Snapshot(node=NODE, taken_seconds=0.0)
    for newest in snapshots:
        judge.hear(newest.events, newest, newest.taken_seconds)
        judge.look(newest)
        # The table of NPU faults judges for itself, and lets them end.
        of_npus |= {
            key: fault
            for key, fault in judge.book.faults.items()
            if fault.raised and fault.code.code not in catalogue.codes
        }
    for batch in batches:
        judge.hear(batch, newest, batch[-1].time_seconds)
    book = msgspec.structs.replace(judge.book, faults={**of_npus, **judge.book.faults})
    return findings(_as_usual(book, catalogue), TIMING)


def _joined(*parts: Iterable[Finding]) -> tuple[Finding, ...]:
    """All of them, worst first; of the same finding the worse word."""
    by_key: dict[tuple[str, str], Finding] = {}
    for each in (each for part in parts for each in part):
        known = by_key.get(each.key)
        if known is None or each.severity > known.severity:
            by_key[each.key] = each
    return tuple(
        sorted(by_key.values(), key=lambda each: (-each.severity, each.since_seconds, each.key))
    )


def print_findings(found: Iterable[Finding], out: TextIO, *, as_json: bool) -> int:
    """One finding a line; returns 1 where any is degraded or worse, else 0."""
    worst = Severity.INFO
    for finding in found:
        worst = max(worst, finding.severity)
        if as_json:
            line = msgspec.json.encode(readable(finding)).decode()
        else:
            line = (
                f"{finding.severity.label:9} {finding.code:28} {finding.subject:24} "
                f"{finding.action.label:17} x{finding.count}  {finding.evidence}"
            )
        print(line, file=out)
    return int(worst >= Severity.DEGRADED)


def print_catalogue(catalogue: Catalogue, out: TextIO, *, as_json: bool) -> None:
    """Every code with meaning, severity, action and source; one a line."""
    faults = npu_codes()
    of_npus = (faults.find(number) for number in sorted(faults.numbers))
    for code in (*catalogue.codes.values(), *of_npus):
        if as_json:
            print(msgspec.json.encode(_readable_code(code)).decode(), file=out)
        else:
            source = code.source + (f" ({code.source_date})" if code.source_date else "")
            print(
                f"{code.code:28} {code.severity.label:9} {code.action.label:17} "
                f"{code.meaning} [{source}]",
                file=out,
            )


def _readable_code(code: Code) -> dict[str, Any]:
    return {
        "code": code.code,
        "meaning": code.meaning,
        "severity": code.severity.label,
        "action": code.action.label,
        "domain": code.domain.label,
        "family": code.family,
        "clears": code.clears,
        "limits": dict(code.limits),
        "escalation": [
            {
                "count": rung.count,
                "within_seconds": rung.within_seconds,
                "apart_seconds": rung.apart_seconds,
                "across_pods": rung.across_pods,
                "severity": rung.severity.label,
                "action": rung.action.label,
            }
            for rung in code.escalation
        ],
        "source": code.source,
        "source_date": code.source_date,
    }


class _Lasting(Catalogue, frozen=True):
    """The same judgements with these changes, also on codes that have no row."""

    base: Catalogue
    changes: Mapping[str, Any]

    def find(self, code: str) -> Code:
        """As the catalogue's own, changed."""
        return self.codes.get(code) or msgspec.structs.replace(self.base.find(code), **self.changes)


def _lasting(catalogue: Catalogue, *, at_once: bool) -> Catalogue:
    """The same judgements, of which nothing ends by itself; from one look nothing can be held back."""
    changes: dict[str, Any] = {"clear_seconds": math.inf}
    if at_once:
        changes["hold_seconds"] = 0.0
    return _Lasting(
        {name: msgspec.structs.replace(code, **changes) for name, code in catalogue.codes.items()},
        base=catalogue,
        changes=changes,
    )


def _as_usual(book: Book, catalogue: Catalogue) -> Book:
    """The same faults, told as a running agent would."""
    faults = {}
    for key, fault in book.faults.items():
        usual = catalogue.find(fault.code.code)
        code = msgspec.structs.replace(
            fault.code, clear_seconds=usual.clear_seconds, hold_seconds=usual.hold_seconds
        )
        faults[key] = msgspec.structs.replace(fault, code=code)
    return msgspec.structs.replace(book, faults=faults)


def _events(path: Path) -> Iterator[Event]:
    """What a kernel log tells. Where only uptimes stand in it, its newest line is as old as the file."""
    try:
        written = path.stat().st_mtime
        with path.open("rb") as file:
            records = [parse_record(line) for line in file]
    except OSError as error:
        raise InputError(
            f"--kmsg {path}: {error.strerror}; give a file as dmesg or /dev/kmsg writes it"
        ) from error
    newest = max((each.uptime_seconds or 0.0 for each in records), default=0.0)
    for number, record in enumerate(records):
        event = event_from(
            record, id=f"kmsg:{number}", time_seconds=written - newest + _uptime(record, newest)
        )
        if event is not None:
            yield event


def _uptime(record: Record, newest: float) -> float:
    return newest if record.uptime_seconds is None else record.uptime_seconds


def _batches(events: Iterable[Event]) -> Iterator[list[Event]]:
    batch: list[Event] = []
    for event in events:
        if batch and (
            len(batch) == EVENTS_AT_ONCE
            or abs(event.time_seconds - batch[0].time_seconds) >= SECONDS_AT_ONCE
        ):
            yield batch
            batch = []
        batch.append(event)
    if batch:
        yield batch


def _recorded(path: Path) -> Iterator[Snapshot]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(
            f"--recording {path}: {error.strerror}; give a file that `record` wrote"
        ) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield snapshot_from_readable(msgspec.json.decode(line))
        except (msgspec.MsgspecError, ValueError) as error:
            raise InputError(
                f"--recording {path}, line {number}: {error}; each line is one snapshot of `record`"
            ) from error


async def _tree(root: Path) -> Snapshot:
    """One look at a sysfs tree."""
    if not await asyncio.to_thread((root / "class").is_dir):
        raise InputError(f"--sysfs-root {root}: it has no folder class/, so it is no sysfs tree")
    taken = (await asyncio.to_thread(root.stat)).st_mtime
    sources: tuple[Source, ...] = (
        RdmaSource(sysfs_root=str(root)),
        PciSource(sysfs_root=str(root)),
    )
    statuses, readings = [], []
    for source in sources:
        state, reason, reading = SourceState.OK, "", Reading()
        try:
            reading = await source.read()
        except SourceAbsentError as error:
            state, reason = SourceState.ABSENT, str(error)
        except SourceError as error:
            raise InputError(f"--sysfs-root {root}: {source.name}: {error}") from error
        finally:
            await source.close()
        statuses.append(SourceStatus(name=source.name, state=state, reason=reason))
        readings.append(reading)
    return Snapshot(
        node=NODE,
        taken_seconds=taken,
        sources=tuple(statuses),
        rdma_ports=tuple(port for each in readings for port in each.rdma_ports),
        pci_devices=tuple(device for each in readings for device in each.pci_devices),
    )
