"""A load that comes and goes, over the real pynvml and the stand-in: what it is said to be."""

import os

from tests.integration.nvidia.rig import NEEDS_STANDIN, Make
from tests.nvml.probe import Probe
from tests.nvml.standin import Fail, Scenario

pytestmark = NEEDS_STANDIN

NEWEST = 1_795_737_200_000_000
HALF = (98, 98, 44, 0, 0)


async def test_half_a_load_that_is_on_whenever_we_ask(make: Make, scenario: Scenario) -> None:
    scenario.update(0, utilization_samples=HALF, gpu_utilization_percent=98)
    scenario.update(1, utilization_samples=HALF, gpu_utilization_percent=0)
    gpus = (await make().read()).gpus
    assert [each.utilization_ratio for each in gpus[:3]] == [0.98, 0.0, 0.98]
    half, other, steady = (each.duty_cycle_ratio for each in gpus[:3])
    assert half is not None
    assert other is not None
    assert 0.465 < half < 0.495
    assert 0.465 < other < 0.495
    assert steady == 0.98


async def test_a_driver_or_a_gpu_without_samples_still_has_its_utilization(
    make: Make, scenario: Scenario
) -> None:
    scenario.update(0, utilization_samples=None)
    scenario.update(1, utilization_samples=Fail("not_found"))
    scenario.update(2, utilization_samples=Fail("no_permission"))
    source = make()
    for _ in range(2):
        gpus = (await source.read()).gpus
        assert [each.duty_cycle_ratio for each in gpus] == [None] * 3 + [0.98] * 5
        assert {each.utilization_ratio for each in gpus} == {0.98}
    old = scenario.missing("nvmlDeviceGetSamples").env()
    gpus = (await make(environment=old).read()).gpus
    assert {(each.duty_cycle_ratio, each.utilization_ratio) for each in gpus} == {(None, 0.98)}


async def test_a_gpu_that_is_lost_has_none_and_starts_anew(make: Make, scenario: Scenario) -> None:
    source = make()
    assert (await source.read()).gpus[3].duty_cycle_ratio == 0.98
    scenario.update(3, utilization_samples=(20,), lost=True)
    assert (await source.read()).gpus[3].duty_cycle_ratio is None
    scenario.restore(3)
    assert (await source.read()).gpus[3].duty_cycle_ratio == 0.2


async def test_one_that_fails_is_none_for_once_and_hides_no_other(
    make: Make, scenario: Scenario
) -> None:
    scenario.fail("nvmlDeviceGetSamples", "unknown", gpu=0)
    source = make()
    gpus = (await source.read()).gpus
    assert (gpus[0].duty_cycle_ratio, gpus[0].power_watts) == (None, 612.4)
    assert gpus[1].duty_cycle_ratio == 0.98
    scenario.unfail()
    assert (await source.read()).gpus[0].duty_cycle_ratio == 0.98


def test_reading_after_reading_has_what_came_since(scenario: Scenario) -> None:
    """By a clock of the test's own, that nobody has to wait ten seconds."""

    def newest(seconds: int, *pattern: int) -> None:
        scenario.update(
            0,
            utilization_samples=pattern,
            utilization_samples_newest_microseconds=NEWEST + seconds * 1_000_000,
        )

    newest(0, 40)
    with Probe({**os.environ, **scenario.env()}) as child:
        child.start()
        child.ask("from agent.sources.nvml_child.duty import Duty")
        child.ask("now, dial = [0.0], type('Dial', (), {'turn': print})()")
        child.ask("dial.turn = lambda function, gpu: None")
        child.ask("duty = Duty(clock=lambda: now[0])")

        def at(seconds: float) -> object:
            child.ask(f"now[0] = {seconds}")
            return child.ask("duty.read(h[0], 0, 1, dial)").get("duty_cycle_percent")

        assert at(0) == 40
        newest(10, 60)
        assert [at(second) for second in range(1, 10)] == [40] * 9, "until the next reading"
        assert at(10) == 60, "and that has nothing of the time before"
        newest(20, 0, 100)
        assert at(20) == 50
        newest(20 - 3600, 80)
        assert at(30) == 80, "the clock was set back an hour"
