"""What the NVML process says, and what the source makes of it: no process here."""

import asyncio
import json
import mmap
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.snapshot import Gpu
from agent.sources import SourceAbsentError, SourceFailingError
from agent.sources import nvml_wire as wire
from agent.sources.nvml_process import NvmlChild
from agent.sources.nvml_roll import Roll

NODE = 8
IDENTITY = {"uuid", "pci_bus_id", "index", "model", "serial", "vbios_version", "lost"}


def raw(index: int, *, lost: bool | None = None, **changes: Any) -> wire.RawGpu:
    known = {"uuid": f"GPU-{index}", "bus": f"00000000:{index:02X}:00.0", "model": "H100"}
    return wire.RawGpu(index=index, lost=lost, **{**known, **changes})


def lost_ones(gpus: tuple[Gpu, ...]) -> list[str]:
    return [gpu.subject for gpu in gpus if gpu.lost]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("00000000:3B:00.0", "0000:3b:00.0"),
        ("0000:3B:00.0", "0000:3b:00.0"),
        ("00010000:01:00.0", "10000:01:00.0"),
        ("", ""),
        ("What:Now", "what:now"),
    ],
)
def test_bus_ids_are_those_of_the_kernel_log(text: str, expected: str) -> None:
    assert wire.bus_id(text) == expected


def test_what_was_not_measured_stays_none() -> None:
    gpu = wire.gpu(raw(0))
    measured = {name: getattr(gpu, name) for name in gpu.__struct_fields__ if name not in IDENTITY}
    said = {name: value for name, value in measured.items() if value is not None}
    assert said == {
        "reset_required": False,
        "nvlinks": (),
        "mig_instances": (),
        "process_ids": (),
        "profiling_absent": "",
    }


def test_units_are_ours() -> None:
    gpu = wire.gpu(
        raw(
            0,
            power_milliwatts=612_400,
            sm_clock_megahertz=1755,
            utilization_percent=7,
            duty_cycle_percent=47.5,
        )
    )
    assert (gpu.power_watts, gpu.sm_clock_hertz, gpu.utilization_ratio) == (612.4, 1.755e9, 0.07)
    assert gpu.duty_cycle_ratio == 0.475


def test_times_shares_and_traffic_are_in_base_units() -> None:
    gpu = wire.gpu(
        raw(
            0,
            power_violation_nanoseconds=2_500_000_000,
            hardware_thermal_nanoseconds=1_000_000_000,
            power_brake_nanoseconds=500_000_000,
            sm_active_percent=100.4,
            pcie_received_mebibytes_per_second=2,
            pcie_received_kilobytes_per_second=7,
            pcie_transmitted_kilobytes_per_second=8,
            remap_pending=1,
            remap_failed=0,
        )
    )
    assert gpu.power_violation_seconds_total == 2.5
    assert gpu.hardware_slowdown_seconds_total == 1.5
    assert gpu.power_brake_seconds_total == 0.5
    assert gpu.sm_active_ratio == 1.0
    assert gpu.pcie_received_bytes_per_second == 2 << 20
    assert gpu.pcie_transmitted_bytes_per_second == 8_000
    assert (gpu.remap_pending, gpu.remap_failed, gpu.retirement_pending) == (True, False, None)


def test_numbers_that_stand_for_unknown_are_not_measured() -> None:
    gpu = wire.gpu(raw(0, performance_state=32, pcie_width=0xFFFFFFFF, pcie_generation=5))
    assert (gpu.performance_state, gpu.pcie_width, gpu.pcie_generation) == (None, None, 5)


def test_a_gpu_that_must_be_reset_is_known_even_when_it_does_not_say_who_it_is() -> None:
    roll = Roll()
    roll.call([raw(0), raw(1)])
    mute = wire.RawGpu(index=1, reset_required=True)
    for waiting in (mute, wire.RawGpu(index=1, bus="00000000:01:00.0", reset_required=True)):
        gpus = roll.call([raw(0), waiting])
        assert [(gpu.uuid, gpu.subject, gpu.reset_required, gpu.lost) for gpu in gpus] == [
            ("GPU-0", "gpu:0000:00:00.0", False, False),
            ("GPU-1", "gpu:0000:01:00.0", True, False),
        ]


def test_a_gpu_that_must_be_reset_and_was_never_seen_is_there() -> None:
    (gpu,) = Roll().call([wire.RawGpu(index=3, reset_required=True)])
    assert (gpu.subject, gpu.reset_required, gpu.lost) == ("gpu:index-3", True, False)


def test_a_lost_gpu_keeps_its_identity_and_no_reading() -> None:
    roll = Roll()
    roll.call([raw(0, temperature_celsius=50, serial="S")])
    (gpu,) = roll.call([])
    assert gpu == Gpu(
        uuid="GPU-0", pci_bus_id="0000:00:00.0", index=0, model="H100", serial="S", lost=True
    )


def test_another_card_in_the_same_place_replaces_the_one_before() -> None:
    roll = Roll()
    roll.call([raw(0)])
    assert [gpu.uuid for gpu in roll.call([raw(0, uuid="GPU-new")])] == ["GPU-new"]
    assert [gpu.uuid for gpu in roll.call([])] == ["GPU-new"]


def test_a_card_that_moved_is_not_missed_in_its_old_place() -> None:
    roll = Roll()
    roll.call([raw(0), raw(1)])
    moved = roll.call([raw(0), raw(1, bus="00000000:99:00.0")])
    assert [gpu.pci_bus_id for gpu in moved] == ["0000:00:00.0", "0000:99:00.0"]


def test_an_expected_gpu_may_be_named_by_uuid_alone() -> None:
    roll = Roll([Gpu(uuid="GPU-1", pci_bus_id="", index=1)])
    assert [gpu.lost for gpu in roll.call([raw(0)])] == [False, True]
    assert [gpu.lost for gpu in roll.call([raw(0), raw(1)])] == [False, False]


def test_lost_gpus_without_a_name_are_matched_with_those_missing() -> None:
    nameless = [wire.RawGpu(index=index, lost=True) for index in (1, 2)]
    roll = Roll([Gpu(uuid="GPU-1", pci_bus_id="0000:01:00.0", index=1)])
    assert lost_ones(roll.call([raw(0), *nameless])) == ["gpu:0000:01:00.0", "gpu:index-2"]
    named = raw(1, lost=True)
    assert lost_ones(roll.call([raw(0), named, nameless[1]])) == ["gpu:0000:01:00.0", "gpu:index-2"]


def test_a_gpu_that_cannot_be_read_and_was_never_seen_is_not_called_lost() -> None:
    assert Roll().call([wire.RawGpu(index=0, lost=False)]) == ()


@pytest.mark.parametrize("code", ["LIBRARY_NOT_FOUND", "DRIVER_NOT_LOADED", "GPU_NOT_FOUND"])
def test_no_driver_is_a_fact_unless_there_were_gpus(code: str) -> None:
    assert isinstance(wire.reason(code, 0), SourceAbsentError)
    assert isinstance(wire.reason(code, 8), SourceFailingError)


def test_an_unknown_code_is_a_failure_with_its_name() -> None:
    error = wire.reason("NO_DATA", 0)
    assert isinstance(error, SourceFailingError)
    assert "NO_DATA" in str(error)


def test_an_xid_in_a_mig_instance_says_so() -> None:
    happened = wire.Happened(event="xid", bus="00000000:3B:00.0", data=94, gpu_instance=5)
    event = wire.event(happened, sequence=7, now=3.0)
    assert (event.id, event.subject, event.code) == ("nvml:7", "gpu:0000:3b:00.0/mig:5", 94)
    assert event.message == "NVML reports XID 94 in MIG instance 5"
    assert event.finding == "xid-94"


def test_an_event_without_a_number_raises_no_finding() -> None:
    happened = wire.Happened(event="gpu-unavailable", bus="00000000:3B:00.0", data=3)
    event = wire.event(happened, sequence=7, now=3.0)
    assert (event.kind, event.code, event.finding) == ("gpu-unavailable", None, "")
    assert event.message == "NVML reports the GPU unavailable"


@pytest.mark.parametrize(
    ("dial", "expected"),
    [
        (b"\4nvmlDeviceGetUUID".ljust(64), "nvmlDeviceGetUUID on GPU 3"),
        (b"\0nvmlInitWithFlags".ljust(64), "nvmlInitWithFlags"),
        (bytes(64), ""),
        (b"\4".ljust(64), ""),
    ],
)
def test_the_dial_names_the_call(dial: bytes, expected: str) -> None:
    assert wire.dialled(dial) == expected


class FakeTransport(asyncio.SubprocessTransport):
    """Takes what the parent writes and which signals it sends."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.signals: list[int] = []

    def get_pipe_transport(self, fd: int) -> asyncio.BaseTransport | None:
        del fd
        return cast(asyncio.BaseTransport, self)

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def send_signal(self, signal: int) -> None:
        self.signals.append(signal)

    def get_returncode(self) -> int | None:
        return 1

    def close(self) -> None:
        pass


@pytest.fixture
async def child() -> NvmlChild:
    child = NvmlChild(lambda *_: None, mmap.mmap(-1, 64))
    child.connection_made(FakeTransport())
    return child


def answer(request: int, driver: str = "570") -> bytes:
    frame = {"kind": "sample", "request": request, "driver": driver, "gpus": []}
    return json.dumps(frame).encode() + b"\n"


async def soon(child: NvmlChild, seconds: float = 5.0) -> "asyncio.Task[wire.Sample]":
    asked = asyncio.create_task(child.ask(asyncio.get_running_loop().time() + seconds))
    await asyncio.sleep(0)
    return asked


async def test_a_frame_may_come_in_pieces(child: NvmlChild) -> None:
    asked = await soon(child)
    for byte in answer(1, "piecewise"):
        child.pipe_data_received(1, bytes([byte]))
    assert (await asked).driver == "piecewise"


async def test_a_late_answer_is_thrown_away(child: NvmlChild) -> None:
    with pytest.raises(TimeoutError):
        await (await soon(child, 0.0))
    assert child.busy_since is not None
    child.pipe_data_received(1, answer(1, "late"))
    assert child.busy_since is None
    asked = await soon(child)
    child.pipe_data_received(1, answer(1, "late again") + answer(2, "new"))
    assert (await asked).driver == "new"


async def test_noise_ends_the_child_with_its_reason(child: NvmlChild) -> None:
    transport = cast(FakeTransport, child._transport)
    child.pipe_data_received(1, b"Segmentation fault\n")
    assert transport.signals == [9]
    assert "cannot be read" in child.last_words


async def test_a_line_without_end_ends_the_child(child: NvmlChild) -> None:
    child.pipe_data_received(1, b"x" * (1 << 20) + b"x")
    assert cast(FakeTransport, child._transport).signals == [9]


@given(st.lists(st.sets(st.integers(0, NODE - 1)), min_size=1, max_size=8))
def test_no_gpu_that_was_seen_is_ever_left_out(answering: list[set[int]]) -> None:
    roll = Roll()
    seen: set[int] = set()
    for indexes in answering:
        seen |= indexes
        gpus = roll.call([raw(index) for index in sorted(indexes)])
        assert {gpu.index for gpu in gpus} == seen
        assert {gpu.index for gpu in gpus if not gpu.lost} == indexes
