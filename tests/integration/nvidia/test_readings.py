"""What the NVIDIA source reads over the real pynvml and the NVML stand-in: every process, pipe and struct is real."""

import time
from pathlib import Path

import pytest

from agent.snapshot import Gpu, NvLink
from agent.sources import Reading, SourceAbsentError, SourceFailingError
from tests.integration.nvidia.rig import NEEDS_STANDIN, TEMPERATURE, Make, until, until_well
from tests.nvml.standin import Fail, Scenario, h100_node

pytestmark = NEEDS_STANDIN


async def test_eight_healthy_gpus_in_our_units(make: Make) -> None:
    reading = await make().read()
    assert reading.driver_version == "570.124.06"
    assert [gpu.index for gpu in reading.gpus] == list(range(8))
    assert not any(gpu.lost for gpu in reading.gpus)
    first = reading.gpus[0]
    assert first.energy_joules_total == pytest.approx(86_400_000, rel=1e-4)
    wanted = Gpu(
        uuid="GPU-5f1ee700-1d1c-4a7e-8001-ac0ffee00000",
        pci_bus_id="0000:1b:00.0",
        index=0,
        model="NVIDIA H100 80GB HBM3",
        serial="1652923000100",
        vbios_version="96.00.89.00.01",
        temperature_celsius=62,
        memory_temperature_celsius=74,
        slowdown_temperature_celsius=89,
        shutdown_temperature_celsius=92,
        power_watts=612.4,
        power_limit_watts=700.0,
        energy_joules_total=first.energy_joules_total,
        utilization_ratio=0.98,
        memory_utilization_ratio=0.54,
        duty_cycle_ratio=0.98,
        memory_used_bytes=72 << 30,
        memory_total_bytes=81559 << 20,
        memory_reserved_bytes=551 << 20,
        sm_clock_hertz=1.755e9,
        process_count=1,
        ecc_corrected_total=0,
        ecc_uncorrected_total=0,
        recovery_action=0,
        clocks_event_reasons=4,
        ecc_corrected_aggregate_total=0,
        ecc_uncorrected_aggregate_total=0,
        ecc_sram_uncorrected_total=0,
        sram_threshold_exceeded=False,
        remapped_rows_corrected_total=0,
        remapped_rows_uncorrected_total=0,
        remap_pending=False,
        remap_failed=False,
        power_violation_seconds_total=0.0,
        thermal_violation_seconds_total=0.0,
        pcie_generation=5,
        pcie_generation_max=5,
        pcie_width=16,
        pcie_width_max=16,
        pcie_replays_total=0,
        sm_clock_max_hertz=1.98e9,
        memory_clock_hertz=2.619e9,
        performance_state=0,
        persistence_mode=True,
        nvlinks=tuple(
            NvLink(link=link, active=True, replays_total=0, recoveries_total=0, crc_errors_total=0)
            for link in range(18)
        ),
        fabric_state=3,
        fabric_status=0,
        fabric_health_mask=0x1AA,
        mig_enabled=False,
        process_ids=(4242,),
        profiling_absent="the first sample was just taken",
    )
    named = first.__struct_fields__
    assert {name: getattr(first, name) for name in named} == {
        name: getattr(wanted, name) for name in named
    }


async def test_values_change_while_it_runs(make: Make, scenario: Scenario) -> None:
    source = make()
    await source.read()
    scenario.update(5, temperature_celsius=91, recovery_action=2, ecc_volatile_uncorrected_dram=3)
    gpu = (await source.read()).gpus[5]
    assert (gpu.temperature_celsius, gpu.recovery_action, gpu.ecc_uncorrected_total) == (91, 2, 3)


async def test_a_lost_gpu_hides_no_other_and_comes_back(make: Make, scenario: Scenario) -> None:
    source = make()
    before = (await source.read()).gpus
    scenario.fail("*", "gpu_is_lost", gpu=3)
    after = (await source.read()).gpus
    assert [gpu.index for gpu in after if gpu.lost] == [3]
    assert (after[3].uuid, after[3].subject) == (before[3].uuid, before[3].subject)
    assert after[3].temperature_celsius is None
    assert [gpu.temperature_celsius for gpu in after if not gpu.lost] == [62] * 7
    scenario.unfail()
    assert not any(gpu.lost for gpu in (await source.read()).gpus)


async def test_a_gpu_that_must_be_reset_is_not_lost_and_tells_what_it_still_can(
    make: Make, scenario: Scenario
) -> None:
    source = make()
    before = (await source.read()).gpus[3]
    scenario.fail("nvmlDeviceGetPowerUsage", "reset_required", gpu=3)
    scenario.update(3, field_values={82: Fail("reset_required")}, temperature_celsius=50)
    gpus = (await source.read()).gpus
    assert [gpu.index for gpu in gpus if gpu.reset_required] == [3]
    assert not any(gpu.lost for gpu in gpus)
    gpu = gpus[3]
    assert (gpu.uuid, gpu.subject) == (before.uuid, before.subject)
    assert (gpu.power_watts, gpu.memory_temperature_celsius, gpu.temperature_celsius) == (
        None,
        None,
        50,
    )
    assert gpu.recovery_action == 0
    scenario.fail("*", "reset_required", gpu=3)
    gpu = (await source.read()).gpus[3]
    assert (gpu.uuid, gpu.subject) == (before.uuid, before.subject)
    assert (gpu.reset_required, gpu.lost, gpu.temperature_celsius) == (True, False, None)
    scenario.unfail()
    scenario.update(3, field_values={}, ecc_volatile_corrected_dram=1)
    await source.read()
    gpu = (await source.read()).gpus[3]
    assert (gpu.reset_required, gpu.power_watts, gpu.ecc_corrected_total) == (False, 612.4, 1)
    assert gpu.serial == before.serial


async def test_a_gpu_that_must_be_reset_from_the_start_is_there(
    make: Make, scenario: Scenario
) -> None:
    scenario.fail("*", "reset_required", gpu=1)
    gpus = (await make().read()).gpus
    assert [(gpu.subject, gpu.reset_required, gpu.lost) for gpu in gpus][1] == (
        "gpu:index-1",
        True,
        False,
    )
    assert len(gpus) == 8


async def test_a_gpu_that_the_driver_stops_listing_is_lost(make: Make, scenario: Scenario) -> None:
    source = make()
    gone = (await source.read()).gpus[7]
    scenario.count(7)
    after = (await source.read()).gpus
    assert [(gpu.uuid, gpu.subject) for gpu in after if gpu.lost] == [(gone.uuid, gone.subject)]
    scenario.count(None)
    assert not any(gpu.lost for gpu in (await source.read()).gpus)


async def test_an_expected_gpu_that_was_never_there_is_lost(make: Make, scenario: Scenario) -> None:
    scenario.set(gpus=h100_node(7))
    expected = Gpu(uuid="GPU-eighth", pci_bus_id="0000:db:00.0", index=7, model="H100")
    reading = await make(expected=[expected]).read()
    assert [(gpu.uuid, gpu.lost) for gpu in reading.gpus][7:] == [("GPU-eighth", True)]


async def test_a_gpu_lost_before_the_start_is_seen_as_lost(make: Make, scenario: Scenario) -> None:
    scenario.lose(1)
    reading = await make().read()
    assert [(gpu.subject, gpu.lost) for gpu in reading.gpus][1] == ("gpu:index-1", True)
    assert len(reading.gpus) == 8


async def test_without_the_library_there_is_nothing_to_watch(make: Make, tmp_path: Path) -> None:
    environment = {"LD_LIBRARY_PATH": str(tmp_path)}
    source = make(environment=environment, absent_retry_seconds=60.0)
    with pytest.raises(SourceAbsentError, match=r"libnvidia-ml\.so\.1 is not found"):
        await source.read()
    assert source.child_pids == ()
    started = time.monotonic()
    with pytest.raises(SourceAbsentError):
        await source.read()
    assert time.monotonic() - started < 0.02


async def test_a_driver_that_is_loaded_later_is_found(make: Make, scenario: Scenario) -> None:
    scenario.set(init="driver_not_loaded")
    source = make()
    with pytest.raises(SourceAbsentError, match="driver is not loaded"):
        await source.read()
    assert source.child_pids == ()
    scenario.set(init="success")
    assert len((await until_well(source)).gpus) == 8


async def test_a_driver_that_goes_away_from_known_gpus_is_a_fault(
    make: Make, scenario: Scenario
) -> None:
    source = make()
    await source.read()
    scenario.set(init="driver_not_loaded").fail("nvmlDeviceGetCount_v2", "driver_not_loaded")
    failure = await until(source, lambda o: not isinstance(o, Reading))
    assert isinstance(failure, SourceFailingError)
    assert "8 known GPUs" in str(failure)


async def test_a_node_with_no_gpu_left_has_lost_them_all(make: Make, scenario: Scenario) -> None:
    source = make()
    await source.read()
    scenario.count(0)
    reading = await source.read()
    assert [gpu.lost for gpu in reading.gpus] == [True] * 8


async def test_a_node_without_gpus_is_absent(make: Make, scenario: Scenario) -> None:
    scenario.set(gpus=[])
    with pytest.raises(SourceAbsentError, match="finds no GPU"):
        await make().read()


async def test_a_version_mismatch_names_its_code_and_what_helps(
    make: Make, scenario: Scenario
) -> None:
    scenario.set(init="lib_rm_version_mismatch")
    with pytest.raises(SourceFailingError, match=r"LIB_RM_VERSION_MISMATCH: .*reboot the node"):
        await make().read()


async def test_what_a_driver_or_a_gpu_does_not_know_is_none(make: Make, scenario: Scenario) -> None:
    scenario.missing(TEMPERATURE, "nvmlDeviceGetCurrentClocksEventReasons")
    scenario.missing("nvmlDeviceGetUtilizationRates", "nvmlDeviceGetMemoryInfo_v2")
    scenario.update(1, memory_temperature_celsius=None, ecc_mode=0, serial=None)
    source = make()
    for _ in range(2):
        gpus = (await source.read()).gpus
        assert gpus[0].utilization_ratio is None
        assert gpus[0].temperature_celsius == 62  # by the older call
        assert gpus[0].clocks_event_reasons == 4  # by the older call
        assert gpus[0].memory_total_bytes == 81559 << 20  # by the older call
        assert gpus[1].memory_temperature_celsius is None
        assert gpus[1].serial == ""
        assert gpus[1].energy_joules_total is not None
        assert not gpus[1].lost


async def test_a_reading_that_fails_for_once_is_none_for_once(
    make: Make, scenario: Scenario
) -> None:
    source = make()
    await source.read()
    scenario.fail("nvmlDeviceGetPowerUsage", "unknown", gpu=0)
    gpu = (await source.read()).gpus[0]
    assert (gpu.power_watts, gpu.temperature_celsius, gpu.lost) == (None, 62, False)
    scenario.unfail()
    assert (await source.read()).gpus[0].power_watts == 612.4
