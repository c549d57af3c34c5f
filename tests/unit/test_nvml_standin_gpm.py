"""The stand-in's profiling counters, and the fields whose ids depend on the driver, by the real pynvml bindings."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nvml.probe import Probe, ProbeError
from tests.nvml.standin import Fail, RetiredPage, Scenario, compiler, h100_node

if compiler() is None:
    pytest.skip("the NVML stand-in needs a C compiler (cc, or $CC)", allow_module_level=True)


@pytest.fixture
def scenario(tmp_path: Path) -> Scenario:
    return Scenario(tmp_path / "scenario").set(gpus=h100_node(2, busy=True))


@pytest.fixture
def nvml(scenario: Scenario) -> Iterator[Probe]:
    with Probe({**os.environ, **scenario.env()}) as child:
        yield child.start()


def code_of(child: Probe, code: str) -> int | None:
    with pytest.raises(ProbeError) as caught:
        child.ask(code)
    return caught.value.value


def pair(nvml: Probe, first: str = "h[0]", second: str = "h[0]") -> None:
    """Two samples, and what to ask of them: SM activity and NVDEC, which the scenario does not have."""
    nvml.ask("a, b = nvmlGpmSampleAlloc(), nvmlGpmSampleAlloc()")
    nvml.ask(f"nvmlGpmSampleGet({first}, a); nvmlGpmSampleGet({second}, b)")
    nvml.ask("m = c_nvmlGpmMetricsGet_t(version=1, numMetrics=2, sample1=a, sample2=b)")
    nvml.ask("m.metrics[0].metricId, m.metrics[1].metricId = 2, 30")


def test_metrics_of_two_samples(nvml: Probe) -> None:
    assert nvml.ask("nvmlGpmQueryDeviceSupport(h[0]).isSupportedDevice") == 1
    pair(nvml)
    nvml.ask("nvmlGpmMetricsGet(m)")
    assert nvml.ask("[(x.nvmlReturn, x.value) for x in m.metrics[:2]]") == [[0, 92.5], [3, 0.0]]
    nvml.ask("nvmlGpmSampleFree(a); nvmlGpmSampleFree(b)")


def test_samples_that_are_no_pair_are_refused(nvml: Probe) -> None:
    pair(nvml, second="h[1]")
    assert code_of(nvml, "nvmlGpmMetricsGet(m)") == 2
    pair(nvml)
    nvml.ask("m.sample1, m.sample2 = b, a")
    assert code_of(nvml, "nvmlGpmMetricsGet(m)") == 2
    nvml.ask("m.sample1, m.sample2 = a, nvmlGpmSampleAlloc()")
    assert code_of(nvml, "nvmlGpmMetricsGet(m)") == 2


def test_gpus_without_profiling(scenario: Scenario, nvml: Probe) -> None:
    scenario.update(0, gpm_supported=0)
    scenario.update(1, mig_mode=1)
    nvml.ask("a = nvmlGpmSampleAlloc()")
    assert nvml.ask("nvmlGpmQueryDeviceSupport(h[0]).isSupportedDevice") == 0
    assert code_of(nvml, "nvmlGpmSampleGet(h[0], a)") == 3
    assert code_of(nvml, "nvmlGpmSampleGet(h[1], a)") == 3
    scenario.lose(0)
    assert code_of(nvml, "nvmlGpmSampleGet(h[0], a)") == 15


def test_slowdown_times_have_the_ids_of_their_driver(scenario: Scenario, nvml: Probe) -> None:
    scenario.update(0, violation_hw_thermal_nanoseconds=5, violation_power_brake_nanoseconds=6)
    ask = "[(v.nvmlReturn, v.value.ullVal) for v in nvmlDeviceGetFieldValues(h[0], [252, 253, 270, 271])]"
    answers = {}
    for driver in ("570.124.06", "580.65.06", "580.159.04", "590.44.01"):
        scenario.set(driver_version=driver)
        answers[driver] = nvml.ask(ask)
    there, not_there, unknown = [[0, 5], [0, 6]], [[3, 0], [3, 0]], [[2, 0], [2, 0]]
    assert answers == {
        "570.124.06": unknown + unknown,
        "580.65.06": there + unknown,
        "580.159.04": not_there + there,
        "590.44.01": not_there + there,
    }


def test_retired_pages_are_counted_by_field(scenario: Scenario, nvml: Probe) -> None:
    scenario.update(
        0,
        retired_pages_single_bit=(RetiredPage(1), RetiredPage(2)),
        retired_pages_double_bit=Fail("unknown"),
    )
    ask = "[(v.nvmlReturn, v.value.ullVal) for v in nvmlDeviceGetFieldValues(h[{}], [29, 30, 31])]"
    assert nvml.ask(ask.format(0)) == [[0, 2], [999, 0], [3, 0]]
    assert nvml.ask(ask.format(1)) == [[3, 0], [3, 0], [3, 0]]


def test_the_first_version_of_fabric_info(scenario: Scenario, nvml: Probe) -> None:
    scenario.update(0, fabric_clique_id=3, fabric_status=5)
    nvml.ask("f = c_nvmlGpuFabricInfo_t()")
    nvml.ask("nvmlDeviceGetGpuFabricInfo(h[0], pynvml.pointer(f))")
    assert nvml.ask("[f.state, f.status, f.cliqueId]") == [3, 5, 3]
