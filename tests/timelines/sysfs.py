"""A sysfs tree of RDMA adapters and PCI devices in a temporary folder, written as a scenario tells."""

import os
from pathlib import Path
from typing import Any

from tests.timelines.motion import Values
from tests.timelines.nvml_script import bus

COUNTERS = (
    "link_downed", "link_error_recovery", "symbol_error", "port_rcv_errors",
    "port_rcv_remote_physical_errors", "local_link_integrity_errors", "excessive_buffer_overrun_errors",
    "port_xmit_discards", "port_xmit_wait", "port_rcv_data", "port_xmit_data",
    "port_rcv_packets", "port_xmit_packets",
)  # fmt: skip
HARDWARE_COUNTERS = (
    "local_ack_timeout_err", "packet_seq_err", "out_of_sequence", "rnr_nak_retry_err", "out_of_buffer",
    "roce_adp_retrans", "np_cnp_sent", "rp_cnp_handled", "rx_icrc_encapsulated", "duplicate_request",
    "req_cqe_error", "resp_cqe_error",
)  # fmt: skip
PORT: dict[str, Any] = {
    "state": "4: ACTIVE",
    "phys_state": "5: LinkUp",
    "rate": "400 Gb/sec (4X NDR)",
    "link_layer": "InfiniBand",
    "lid": "0x1a",
    "sm_lid": "0x1",
    **{f"counters/{name}": 0 for name in COUNTERS},
    **{f"hw_counters/{name}": 0 for name in HARDWARE_COUNTERS},
}
LINK: dict[str, Any] = {
    "current_link_speed": "32.0 GT/s PCIe",
    "max_link_speed": "32.0 GT/s PCIe",
    "current_link_width": 16,
    "max_link_width": 16,
    "numa_node": 0,
    **{
        f"aer_dev_{kind}": f"RxErr 0\nBadTLP 0\nTOTAL_ERR_{total} 0"
        for kind, total in (("correctable", "COR"), ("nonfatal", "NONFATAL"), ("fatal", "FATAL"))
    },
}
GPU = {"vendor": "0x10de", "device": "0x2330", "class": "0x030200", **LINK}
ADAPTER = {"vendor": "0x15b3", "device": "0x1021", "class": "0x020700", **LINK}


def adapter_bus(number: int) -> str:
    """``mlx5_3`` is at ``0000:23:00.0``."""
    return f"0000:2{number:x}:00.0"


class Sysfs:
    """The tree. An adapter's files are named from its ``ports/1``; ``device/…`` is its PCI device, ``net/…`` its interface."""

    def __init__(self, root: Path, *, gpus: int, ports: int) -> None:
        self.root = root
        self._values: dict[Path, Values] = {}
        self._moving: set[Path] = set()
        self._open: dict[Path, int] = {}
        """Files that change with each tick; to open one costs more than all the rest."""
        for folder in (
            "class/infiniband",
            "class/net",
            "bus/pci/devices",
            "bus/pci/drivers/nvidia",
            "devices",
        ):
            (root / folder).mkdir(parents=True)
        for index in range(gpus):
            self._pci_device(bus(index), GPU, "nvidia")
        for number in range(ports):
            self._adapter(number)
        self._adapters, self._gpus = range(ports), range(gpus)

    def change_adapter(self, name: str, files: dict[str, Any], now: float) -> None:
        """From now on these files say this; ``gone`` takes the adapter away."""
        for number in self._adapters if name == "all" else (int(name.removeprefix("mlx5_")),):
            for file, content in files.items():
                if file == "gone":
                    self._attach(self.root / f"class/infiniband/mlx5_{number}", not content)
                else:
                    self._set(
                        self._adapter_folder(number, file), file.rpartition(":")[2], content, now
                    )

    def change_gpu(self, which: int | str, files: dict[str, Any], now: float) -> None:
        """From now on these files of the PCI device say this; ``gone`` takes it off the bus, ``driver: ""`` unbinds it."""
        for index in self._gpus if which == "all" else (int(which),):
            device = self.root / "devices" / bus(index)
            for file, content in files.items():
                if file == "gone":
                    self._attach(self.root / "bus/pci/devices" / bus(index), not content)
                elif file == "driver":
                    (device / "driver").unlink(missing_ok=True)
                    if content:
                        (device / "driver").symlink_to(f"../../bus/pci/drivers/{content}")
                else:
                    self._set(device, file, content, now)

    def move(self, now: float) -> None:
        """Write what moves by itself."""
        for folder in self._moving:
            for name, value in self._values[folder].in_motion(now).items():
                self._overwrite(folder / name, f"{value}\n".encode())

    def _overwrite(self, path: Path, content: bytes) -> None:
        descriptor = self._open.get(path)
        if descriptor is None:
            descriptor = self._open[path] = os.open(path, os.O_WRONLY)
        os.truncate(descriptor, os.pwrite(descriptor, content, 0))

    def close(self) -> None:
        """Nothing will change any more."""
        for descriptor in self._open.values():
            os.close(descriptor)

    def _adapter_folder(self, number: int, file: str) -> Path:
        if file.startswith("net:"):
            return self.root / f"class/net/ib{number}"
        if file.startswith("device:"):
            return self.root / "devices" / adapter_bus(number)
        return self.root / f"devices/{adapter_bus(number)}/infiniband/mlx5_{number}/ports/1"

    def _set(self, folder: Path, name: str, content: Any, now: float) -> None:
        values = self._values[folder]
        values.change(name, content, now)
        (self._moving.add if values.moves else self._moving.discard)(folder)
        _write(folder / name, values.at(now)[name])

    def _adapter(self, number: int) -> None:
        pci = self._pci_device(adapter_bus(number), ADAPTER, "mlx5_core")
        device = pci / f"infiniband/mlx5_{number}"
        for name, content in (
            ("fw_ver", "28.43.2026"),
            ("hca_type", "MT4129"),
            ("board_id", "MT_0000000838"),
        ):
            _write(device / name, content)
        self._folder(device / "ports/1", PORT)
        (device / "device").symlink_to("../..")
        interface = pci / f"net/ib{number}"
        self._folder(
            interface,
            {"operstate": "up", "carrier_down_count": 1, "carrier_changes": 2, "dev_port": 0},
        )
        (interface / "device").symlink_to("../..")
        (self.root / f"class/net/ib{number}").symlink_to(interface)
        self._values[self.root / f"class/net/ib{number}"] = self._values[interface]
        (self.root / f"class/infiniband/mlx5_{number}").symlink_to(device)

    def _pci_device(self, address: str, files: dict[str, Any], driver: str) -> Path:
        device = self.root / "devices" / address
        self._folder(device, files)
        (self.root / "bus/pci/drivers" / driver).mkdir(exist_ok=True)
        (device / "driver").symlink_to(f"../../bus/pci/drivers/{driver}")
        (self.root / "bus/pci/devices" / address).symlink_to(device)
        return device

    def _folder(self, folder: Path, files: dict[str, Any]) -> None:
        self._values[folder] = Values(files)
        for name, content in files.items():
            _write(folder / name, content)

    def _attach(self, link: Path, there: bool) -> None:
        aside = link.parent.parent / f"{link.name}.aside"
        if there and aside.is_symlink():
            os.rename(aside, link)  # noqa: PTH104
        elif not there and link.is_symlink():
            os.rename(link, aside)  # noqa: PTH104


def _write(path: Path, content: Any) -> None:
    """In place: a source may keep a file open. ``None`` makes it unreadable by taking it away."""
    if content is None:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{content}\n")
