"""The sources over what they really read: a sysfs tree, a fifo, a file and this machine."""

import asyncio
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.snapshot import RdmaPort
from agent.sources import Reading, SourceAbsentError, SourceFailingError
from agent.sources.host import HostSource
from agent.sources.kmsg import KmsgSource
from agent.sources.rdma import RdmaSource, parse_rate
from agent.stats import AgentStats
from contract.vocabulary import Event
from tests.support import START, until

BOOT = START - 1000.0
XID_79 = b"NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus."


def write_port(root: Path, device: str, number: int = 1, /, **changes: str) -> None:
    """One port as the kernel shows it in sysfs, every file ending in a line end."""
    folder = root / "class" / "infiniband" / device / "ports" / str(number)
    (folder / "counters").mkdir(parents=True, exist_ok=True)
    files = {
        "link_layer": "InfiniBand",
        "state": "4: ACTIVE",
        "phys_state": "5: LinkUp",
        "rate": "400 Gb/sec (4X NDR)",
        "counters/link_downed": "3",
        "counters/port_rcv_data": "1000",
        "counters/port_xmit_data": "18446744073709551615",
        **changes,
    }
    for name, text in files.items():
        (folder / name).write_text(text + "\n")


async def rdma(root: Path) -> tuple[RdmaPort, ...]:
    return (await RdmaSource(sysfs_root=str(root)).read()).rdma_ports


async def test_every_port_in_our_units(tmp_path: Path) -> None:
    write_port(tmp_path, "mlx5_0")
    write_port(tmp_path, "mlx5_1", 2, link_layer="Ethernet", state="1: DOWN", rate="100 Gb/sec")
    write_port(tmp_path, "mlx5_1", 10, phys_state="3: Disabled")
    first, second, third = await rdma(tmp_path)
    assert first == RdmaPort(
        device="mlx5_0",
        port=1,
        link_layer="InfiniBand",
        state="ACTIVE",
        physical_state="LinkUp",
        rate_bits_per_second=4e11,
        link_downed_total=3,
        received_bytes_total=4000,
        transmitted_bytes_total=(2**64 - 1) * 4,
    )
    assert (second.port, second.link_layer, second.state) == (2, "Ethernet", "DOWN")
    assert (third.port, third.physical_state) == (10, "Disabled")


async def test_what_a_port_does_not_tell_is_none(tmp_path: Path) -> None:
    write_port(tmp_path, "mlx5_0", 1, **{"counters/link_downed": "n/a", "rate": "", "state": ""})
    counters = tmp_path / "class/infiniband/mlx5_0/ports/1/counters"
    (counters / "port_rcv_data").unlink()
    (port,) = await rdma(tmp_path)
    assert (port.link_downed_total, port.received_bytes_total) == (None, None)
    assert (port.rate_bits_per_second, port.state) == (None, "")
    assert port.transmitted_bytes_total is not None


async def test_a_machine_without_adapters_is_absent(tmp_path: Path) -> None:
    with pytest.raises(SourceAbsentError, match="no RDMA adapters"):
        await rdma(tmp_path)
    (tmp_path / "class" / "infiniband").mkdir(parents=True)
    with pytest.raises(SourceAbsentError, match="no RDMA adapters"):
        await rdma(tmp_path)


@pytest.mark.parametrize("what", ["class/infiniband", "class/infiniband/mlx5_0"])
async def test_the_last_adapter_that_vanishes_is_not_a_machine_without_any(
    tmp_path: Path, what: str
) -> None:
    write_port(tmp_path, "mlx5_0")
    source = RdmaSource(sysfs_root=str(tmp_path))
    assert len((await source.read()).rdma_ports) == 1
    (tmp_path / what).rename(tmp_path / "unplugged")
    assert await source.read() == Reading()
    (tmp_path / "unplugged").rename(tmp_path / what)
    assert len((await source.read()).rdma_ports) == 1


async def test_an_adapter_without_ports_hides_no_other(tmp_path: Path) -> None:
    (tmp_path / "class" / "infiniband" / "mlx5_0").mkdir(parents=True)
    write_port(tmp_path, "mlx5_1")
    assert [port.device for port in await rdma(tmp_path)] == ["mlx5_1"]


async def test_a_file_that_answers_einval_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each such read writes a line into the kernel log of a machine with restricted functions."""
    write_port(tmp_path, "mlx5_0")
    source = RdmaSource(sysfs_root=str(tmp_path))
    refused: list[str] = []
    read = os.read

    def reading(descriptor: int, count: int) -> bytes:
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if path.endswith("rate"):
            refused.append(path)
            raise OSError(errno.EINVAL, "Invalid argument")
        return read(descriptor, count)

    with monkeypatch.context() as patch:
        patch.setattr(os, "read", reading)
        for _ in range(3):
            (port,) = (await source.read()).rdma_ports
            assert (port.rate_bits_per_second, port.state) == (None, "ACTIVE")
    assert len(refused) == 1


def test_rates() -> None:
    assert parse_rate("2.5 Gb/sec (1X SDR)") == 2.5e9
    assert parse_rate("0 Gb/sec") == 0
    assert parse_rate("fast") is None


class Kmsg:
    """A kernel-log source and what came out of it."""

    def __init__(self, path: Path) -> None:
        self.events: list[Event] = []
        self.stats = AgentStats()
        self.source = KmsgSource(
            str(path),
            emit=self.events.append,
            stats=self.stats,
            clock=lambda: START,
            boot_seconds=BOOT,
        )

    async def lines(self, count: int) -> None:
        await until(lambda: self.stats.kmsg_lines >= count, what=lambda: self.stats.kmsg_lines)
        assert self.stats.kmsg_lines == count


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "kmsg"
    os.mkfifo(path)
    return path


@pytest.fixture
async def kmsg(fifo: Path) -> Any:
    """A source that reads the fifo already."""
    reader = Kmsg(fifo)
    await reader.source.read()
    yield reader
    await reader.source.close()


@pytest.fixture
def pipe(kmsg: Kmsg, fifo: Path) -> Iterator[Callable[[bytes], None]]:
    """Writes into the fifo from one descriptor that stays open."""
    with fifo.open("wb", buffering=0) as stream:
        yield lambda data: None if stream.write(data) == len(data) else pytest.fail("cut short")


async def test_an_event_leaves_the_moment_its_line_is_readable(
    kmsg: Kmsg, pipe: Callable[[bytes], None]
) -> None:
    pipe(b"6,8812,5000000,-;" + XID_79 + b"\n6,8813,1,-;usb 1-1: new device\n")
    await kmsg.lines(2)
    (event,) = kmsg.events
    assert (event.id, event.code, event.subject) == ("kmsg:8812", 79, "gpu:0000:3b:00.0")
    assert event.time_seconds == BOOT + 5


async def test_no_event_is_from_the_future(kmsg: Kmsg, pipe: Callable[[bytes], None]) -> None:
    pipe(b"6,1,99999999999999,-;" + XID_79 + b"\n" + XID_79 + b"\n")
    await kmsg.lines(2)
    assert [event.time_seconds for event in kmsg.events] == [START, START]
    assert len({event.id for event in kmsg.events}) == 2


async def test_a_line_cut_in_two_writes_is_one_line(
    kmsg: Kmsg, pipe: Callable[[bytes], None]
) -> None:
    pipe(b"first\n" + XID_79[:21])
    await kmsg.lines(1)
    assert kmsg.events == []
    pipe(XID_79[21:] + b"\n")
    await kmsg.lines(2)
    assert [event.code for event in kmsg.events] == [79]


async def test_the_fifo_survives_its_writer(kmsg: Kmsg, fifo: Path) -> None:
    for count in (1, 2, 3):
        await asyncio.to_thread(fifo.write_bytes, XID_79 + b"\n")  # opens, writes and leaves
        await kmsg.lines(count)
    assert await kmsg.source.read() == Reading()
    assert len(kmsg.events) == 3


async def test_a_fifo_without_a_writer_costs_nothing(
    kmsg: Kmsg, fifo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened for reading alone it would be readable for ever once a writer has left."""
    await asyncio.to_thread(fifo.write_bytes, XID_79 + b"\n")
    await kmsg.lines(1)
    reads: list[int] = []

    def reading(descriptor: int, _: int) -> bytes:
        reads.append(descriptor)
        return b""

    with monkeypatch.context() as patch:
        patch.setattr(os, "read", reading)
        for _ in range(20):
            await asyncio.sleep(0)
    assert reads == []


async def test_ten_thousand_lines_lose_none(kmsg: Kmsg, fifo: Path) -> None:
    lines = b"".join(
        b"6,%d,%d,-;NVRM: Xid (PCI:0000:3b:00): %d, pid=1\n" % (n, n, n % 200)
        for n in range(10_000)
    )
    await asyncio.to_thread(fifo.write_bytes, lines)
    await kmsg.lines(10_000)
    assert [event.id for event in kmsg.events] == [f"kmsg:{n}" for n in range(10_000)]
    assert kmsg.stats.kmsg_malformed == 0


@pytest.mark.parametrize("cut", [0, 1, 7, 8192, 65_536])
async def test_a_monstrous_line_is_clipped_counted_and_disturbs_no_other(
    kmsg: Kmsg, pipe: Callable[[bytes], None], cut: int
) -> None:
    monster = XID_79 + b"x" * 65_536 + b"NVRM: Xid (PCI:0000:3b:00): 13, inside"
    pipe(b"before\n")
    await kmsg.lines(1)
    pipe(monster[:cut])
    writing = asyncio.create_task(asyncio.to_thread(pipe, monster[cut:] + b"\n"))
    await writing
    await asyncio.to_thread(pipe, XID_79.replace(b"79", b"48") + b"\n\xff\xfebroken\nafter\n")
    await kmsg.lines(5)
    assert [event.code for event in kmsg.events] == [79, 48]
    assert kmsg.stats.kmsg_malformed == 2


async def test_a_file_is_read_as_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "dmesg"
    path.write_bytes(XID_79 + b"\nnoise\n" + XID_79[:10])
    reader = Kmsg(path)
    await reader.source.read()
    assert (len(reader.events), reader.stats.kmsg_lines) == (1, 2)
    with path.open("ab") as stream:
        stream.write(XID_79[10:] + b"\n")
    await reader.source.read()
    assert (len(reader.events), reader.stats.kmsg_lines) == (2, 3)
    await reader.source.close()
    await reader.source.close()


async def test_no_kernel_log_is_absent_until_there_is_one(tmp_path: Path) -> None:
    reader = Kmsg(tmp_path / "none")
    with pytest.raises(SourceAbsentError, match="no kernel log at"):
        await reader.source.read()
    (tmp_path / "none").write_bytes(XID_79 + b"\n")
    await reader.source.read()
    assert len(reader.events) == 1
    await reader.source.close()


async def test_what_cannot_be_read_is_failing_each_time(tmp_path: Path) -> None:
    reader = Kmsg(tmp_path)
    for _ in range(3):
        with pytest.raises(SourceFailingError, match="Is a directory"):
            await reader.source.read()


async def test_without_permission_it_says_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kmsg").touch()

    def refuse(*_: Any) -> int:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    reader = Kmsg(tmp_path / "kmsg")
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(SourceFailingError, match=r"Operation not permitted.*CAP_SYSLOG"):
            await reader.source.read()


async def test_this_machine(tmp_path: Path) -> None:
    host = (await HostSource(disk_paths=[str(tmp_path), str(tmp_path / "none")]).read()).host
    assert host is not None
    assert host.cpu_count >= 1
    assert host.cpu_utilization_ratio is not None
    assert 0 <= host.cpu_utilization_ratio <= 1
    assert host.memory_total_bytes is not None
    assert host.memory_available_bytes is not None
    assert 0 < host.memory_available_bytes <= host.memory_total_bytes
    assert host.uptime_seconds is not None
    assert host.uptime_seconds > 0
    (disk,) = host.disks
    assert disk.mount_point == str(tmp_path)
    assert 0 <= disk.available_bytes <= disk.total_bytes


async def test_a_mount_that_answers_with_an_error_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stale(_: str) -> os.statvfs_result:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(os, "statvfs", stale)
    with pytest.raises(SourceFailingError, match="statfs of /data: Stale file handle"):
        await HostSource(disk_paths=["/data"]).read()
