"""Real cards' answers, recorded: the stand-in answers the same to all that the agent asks, and the agent makes the same of it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.sources.nvml_child import fields, profiling, values
from tests.nvml import recorded
from tests.nvml.record import SAMPLES
from tests.nvml.recorded import Recording
from tests.nvml.standin import Scenario

CHANGES = ("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetUUID", "nvmlDeviceGetSerial")
"""Calls whose answers move, or are not in a recording."""


def _asked() -> list[str]:
    """What the agent asks by a call of its own, as a recording names it."""
    listed = [(function, *arguments) for _, function, arguments in values.FACTS]
    for calls in (*(calls for _, calls in values.FAST), *(calls for *_, calls in values.SLOWLY)):
        listed += calls
    return [_key(name, arguments) for name, *arguments in listed]


def _key(name: str, arguments: Any) -> str:
    told = [each.__name__ if isinstance(each, type) else str(each) for each in arguments]
    return f"{name}({', '.join(told)})" if told else name


@pytest.fixture(params=recorded.names())
def recording(request: pytest.FixtureRequest) -> Recording:
    return recorded.load(request.param)


@pytest.fixture
def scenario(recording: Recording, tmp_path: Path) -> Scenario:
    return Scenario(tmp_path / "scenario").set(
        gpus=[recorded.gpu(recording)],
        driver_version=recording["driver_version"],
        nvml_version=recording["nvml_version"],
        cuda_driver_version=recording["cuda_driver_version"],
    )


def _run(scenario: Scenario, *arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        env={**os.environ, **scenario.env()},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return json.loads(done.stdout)


def test_the_stand_in_answers_the_agent_as_the_real_driver_did(
    recording: Recording, scenario: Scenario
) -> None:
    real, ours = recording["gpus"][0], _run(scenario, "tests.nvml.record")["gpus"][0]
    # Recordings of before 2026-11-27 do not have the samples.
    for call in [*_asked(), *({SAMPLES} & real["with_arguments"].keys())]:
        theirs, mine = ({**gpu["calls"], **gpu["with_arguments"]}[call] for gpu in (real, ours))
        assert mine.get("code") == theirs["code"], call
        if call not in CHANGES:
            assert mine.get("value") == theirs.get("value"), call
    for number, _ in [*fields.FAST, *fields.SLOW, *fields.SLOWDOWN_TIMES]:
        theirs, mine = (gpu["fields"].get(str(number), {}) for gpu in (real, ours))
        assert mine.get("type") == theirs.get("type"), f"field {number}"
        if number != ENERGY:
            assert mine.get("value") == theirs.get("value"), f"field {number}"
    assert set(fields.ONCE.values()).isdisjoint((number, 0) for number in map(int, real["fields"]))
    for number in {**profiling.OFTEN, **profiling.SELDOM}:
        assert ours["gpm"]["metrics"][str(number)] == real["gpm"]["metrics"][str(number)]


ENERGY = 83


def test_the_agent_makes_of_it_what_nvidia_smi_says(
    recording: Recording, scenario: Scenario
) -> None:
    snapshot = _run(scenario, "agent", "snapshot", "--kmsg", "/dev/null")
    (gpu,) = snapshot["snapshot"]["gpus"]
    calls = recording["gpus"][0]["calls"]
    memory = recording["gpus"][0]["with_arguments"]["nvmlDeviceGetMemoryInfo(33554472)"]["value"]
    assert (gpu["model"], gpu["pci_bus_id"]) == (
        calls["nvmlDeviceGetName"]["value"],
        "0000:00:06.0",
    )
    assert gpu["power_watts"] == calls["nvmlDeviceGetPowerUsage"]["value"] / 1000
    assert gpu["memory_used_bytes"] == memory["used"]
    assert gpu["memory_reserved_bytes"] == memory["reserved"]
    assert (gpu["slowdown_temperature_celsius"], gpu["shutdown_temperature_celsius"]) == (89, 95)
    assert gpu["hardware_slowdown_seconds_total"] == gpu["power_brake_seconds_total"] == 0
    assert (gpu.get("nvlinks", []), gpu["mig_enabled"]) == ([], False)
    assert snapshot["findings"] == []
