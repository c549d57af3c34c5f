"""The checks: what is bad now, from one snapshot and the memory of those before."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.catalogue import shipped
from agent.checks import Checked, Limits, Memory, Observation, forget
from agent.checks.all import run
from agent.snapshot import Disk, Host, Snapshot
from contract.vocabulary import Action, SourceState
from tests.support import gpu, port, snapshot, source

GIB = 1 << 30
IN_SOURCE: dict[str, Any] = {
    "gpus": (gpu(0, lost=True), gpu(1, temperature_celsius=120, recovery_action=1)),
    "rdma_ports": (port(state="DOWN"),),
}


def judge(shot: Snapshot, memory: Memory | None = None, **limits: Any) -> Checked:
    return run(shot, memory or Memory(), shipped(), Limits(**limits))


def seen(checked: Checked) -> set[tuple[str, str]]:
    return {(each.code.code, each.subject) for each in checked.observations}


def only(checked: Checked) -> Observation:
    (observation,) = checked.observations
    return observation


def test_a_healthy_node_has_nothing() -> None:
    healthy = snapshot(
        gpus=tuple(
            gpu(n, temperature_celsius=60, slowdown_temperature_celsius=87, recovery_action=0)
            for n in range(8)
        ),
        rdma_ports=(port(link_downed_total=3),),
        host=Host(
            memory_total_bytes=100,
            memory_available_bytes=50,
            disks=(Disk(mount_point="/", total_bytes=10, available_bytes=5),),
        ),
    )
    assert judge(healthy, expected_gpus=8).observations == ()


def test_what_was_not_measured_is_neither_good_nor_bad() -> None:
    bare = snapshot(
        gpus=(gpu(0),),
        rdma_ports=(port(state=""),),
        host=Host(disks=(Disk(mount_point="/proc", total_bytes=0, available_bytes=0),)),
    )
    assert judge(bare).observations == ()


def test_a_lost_gpu_does_not_hide_its_siblings() -> None:
    hot = {"temperature_celsius": 95.0, "slowdown_temperature_celsius": 90.0}
    checked = judge(snapshot(gpus=(gpu(0, lost=True, **hot), gpu(1, **hot), gpu(2))))
    assert seen(checked) == {("gpu-lost", gpu(0).subject), ("gpu-too-hot", gpu(1).subject)}
    assert "GPU-0" in checked.observations[0].evidence


def test_the_gpus_own_slowdown_temperature_outranks_the_setting() -> None:
    warm = gpu(0, temperature_celsius=88.0, slowdown_temperature_celsius=87.0)
    assert seen(judge(snapshot(gpus=(warm,)), gpu_too_hot_celsius=95.0)) == {
        ("gpu-too-hot", warm.subject)
    }
    unknown = gpu(0, temperature_celsius=88.0)
    assert not judge(snapshot(gpus=(unknown,)), gpu_too_hot_celsius=95.0).observations
    at_limit = only(judge(snapshot(gpus=(unknown,)), gpu_too_hot_celsius=88.0))
    assert at_limit.evidence == "core at 88 C, slows down at 88 C"


@pytest.mark.parametrize(
    ("value", "words", "action"),
    [
        (1, "GPU reset", Action.RESET_DEVICE),
        (2, "node reboot", Action.REBOOT_NODE),
        (3, "drain P2P", Action.RESET_DEVICE),
        (4, "drain and reset", Action.RESET_DEVICE),
    ],
)
def test_the_driver_is_taken_at_its_word(value: int, words: str, action: Action) -> None:
    observation = only(judge(snapshot(gpus=(gpu(0, recovery_action=value),))))
    assert observation.code.code == "gpu-recovery-action"
    assert words in observation.evidence
    assert observation.code.action is action


@pytest.mark.parametrize("value", [None, 0, 5, 4_000_000_000])
def test_a_recovery_action_unknown_to_us_raises_nothing(value: int | None) -> None:
    assert not judge(snapshot(gpus=(gpu(0, recovery_action=value),))).observations


def test_fewer_gpus_than_expected() -> None:
    node = snapshot(gpus=(gpu(0), gpu(1)))
    assert not judge(node).observations
    assert not judge(node, expected_gpus=2).observations
    observation = only(judge(node, expected_gpus=8))
    assert (observation.code.code, observation.subject) == ("gpu-count", "node")
    assert observation.evidence == "2 GPUs answer, 8 expected"


@pytest.mark.parametrize("state", [SourceState.ABSENT, SourceState.FAILING, None])
def test_a_source_that_says_nothing_yields_nothing(state: SourceState | None) -> None:
    sources = () if state is None else (source("nvidia", state), source("rdma", state))
    memory = Memory(active_ports=frozenset({"rdma:mlx5_0/1", "rdma:mlx5_9/1"}))
    checked = judge(snapshot(sources=sources, **IN_SOURCE), memory, expected_gpus=8)
    assert checked.observations == ()
    assert checked.memory == memory


def test_a_stuck_driver_is_shown_and_no_gpu_is_called_lost() -> None:
    stuck = source("nvidia", SourceState.STUCK, "nvmlDeviceGetTemperature on GPU 3 hangs")
    observation = only(judge(snapshot(sources=(stuck,), **IN_SOURCE), expected_gpus=8))
    assert observation.code.code == "nvidia-stuck"
    assert observation.code.severity.label == "info"
    assert observation.evidence == "nvmlDeviceGetTemperature on GPU 3 hangs"


def test_an_unwired_port_is_not_down_and_one_that_was_active_is() -> None:
    unwired = port("mlx5_1", state="DOWN", physical_state="Disabled")
    first = judge(snapshot(rdma_ports=(port(), unwired)))
    assert first.observations == ()
    down = port(state="DOWN", physical_state="Polling", link_layer="InfiniBand")
    second = judge(snapshot(rdma_ports=(down, unwired)), first.memory)
    assert only(second).subject == "rdma:mlx5_0/1"
    assert only(second).code.code == "rdma-port-down"
    assert only(second).evidence == "InfiniBand was ACTIVE, is DOWN (Polling)"
    third = judge(snapshot(rdma_ports=(down, unwired)), second.memory)
    assert seen(third) == seen(second)  # it stays down, however often it is read
    assert not judge(snapshot(rdma_ports=(port(), unwired)), third.memory).observations


def test_a_port_that_vanished_is_missing() -> None:
    memory = judge(snapshot(rdma_ports=(port(), port("mlx5_1")))).memory
    gone = judge(snapshot(rdma_ports=(port("mlx5_1"),)), memory)
    assert seen(gone) == {("rdma-port-missing", "rdma:mlx5_0/1")}
    assert seen(judge(snapshot(rdma_ports=()), gone.memory)) == {
        ("rdma-port-missing", "rdma:mlx5_0/1"),
        ("rdma-port-missing", "rdma:mlx5_1/1"),
    }


def counts(*values: int | None) -> list[str]:
    """The evidence of flaps that a port with these readings gives, one reading per tick."""
    memory, evidence = Memory(), []
    for value in values:
        checked = judge(snapshot(rdma_ports=(port(link_downed_total=value),)), memory)
        memory = checked.memory
        assert all(each.occurrence for each in checked.observations)
        evidence += [each.evidence for each in checked.observations]
    return evidence


def test_a_link_that_went_down_between_two_readings_flapped() -> None:
    assert counts(7, 7, 8, 8) == ["link_downed rose from 7 to 8"]


def test_a_counter_that_goes_backwards_is_a_reload_and_no_flap() -> None:
    assert counts(7, 0, 0) == []
    assert counts(7, 0, 1) == ["link_downed rose from 0 to 1"]


def test_a_counter_not_readable_for_once_hides_no_flap() -> None:
    assert counts(7, None, 8) == ["link_downed rose from 7 to 8"]


@given(st.lists(st.none() | st.integers(0, 20), max_size=12))
def test_flaps_are_the_rises_between_readable_values(values: list[int | None]) -> None:
    known = [value for value in values if value is not None]
    rises = sum(after > before for before, after in pairwise(known))
    assert len(counts(*values)) == rises


@pytest.mark.parametrize(("available", "bad"), [(30, False), (29, True), (0, True), (None, False)])
def test_host_memory(available: int | None, bad: bool) -> None:
    shot = snapshot(host=Host(memory_total_bytes=1000, memory_available_bytes=available))
    found = seen(judge(shot, memory_low_ratio=0.03))
    assert found == ({("host-memory-pressure", "host")} if bad else set())


def test_each_disk_is_judged_on_its_own() -> None:
    disks = (
        Disk(mount_point="/", total_bytes=100 * GIB, available_bytes=50 * GIB),
        Disk(mount_point="/data", total_bytes=100 * GIB, available_bytes=4 * GIB),
    )
    observation = only(judge(snapshot(host=Host(disks=disks))))
    assert (observation.code.code, observation.subject) == ("disk-pressure", "mount:/data")
    assert observation.evidence == "4.0 GiB (4.0%) available, limit 5.0%"


def test_every_code_of_the_checks_table_was_seen_here() -> None:
    """Each row of checks.yaml is reachable: one bad node per code."""
    low = Disk(mount_point="/", total_bytes=100, available_bytes=1)
    host = Host(memory_total_bytes=100, memory_available_bytes=1, disks=(low,))
    stuck = (source("nvidia", SourceState.STUCK),)
    memory = Memory(
        active_ports=frozenset({"rdma:mlx5_0/1", "rdma:mlx5_9/1"}),
        link_downed_total={"rdma:mlx5_0/1": 0},
    )
    bad = snapshot(
        gpus=IN_SOURCE["gpus"], rdma_ports=(port(state="DOWN", link_downed_total=1),), host=host
    )
    found = seen(judge(bad, memory, expected_gpus=8)) | seen(judge(snapshot(sources=stuck)))
    of_checks = {code for code in shipped().codes if not code.startswith("xid-")}
    assert {code for code, _ in found} == of_checks


def test_a_port_taken_out_on_purpose_is_forgotten_when_a_person_says_so() -> None:
    first = judge(snapshot(rdma_ports=(port("mlx5_0"), port("mlx5_1"))))
    gone = judge(snapshot(rdma_ports=(port("mlx5_0"),)), first.memory)
    assert only(gone).code.code == "rdma-port-missing"
    after = judge(
        snapshot(rdma_ports=(port("mlx5_0"),)), forget(gone.memory, port("mlx5_1").subject)
    )
    assert after.observations == ()
