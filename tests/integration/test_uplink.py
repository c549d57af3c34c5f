"""The agent's uplink against the aggregator's intake, over real gRPC on a port the kernel chose."""

import asyncio
from contextlib import AsyncExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
import pytest

from agent import uplink as uplink_module
from contract import report_pb2 as pb
from contract.vocabulary import Action, Severity, SourceState
from contract.wire import MAX_REPORT_BYTES, MAX_TEXT
from tests.stream import Hub, Node, ack, raw_stream, report, scripted
from tests.support import START, finding, until, xid

EVENTS = [xid(13, at, origin=f"kmsg:{at}") for at in range(30)]


@pytest.fixture
def hub() -> Hub:
    return Hub()


async def test_a_report_arrives_whole_and_is_acknowledged(hub: Hub) -> None:
    async with hub.listening():
        node = Node(hub, agent_version="1.2.3")
        node.offer(EVENTS[0], findings=[finding()], boot_id="b", driver_version="580")
        async with node.running():
            await node.acked(1)
            assert node.uplink.connected
    (report,) = hub.reports
    assert (report.node, report.sequence, report.boot_id) == ("n1", 1, "b")
    assert (report.agent_version, report.driver_version) == ("1.2.3", "580")
    assert report.taken_time_seconds == START
    assert hub.event_ids() == ["kmsg:0"]
    state = hub.fleet.get("n1")
    assert state is not None
    assert state.findings == (finding(),)
    assert [source.state for source in state.sources] == [SourceState.OK] * 3
    await until(lambda: hub.left == ["n1"])
    assert hub.stats.connections == 0


async def test_a_fatal_finding_does_not_wait_for_the_rhythm(hub: Hub) -> None:
    async with hub.listening():
        node = Node(hub, report_seconds=300.0)
        node.offer()
        async with node.running():
            await node.acked(1)
            node.offer(findings=[finding(severity=Severity.INFO)])  # waits for the rhythm
            node.offer(EVENTS[1], findings=[finding()], urgent=True)
            await node.acked(2)
            node.offer(urgent=True)
            await node.acked(3)
    assert [report.urgent for report in hub.reports] == [False, True, True]
    assert [len(report.findings) for report in hub.reports] == [0, 1, 0]
    assert [report.sequence for report in hub.reports] == [1, 2, 3]


async def test_regular_reports_come_in_rhythm(hub: Hub) -> None:
    async with hub.listening():
        node = Node(hub, report_seconds=0.02)
        node.offer()
        async with node.running():
            await node.acked(5)


async def test_an_outage_costs_constant_memory_and_loses_only_the_oldest(hub: Hub) -> None:
    async with hub.listening():
        pass  # now it is away, and its port is known
    node = Node(hub, event_buffer=10)
    async with node.running():
        node.offer(*EVENTS[:8], findings=[finding("xid-1")])
        await until(lambda: node.stats.reconnects >= 3)
        node.offer(*EVENTS[8:25], findings=[finding()], urgent=True)
        async with hub.listening():
            await node.acked(1)
            node.offer(urgent=True)
            await node.acked(2)
    assert node.stats.events_dropped == 15
    assert hub.event_ids() == [event.id for event in EVENTS[15:25]]
    assert hub.reports[0].events_dropped_total == 15
    assert [each.code for each in hub.reports[0].findings] == ["xid-79"]


async def test_nothing_is_repeated_after_its_ack_and_all_is_resent_without(hub: Hub) -> None:
    async with AsyncExitStack() as first:
        await first.enter_async_context(hub.listening())
        node = Node(hub)
        node.offer(EVENTS[0])
        async with node.running():
            await node.acked(1)
            await first.aclose()
            await until(lambda: not node.uplink.connected)
            node.offer(EVENTS[1])
            node.offer(EVENTS[2], urgent=True)
            async with hub.listening():
                await node.acked(2)
                node.offer(EVENTS[3], urgent=True)
                await node.acked(3)
    assert hub.event_ids() == ["kmsg:0", "kmsg:1", "kmsg:2", "kmsg:3"]
    assert len({report.sequence for report in hub.reports}) == len(hub.reports)


async def test_more_events_than_one_report_carries_follow_at_once(hub: Hub) -> None:
    async with hub.listening():
        node = Node(hub)
        many = [xid(13, at, origin=f"kmsg:{at}") for at in range(950)]
        node.offer(*many)
        async with node.running():
            await until(lambda: len(hub.event_ids()) >= 950)
    assert hub.event_ids() == [event.id for event in many]
    assert len(hub.reports) == 5


async def test_a_refused_report_keeps_its_events_for_the_next(hub: Hub) -> None:
    """As for a node that the cluster has not told the aggregator of yet."""
    hub.known.discard("n1")
    async with hub.listening():
        node = Node(hub, report_seconds=0.02)
        node.offer(EVENTS[0])
        async with node.running():
            await until(lambda: hub.stats.unknown_node_total >= 2)
            assert node.stats.reports_acked == 0
            hub.known.add("n1")
            await node.acked(2)
    assert hub.event_ids() == ["kmsg:0"]


async def test_a_state_too_large_for_the_stream_goes_up_worst_first(hub: Hub) -> None:
    evidence = "\u20ac" * MAX_TEXT
    findings = [finding(evidence=evidence)]
    findings += [finding(f"xid-{n}", Severity.INFO, evidence=evidence) for n in range(1000, 1999)]
    async with hub.listening():
        node = Node(hub)
        node.offer(*EVENTS, findings=findings)
        async with node.running():
            await node.acked(1)
    (report,) = hub.reports
    assert report.ByteSize() <= MAX_REPORT_BYTES
    assert report.findings[0].code == "xid-79"
    assert len(report.findings) > 100
    assert hub.event_ids() == [event.id for event in EVENTS]


async def test_a_state_that_cannot_be_written_does_not_end_the_uplink(hub: Hub) -> None:
    async with hub.listening():
        node = Node(hub)
        node.offer(driver_version="\udcff")
        async with node.running():
            await until(lambda: node.stats.reconnects >= 2)
            node.offer(driver_version="580", urgent=True)
            await node.acked(1)


@pytest.mark.parametrize("token", [b"\xff\xfe", b"two\nlines"])
async def test_a_token_that_cannot_be_sent_does_not_end_the_uplink(
    hub: Hub, tmp_path: Path, token: bytes
) -> None:
    file = tmp_path / "token"
    file.write_bytes(token)
    async with hub.listening():
        node = Node(hub, token_file=str(file))
        node.offer()
        async with node.running():
            await until(lambda: node.stats.reconnects >= 2)
            file.write_text("good")
            await node.acked(1)


async def test_the_token_is_read_anew_and_a_wrong_one_is_turned_away(
    hub: Hub, tmp_path: Path
) -> None:
    async def authenticate(token: str, claimed: str) -> str:
        if token != "right":
            raise PermissionError("the token is not ours")
        return claimed

    hub.authenticate = authenticate
    file = tmp_path / "token"
    file.write_text("wrong\n")
    async with hub.listening():
        node = Node(hub, token_file=str(file))
        node.offer()
        async with node.running():
            await until(lambda: dict(hub.stats.reports_refused.items()).get("unauthenticated"))
            file.write_text("right\n")
            await node.acked(1)
    assert [report.node for report in hub.reports] == ["n1"]


async def test_an_answer_that_is_no_message_is_passed_over(hub: Hub) -> None:
    async def answer(taken: pb.NodeReport, context: Any) -> None:
        await context.write(b"\xff\xff\xff")
        await context.write(b"\x9a\x06\x03new")  # a message of a newer aggregator
        await context.write(ack(taken))

    async with scripted(answer) as hub.port:
        node = Node(hub)
        node.offer()
        async with node.running():
            await node.acked(1)
    assert node.stats.reconnects == 0


async def test_an_ack_takes_no_event_that_came_after_its_report(hub: Hub) -> None:
    """The buffer overflows while the report that carried its first ten is under way."""
    go, ids = asyncio.Event(), list[list[str]]()

    async def answer(taken: pb.NodeReport, context: Any) -> None:
        ids.append([event.id for event in taken.events])
        await go.wait()
        await context.write(ack(taken))

    async with scripted(answer) as hub.port:
        node = Node(hub, event_buffer=10)
        node.offer(*EVENTS[:10])
        async with node.running():
            await until(lambda: ids)
            node.offer(*EVENTS[10:15])
            go.set()
            await node.acked(2)
    assert ids == [[event.id for event in EVENTS[:10]], [event.id for event in EVENTS[10:15]]]


@pytest.mark.parametrize("code", [grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL])
async def test_a_stream_that_the_aggregator_breaks_is_opened_anew(
    hub: Hub, code: grpc.StatusCode
) -> None:
    async def answer(taken: pb.NodeReport, context: Any) -> None:
        await context.write(ack(taken))
        await context.abort(code, "bye")

    async with scripted(answer) as hub.port:
        node = Node(hub)
        node.offer()
        async with node.running():
            await until(lambda: node.stats.reconnects >= 3)


async def test_no_stream_leaves_anything_behind(hub: Hub) -> None:
    """Reports of an ended stream would take the urgency away from those of the next one."""

    async def answer(taken: pb.NodeReport, context: Any) -> None:
        await context.write(ack(taken))
        await context.abort(grpc.StatusCode.UNAVAILABLE, "bye")

    def waiting() -> int:
        return sum("_consume_request" in str(task.get_coro()) for task in asyncio.all_tasks())

    async with scripted(answer) as hub.port:
        node = Node(hub)
        node.offer()
        async with node.running():
            await until(lambda: node.stats.reconnects >= 4)
            await until(lambda: waiting() <= 1, what=waiting)
    await until(lambda: waiting() == 0, what=waiting)


async def test_an_aggregator_that_takes_and_never_answers_is_left(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uplink_module, "ACK_DEADLINE_SECONDS", 0.1)

    async def silence(taken: pb.NodeReport, context: Any) -> None:
        return

    async with scripted(silence) as hub.port:
        node = Node(hub)
        node.offer(EVENTS[0])
        async with node.running():
            await until(lambda: node.stats.reconnects >= 2)
    assert node.stats.reports_acked == 0


async def test_an_answered_stream_is_kept_however_rare_its_reports(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uplink_module, "ACK_DEADLINE_SECONDS", 0.05)
    async with hub.listening():
        node = Node(hub)
        node.offer()
        async with node.running():
            await node.acked(1)
            await asyncio.sleep(0.3)  # that nothing happens can only be waited for
    assert node.stats.reconnects == 0


async def test_malformed_bytes_are_refused_and_counted_while_the_stream_goes_on(hub: Hub) -> None:
    async with hub.listening(), raw_stream(hub) as send:
        for bad in (b"\xff\xff", b"\x1a\xffshort", report("")):
            assert (await send(bad)).ack.refused.startswith("malformed: ")
        many = [pb.Event(id=str(n)) for n in range(1001)]
        assert "more events" in (await send(report(events=many))).ack.refused
        assert "malformed" in (await send(report("x" * 300))).ack.refused
        assert hub.stats.reports_malformed_total == 5
        good = await send(report())
        assert (good.ack.sequence, good.ack.refused) == (7, "")
    assert [each.node for each in hub.reports] == ["n1"]


async def test_an_agent_may_speak_for_no_other_node(hub: Hub) -> None:
    async with hub.listening(), raw_stream(hub, "n1") as send:
        reply = await send(report("n2"))
        assert reply.ack.refused == "this connection speaks for 'n1', not for 'n2'"
        assert dict(hub.stats.reports_refused.items()) == {"not-your-node": 1}
    async with hub.listening(), raw_stream(hub, "") as send:
        assert "speaks for 'no node'" in (await send(report("n2"))).ack.refused
    assert hub.reports == []


async def test_a_node_that_the_cluster_does_not_know_is_refused_until_it_does(hub: Hub) -> None:
    async with hub.listening(), raw_stream(hub, "n3") as send:
        assert (await send(report("n3"))).ack.refused == "the cluster has no node 'n3'"
        assert hub.stats.unknown_node_total == 1
        hub.known.add("n3")
        assert (await send(report("n3"))).ack.refused == ""


async def test_a_newer_agent_is_read_as_the_nearest_weaker_word(hub: Hub) -> None:
    newer = (
        b"\x0a\x06xid-79"
        + (b"\x12\x05gpu:0" + b"\x18\x23" + b"\x20\x2d")  # severity 35, action 45
        + b"\x48\xe7\x07"  # domain 999
        + b"\xf2\x07\x03new"  # field 126
    )
    sources = b"\x0a\x06nvidia\x10\x05"  # state 5: below "ok"
    message = (
        report(protocol_version=99)
        + (b"\x42" + bytes([len(newer)]) + newer)
        + (b"\x4a" + bytes([len(sources)]) + sources)
        + b"\xf2\x07\x06future"
    )
    async with hub.listening(), raw_stream(hub) as send:
        assert (await send(message)).ack.refused == ""
    state = hub.fleet.get("n1")
    assert state is not None
    (found,) = state.findings
    assert (found.code, found.severity) == ("xid-79", Severity.CRITICAL)
    assert found.action is Action.REBOOT_NODE
    assert found.domain.label == "storage"
    assert [each.state for each in state.sources] == [SourceState.FAILING]


def signed(text: str) -> pb.SignedDirective:
    """What is in it is nothing to the stream."""
    return pb.SignedDirective(directive=text.encode(), signature=b"by somebody")


async def test_directives_reach_only_their_node_between_acks(hub: Hub) -> None:
    """All of them, while the very reports that led to them are being acknowledged."""
    ids = iter(range(60))  # fewer than a stream keeps waiting

    def direct(came: pb.NodeReport) -> None:
        for number in islice(ids, 3 if came.node == "n1" else 0):
            assert hub.intake.direct("n1", signed(f"d{number}"))

    hub.on_report = direct
    async with hub.listening():
        nodes = [Node(hub, name, report_seconds=0.01) for name in ("n1", "n2")]
        nodes[0].offer()
        nodes[1].offer()
        async with nodes[0].running(), nodes[1].running():
            await until(lambda: len(nodes[0].directives) >= 60, seconds=30)
            assert not hub.intake.direct("n3", signed("x"))
        assert nodes[0].directives == [signed(f"d{n}") for n in range(60)]
        assert nodes[1].directives == []
        assert [node.stats.reconnects for node in nodes] == [0, 0]
        await until(lambda: "n1" in hub.left)
        assert not hub.intake.direct("n1", signed("x"))


async def test_a_second_stream_of_one_node_outlives_the_first(hub: Hub) -> None:
    """As when an agent is replaced: the old stream's end says nothing about the new one."""
    async with hub.listening(), AsyncExitStack() as old:
        first = await old.enter_async_context(raw_stream(hub))
        await first(report())
        async with raw_stream(hub) as second:
            await second(report())
            await old.aclose()
            await until(lambda: hub.stats.connections == 1)
            assert hub.left == []
            assert hub.intake.direct("n1", signed("d"))


async def test_a_runaway_agent_is_slowed_down_and_nobody_else_is(hub: Hub) -> None:
    hub.max_reports_per_second = 0.1
    async with hub.listening(), raw_stream(hub, "n1") as runaway, raw_stream(hub, "n2") as calm:
        await runaway(report("n1"))
        second = asyncio.create_task(runaway(report("n1")))
        await calm(report("n2"))
        assert not second.done()
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
    assert [each.node for each in hub.reports] == ["n1", "n2"]
