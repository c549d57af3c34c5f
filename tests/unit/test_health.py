"""ok, degraded, failed, unknown: what each device is said to be."""

import pytest

from agent.health import health_of
from agent.snapshot import Disk, Host, MigInstance
from contract.vocabulary import Health, Severity, SourceState
from tests.support import finding, gpu, port, snapshot, source

GPU0, GPU1 = gpu(0).subject, gpu(1).subject
NODE = snapshot(
    gpus=(gpu(0), gpu(1)),
    rdma_ports=(port(),),
    host=Host(disks=(Disk(mount_point="/", total_bytes=1, available_bytes=1),)),
)


def with_source(name: str, state: SourceState) -> dict[str, Health]:
    others = tuple(each for each in NODE.sources if each.name != name)
    shot = snapshot(
        gpus=NODE.gpus,
        rdma_ports=NODE.rdma_ports,
        host=NODE.host,
        sources=(*others, source(name, state)),
    )
    return health_of(shot, ())


def test_a_node_without_findings_is_ok_in_every_device() -> None:
    health = health_of(NODE, ())
    assert set(health) == {GPU0, GPU1, "rdma:mlx5_0/1", "host", "mount:/"}
    assert set(health.values()) == {Health.OK}


@pytest.mark.parametrize(
    ("severity", "expected"),
    [
        (Severity.INFO, Health.OK),
        (Severity.DEGRADED, Health.DEGRADED),
        (Severity.CRITICAL, Health.FAILED),
        (Severity.FATAL, Health.FAILED),
    ],
)
def test_a_finding_is_about_its_own_device_only(severity: Severity, expected: Health) -> None:
    health = health_of(NODE, (finding(severity=severity),))
    assert (health[GPU0], health[GPU1]) == (expected, Health.OK)


def test_the_worst_finding_decides() -> None:
    found = (finding("a", Severity.FATAL), finding("b", Severity.DEGRADED))
    assert health_of(NODE, found)[GPU0] is Health.FAILED
    assert health_of(NODE, found[::-1])[GPU0] is Health.FAILED


@pytest.mark.parametrize("state", [SourceState.FAILING, SourceState.STUCK])
def test_what_cannot_be_read_is_unknown_and_not_ok(state: SourceState) -> None:
    health = with_source("rdma", state)
    assert (health["rdma:mlx5_0/1"], health[GPU0]) == (Health.UNKNOWN, Health.OK)
    assert health["rdma"] is Health.UNKNOWN


def test_an_unread_kernel_log_makes_everything_unknown() -> None:
    health = with_source("kmsg", SourceState.FAILING)
    assert set(health.values()) == {Health.UNKNOWN}


def test_a_kernel_log_that_is_not_there_hides_nothing() -> None:
    assert with_source("kmsg", SourceState.ABSENT)[GPU0] is Health.OK


def test_a_fault_that_is_known_is_not_hidden_by_what_is_not() -> None:
    shot = snapshot(sources=(source("nvidia", SourceState.STUCK),))
    assert health_of(shot, (finding(),))[GPU0] is Health.FAILED


def test_a_subject_that_no_check_can_judge_is_unknown() -> None:
    health = health_of(NODE, (), blind={"rdma:mlx5_0/1"})
    assert health["rdma:mlx5_0/1"] is Health.UNKNOWN


def test_an_instance_of_a_gpu_is_a_device_of_its_own() -> None:
    sliced = gpu(0, mig_instances=(MigInstance(uuid="MIG-1", gpu_instance=5),))
    instance = f"{GPU0}/mig:5"
    shot = snapshot(gpus=(sliced,))
    assert health_of(shot, ())[instance] is Health.OK
    health = health_of(shot, (finding(subject=instance),))
    assert (health[instance], health[GPU0]) == (Health.FAILED, Health.OK)
