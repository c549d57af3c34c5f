"""Mounts source: network and FUSE mounts, each asked in a thread of its own that may be left behind.

Which mounts there are stands in the mount table of process 1, so that those of pods are seen: kubelet mounts them in
the host's namespace. Where the agent sees the host's processes and may look into them (host PID namespace and
CAP_SYS_PTRACE), a mount is reached through ``/proc/1/root``; else the agent's own table and paths are used,
which hold pods' mounts only where their folder is mounted into the agent with propagation.
"""

import asyncio
import fnmatch
import math
import os
import re
from collections.abc import Iterable, Sequence

import msgspec
import structlog

from agent.snapshot import Mount
from agent.sources import Reading, SourceFailingError
from agent.sources.abandonable import Abandonable
from agent.sources.statfs import Probe, settle

log = structlog.get_logger("agent")

PROBE_DEADLINE_SECONDS = 2.0
MOUNT_SECONDS = 15.0
"""Between two looks at the table, and at each mount."""
MAX_MOUNTS = 64
MAX_OPEN = 16
"""Questions open at once: so many threads dead mounts can cost, and no more."""
MAX_STARTS = 4
"""Mounts asked in one reading, so that many are not asked at once."""

_ESCAPED = re.compile(r"\\([0-7]{3})")
_READ_ONLY = frozenset({"ro", "emergency_ro", "shutdown"})
"""Options of a file system that cannot be written to; the last two are ext4's after an error."""


class MountEntry(msgspec.Struct, frozen=True):
    """One file system of the mount table."""

    mount_point: str
    fs_type: str
    origin: str
    device: str
    """``major:minor``, the same for every mount of one file system."""
    read_only: bool


class MountsSource:
    """Asks every mount of the wanted types whether it answers.

    A file system that many pods mount is asked once. What cannot be asked because too many others hang keeps
    its last answer.

    Args:
        types: shell patterns of file-system types: ``nfs4``, ``fuse.*``.
        proc_root: the host's /proc.
        deadline_seconds: after which a mount counts as stuck.
        period_seconds: between two looks at the same mount.
    """

    name = "mounts"

    def __init__(
        self,
        *,
        types: Sequence[str],
        proc_root: str = "/proc",
        deadline_seconds: float = PROBE_DEADLINE_SECONDS,
        period_seconds: float = MOUNT_SECONDS,
    ) -> None:
        # One expression instead of one match per type: a node has a thousand mounts of no interest.
        self._types = re.compile("|".join(fnmatch.translate(each) for each in types) or "(?!)")
        self._proc_root = proc_root
        self._deadline_seconds = deadline_seconds
        self._period_seconds = period_seconds
        self._table = Abandonable(
            self._read_table, what="reading the mount table", deadline_seconds=deadline_seconds
        )
        self._table_due = float("-inf")
        self._entries: dict[str, MountEntry] = {}
        """By device."""
        self._probes: dict[str, Probe] = {}
        self._left_behind: list[Probe] = []
        """Of mounts that are gone from the table and still give no answer."""
        self.left_out = 0
        """Mounts beyond ``MAX_MOUNTS``, which nobody asks."""

    async def read(self) -> Reading:
        """Every mount with its newest answer; a mount that was not asked yet is not there.

        Raises:
            SourceFailingError: there is no mount table to read.
            SourceStuckError: the table itself gives no answer.
        """
        now = asyncio.get_running_loop().time()
        if now >= self._table_due:
            await self._look_for_mounts()
            self._table_due = now + self._period_seconds
        self._ask(now)
        await settle([*self._probes.values(), *self._left_behind])
        self._left_behind = [probe for probe in self._left_behind if probe.busy]
        return Reading(
            mounts=tuple(
                mount
                for device, entry in self._entries.items()
                if (mount := _mount(entry, self._probes[device])) is not None
            )
        )

    async def close(self) -> None:
        """Leave open questions behind."""
        for probe in (*self._probes.values(), *self._left_behind):
            probe.abandon()
        self._table.abandon()

    async def _look_for_mounts(self) -> None:
        root, entries = await self._table.run()
        kept, left_out = chosen(entries, self._entries)
        if left_out != self.left_out:
            log.warning("mounts left out", mounts=left_out, most=MAX_MOUNTS)
            self.left_out = left_out
        probes = {}
        for device, entry in kept.items():
            before = self._entries.get(device)
            same = before is not None and before.mount_point == entry.mount_point
            probes[device] = (
                self._probes.pop(device)
                if same
                else Probe(root + entry.mount_point, deadline_seconds=self._deadline_seconds)
            )
        self._left_behind += [probe for probe in self._probes.values() if probe.busy]
        self._entries, self._probes = kept, probes

    def _ask(self, now: float) -> None:
        busy = [probe for probe in self._probes.values() if probe.busy]
        room = min(MAX_STARTS, MAX_OPEN - len(busy) - len(self._left_behind))
        due = sorted(
            (
                probe
                for probe in self._probes.values()
                if not probe.busy and now - probe.started_seconds >= self._period_seconds
            ),
            key=lambda probe: probe.started_seconds,
        )
        for probe in due[: max(room, 0)]:
            probe.start(now)

    def _read_table(self) -> tuple[str, list[MountEntry]]:
        """Where the paths of the table begin, and the mounts in it."""
        root = f"{self._proc_root}/1/root"
        try:
            os.stat(f"{root}/")  # noqa: PTH116 - one call
            with open(f"{self._proc_root}/1/mountinfo", "rb") as table:  # noqa: PTH123
                content = table.read()
        except OSError:
            root = ""
            try:
                with open(f"{self._proc_root}/self/mountinfo", "rb") as table:  # noqa: PTH123
                    content = table.read()
            except OSError as error:
                raise SourceFailingError(
                    f"{self._proc_root}/self/mountinfo: {error.strerror}"
                ) from error
        return root, list(wanted_mounts(content.decode("utf-8", "surrogateescape"), self._types))


def wanted_mounts(table: str, types: re.Pattern[str]) -> Iterable[MountEntry]:
    """The mounts of the wanted types in a mount table.

    Source: proc_pid_mountinfo(5). A line that does not look like one is passed over.
    """
    for line in table.splitlines():
        head, separator, tail = line.partition(" - ")
        fs_type, _, rest = tail.partition(" ")
        if not separator or not types.match(fs_type):
            continue
        fields = head.split(" ")
        origin, _, options = rest.rpartition(" ")
        if len(fields) < 6:
            continue
        yield MountEntry(
            mount_point=_unescaped(fields[4]),
            fs_type=fs_type,
            origin=_unescaped(origin).encode("utf-8", "replace").decode(),
            device=fields[2],
            read_only=not _READ_ONLY.isdisjoint(options.split(",")),
        )


def chosen(
    entries: Iterable[MountEntry], before: dict[str, MountEntry]
) -> tuple[dict[str, MountEntry], int]:
    """One mount of each file system, and how many file systems were left out.

    The mount that was asked before stays, so that a finding keeps its subject while pods come and go; else the one with
    the shortest path speaks for all.
    """
    best: dict[str, MountEntry] = {}
    for entry in entries:
        known, asked = best.get(entry.device), before.get(entry.device)
        rank = _rank(entry, asked)
        if known is None or rank < _rank(known, asked):
            best[entry.device] = entry
    order = sorted(best, key=lambda device: (device not in before, best[device].mount_point))
    kept = {device: best[device] for device in order[:MAX_MOUNTS]}
    return kept, len(best) - len(kept)


def _rank(entry: MountEntry, asked: MountEntry | None) -> tuple[float, str]:
    if asked is not None and entry.mount_point == asked.mount_point:
        return (-math.inf, "")
    return (len(entry.mount_point), entry.mount_point)


def _mount(entry: MountEntry, probe: Probe) -> Mount | None:
    answer = probe.answer
    if answer is None:
        return None
    well = answer.state == "ok"
    return Mount(
        # What is not valid Unicode costs a `?`, never the report.
        mount_point=entry.mount_point.encode("utf-8", "replace").decode(),
        fs_type=entry.fs_type,
        origin=entry.origin,
        state="failing" if answer.state == "missing" else answer.state,
        reason=answer.reason,
        read_only=entry.read_only,
        total_bytes=answer.total_bytes if well else None,
        available_bytes=answer.available_bytes if well else None,
        total_inodes=answer.total_inodes if well else None,
        available_inodes=answer.available_inodes if well else None,
    )


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda code: chr(int(code[1], 8)), text) if "\\" in text else text
