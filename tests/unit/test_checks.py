"""The checks: what is bad now, from one snapshot and the memory of those before."""

from typing import Any

import pytest

from agent.catalogue.load import shipped
from agent.checks import Checked, Context, Limits
from agent.checks.all import Memory, run
from agent.checks.rdma import Memory as RdmaMemory
from agent.snapshot import Disk, Host, Snapshot
from contract.vocabulary import SourceState
from tests.support import gpu, port, snapshot, source

IN_SOURCE: dict[str, Any] = {
    "gpus": (gpu(0, lost=True), gpu(1, temperature_celsius=120, recovery_action=1)),
    "rdma_ports": (port(state="DOWN"),),
}


def judge(shot: Snapshot, memory: Memory | None = None, **limits: Any) -> Checked[Memory]:
    return run(shot, memory or Memory(), Context(catalogue=shipped(), limits=Limits(**limits)))


def seen(checked: Checked[Memory]) -> set[tuple[str, str]]:
    return {(each.code.code, each.subject) for each in checked.observations}


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


@pytest.mark.parametrize("state", [SourceState.ABSENT, SourceState.FAILING, None])
def test_a_source_that_says_nothing_yields_nothing(state: SourceState | None) -> None:
    sources = () if state is None else (source("nvidia", state), source("rdma", state))
    memory = Memory(rdma=RdmaMemory(active_ports=frozenset({"rdma:mlx5_0/1", "rdma:mlx5_9/1"})))
    checked = judge(snapshot(sources=sources, **IN_SOURCE), memory, expected_gpus=8)
    # That it cannot be read is shown; nothing is said of the devices.
    shown = {("nvidia-failing", "nvidia"), ("rdma-unread", "rdma")}
    assert seen(checked) == (shown if state is SourceState.FAILING else set())
    assert checked.memory == memory
