"""How busy a GPU is by its own counters, and why it does not say so. Over the stand-in."""

import pytest

from agent.snapshot import Gpu
from agent.sources import Reading
from agent.sources.nvidia import NvidiaSource
from tests.integration.nvidia.rig import NEEDS_STANDIN, Make, until, until_well
from tests.nvml.standin import GPM_METRICS, Fail, Scenario

pytestmark = NEEDS_STANDIN

MIB = 1 << 20


async def profiled(source: NvidiaSource) -> tuple[Gpu, ...]:
    """Once every GPU has profiling readings: two samples some tenths of a second apart."""
    reading = await until(
        source,
        lambda o: isinstance(o, Reading) and not any(gpu.profiling_absent for gpu in o.gpus),
    )
    assert isinstance(reading, Reading)
    return reading.gpus


async def test_shares_and_traffic_between_two_samples(make: Make) -> None:
    source = make()
    first = (await source.read()).gpus[0]
    assert first.sm_active_ratio is None
    assert first.profiling_absent == "the first sample was just taken"
    gpu = (await profiled(source))[0]
    assert (gpu.sm_active_ratio, gpu.sm_occupancy_ratio) == (0.925, 0.3125)
    assert (gpu.tensor_active_ratio, gpu.dram_active_ratio) == (0.485, 0.54)
    assert gpu.engine_active_ratio == 0.99
    assert gpu.pcie_transmitted_bytes_per_second == 2048 * MIB
    assert gpu.pcie_received_bytes_per_second == 1024 * MIB
    assert gpu.nvlink_received_bytes_per_second == 90_000 * MIB
    assert gpu.nvlink_transmitted_bytes_per_second == 91_000 * MIB


async def test_a_metric_that_is_missing_or_no_number_hides_no_other(
    make: Make, scenario: Scenario
) -> None:
    scenario.update(
        0,
        gpm={
            GPM_METRICS["sm"]: float("nan"),
            GPM_METRICS["tensor"]: Fail("not_supported"),
            GPM_METRICS["dram"]: 25.0,
        },
    )
    gpu = (await profiled(make()))[0]
    assert (gpu.sm_active_ratio, gpu.tensor_active_ratio) == (None, None)
    assert gpu.dram_active_ratio == 0.25


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"gpm_supported": 0, "architecture": 8}, "not supported before Hopper"),
        ({"gpm_supported": 0}, "not supported by this GPU"),
        ({"mig_mode": 1}, "not supported while MIG is on"),
        ({"gpm_supported": Fail("no_permission")}, "refused by the driver (NVML error 4)"),
    ],
)
async def test_its_absence_is_explained(
    make: Make, scenario: Scenario, changes: dict[str, int | Fail], why: str
) -> None:
    scenario.update(0, **changes)
    source = make()
    reading = await until(
        source, lambda o: isinstance(o, Reading) and o.gpus[0].profiling_absent == why
    )
    assert reading.gpus[0].sm_active_ratio is None
    assert reading.gpus[0].temperature_celsius == 62


async def test_a_driver_without_it_is_too_old(make: Make, scenario: Scenario) -> None:
    scenario.missing("nvmlGpmQueryDeviceSupport")
    gpu = (await make(environment=scenario.env()).read()).gpus[0]
    assert gpu.profiling_absent == "not supported by this driver: it is too old"


async def test_it_is_back_as_soon_as_mig_is_off(make: Make, scenario: Scenario) -> None:
    scenario.update(0, mig_mode=1)
    source = make()
    await until_well(source)
    scenario.update(0, mig_mode=0)
    assert (await profiled(source))[0].sm_active_ratio == 0.925


async def test_a_gpu_that_was_lost_starts_with_a_new_pair(make: Make, scenario: Scenario) -> None:
    source = make()
    await profiled(source)
    scenario.lose(0)
    assert (await source.read()).gpus[0].lost
    scenario.restore(0)
    gpu = (await source.read()).gpus[0]
    assert gpu.profiling_absent == "the first sample was just taken"
    assert (await profiled(source))[0].sm_active_ratio == 0.925


async def test_a_gpu_that_gives_no_metric_says_so(make: Make, scenario: Scenario) -> None:
    scenario.update(0, gpm={})
    why = "the driver has none of the metrics"
    reading = await until(
        make(), lambda o: isinstance(o, Reading) and o.gpus[0].profiling_absent == why
    )
    assert reading.gpus[1].sm_active_ratio == 0.925


async def test_one_failure_is_forgotten_soon(make: Make, scenario: Scenario) -> None:
    source = make()
    await profiled(source)
    scenario.fail("nvmlGpmSampleGet", "unknown", gpu=0)
    why = "refused by the driver (NVML error 999)"
    await until(source, lambda o: isinstance(o, Reading) and o.gpus[0].profiling_absent == why)
    scenario.unfail()
    assert (await profiled(source))[0].sm_active_ratio == 0.925
