"""The sources over what they really read: a sysfs tree, a fifo, a file and this machine."""

import asyncio
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.snapshot import Host
from agent.sources import Reading, SourceAbsentError, SourceFailingError
from agent.sources.host import HostSource
from agent.sources.kmsg import KmsgSource
from agent.sources.procfs import (
    Processes,
    Timex,
    clock_fields,
    limits,
    memory_controllers,
    parse_stat,
)
from agent.stats import AgentStats
from contract.vocabulary import Event
from tests.support import START, until

BOOT = START - 1000.0
XID_79 = b"NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus."


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


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as stream:
        stream.write(data)


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
    path.write_bytes(b"noise\n" + XID_79[:10])
    reader = Kmsg(path)
    await reader.source.read()
    assert reader.events == []
    append(path, XID_79[10:] + b"\n")
    await reader.source.read()
    assert (len(reader.events), reader.stats.kmsg_lines) == (1, 1)
    await reader.source.close()
    await reader.source.close()


@pytest.mark.parametrize("before", [b"", b"noise\n" * 20_000])
async def test_a_log_without_numbers_is_not_judged_again_by_the_next_run(
    tmp_path: Path, before: bytes
) -> None:
    path = tmp_path / "dmesg"
    path.write_bytes(before + XID_79 + b"\n")
    for _ in range(2):
        reader = Kmsg(path)
        await reader.source.read()
        assert reader.events == []
        append(path, XID_79 + b"\n")
        await reader.source.read()
        await reader.source.read()
        assert len(reader.events) == 1
        await reader.source.close()


async def test_records_with_numbers_are_read_from_the_oldest(tmp_path: Path) -> None:
    """Which of them were judged before, their numbers say."""
    path = tmp_path / "kmsg"
    path.write_bytes(b" DEVICE=+pci:0000:3b:00.0\n6,7,5000000,-;" + XID_79 + b"\n")
    reader = Kmsg(path)
    await reader.source.read()
    assert [event.id for event in reader.events] == ["kmsg:7"]
    await reader.source.close()


async def test_a_log_that_is_cut_is_read_from_its_new_start(tmp_path: Path) -> None:
    path = tmp_path / "dmesg"
    path.write_bytes(b"noise\n" * 100 + XID_79[:20])
    reader = Kmsg(path)
    await reader.source.read()
    path.write_bytes(XID_79 + b"\n")
    await reader.source.read()
    append(path, XID_79 + b"\n")
    await reader.source.read()
    assert [event.code for event in reader.events] == [79, 79]
    await reader.source.close()


async def test_a_log_that_is_renamed_is_read_to_its_end_then_the_new_one_from_its_start(
    tmp_path: Path,
) -> None:
    path = tmp_path / "dmesg"
    path.write_bytes(b"noise\n")
    reader = Kmsg(path)
    await reader.source.read()
    old = path.rename(tmp_path / "dmesg.1")
    append(old, XID_79.replace(b"79", b"48") + b"\n")
    assert await reader.source.read() == Reading(), "for a moment there is none"
    path.write_bytes(XID_79 + b"\n")
    await reader.source.read()
    append(path, XID_79.replace(b"79", b"95") + b"\n")
    await reader.source.read()
    assert [event.code for event in reader.events] == [48, 79, 95]
    await reader.source.close()


async def test_a_step_of_the_clock_moves_no_later_record(tmp_path: Path) -> None:
    """The time base is asked for each record: at boot the clock may be hours off until NTP sets it."""
    path = tmp_path / "kmsg"
    path.touch()
    now = [START]
    events: list[Event] = []
    source = KmsgSource(
        str(path),
        emit=events.append,
        stats=AgentStats(),
        clock=lambda: now[0],
        boot_seconds=lambda: now[0] - 1000.0,
    )
    await source.read()
    append(path, b"6,1,990000000,-;" + XID_79 + b"\n")
    await source.read()
    now[0] += 8 * 3600
    append(path, b"6,2,995000000,-;" + XID_79 + b"\n")
    await source.read()
    assert [event.time_seconds - START for event in events] == [-10, 8 * 3600 - 5]
    await source.close()


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
    assert disk.read_only is False
    (missing,) = host.unreadable_disks
    assert (missing.mount_point, missing.state) == (str(tmp_path / "none"), "missing")


async def test_what_this_machine_tells_seldom() -> None:
    source = HostSource(disk_paths=[])
    host = await until_async(source, lambda host: host.processes is not None)
    assert host.processes is not None
    assert host.processes >= 1  # at least this one
    assert host.threads is not None
    assert host.threads_max is not None
    assert 0 < host.threads < host.threads_max
    assert host.open_files is not None
    assert host.open_files_max is not None
    assert 0 < host.open_files < host.open_files_max
    assert host.swap_free_bytes is not None
    assert host.oom_kills_total is not None
    assert host.clock_synchronised in (True, False)
    assert host.clock_offset_seconds is not None
    assert abs(host.clock_offset_seconds) < 3600
    await source.close()


async def until_async(source: HostSource, holds: Callable[[Host], bool]) -> Host:
    """The first reading of the machine of which it holds."""
    async with asyncio.timeout(20):
        while True:
            host = (await source.read()).host
            assert host is not None
            if holds(host):
                return host
            await asyncio.sleep(0.01)


async def test_a_disk_that_answers_with_an_error_is_named_and_hides_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    statvfs = os.statvfs

    def stale(path: str) -> os.statvfs_result:
        if path == "/data":
            raise OSError(errno.ESTALE, "Stale file handle")
        return statvfs(path)

    monkeypatch.setattr(os, "statvfs", stale)
    source = HostSource(disk_paths=["/", "/data"])
    host = await until_async(source, lambda host: len(host.unreadable_disks) == 1)
    assert [disk.mount_point for disk in host.disks] == ["/"]
    (disk,) = host.unreadable_disks
    assert (disk.mount_point, disk.state, disk.reason) == ("/data", "failing", "Stale file handle")
    await source.close()


def write_process(root: Path, pid: int, name: str, state: str, switches: int) -> None:
    """One process as /proc shows it; it started at tick 100 after boot."""
    folder = root / str(pid)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stat").write_text(f"{pid} ({name}) {state} 1 {'0 ' * 17}100 0 0\n")
    (folder / "status").write_text(
        f"Name:\t{name}\nvoluntary_ctxt_switches:\t{switches}\nnonvoluntary_ctxt_switches:\t0\n"
    )


def test_a_process_is_blocked_as_long_as_it_was_seen_so_and_did_nothing(tmp_path: Path) -> None:
    processes = Processes(str(tmp_path))

    def scan(at: float, *, switches: int, state: str = "D") -> dict[str, float]:
        write_process(tmp_path, 7, "stuck (D) x", "D", 12)
        write_process(tmp_path, 8, "busy writer", state, switches)
        write_process(tmp_path, 9, "gone", "Z", 1)
        read = processes.scan(at)
        assert (read["processes"], read["zombie_processes"]) == (3, 1)
        return {each.name: each.seconds for each in read["blocked_processes"]}

    assert scan(1000.0, switches=5) == {}
    assert scan(1060.0, switches=605) == {"stuck (D) x": 60, "busy writer": 60}
    assert scan(1120.0, switches=1206) == {"stuck (D) x": 120}  # more than ten waits a second
    assert scan(1180.0, switches=1206) == {"stuck (D) x": 180, "busy writer": 60}
    assert scan(1240.0, switches=1206, state="S") == {"stuck (D) x": 240}
    assert scan(1300.0, switches=1206) == {"stuck (D) x": 300}


def test_another_process_under_the_same_number_is_another(tmp_path: Path) -> None:
    processes = Processes(str(tmp_path))
    write_process(tmp_path, 7, "old", "D", 1)
    processes.scan(0.0)
    stat = tmp_path / "7" / "stat"
    stat.write_text(stat.read_text().replace("(old)", "(new)").replace(" 100 ", " 900 "))
    assert processes.scan(60.0)["blocked_processes"] == ()


@given(st.binary(max_size=200))
def test_no_content_of_a_process_file_is_an_error(content: bytes) -> None:
    parse_stat(content.decode("utf-8", "replace"))


def test_limits_that_cannot_be_read_are_not_there(tmp_path: Path) -> None:
    assert limits(str(tmp_path)) == {}
    (tmp_path / "sys" / "fs").mkdir(parents=True)
    (tmp_path / "sys" / "fs" / "file-nr").write_text("17\t0\t9223372036854775807\n")
    (tmp_path / "sys" / "kernel").mkdir()
    (tmp_path / "sys" / "kernel" / "pid_max").write_text("4194304\n")
    (tmp_path / "sys" / "kernel" / "threads-max").write_text("100000\n")
    (tmp_path / "loadavg").write_text("0.1 0.2 0.3 4/812 12345\n")
    (tmp_path / "meminfo").write_text("MemTotal: 8 kB\nSwapTotal:     2048 kB\nSwapFree: 1024 kB\n")
    (tmp_path / "vmstat").write_text("pgfault 1\noom_kill 3\n")
    assert limits(str(tmp_path)) == {
        "open_files": 17,
        "open_files_max": 9223372036854775807,
        "threads": 812,
        "threads_max": 100_000,
        "oom_kills_total": 3,
        "swap_total_bytes": 2048 * 1024,
        "swap_free_bytes": 1024 * 1024,
    }
    for file in ("sys/fs/file-nr", "loadavg", "meminfo", "vmstat", "sys/kernel/pid_max"):
        (tmp_path / file).write_text("?")
    assert limits(str(tmp_path)) == {}


def test_what_each_memory_controller_counted(tmp_path: Path) -> None:
    assert memory_controllers(str(tmp_path)) == ()
    folder = tmp_path / "devices" / "system" / "edac" / "mc"
    for name, corrected, uncorrected in (("mc0", "12\n", "0\n"), ("mc1", "?", "2\n")):
        (folder / name).mkdir(parents=True)
        (folder / name / "ce_count").write_text(corrected)
        (folder / name / "ue_count").write_text(uncorrected)
    (folder / "power").mkdir()
    first, second = memory_controllers(str(tmp_path))
    assert (first.subject, first.corrected_errors_total, first.uncorrected_errors_total) == (
        "memory:mc0",
        12,
        0,
    )
    assert (second.corrected_errors_total, second.uncorrected_errors_total) == (None, 2)


@pytest.mark.parametrize(
    ("state", "status", "offset", "error", "expected"),
    [
        (0, 0x2001, -1_500_000_000, 800, (True, -1.5, 0.0008)),  # nanoseconds
        (0, 0x0001, 2_000_000, 1_200_000, (True, 2.0, 1.2)),  # microseconds
        (5, 0x0040, 0, 16_000_000, (False, 0.0, None)),
        (0, 0x0040, 0, 16_000_000, (False, 0.0, None)),
    ],
)
def test_the_kernels_clock_in_our_units(
    state: int, status: int, offset: int, error: int, expected: tuple[Any, ...]
) -> None:
    answer = Timex(status=status, offset=offset, esterror=error)
    read = clock_fields(state, answer)
    assert tuple(read.values()) == expected
