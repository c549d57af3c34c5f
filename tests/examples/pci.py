"""Snapshots that raise what ``agent/checks/pci.py`` says of settings: GPUs under switches, adapters of one model."""

from typing import Any

from agent.snapshot import Host, PciDevice, Snapshot
from agent.snapshot.pci import MELLANOX
from tests.examples.gpu import pci
from tests.support import snapshot, source


def bus(*devices: PciDevice, virtual_machine: bool | None = False) -> list[Snapshot]:
    """One look at the bus of such a machine."""
    host = Host(virtual_machine=virtual_machine)
    return [snapshot(sources=(source("host"), source("pci")), host=host, pci_devices=devices)]


def adapter(number: int, max_read_request_bytes: int | None = 4096, **fields: Any) -> PciDevice:
    """A ConnectX-7."""
    given = {"vendor": MELLANOX, "device": 0x1021, "class_code": 0x020700, "driver": "mlx5_core"}
    return PciDevice(
        address=f"0000:{0x18 + 0x10 * number:02x}:00.0",
        max_read_request_bytes=max_read_request_bytes,
        **{**given, **fields},
    )


EXAMPLES: dict[str, list[Snapshot]] = {
    "pci-acs-enabled": bus(
        pci(0, peer_traffic_redirected=True), pci(1, peer_traffic_redirected=False)
    ),
    "pci-read-request-differs": bus(adapter(0, 512), adapter(1), adapter(2)),
}
