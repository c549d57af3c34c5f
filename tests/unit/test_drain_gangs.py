"""Gangs go as wholes, services one replica at a time, and whoever may end or save its work is let."""

import asyncio
from collections.abc import Mapping

import pytest

from aggregator.cluster.times import exact
from aggregator.drain.asking import ATTEMPT, WAITED_FOR_SINCE
from aggregator.policy.drain.pods import Owner, Pod
from aggregator.policy.drain.rules import (
    CHECKPOINT_ASKED,
    CHECKPOINT_TAKEN,
    DrainRule,
    DrainRules,
    Mode,
)
from aggregator.policy.model import DrainState
from tests.drain_rig import HOUR, Rig, order
from tests.fake_workloads import JOB, FakeWorkloads, pod
from tests.support import START

pytestmark = pytest.mark.looptime(start=0)

BERT = {"jobset.sigs.k8s.io/jobset-name": "bert"}
QUEUE = "kueue.x-k8s.io/queue-name"
WORKLOAD = "/apis/kueue.x-k8s.io/v1beta2/namespaces/team-a/workloads/jobset-bert"
CHECKPOINT = DrainRules(rules=(DrainRule(mode=Mode.CHECKPOINT, deadline_seconds=600),))


def waiting(then: str = "evict") -> DrainRules:
    return DrainRules(
        rules=(
            DrainRule(
                mode=Mode.WAIT, deadline_seconds=600, then="leave" if then == "leave" else "evict"
            ),
        )
    )


def member(name: str, node: str = "n1") -> Pod:
    return pod(name, node=node, labels=BERT, owner=JOB)


def job_set(cluster: FakeWorkloads, labels: Mapping[str, str]) -> None:
    """The owners of ``member``: Job, JobSet (uid js)."""
    cluster.objects["/apis/batch/v1/namespaces/team-a/jobs/job"] = {
        "metadata": {
            "uid": "job-uid",
            "ownerReferences": [
                {
                    "apiVersion": "jobset.x-k8s.io/v1alpha2",
                    "kind": "JobSet",
                    "name": "bert",
                    "uid": "js",
                    "controller": True,
                }
            ],
        }
    }
    cluster.objects["/apis/jobset.x-k8s.io/v1alpha2/namespaces/team-a/jobsets/bert"] = {
        "metadata": {"uid": "js", "labels": dict(labels)}
    }


class TestGangs:
    async def test_without_a_queue_only_members_on_this_node_are_evicted(self) -> None:
        cluster = FakeWorkloads(member("w0"), member("w1"), member("w2", "n2"))
        job_set(cluster, {})
        async with Rig(cluster).running() as rig:
            assert (await rig.carried(order())).state is DrainState.DONE
        assert cluster.paths == ["team-a/w2"]
        assert cluster.seen("deactivate") == []

    @pytest.mark.parametrize("labelled", [True, False])
    async def test_a_queued_one_is_taken_back_by_kueue_and_its_pods_are_not_evicted(
        self, labelled: bool
    ) -> None:
        cluster = FakeWorkloads(member("w0"), member("w1"), member("w2", "n2"), pod("web"))
        job_set(cluster, {QUEUE: "team-a"})
        whole = lambda each: each.labels.items() >= BERT.items()  # noqa: E731
        cluster.queued(WORKLOAD, "js", whole, labelled=labelled)
        async with Rig(cluster).running() as rig:
            assert (await rig.carried(order())).state is DrainState.DONE
        assert cluster.seen("deactivate") == [WORKLOAD]
        assert cluster.seen("evict") == ["team-a/web"]
        assert cluster.paths == []

    async def test_two_nodes_of_one_gang_take_it_back_once(self) -> None:
        cluster = FakeWorkloads(member("w0"), member("w1", "n2"))
        job_set(cluster, {QUEUE: "team-a"})
        cluster.queued(WORKLOAD, "js", lambda each: each.labels.items() >= BERT.items())
        async with Rig(cluster).running() as rig:
            rig.drains.carry([order("n1"), order("n2")])
            for node in ("n1", "n2"):
                assert (await rig.ended(node)).state is DrainState.DONE
        assert cluster.seen("deactivate") == [WORKLOAD]

    async def test_one_that_came_back_to_the_node_is_taken_back_again(self) -> None:
        cluster = FakeWorkloads(member("w0"))
        job_set(cluster, {QUEUE: "team-a"})
        cluster.queued(WORKLOAD, "js", lambda each: each.labels.items() >= BERT.items())
        async with Rig(cluster).running() as rig:
            rig.drains.carry([order()])
            await asyncio.sleep(20)
            cluster.add(member("again"))
            assert (await rig.ended()).state is DrainState.DONE
        assert cluster.seen("deactivate") == [WORKLOAD] * 2

    async def test_in_a_dry_run_it_counts_as_gone(self) -> None:
        cluster = FakeWorkloads(member("w0"), member("w1"), dry_run=True)
        job_set(cluster, {QUEUE: "team-a"})
        cluster.queued(WORKLOAD, "js", lambda each: True)
        async with Rig(cluster).running() as rig:
            done = await rig.carried(order())
        assert (done.state, done.pods_gone) == (DrainState.DONE, 2)
        assert cluster.seen("deactivate") == [WORKLOAD]

    async def test_a_workload_that_the_pod_names_is_found_without_its_owners(self) -> None:
        named = pod(
            "w0", labels=BERT, owner=JOB, annotations={"kueue.x-k8s.io/workload": "jobset-bert"}
        )
        cluster = FakeWorkloads(named)
        path = WORKLOAD.replace("v1beta2", "v1beta1")
        cluster.queued(path, "elsewhere", lambda each: True)
        async with Rig(cluster).running() as rig:
            await rig.carried(order())
        assert cluster.seen("deactivate") == [path]


class TestCheckpoints:
    async def test_all_members_are_asked_and_evicted_only_when_all_answered(self) -> None:
        cluster = FakeWorkloads(member("w0"), member("w1"), member("w2", "n2"))
        async with Rig(cluster, rules=CHECKPOINT).running() as rig:
            rig.drains.carry([order()])
            await asyncio.sleep(1)
            for name in ("w0", "w1", "w2"):
                assert cluster.annotation(f"team-a/{name}", CHECKPOINT_ASKED)
            for name in ("w0", "w1"):
                now = cluster.annotation(f"team-a/{name}", CHECKPOINT_ASKED)
                cluster.change(
                    f"team-a/{name}",
                    annotations={
                        CHECKPOINT_ASKED: now,
                        ATTEMPT: "drain-n1",
                        CHECKPOINT_TAKEN: "yes",
                    },
                )
            told = await rig.until(lambda now: "2 of 3 answered" in now.text)
            assert told.text.startswith("JobSet team-a/bert: 2 of 3 answered")
            await asyncio.sleep(300)
            assert cluster.seen("evict") == []
            await cluster.annotate(
                (await cluster.pods_on("n2"))[0], {CHECKPOINT_TAKEN: "step 4000"}
            )
            assert (await rig.ended()).state is DrainState.DONE
        assert cluster.seen("evict") == ["team-a/w0", "team-a/w1"]

    async def test_no_answer_is_waited_for_until_the_rules_deadline(self) -> None:
        cluster = FakeWorkloads(pod("a"))
        async with Rig(cluster, rules=CHECKPOINT).running() as rig:
            rig.drains.carry([order()])
            await asyncio.sleep(590)
            assert cluster.seen("evict") == []
            assert (await rig.ended()).state is DrainState.DONE
        assert cluster.seen("annotate") == ["team-a/a"]

    async def test_a_pod_that_exits_after_its_checkpoint_is_not_evicted(self) -> None:
        cluster = FakeWorkloads(pod("a"))
        async with Rig(cluster, rules=CHECKPOINT).running() as rig:
            rig.drains.carry([order()])
            await asyncio.sleep(100)
            cluster.change("team-a/a", phase="Succeeded")
            assert (await rig.ended()).state is DrainState.DONE
        assert cluster.seen("evict") == []

    async def test_an_answer_to_an_earlier_drain_does_not_count(self) -> None:
        old = {CHECKPOINT_ASKED: exact(START - 90_000), ATTEMPT: "old", CHECKPOINT_TAKEN: "yes"}
        cluster = FakeWorkloads(pod("a", annotations=old))
        async with Rig(cluster, rules=CHECKPOINT).running() as rig:
            rig.drains.carry([order()])
            await asyncio.sleep(300)
            assert cluster.seen("evict") == []
            assert cluster.annotation("team-a/a", CHECKPOINT_TAKEN) == ""
            assert cluster.annotation("team-a/a", ATTEMPT) == "drain-n1"

    async def test_a_new_process_does_not_ask_again_nor_wait_anew(self) -> None:
        cluster = FakeWorkloads(pod("a"))
        async with Rig(cluster, rules=CHECKPOINT).running() as first:
            first.drains.carry([order()])
            await asyncio.sleep(400)
        async with Rig(cluster, rules=CHECKPOINT).running() as second:
            assert (await second.carried(order())).state is DrainState.DONE
        assert cluster.seen("annotate") == ["team-a/a"]
        assert asyncio.get_running_loop().time() < 700

    async def test_two_nodes_of_one_gang_ask_it_once(self) -> None:
        cluster = FakeWorkloads(member("w0"), member("w1", "n2"))
        async with Rig(cluster, rules=CHECKPOINT).running() as rig:
            rig.drains.carry([order("n1"), order("n2")])
            for node in ("n1", "n2"):
                assert (await rig.ended(node)).state is DrainState.DONE
        assert sorted(cluster.seen("annotate")) == ["team-a/w0", "team-a/w1"]

    async def test_who_cannot_be_asked_is_not_evicted(self) -> None:
        class Deaf(FakeWorkloads):
            async def annotate(self, pod: Pod, annotations: Mapping[str, str]) -> None:
                self.down = "forbidden: patch pods" if pod.name == "w1" else ""
                try:
                    await super().annotate(pod, annotations)
                finally:
                    self.down = ""

        cluster = Deaf(member("w0"), member("w1"))
        async with Rig(cluster, rules=CHECKPOINT).running() as rig:
            stuck = await rig.carried(order(within=1_000.0))
        assert stuck.state is DrainState.STUCK
        assert cluster.seen("evict") == []
        assert any("could not be told: forbidden: patch pods" in each.text for each in rig.told)


class TestWaiting:
    async def test_a_pod_that_ends_by_itself_is_never_evicted(self) -> None:
        cluster = FakeWorkloads(pod("a"))
        async with Rig(cluster, rules=waiting()).running() as rig:
            rig.drains.carry([order()])
            told = await rig.until(lambda now: bool(now.text))
            assert "is waited for until 2023-11-14T22:23:2" in told.text
            await asyncio.sleep(300)
            cluster.change("team-a/a", phase="Succeeded")
            assert (await rig.ended()).state is DrainState.DONE
        assert cluster.seen("evict") == []

    async def test_after_its_deadline_it_is_evicted(self) -> None:
        cluster = FakeWorkloads(pod("a"))
        async with Rig(cluster, rules=waiting()).running() as rig:
            assert (await rig.carried(order())).state is DrainState.DONE
        assert asyncio.get_running_loop().time() >= 600

    async def test_or_left_and_then_the_drain_is_stuck(self) -> None:
        cluster = FakeWorkloads(pod("a"))
        async with Rig(cluster, rules=waiting("leave")).running() as rig:
            stuck = await rig.carried(order())
            assert stuck.state is DrainState.STUCK
            assert "its rule leaves it" in stuck.text
            await asyncio.sleep(HOUR)
        assert cluster.seen("evict") == []

    async def test_the_wait_is_not_begun_anew_by_a_new_process(self) -> None:
        cluster = FakeWorkloads(pod("a"))
        async with Rig(cluster, rules=waiting()).running() as first:
            first.drains.carry([order()])
            await asyncio.sleep(400)
        assert cluster.annotation("team-a/a", WAITED_FOR_SINCE)
        async with Rig(cluster, rules=waiting()).running() as second:
            await second.carried(order())
        assert asyncio.get_running_loop().time() < 700

    async def test_nobody_puts_it_off_by_writing_a_time_to_come(self) -> None:
        asked = {ATTEMPT: "drain-n1", WAITED_FOR_SINCE: exact(START + 40 * HOUR)}
        cluster = FakeWorkloads(pod("a", annotations=asked))
        async with Rig(cluster, rules=waiting()).running() as rig:
            assert (await rig.carried(order())).state is DrainState.DONE
        assert 600 <= asyncio.get_running_loop().time() < 700

    async def test_it_ends_with_the_drains_own_deadline(self) -> None:
        cluster = FakeWorkloads(pod("a"))
        async with Rig(cluster, rules=waiting()).running() as rig:
            assert (await rig.carried(order(within=300.0))).state is DrainState.STUCK
        assert cluster.seen("evict") == []


LLM = {"serving.kserve.io/inferenceservice": "llm", "component": "predictor"}


class TestServices:
    def service(self, *nodes: str) -> FakeWorkloads:
        replicas = Owner("apps/v1", "ReplicaSet", "llm-predictor", "rs")
        cluster = FakeWorkloads(
            *(
                pod(f"llm-{n}", node=node, labels=LLM, owner=replicas)
                for n, node in enumerate(nodes)
            )
        )
        cluster.replacement = lambda gone: pod(
            f"{gone.name}x", node="spare", labels=gone.labels, owner=replicas
        )
        return cluster

    async def lowest(self, cluster: FakeWorkloads, rig: Rig, nodes: list[str]) -> int:
        """The fewest Ready replicas at any time while these nodes are drained."""
        rig.drains.carry([order(node) for node in nodes])
        least = 99
        while not all(
            node in rig.drains.progress() and rig.progress(node).state is DrainState.DONE
            for node in nodes
        ):
            await asyncio.sleep(0.5)
            ready = [each for each in cluster._pods.values() if each.ready]
            least = min(least, len(ready))
        return least

    async def test_without_a_budget_the_next_goes_when_the_last_is_replaced(self) -> None:
        cluster = self.service("n1", "n1", "n1")
        async with Rig(cluster).running() as rig:
            assert await self.lowest(cluster, rig, ["n1"]) == 2
        assert cluster.paths == ["team-a/llm-0x", "team-a/llm-1x", "team-a/llm-2x"]

    async def test_over_several_nodes_too(self) -> None:
        cluster = self.service("n1", "n2", "n3")
        async with Rig(cluster).running() as rig:
            assert await self.lowest(cluster, rig, ["n1", "n2", "n3"]) == 2

    async def test_with_a_budget_it_decides_when_the_next_may_go(self) -> None:
        cluster = self.service("n1", "n1", "n1")
        cluster.budget("llm", needs=2, component="predictor")
        async with Rig(cluster).running() as rig:
            assert await self.lowest(cluster, rig, ["n1"]) == 2

    async def test_the_only_replica_goes(self) -> None:
        cluster = self.service("n1")
        async with Rig(cluster).running() as rig:
            assert (await rig.carried(order())).state is DrainState.DONE

    async def test_a_sick_replica_elsewhere_holds_up_a_well_one_and_is_named(self) -> None:
        cluster = self.service("n1", "n2")
        cluster.change("team-a/llm-1", ready=False)
        async with Rig(cluster).running() as rig:
            stuck = await rig.carried(order(within=300.0))
        assert stuck.state is DrainState.STUCK
        assert "InferenceService team-a/llm" in stuck.text
        assert "team-a/llm-1 is not ready" in stuck.text
