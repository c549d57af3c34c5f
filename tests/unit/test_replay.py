"""The simulated fleet: what its scenario says is what the agent's sources read, at that moment and no other."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from agent.snapshot import Gpu, RdmaPort
from agent.sources import Reading
from agent.sources.replay import ReplaySource, Scenario, bus_id, load_scenario
from contract.vocabulary import Event
from tests.support import START

DEMO = Path(__file__).parents[2] / "demo" / "scenario.yaml"


class Fleet:
    """One simulated node, at whatever moment a test sets."""

    def __init__(
        self, steps: str = "", *, node: str = "sim-a-01", top: str = "gpus_per_node: 8"
    ) -> None:
        self.now = START
        self.events: list[Event] = []
        scenario = load_scenario(f"{top}\nsteps:\n{steps}".encode() if steps else top.encode())
        self.sources = {
            name: ReplaySource(
                scenario,
                node,
                name=name,
                emit=self.events.append,
                clock=lambda: self.now,
                start=START,
            )
            for name in ("host", "nvidia", "rdma", "kmsg")
        }

    def read(self, name: str, at: float) -> Reading:
        self.now = START + at
        return asyncio.run(self.sources[name].read())

    def gpus(self, at: float) -> tuple[Gpu, ...]:
        return self.read("nvidia", at).gpus

    def ports(self, at: float) -> tuple[RdmaPort, ...]:
        return self.read("rdma", at).rdma_ports


def step(text: str) -> str:
    return f"- {{name: s, from_seconds: 10, until_seconds: 20, nodes: 'sim-a-*', {text}}}\n"


def test_a_healthy_node() -> None:
    fleet = Fleet(top="rdma_ports_per_node: 4")
    reading = fleet.read("nvidia", 5)
    assert [gpu.index for gpu in reading.gpus] == list(range(8))
    assert len({gpu.subject for gpu in reading.gpus}) == 8
    assert not any(gpu.lost for gpu in reading.gpus)
    assert reading.rdma_ports == ()
    assert reading.host is None
    ports = fleet.ports(5)
    assert [each.device for each in ports] == ["mlx5_0", "mlx5_1", "mlx5_2", "mlx5_3"]
    assert {each.state for each in ports} == {"ACTIVE"}
    host = fleet.read("host", 5).host
    assert host is not None
    assert host.memory_available_bytes
    assert fleet.read("kmsg", 5) == Reading()
    assert fleet.events == []


def test_readings_stay_within_what_hardware_can_say() -> None:
    fleet = Fleet()
    for at in range(0, 600, 7):
        for gpu in fleet.gpus(at):
            assert gpu.utilization_ratio is not None
            assert 0 <= gpu.utilization_ratio <= 1
            assert gpu.memory_used_bytes is not None
            assert gpu.memory_total_bytes is not None
            assert 0 <= gpu.memory_used_bytes <= gpu.memory_total_bytes


def test_a_step_changes_its_devices_on_its_nodes_in_its_time() -> None:
    text = step("gpus: [1, 3], gpu: {temperature_celsius: 91, sm_clock_hertz: 1.1e9}")
    fleet, other = Fleet(text), Fleet(text, node="sim-b-01")

    def hot(of: Fleet, at: float) -> list[int]:
        return [gpu.index for gpu in of.gpus(at) if gpu.temperature_celsius == 91.0]

    assert hot(fleet, 9.9) == []
    assert hot(fleet, 10) == [1, 3]
    assert hot(fleet, 19.9) == [1, 3]
    assert hot(fleet, 20) == []
    assert hot(other, 15) == []
    assert fleet.gpus(15)[1].sm_clock_hertz == 1.1e9  # YAML calls it text


def test_a_step_without_indices_is_for_all_gpus() -> None:
    fleet = Fleet(step("gpu: {lost: true, temperature_celsius: null}"))
    assert all(gpu.lost and gpu.temperature_celsius is None for gpu in fleet.gpus(10))


def test_a_kernel_log_line_is_written_once_per_lap_through_the_real_parser() -> None:
    line = "NVRM: Xid (PCI:{bus}): 79, GPU has fallen off the bus."
    fleet = Fleet(step(f"gpus: [5], kernel_log: '{line}'"), top="repeat_seconds: 100")
    for at in (0, 9, 10, 11, 15, 25):
        fleet.read("kmsg", at)
    (event,) = fleet.events
    assert (event.code, event.subject) == (79, f"gpu:{bus_id(5)}")
    assert event.subject == fleet.gpus(15)[5].subject
    assert event.time_seconds == START + 10
    fleet.read("kmsg", 112)
    assert len({each.id for each in fleet.events}) == 2


def downs(fleet: Fleet, *moments: float) -> list[int]:
    counts = []
    for at in moments:
        count = fleet.ports(at)[2].link_downed_total
        assert count is not None
        counts.append(count)
    return counts


def test_a_flapping_link_counts_each_time_it_goes_down() -> None:
    fleet = Fleet(step("ports: [2], flap_seconds: 3"), top="repeat_seconds: 100")
    assert downs(fleet, 0, 10, 11, 12.9, 13, 16, 19.9, 20, 50) == [0, 1, 1, 1, 2, 3, 4, 4, 4]
    assert [each.state for each in fleet.ports(110)].count("DOWN") == 1
    assert fleet.ports(110)[2].state == "DOWN"
    assert fleet.ports(112)[2].state == "ACTIVE"


def test_a_flapping_link_flaps_again_in_the_next_lap() -> None:
    fleet = Fleet(step("ports: [2], flap_seconds: 3"), top="repeat_seconds: 100")
    assert downs(fleet, 10, 13, 16, 19, 110, 113, 116, 119) == [1, 2, 3, 4, 5, 6, 7, 8]
    once = Fleet(step("ports: [2], flap_seconds: 30"), top="repeat_seconds: 100")
    assert downs(once, 10, 19, 110, 119) == [1, 1, 2, 2]


def test_a_port_can_be_down() -> None:
    fleet = Fleet(step("ports: [0], port: {state: DOWN, physical_state: Polling}"))
    assert [each.state for each in fleet.ports(10)] == ["DOWN"] + ["ACTIVE"] * 7


def test_names_of_a_fleet() -> None:
    assert Scenario(rows=("a", "b"), nodes_per_row=2).node_names() == [
        *("sim-a-01", "sim-a-02", "sim-b-01", "sim-b-02")
    ]


def test_the_demos_own_scenario_can_be_read_at_every_moment() -> None:
    scenario = load_scenario(DEMO.read_bytes())
    assert len(scenario.node_names()) == 32
    names = {node for each in scenario.steps for node in [each.nodes]}
    assert "sim-a-03" in names
    codes = set()
    for node in ("sim-a-03", "sim-d-06", "sim-b-02", "sim-c-01", "sim-a-07"):
        fleet = Fleet("", node=node, top=DEMO.read_text())
        for at in range(130):
            for name in fleet.sources:
                fleet.read(name, at)
        codes |= {event.code for event in fleet.events}
    assert codes == {79, 95, 154, 31}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("gpu: {colour: red}", "step 's': Gpu has no field colour"),
        ("port: {speed: 1}", "step 's': RdmaPort has no field speed"),
        ("gpu: {lost: maybe}", "bool"),
        ("gpus: one", "array"),
        ("moon: full", "unknown field `moon`"),
    ],
)
def test_a_step_that_cannot_be_used_is_named(text: str, says: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=says):
        load_scenario(f"steps:\n{step(text)}".encode())
