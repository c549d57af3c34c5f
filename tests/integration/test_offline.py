"""``python -m agent check`` and ``catalogue``: the same judgement over what was recorded, by anybody, anywhere."""

import json
import os
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.catalogue.load import shipped
from agent.offline import check
from agent.snapshot import Snapshot, readable_snapshot
from agent.snapshot.npu import Npu, NpuFault
from tests.integration.test_agent_cli import agent, needs_nvml
from tests.nvml.standin import Scenario, h100_node
from tests.support import gpu, snapshot, source, xid

DMESG = """\
[    0.000000] Linux version 6.8.0-45-generic
[   12.345678] nvidia: loading out-of-tree module taints kernel.
[12345.678901] NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.
[12346.000000] NVRM: Xid (PCI:0000:5e:00): 94, pid=7194, name=python3, Ch 00000008
[12347.000000] NVRM: Xid (PCI:0000:5e:00): 94, pid=7195, name=python3, Ch 00000008
"""


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


async def test_a_kernel_log_as_dmesg_writes_it(tmp_path: Path) -> None:
    log = tmp_path / "dmesg.txt"
    log.write_text(DMESG)
    os.utime(log, (2_000_000_000, 2_000_000_000))
    status, out, err = await agent("check", "--kmsg", str(log), "--json")
    assert (status, err) == (1, "")
    first, second = lines(out)
    assert {key: first[key] for key in ("code", "subject", "severity", "action", "count")} == {
        "code": "xid-79",
        "subject": "gpu:0000:3b:00.0",
        "severity": "fatal",
        "action": "reboot-node",
        "count": 1,
    }
    assert "fallen off the bus" in first["evidence"]
    assert first["since"] == pytest.approx(2_000_000_000 - 1.321099), "its newest line is as old"
    assert (second["code"], second["severity"], second["count"]) == ("xid-94", "info", 2)


XID = "[{at:.6f}] NVRM: Xid (PCI:0000:3b:00): {number}, pid=1, name=python\n"


async def judged(log: Path, *events: tuple[float, int]) -> list[tuple[str, str, str, int]]:
    """Findings over a log with these XIDs at these uptimes."""
    with log.open("w") as file:
        file.writelines(XID.format(at=at, number=number) for at, number in events)
    found = await check(kmsg=log, sysfs_root=None, recording=None, catalogue=shipped())
    return [(each.code, each.severity.label, each.action.label, each.count) for each in found]


async def test_faults_days_apart_are_as_many_as_a_running_agent_would_count(
    tmp_path: Path,
) -> None:
    log, day = tmp_path / "dmesg", 86_400.0
    apart = await judged(log, *((100 + n * day, 94) for n in range(5)))
    assert apart == [("xid-94", "critical", "replace-hardware", 5)]
    assert await judged(log, (100, 79), (100 + 3 * day, 79)) == [
        ("xid-79", "fatal", "replace-hardware", 2)
    ]


async def test_one_failure_that_writes_many_lines_is_one(tmp_path: Path) -> None:
    found = await judged(tmp_path / "dmesg", *((100 + n / 10, 94) for n in range(20)))
    assert found == [("xid-94", "info", "restart-workload", 20)]


def recording(folder: Path, *snapshots: Snapshot) -> Path:
    file = folder / "recording.jsonl"
    file.write_bytes(b"\n".join(msgspec.json.encode(readable_snapshot(each)) for each in snapshots))
    return file


def an_npu(at: float, *faults: int) -> Snapshot:
    npu = Npu(
        index=0,
        card=0,
        chip=0,
        model="910B3",
        health=2 if faults else 0,
        faults=tuple(NpuFault(code=code) for code in faults),
    )
    return snapshot(at, sources=(source("ascend"),), npus=(npu,))


async def test_a_fault_of_an_npu_that_was_recorded_stays_as_others_do(tmp_path: Path) -> None:
    file = recording(tmp_path, an_npu(0, 0x80E01801), *(an_npu(at) for at in range(10, 7200, 10)))
    found = await check(kmsg=None, sysfs_root=None, recording=file, catalogue=shipped())
    assert [(each.code, each.subject) for each in found] == [("npu-80e01801", "npu:0")]
    usual = shipped().find("npu-80e01801")
    assert (found[0].severity, found[0].action) == (usual.severity, usual.action)


async def test_an_unknown_code_that_was_recorded_stays_too(tmp_path: Path) -> None:
    told = snapshot(0, events=(xid(999),))
    file = recording(tmp_path, told, *(snapshot(at) for at in range(60, 90_000, 600)))
    found = await check(kmsg=None, sysfs_root=None, recording=file, catalogue=shipped())
    assert [each.code for each in found] == ["xid-999"]


def a_port(tree: Path, state: str) -> None:
    port = tree / "class/infiniband/mlx5_0/ports/1"
    (port / "counters").mkdir(parents=True)
    for name, text in {
        "state": state,
        "phys_state": "5: LinkUp",
        "rate": "400 Gb/sec (4X NDR)",
        "link_layer": "InfiniBand",
        "counters/symbol_error": "65535",
    }.items():
        (port / name).write_text(text + "\n")


async def test_a_tree_beside_a_recording_is_judged_as_by_itself(tmp_path: Path) -> None:
    """One look has no before and after: what is bad in it is bad, however long it must last elsewhere."""
    a_port(tmp_path, "4: ACTIVE")
    alone = await check(kmsg=None, sysfs_root=tmp_path, recording=None, catalogue=shipped())
    assert [each.code for each in alone] == ["rdma-counter-saturated"]
    lost = (gpu(lost=True),)
    file = recording(tmp_path, *(snapshot(at, gpus=lost) for at in range(3)))
    recorded = await check(kmsg=None, sysfs_root=None, recording=file, catalogue=shipped())
    assert recorded
    both = await check(kmsg=None, sysfs_root=tmp_path, recording=file, catalogue=shipped())
    assert {each.key for each in both} == {each.key for each in (*alone, *recorded)}
    assert [each.severity for each in both] == sorted(
        (each.severity for each in both), reverse=True
    )


async def test_records_of_the_kernels_own_device(tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    log.write_bytes(
        b"6,100,1000000,-;NVRM: Xid (PCI:0000:3b:00): 48, pid=1, DBE\n"
        b" SUBSYSTEM=pci\n DEVICE=+pci:0000:3b:00.0\n"
        b"\xff\xfe not text at all\n"
    )
    status, out, _ = await agent("check", "--kmsg", str(log))
    assert status == 1
    assert [each["code"] for each in lines(out)] == ["xid-48"], "JSON too where it is no terminal"


async def test_a_clean_log_prints_nothing_and_says_so_by_its_status(tmp_path: Path) -> None:
    (tmp_path / "clean").write_text("[    0.0] Linux version 6.8.0\n")
    assert await agent("check", "--kmsg", str(tmp_path / "clean")) == (0, "", "")


async def test_a_sysfs_tree(tmp_path: Path) -> None:
    a_port(tmp_path, "4: ACTIVE")
    status, out, err = await agent("check", "--sysfs-root", str(tmp_path), "--json")
    assert (status, err) == (0, "")
    (found,) = lines(out)
    assert (found["code"], found["subject"]) == ("rdma-counter-saturated", "rdma:mlx5_0/1")


@needs_nvml
async def test_what_one_machine_recorded_another_judges(tmp_path: Path) -> None:
    scenario = Scenario(tmp_path / "scenario").set(gpus=h100_node(busy=True))
    scenario.update(3, temperature_celsius=95)
    file = tmp_path / "recording.jsonl"
    status, _, err = await agent(
        *("record", "--seconds", "0.4", "--sample-seconds", "0.2", "--output", str(file)),
        env=scenario.env(),
    )
    assert status == 0, err
    one = tmp_path / "one.jsonl"
    one.write_bytes(file.read_bytes().splitlines()[-1])
    status, out, err = await agent("check", "--recording", str(one), "--json")
    assert (status, err) == (1, "")
    assert "gpu-too-hot" in {each["code"] for each in lines(out)}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "nothing to check; give --kmsg, --sysfs-root or --recording"),
        (("--kmsg", "/nonexistent"), "--kmsg /nonexistent: No such file"),
        (("--recording", "/nonexistent"), "--recording /nonexistent: No such file"),
        (("--sysfs-root", "/nonexistent"), "--sysfs-root /nonexistent"),
        (("--recording", "{folder}/bad"), "line 2"),
    ],
)
async def test_an_input_that_cannot_be_read_is_named_with_what_to_do(
    tmp_path: Path, arguments: tuple[str, ...], told: str
) -> None:
    (tmp_path / "bad").write_text('{"node": "n", "taken_seconds": 1}\n{"node": 3}\n')
    given = [each.format(folder=tmp_path) for each in arguments]
    status, out, err = await agent("check", *given)
    assert (status, out) == (2, "")
    assert told in err
    assert "Traceback" not in err


async def test_every_code_is_listed_with_its_meaning_and_source() -> None:
    status, out, err = await agent("catalogue", "--json")
    assert (status, err) == (0, "")
    listed = {each["code"]: each for each in lines(out)}
    assert set(shipped().codes) <= set(listed)
    assert "npu-80e01801" in listed, "the fault codes of NPUs are listed with the others"
    for each in listed.values():
        assert each["meaning"]
        assert each["source"]
    assert (listed["xid-79"]["severity"], listed["xid-79"]["action"]) == ("fatal", "reboot-node")
    _, text, _ = await agent("catalogue")
    assert len(text.splitlines()) == len(listed)
    assert re.search(r"^xid-79 +fatal +reboot-node ", text, re.MULTILINE)
