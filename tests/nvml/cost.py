"""What the stand-in costs: `python -m tests.nvml.cost` prints microseconds per call of a full sample of 8 GPUs.

The floor is nvmlErrorString through the same bindings: a call that reads nothing, so what ctypes alone costs.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pynvml as nvml

from tests.nvml.standin import Scenario, h100_node

if TYPE_CHECKING:
    from collections.abc import Callable

SAMPLES = 300
FIELDS = (82, 83, 91, 94, 142, 143, 144, 145, 186, 230, (138, 0xFFFFFFFF), (139, 0xFFFFFFFF))


def sample(handle: Any) -> int:
    """Reads one GPU as an agent would; returns the number of NVML calls it made."""
    calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
        (nvml.nvmlDeviceGetMemoryInfo, (nvml.nvmlMemory_v2,)),
        (nvml.nvmlDeviceGetUtilizationRates, ()),
        (nvml.nvmlDeviceGetSamples, (nvml.NVML_GPU_UTILIZATION_SAMPLES, 0)),
        (nvml.nvmlDeviceGetTemperature, (nvml.NVML_TEMPERATURE_GPU,)),
        (nvml.nvmlDeviceGetMarginTemperature, ()),
        (nvml.nvmlDeviceGetPowerUsage, ()),
        (nvml.nvmlDeviceGetEnforcedPowerLimit, ()),
        (nvml.nvmlDeviceGetTotalEnergyConsumption, ()),
        (nvml.nvmlDeviceGetPerformanceState, ()),
        (nvml.nvmlDeviceGetPersistenceMode, ()),
        (nvml.nvmlDeviceGetCurrentClocksEventReasons, ()),
        (nvml.nvmlDeviceGetEccMode, ()),
        (nvml.nvmlDeviceGetRemappedRows, ()),
        (nvml.nvmlDeviceGetPcieReplayCounter, ()),
        (nvml.nvmlDeviceGetCurrPcieLinkGeneration, ()),
        (nvml.nvmlDeviceGetCurrPcieLinkWidth, ()),
        (nvml.nvmlDeviceGetMigMode, ()),
        (nvml.nvmlDeviceGetFieldValues, (FIELDS,)),
        *((nvml.nvmlDeviceGetClockInfo, (clock,)) for clock in range(4)),
        *((nvml.nvmlDeviceGetPcieThroughput, (way,)) for way in range(2)),
        *((nvml.nvmlDeviceGetTotalEccErrors, (e, c)) for e in range(2) for c in range(2)),
        *((nvml.nvmlDeviceGetNvLinkState, (link,)) for link in range(18)),
    ]
    for function, arguments in calls:
        function(handle, *arguments)
    processes = nvml.nvmlDeviceGetComputeRunningProcesses_v3(handle)
    return len(calls) + (2 if processes else 1)


def _resident_kib() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def _measure() -> dict[str, float]:
    before_kib = _resident_kib()
    nvml.nvmlInit()
    handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    calls = sum(map(sample, handles))
    grown_kib = _resident_kib() - before_kib
    started = time.perf_counter()
    for _ in range(SAMPLES):
        for handle in handles:
            sample(handle)
    seconds = (time.perf_counter() - started) / SAMPLES
    started = time.perf_counter()
    for _ in range(SAMPLES * 100):
        nvml.nvmlErrorString(0)
    floor = (time.perf_counter() - started) / SAMPLES / 100
    return {
        "gpus": len(handles),
        "calls_per_sample": calls,
        "microseconds_per_sample": round(seconds * 1e6, 1),
        "microseconds_per_call": round(seconds / calls * 1e6, 2),
        "floor_microseconds_per_call": round(floor * 1e6, 2),
        "resident_growth_kib": grown_kib,
    }


def main() -> None:
    """Runs the measurement in a process that loads the stand-in, with and without a check interval."""
    with tempfile.TemporaryDirectory() as folder:
        scenario = Scenario(Path(folder) / "scenario").set(gpus=h100_node(busy=True))
        for check_milliseconds in (0, 20):
            environment = {**os.environ, **scenario.env(check_milliseconds=check_milliseconds)}
            command = [sys.executable, "-m", "tests.nvml.cost", "--measure"]
            out = subprocess.run(command, env=environment, capture_output=True, check=True).stdout
            print(json.dumps({"check_milliseconds": check_milliseconds, **json.loads(out)}))


if __name__ == "__main__":
    print(json.dumps(_measure())) if "--measure" in sys.argv else main()
