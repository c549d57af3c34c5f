"""A GPU of the stand-in that answers as a real one did: from a recording that ``tests.nvml.record`` made.

What tells machines apart (UUID, serial number) is not in a recording and is made up here.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.nvml.gpu import Gpu, Number, Process, h100

RECORDINGS = Path(__file__).parent / "recordings"

Recording = Mapping[str, Any]

CALLS = {
    "nvmlDeviceGetPowerUsage": "power_milliwatts",
    "nvmlDeviceGetEnforcedPowerLimit": "enforced_power_limit_milliwatts",
    "nvmlDeviceGetPowerManagementLimit": "power_limit_milliwatts",
    "nvmlDeviceGetPowerManagementDefaultLimit": "power_limit_default_milliwatts",
    "nvmlDeviceGetTotalEnergyConsumption": "energy_millijoules",
    "nvmlDeviceGetPerformanceState": "performance_state",
    "nvmlDeviceGetPersistenceMode": "persistence_mode",
    "nvmlDeviceGetCurrentClocksEventReasons": "clocks_event_reasons",
    "nvmlDeviceGetSupportedClocksEventReasons": "clocks_event_reasons_supported",
    "nvmlDeviceGetSupportedEventTypes": "supported_event_types",
    "nvmlDeviceGetCurrPcieLinkGeneration": "pcie_generation",
    "nvmlDeviceGetMaxPcieLinkGeneration": "pcie_generation_max",
    "nvmlDeviceGetCurrPcieLinkWidth": "pcie_width",
    "nvmlDeviceGetMaxPcieLinkWidth": "pcie_width_max",
    "nvmlDeviceGetPcieReplayCounter": "pcie_replay_counter",
    "nvmlDeviceGetMarginTemperature": "margin_temperature_celsius",
    "nvmlDeviceGetMaxMigDeviceCount": "mig_max_count",
    "nvmlDeviceGetModuleId": "module_id",
    "nvmlDeviceGetMinorNumber": "minor_number",
    "nvmlDeviceGetArchitecture": "architecture",
    "nvmlDeviceGetNumaNodeId": "numa_node",
    "nvmlDeviceGetTemperatureThreshold(0)": "temperature_shutdown_celsius",
    "nvmlDeviceGetTemperatureThreshold(1)": "temperature_slowdown_celsius",
    "nvmlDeviceGetTemperatureThreshold(2)": "temperature_memory_max_celsius",
    "nvmlDeviceGetTemperatureThreshold(3)": "temperature_gpu_max_celsius",
    "nvmlDeviceGetTemperatureV(0)": "temperature_celsius",
    "nvmlDeviceGetClockInfo(0)": "clock_graphics_mhz",
    "nvmlDeviceGetClockInfo(1)": "clock_sm_mhz",
    "nvmlDeviceGetClockInfo(2)": "clock_memory_mhz",
    "nvmlDeviceGetClockInfo(3)": "clock_video_mhz",
    "nvmlDeviceGetMaxClockInfo(0)": "clock_graphics_max_mhz",
    "nvmlDeviceGetMaxClockInfo(1)": "clock_sm_max_mhz",
    "nvmlDeviceGetMaxClockInfo(2)": "clock_memory_max_mhz",
    "nvmlDeviceGetMaxClockInfo(3)": "clock_video_max_mhz",
    "nvmlDeviceGetVbiosVersion": "vbios_version",
    "nvmlDeviceGetBoardPartNumber": "board_part_number",
    "nvmlDeviceGetName": "name",
}
"""Recorded call → the stand-in's reading that answers it."""

FIELDS = {
    74: "violation_power_nanoseconds",
    75: "violation_thermal_nanoseconds",
    82: "memory_temperature_celsius",
    91: "nvlink_count",
    142: "remapped_rows_correctable",
    143: "remapped_rows_uncorrectable",
    144: "remapped_rows_pending",
    145: "remapped_rows_failure",
    197: "pcie_tx_bytes",
    198: "pcie_rx_bytes",
    230: "recovery_action",
    269: "violation_sw_thermal_nanoseconds",
    270: "violation_hw_thermal_nanoseconds",
    271: "violation_power_brake_nanoseconds",
}
"""Recorded field → the stand-in's reading that answers it."""


def names() -> list[str]:
    """The recordings there are."""
    return sorted(path.stem for path in RECORDINGS.glob("*.json"))


def load(name: str) -> Recording:
    """One of them."""
    found: Recording = json.loads((RECORDINGS / f"{name}.json").read_text())
    return found


def gpu(recording: Recording, index: int = 0) -> Gpu:
    """The stand-in's GPU for one that was recorded."""
    made_up = h100(index)
    told = recording["gpus"][index]
    calls = {**told["calls"], **told["with_arguments"]}
    given: dict[str, Any] = {reading: _value(calls[call]) for call, reading in CALLS.items()}
    given |= {reading: _field(told, number) for number, reading in FIELDS.items()}
    given |= _memory(calls) | _utilization(calls) | _fabric(calls)
    given["gpm"] = {int(number): value for number, value in told["gpm"]["metrics"].items()}
    given["compute_processes"] = tuple(
        Process(pid=each["pid"], used_bytes=each["usedGpuMemory"])
        for each in calls["nvmlDeviceGetComputeRunningProcesses_v3"]["value"]
    )
    pci = calls["nvmlDeviceGetPciInfo_v3"]["value"]
    given["pci_device_id"], given["pci_subsystem_id"] = pci["pciDeviceId"], pci["pciSubSystemId"]
    given["mig_mode"], given["mig_mode_pending"] = calls["nvmlDeviceGetMigMode"]["value"]
    return Gpu(uuid=made_up.uuid, pci_bus_id=pci["busId"], serial=made_up.serial, **given)


def _value(answer: Mapping[str, Any]) -> Any:
    """``None`` stands for NOT_SUPPORTED."""
    assert answer["code"] in (0, 3), answer
    return answer.get("value")


def _field(told: Mapping[str, Any], number: int) -> Number:
    answer = told["fields"].get(str(number))
    return answer["value"] if answer else None


def _memory(calls: Mapping[str, Any]) -> dict[str, Any]:
    memory = calls["nvmlDeviceGetMemoryInfo(33554472)"]["value"]
    bar1 = calls["nvmlDeviceGetBAR1MemoryInfo"]["value"]
    return {
        "memory_total_bytes": memory["total"],
        "memory_reserved_bytes": memory["reserved"],
        "memory_used_bytes": memory["used"],
        "bar1_total_bytes": bar1["bar1Total"],
        "bar1_used_bytes": bar1["bar1Used"],
    }


def _utilization(calls: Mapping[str, Any]) -> dict[str, Any]:
    rates = calls["nvmlDeviceGetUtilizationRates"]["value"]
    return {
        "gpu_utilization_percent": rates["gpu"],
        "memory_utilization_percent": rates["memory"],
    }


def _fabric(calls: Mapping[str, Any]) -> dict[str, Any]:
    fabric = calls["nvmlDeviceGetGpuFabricInfoV(c_nvmlGpuFabricInfo_v3_t)"]["value"]
    return {
        "fabric_state": fabric["state"],
        "fabric_status": fabric["status"],
        "fabric_clique_id": fabric["cliqueId"],
        "fabric_health_mask": fabric["healthMask"],
        "fabric_health_summary": fabric["healthSummary"],
    }
