"""A report of too many parts is refused however small it is: empty parts cost two bytes each."""

import pytest

from aggregator.intake import MAX_PARTS, SMALL_BYTES
from contract import report_pb2 as pb
from tests.stream import Hub, raw_stream


def parts(what: str, count: int) -> bytes:
    """A report with nothing but its node and so many empty parts of this kind."""
    report = pb.NodeReport(node="n1")
    target = report.host if what == "disks" else report
    for _ in range(count):
        getattr(target, what).add()
    return report.SerializeToString()


@pytest.mark.parametrize(
    "what", ["gpus", "npus", "rdma_ports", "sources", "disks", "events"], ids=str
)
async def test_as_many_parts_as_are_allowed_are_taken_and_one_more_is_not(what: str) -> None:
    hub = Hub()
    async with hub.listening(), raw_stream(hub) as send:
        assert (await send(parts(what, MAX_PARTS))).ack.refused == ""
        assert (await send(parts(what, MAX_PARTS + 1))).ack.refused.startswith("malformed: ")
    assert len(hub.reports) == hub.stats.reports_malformed_total == 1


def test_no_message_that_is_passed_over_as_small_holds_too_many() -> None:
    bare = len(pb.NodeReport(node="n").SerializeToString())
    for what in ("gpus", "npus", "rdma_ports", "sources", "disks", "events"):
        assert len(parts(what, MAX_PARTS + 1)) - bare > SMALL_BYTES
