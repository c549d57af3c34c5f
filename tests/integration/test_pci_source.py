"""The PCI source over a sysfs tree that the test writes, as the kernel lays it out."""

import os
import threading
from pathlib import Path

import pytest

from agent.exporter.pci import write_pci
from agent.snapshot import PciDevice
from agent.snapshot.pci import HUAWEI, MELLANOX, NVIDIA
from agent.sources import SourceAbsentError, SourceStuckError
from agent.sources.pci import (
    LIST_EVERY,
    REFRESH_EVERY,
    PciSource,
    parse_aer_total,
    parse_speed,
)
from contract.metrics import Page

GPU = "0000:3b:00.0"
AER = {
    "aer_dev_correctable": "RxErr 2\nBadTLP 1\nBadDLLP 0\nTOTAL_ERR_COR 3",
    "aer_dev_nonfatal": "Undefined 0\nDLP 0\nTOTAL_ERR_NONFATAL 1",
    "aer_dev_fatal": "Undefined 0\nDLP 0\nTOTAL_ERR_FATAL 0",
}


def write(
    root: Path,
    address: str = GPU,
    /,
    *,
    vendor: int = NVIDIA,
    device: int = 0x2330,
    class_code: int = 0x030200,
    driver: str = "nvidia",
    virtual: bool = False,
    **files: str,
) -> Path:
    """One device: its folder elsewhere, and a link to it where the bus lists it."""
    folder = root / "devices" / "pci0000:3a" / address
    folder.mkdir(parents=True, exist_ok=True)
    listed = root / "bus" / "pci" / "devices"
    listed.mkdir(parents=True, exist_ok=True)
    if not (listed / address).is_symlink():
        (listed / address).symlink_to(folder)
    content = {
        "vendor": f"{vendor:#06x}",
        "device": f"{device:#06x}",
        "class": f"{class_code:#08x}",
        "current_link_speed": "2.5 GT/s PCIe",
        "max_link_speed": "32.0 GT/s PCIe",
        "current_link_width": "16",
        "max_link_width": "16",
        **AER,
        **files,
    }
    for name, text in content.items():
        (folder / name).write_text(text + "\n")
    bind(root, folder, driver)
    if virtual and not (folder / "physfn").is_symlink():
        (folder / "physfn").symlink_to(folder)
    return folder


def bind(root: Path, folder: Path, driver: str) -> None:
    (folder / "driver").unlink(missing_ok=True)
    if driver:
        (folder / "driver").symlink_to(root / "bus" / "pci" / "drivers" / driver)


async def read(source: PciSource, times: int = 1) -> tuple[PciDevice, ...]:
    devices: tuple[PciDevice, ...] = ()
    for _ in range(times):
        devices = (await source.read()).pci_devices
    return devices


async def test_a_gpu_in_our_units(tmp_path: Path) -> None:
    write(tmp_path)
    (device,) = await read(PciSource(sysfs_root=str(tmp_path)))
    assert device == PciDevice(
        address=GPU,
        vendor=NVIDIA,
        device=0x2330,
        class_code=0x030200,
        driver="nvidia",
        link_transfers_per_second=2.5e9,
        link_transfers_per_second_max=3.2e10,
        link_width=16,
        link_width_max=16,
        aer_correctable_total=3,
        aer_nonfatal_total=1,
        aer_fatal_total=0,
    )
    assert (device.subject, device.is_gpu, device.is_nvswitch) == (f"gpu:{GPU}", True, False)


@pytest.mark.parametrize(
    ("vendor", "class_code", "wanted"),
    [
        (NVIDIA, 0x030000, True),
        (NVIDIA, 0x068000, True),
        (NVIDIA, 0x040300, False),
        (NVIDIA, 0x0C0330, False),
        (MELLANOX, 0x020000, True),
        (MELLANOX, 0x020700, True),
        (MELLANOX, 0x060400, False),
        (HUAWEI, 0x120000, True),
        (HUAWEI, 0x020000, False),
        (0x8086, 0x030000, False),
    ],
)
async def test_what_is_listed(tmp_path: Path, vendor: int, class_code: int, wanted: bool) -> None:
    write(tmp_path, "0000:01:00.0", vendor=vendor, class_code=class_code)
    write(tmp_path, GPU)
    devices = await read(PciSource(sysfs_root=str(tmp_path)))
    assert [each.address for each in devices] == (["0000:01:00.0"] if wanted else []) + [GPU]


async def test_virtual_functions(tmp_path: Path) -> None:
    write(tmp_path, "0000:01:00.1", vendor=MELLANOX, class_code=0x020000, virtual=True)
    write(tmp_path, "0000:3b:00.4", virtual=True, driver="")
    (device,) = await read(PciSource(sysfs_root=str(tmp_path)))
    assert (device.is_virtual_function, device.is_gpu) == (True, False)
    assert device.subject == "pci:0000:3b:00.4"


async def test_what_a_device_does_not_tell_is_none(tmp_path: Path) -> None:
    """A device that no longer answers reads as all ones, and old kernels count no errors."""
    folder = write(tmp_path, current_link_speed="Unknown", current_link_width="63", driver="")
    for name in AER:
        (folder / name).unlink()
    (device,) = await read(PciSource(sysfs_root=str(tmp_path)))
    assert (device.link_transfers_per_second, device.link_width) == (None, None)
    assert (device.aer_correctable_total, device.aer_nonfatal_total) == (None, None)
    assert (device.aer_fatal_total, device.driver) == (None, "")
    assert device.link_width_max == 16


async def test_what_changes_is_seen_and_nothing_is_read_in_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path)
    source = PciSource(sysfs_root=str(tmp_path))
    await read(source)
    (folder / "current_link_width").write_text("8\n")
    (folder / "aer_dev_fatal").write_text("TOTAL_ERR_FATAL 1\n")
    bind(tmp_path, folder, "vfio-pci")
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", lambda *_: pytest.fail("a file was read"))
        (device,) = await read(source, REFRESH_EVERY - 1)
    assert (device.link_width, device.driver) == (16, "nvidia")
    (device,) = await read(source)
    assert (device.link_width, device.aer_fatal_total, device.driver) == (8, 1, "vfio-pci")


async def test_a_device_that_is_gone_is_no_longer_listed(tmp_path: Path) -> None:
    write(tmp_path)
    write(tmp_path, "0000:5d:00.0")
    source = PciSource(sysfs_root=str(tmp_path))
    assert len(await read(source)) == 2
    (tmp_path / "bus/pci/devices" / GPU).unlink()
    devices = await read(source, REFRESH_EVERY)
    assert [each.address for each in devices] == ["0000:5d:00.0"]
    (tmp_path / "bus/pci/devices/0000:5d:00.0").unlink()
    assert await read(source, REFRESH_EVERY) == ()  # no machine without any: they were here


async def test_a_new_device_is_found_in_time(tmp_path: Path) -> None:
    write(tmp_path)
    source = PciSource(sysfs_root=str(tmp_path))
    await read(source)
    write(tmp_path, "0000:5d:00.0")
    assert len(await read(source, LIST_EVERY)) == 2


async def test_a_machine_without_any_is_absent_until_there_is_one(tmp_path: Path) -> None:
    source = PciSource(sysfs_root=str(tmp_path))
    with pytest.raises(SourceAbsentError, match="no accelerator or adapter"):
        await source.read()
    write(tmp_path, "0000:00:02.0", vendor=0x8086, class_code=0x030000)
    for _ in range(REFRESH_EVERY):
        with pytest.raises(SourceAbsentError):
            await source.read()
    write(tmp_path)
    for _ in range(REFRESH_EVERY - 1):
        with pytest.raises(SourceAbsentError):
            await source.read()
    assert len(await read(source)) == 1
    await source.close()


async def test_a_device_that_does_not_answer_is_said_to_be_stuck(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / "current_link_speed").unlink()
    os.mkfifo(folder / "current_link_speed")  # opening it waits for a writer, which never comes
    source = PciSource(sysfs_root=str(tmp_path), deadline_seconds=0.05)
    for _ in range(3):
        with pytest.raises(SourceStuckError, match=r"gives no answer for 0\.05 s"):
            await source.read()
    waiting = [each for each in threading.enumerate() if str(tmp_path) in each.name]
    assert len(waiting) == 1
    with (folder / "current_link_speed").open("w") as pipe:
        pipe.write("5.0 GT/s PCIe\n")
    waiting[0].join(timeout=5)
    assert not waiting[0].is_alive()
    (device,) = await read(source)
    assert device.link_transfers_per_second == 5e9
    await source.close()


def test_parsing() -> None:
    assert parse_speed("16 GT/s") == 1.6e10
    assert parse_speed("Unknown") is None
    assert parse_aer_total("RxErr 1\nTOTAL_ERR_COR 12") == 12
    assert parse_aer_total("RxErr 1\nTOTAL_ERR_COR many") is None
    assert parse_aer_total("") is None


async def test_what_was_read_is_on_the_page(tmp_path: Path) -> None:
    write(tmp_path)
    write(tmp_path, "0000:5d:00.0", current_link_speed="Unknown")
    page = Page()
    write_pci(page, "n1", await read(PciSource(sysfs_root=str(tmp_path))))
    lines = page.render().decode().splitlines()
    (ratio,) = [line for line in lines if line.startswith("fleetmedic_pci_link_speed_ratio{")]
    assert f'address="{GPU}"' in ratio
    assert float(ratio.rpartition(" ")[2]) == pytest.approx(2.5 / 32)
    errors = [line for line in lines if line.startswith("fleetmedic_pci_errors_total{")]
    assert len(errors) == 6
    assert any('severity="correctable"' in line and line.endswith(" 3.0") for line in errors)
