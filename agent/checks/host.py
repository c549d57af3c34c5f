"""Host checks: memory, limits, blocked processes, the clock, memory errors, local disks."""

from collections.abc import Iterator, Sequence

import msgspec

from agent.catalogue import Catalogue
from agent.checks import Checked, Context, Limits, Observation, host_settings
from agent.checks.window import Window
from agent.snapshot import Disk, Host, Snapshot
from agent.snapshot.host import BlockedProcess

SOURCE = "host"

_GIB = 1 << 30
_NVIDIA = "nvidia"
"""How the names of the driver's threads and tools begin."""


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of the machine."""

    corrected: dict[str, Window] = {}
    """Memory controller → its corrected errors."""
    uncorrected_total: dict[str, int] = {}
    """Memory controller → counter at the last reading."""
    writable: frozenset[str] = frozenset()
    """Disks ever seen writable: only those can have *become* read-only."""
    peermem_boot_id: str = ""
    """The boot in which nvidia_peermem was last seen loaded."""


def forget(memory: Memory, subject: str) -> Memory:
    """A person said that this is over: a disk made read-only on purpose is as it should be."""
    if subject == "host":
        memory = msgspec.structs.replace(memory, peermem_boot_id="")
    return msgspec.structs.replace(memory, writable=memory.writable - {subject})


def check(snapshot: Snapshot, memory: Memory, context: Context) -> Checked[Memory]:
    """Everything wrong with the machine itself now."""
    host = snapshot.host
    if host is None:
        return Checked(memory=memory)
    catalogue = context.catalogue
    remembered = _remembered(host, memory, snapshot, catalogue)
    had_peermem = remembered.peermem_boot_id == snapshot.boot_id != ""
    found = (
        *_memory_pressure(host, catalogue, context.limits),
        *_memory_errors(host, memory, remembered, catalogue),
        *_file_handles(host, catalogue),
        *_process_ids(host, catalogue),
        *_blocked(host, catalogue),
        *_clock(host, catalogue),
        *_disks(host, remembered, catalogue, context.limits),
        *host_settings.check(snapshot, host, had_peermem, catalogue),
    )
    return Checked(
        observations=found,
        memory=remembered,
        blind=frozenset(disk.subject for disk in host.unreadable_disks),
    )


def _remembered(host: Host, memory: Memory, snapshot: Snapshot, catalogue: Catalogue) -> Memory:
    now = snapshot.taken_seconds
    span = catalogue.codes["memory-corrected-errors-often"].limits["window_seconds"]
    return Memory(
        corrected={
            each.name: memory.corrected.get(each.name, Window()).add(
                now, each.corrected_errors_total, span_seconds=span
            )
            for each in host.memory_controllers
        },
        uncorrected_total=memory.uncorrected_total
        | {
            each.name: each.uncorrected_errors_total
            for each in host.memory_controllers
            if each.uncorrected_errors_total is not None
        },
        writable=memory.writable | {disk.subject for disk in host.disks if disk.read_only is False},
        peermem_boot_id=snapshot.boot_id if host.peermem_loaded else memory.peermem_boot_id,
    )


def _memory_pressure(host: Host, catalogue: Catalogue, limits: Limits) -> Iterator[Observation]:
    if host.memory_total_bytes and host.memory_available_bytes is not None:
        ratio = host.memory_available_bytes / host.memory_total_bytes
        if ratio < limits.memory_low_ratio:
            yield Observation(
                code=catalogue.codes["host-memory-pressure"],
                subject="host",
                evidence=f"{host.memory_available_bytes / _GIB:.1f} GiB ({ratio:.1%}) of memory available, "
                f"limit {limits.memory_low_ratio:.1%}",
                source=SOURCE,
            )


def _memory_errors(
    host: Host, before: Memory, now: Memory, catalogue: Catalogue
) -> Iterator[Observation]:
    often = catalogue.codes["memory-corrected-errors-often"]
    for each in host.memory_controllers:
        known = before.uncorrected_total.get(each.name, 0)
        if (each.uncorrected_errors_total or 0) > known:
            yield Observation(
                code=catalogue.codes["memory-uncorrected-error"],
                subject=each.subject,
                evidence=f"{each.uncorrected_errors_total} uncorrected errors since boot, were {known}",
                source=SOURCE,
                occurrence=True,
            )
        window = now.corrected[each.name]
        if window.rise >= often.limits["errors"]:
            yield Observation(
                code=often,
                subject=each.subject,
                evidence=f"{window.rise:.0f} corrected errors within {window.seconds / 60:.0f} min, "
                f"limit {often.limits['errors']:.0f} in {often.limits['window_seconds'] / 60:.0f} min",
                source=SOURCE,
            )


def _file_handles(host: Host, catalogue: Catalogue) -> Iterator[Observation]:
    used, most = host.open_files, host.open_files_max
    if used is None or not most:
        return
    exhausted, low = (
        catalogue.codes[name] for name in ("file-handles-exhausted", "file-handles-low")
    )
    soft = min(most, int(low.limits["ceiling_files"]))
    for code, limit in ((exhausted, most), (low, soft)):
        if used / limit >= code.limits["used_ratio"]:
            yield Observation(
                code=code,
                subject="host",
                evidence=f"{used} of {limit} open files ({used / limit:.0%}), "
                f"limit {code.limits['used_ratio']:.0%}",
                source=SOURCE,
            )


def _process_ids(host: Host, catalogue: Catalogue) -> Iterator[Observation]:
    if host.threads is not None and host.threads_max:
        ratio = host.threads / host.threads_max
        for name in ("process-ids-exhausted", "process-ids-low"):
            code = catalogue.codes[name]
            if ratio >= code.limits["used_ratio"]:
                yield Observation(
                    code=code,
                    subject="host",
                    evidence=f"{host.threads} of {host.threads_max} threads ({ratio:.0%}), "
                    f"limit {code.limits['used_ratio']:.0%}",
                    source=SOURCE,
                )
    zombies = catalogue.codes["zombie-processes"]
    if (host.zombie_processes or 0) >= zombies.limits["processes"]:
        yield Observation(
            code=zombies,
            subject="host",
            evidence=f"{host.zombie_processes} zombie processes, limit {zombies.limits['processes']:.0f}",
            source=SOURCE,
        )


def _blocked(host: Host, catalogue: Catalogue) -> Iterator[Observation]:
    of_driver = [each for each in host.blocked_processes if each.name.startswith(_NVIDIA)]
    others = [each for each in host.blocked_processes if not each.name.startswith(_NVIDIA)]
    for name, processes in (("nvidia-process-blocked", of_driver), ("processes-blocked", others)):
        code = catalogue.codes[name]
        long = [each for each in processes if each.seconds >= code.limits["seconds"]]
        if long:
            yield Observation(
                code=code,
                subject="host",
                evidence=f"{_in_words(long)}; limit {code.limits['seconds'] / 60:.0f} min",
                source=SOURCE,
            )


def _in_words(processes: Sequence[BlockedProcess]) -> str:
    first = ", ".join(
        f"{each.name}[{each.pid}] blocked for {each.seconds / 60:.0f} min" for each in processes[:3]
    )
    return first if len(processes) <= 3 else f"{first} and {len(processes) - 3} more"


def _clock(host: Host, catalogue: Catalogue) -> Iterator[Observation]:
    if host.clock_synchronised is False:
        yield Observation(
            code=catalogue.codes["clock-unsynchronised"],
            subject="host",
            evidence="the kernel says that its clock is not synchronised",
            source=SOURCE,
        )
    drift = catalogue.codes["clock-drift"]
    off = max(abs(host.clock_offset_seconds or 0.0), host.clock_estimated_error_seconds or 0.0)
    if off > drift.limits["seconds"]:
        yield Observation(
            code=drift,
            subject="host",
            evidence=f"the clock is off by {off:.1f} s, limit {drift.limits['seconds']:g} s",
            source=SOURCE,
        )


def _disks(
    host: Host, memory: Memory, catalogue: Catalogue, limits: Limits
) -> Iterator[Observation]:
    for unreadable in host.unreadable_disks:
        yield Observation(
            code=catalogue.codes[f"disk-{unreadable.state}"],
            subject=unreadable.subject,
            evidence=unreadable.reason,
            source=SOURCE,
        )
    for disk in host.disks:
        yield from _space(disk, catalogue, limits)
        if disk.read_only and disk.subject in memory.writable:
            yield Observation(
                code=catalogue.codes["disk-read-only"],
                subject=disk.subject,
                evidence="it was writable and is read-only",
                source=SOURCE,
            )


def _space(disk: Disk, catalogue: Catalogue, limits: Limits) -> Iterator[Observation]:
    ratio = disk.available_bytes / disk.total_bytes if disk.total_bytes else 1.0
    if ratio < limits.disk_low_ratio:
        yield Observation(
            code=catalogue.codes["disk-pressure"],
            subject=disk.subject,
            evidence=f"{disk.available_bytes / _GIB:.1f} GiB ({ratio:.1%}) available, "
            f"limit {limits.disk_low_ratio:.1%}",
            source=SOURCE,
        )
    code = catalogue.codes["inode-pressure"]
    if disk.total_inodes and disk.available_inodes is not None:
        ratio = disk.available_inodes / disk.total_inodes
        if ratio < code.limits["available_ratio"]:
            yield Observation(
                code=code,
                subject=disk.subject,
                evidence=f"{disk.available_inodes} ({ratio:.1%}) of {disk.total_inodes} inodes available, "
                f"limit {code.limits['available_ratio']:.1%}",
                source=SOURCE,
            )
