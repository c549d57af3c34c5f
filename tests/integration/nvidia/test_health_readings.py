"""What is read now and then: errors of memory, PCIe, NVLink and fabric, MIG, processes. Over the stand-in."""

import asyncio
from collections.abc import Callable

from agent.snapshot import Gpu, MigInstance, NvLink
from agent.sources import Reading, SourceError
from agent.sources.nvidia import NvidiaSource
from contract.vocabulary import Event
from tests.integration.nvidia.rig import NEEDS_STANDIN, Make, until
from tests.nvml.standin import Fail, MigDevice, Process, RetiredPage, Scenario

pytestmark = NEEDS_STANDIN

SLOW_TICKS = 10
"""Readings after which each slow value has been asked again; ``nvml_child/values.py``."""


async def gpu_when(source: NvidiaSource, index: int, holds: Callable[[Gpu], object]) -> Gpu:
    """That GPU, once it is as wanted."""

    def wanted(outcome: Reading | SourceError) -> bool:
        return isinstance(outcome, Reading) and bool(holds(outcome.gpus[index]))

    reading = await until(source, wanted)
    assert isinstance(reading, Reading)
    return reading.gpus[index]


async def later(source: NvidiaSource, index: int) -> Gpu:
    """That GPU after every slow value has been asked again, and what that brought up too."""
    for _ in range(SLOW_TICKS + 2):
        await source.read()
    return (await source.read()).gpus[index]


async def test_memory_errors_of_every_kind(make: Make, scenario: Scenario) -> None:
    scenario.update(
        2,
        ecc_aggregate_corrected_dram=5,
        ecc_aggregate_uncorrected_sram=6,
        ecc_volatile_uncorrected_sram=4,
        sram_threshold_exceeded=1,
        remapped_rows_correctable=1,
        remapped_rows_uncorrectable=2,
        remapped_rows_pending=1,
        remapped_rows_failure=1,
    )
    gpu = (await make().read()).gpus[2]
    assert gpu.ecc_corrected_aggregate_total == 5
    assert gpu.ecc_uncorrected_aggregate_total == 6
    assert (gpu.ecc_sram_uncorrected_total, gpu.sram_threshold_exceeded) == (4, True)
    assert gpu.ecc_uncorrected_total == 4
    assert (gpu.remapped_rows_corrected_total, gpu.remapped_rows_uncorrected_total) == (1, 2)
    assert (gpu.remap_pending, gpu.remap_failed) == (True, True)
    assert gpu.retired_pages_single_bit_total is None


async def test_a_board_before_ampere_retires_pages(make: Make, scenario: Scenario) -> None:
    pages = tuple(RetiredPage(0x1000 * number) for number in range(3))
    scenario.update(
        0,
        retired_pages_single_bit=pages,
        retired_pages_double_bit=pages[:1],
        retired_pages_pending=1,
        remapped_rows_correctable=None,
        remapped_rows_uncorrectable=None,
        remapped_rows_pending=None,
        remapped_rows_failure=None,
        sram_threshold_exceeded=None,
    )
    gpu = (await make().read()).gpus[0]
    assert (gpu.retired_pages_single_bit_total, gpu.retired_pages_double_bit_total) == (3, 1)
    assert gpu.retirement_pending is True
    assert (gpu.remap_pending, gpu.remapped_rows_corrected_total) == (None, None)
    assert (gpu.ecc_sram_uncorrected_total, gpu.sram_threshold_exceeded) == (0, None)


async def test_slow_values_follow_within_ten_samples(make: Make, scenario: Scenario) -> None:
    source = make()
    await source.read()
    scenario.update(4, remapped_rows_pending=1, pcie_width=8, performance_state=2)
    gpu = await later(source, 4)
    assert (gpu.remap_pending, gpu.pcie_width, gpu.pcie_width_max) == (True, 8, 16)
    assert gpu.performance_state == 2


async def test_a_slow_value_that_fails_hides_no_other(make: Make, scenario: Scenario) -> None:
    source = make()
    await source.read()
    scenario.fail("nvmlDeviceGetCurrPcieLinkGeneration", "unknown", gpu=1)
    scenario.update(1, field_values={144: Fail("unknown")}, pcie_width=4)
    gpu = await later(source, 1)
    assert (gpu.pcie_generation, gpu.remap_pending, gpu.lost) == (None, None, False)
    assert (gpu.pcie_width, gpu.remap_failed, gpu.temperature_celsius) == (4, False, 62)


async def test_time_under_limits_by_the_numbers_of_each_driver(
    make: Make, scenario: Scenario
) -> None:
    scenario.update(
        0,
        violation_power_nanoseconds=3 * 10**9,
        violation_thermal_nanoseconds=2 * 10**9,
        violation_hw_thermal_nanoseconds=10**9,
        violation_power_brake_nanoseconds=5 * 10**8,
    )
    gpu = (await make().read()).gpus[0]
    assert (gpu.power_violation_seconds_total, gpu.thermal_violation_seconds_total) == (3.0, 2.0)
    assert gpu.hardware_slowdown_seconds_total is None  # a 570 driver does not count it
    for driver in ("575.57.08", "580.65.06", "580.159.04", "590.44.01"):
        scenario.set(driver_version=driver)
        gpu = (await make().read()).gpus[0]
        assert (gpu.hardware_slowdown_seconds_total, gpu.power_brake_seconds_total) == (1.5, 0.5)


async def test_links_tell_their_state_and_their_errors(make: Make, scenario: Scenario) -> None:
    scenario.update(
        0,
        nvlinks={
            3: {"active": 0},
            4: {"active": 2, "replay": 7, "recovery": 1, "crc_flit": 12},
            5: {"active": 9},
        },
    )
    links = (await make().read()).gpus[0].nvlinks
    assert [link.link for link in links] == list(range(18))
    assert [links[number].active for number in (2, 3, 4, 5)] == [True, False, True, None]
    assert links[4] == NvLink(
        link=4, active=True, replays_total=7, recoveries_total=1, crc_errors_total=12
    )


async def test_links_that_a_gpu_does_not_have_are_not_inactive(
    make: Make, scenario: Scenario
) -> None:
    refused = Fail("not_supported")
    ids = (161, 162, 163, 165, 215)
    scenario.update(0, nvlink_count=0)
    scenario.update(1, nvlink_count=None)
    scenario.update(2, nvlink_count=4, field_values={(number, 3): refused for number in ids})
    source = make()
    assert (await source.read()).gpus[0].nvlinks == ()
    gpus = (await source.read()).gpus
    assert gpus[1].nvlinks == ()
    assert [link.link for link in gpus[2].nvlinks] == [0, 1, 2]


async def test_links_of_old_drivers_and_of_blackwell(make: Make, scenario: Scenario) -> None:
    refused = Fail("not_supported")
    old = dict.fromkeys((161, 162, 163, 165), refused)
    legacy = dict.fromkeys((*range(32, 60), *range(96, 120)), refused)
    scenario.update(
        0,
        nvlink_count=12,
        field_values=old,
        nvlinks={8: {"active": 0, "replay": 3, "recovery": 2, "crc_flit": 4, "crc_data": 5}},
    )
    scenario.update(
        1,
        nvlink_recovery_events=36,
        nvlinks={2: {"recovery_events": 9}},
        field_values={**legacy, **dict.fromkeys((161, 162, 163), refused)},
    )
    source = make()
    gpu = await gpu_when(
        source, 0, lambda gpu: gpu.nvlinks and gpu.nvlinks[0].recoveries_total is not None
    )
    assert len(gpu.nvlinks) == 12
    assert gpu.nvlinks[8] == NvLink(
        link=8, active=False, replays_total=3, recoveries_total=2, crc_errors_total=9
    )
    gpu = await gpu_when(
        source, 1, lambda gpu: gpu.nvlinks and gpu.nvlinks[2].recoveries_total is not None
    )
    assert gpu.nvlinks[2] == NvLink(link=2, active=True, recoveries_total=9)
    assert gpu.nvlinks[3].replays_total is None


async def test_the_fabric_by_every_version_of_the_call(make: Make, scenario: Scenario) -> None:
    scenario.update(0, fabric_state=2, fabric_status=21, fabric_health_mask=0x1A9)
    gpu = (await make().read()).gpus[0]
    assert (gpu.fabric_state, gpu.fabric_status, gpu.fabric_health_mask) == (2, 21, 0x1A9)
    scenario.missing("nvmlDeviceGetGpuFabricInfoV")
    gpu = (await make(environment=scenario.env()).read()).gpus[0]
    assert (gpu.fabric_state, gpu.fabric_status, gpu.fabric_health_mask) == (2, 21, None)


async def test_processes_are_told_by_their_ids(make: Make, scenario: Scenario) -> None:
    source = make()
    await source.read()
    twice = (Process(pid=9, gpu_instance=1), Process(pid=9, gpu_instance=2), Process(pid=4))
    scenario.update(6, compute_processes=twice)
    gpu = await later(source, 6)
    assert (gpu.process_ids, gpu.process_count) == ((4, 9), 3)
    scenario.update(6, compute_processes=())
    gpu = await later(source, 6)
    assert (gpu.process_ids, gpu.process_count) == ((), 0)


async def test_mig_instances_are_seen_as_soon_as_the_mode_is_on(
    make: Make, scenario: Scenario
) -> None:
    source = make()
    assert (await source.read()).gpus[0].mig_enabled is False
    instances = tuple(
        MigDevice(uuid=f"MIG-{place}", gpu_instance_id=7 + place, memory_used_bytes=11)
        for place in range(2)
    )
    scenario.update(0, mig_mode=1, mig_devices=instances)
    gpu = await later(source, 0)
    assert gpu.mig_enabled is True
    assert gpu.mig_instances[0] == MigInstance(
        uuid="MIG-0",
        gpu_instance=7,
        compute_instance=0,
        memory_used_bytes=11,
        memory_total_bytes=10_468_982_784,
    )
    assert gpu.mig_instances[1].subject(gpu) == "gpu:0000:1b:00.0/mig:8"
    scenario.update(0, mig_mode=0, mig_devices=())
    gpu = await later(source, 0)
    assert (gpu.mig_enabled, gpu.mig_instances) == (False, ())


async def test_instances_of_a_divided_gpu_come_and_go(make: Make, scenario: Scenario) -> None:
    first = MigDevice(uuid="MIG-a", gpu_instance_id=1)
    scenario.update(0, mig_mode=1, mig_devices=(first,))
    source = make()
    assert [each.uuid for each in (await source.read()).gpus[0].mig_instances] == ["MIG-a"]
    scenario.update(0, mig_devices=(first, MigDevice(uuid="MIG-b", gpu_instance_id=2)))
    gpu = await gpu_when(source, 0, lambda gpu: len(gpu.mig_instances) == 2)
    assert [each.gpu_instance for each in gpu.mig_instances] == [1, 2]


async def test_what_the_driver_says_of_its_own_accord_is_an_event(
    make: Make, scenario: Scenario, events: asyncio.Queue[Event]
) -> None:
    scenario.update(6, supported_event_types=0x1F | 0x4000)
    source = make()
    await source.read()
    async with asyncio.timeout(10):
        while events.empty():  # the child asks for events just after it starts to answer
            scenario.event(6, "single_bit_ecc")
            scenario.event(6, "gpu_unavailable")
            await asyncio.sleep(0.05)
    event = await events.get()
    assert (event.kind, event.subject, event.code) == ("gpu-unavailable", "gpu:0000:d1:00.0", None)
    assert event.finding == ""


async def test_a_gpu_without_mig_says_nothing_of_it(make: Make, scenario: Scenario) -> None:
    scenario.update(0, mig_mode=None)
    gpu = (await make().read()).gpus[0]
    assert (gpu.mig_enabled, gpu.mig_instances) == (None, ())


async def test_traffic_on_pcie_by_the_drivers_own_sample_where_profiling_has_none(
    make: Make, scenario: Scenario
) -> None:
    scenario.update(
        0, gpm_supported=0, pcie_tx_kilobytes_per_second=70, pcie_rx_kilobytes_per_second=9_000
    )
    scenario.update(1, gpm_supported=0, pcie_tx_kilobytes_per_second=None)
    source = make()
    gpu = await gpu_when(source, 0, lambda gpu: gpu.pcie_received_bytes_per_second is not None)
    assert gpu.pcie_received_bytes_per_second == 9e6
    assert gpu.pcie_transmitted_bytes_per_second == 70e3
    gpu = await later(source, 1)
    assert gpu.pcie_received_bytes_per_second == 1.9e9
    assert gpu.pcie_transmitted_bytes_per_second is None
