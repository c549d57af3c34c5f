"""Whole drains of any pods under any rules, in virtual time: what may never happen does not."""

import asyncio

import looptime
from hypothesis import Phase, given, settings

from aggregator.policy.drain.plan_model import Verdict
from aggregator.policy.drain.pods import Pod
from aggregator.policy.drain.rules import DrainRules
from aggregator.policy.model import DrainState
from tests.drain_rig import Rig, order
from tests.drain_strategies import DAEMON, some_pods, some_rules
from tests.fake_workloads import FakeWorkloads


async def drained(pods: list[Pod], rules: DrainRules) -> None:
    cluster = FakeWorkloads(*pods)
    for one in pods:
        if one.deleting_since_seconds is not None:
            asyncio.get_running_loop().call_later(20.0, cluster.end, one.path, one.uid)
    for namespace in ("team-a", "team-b", "kube-system"):
        cluster.objects[f"/apis/apps/v1/namespaces/{namespace}/daemonsets/exporter"] = {}
    async with Rig(cluster, rules=rules).running() as rig:
        plan = await rig.drains.plan("n1")
        end = await rig.carried(order(within=600.0))
    verdicts = {each.pod.path: each.verdict for each in plan.pods}
    evicted = cluster.seen("evict")
    if plan.refused:
        assert end.state is DrainState.STUCK
        assert evicted == cluster.seen("annotate") == []
    else:
        assert end.state is DrainState.DONE
        assert {path for path, each in verdicts.items() if each is not Verdict.LEAVE}.isdisjoint(
            cluster.paths
        )
    assert len(evicted) == len(set(evicted)), "nobody is evicted twice"
    for one in pods:
        if one.path in evicted:
            assert one.node == "n1"
            assert verdicts[one.path] not in (Verdict.LEAVE, Verdict.REFUSE, Verdict.LEAVING)
            assert one.owner != DAEMON
            assert not one.mirror
            assert not one.finished


# Not shrunk: a failing example takes minutes to, since whole drains are played each time.
@settings(max_examples=60, phases=[Phase.generate])
@given(some_pods, some_rules)
def test_a_drain_is_done_or_refused_as_a_whole(pods: list[Pod], rules: DrainRules) -> None:
    with asyncio.Runner(loop_factory=lambda: looptime.new_event_loop(start=0)) as runner:
        runner.run(drained(pods, rules))
