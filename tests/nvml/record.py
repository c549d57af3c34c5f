"""Writes down what a real driver answers: every reading call of NVML, its return code, and what it cost.

    python -m tests.nvml.record > h100-580.159.04-idle.json          # on a machine with an NVIDIA GPU; changes nothing

Only functions whose names say *get* are called, with a device and nothing else, and those that the agent needs arguments for.
Serial numbers, UUIDs and process names are left out: a recording may be published.
"""

from __future__ import annotations

import ctypes
import inspect
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any

import pynvml as nvml

FIELDS = range(1, 300)
"""More ids than there are today: those that a driver does not know answer so themselves."""
AT_ONCE = 100
"""Fields per call."""
MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
"""Member of a field value's union, by NVML's value type."""
GPM_METRICS = (1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 20, 21, 60, 61)
GPM_SECONDS = 1.0
LINKS = (0, 1, 17, 18, 35, 36)
SECRET = ("UUID", "Serial", "BoardId", "ProcessName", "PdiInfo", "Pdi")
"""Parts of the names of functions whose answers tell machines apart."""
SLOW = (
    "Vgpu",
    "GridLicens",
    "Accounting",
    "Samples",
    "ProcessUtil",
    "ConfComputeGpuAttestation",
    "ConfComputeGpuCertificate",
)
"""Parts of the names of functions that no agent asks."""
SAMPLES = "nvmlDeviceGetSamples(1, 0)"
TIMES = 5
"""Each call is made so often; the fastest, the slowest and the CPU time of one are written down."""


def main() -> None:
    """Record and print."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        sys.exit(
            f"no NVIDIA driver answers here ({error}); run this on a machine where nvidia-smi works"
        )
    gpus = [nvml.nvmlDeviceGetHandleByIndex(n) for n in range(nvml.nvmlDeviceGetCount())]
    found = {
        "driver_version": nvml.nvmlSystemGetDriverVersion(),
        "nvml_version": nvml.nvmlSystemGetNVMLVersion(),
        "cuda_driver_version": nvml.nvmlSystemGetCudaDriverVersion(),
        "bindings": getattr(nvml, "__version__", ""),
        "gpus": [_gpu(handle) for handle in gpus],
    }
    json.dump(found, sys.stdout, indent=1, sort_keys=True)
    print()


def _gpu(handle: Any) -> dict[str, Any]:
    return {
        "calls": dict(_calls(handle)),
        "with_arguments": dict(_with_arguments(handle)),
        **_fields(handle),
        "gpm": _gpm(handle),
    }


def _calls(handle: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every function that needs a device and nothing else."""
    for name in sorted(vars(nvml)):
        if not name.startswith("nvmlDeviceGet") or any(part in name for part in SLOW):
            continue
        parameters = list(inspect.signature(getattr(nvml, name)).parameters.values())
        needed = [each for each in parameters if each.default is inspect.Parameter.empty]
        if not parameters or len(needed) > 1 or parameters[0].name not in ("handle", "device"):
            continue
        answer = _ask(partial(getattr(nvml, name), handle))
        if any(part in name for part in SECRET):
            answer.pop("value", None)
        yield name, answer


def _with_arguments(handle: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    asked: Iterator[tuple[Any, ...]] = iter(
        (
            *(("nvmlDeviceGetTemperature", n) for n in (0, 1)),
            *(("nvmlDeviceGetTemperatureV", n) for n in (0, 1)),
            *(("nvmlDeviceGetTemperatureThreshold", n) for n in range(9)),
            *(("nvmlDeviceGetClockInfo", n) for n in range(4)),
            *(("nvmlDeviceGetMaxClockInfo", n) for n in range(4)),
            ("nvmlDeviceGetMemoryInfo", 0x02000028),
            *(("nvmlDeviceGetViolationStatus", n) for n in range(12)),
            *(("nvmlDeviceGetPcieThroughput", n) for n in range(2)),
            *(("nvmlDeviceGetTotalEccErrors", n, m) for n in range(2) for m in range(2)),
            *(
                ("nvmlDeviceGetMemoryErrorCounter", n, m, where)
                for n in range(2)
                for m in range(2)
                for where in range(9)
            ),
            *(("nvmlDeviceGetRetiredPages", n) for n in range(2)),
            *(("nvmlDeviceGetRetiredPages_v2", n) for n in range(2)),
            *(("nvmlDeviceGetMigDeviceHandleByIndex", n) for n in (0, 1, 99)),
            *(
                (name, link)
                for link in LINKS
                for name in ("nvmlDeviceGetNvLinkState", "nvmlDeviceGetNvLinkVersion")
            ),
            *(("nvmlDeviceGetNvLinkErrorCounter", link, n) for link in LINKS for n in range(5)),
        )
    )
    yield SAMPLES, _ask(partial(_samples, handle))
    for name, *arguments in asked:
        key = f"{name}({', '.join(map(str, arguments))})"
        yield key, _ask(partial(getattr(nvml, name), handle, *arguments))
    for name, kind in (
        ("nvmlDeviceGetSramEccErrorStatus", "c_nvmlEccSramErrorStatus_v1_t"),
        ("nvmlDeviceGetGpuFabricInfoV", "c_nvmlGpuFabricInfo_v3_t"),
        ("nvmlDeviceGetGpuFabricInfoV", "c_nvmlGpuFabricInfo_v2_t"),
        ("nvmlDeviceGetGpuFabricInfo", "c_nvmlGpuFabricInfo_t"),
    ):
        yield f"{name}({kind})", _ask(partial(_filled, name, kind, handle))


def _samples(handle: Any) -> dict[str, Any]:
    """How many samples of its utilization the driver keeps, and their step; not when they were taken."""
    kind, samples = nvml.nvmlDeviceGetSamples(handle, nvml.NVML_GPU_UTILIZATION_SAMPLES, 0)
    steps = [after.timeStamp - before.timeStamp for before, after in pairwise(samples)]
    step = round(median(steps) / 1000, -1) if steps else None
    return {"type": kind, "count": len(samples), "step_milliseconds": step}


def _filled(name: str, kind: str, handle: Any) -> Any:
    structure = getattr(nvml, kind)()
    getattr(nvml, name)(handle, ctypes.byref(structure))
    return structure


def _fields(handle: Any) -> dict[str, Any]:
    """All field ids, each with its own return code."""
    told: dict[str, Any] = {"fields": {}, "fields_not_supported": [], "fields_unknown": []}
    for start in range(FIELDS.start, FIELDS.stop, AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, FIELDS.stop))
        for each in nvml.nvmlDeviceGetFieldValues(handle, [(number, 0) for number in numbers]):
            if each.nvmlReturn == nvml.NVML_ERROR_INVALID_ARGUMENT:
                told["fields_unknown"].append(each.fieldId)
            elif each.nvmlReturn:
                told["fields_not_supported"].append(each.fieldId)
            else:
                told["fields"][str(each.fieldId)] = {
                    "type": each.valueType,
                    "value": getattr(each.value, MEMBERS[each.valueType]),
                    "latency_microseconds": each.latencyUsec,
                }
    return told


def _gpm(handle: Any) -> dict[str, Any]:
    told: dict[str, Any] = {"support": _ask(partial(nvml.nvmlGpmQueryDeviceSupport, handle))}
    try:
        before, after = nvml.nvmlGpmSampleAlloc(), nvml.nvmlGpmSampleAlloc()
        told["sample"] = _ask(lambda: nvml.nvmlGpmSampleGet(handle, before) and None)
        time.sleep(GPM_SECONDS)
        nvml.nvmlGpmSampleGet(handle, after)
        asked = nvml.c_nvmlGpmMetricsGet_t(version=1, numMetrics=len(GPM_METRICS))
        for place, number in enumerate(GPM_METRICS):
            asked.metrics[place].metricId = number
        asked.sample1, asked.sample2 = before, after
        told["metrics_cost"] = _ask(lambda: nvml.nvmlGpmMetricsGet(asked) and None)
    except nvml.NVMLError as error:
        return {**told, "refused": error.value}
    answers = [asked.metrics[place] for place in range(len(GPM_METRICS))]
    told["metrics"] = {str(each.metricId): each.value for each in answers if not each.nvmlReturn}
    nvml.nvmlGpmSampleFree(before)
    nvml.nvmlGpmSampleFree(after)
    return told


def _ask(call: Callable[[], Any]) -> dict[str, Any]:
    """What a call answers, and the fastest and the slowest of a few."""
    spent, told, busy = [], {}, time.thread_time()
    for _ in range(TIMES):
        began = time.perf_counter()
        try:
            told = {"code": 0, "value": call()}
        except nvml.NVMLError as error:
            told = {"code": error.value}
        except Exception as error:  # noqa: BLE001 - the bindings themselves failed, and that is an answer
            told = {"bindings": f"{type(error).__name__}: {error}"[:200]}
        spent.append(time.perf_counter() - began)
    if "value" in told:
        told["value"] = _plain(told["value"])
    told["microseconds"] = [round(min(spent) * 1e6), round(max(spent) * 1e6)]
    told["cpu_microseconds"] = round((time.thread_time() - busy) / TIMES * 1e6)
    return told


def _plain(value: Any) -> Any:
    """What JSON can say."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, ctypes.Array):
        return [_plain(each) for each in value]
    names = [name for name, *_ in getattr(value, "_fields_", [])] or list(
        getattr(value, "__dict__", {})
    )
    hidden = ("uuid", "serial", "clusterUuid")
    if names:
        return {name: _plain(getattr(value, name)) for name in names if name not in hidden}
    return str(type(value).__name__)


if __name__ == "__main__":
    main()
