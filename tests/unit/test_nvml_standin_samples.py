"""The stand-in's samples of utilization, by the real pynvml bindings: as an H200's driver (580.159.04) gave them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nvml.probe import Probe, ProbeError
from tests.nvml.standin import Fail, Scenario, compiler, h100_node

if compiler() is None:
    pytest.skip("the NVML stand-in needs a C compiler (cc, or $CC)", allow_module_level=True)

STEP = 200_000
NEWEST = 1_795_737_200_000_000
"""Microseconds, as the time stamps are."""


@pytest.fixture
def scenario(tmp_path: Path) -> Scenario:
    scenario = Scenario(tmp_path / "scenario").set(gpus=h100_node(2, busy=True))
    return scenario.update(
        0, utilization_samples=(0, 98, 44), utilization_samples_newest_microseconds=NEWEST
    )


@pytest.fixture
def nvml(scenario: Scenario) -> Iterator[Probe]:
    with Probe({**os.environ, **scenario.env()}) as child:
        yield child.start()


def samples(child: Probe, seen: int = 0, *, kind: int = 1, gpu: int = 0) -> list[tuple[int, int]]:
    value_type, told = child.ask(
        f"(lambda a: (a[0], [(s.timeStamp, s.sampleValue.uiVal) for s in a[1]]))"
        f"(nvmlDeviceGetSamples(h[{gpu}], {kind}, {seen}))"
    )
    assert value_type == 1
    return [(stamp, value) for stamp, value in told]


def code_of(child: Probe, seen: int = 0, *, kind: int = 1) -> int | None:
    with pytest.raises(ProbeError) as caught:
        samples(child, seen, kind=kind)
    return caught.value.value


def test_the_last_fourteen_seconds_in_steps_of_a_fifth(nvml: Probe) -> None:
    told = samples(nvml)
    assert [stamp for stamp, _ in told] == [NEWEST - STEP * back for back in range(70, -1, -1)]
    assert [value for _, value in told] == [(0, 98, 44)[stamp // STEP % 3] for stamp, _ in told]


def test_only_what_is_newer_than_the_last_seen(scenario: Scenario, nvml: Probe) -> None:
    assert samples(nvml, NEWEST - 3 * STEP) == samples(nvml)[-3:]
    assert code_of(nvml, NEWEST) == 6
    assert code_of(nvml, NEWEST + 10**9) == 6
    scenario.update(0, utilization_samples_newest_microseconds=NEWEST + STEP)
    assert [stamp for stamp, _ in samples(nvml, NEWEST)] == [NEWEST + STEP]


def test_of_this_moment_and_as_busy_as_the_gpu_unless_the_file_says_otherwise(nvml: Probe) -> None:
    before = nvml.ask("__import__('time').time_ns() // 1000")
    told = samples(nvml, gpu=1)
    assert len(told) == 71
    assert before - STEP < told[-1][0] <= before + 10_000_000
    assert {value for _, value in told} == {98}


def test_a_smaller_room_gets_the_oldest(nvml: Probe) -> None:
    nvml.ask("n, t, room = c_uint(2), c_uint(), (c_nvmlSample_t * 2)()")
    nvml.ask("f = pynvml._nvmlGetFunctionPointer('nvmlDeviceGetSamples')")
    assert nvml.ask(f"f(h[0], 1, c_ulonglong({NEWEST - 5 * STEP}), byref(t), byref(n), room)") == 0
    assert nvml.ask("(n.value, [s.timeStamp for s in room])") == [
        2,
        [NEWEST - 4 * STEP, NEWEST - 3 * STEP],
    ]
    nvml.ask("n.value = 0")
    assert nvml.ask("f(h[0], 1, c_ulonglong(0), byref(t), byref(n), room)") == 2


def test_other_kinds_of_samples(nvml: Probe) -> None:
    assert {kind: code_of(nvml, kind=kind) for kind in (0, 2, 5, 6, 15, 17)} == {
        0: 3,
        2: 3,
        5: 6,
        6: 6,
        15: 2,
        17: 2,
    }


def test_a_gpu_without_them_and_one_that_refuses(scenario: Scenario, nvml: Probe) -> None:
    scenario.update(0, utilization_samples=None)
    assert code_of(nvml) == 3
    scenario.update(0, utilization_samples=Fail("no_permission"))
    assert code_of(nvml) == 4
    scenario.lose(0)
    assert code_of(nvml) == 15
