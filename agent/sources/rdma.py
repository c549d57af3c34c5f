"""RDMA source: every port of every adapter, InfiniBand and RoCE alike, from sysfs."""

import errno
import os
import re
from pathlib import Path

from agent.snapshot import RdmaPort
from agent.sources import Reading, SourceAbsentError
from agent.sources.abandonable import Abandonable

READ_DEADLINE_SECONDS = 2.0

_RATE = re.compile(r"([\d.]+)\s*Gb/sec")
_DATA_WORD_BYTES = 4
"""``port_rcv_data`` and ``port_xmit_data`` count 4-byte words (IBTA specification, PortCounters)."""


class RdmaSource:
    """Reads ``<sysfs_root>/class/infiniband``.

    Eight ports cost well under a millisecond; a counter of an adapter whose firmware died can block for ever, so
    they are read where that can be abandoned. Files that answer EINVAL (restricted functions do) are not asked
    again, since each try writes a kernel-log line.
    """

    name = "rdma"

    def __init__(
        self, *, sysfs_root: str = "/sys", deadline_seconds: float = READ_DEADLINE_SECONDS
    ) -> None:
        self._root = Path(sysfs_root) / "class" / "infiniband"
        self._tree = Abandonable(
            self._read, what=f"reading {self._root}", deadline_seconds=deadline_seconds
        )
        self._refused: set[str] = set()
        self._had_adapters = False

    async def read(self) -> Reading:
        """Read now.

        Raises:
            SourceAbsentError: this machine has no RDMA adapter, and had none.
            SourceStuckError: an adapter does not answer.
        """
        return await self._tree.run()

    async def close(self) -> None:
        """Leave a pending read behind."""
        self._tree.abandon()

    def _read(self) -> Reading:
        try:
            devices = sorted(os.listdir(self._root))  # noqa: PTH208 - names, and half the cost
        except FileNotFoundError:
            devices = []
        if not devices and not self._had_adapters:
            raise SourceAbsentError(f"no RDMA adapters under {self._root}")
        self._had_adapters = True  # from now on their absence is a reading, not a missing source
        return Reading(rdma_ports=tuple(port for name in devices for port in self._ports(name)))

    def _ports(self, device: str) -> list[RdmaPort]:
        folder = f"{self._root}/{device}/ports"
        try:
            numbers = sorted(int(name) for name in os.listdir(folder) if name.isdigit())  # noqa: PTH208
        except OSError:
            return []  # the adapter went away between the two listings
        return [self._port(device, number, f"{folder}/{number}") for number in numbers]

    def _port(self, device: str, number: int, folder: str) -> RdmaPort:
        received = self._number(f"{folder}/counters/port_rcv_data")
        transmitted = self._number(f"{folder}/counters/port_xmit_data")
        return RdmaPort(
            device=device,
            port=number,
            link_layer=self._text(f"{folder}/link_layer") or "",
            state=_word(self._text(f"{folder}/state")),
            physical_state=_word(self._text(f"{folder}/phys_state")),
            rate_bits_per_second=parse_rate(self._text(f"{folder}/rate") or ""),
            link_downed_total=self._number(f"{folder}/counters/link_downed"),
            received_bytes_total=None if received is None else received * _DATA_WORD_BYTES,
            transmitted_bytes_total=None if transmitted is None else transmitted * _DATA_WORD_BYTES,
        )

    def _text(self, path: str) -> str | None:
        if path in self._refused:
            return None
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            return os.read(descriptor, 256).decode("ascii", "replace").strip()
        except OSError as error:
            if error.errno == errno.EINVAL:
                self._refused.add(path)
            return None
        finally:
            os.close(descriptor)

    def _number(self, path: str) -> int | None:
        text = self._text(path)
        return int(text) if text is not None and text.isdigit() else None


def parse_rate(text: str) -> float | None:
    """``"400 Gb/sec (4X NDR)"`` → 4e11 bits per second; ``None`` where it says none."""
    match = _RATE.match(text)
    return float(match[1]) * 1e9 if match else None


def _word(text: str | None) -> str:
    """``"4: ACTIVE"`` → ``"ACTIVE"``."""
    return "" if text is None else text.partition(": ")[2] or text
