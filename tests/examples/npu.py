"""The codes of ``npu.yaml``: what a node with Ascend NPUs looks like when each is seen."""

from typing import Any

from agent.snapshot import Npu, PciDevice, Snapshot
from agent.snapshot.npu import NpuNetwork, Optics
from contract.vocabulary import SourceState
from tests.support import snapshot, source

BUSES = ("c1", "01", "c2", "02", "81", "41", "82", "42")


def npu(index: int = 0, **fields: Any) -> Npu:
    """One healthy NPU; ``index`` decides its place."""
    given: dict[str, Any] = {
        "card": index,
        "chip": 0,
        "index": index,
        "physical_id": index,
        "model": "Ascend 910B3",
        "pci_bus_id": f"0000:{BUSES[index]}:00.0",
        "health": 0,
        "faults": (),
        "temperature_celsius": 51.0,
        "memory_temperature_celsius": 54.0,
        "ecc_single_bit_total": 0,
        "ecc_double_bit_total": 0,
        "isolated_pages_double_bit_total": 0,
        "network_health": 0,
    }
    return Npu(**{**given, **fields})


def shot(at: float, *npus: Npu, pci: tuple[PciDevice, ...] | None = None) -> Snapshot:
    """A node with these NPUs; the PCI bus is read where devices are given."""
    sources = [source("ascend"), *([source("pci")] if pci is not None else [])]
    return snapshot(at, sources=tuple(sources), npus=npus, pci_devices=pci or ())


def device(index: int, **fields: Any) -> PciDevice:
    """The PCI device of an NPU."""
    given = {"address": f"0000:{BUSES[index]}:00.0", "vendor": 0x19E5, "device": 0xD802}
    return PciDevice(**{**given, "class_code": 0x120000, **fields})


def optics(**fields: Any) -> Optics:
    """A module in good light."""
    given: dict[str, Any] = {
        "present": True,
        "temperature_celsius": 47.0,
        "temperature_high_celsius": 70.0,
        "receive_watts": (0.0010, 0.0011),
        "receive_low_watts": 0.0001445,
        "receive_high_watts": 0.0035481,
        "transmit_watts": (0.0014, 0.0014),
        "transmit_low_watts": 0.0002818,
        "transmit_high_watts": 0.0035481,
    }
    return Optics(**{**given, **fields})


def linked(index: int = 0, **fields: Any) -> Npu:
    """An NPU with a good network, but for what is given."""
    given: dict[str, Any] = {
        "link_up": True,
        "speed_bits_per_second": 2e11,
        "link_ups_total": 1,
        "optics": optics(),
        "counters": {"roce_rx_err_pkt_num": 0, "roce_new_pkt_rty_num": 0},
    }
    return npu(index, network=NpuNetwork(**{**given, **fields}))


def _both(before: Npu, after: Npu) -> list[Snapshot]:
    return [shot(0, before), shot(60, after)]


EXAMPLES: dict[str, list[Snapshot]] = {
    "npu-lost": [shot(0, npu(state="lost", health=None, faults=None))],
    "npu-not-ready": [shot(0, npu(state="not-ready", health=None, faults=None))],
    "npu-unresponsive": [shot(0, npu(state="unresponsive", health=None, faults=None))],
    "npu-unreadable": [shot(0, npu(state="unreadable", health=None, faults=None))],
    "npu-missing": [shot(0, npu(0), npu(1)), shot(60, npu(0))],
    "npu-not-in-driver": [shot(0, npu(0), pci=(device(0), device(1)))],
    "npu-no-driver": [
        snapshot(
            0,
            sources=(source("ascend", SourceState.ABSENT, "no library"), source("pci")),
            pci_devices=(device(0),),
        )
    ],
    "npu-health-minor": [shot(0, npu(health=1))],
    "npu-health-major": [shot(0, npu(health=2))],
    "npu-health-critical": [shot(0, npu(health=3, faults=None))],
    "npu-too-hot": [shot(0, npu(temperature_celsius=96.0))],
    "npu-ecc-double-bit": _both(npu(), npu(ecc_double_bit_total=1)),
    "npu-ecc-single-bit": _both(npu(), npu(ecc_single_bit_total=100)),
    "npu-isolated-pages": [shot(0, npu(isolated_pages_double_bit_total=64))],
    "npu-link-down": _both(linked(), linked(link_up=False)),
    "npu-link-flap": _both(linked(), linked(link_ups_total=2)),
    "npu-network": [shot(0, npu(network_health=3))],
    "npu-network-detection": [shot(0, npu(network_health=8))],
    "npu-network-unreadable": [shot(0, npu(network_reason="hccn_tool hangs"))],
    "npu-optics-missing": _both(linked(), linked(optics=Optics(present=False))),
    "npu-optics-power": [shot(0, linked(optics=optics(receive_watts=(0.001, 0.0000054))))],
    "npu-optics-too-hot": [shot(0, linked(optics=optics(temperature_celsius=73.0)))],
    "npu-roce-errors": _both(linked(), linked(counters={"roce_rx_err_pkt_num": 100})),
    "npu-roce-retries": _both(linked(), linked(counters={"roce_new_pkt_rty_num": 10_000})),
}
