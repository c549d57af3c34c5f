"""A person's word about a fault: one line in the kernel log clears it, for this boot."""

from agent.catalogue.load import shipped
from agent.faults import Book, Timing, findings
from agent.faults.events import record_events
from contract.vocabulary import Event
from tests.support import START, gpu, xid

TIMING = Timing(started_seconds=START)
CLEAR = Event(
    id="kmsg:9", time_seconds=START + 5, kind="clear", subject=gpu(0).subject, message="xid-95"
)


def raised(*events: Event) -> list[tuple[str, str]]:
    book = record_events(Book(), events, shipped(), TIMING)
    return [(each.code, each.subject) for each in findings(book, TIMING)]


def test_it_clears_that_code_of_that_device_and_nothing_else() -> None:
    faults = (xid(95, 1), xid(48, 1), xid(95, 1, gpu_index=1))
    assert raised(*faults, CLEAR) == [
        ("xid-48", gpu(0).subject),
        ("xid-95", gpu(1).subject),
    ]


def test_an_agent_that_reads_the_log_again_after_a_restart_remembers_it() -> None:
    assert raised(xid(95, -50), CLEAR) == []


def test_the_same_fault_later_is_a_new_one() -> None:
    assert raised(xid(95, 1), CLEAR, xid(95, 9)) == [("xid-95", gpu(0).subject)]


RESET = Event(
    id="directive:i-2",
    time_seconds=START + 5,
    kind="reset",
    subject=gpu(0).subject,
    message="reset under a directive",
)


def test_a_reset_that_we_did_ends_what_was_seen_before_it_however_short_before() -> None:
    faults = (xid(95, 4.9), xid(95, 1, gpu_index=1), xid(48, 6))
    assert raised(*faults, RESET) == [("xid-95", gpu(1).subject), ("xid-48", gpu(0).subject)]
