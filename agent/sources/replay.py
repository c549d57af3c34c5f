"""Replay source: a scenario instead of hardware, through the same snapshot, parsers and checks.

The scenario says what a healthy fleet looks like and, in steps on a time axis, what differs on which nodes.
Kernel-log lines of a step go through the real parser. The demo, the simulator and load tests use it.
"""

import fnmatch
import math
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from agent.kernel_log import event_from, parse_record
from agent.snapshot import Disk, Gpu, Host, RdmaPort
from agent.sources import Emit, Reading

GIB = 1 << 30


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From one moment to another, some devices of some nodes are different."""

    name: str
    from_seconds: float
    until_seconds: float
    nodes: str
    """Node names, as a shell pattern."""
    gpus: tuple[int, ...] | None = None
    """Indices; ``None``: all of the node's, where ``gpu`` is given."""
    gpu: Mapping[str, Any] = {}
    """Fields of ``agent.snapshot.Gpu`` that differ."""
    ports: tuple[int, ...] | None = None
    port: Mapping[str, Any] = {}
    """Fields of ``agent.snapshot.RdmaPort`` that differ."""
    flap_seconds: float = 0.0
    """The port goes down and up again with this period; each time its ``link_downed`` counter rises."""
    kernel_log: str = ""
    """A line written once when the step begins; ``{bus}`` is the bus id of its first GPU."""


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A fleet and what happens to it."""

    rows: tuple[str, ...] = ("a", "b", "c", "d")
    nodes_per_row: int = 8
    gpus_per_node: int = 8
    rdma_ports_per_node: int = 8
    gpu_model: str = "NVIDIA H100 80GB HBM3"
    memory_total_bytes: int = 80 * GIB
    repeat_seconds: float = 0.0
    """The time axis starts again after this long; 0: never."""
    steps: tuple[Step, ...] = ()

    def node_names(self) -> list[str]:
        """Every node of the fleet, row by row: ``sim-a-01``, ``sim-a-02`` and so on."""
        return [f"sim-{row}-{n:02d}" for row in self.rows for n in range(1, self.nodes_per_row + 1)]


def load_scenario(text: bytes) -> Scenario:
    """A scenario from YAML.

    Raises:
        msgspec.ValidationError: naming the path of what is wrong.
    """
    scenario = msgspec.yaml.decode(text, type=Scenario)
    steps = [
        msgspec.structs.replace(
            step, gpu=_typed(step.gpu, Gpu, step.name), port=_typed(step.port, RdmaPort, step.name)
        )
        for step in scenario.steps
    ]
    return msgspec.structs.replace(scenario, steps=tuple(steps))


def _typed(changes: Mapping[str, Any], kind: type[msgspec.Struct], step: str) -> dict[str, Any]:
    """The changed fields with the types of the snapshot; YAML reads 1.98e9 as text."""
    types = typing.get_type_hints(kind)
    unknown = changes.keys() - types.keys()
    if unknown:
        raise msgspec.ValidationError(
            f"step {step!r}: {kind.__name__} has no field {', '.join(sorted(unknown))}"
        )
    return {
        name: msgspec.convert(value, types[name], strict=not isinstance(value, str))
        for name, value in changes.items()
    }


def bus_id(index: int) -> str:
    """Where GPU ``index`` of a simulated node sits, as sysfs writes it."""
    return f"0000:{0x1B + 14 * index:02x}:00.0"


class ReplaySource:
    """One simulated node: GPUs, RDMA ports and host in one source, named for what it stands in for."""

    def __init__(
        self,
        scenario: Scenario,
        node: str,
        *,
        name: str,
        emit: Emit,
        clock: Callable[[], float],
        start: float,
    ) -> None:
        self.name = name
        self._scenario = scenario
        self._node = node
        self._seed = sum(ord(letter) * (position + 1) for position, letter in enumerate(node))
        self._emit = emit
        self._clock = clock
        self._start = start
        self._steps = [step for step in scenario.steps if fnmatch.fnmatch(node, step.nodes)]
        self._announced: set[tuple[int, str]] = set()
        self._flaps: dict[int, int] = {}
        self._last_flap: dict[int, tuple[int, str, int]] = {}
        """Port → (lap, step, flap of that step) last counted."""
        self._lines = 0

    async def read(self) -> Reading:
        """What the node shows at this moment of the scenario."""
        elapsed = self._clock() - self._start
        period = self._scenario.repeat_seconds
        lap, moment = divmod(elapsed, period) if period else (0.0, elapsed)
        active = [step for step in self._steps if step.from_seconds <= moment < step.until_seconds]
        if self.name == "kmsg":
            self._announce(active, int(lap))
            return Reading()
        if self.name == "nvidia":
            gpus = tuple(self._gpu(n, elapsed, active) for n in range(self._scenario.gpus_per_node))
            return Reading(driver_version="580.65.06", gpus=gpus)
        if self.name == "rdma":
            return Reading(rdma_ports=tuple(self._ports(moment, elapsed, active, int(lap))))
        return Reading(host=self._host(elapsed))

    async def close(self) -> None:
        """Nothing is held."""

    def _announce(self, active: list[Step], lap: int) -> None:
        for step in active:
            if not step.kernel_log or (lap, step.name) in self._announced:
                continue
            self._announced.add((lap, step.name))
            self._lines += 1
            line = step.kernel_log.format(bus=bus_id((step.gpus or (0,))[0]).rpartition(".")[0])
            record = parse_record(line.encode())
            event = event_from(record, id=f"kmsg:{self._lines}", time_seconds=self._clock())
            if event is not None:
                self._emit(event)

    def _gpu(self, index: int, elapsed: float, active: list[Step]) -> Gpu:
        busy = _wave(self._seed * 7 + index, elapsed)
        gpu = Gpu(
            uuid=f"GPU-{self._node}-{index}",
            pci_bus_id=bus_id(index),
            index=index,
            model=self._scenario.gpu_model,
            temperature_celsius=round(34 + 34 * busy),
            memory_temperature_celsius=round(40 + 38 * busy),
            slowdown_temperature_celsius=87.0,
            power_watts=round(75 + 600 * busy, 1),
            power_limit_watts=700.0,
            energy_joules_total=round(elapsed * 400, 1),
            utilization_ratio=round(busy, 2),
            memory_utilization_ratio=round(busy * 0.6, 2),
            memory_used_bytes=int(self._scenario.memory_total_bytes * (0.1 + 0.8 * busy)),
            memory_total_bytes=self._scenario.memory_total_bytes,
            sm_clock_hertz=1.98e9 if busy > 0.05 else 3.45e8,
            process_count=1 if busy > 0.05 else 0,
            ecc_corrected_total=0,
            ecc_uncorrected_total=0,
            recovery_action=0,
        )
        for step in active:
            if step.gpu and (step.gpus is None or index in step.gpus):
                gpu = msgspec.structs.replace(gpu, **step.gpu)
        return gpu

    def _ports(
        self, moment: float, elapsed: float, active: list[Step], lap: int
    ) -> Iterator[RdmaPort]:
        for number in range(self._scenario.rdma_ports_per_node):
            busy = _wave(self._seed * 11 + number, elapsed)
            port = RdmaPort(
                device=f"mlx5_{number}",
                port=1,
                link_layer="InfiniBand",
                state="ACTIVE",
                physical_state="LinkUp",
                rate_bits_per_second=4e11,
                link_downed_total=self._flaps.get(number, 0),
                received_bytes_total=int(elapsed * busy * 2e10),
                transmitted_bytes_total=int(elapsed * busy * 2e10),
            )
            for step in active:
                if step.ports is None or number not in step.ports:
                    continue
                port = msgspec.structs.replace(port, **step.port)
                if step.flap_seconds:
                    port = self._flapping(port, lap, moment - step.from_seconds, step)
            yield port

    def _flapping(self, port: RdmaPort, lap: int, since: float, step: Step) -> RdmaPort:
        number = int(port.device.rpartition("_")[2])
        flap = (lap, step.name, int(since / step.flap_seconds))
        if self._last_flap.get(number) != flap:
            self._last_flap[number] = flap
            self._flaps[number] = self._flaps.get(number, 0) + 1
        if since % step.flap_seconds < step.flap_seconds / 3:
            port = msgspec.structs.replace(port, state="DOWN", physical_state="Polling")
        return msgspec.structs.replace(port, link_downed_total=self._flaps[number])

    def _host(self, elapsed: float) -> Host:
        return Host(
            cpu_count=192,
            cpu_utilization_ratio=round(0.2 + 0.3 * _wave(self._seed, elapsed), 3),
            memory_total_bytes=2048 * GIB,
            memory_available_bytes=1400 * GIB,
            load_average_1m=38.0,
            uptime_seconds=86_400 * 30 + elapsed,
            disks=(Disk(mount_point="/", total_bytes=894 * GIB, available_bytes=500 * GIB),),
        )


def _wave(seed: int, elapsed: float) -> float:
    """A busy share in 0..1 that wanders slowly and differs from device to device."""
    slow = math.sin(elapsed / 40 + seed * 2.399963)
    quick = math.sin(elapsed / 7 + seed * 0.7)
    return min(1.0, max(0.0, 0.72 + 0.2 * slow + 0.08 * quick))
