"""PCI source: accelerators and adapters on the bus, whether a driver has taken them or not, from sysfs."""

import os
import re
from pathlib import Path
from typing import Any

import msgspec

from agent.snapshot import PciDevice
from agent.snapshot.pci import (
    BRIDGE_OTHER,
    DISPLAY,
    HUAWEI,
    MELLANOX,
    NETWORK,
    NVIDIA,
    PROCESSING_ACCELERATOR,
)
from agent.sources import Reading, SourceAbsentError, SourceError
from agent.sources.abandonable import Abandonable
from agent.sources.pci_config import max_read_request_bytes, redirects_peers

READ_DEADLINE_SECONDS = 2.0
REFRESH_EVERY = 10
"""Readings between two looks at the known devices; what is between is told again."""
LIST_EVERY = 30
"""Readings between two listings of the whole bus."""
CONFIGURATION_EVERY = 20
"""Listings between two looks into configuration spaces (ten minutes): only firmware and people change them."""

_SPEED = re.compile(r"([\d.]+)\s*GT/s")
_WIDEST = 32
"""Lanes; a device that no longer answers reads as 63."""


class PciSource:
    """Reads ``<sysfs_root>/bus/pci/devices``.

    Link states come from the device itself, so a dead one can block; they are read where that can be abandoned, and
    seldom, since nothing here changes from one second to the next.
    """

    name = "pci"

    def __init__(
        self, *, sysfs_root: str = "/sys", deadline_seconds: float = READ_DEADLINE_SECONDS
    ) -> None:
        self._root = Path(sysfs_root) / "bus" / "pci" / "devices"
        self._bus = Abandonable(
            self._look, what=f"reading {self._root}", deadline_seconds=deadline_seconds
        )
        self._reads = 0
        self._known: tuple[PciDevice, ...] = ()
        self._had_devices = False
        self._listings = 0
        self._configured: dict[str, dict[str, Any]] = {}
        """Address → what its configuration space said."""
        self._outcome: Reading | SourceError | None = None

    async def read(self) -> Reading:
        """Read now, or tell again what was read a moment ago.

        Raises:
            SourceAbsentError: nothing on this bus that we know of, and there was nothing.
            SourceStuckError: a device does not answer.
        """
        if self._outcome is None or self._reads % REFRESH_EVERY == 0:
            try:
                self._outcome = await self._bus.run()
            except SourceAbsentError as error:
                self._outcome = error
        self._reads += 1  # not where it is stuck: then the next reading asks again
        if isinstance(self._outcome, SourceError):
            raise type(self._outcome)(str(self._outcome))
        return self._outcome

    async def close(self) -> None:
        """Leave a pending read behind."""
        self._bus.abandon()

    def _look(self) -> Reading:
        devices = None if self._reads % LIST_EVERY == 0 else self._refreshed()
        if devices is None:
            devices = self._listed()
        self._known = devices
        self._had_devices = self._had_devices or bool(devices)
        if not self._had_devices:  # once there were some, that there are none is a reading
            raise SourceAbsentError(f"no accelerator or adapter that is known under {self._root}")
        return Reading(pci_devices=devices)

    def _refreshed(self) -> tuple[PciDevice, ...] | None:
        """The known devices as they are now; ``None``: one is gone, or there are none, so list the bus."""
        devices = []
        for known in self._known:
            folder = f"{self._root}/{known.address}"
            if not os.path.isdir(folder):  # noqa: PTH112 - half the cost
                return None
            devices.append(_changing(known, folder))
        return tuple(devices) or None

    def _listed(self) -> tuple[PciDevice, ...]:
        try:
            names = sorted(os.listdir(self._root))  # noqa: PTH208 - names, and half the cost
        except FileNotFoundError:
            return ()
        found = (_device(name, f"{self._root}/{name}") for name in names)
        devices = tuple(device for device in found if device is not None)
        if self._listings % CONFIGURATION_EVERY == 0:
            self._configured = {
                each.address: _configured(each, f"{self._root}/{each.address}") for each in devices
            }
        self._listings += 1
        return tuple(
            msgspec.structs.replace(each, **self._configured.get(each.address, {}))
            for each in devices
        )


def parse_speed(text: str) -> float | None:
    """``"32.0 GT/s PCIe"`` → 3.2e10 transfers per second; ``None`` where it says none."""
    match = _SPEED.match(text)
    return float(match[1]) * 1e9 if match else None


def parse_aer_total(text: str) -> int | None:
    """The sum line of an ``aer_dev_*`` file (``TOTAL_ERR_FATAL 3``); ``None`` where there is none."""
    for line in reversed(text.splitlines()):
        name, _, count = line.partition(" ")
        if name.startswith("TOTAL_ERR") and count.strip().isdigit():
            return int(count)
    return None


def _device(address: str, folder: str) -> PciDevice | None:
    vendor = _hex(f"{folder}/vendor")
    if vendor not in (NVIDIA, MELLANOX, HUAWEI):
        return None
    class_code = _hex(f"{folder}/class")
    if class_code is None or not _is_wanted(vendor, class_code):
        return None
    is_virtual = os.path.lexists(f"{folder}/physfn")
    if is_virtual and vendor == MELLANOX:
        return None  # there can be hundreds, and their link and errors are the adapter's
    device = PciDevice(
        address=address,
        vendor=vendor,
        device=_hex(f"{folder}/device") or 0,
        class_code=class_code,
        link_transfers_per_second_max=parse_speed(_text(f"{folder}/max_link_speed")),
        link_width_max=_lanes(f"{folder}/max_link_width"),
        is_virtual_function=is_virtual,
    )
    return _changing(device, folder)


def _configured(device: PciDevice, folder: str) -> dict[str, Any]:
    """What the configuration spaces say: an adapter's own, and that of the port above a GPU."""
    if device.vendor == MELLANOX:
        return {"max_read_request_bytes": max_read_request_bytes(f"{folder}/config")}
    if (
        device.is_gpu and device.driver == "nvidia"
    ):  # one that is given to a virtual machine needs ACS
        above = os.path.dirname(os.path.realpath(folder))  # noqa: PTH120 - half the cost
        return {"peer_traffic_redirected": redirects_peers(f"{above}/config")}
    return {}


def _is_wanted(vendor: int, class_code: int) -> bool:
    """GPUs and NVSwitches, adapters, NPUs; not the sound and USB functions of the same cards."""
    base = class_code >> 16
    if vendor == NVIDIA:
        return base == DISPLAY or class_code >> 8 == BRIDGE_OTHER
    return base == (NETWORK if vendor == MELLANOX else PROCESSING_ACCELERATOR)


def _changing(device: PciDevice, folder: str) -> PciDevice:
    """The device with what may have changed."""
    return msgspec.structs.replace(
        device,
        driver=_link_name(f"{folder}/driver"),
        link_transfers_per_second=parse_speed(_text(f"{folder}/current_link_speed")),
        link_width=_lanes(f"{folder}/current_link_width"),
        aer_correctable_total=parse_aer_total(_text(f"{folder}/aer_dev_correctable")),
        aer_nonfatal_total=parse_aer_total(_text(f"{folder}/aer_dev_nonfatal")),
        aer_fatal_total=parse_aer_total(_text(f"{folder}/aer_dev_fatal")),
    )


def _text(path: str) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(descriptor, 4096).decode("ascii", "replace").strip()
    except OSError:
        return ""
    finally:
        os.close(descriptor)


def _hex(path: str) -> int | None:
    try:
        return int(_text(path), 16)
    except ValueError:
        return None


def _lanes(path: str) -> int | None:
    text = _text(path)
    return int(text) if text.isdigit() and 0 < int(text) <= _WIDEST else None


def _link_name(path: str) -> str:
    try:
        return os.path.basename(os.readlink(path))  # noqa: PTH115, PTH119 - half the cost
    except OSError:
        return ""
