"""What the sources read rarely, over files as the kernel lays them out: settings, traces, address tables, PCI words."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.snapshot.host import FuseQueue
from agent.snapshot.pci import MELLANOX
from agent.sources.host import HostSource
from agent.sources.host_settings import (
    MAX_CONNECTIONS,
    free_large_blocks,
    governors,
    is_virtual_machine,
    traces,
)
from agent.sources.pci import CONFIGURATION_EVERY, LIST_EVERY, PciSource
from agent.sources.pci_config import ACS, PCI_EXPRESS, max_read_request_bytes, redirects_peers
from agent.sources.rdma import RARE_ROUNDS, RdmaSource
from agent.sources.rdma_gids import roce_v2_address
from tests.integration.test_pci_source import GPU, write
from tests.rdma_tree import RdmaTree, put

BUDDYINFO = """\
Node 0, zone      DMA      0      0      0      0      0      0      0      0      1      1      3
Node 0, zone    DMA32      5      6      5      4      4      7      6      3      4      3    360
Node 0, zone   Normal   9178   8105   4500   1203    404     90     22      9      3      1      2
Node 1, zone   Normal  17178   8105   4500   1203    404     90     22      9   3000    100  90000
Node 2, zone   Normal      0      0      0      0      0      0      0      0      0      0      0
Node 2, zone  Movable      0      0      0      0      0      0      0      0      0      0   9000
"""
ZERO = "0000:0000:0000:0000:0000:0000:0000:0000"
LINK_LOCAL = "fe80:0000:0000:0000:0ac0:ebff:fe12:3456"
ROUTABLE = "0000:0000:0000:0000:0000:ffff:0a00:0102"


class TestTheMachine:
    def test_free_memory_by_node_and_none_of_a_node_without_memory(self) -> None:
        assert free_large_blocks(BUDDYINFO) == {"node 0": 6, "node 1": 93_100}

    @given(st.text())
    def test_no_text_breaks_it(self, text: str) -> None:
        assert free_large_blocks(text + "\nNode 0, zone Normal") == free_large_blocks(text)

    def test_governors_are_counted(self, tmp_path: Path) -> None:
        folder = tmp_path / "devices/system/cpu/cpufreq"
        for number in range(6):
            name = "powersave" if number == 3 else "performance"
            put(folder, f"policy{number}/scaling_governor", name)
        (folder / "policy7").mkdir()
        put(folder, "boost", 1)
        assert governors(str(tmp_path)) == {"performance": 5, "powersave": 1}
        assert governors(str(tmp_path / "none")) == {}

    @pytest.mark.parametrize(
        ("text", "virtual"),
        [
            ("processor\t: 0\nflags\t\t: fpu hypervisor avx2\n", True),
            ("processor\t: 0\nflags\t\t: fpu avx2\n\nprocessor\t: 1\n", False),
            ("processor\t: 0\nFeatures\t: fp asimd\n", None),
            ("", None),
        ],
    )
    def test_a_processor_says_whether_it_is_real(
        self, tmp_path: Path, text: str, virtual: bool | None
    ) -> None:
        (tmp_path / "cpuinfo").write_text(text)
        assert is_virtual_machine(str(tmp_path)) is virtual

    def test_traces(self, tmp_path: Path) -> None:
        put(tmp_path, "buddyinfo", BUDDYINFO)
        (tmp_path / "module" / "nvidia").mkdir(parents=True)
        for connection, waiting in (("52", 11), ("61", 0)):
            put(tmp_path / "fs/fuse/connections" / connection, "waiting", waiting)
            put(tmp_path / "fs/fuse/connections" / connection, "max_background", 12)
        (tmp_path / "fs/fuse/connections/70").mkdir()
        for number, age in ((1, 100), (2, 50)):
            put(tmp_path / "fs/pstore", f"dmesg-erst-{number}", "Panic#1 Part1")
            os.utime(tmp_path / f"fs/pstore/dmesg-erst-{number}", (1e9 - age, 1e9 - age))
        put(tmp_path / "fs/pstore", "console-ramoops-0", "")
        assert traces(str(tmp_path), str(tmp_path)) == {
            "free_large_blocks": {"node 0": 6, "node 1": 93_100},
            "fuse_queues": (
                FuseQueue(connection="52", waiting=11, background_max=12),
                FuseQueue(connection="61", waiting=0, background_max=12),
            ),
            "crash_records": 2,
            "crash_record_newest_seconds": 1e9 - 50,
            "peermem_loaded": False,
        }
        (tmp_path / "module" / "nvidia_peermem").mkdir()
        assert traces(str(tmp_path), str(tmp_path))["peermem_loaded"] is True

    def test_what_cannot_be_read_is_not_measured(self, tmp_path: Path) -> None:
        found = traces(str(tmp_path), str(tmp_path))
        assert found == {"free_large_blocks": {}, "fuse_queues": ()}

    def test_endless_connections_are_not_all_read(self, tmp_path: Path) -> None:
        for number in range(MAX_CONNECTIONS + 5):
            put(tmp_path / "fs/fuse/connections" / str(number), "waiting", 0)
            put(tmp_path / "fs/fuse/connections" / str(number), "max_background", 12)
        found = traces(str(tmp_path), str(tmp_path))
        assert len(found["fuse_queues"]) == MAX_CONNECTIONS

    async def test_the_source_tells_of_them(self, tmp_path: Path) -> None:
        put(tmp_path, "buddyinfo", BUDDYINFO)
        put(tmp_path, "cpuinfo", "flags : fpu")
        put(tmp_path / "devices/system/cpu/cpufreq/policy0", "scaling_governor", "ondemand")
        source = HostSource(
            disk_paths=[], proc_root=str(tmp_path), sysfs_root=str(tmp_path), deadline_seconds=10
        )
        host = (await source.read()).host
        await source.close()
        assert host is not None
        assert host.cpu_governors == {"ondemand": 1}
        assert host.virtual_machine is False
        assert host.free_large_blocks["node 0"] == 6


def table(port: Path, *entries: tuple[str, str]) -> Path:
    """A GID table: addresses and their types; an entry without an address has no type that can be read."""
    for place, (address, kind) in enumerate(entries):
        put(port, f"gids/{place}", address)
        (port / "gid_attrs/types" / str(place)).unlink(missing_ok=True)
        if kind:
            put(port, f"gid_attrs/types/{place}", kind)
    return port


class TestAddresses:
    @pytest.mark.parametrize(
        ("entries", "kind"),
        [
            ([(LINK_LOCAL, "IB/RoCE v1"), (LINK_LOCAL, "RoCE v2")], "link-local"),
            (
                [
                    (LINK_LOCAL, "RoCE v2"),
                    (ZERO, ""),
                    (ROUTABLE, "IB/RoCE v1"),
                    (ROUTABLE, "RoCE v2"),
                ],
                "routable",
            ),
            ([(ROUTABLE, "IB/RoCE v1"), (ZERO, "")], "none"),
            ([(ZERO, "")], "none"),
            ([], None),
        ],
    )
    def test_the_best_of_the_table(
        self, tmp_path: Path, entries: list[tuple[str, str]], kind: str | None
    ) -> None:
        assert roce_v2_address(str(table(tmp_path, *entries))) == kind

    async def test_a_port_that_loses_and_regains_it(self, tmp_path: Path) -> None:
        adapter = RdmaTree(tmp_path).add("mlx5_0", 0x18, link_layer="Ethernet", netdevs=("eth0",))
        whole = ((LINK_LOCAL, "RoCE v2"), (ROUTABLE, "RoCE v2"))
        table(adapter.port(), *whole)
        source = RdmaSource(sysfs_root=str(tmp_path))
        reading = await source.read()
        seen = []
        for entries in (whole, (whole[0], (ZERO, "")), whole):
            table(adapter.port(), *entries)
            for _ in range(RARE_ROUNDS):
                reading = await source.read()
            seen.append(reading.rdma_ports[0].roce_v2_address)
        await source.close()
        assert seen == ["routable", "link-local", "routable"]

    async def test_infiniband_has_none_of_that(self, tmp_path: Path) -> None:
        table(RdmaTree(tmp_path).add("mlx5_0", 0x18).port(), (ROUTABLE, "RoCE v2"))
        source = RdmaSource(sysfs_root=str(tmp_path))
        (port,) = (await source.read()).rdma_ports
        await source.close()
        assert port.roce_v2_address is None


def words(*values: tuple[int, int, int], size: int = 4096) -> bytes:
    """A configuration space: offset, width in bytes, value."""
    space = bytearray(size)
    for at, width, value in values:
        space[at : at + width] = value.to_bytes(width, "little")
    return bytes(space)


def bridge(*, kind: int = 6, control: int = 0x1D, size: int = 4096) -> bytes:
    """A port of a switch: power management, then PCI Express; error reporting, then ACS."""
    return words(
        (0x34, 1, 0x40),
        (0x40, 2, 0x60 << 8 | 0x01),
        (0x60, 2, PCI_EXPRESS),
        (0x62, 2, kind << 4 | 2),
        (0x68, 2, 5 << 12),
        *(((0x100, 4, 0x148 << 20 | 1 << 16 | 0x0001),) if size > 256 else ()),
        *(((0x148, 4, 1 << 16 | ACS), (0x14E, 2, control)) if size > 256 else ()),
        size=size,
    )


class TestConfigurationSpace:
    @pytest.mark.parametrize(
        ("space", "redirects"),
        [
            (bridge(), True),
            (bridge(control=0x0), False),
            (bridge(control=0x1), False),
            (bridge(kind=4), None),
            (bridge(size=256), None),
            (bridge()[:64], None),
            (b"\xff" * 4096, None),
            (bytes(4096), None),
            (b"", None),
        ],
        ids=[
            "on",
            "off",
            "validation only",
            "root port",
            "no more",
            "no root",
            "dead",
            "0",
            "empty",
        ],
    )
    def test_what_the_port_of_a_switch_does(
        self, tmp_path: Path, space: bytes, redirects: bool | None
    ) -> None:
        (tmp_path / "config").write_bytes(space)
        assert redirects_peers(str(tmp_path / "config")) is redirects
        assert redirects_peers(str(tmp_path / "none")) is None

    def test_the_read_request(self, tmp_path: Path) -> None:
        (tmp_path / "config").write_bytes(bridge())
        assert max_read_request_bytes(str(tmp_path / "config")) == 4096
        (tmp_path / "config").write_bytes(b"\xff" * 4096)
        assert max_read_request_bytes(str(tmp_path / "config")) is None

    @given(st.binary(max_size=4096))
    def test_no_device_leads_it_in_circles(
        self, tmp_path_factory: pytest.TempPathFactory, space: bytes
    ) -> None:
        path = tmp_path_factory.mktemp("device") / "config"
        path.write_bytes(space)
        assert redirects_peers(str(path)) in (True, False, None)
        size = max_read_request_bytes(str(path))
        assert size is None or 128 <= size <= 4096

    def test_capabilities_that_point_at_each_other_end(self, tmp_path: Path) -> None:
        loop = words((0x34, 1, 0x40), (0x40, 2, 0x50 << 8 | 1), (0x50, 2, 0x40 << 8 | 2))
        (tmp_path / "config").write_bytes(loop)
        assert max_read_request_bytes(str(tmp_path / "config")) is None

    async def test_the_source_asks_every_ten_minutes_and_keeps_it_in_between(
        self, tmp_path: Path
    ) -> None:
        folder = write(tmp_path)
        own = write(tmp_path, "0000:5e:00.0", vendor=MELLANOX, class_code=0x020700)
        (folder.parent / "config").write_bytes(bridge())
        (own / "config").write_bytes(bridge())
        source = PciSource(sysfs_root=str(tmp_path))
        reading = await source.read()
        seen = []
        for readings in (0, LIST_EVERY * (CONFIGURATION_EVERY - 1), LIST_EVERY):
            for _ in range(readings):
                reading = await source.read()
            gpu, adapter = reading.pci_devices
            seen.append((gpu.peer_traffic_redirected, adapter.max_read_request_bytes))
            (folder.parent / "config").write_bytes(bridge(control=0))
        await source.close()
        assert reading.pci_devices[0].address == GPU
        assert seen == [(True, 4096), (True, 4096), (False, 4096)]

    async def test_a_gpu_that_is_given_to_a_virtual_machine_is_not_asked(
        self, tmp_path: Path
    ) -> None:
        folder = write(tmp_path, driver="vfio-pci")
        (folder.parent / "config").write_bytes(bridge())
        (device,) = (await PciSource(sysfs_root=str(tmp_path)).read()).pci_devices
        assert device.peer_traffic_redirected is None
