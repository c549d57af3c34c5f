"""RDMA source: every port of every adapter, InfiniBand and RoCE alike, from sysfs."""

import os
import re
import threading
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from agent.snapshot import RdmaNetdev, RdmaPort
from agent.snapshot.rdma import RoceAddress
from agent.sources import Reading, SourceAbsentError
from agent.sources.abandonable import Abandonable
from agent.sources.rdma_adapter import Adapter, Interface, read_adapter
from agent.sources.rdma_files import SysfsFiles
from agent.sources.rdma_gids import roce_v2_address

READ_DEADLINE_SECONDS = 2.0

SLOW_ROUNDS = 10
"""Error and traffic-quality counters of a port are read once in so many rounds, each round other ports'."""

RARE_ROUNDS = 300
"""What an adapter is, its firmware and its PCIe link, likewise."""

COUNTERS = (
    *("symbol_error", "link_error_recovery", "port_rcv_errors", "port_rcv_remote_physical_errors"),
    *("local_link_integrity_errors", "excessive_buffer_overrun_errors", "port_xmit_discards"),
    *("port_xmit_constraint_errors", "port_rcv_constraint_errors", "port_rcv_switch_relay_errors"),
    *("VL15_dropped", "port_xmit_wait", "port_rcv_packets", "port_xmit_packets"),
)
"""Files under ``counters``, beside those read every round."""

HW_COUNTERS = (
    *("local_ack_timeout_err", "packet_seq_err", "out_of_sequence", "implied_nak_seq_err"),
    *("rnr_nak_retry_err", "out_of_buffer", "rx_icrc_encapsulated", "roce_adp_retrans_to"),
    *("roce_slow_restart", "req_cqe_error", "resp_cqe_error", "req_remote_access_errors"),
    *("resp_remote_access_errors", "req_remote_invalid_request", "resp_local_length_error"),
    *("np_cnp_sent", "np_ecn_marked_roce_packets", "rp_cnp_handled", "rp_cnp_ignored"),
)
"""Files under ``hw_counters``. Left out: ``*_cqe_flush_error`` (each job that ends counts), ``lifespan`` (no
counter) and ``duplicate_request`` (says nothing alone)."""

_RATE = re.compile(r"([\d.]+)\s*Gb/sec(?:\s*\((\d+)X\s*(\w*)\))?")
_DATA_WORD_BYTES = 4
"""``port_rcv_data`` and ``port_xmit_data`` count 4-byte words (IBTA specification, PortCounters)."""


_IFF_UP = 1
"""Linux, ``net_device_flags``: an administrator has the interface up."""


class RdmaSource:
    """Reads ``<sysfs_root>/class/infiniband``.

    Eight ports cost about a millisecond of CPU a round; a counter of an adapter whose firmware died can block
    for ever, so they are read where that can be abandoned.

    Args:
        sysfs_root: of this machine.
        exclude: shell patterns of adapters (``mlx5_4``) or ports (``mlx5_4/1``) that are listed, and nothing of
            them read: to read some adapters' physical functions floods the kernel log.
        deadline_seconds: how long a reading may take.
    """

    name = "rdma"

    def __init__(
        self,
        *,
        sysfs_root: str = "/sys",
        exclude: Sequence[str] = (),
        deadline_seconds: float = READ_DEADLINE_SECONDS,
    ) -> None:
        self._sysfs_root = sysfs_root
        self._root = f"{sysfs_root}/class/infiniband"
        self._exclude = tuple(exclude)
        self._tree = Abandonable(
            self._read, what=f"reading {self._root}", deadline_seconds=deadline_seconds
        )
        self._files = SysfsFiles()
        self._reading = threading.Lock()
        self._ports: dict[str, list[_Port]] = {}
        self._round = 0
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
        # A read that hangs still uses its files: their numbers must not come to mean others.
        if self._reading.acquire(blocking=False):
            self._files.close()
            self._reading.release()

    def _read(self) -> Reading:
        with self._reading:
            names = _listed(self._root)
            if not names and not self._had_adapters:
                raise SourceAbsentError(f"no RDMA adapters under {self._root}")
            self._had_adapters = (
                True  # from now on their absence is a reading, not a missing source
            )
            for gone in self._ports.keys() - set(names):
                del self._ports[gone]
                self._files.forget(f"{self._root}/{gone}")
            self._files.next_round()
            self._round += 1
            ports = tuple(
                port for place, name in enumerate(names) for port in self._adapter(name, place)
            )
        return Reading(rdma_ports=ports)

    def _adapter(self, name: str, place: int) -> list[RdmaPort]:
        known = self._ports.get(name)
        if known is None or (self._round + place) % RARE_ROUNDS == 0:
            known = self._look(name, known or [])
        read = [port.read((self._round + place) % SLOW_ROUNDS == 0) for port in known]
        if any(port.changed for port in known):  # perhaps its interface was given to a pod
            self._files.look_again()
            known = self._look(name, known)
            read = [port.read(False) for port in known]
        return read

    def _look(self, name: str, known: "list[_Port]") -> "list[_Port]":
        folder = f"{self._root}/{name}"
        numbers = sorted(int(each) for each in _listed(f"{folder}/ports") if each.isdecimal())
        excluded = {
            number
            for number in numbers
            if any(
                fnmatchcase(name, pattern) or fnmatchcase(f"{name}/{number}", pattern)
                for pattern in self._exclude
            )
        }
        if excluded == set(numbers):
            adapter = Adapter({}, ())
        else:
            adapter = read_adapter(self._files, folder, self._sysfs_root)
        before = {port.number: port for port in known}
        ports = []
        for number in numbers:
            port = before.get(number) or _Port(self._files, folder, name, number)
            port.is_of(adapter, excluded=number in excluded)
            ports.append(port)
        if ports:
            self._ports[name] = ports
        else:  # it has none yet, or no more: look again in the next round
            self._ports.pop(name, None)
        return ports


class _Port:
    """One port, and what of it is kept between its readings."""

    def __init__(self, files: SysfsFiles, adapter: str, device: str, number: int) -> None:
        self.number = number
        self.changed = False
        """Its state is another one than at the reading before."""
        self._files = files
        self._device = device
        self._folder = f"{adapter}/ports/{number}"
        self._kept: dict[str, Any] | None = None
        self._excluded: RdmaPort | None = None
        self._adapter: dict[str, Any] = {}
        self._interfaces: tuple[Interface, ...] = ()
        self._address: RoceAddress | None = None
        self._newest: RdmaPort | None = None

    def is_of(self, adapter: Adapter, *, excluded: bool) -> None:
        """What its adapter is."""
        if excluded:
            self._excluded = RdmaPort(device=self._device, port=self.number, excluded=True)
        self._adapter = adapter.fields
        self._interfaces = tuple(each for each in adapter.interfaces if each.port == self.number)
        wanted = not excluded and not adapter.fields.get("is_virtual_function")
        ethernet = wanted and self._files.text(f"{self._folder}/link_layer") == "Ethernet"
        self._address = roce_v2_address(self._folder) if ethernet else None

    def read(self, thoroughly: bool) -> RdmaPort:
        """Read now, ``thoroughly`` or only what changes fast."""
        if self._excluded is not None:
            return self._excluded
        virtual = self._adapter.get("is_virtual_function", False)
        if virtual and self._newest is not None and not thoroughly:
            return self._newest  # it shows its parent's state, and there may be a hundred of it
        if thoroughly or self._kept is None:
            self._kept = self._seldom(virtual)
        before, self._newest = self._newest, self._often(keep_open=not virtual)
        self.changed = before is not None and before.state != self._newest.state
        return self._newest

    def _often(self, *, keep_open: bool) -> RdmaPort:
        files, folder = self._files, self._folder
        received = files.number(f"{folder}/counters/port_rcv_data", keep_open=keep_open)
        transmitted = files.number(f"{folder}/counters/port_xmit_data", keep_open=keep_open)
        state = _word(files.text(f"{folder}/state", keep_open=keep_open))
        interfaces = self._interfaces if keep_open else ()
        rate, width, speed = parse_rate(files.text(f"{folder}/rate", keep_open=keep_open) or "")
        return RdmaPort(
            device=self._device,
            port=self.number,
            state=state,
            physical_state=_word(files.text(f"{folder}/phys_state", keep_open=keep_open)),
            rate_bits_per_second=rate,
            link_width=width,
            link_speed=speed,
            link_downed_total=files.number(f"{folder}/counters/link_downed", keep_open=keep_open),
            received_bytes_total=None if received is None else received * _DATA_WORD_BYTES,
            transmitted_bytes_total=None if transmitted is None else transmitted * _DATA_WORD_BYTES,
            netdevs=tuple([self._netdev(each, state) for each in interfaces]),
            roce_v2_address=self._address,
            **(self._kept or {}),
            **self._adapter,
        )

    def _seldom(self, virtual: bool) -> dict[str, Any]:
        files, folder = self._files, self._folder
        link_layer = files.text(f"{folder}/link_layer") or ""
        kept: dict[str, Any] = {"link_layer": link_layer}
        if virtual:
            return kept
        if link_layer == "InfiniBand":
            kept["subnet_manager_lid"] = parse_hex(files.text(f"{folder}/sm_lid"))
        counted = {
            name: files.number(f"{folder}/{where}/{name}")
            for where, names in (("counters", COUNTERS), ("hw_counters", HW_COUNTERS))
            for name in names
        }
        kept["counters"] = {name: value for name, value in counted.items() if value is not None}
        return kept

    def _netdev(self, interface: Interface, port_state: str) -> RdmaNetdev:
        files, folder = self._files, interface.folder
        downs = files.number(f"{folder}/carrier_down_count", keep_open=True)
        if downs is None:  # kernels before 4.16 count losses and returns together
            changes = files.number(f"{folder}/carrier_changes", keep_open=True)
            downs = None if changes is None else changes // 2
        flags = None if port_state == "ACTIVE" else parse_hex(files.text(f"{folder}/flags"))
        return RdmaNetdev(
            name=interface.name,
            operational_state=files.text(f"{folder}/operstate", keep_open=True) or "",
            enabled=None if flags is None else bool(flags & _IFF_UP),
            carrier_downs_total=downs,
            bond_member=interface.bond_member,
        )


@lru_cache(maxsize=64)
def parse_rate(text: str) -> tuple[float | None, int | None, str]:
    """``"400 Gb/sec (4X NDR)"`` → 4e11 bits per second, 4 lanes, ``NDR``; ``None`` where it says none."""
    match = _RATE.match(text)
    if match is None:
        return None, None, ""
    return float(match[1]) * 1e9, int(match[2]) if match[2] else None, match[3] or ""


def parse_hex(text: str | None) -> int | None:
    """``"0x1f"`` → 31."""
    try:
        return int(text or "", 16)
    except ValueError:
        return None


@lru_cache(maxsize=64)
def _word(text: str | None) -> str:
    """``"4: ACTIVE"`` → ``"ACTIVE"``."""
    return "" if text is None else text.partition(": ")[2] or text


def _listed(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208 - names, and half the cost
    except OSError:
        return []
