"""The RDMA source over a sysfs tree as Linux lays it out."""

import asyncio
import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.snapshot import RdmaNetdev, RdmaPort
from agent.sources import Reading, SourceAbsentError, SourceStuckError
from agent.sources.rdma import RARE_ROUNDS, SLOW_ROUNDS, RdmaSource, parse_hex, parse_rate
from agent.sources.rdma_adapter import parse_transfers
from agent.sources.rdma_files import ABSENT_READS, SysfsFiles
from tests.rdma_tree import COUNTERS, Adapter, RdmaTree, eight_gpu_machine, put
from tests.support import until


async def ports(root: Path, *exclude: str) -> dict[str, RdmaPort]:
    """One look, by device."""
    source = RdmaSource(sysfs_root=str(root), exclude=exclude)
    try:
        return {port.device: port for port in (await source.read()).rdma_ports}
    finally:
        await source.close()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The path of every file that is opened."""
    opened: list[str] = []
    real = os.open

    def opening(path: str, *args: int) -> int:
        if "/devices/" in str(path) or "/class/" in str(path):
            opened.append(str(path))
        return real(path, *args)

    monkeypatch.setattr(os, "open", opening)
    yield opened
    monkeypatch.undo()


async def test_a_port_in_our_units(tmp_path: Path) -> None:
    RdmaTree(tmp_path).add("mlx5_0", 0x18, netdevs=("ib0",)).set(
        counters__link_downed=3, counters__port_rcv_data=1000, counters__port_xmit_data=2**64 - 1
    )
    port = (await ports(tmp_path))["mlx5_0"]
    assert (port.subject, port.link_layer) == ("rdma:mlx5_0/1", "InfiniBand")
    assert (port.state, port.physical_state, port.subnet_manager_lid) == ("ACTIVE", "LinkUp", 1)
    assert (port.rate_bits_per_second, port.link_width, port.link_speed) == (4e11, 4, "NDR")
    assert (port.link_downed_total, port.received_bytes_total) == (3, 4000)
    assert port.transmitted_bytes_total == (2**64 - 1) * 4
    assert (port.firmware, port.adapter_type) == ("28.41.1000", "MT4129")
    assert (port.board, port.pci_address, port.numa_node) == ("MT_0000000838", "0000:18:00.0", 0)
    assert (port.pcie_transfers_per_second, port.pcie_transfers_per_second_max) == (32e9, 32e9)
    assert (port.pcie_width, port.pcie_width_max) == (16, 16)
    assert port.netdevs == (RdmaNetdev(name="ib0", operational_state="up", carrier_downs_total=0),)
    assert port.counters["port_xmit_wait"] == COUNTERS["port_xmit_wait"]
    assert port.counters["local_ack_timeout_err"] == 0
    ignored = {"lifespan", "duplicate_request", "req_cqe_flush_error", "resp_cqe_flush_error"}
    assert not ignored & port.counters.keys()
    assert {port.is_virtual_function, port.is_bond, port.excluded} == {False}


async def test_a_whole_machine(tmp_path: Path) -> None:
    eight_gpu_machine(tmp_path)
    seen = await ports(tmp_path)
    assert len(seen) == 11
    bond = seen["mlx5_bond_0"]
    assert bond.is_bond
    assert [each.name for each in bond.netdevs] == ["eth0", "eth1"]
    assert all(each.bond_member for each in bond.netdevs)
    assert bond.subnet_manager_lid is None, "Ethernet has no subnet manager"
    assert [name for name, port in seen.items() if port.is_virtual_function] == ["mlx5_9"]
    assert seen["mlx5_9"].state == "ACTIVE"
    assert len({port.board for port in seen.values()}) == 3


async def test_ports_and_interfaces_of_one_adapter_are_told_apart(tmp_path: Path) -> None:
    tree = RdmaTree(tmp_path)
    adapter = tree.add("mlx4_0", 0x18, ports=2)
    tree.interface(adapter.function, "ib0", dev_port=0)
    tree.interface(adapter.function, "ib1", dev_port=1)
    tree.interface(adapter.function, "ib1.8001", dev_port=1)
    tree.interface(adapter.function, "vf_far_end", phys_port_name="pf0vf3")
    source = RdmaSource(sysfs_root=str(tmp_path))
    first, second = (await source.read()).rdma_ports
    await source.close()
    assert [each.name for each in first.netdevs] == ["ib0"]
    assert [each.name for each in second.netdevs] == ["ib1"]


async def test_a_bond_of_two_adapters_is_not_taken_for_one(tmp_path: Path) -> None:
    tree = RdmaTree(tmp_path)
    two = [
        tree.add(f"mlx5_{n}", 0x18 + n, link_layer="Ethernet", netdevs=(f"eth{n}",))
        for n in range(2)
    ]
    tree.bond("bond0", *(each.netdev(f"eth{n}") for n, each in enumerate(two)))
    seen = await ports(tmp_path)
    assert [each.name for each in seen["mlx5_0"].netdevs] == ["eth0"]
    assert not seen["mlx5_0"].is_bond


@pytest.mark.parametrize("text", ["N/A (no PMA)", "", "-1", "garbage"])
async def test_what_a_port_does_not_tell_is_none(tmp_path: Path, text: str) -> None:
    adapter = RdmaTree(tmp_path).add("mlx5_0", 0x18, netdevs=("ib0",))
    adapter.set(counters__link_downed=text, counters__symbol_error=text, rate=text, state="")
    adapter.set(sm_lid=text)
    put(adapter.function, "current_link_speed", "Unknown")
    put(adapter.function, "current_link_width", "0")
    put(adapter.function, "numa_node", "-1")
    (adapter.port() / "counters" / "port_rcv_data").unlink()
    for file in ("carrier_down_count", "carrier_changes"):
        (adapter.netdev("ib0") / file).unlink()
    port = (await ports(tmp_path))["mlx5_0"]
    assert (port.link_downed_total, port.received_bytes_total) == (None, None)
    assert (port.rate_bits_per_second, port.link_width, port.state) == (None, None, "")
    assert "symbol_error" not in port.counters
    assert (port.pcie_transfers_per_second, port.pcie_width, port.numa_node) == (None, None, None)
    assert port.netdevs[0].carrier_downs_total is None
    assert port.transmitted_bytes_total is not None


async def test_a_slot_that_is_narrower_than_the_adapter_sets_its_limit(tmp_path: Path) -> None:
    adapter = RdmaTree(tmp_path).add("mlx5_0", 0x18)
    put(adapter.function.parent, "max_link_width", 8)
    put(adapter.function.parent, "max_link_speed", "16.0 GT/s PCIe")
    port = (await ports(tmp_path))["mlx5_0"]
    assert (port.pcie_transfers_per_second_max, port.pcie_width_max) == (16e9, 8)


async def test_an_older_kernel_counts_carrier_changes(tmp_path: Path) -> None:
    adapter = RdmaTree(tmp_path).add("mlx5_0", 0x18, netdevs=("ib0",))
    (adapter.netdev("ib0") / "carrier_down_count").unlink()
    put(adapter.netdev("ib0"), "carrier_changes", 5)  # up, down, up, down, up
    assert (await ports(tmp_path))["mlx5_0"].netdevs[0].carrier_downs_total == 2


async def test_an_interface_that_is_given_to_a_pod_is_noticed_when_its_port_goes_down(
    tmp_path: Path,
) -> None:
    """It leaves the host's network namespace, and with it this tree; open files would go on answering."""
    adapter = RdmaTree(tmp_path).add("mlx5_0", 0x18, link_layer="Ethernet", netdevs=("eth0",))
    source = RdmaSource(sysfs_root=str(tmp_path))
    await source.read()
    adapter.netdev("eth0").rename(tmp_path / "in a pod")
    adapter.set(state="1: DOWN")
    (port,) = (await source.read()).rdma_ports
    assert (port.state, port.netdevs) == ("DOWN", ())
    (tmp_path / "in a pod").rename(adapter.netdev("eth0"))
    put(adapter.netdev("eth0"), "flags", "0x1002")
    adapter.set(state="4: ACTIVE")
    (port,) = (await source.read()).rdma_ports
    assert [(each.name, each.enabled) for each in port.netdevs] == [("eth0", None)]
    adapter.set(state="1: DOWN")
    (port,) = (await source.read()).rdma_ports
    assert [(each.name, each.enabled) for each in port.netdevs] == [("eth0", False)]
    await source.close()


async def test_devices_that_a_pod_may_take_out_of_sight_say_so(tmp_path: Path) -> None:
    RdmaTree(tmp_path).add("mlx5_0", 0x18)
    mode = tmp_path / "module" / "ib_core" / "parameters"
    for text, may_leave in (("Y", False), ("N", True)):
        put(mode, "netns_mode", text)
        assert (await ports(tmp_path))["mlx5_0"].may_leave is may_leave


async def test_a_machine_without_adapters_is_absent(tmp_path: Path) -> None:
    with pytest.raises(SourceAbsentError, match="no RDMA adapters"):
        await ports(tmp_path)
    (tmp_path / "class" / "infiniband").mkdir(parents=True)
    with pytest.raises(SourceAbsentError, match="no RDMA adapters"):
        await ports(tmp_path)


@pytest.mark.parametrize("what", ["class/infiniband", "class/infiniband/mlx5_0"])
async def test_the_last_adapter_that_vanishes_is_not_a_machine_without_any(
    tmp_path: Path, what: str
) -> None:
    RdmaTree(tmp_path).add("mlx5_0", 0x18)
    source = RdmaSource(sysfs_root=str(tmp_path))
    assert len((await source.read()).rdma_ports) == 1
    (tmp_path / what).rename(tmp_path / "unplugged")
    assert await source.read() == Reading()
    (tmp_path / "unplugged").rename(tmp_path / what)
    assert len((await source.read()).rdma_ports) == 1
    await source.close()


async def test_an_adapter_without_ports_hides_no_other_and_is_seen_once_it_has_some(
    tmp_path: Path,
) -> None:
    tree = RdmaTree(tmp_path)
    (tmp_path / "class" / "infiniband" / "mlx5_0").mkdir()
    tree.add("mlx5_1", 0x28)
    source = RdmaSource(sysfs_root=str(tmp_path))
    assert [port.device for port in (await source.read()).rdma_ports] == ["mlx5_1"]
    (tmp_path / "class" / "infiniband" / "mlx5_0").rmdir()
    tree.add("mlx5_0", 0x18)
    assert [port.device for port in (await source.read()).rdma_ports] == ["mlx5_0", "mlx5_1"]
    await source.close()


async def test_an_excluded_adapter_is_listed_and_not_one_file_of_it_is_read(
    tmp_path: Path, reads: list[str]
) -> None:
    eight_gpu_machine(tmp_path)
    source = RdmaSource(sysfs_root=str(tmp_path), exclude=("mlx5_1*", "mlx5_3/1", "mlx5_4/2"))
    seen: dict[str, RdmaPort] = {}
    for _ in range(SLOW_ROUNDS):
        seen = {port.device: port for port in (await source.read()).rdma_ports}
    await source.close()
    left_alone = {"mlx5_1", "mlx5_10", "mlx5_3"}
    assert {name for name, port in seen.items() if port.excluded} == left_alone
    assert seen["mlx5_1"] == RdmaPort(device="mlx5_1", port=1, excluded=True)
    assert [
        path for path in reads if path.split("/infiniband/")[-1].split("/")[0] in left_alone
    ] == []
    assert any("/mlx5_4/" in path for path in reads)


async def test_what_changes_fast_is_read_each_round_and_the_rest_in_turns(tmp_path: Path) -> None:
    adapters = eight_gpu_machine(tmp_path)
    source = RdmaSource(sysfs_root=str(tmp_path))
    await source.read()
    for each in adapters.values():
        each.set(phys_state="2: Polling", counters__link_downed=9, counters__symbol_error=7)
        put(each.function / "infiniband" / each.name, "fw_ver", "28.42.0")
    fresh = []
    seen: tuple[RdmaPort, ...] = ()
    for _ in range(SLOW_ROUNDS):
        seen = (await source.read()).rdma_ports
        own = [port for port in seen if not port.is_virtual_function]
        fast = {(port.physical_state, port.link_downed_total) for port in own}
        assert fast == {("Polling", 9)}
        fresh.append(sum(port.counters["symbol_error"] == 7 for port in own))
    assert fresh[-1] == len(adapters) - 1
    assert max(after - before for before, after in zip([0, *fresh], fresh, strict=False)) <= 2
    assert {port.firmware for port in seen} == {"28.41.1000"}
    for _ in range(RARE_ROUNDS):
        seen = (await source.read()).rdma_ports
    assert {port.firmware for port in seen} == {"28.42.0"}
    await source.close()


async def test_a_virtual_function_costs_next_to_nothing(tmp_path: Path, reads: list[str]) -> None:
    eight_gpu_machine(tmp_path)
    source = RdmaSource(sysfs_root=str(tmp_path))
    for _ in range(1 + SLOW_ROUNDS):
        await source.read()
    await source.close()
    of_virtual = [path for path in reads if "/mlx5_9/ports/" in path]
    assert 0 < len(of_virtual) <= 2 * 8
    assert not any("hw_counters" in path for path in of_virtual)


async def test_a_file_that_answers_einval_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each such read writes a line into the kernel log of a machine with restricted functions."""
    RdmaTree(tmp_path).add("mlx5_0", 0x18)
    source = RdmaSource(sysfs_root=str(tmp_path))
    refused = refuse(monkeypatch, "read", lambda path: path.endswith("/rate"), errno.EINVAL)
    for _ in range(3):
        (port,) = (await source.read()).rdma_ports
        assert (port.rate_bits_per_second, port.state) == (None, "ACTIVE")
    assert len(refused) == 1
    await source.close()


def refuse(
    patch: pytest.MonkeyPatch, call: str, which: Callable[[str], bool], number: int
) -> list[str]:
    """Make one system call fail for some files; returns the list of those that it was asked for."""
    asked: list[str] = []
    real = getattr(os, call)

    def calling(descriptor: int, *rest: int) -> bytes:
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if which(path):
            asked.append(path)
            raise OSError(number, os.strerror(number))
        answer: bytes = real(descriptor, *rest)
        return answer

    patch.setattr(os, call, calling)
    return asked


def test_a_file_that_answered_once_and_then_refuses_is_asked_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "state").write_text("4: ACTIVE\n")
    files, path = SysfsFiles(), str(tmp_path / "state")
    assert files.text(path, keep_open=True) == "4: ACTIVE"
    with monkeypatch.context() as patch:
        asked = refuse(patch, "pread", lambda each: True, errno.EINVAL)
        assert [files.text(path, keep_open=True) for _ in range(3)] == [None] * 3
        assert len(asked) == 1
    for _ in range(ABSENT_READS):
        files.next_round()
    assert files.text(path, keep_open=True) == "4: ACTIVE"
    files.close()


def test_an_adapter_made_anew_under_the_same_name_is_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An open file of a removed device answers ENODEV; the new device's file has the same path."""
    (tmp_path / "state").write_text("4: ACTIVE\n")
    files, path = SysfsFiles(), str(tmp_path / "state")
    assert files.text(path, keep_open=True) == "4: ACTIVE"
    assert files.text(str(tmp_path / "later")) is None
    (tmp_path / "state").unlink()
    (tmp_path / "state").write_text("1: DOWN\n")
    (tmp_path / "later").write_text("here\n")
    assert files.text(str(tmp_path / "later")) is None, "it was not there a moment ago"
    with monkeypatch.context() as patch:
        refuse(patch, "pread", lambda each: True, errno.ENODEV)
        assert files.text(path, keep_open=True) == "1: DOWN"
    assert files.text(str(tmp_path / "later")) == "here"
    files.close()


def test_an_absent_file_is_looked_for_again_after_a_while(tmp_path: Path) -> None:
    files, path = SysfsFiles(), str(tmp_path / "counter")
    assert files.number(path) is None
    (tmp_path / "counter").write_text("5\n")
    assert files.number(path) is None
    for _ in range(ABSENT_READS):
        files.next_round()
    assert files.number(path) == 5


async def test_no_file_stays_open_behind_a_source_that_was_closed(tmp_path: Path) -> None:
    eight_gpu_machine(tmp_path)

    def open_files() -> int:
        links = [each.readlink() for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
        return sum(tmp_path in each.parents for each in links)

    source = RdmaSource(sysfs_root=str(tmp_path))
    await source.read()
    assert open_files() > 0
    await source.close()
    assert open_files() == 0
    assert len((await source.read()).rdma_ports) == 11, "it can be read again"
    await source.close()


async def test_a_source_is_closed_though_an_adapter_does_not_answer(tmp_path: Path) -> None:
    """The read that hangs goes on with files that still mean what they meant."""
    adapter = RdmaTree(tmp_path).add("mlx5_0", 0x18)
    state = adapter.port() / "state"
    state.unlink()
    os.mkfifo(state)  # opening it blocks, as a counter of dead firmware does
    source = RdmaSource(sysfs_root=str(tmp_path), deadline_seconds=0.05)
    with pytest.raises(SourceStuckError):
        await source.read()
    before = {each.name for each in threading.enumerate()}
    await source.close()
    await asyncio.to_thread(state.write_text, "4: ACTIVE\n")
    await until(lambda: before - {each.name for each in threading.enumerate()})


async def test_a_counter_is_current_though_its_file_stays_open(tmp_path: Path) -> None:
    adapter: Adapter = RdmaTree(tmp_path).add("mlx5_0", 0x18)
    source = RdmaSource(sysfs_root=str(tmp_path))
    for value in (3, 10, 4):
        adapter.set(counters__link_downed=value)
        (port,) = (await source.read()).rdma_ports
        assert port.link_downed_total == value
    await source.close()


def test_words_and_numbers() -> None:
    assert parse_rate("2.5 Gb/sec (1X SDR)") == (2.5e9, 1, "SDR")
    assert parse_rate("200 Gb/sec (2X NDR)") == (2e11, 2, "NDR")
    assert parse_rate("0 Gb/sec") == (0.0, None, "")
    assert parse_rate("fast") == (None, None, "")
    assert (parse_hex("0x1f"), parse_hex("0x0"), parse_hex(None), parse_hex("x")) == (
        *(31, 0),
        *(None, None),
    )
    assert (parse_transfers("2.5 GT/s PCIe"), parse_transfers("Unknown")) == (2.5e9, None)
