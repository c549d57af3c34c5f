"""Directives from their arrival to their outcome: who is believed, what is refused, what is remembered."""

from pathlib import Path
from typing import Any

import psutil
import pytest

from agent.repairs import desk
from agent.repairs.book import MAX_ENTRIES
from contract import report_pb2 as pb
from contract.settings import SettingsError
from contract.signing import generate, load_signer
from contract.vocabulary import OutcomeState
from tests.repairs import GPU, Bench, script
from tests.support import until


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_a_directive_is_carried_out_and_told_with_its_evidence(bench: Bench) -> None:
    async with bench.running() as repairs:
        assert not repairs.kinds, "its record is not read yet"
        outcome = await bench.done()
        assert repairs.kinds == ("diagnose", "reboot-node", "reset-device", "restart-service")
    assert (outcome.state, outcome.kind, outcome.subject) == (OutcomeState.DONE, "diagnose", GPU)
    assert outcome.evidence == f"diagnostic of {GPU} passed"
    assert bench.runs() == [f"diagnose {GPU}"]
    assert bench.stats.directives == {("diagnose", "running"): 1, ("diagnose", "done"): 1}
    assert bench.told >= 3, "at the start, when it began, and when it ended"


async def test_the_same_directive_again_is_answered_and_not_run_again(bench: Bench) -> None:
    first = bench.signed()
    async with bench.running() as repairs:
        repairs.take(first)
        outcome = await bench.over()
        told = bench.told
        repairs.take(first)
        repairs.take(bench.signed(reason="signed anew"))
        await until(lambda: bench.told == told + 2)
        assert await bench.over() == outcome
    async with bench.running() as repairs:
        repairs.take(first)
        await bench.done("i-2")
        assert await bench.over() == outcome
    assert len(bench.runs()) == 2


async def test_only_what_our_key_signed_is_believed(bench: Bench, tmp_path: Path) -> None:
    stranger = load_signer(generate(tmp_path / "stranger")[0])
    true = bench.signed("i-9")
    async with bench.running() as repairs:
        repairs.take(stranger.sign(bench.directive()))
        repairs.take(pb.SignedDirective())
        repairs.take(pb.SignedDirective(directive=true.directive + b"x", signature=true.signature))
        repairs.take(bench.signed(""))
        await bench.done("i-2")
        assert [each.id for each in repairs.outcomes] == ["i-2"]
    assert bench.stats.directives_refused == 4
    assert len(bench.runs()) == 1


async def test_what_is_not_for_here_or_now_is_refused_with_the_reason(bench: Bench) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"node": "n2"}, "it is for node 'n2', and this is 'n1'"),
        ({"expires_seconds": bench.now - 1}, "it expired 1 s ago"),
        ({"issued_seconds": bench.now - 3600}, "is too old"),
        ({"boot_id": "b0"}, "it is for boot b0"),
        ({"kind": "format-disk"}, "'format-disk' is not allowed on this node"),
        ({"kind": "reset-device", "subject": "gpu:0000:99:00.0"}, "not among the GPUs"),
    ]
    async with bench.running():
        for number, (fields, words) in enumerate(cases):
            outcome = await bench.done(f"i-{number}", **fields)
            assert (outcome.state, outcome.finished_seconds) == (OutcomeState.REFUSED, bench.now)
            assert words in outcome.evidence
    assert bench.runs() == []
    assert bench.stats.directives_refused == len(cases)
    async with bench.running():
        outcome = await bench.done("i-0", node="n1")
        assert "it is for node 'n2'" in outcome.evidence, "refused once is refused for good"


async def test_one_repair_at_a_time_while_findings_can_be_forgotten(
    bench: Bench, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    slow = script(
        tmp_path / "slow",
        f"import pathlib, time\nwhile not pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)",
    )
    async with bench.running(diagnostic_command=slow) as repairs:
        repairs.take(bench.signed())
        second = await bench.done("i-2", "reboot-node")
        cleared = await bench.done("i-3", "clear")
        assert (second.state, second.evidence) == (
            OutcomeState.REFUSED,
            "i-1 is being carried out; one at a time",
        )
        assert cleared.state is OutcomeState.DONE
        go.touch()
        assert (await bench.over()).state is OutcomeState.DONE
        assert (await bench.done("i-4")).state is OutcomeState.DONE
    assert bench.runs() == []


async def test_a_finding_is_forgotten_by_a_signed_word(bench: Bench) -> None:
    async with bench.running(allow_repairs="", diagnostic_command="", state_dir="") as repairs:
        await bench.done(kind="clear")
        assert repairs.kinds == ()
    (event,) = bench.events
    assert (event.kind, event.subject, event.message) == ("clear", GPU, "xid-48")
    assert event.id == "directive:i-1"


@pytest.mark.parametrize(
    "content", [b"", b"[" * 100_000, b'{"version":1,"node":"n1","entr', b'{"node":"n7"}']
)
async def test_a_damaged_record_ends_all_repairs_until_a_person_removes_it(
    bench: Bench, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk, "BETWEEN_LOOKS_SECONDS", 0.01)
    record = bench.folder / "state" / "directives.json"
    record.parent.mkdir()
    record.write_bytes(content)
    async with bench.running() as repairs:
        for number, kind in enumerate(("diagnose", "reboot-node", "clear")):
            outcome = await bench.done(f"i-{number}", kind)
            assert outcome.state is OutcomeState.REFUSED
            assert str(record) in outcome.evidence
            assert "then remove the file" in outcome.evidence
        assert repairs.kinds == ()
        assert (record.read_bytes(), bench.runs(), bench.events) == (content, [], [])
        record.unlink()
        await until(lambda: repairs.kinds)
        assert (await bench.done("i-5")).state is OutcomeState.DONE
        assert (await bench.done("i-0")).state is OutcomeState.REFUSED, "it was told so"
    assert len(bench.runs()) == 1


async def test_what_cannot_be_remembered_is_not_begun(bench: Bench) -> None:
    async with bench.running():
        await bench.done("i-0")
        record = bench.folder / "state" / "directives.json"
        (bench.folder / "state" / "directives.json.new").mkdir()  # nothing can be written there now
        before = record.read_bytes()
        outcome = await bench.done("i-1")
        assert outcome.state is OutcomeState.REFUSED
        assert "it cannot be remembered" in outcome.evidence
        assert record.read_bytes() == before
    assert len(bench.runs()) == 1


async def test_two_agents_on_one_folder_are_one_too_many(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk, "BETWEEN_LOOKS_SECONDS", 0.01)
    async with bench.running():
        await bench.done("i-0")
        first = bench.repairs
        async with bench.running() as second:
            outcome = await bench.done("i-1")
            assert "another agent has it" in outcome.evidence
            bench.repairs = first
        assert second.kinds == ()
    async with bench.running() as third:
        await until(lambda: third.kinds)
    assert len(bench.runs()) == 1


async def test_what_was_begun_stands_on_the_disk_before_its_command_starts(
    bench: Bench, tmp_path: Path
) -> None:
    record = bench.folder / "state" / "directives.json"
    copy = tmp_path / "copy"
    copying = script(
        tmp_path / "copying", f"import shutil; shutil.copy({str(record)!r}, {str(copy)!r})"
    )
    async with bench.running(reboot_command=copying, reboot_limit_seconds=0.5):
        await bench.done(kind="reboot-node")
    assert b'"i-1"' in copy.read_bytes()
    assert b'"state":10' in copy.read_bytes()


async def test_an_agent_stopped_in_the_middle_ends_the_command_and_never_begins_it_again(
    bench: Bench, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    endless = script(
        tmp_path / "endless",
        "import os, pathlib, time\n"
        f"pathlib.Path({str(tmp_path / 'p')!r}).write_text(str(os.getpid()))\n"
        f"os.rename({str(tmp_path / 'p')!r}, {str(pid_file)!r})\n"
        "time.sleep(600)",
    )
    async with bench.running(diagnostic_command=endless) as repairs:
        repairs.take(bench.signed())
        await until(pid_file.exists)
    pid = int(pid_file.read_text())
    assert not psutil.pid_exists(pid)
    pid_file.unlink()
    async with bench.running(diagnostic_command=endless) as repairs:
        repairs.take(bench.signed())
        outcome = await bench.over()
    assert outcome.state is OutcomeState.FAILED
    assert outcome.evidence == ("the agent restarted in the middle; whether it worked is not known")
    assert not pid_file.exists()


async def test_a_reboot_is_done_when_the_next_boot_has_another_id(bench: Bench) -> None:
    async with bench.running() as repairs:
        repairs.take(bench.signed(kind="reboot-node"))
        await until(bench.runs)
        running = bench.outcome()
        assert running is not None
        assert running.state is OutcomeState.RUNNING
        # systemd ends the agent here.
    bench.boot_id = "b2"
    bench.now += 300
    async with bench.running() as repairs:
        outcome = await bench.over()
        repairs.take(bench.signed(kind="reboot-node"))
        await bench.done("i-2")
    assert (outcome.state, outcome.evidence) == (
        OutcomeState.DONE,
        "up again, new boot id b2",
    )
    assert bench.runs() == ["reboot", f"diagnose {GPU}"]


async def test_an_agent_that_restarts_under_a_reboot_waits_for_it_as_long_as_it_may_take(
    bench: Bench,
) -> None:
    async with bench.running() as repairs:
        repairs.take(bench.signed(kind="reboot-node"))
        await until(bench.runs)
    bench.now += 899.5
    async with bench.running():
        other = await bench.done("i-2")
        assert "i-1 is being carried out" in other.evidence
        outcome = await bench.over("i-1")
        assert outcome.state is OutcomeState.FAILED
        assert outcome.evidence == "no reboot within 900 s: the boot id is still b1"
        assert (await bench.done("i-3")).state is OutcomeState.DONE


async def test_the_memory_is_bounded_and_what_left_it_is_not_done_again(bench: Bench) -> None:
    async with bench.running(diagnostic_command="") as repairs:
        first = bench.signed("i-0", "clear")
        for number in range(MAX_ENTRIES + 1):
            bench.now += 0.001
            await bench.done(f"i-{number}", "clear")
        assert len(repairs.outcomes) == MAX_ENTRIES
        bench.events.clear()
        repairs.take(first)
        outcome = await bench.over("i-0")
        assert "may have been carried out already" in outcome.evidence
    assert bench.events == []


async def test_a_crowd_of_directives_is_held_off(bench: Bench) -> None:
    async with bench.running() as repairs:
        for number in range(desk.MAX_WAITING + 5):  # before the loop turns once
            repairs.take(bench.signed(f"i-{number}", "clear"))
        assert bench.stats.directives_refused == 5
        await bench.over(f"i-{desk.MAX_WAITING - 1}")


async def test_a_key_that_cannot_be_read_is_a_setting_to_mend(bench: Bench) -> None:
    with pytest.raises(SettingsError, match=r"/nowhere cannot be read: No such file"):
        async with bench.running(directive_public_key_file="/nowhere"):
            pass
