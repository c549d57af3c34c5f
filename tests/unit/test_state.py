"""What outlives a restart: nothing is forged, nothing is forgotten."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.catalogue import Catalogue, Escalation
from agent.catalogue.load import shipped
from agent.checks import Context, Limits
from agent.checks import all as all_checks
from agent.checks.rdma import Memory as RdmaMemory
from agent.faults import Book, Timing, findings
from agent.faults.events import record_events
from agent.faults.levels import advance
from agent.state import Restored, decode, encode
from contract.vocabulary import Action, Event, Severity, SourceState
from tests.support import START, gpu, port, snapshot, source, xid

TIMING = Timing(hold_seconds=10.0, clear_seconds=60.0, started_seconds=START)
BOOT = "boot-1"


def saved(book: Book, memory: all_checks.Memory | None = None, **fields: Any) -> bytes:
    given: dict[str, Any] = {"boot_id": BOOT, "kmsg_sequence": 77, "gpus": (gpu(0),)}
    return encode(book, memory or all_checks.Memory(), **{**given, **fields})


def restored(text: bytes, *, boot_id: str = BOOT, catalogue: Catalogue | None = None) -> Restored:
    return decode(text, catalogue or shipped(), boot_id=boot_id, now=START + 100)


def heard(*events: Event) -> Book:
    return record_events(Book(), events, shipped(), TIMING)


def codes(book: Book) -> list[str]:
    return [each.code for each in findings(book, TIMING)]


def test_a_restart_changes_nothing_that_others_see() -> None:
    book = heard(xid(79), xid(48), xid(13), xid(13, 1), xid(154, 2))
    book = advance(book, snapshot(3, gpus=(gpu(0),)), (), TIMING)
    again = restored(saved(book))
    assert findings(again.book, TIMING) == findings(book, TIMING)
    assert (again.kmsg_sequence, [each.uuid for each in again.gpus]) == (77, ["GPU-0"])


def test_the_drivers_verdict_is_kept() -> None:
    verdict = msgspec.structs.replace(
        xid(154), message="Xid 154, GPU recovery action changed from 0x0 (None) to 0x2 (Reboot)"
    )
    book = heard(xid(48), verdict)
    again = restored(saved(book)).book
    assert {each.action for each in findings(again, TIMING)} == {Action.REBOOT_NODE}


def test_a_new_boot_ends_what_a_boot_ends_and_the_kernel_log_starts_anew() -> None:
    again = restored(saved(heard(xid(79), xid(48))), boot_id="boot-2")
    assert codes(again.book) == []
    assert again.kmsg_sequence is None
    assert again.gpus, "the node still has them"


def test_what_escalated_outlives_a_boot() -> None:
    rung = Escalation(
        count=2, within_seconds=1e6, severity=Severity.FATAL, action=Action.REPLACE_HARDWARE
    )
    judged = msgspec.structs.replace(shipped().xid(79), escalation=(rung,))
    catalogue = Catalogue({"xid-79": judged})
    book = record_events(Book(), (xid(79), xid(79, 5)), catalogue, TIMING)
    again = restored(saved(book), boot_id="boot-2", catalogue=catalogue)
    (found,) = findings(again.book, TIMING)
    assert found.action is Action.REPLACE_HARDWARE


def test_time_in_which_the_agent_was_away_is_no_good_time() -> None:
    book = heard(xid(79))
    book = advance(book, snapshot(1, gpus=(gpu(0),)), (), TIMING)
    later = Timing(hold_seconds=10.0, clear_seconds=60.0, started_seconds=START + 5000)
    dark = snapshot(5000, sources=(source("nvidia", SourceState.STUCK),))
    again = advance(restored(saved(book)).book, dark, (), later)
    assert codes(again) == ["xid-79"]


def test_a_fault_does_not_clear_at_the_first_good_look_after_a_long_absence() -> None:
    book = advance(heard(xid(79)), snapshot(1, gpus=(gpu(0, lost=True),)), (), TIMING)
    later = Timing(hold_seconds=10.0, clear_seconds=60.0, started_seconds=START + 5000)
    again = restored(saved(book)).book
    for at in (5000, 5059):
        again = advance(again, snapshot(at, gpus=(gpu(0),)), (), later)
        assert codes(again) == ["xid-79"]
    assert codes(advance(again, snapshot(5060, gpus=(gpu(0),)), (), later)) == []


def test_a_code_is_judged_by_the_catalogue_of_the_version_that_runs() -> None:
    milder = msgspec.structs.replace(shipped().xid(48), severity=Severity.INFO)
    again = restored(saved(heard(xid(48))), catalogue=Catalogue({"xid-48": milder}))
    assert [each.severity for each in findings(again.book, TIMING)] == [Severity.INFO]


def test_what_was_learned_of_the_node_is_kept() -> None:
    memory = all_checks.Memory(rdma=RdmaMemory(active_ports=frozenset({"rdma:mlx5_7/1"})))
    again = restored(saved(Book(), memory)).memory
    gone = all_checks.run(
        snapshot(rdma_ports=(port(),)), again, Context(catalogue=shipped(), limits=Limits())
    )
    assert "rdma-port-missing" in {each.code.code for each in gone.observations}


def test_a_memory_of_another_form_starts_empty_and_takes_nothing_else_along() -> None:
    content = msgspec.json.decode(saved(heard(xid(79))))
    content["memory"]["rdma"] = {"active_ports": 7}
    content["memory"]["of-another-version"] = {}
    again = restored(msgspec.json.encode(content))
    assert again.memory.rdma == RdmaMemory()
    assert codes(again.book) == ["xid-79"]


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"version": 9}', b"\xff\xfe", b'"x"'])
def test_a_file_that_is_not_ours_is_refused(text: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        restored(text)


def test_a_state_of_another_node_is_refused() -> None:
    text = saved(Book(), node="gpu-7")
    with pytest.raises(msgspec.ValidationError, match="of node gpu-7, and this is gpu-8"):
        decode(text, shipped(), boot_id=BOOT, now=START, node="gpu-8")


def test_two_boots_without_an_id_are_not_the_same_one() -> None:
    again = decode(saved(heard(xid(48)), boot_id=""), shipped(), boot_id="", now=START)
    assert again.kmsg_sequence is None


def test_a_newer_version_is_refused_by_name() -> None:
    content = msgspec.json.decode(saved(Book()))
    content["version"] = 2
    with pytest.raises(msgspec.ValidationError, match="version 2, this agent reads 1"):
        restored(msgspec.json.encode(content))


@given(
    st.lists(
        st.tuples(st.sampled_from([13, 48, 79, 94, 777]), st.integers(0, 2), st.floats(0, 500)),
        max_size=30,
    )
)
def test_any_book_survives(happenings: list[tuple[int, int, float]]) -> None:
    book = heard(*(xid(number, at, gpu_index=index) for number, index, at in happenings))
    again = restored(saved(book)).book
    assert findings(again, TIMING) == findings(book, TIMING)
    assert again.history == book.history
