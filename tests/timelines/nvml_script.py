"""NVML as a scenario tells it: raw frames, decoded by the agent's own parser."""

from typing import Any

import msgspec

from agent.snapshot import Gpu
from agent.sources import Reading, SourceAbsentError
from agent.sources import nvml_wire as wire
from agent.sources.nvml_roll import Roll
from contract.vocabulary import Event
from tests.timelines.model import NvmlEvent
from tests.timelines.motion import Values

DRIVER = "570.172.08"
FACTS = frozenset({"index", "uuid", "bus", "model", "serial"})
"""What is still known of a GPU out of reach."""
NAMES = {field.name for field in msgspec.structs.fields(wire.RawGpu)}

H100: dict[str, Any] = {
    "model": "NVIDIA H100 80GB HBM3",
    "shutdown_temperature_celsius": 92,
    "slowdown_temperature_celsius": 89,
    "temperature_celsius": 31,
    "memory_temperature_celsius": 41,
    "power_milliwatts": 71_300,
    "power_limit_milliwatts": 700_000,
    "energy_millijoules": {"per_second": 71_300},
    "utilization_percent": 0,
    "memory_utilization_percent": 0,
    "memory_used_bytes": 0,
    "memory_total_bytes": 85_520_809_984,
    "sm_clock_megahertz": 345,
    "sm_clock_max_megahertz": 1_980,
    "memory_clock_megahertz": 2_619,
    "performance_state": 0,
    "persistence_mode": True,
    "process_count": 0,
    "ecc_corrected": 0,
    "ecc_uncorrected": 0,
    "ecc_corrected_aggregate": 0,
    "ecc_uncorrected_aggregate": 0,
    "ecc_sram_uncorrected": 0,
    "sram_threshold_exceeded": False,
    "remapped_rows_corrected": 0,
    "remapped_rows_uncorrected": 0,
    "remap_pending": 0,
    "remap_failed": 0,
    "recovery_action": 0,
    "clocks_event_reasons": 1,
    "power_violation_nanoseconds": 0,
    "thermal_violation_nanoseconds": 0,
    "hardware_thermal_nanoseconds": 0,
    "power_brake_nanoseconds": 0,
    "pcie_generation": 5,
    "pcie_generation_max": 5,
    "pcie_width": 16,
    "pcie_width_max": 16,
    "pcie_replays": 0,
    "pcie_received_kilobytes_per_second": 0,
    "pcie_transmitted_kilobytes_per_second": 0,
    "nvlinks": [
        {
            "link": link,
            "active": True,
            "replays_total": 0,
            "recoveries_total": 0,
            "crc_errors_total": 0,
        }
        for link in range(18)
    ],
    "fabric_state": 3,
    "fabric_status": 0,
    "fabric_health_mask": 0,
    "mig_enabled": False,
}
"""An idle H100 in a machine with NVSwitches, as NVML tells it. Its own fields are in NVML's units."""


def bus(index: int) -> str:
    """GPU 3 is at ``0000:13:00.0``, so that a scenario can be read."""
    return f"0000:1{index:x}:00.0"


def uuid(index: int) -> str:
    """What device plugins call it."""
    return f"GPU-{index:08x}-0000-0000-0000-000000000000"


class ScriptedNvml:
    """The driver and its library; outlives the agent."""

    def __init__(self, gpus: int, changes: dict[str, Any]) -> None:
        self._gpus: dict[int, Values] = {}
        self._gone: set[int] = set()
        self._unavailable = ""
        self._encoded: dict[int, msgspec.Raw] = {}
        self._events = 0
        for index in range(gpus):
            who = {
                "index": index,
                "uuid": uuid(index),
                "bus": f"0000{bus(index).upper()}",
                "serial": f"16505231{index:05d}",
            }
            self._gpus[index] = Values(who)
            self.change(index, {**H100, **changes}, 0.0)

    def change(self, which: int | str, fields: dict[str, Any], now: float) -> None:
        """From now on these fields of the raw frame are so.

        Raises:
            ValueError: the frame has no such field.
        """
        for index in self._gpus if which == "all" else (int(which),):
            self._encoded.pop(index, None)
            for name, value in fields.items():
                self._set(index, name, value, now)

    def _set(self, index: int, name: str, value: Any, now: float) -> None:
        if name == "gone":
            (self._gone.add if value else self._gone.discard)(index)
        elif name == "nvlink":
            links = {each["link"]: each for each in self._gpus[index].at(now)["nvlinks"]}
            for link, changes in value.items():
                links[int(link)] = {**links[int(link)], **changes}
            self._gpus[index].change("nvlinks", list(links.values()), now)
        elif name in NAMES:
            self._gpus[index].change(name, value, now)
        else:
            raise ValueError(f"a raw frame has no field {name!r}")

    def become_unavailable(self, code: str) -> None:
        """NVML's process ends with this code; ``""``: it can be started again."""
        self._unavailable = code

    def event(self, said: NvmlEvent, now: float) -> Event:
        """As the listening thread of the child would tell it."""
        self._events += 1
        instance = {} if said.gpu_instance is None else {"gpu_instance": said.gpu_instance}
        line = msgspec.json.encode(
            {
                "kind": "event",
                "event": said.event,
                "bus": f"0000{bus(said.gpu).upper()}",
                "data": said.data,
            }
            | instance
        )
        happened = wire.decode(line)
        assert isinstance(happened, wire.Happened)
        return wire.event(happened, sequence=self._events, now=now)

    def frame(self, now: float) -> wire.Frame:
        """What the child answers."""
        if self._unavailable:
            return wire.decode(
                msgspec.json.encode({"kind": "unavailable", "code": self._unavailable})
            )
        gpus = [self._gpu(index, now) for index in self._gpus if index not in self._gone]
        return wire.decode(
            msgspec.json.encode({"kind": "sample", "request": 1, "driver": DRIVER, "gpus": gpus})
        )

    def _gpu(self, index: int, now: float) -> msgspec.Raw:
        known = self._encoded.get(index)
        if known is not None:
            return known
        values = self._gpus[index]
        fields = values.at(now)
        if fields.get("lost") is not None:
            fields = {
                name: value for name, value in fields.items() if name in FACTS or name == "lost"
            }
        encoded = msgspec.Raw(msgspec.json.encode(fields))
        if not values.moves:
            self._encoded[index] = encoded
        return encoded


class NvmlReader:
    """What one agent makes of it; who is missing is known from its own roll."""

    name = "nvidia"

    def __init__(self, script: ScriptedNvml, expected: tuple[Gpu, ...]) -> None:
        self._script = script
        self._roll = Roll(expected)

    def read(self, now: float) -> Reading:
        """As ``NvidiaSource`` does once its child has answered.

        Raises:
            SourceAbsentError, SourceFailingError: NVML is of no use.
        """
        frame = self._script.frame(now)
        if isinstance(frame, wire.Unavailable):
            error = wire.reason(frame.code, len(self._roll))
            if frame.code == "GPU_NOT_FOUND" and not isinstance(error, SourceAbsentError):
                return Reading(gpus=self._roll.call(()))
            raise error
        assert isinstance(frame, wire.Sample)
        return Reading(driver_version=frame.driver, gpus=self._roll.call(frame.gpus))
