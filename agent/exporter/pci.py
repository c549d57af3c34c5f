"""The PCI families of the agent's page."""

from collections.abc import Sequence

from agent.snapshot import PciDevice
from contract.metrics import Page, counter, gauge, labels

PCI_LINK = gauge(
    "fleetmedic_pci_link_speed_ratio",
    "Bandwidth at which the device's PCIe link runs, as a share of what the device can; idle GPUs run theirs slower.",
)
PCI_ERRORS = counter(
    "fleetmedic_pci_errors_total",
    "Errors that PCIe Advanced Error Reporting counted on the device's link, by severity.",
)
_SEVERITIES = (
    ("correctable", "aer_correctable_total"),
    ("nonfatal", "aer_nonfatal_total"),
    ("fatal", "aer_fatal_total"),
)


def write_pci(page: Page, node: str, devices: Sequence[PciDevice]) -> None:
    """Every accelerator and adapter on this node's PCI bus."""
    page.family(
        PCI_LINK,
        [
            (labels(node=node, address=device.address), ratio)
            for device in devices
            if (ratio := _speed_ratio(device)) is not None
        ],
    )
    page.family(
        PCI_ERRORS,
        [
            (labels(node=node, address=device.address, severity=severity), total)
            for device in devices
            for severity, field in _SEVERITIES
            if (total := getattr(device, field)) is not None
        ],
    )


def _speed_ratio(device: PciDevice) -> float | None:
    speed, width = device.link_transfers_per_second, device.link_width
    fastest, widest = device.link_transfers_per_second_max, device.link_width_max
    if not speed or not width or not fastest or not widest:
        return None
    return speed * width / (fastest * widest)
