"""Orders: started, stopped, taken up again by a new process, and honest about what is not known."""

import asyncio

import pytest

from agent.report import encode
from aggregator.cluster.workloads import WorkloadError
from aggregator.fleet import Fleet
from aggregator.policy.model import DrainState
from contract import report_pb2 as pb
from contract.vocabulary import Action, Domain, Finding, Severity
from tests.drain_rig import HOUR, Rig, order
from tests.fake_workloads import FakeWorkloads, pod
from tests.support import START, gpu, snapshot, source

pytestmark = pytest.mark.looptime(start=0)


async def test_nothing_is_said_before_the_first_look() -> None:
    cluster = FakeWorkloads(pod("a"))
    async with Rig(cluster).running() as rig:
        rig.drains.carry([order()])
        assert rig.drains.progress() == {}
        cluster.down = "connection refused"
        await asyncio.sleep(60)
        assert rig.drains.progress() == {}


async def test_an_empty_node_is_done_at_once() -> None:
    async with Rig(FakeWorkloads()).running() as rig:
        done = await rig.carried(order())
    assert (done.state, done.pods_total, done.attempt) == (DrainState.DONE, 0, "drain-n1")


async def test_what_is_done_is_not_done_again_while_the_order_stands() -> None:
    cluster = FakeWorkloads(pod("a"))
    async with Rig(cluster).running() as rig:
        await rig.carried(order())
        calls = len(cluster.log)
        for _ in range(10):
            rig.drains.carry([order()])
            await asyncio.sleep(60)
        assert len(cluster.log) == calls
        assert rig.progress().state is DrainState.DONE


async def test_a_withdrawn_order_stops_within_one_request() -> None:
    cluster = FakeWorkloads(*(pod(f"p{n}") for n in range(50)))
    async with Rig(cluster, evictions_per_second=1.0).running() as rig:
        rig.drains.carry([order()])
        await asyncio.sleep(10)
        rig.drains.carry([])
        asked = len(cluster.log)
        assert rig.drains.progress() == {}
        await asyncio.sleep(HOUR)
        assert len(cluster.log) == asked
    assert 5 <= len(cluster.seen("evict")) <= 15


async def test_the_end_of_the_process_stops_everything() -> None:
    cluster = FakeWorkloads(*(pod(f"p{n}") for n in range(50)))
    async with Rig(cluster, evictions_per_second=1.0).running() as rig:
        rig.drains.carry([order()])
        await asyncio.sleep(10)
    asked = len(cluster.log)
    await asyncio.sleep(HOUR)
    assert len(cluster.log) == asked


async def test_a_new_process_goes_on_with_what_it_finds() -> None:
    cluster = FakeWorkloads(*(pod(f"p{n}") for n in range(20)))
    async with Rig(cluster, evictions_per_second=1.0).running() as first:
        first.drains.carry([order()])
        await asyncio.sleep(10)
    before = cluster.seen("evict")
    async with Rig(cluster).running() as second:
        assert (await second.carried(order())).state is DrainState.DONE
    assert cluster.paths == []
    assert set(cluster.seen("evict")[len(before) :]).isdisjoint(before)


async def test_another_attempt_on_the_same_node_starts_anew() -> None:
    cluster = FakeWorkloads(pod("a"))
    async with Rig(cluster).running() as rig:
        await rig.carried(order())
        cluster.add(pod("b"))
        rig.drains.carry([order(attempt="second")])
        done = await rig.until(lambda now: now.state is DrainState.DONE)
        assert (done.attempt, done.pods_total) == ("second", 1)
    assert cluster.seen("evict") == ["team-a/a", "team-a/b"]


async def test_a_later_deadline_of_the_same_attempt_holds() -> None:
    cluster = FakeWorkloads(pod("a", labels={"app": "llm"}))
    cluster.budget("llm", needs=1, app="llm")
    async with Rig(cluster).running() as rig:
        rig.drains.carry([order(within=300.0)])
        await asyncio.sleep(200)
        rig.drains.carry([order(within=900.0)])
        await asyncio.sleep(400)
        assert rig.progress().state is DrainState.RUNNING
        cluster.lift_budgets()
        assert (await rig.ended()).state is DrainState.DONE


async def test_pods_that_appear_meanwhile_go_too() -> None:
    cluster = FakeWorkloads(pod("a", grace_seconds=60.0))
    async with Rig(cluster).running() as rig:
        rig.drains.carry([order()])
        await asyncio.sleep(30)
        cluster.add(pod("late"))
        done = await rig.ended()
    assert (done.state, done.pods_total, done.pods_gone) == (DrainState.DONE, 2, 2)


async def test_a_controller_that_puts_its_pods_back_on_the_node_is_not_fought_for_ever() -> None:
    """It tolerates every taint. Killing it again and again helps nobody."""
    cluster = FakeWorkloads(pod("a", grace_seconds=1.0))
    cluster.replacement = lambda gone: pod(f"{gone.name}x", grace_seconds=1.0)
    async with Rig(cluster).running() as rig:
        stuck = await rig.carried(order(within=600.0))
    assert stuck.state is DrainState.STUCK
    assert "1 of ReplicaSet web-5d9c came back 3 times" in stuck.text
    assert len(cluster.seen("evict")) == 4


async def test_an_outage_in_the_middle_is_sat_out_and_told() -> None:
    cluster = FakeWorkloads(*(pod(f"p{n}") for n in range(20)))
    async with Rig(cluster, evictions_per_second=1.0).running() as rig:
        rig.drains.carry([order()])
        await asyncio.sleep(10)
        cluster.down = "connection refused"
        told = await rig.until(lambda now: "cannot look" in now.text)
        assert told.text == "cannot look at the node: connection refused"
        assert told.state is DrainState.RUNNING
        await asyncio.sleep(300)
        cluster.down = ""
        assert (await rig.ended()).state is DrainState.DONE
    assert cluster.paths == []


async def test_an_outage_until_the_deadline_leaves_it_stuck_not_done() -> None:
    cluster = FakeWorkloads(pod("a"))
    cluster.down = "connection refused"
    async with Rig(cluster).running() as rig:
        stuck = await rig.carried(order(within=100.0))
    assert stuck.state is DrainState.STUCK
    assert "connection refused" in stuck.text


async def test_no_more_calls_at_once_than_agreed() -> None:
    nodes = range(20)
    cluster = FakeWorkloads(*(pod(f"p{n}-{m}", node=f"n{n}") for n in nodes for m in range(20)))
    async with Rig(cluster, evictions_per_second=1_000.0).running() as rig:
        rig.drains.carry([order(f"n{n}") for n in nodes])
        for n in nodes:
            await rig.ended(f"n{n}")
    assert cluster.most_in_flight <= 32 + len(nodes)  # and one look per node


async def test_a_drain_of_one_device_moves_its_holders() -> None:
    cluster = FakeWorkloads(pod("a"), pod("b"), pod("c", devices=0))
    held = {"gpu:0": ("team-a/a",), "gpu:1": ("team-a/b",)}
    async with Rig(cluster, holders=lambda node: held).running() as rig:
        assert (await rig.carried(order(subjects=("gpu:0",)))).state is DrainState.DONE
    assert cluster.paths == ["team-a/b", "team-a/c"]


async def test_a_node_that_falls_silent_meanwhile_does_not_widen_its_drain() -> None:
    cluster = FakeWorkloads(pod("a"), pod("b"))
    told: list[dict[str, tuple[str, ...]] | None] = [{"gpu:0": ("team-a/a",)}]
    async with Rig(cluster, holders=lambda node: told[0]).running() as rig:
        rig.drains.carry([order(subjects=("gpu:0",))])
        await asyncio.sleep(3)
        told[0] = {}
        assert (await rig.ended()).state is DrainState.DONE
    assert cluster.paths == ["team-a/b"]


async def test_a_new_process_waits_for_the_agent_before_it_drains_one_device() -> None:
    cluster = FakeWorkloads(pod("a"), pod("b"))
    told: list[dict[str, tuple[str, ...]] | None] = [None]
    async with Rig(cluster, holders=lambda node: told[0]).running() as rig:
        rig.drains.carry([order(subjects=("gpu:0",))])
        await asyncio.sleep(60)
        assert cluster.seen("evict") == []
        told[0] = {"gpu:0": ("team-a/b",)}
        await rig.ended()
        assert cluster.paths == ["team-a/a"]
        told[0] = None
        with pytest.raises(WorkloadError, match="has not said yet"):
            await rig.drains.plan("n1", ("gpu:0",))


async def test_nothing_more_is_evicted_holds_for_pods_that_are_being_tried_already() -> None:
    cluster = FakeWorkloads(pod("a", labels={"app": "web"}))
    cluster.budget("web", needs=1, app="web")
    async with Rig(cluster).running() as rig:
        rig.drains.carry([order()])
        await rig.until(lambda now: "blocked by PDB" in now.text)
        cluster.add(pod("keeper", empty_dir=True))
        await rig.until(lambda now: "nothing more is evicted" in now.text)
        cluster.lift_budgets()
        await asyncio.sleep(300)
        assert cluster.paths == ["team-a/a", "team-a/keeper"]
        cluster.remove("team-a/keeper")
        assert (await rig.until(lambda now: now.state is DrainState.DONE)).pods_gone == 2


async def test_a_pod_that_turns_out_not_to_hold_the_device_is_not_tried_any_more() -> None:
    cluster = FakeWorkloads(pod("a", labels={"app": "web"}), pod("b", labels={"app": "web"}))
    cluster.budget("web", needs=2, app="web")
    told: dict[str, tuple[str, ...]] = {}
    async with Rig(cluster, holders=lambda node: told).running() as rig:
        rig.drains.carry([order(subjects=("gpu:0",))])
        await rig.until(lambda now: "2 blocked by PDB" in now.text)
        told["gpu:0"] = ("team-a/b",)
        await rig.until(lambda now: now.text.startswith("1 blocked by PDB"))
        cluster.lift_budgets()
        await rig.ended()
        await asyncio.sleep(300)
    assert cluster.paths == ["team-a/a"]


async def test_what_a_node_tells_of_other_devices_says_nothing_about_this_one() -> None:
    """It names the holders of all it can; of a device that it cannot tell about, every pod with devices is one."""
    cluster = FakeWorkloads(pod("a"), pod("b"))
    told = {"gpu:1": ("team-a/b",)}
    async with Rig(cluster, holders=lambda node: told).running() as rig:
        assert (await rig.carried(order(subjects=("gpu:0",)))).state is DrainState.DONE
    assert cluster.paths == []


async def test_a_device_that_nobody_holds_costs_nobody_his_pod() -> None:
    """From the agent's report on: an idle GPU's neighbours go on working, whoever leads."""
    fleet = Fleet()
    shot = snapshot(sources=(source("nvidia"), source("pods")), gpus=(gpu(0), gpu(1)))
    bad = Finding(
        code="xid-48",
        subject=shot.gpus[0].subject,
        severity=Severity.CRITICAL,
        action=Action.RESET_DEVICE,
        domain=Domain.GPU,
        evidence="48",
        since_seconds=START,
        last_seen_seconds=START,
    )
    told = encode(
        shot, [bad], (), sequence=1, urgent=False, events_dropped_total=0, agent_version="1"
    )
    fleet.apply(pb.NodeReport.FromString(told), START)
    state = fleet.get(shot.node)
    assert state is not None
    cluster = FakeWorkloads(pod("on-the-other-gpu"))
    async with Rig(cluster, holders=lambda node: state.holders).running() as rig:
        assert (await rig.carried(order(subjects=(bad.subject,)))).state is DrainState.DONE
    assert cluster.paths == ["team-a/on-the-other-gpu"]
