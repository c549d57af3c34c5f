"""Host and mount checks: what an engineer is told of a machine, and of what is left alone."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.catalogue.load import shipped
from agent.checks import Checked, Context, Limits, Observation
from agent.checks import host as host_checks
from agent.checks import storage as storage_checks
from agent.exporter.host import write_host
from agent.exporter.mounts import write_mounts
from agent.snapshot import Disk, Host, Mount, Snapshot
from agent.snapshot.host import BlockedProcess, UnreadableDisk
from contract.metrics import Page
from contract.vocabulary import Action, Severity, SourceState
from tests.examples.host import (
    EXAMPLES,
    GIB,
    blocked,
    disk,
    host,
    memory_errors,
    mount,
    mounts,
    unreadable,
)
from tests.support import snapshot, source

CONTEXT = Context(catalogue=shipped())


def judged(
    shots: list[Snapshot], context: Context = CONTEXT, module: Any = host_checks
) -> list[Checked[Any]]:
    """What the check saw in each snapshot."""
    memory, every = module.Memory(), []
    for shot in shots:
        every.append(module.check(shot, memory, context))
        memory = every[-1].memory
    return every


def last(shots: list[Snapshot], **limits: Any) -> dict[str, Observation]:
    context = Context(catalogue=shipped(), limits=Limits(**limits))
    return {each.code.code: each for each in judged(shots, context)[-1].observations}


def last_of_mounts(shots: list[Snapshot]) -> dict[str, Observation]:
    return {each.code.code: each for each in judged(shots, module=storage_checks)[-1].observations}


HEALTHY: dict[str, Any] = {
    "memory_total_bytes": 2048 * GIB,
    "memory_available_bytes": 1400 * GIB,
    "disks": (disk(), disk(mount_point="/data")),
    "open_files": 90_000,
    "open_files_max": 2**63 - 1,
    "threads": 9_000,
    "threads_max": 4_194_304,
    "processes": 3_000,
    "zombie_processes": 12,
    "clock_synchronised": True,
    "clock_offset_seconds": 0.0004,
    "clock_estimated_error_seconds": 0.001,
    **memory_errors(corrected=4_000),
}


def test_a_healthy_machine_has_nothing() -> None:
    assert all(each.observations == () for each in judged(host(HEALTHY, HEALTHY, HEALTHY)))
    assert all(
        each.observations == () for each in judged(mounts(mount(), mount()), module=storage_checks)
    )


def test_what_was_not_measured_is_neither_good_nor_bad() -> None:
    bare = Host(disks=(Disk(mount_point="/proc", total_bytes=0, available_bytes=0),))
    assert judged([snapshot(host=bare), snapshot()])[-1].observations == ()
    empty = mount(total_bytes=None, available_bytes=None, read_only=None)
    object_store = mount(total_bytes=0, available_bytes=0, total_inodes=0, available_inodes=0)
    assert last_of_mounts(mounts(empty, object_store)) == {}


def test_a_tick_without_the_machine_forgets_nothing() -> None:
    writable = host({"disks": (disk(),)})
    read_only = host({"disks": (disk(read_only=True),)})
    assert "disk-read-only" in last([*writable, snapshot(5.0), *read_only])


@pytest.mark.parametrize(("available", "bad"), [(30, False), (29, True), (0, True), (None, False)])
def test_host_memory(available: int | None, bad: bool) -> None:
    shots = host({"memory_total_bytes": 1000, "memory_available_bytes": available})
    assert ("host-memory-pressure" in last(shots, memory_low_ratio=0.03)) is bad


def test_each_disk_is_judged_on_its_own() -> None:
    observation = last(
        host({"disks": (disk(), disk(mount_point="/data", available_bytes=4 * GIB))})
    )
    assert list(observation) == ["disk-pressure"]
    assert observation["disk-pressure"].subject == "mount:/data"
    assert observation["disk-pressure"].evidence == "4.0 GiB (4.0%) available, limit 5.0%"


def test_a_disk_can_have_space_and_no_room_for_files() -> None:
    found = last(host({"disks": (disk(available_inodes=49_999),)}))
    assert found["inode-pressure"].evidence == (
        "49999 (5.0%) of 1000000 inodes available, limit 5.0%"
    )
    assert last(host({"disks": (disk(available_inodes=50_000),)})) == {}
    assert last(host({"disks": (disk(total_inodes=None, available_inodes=None),)})) == {}


def test_only_a_disk_that_was_writable_became_read_only() -> None:
    always = disk(mount_point="/usr", read_only=True)
    shots = host(
        {"disks": (disk(), always)},
        {"disks": (disk(read_only=True), always)},
        {"disks": (disk(read_only=True), always)},
        {"disks": (disk(), always)},
    )
    told = [[each.subject for each in checked.observations] for checked in judged(shots)]
    assert told == [[], ["mount:/"], ["mount:/"], []]


def test_a_disk_made_read_only_on_purpose_is_forgotten_when_a_person_says_so() -> None:
    first, second = host({"disks": (disk(),)}, {"disks": (disk(read_only=True),)})
    memory = host_checks.check(first, host_checks.Memory(), CONTEXT).memory
    forgotten = host_checks.forget(memory, "mount:/")
    assert host_checks.check(second, forgotten, CONTEXT).observations == ()


@pytest.mark.parametrize("state", ["stuck", "failing", "missing"])
def test_a_disk_that_cannot_be_read_is_told_of_and_hides_no_other(state: Any) -> None:
    shot = snapshot(
        host=Host(
            disks=(disk(available_bytes=0),),
            unreadable_disks=(UnreadableDisk(mount_point="/data", state=state, reason="because"),),
        )
    )
    checked = judged([shot])[-1]
    assert {(each.code.code, each.subject) for each in checked.observations} == {
        (f"disk-{state}", "mount:/data"),
        ("disk-pressure", "mount:/"),
    }
    assert checked.blind == {"mount:/data"}  # whether it is full, nobody knows now


@pytest.mark.parametrize(
    ("used", "most", "codes"),
    [
        (799_999, 1_000_000, set()),
        (800_000, 1_000_000, {"file-handles-low"}),
        (950_000, 1_000_000, {"file-handles-low", "file-handles-exhausted"}),
        (7_999_999, 2**63 - 1, set()),
        (8_000_000, 2**63 - 1, {"file-handles-low"}),
        (60_000_000, 2**63 - 1, {"file-handles-low"}),
        (5, 0, set()),
        (None, 100, set()),
    ],
)
def test_open_files(used: int | None, most: int, codes: set[str]) -> None:
    assert set(last(host({"open_files": used, "open_files_max": most}))) == codes


def test_threads_against_the_lower_of_two_limits() -> None:
    assert set(last(host({"threads": 26_214, "threads_max": 32_768}))) == set()
    assert set(last(host({"threads": 26_215, "threads_max": 32_768}))) == {"process-ids-low"}
    found = last(host({"threads": 32_768, "threads_max": 32_768}))
    assert set(found) == {"process-ids-low", "process-ids-exhausted"}
    assert found["process-ids-exhausted"].evidence == ("32768 of 32768 threads (100%), limit 95%")


def test_a_process_blocked_for_five_minutes_is_shown_and_one_of_the_driver_needs_a_boot() -> None:
    assert last(host(blocked("python3", 299.0))) == {}
    assert last(host(blocked("python3", 300.0)))["processes-blocked"].code.action is Action.NONE
    driver = last(host(blocked("nvidia-smi", 300.0)))
    assert set(driver) == {"nvidia-process-blocked"}
    assert driver["nvidia-process-blocked"].code.severity is Severity.CRITICAL
    assert driver["nvidia-process-blocked"].code.action is Action.REBOOT_NODE


def test_many_blocked_processes_are_one_line() -> None:
    many = tuple(BlockedProcess(pid=n, name=f"rank{n}", seconds=600.0 - n) for n in range(1, 9))
    evidence = last(host({"blocked_processes": many}))["processes-blocked"].evidence
    assert evidence == (
        "rank1[1] blocked for 10 min, rank2[2] blocked for 10 min, rank3[3] blocked for 10 min"
        " and 5 more; limit 5 min"
    )


@pytest.mark.parametrize(
    ("fields", "codes"),
    [
        ({"clock_synchronised": True, "clock_offset_seconds": 1.0}, set()),
        ({"clock_synchronised": True, "clock_offset_seconds": 1.01}, {"clock-drift"}),
        ({"clock_synchronised": True, "clock_offset_seconds": -30.0}, {"clock-drift"}),
        (
            {"clock_synchronised": True, "clock_estimated_error_seconds": 4.0},
            {"clock-drift"},
        ),
        ({"clock_synchronised": False, "clock_offset_seconds": 0.0}, {"clock-unsynchronised"}),
        ({}, set()),
    ],
)
def test_the_clock(fields: dict[str, Any], codes: set[str]) -> None:
    assert set(last(host(fields))) == codes


def test_memory_errors_are_counted_per_controller_and_rise() -> None:
    told = [
        [(each.code.code, each.evidence) for each in checked.observations]
        for checked in judged(
            host(
                memory_errors(5_000, 0),
                memory_errors(5_099, 2),
                memory_errors(5_099, 2),
                memory_errors(5_100, None),
            )
        )
    ]
    assert told == [
        [],
        [("memory-uncorrected-error", "2 uncorrected errors since boot, were 0")],
        [],
        [
            (
                "memory-corrected-errors-often",
                "100 corrected errors within 0 min, limit 100 in 60 min",
            )
        ],
    ]


def test_an_uncorrected_error_from_before_the_agent_is_told_once() -> None:
    checked = judged(host(memory_errors(0, 3), memory_errors(0, 3)))
    assert [len(each.observations) for each in checked] == [1, 0]
    assert checked[0].observations[0].occurrence


@given(st.lists(st.none() | st.integers(0, 50), max_size=12))
def test_uncorrected_errors_are_told_at_each_rise_over_what_was_known(
    values: list[int | None],
) -> None:
    known, rises = 0, 0
    for value in values:
        if value is not None:
            rises += value > known
            known = value
    shots = host(*(memory_errors(0, value) for value in values))
    assert sum(len(each.observations) for each in judged(shots)) == rises


# --- mounts -------------------------------------------------------------------------------------------------------


def test_a_hanging_file_server_moves_and_reboots_nothing() -> None:
    """It hangs on every node at once: to empty them would be to empty the cluster."""
    found = last_of_mounts(EXAMPLES["mount-stuck"])["mount-stuck"]
    assert found.code.severity is Severity.DEGRADED
    assert found.code.action is Action.NONE
    assert found.subject == f"mount:{mount().mount_point}"
    assert found.evidence == "nfs4 of nas-a:/export/data: statfs gives no answer for 17 s"


def test_no_mount_takes_a_node_out_of_service() -> None:
    codes = [code for name, code in shipped().codes.items() if name.startswith("mount-")]
    assert len(codes) == 5
    assert all(code.severity <= Severity.DEGRADED for code in codes)
    assert all(code.action in (Action.NONE, Action.RESTART_WORKLOAD) for code in codes)


def test_a_mount_that_answers_again_has_nothing() -> None:
    stuck = mount(state="stuck", reason="statfs gives no answer for 17 s")
    assert last_of_mounts(mounts(mount(), stuck, mount())) == {}


def test_a_mount_that_pods_left_is_no_trouble_any_more() -> None:
    gone = snapshot(30.0, sources=(source("mounts"),))
    assert last_of_mounts([*mounts(mount(state="stuck")), gone]) == {}


def test_only_a_mount_that_was_writable_became_read_only() -> None:
    assert last_of_mounts(mounts(mount(read_only=True), mount(read_only=True))) == {}
    assert set(last_of_mounts(mounts(mount(), mount(read_only=True)))) == {"mount-read-only"}


def test_another_mount_at_the_same_place_later_is_not_that_which_was_writable() -> None:
    gone = snapshot(5.0, sources=(source("mounts"),))
    later = mounts(mount(read_only=True))
    assert last_of_mounts([*mounts(mount()), gone, *later]) == {}


def test_mounts_that_nobody_can_see_are_not_judged() -> None:
    first = mounts(mount())[0]
    blind = snapshot(
        10.0,
        sources=(source("mounts", SourceState.FAILING),),
        mounts=(mount(state="stuck"),),
    )
    checked = judged([first, blind], module=storage_checks)
    assert checked[1].observations == ()
    assert checked[1].memory == checked[0].memory


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ok", "stuck", "failing"]),
            st.sampled_from([None, True, False]),
            st.none() | st.integers(0, 100),
        ),
        max_size=8,
    )
)
def test_nothing_bad_is_said_of_a_mount_that_answers_and_has_room(states: list[Any]) -> None:
    shots = mounts(
        *(
            mount(state=state, read_only=read_only, total_bytes=100, available_bytes=available)
            for state, read_only, available in states
        )
    )
    for shot, checked in zip(shots, judged(shots, module=storage_checks), strict=True):
        (seen,) = shot.mounts
        codes = {each.code.code for each in checked.observations}
        assert ("mount-stuck" in codes) == (seen.state == "stuck")
        assert ("mount-failing" in codes) == (seen.state == "failing")
        assert "mount-read-only" not in codes or seen.read_only
        assert ("mount-full" in codes) == (
            seen.available_bytes is not None and seen.available_bytes < 2
        )


# --- what Prometheus gets -----------------------------------------------------------------------------------------


def test_the_page_says_what_was_measured_and_nothing_else() -> None:
    page = Page()
    write_host(page, "n1", Host(**HEALTHY))
    text = page.render().decode()
    assert 'fleetmedic_host_disk_inodes_available{mount_point="/data",node="n1"} 500000.0' in text
    assert (
        'fleetmedic_host_memory_corrected_errors_total{controller="mc0",node="n1"} 4000.0' in text
    )
    assert 'fleetmedic_host_clock_synchronised{node="n1"} 1.0' in text
    bare = Page()
    write_host(bare, "n1", Host())
    assert "clock" not in bare.render().decode()
    assert "threads" not in bare.render().decode()


def test_a_disk_that_is_not_readable_is_on_the_page_without_sizes() -> None:
    page = Page()
    (_, shot) = unreadable("stuck", "no answer")
    assert shot.host is not None
    write_host(page, "n1", shot.host)
    text = page.render().decode()
    assert 'fleetmedic_host_disk_readable{mount_point="/data",node="n1"} 0.0' in text
    assert "disk_size_bytes" not in text


def test_mounts_with_long_paths_stay_apart_on_the_page() -> None:
    pods = [f"/var/lib/kubelet/pods/{n:036d}/volumes/kubernetes.io~csi" for n in (1, 2)]
    every: list[Mount] = [
        mount(mount_point=f"{pod}/pvc-{volume:036d}/mount") for pod in pods for volume in (1, 2)
    ]
    page = Page()
    write_mounts(page, "n1", [*every, mount(mount_point="/mnt/s", state="stuck"), every[0]])
    lines = [
        line
        for line in page.render().decode().splitlines()
        if line.startswith("fleetmedic_mount_answers{")
    ]
    assert len(lines) == len(set(lines)) == 5
    assert 'fleetmedic_mount_answers{fs_type="nfs4",mount_point="/mnt/s",node="n1"} 0.0' in lines
