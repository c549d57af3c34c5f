"""kubectl drain's checklist, item by item, and where we are safer than it."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from aggregator.cluster.workloads import WorkloadError
from aggregator.drain.kueue import OWNERS, path_of
from aggregator.policy.drain.plan_model import Verdict
from aggregator.policy.drain.pods import Owner
from aggregator.policy.drain.rules import DrainRule, DrainRules, Mode
from aggregator.policy.model import DrainState
from tests.drain_rig import HOUR, Rig, order
from tests.fake_workloads import JOB, FakeWorkloads, busy, pod
from tests.support import START

pytestmark = pytest.mark.looptime(start=0)

DAEMON = Owner("apps/v1", "DaemonSet", "exporter", "ds-uid")
DAEMON_PATH = "/apis/apps/v1/namespaces/team-a/daemonsets/exporter"


async def test_2_pods_of_the_node_in_all_namespaces_and_of_no_other_node() -> None:
    cluster = FakeWorkloads(
        pod("a"), pod("b", namespace="team-b"), pod("c", node="n2", labels={"app": "c"})
    )
    async with Rig(cluster).running() as rig:
        assert (await rig.carried(order())).state is DrainState.DONE
    assert cluster.paths == ["team-a/c"]


async def test_3_daemon_sets_mirrors_and_the_ended_are_left_in_place() -> None:
    cluster = FakeWorkloads(
        pod("daemon", owner=DAEMON),
        pod("static", owner=None, mirror=True),
        pod("ended", phase="Succeeded", owner=None, empty_dir=True),
        pod("web"),
    )
    cluster.objects[DAEMON_PATH] = {}
    async with Rig(cluster).running() as rig:
        done = await rig.carried(order())
    assert (done.state, done.pods_total, done.pods_gone) == (DrainState.DONE, 1, 1)
    assert cluster.paths == ["team-a/daemon", "team-a/static", "team-a/ended"]


async def test_3_a_pod_whose_daemon_set_is_gone_is_refused() -> None:
    cluster = FakeWorkloads(pod("daemon", owner=DAEMON))
    async with Rig(cluster).running() as rig:
        stuck = await rig.carried(order())
    assert stuck.state is DrainState.STUCK
    assert "which is gone" in stuck.text


@pytest.mark.parametrize(
    "refused", [pod("x", empty_dir=True), pod("x", owner=None), pod("x", namespace="kube-system")]
)
async def test_4_one_refusal_and_nothing_is_evicted(refused: object) -> None:
    cluster = FakeWorkloads(pod("a"), pod("b"))
    cluster.add(refused)  # type: ignore[arg-type]
    async with Rig(cluster).running() as rig:
        stuck = await rig.carried(order())
        assert stuck.state is DrainState.STUCK
        assert stuck.text.startswith("nothing more is evicted: ")
        await asyncio.sleep(HOUR / 2)
    assert cluster.seen("evict") == []
    assert len(cluster.paths) == 3


async def test_4_it_goes_on_by_itself_once_nothing_is_refused_any_more() -> None:
    cluster = FakeWorkloads(pod("a"), pod("bare", owner=None))
    async with Rig(cluster).running() as rig:
        await rig.carried(order())
        cluster.remove("team-a/bare")
        assert (await rig.until(lambda now: now.state is DrainState.DONE)).pods_gone == 2
    assert cluster.paths == []


async def test_5_only_the_eviction_api_is_used_and_the_reason_is_given() -> None:
    cluster = FakeWorkloads(pod("a"))
    async with Rig(cluster).running() as rig:
        await rig.carried(order(reason="xid-79 on gpu:3"))
    assert cluster.seen("evict") == ["team-a/a"]
    assert cluster.reasons == ["xid-79 on gpu:3"]


async def test_6_pods_are_evicted_side_by_side() -> None:
    cluster = FakeWorkloads(*(pod(f"p{n}", grace_seconds=600.0) for n in range(20)))
    async with Rig(cluster, evictions_per_second=100.0).running() as rig:
        await rig.carried(order())
        assert asyncio.get_running_loop().time() < 620


async def test_6_a_429_is_tried_again_until_the_budget_allows_it() -> None:
    cluster = FakeWorkloads(pod("a", labels={"app": "llm"}))
    cluster.budget("llm", needs=1, app="llm")
    async with Rig(cluster).running() as rig:
        rig.drains.carry([order()])
        blocked = await rig.until(lambda now: "PDB" in now.text)
        assert blocked.state is DrainState.RUNNING
        assert blocked.text == "1 blocked by PDB team-a/llm: needs 1 healthy, has 1"
        await asyncio.sleep(300)
        tries = len(cluster.seen("evict"))
        assert 8 <= tries <= 30  # patient, and not at every look
        assert cluster.paths == ["team-a/a"]
        cluster.lift_budgets()
        assert (await rig.ended()).state is DrainState.DONE


async def test_6_a_busy_api_server_is_given_the_time_it_asks_for() -> None:
    cluster = FakeWorkloads(pod("a"))
    cluster.failing["team-a/a"] = busy(120.0)
    async with Rig(cluster).running() as rig:
        rig.drains.carry([order()])
        await asyncio.sleep(110)
        assert len(cluster.seen("evict")) == 1
        cluster.failing.clear()
        assert (await rig.ended()).state is DrainState.DONE


async def test_6_a_pod_that_is_gone_by_then_is_no_error() -> None:
    cluster = FakeWorkloads(*(pod(f"p{n}") for n in range(3)))
    async with Rig(cluster, evictions_per_second=0.1).running() as rig:
        rig.drains.carry([order()])
        await asyncio.sleep(5)
        cluster.remove("team-a/p2")
        assert (await rig.ended()).state is DrainState.DONE
    assert "team-a/p2" not in cluster.seen("evict")


async def test_6_errors_of_one_pod_stop_no_other() -> None:
    cluster = FakeWorkloads(pod("a"), pod("b"))
    cluster.failing["team-a/a"] = WorkloadError("admission webhook says no")
    async with Rig(cluster).running() as rig:
        rig.drains.carry([order()])
        held = await rig.until(lambda now: now.pods_gone == 1)
        assert held.text == "1 admission webhook says no"
    assert cluster.paths == ["team-a/a"]


async def test_6_two_budgets_over_one_pod_are_known_before_anything_is_evicted() -> None:
    cluster = FakeWorkloads(pod("a", labels={"app": "x"}), pod("b"))
    cluster.budget("one", needs=0, app="x")
    cluster.budget("two", needs=0, app="x")
    async with Rig(cluster).running() as rig:
        assert "one, two" in (await rig.carried(order())).text
    assert cluster.seen("evict") == []


async def test_6_nothing_is_forced_when_the_time_is_over() -> None:
    cluster = FakeWorkloads(pod("a", labels={"app": "llm"}), pod("b"))
    cluster.budget("llm", needs=1, app="llm")
    async with Rig(cluster).running() as rig:
        stuck = await rig.carried(order(within=100.0))
        assert asyncio.get_running_loop().time() == pytest.approx(100, abs=1)
        assert stuck.state is DrainState.STUCK
        assert (stuck.pods_total, stuck.pods_gone) == (2, 1)
        assert "left: team-a/a" in stuck.text
        assert "PDB team-a/llm: needs 1 healthy, has 1" in stuck.text
        cluster.lift_budgets()
        tries = len(cluster.seen("evict"))
        await asyncio.sleep(HOUR)
        assert len(cluster.seen("evict")) == tries
    assert cluster.paths == ["team-a/a"]


async def test_7_it_is_over_only_when_the_pods_are_really_gone() -> None:
    cluster = FakeWorkloads(pod("a", grace_seconds=300.0))
    async with Rig(cluster).running() as rig:
        rig.drains.carry([order()])
        await asyncio.sleep(290)
        assert rig.progress().state is DrainState.RUNNING
        assert rig.progress().text == "1 being deleted"
        assert (await rig.ended()).state is DrainState.DONE


async def test_7_the_same_name_with_another_uid_elsewhere_counts_as_gone() -> None:
    owner = Owner("apps/v1", "StatefulSet", "db", "sts")
    cluster = FakeWorkloads(pod("db-0", owner=owner, grace_seconds=5.0))
    async with Rig(cluster).running() as rig:
        rig.drains.carry([order()])
        await asyncio.sleep(3)
        cluster.add(pod("db-0", owner=owner, node="n2"))
        assert (await rig.ended()).state is DrainState.DONE
    assert cluster.seen("evict") == ["team-a/db-0"]
    assert cluster.paths == ["team-a/db-0"]


async def test_7_a_pod_that_never_ends_is_told_of_at_the_deadline() -> None:
    cluster = FakeWorkloads(pod("a", deleting_since_seconds=START - 900, owner=None))
    async with Rig(cluster).running() as rig:
        stuck = await rig.carried(order(within=600.0))
    assert stuck.state is DrainState.STUCK
    assert stuck.text == "the deadline passed; left: team-a/a; 1 being deleted"
    assert cluster.seen("evict") == []


async def test_8_what_holds_up_whom_is_counted_together() -> None:
    cluster = FakeWorkloads(*(pod(f"p{n}", labels={"app": "llm"}) for n in range(3)), pod("x"))
    cluster.budget("llm", needs=3, app="llm")
    cluster.failing["team-a/x"] = WorkloadError("500")
    async with Rig(cluster).running() as rig:
        rig.drains.carry([order()])
        both = await rig.until(lambda now: "500" in now.text and now.text.startswith("3"))
    assert both.text == "3 blocked by PDB team-a/llm: needs 3 healthy, has 3; 1 500"


async def test_9_a_dry_run_asks_for_each_and_moves_none() -> None:
    cluster = FakeWorkloads(*(pod(f"p{n}") for n in range(3)), dry_run=True)
    async with Rig(cluster).running() as rig:
        done = await rig.carried(order())
        assert (done.state, done.pods_gone) == (DrainState.DONE, 3)
        await asyncio.sleep(HOUR)
    assert sorted(cluster.seen("evict")) == cluster.paths == [f"team-a/p{n}" for n in range(3)]


async def test_the_wrong_node_is_never_touched() -> None:
    """kubernetes#138229: a pod re-created elsewhere under its old name while its eviction was retried."""
    owner = Owner("apps/v1", "StatefulSet", "db", "sts")
    cluster = FakeWorkloads(pod("db-0", owner=owner, labels={"app": "db"}), pod("other"))
    cluster.budget("db", needs=1, app="db")
    async with Rig(cluster).running() as rig:
        rig.drains.carry([order()])
        await rig.until(lambda now: "PDB" in now.text)
        cluster.lift_budgets()
        tries = len(cluster.seen("evict"))
        cluster.add(pod("db-0", owner=owner, node="n2"))
        await rig.ended()
        assert len(cluster.seen("evict")) <= tries
    assert cluster.paths == ["team-a/db-0"]


async def test_a_new_pod_of_the_same_name_on_the_same_node_is_judged_anew() -> None:
    rules = DrainRules(
        rules=(DrainRule(labels={"save": "yes"}, mode=Mode.CHECKPOINT, deadline_seconds=3_000),)
    )
    cluster = FakeWorkloads(pod("db-0", labels={"app": "db"}))
    cluster.budget("db", needs=1, app="db")
    async with Rig(cluster, rules=rules).running() as rig:
        rig.drains.carry([order()])
        await rig.until(lambda now: "PDB" in now.text)
        cluster.lift_budgets()
        tries = len(cluster.seen("evict"))
        cluster.add(pod("db-0", labels={"save": "yes"}))
        await asyncio.sleep(600)
        assert len(cluster.seen("evict")) == tries


async def test_pods_that_are_not_ready_go_where_their_budget_says_so() -> None:
    """kubernetes#72320."""
    cluster = FakeWorkloads(pod("crash", labels={"app": "llm"}, ready=False))
    cluster.budget("llm", needs=1, unhealthy=True, app="llm")
    async with Rig(cluster).running() as rig:
        assert (await rig.carried(order())).state is DrainState.DONE


@pytest.mark.parametrize("rate", [0.5, 5.0])
async def test_evictions_of_all_nodes_together_keep_to_the_rate(rate: float) -> None:
    cluster = FakeWorkloads(
        *(pod(f"p{n}-{m}", node=f"n{n}", grace_seconds=1.0) for n in range(4) for m in range(10))
    )
    async with Rig(cluster, evictions_per_second=rate).running() as rig:
        rig.drains.carry([order(f"n{n}") for n in range(4)])
        for n in range(4):
            assert (await rig.ended(f"n{n}")).state is DrainState.DONE
    times = sorted(at for at, verb, _ in cluster.log if verb == "evict")
    assert len(times) == 40
    burst = max(1.0, rate)
    for first, begin in enumerate(times):
        for last in range(first, len(times)):
            assert last - first + 1 <= burst + rate * (times[last] - begin) + 1.001


async def test_the_plan_lists_every_pod_before_anything_is_evicted_and_only_reads() -> None:
    cluster = FakeWorkloads(pod("a"), pod("b", empty_dir=True), pod("c", owner=DAEMON))
    cluster.objects[DAEMON_PATH] = {}
    rig = Rig(cluster, rules=DrainRules(rules=(DrainRule(),)))
    plan = await rig.drains.plan("n1")
    assert [each.verdict for each in plan.pods] == [Verdict.EVICT, Verdict.REFUSE, Verdict.LEAVE]
    assert {verb for _, verb, _ in cluster.log} <= {"list", "members", "budgets", "object"}


class Strict(FakeWorkloads):
    """Reads what deploy/base/rbac.yaml grants, and refuses all else."""

    async def get(self, path: str) -> Mapping[str, object] | None:
        group, _, rest = path.partition("?")[0].removeprefix("/apis/").partition("/")
        kind = rest.split("/")[3]
        if (group, kind) not in GRANTED:
            raise WorkloadError(f"GET {path}: 403 forbidden")
        return await super().get(path)


RBAC = Path(__file__).parents[2] / "deploy" / "base" / "rbac.yaml"
GRANTED = {
    (group, kind)
    for each in yaml.safe_load_all(RBAC.read_text())
    for rule in each.get("rules", ())
    for group in rule["apiGroups"]
    for kind in rule["resources"]
    if "get" in rule["verbs"]
}


@pytest.mark.parametrize(
    ("kind", "version"),
    [(kind, f"{group}/v1") for group, kinds in OWNERS.items() for kind in sorted(kinds)],
)
def test_every_owner_that_is_asked_about_may_be_read(kind: str, version: str) -> None:
    path = path_of("n", Owner(version, kind, "x", "u"))
    assert (version.partition("/")[0], path.split("/")[6]) in GRANTED


@pytest.mark.parametrize(
    ("version", "kind"),
    [("batch/v1", "CronJob"), ("kubeflow.org/v1beta1", "Trial"), ("kubeflow.org/v1", "../x")],
)
async def test_an_owners_owner_that_stands_in_no_queue_does_not_hold_up_a_drain(
    version: str, kind: str
) -> None:
    worker = pod(
        "w",
        owner=JOB,
        labels={"batch.kubernetes.io/job-name": "job"},
        annotations={"batch.kubernetes.io/job-completion-index": "0"},
    )
    cluster = Strict(worker)
    above = {"apiVersion": version, "kind": kind, "name": "x", "uid": "u", "controller": True}
    cluster.objects["/apis/batch/v1/namespaces/team-a/jobs/job"] = {
        "metadata": {"uid": JOB.uid, "ownerReferences": [above]}
    }
    async with Rig(cluster).running() as rig:
        assert (await rig.carried(order())).state is DrainState.DONE


async def test_a_daemon_set_of_somebody_elses_kind_is_an_owner_like_any_other() -> None:
    """OpenKruise has a kind of that name, too; we may not read it, and kubectl does not spare its pods."""
    owner = Owner("apps.kruise.io/v1alpha1", "DaemonSet", "x", "u")
    async with Rig(Strict(pod("a", owner=owner))).running() as rig:
        assert (await rig.carried(order())).state is DrainState.DONE


@pytest.mark.parametrize("name", ["?limit=1", "..", "../../secrets/x", "a/b", "%2e%2e"])
async def test_what_a_pod_names_never_becomes_another_path(name: str) -> None:
    group = {"kueue.x-k8s.io/pod-group-name": "g"}
    told = {"kueue.x-k8s.io/workload": name}
    owner = Owner("batch/v1", "Job", name, "u")
    cluster = FakeWorkloads(pod("a", labels=group, annotations=told, owner=owner))
    cluster.add(pod("b", owner=Owner("apps/v1", "DaemonSet", name, "u2")))
    plan = await Rig(cluster).drains.plan("n1")
    assert [each.verdict for each in plan.pods] == [Verdict.EVICT, Verdict.REFUSE]
    assert all(name not in path for path in cluster.seen("object"))
