"""The plan of a drain: one verdict and one sentence for every pod, before anything is evicted."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.policy.drain.gangs import gang_of
from aggregator.policy.drain.plan import drain_plan
from aggregator.policy.drain.plan_model import DrainPlan, Facts, PodPlan, Verdict, plan_shape
from aggregator.policy.drain.pods import DisruptionBudget, Pod
from aggregator.policy.drain.rules import DrainRule, DrainRules, Mode
from tests.drain_strategies import BERT, DAEMON, some_pods, some_rules
from tests.fake_workloads import JOB, pod
from tests.support import START


def planned(
    *pods: Pod, rules: DrainRules | None = None, elsewhere: tuple[Pod, ...] = (), **facts: Any
) -> DrainPlan:
    members: dict[str, tuple[Pod, ...]] = {}
    for each in (*pods, *elsewhere):
        if (gang := gang_of(each)) and not each.finished and each.deleting_since_seconds is None:
            members[gang.key] = (*members.get(gang.key, ()), each)
    told = Facts(**{"node": "n1", "pods": pods, "members": members, **facts})
    return drain_plan(told, rules or DrainRules(), now=START, evictions_per_second=5.0)


def verdict(one: Pod, rule: DrainRule | None = None, **facts: Any) -> PodPlan:
    rules = DrainRules(rules=(rule,)) if rule else DrainRules()
    return planned(one, rules=rules, **facts).pods[0]


class TestWhatStays:
    def test_a_pod_of_a_daemon_set(self) -> None:
        assert verdict(pod(owner=DAEMON)).verdict is Verdict.LEAVE

    def test_one_whose_daemon_set_is_gone_is_unmanaged(self) -> None:
        left_over = verdict(pod(owner=DAEMON), orphans=frozenset({"ds-uid"}))
        assert left_over.verdict is Verdict.REFUSE
        assert "DaemonSet exporter, which is gone" in left_over.reason
        allowed = verdict(
            pod(owner=DAEMON), DrainRule(unmanaged="evict"), orphans=frozenset({"ds-uid"})
        )
        assert allowed.verdict is Verdict.EVICT

    def test_a_mirror_pod(self) -> None:
        assert verdict(pod(owner=None, mirror=True, empty_dir=True)).verdict is Verdict.LEAVE

    @pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
    def test_one_that_has_ended_whatever_it_keeps(self, phase: str) -> None:
        ended = verdict(pod(phase=phase, empty_dir=True, owner=None))
        assert ended.verdict is Verdict.LEAVE
        assert phase.lower() in ended.reason


class TestWhatIsRefused:
    def test_local_data(self) -> None:
        kept = verdict(pod(empty_dir=True))
        assert kept.verdict is Verdict.REFUSE
        assert "empty_dir: evict" in kept.reason
        assert verdict(pod(empty_dir=True), DrainRule(empty_dir="evict")).verdict is Verdict.EVICT

    def test_a_pod_that_nobody_starts_again(self) -> None:
        bare = verdict(pod(owner=None))
        assert bare.verdict is Verdict.REFUSE
        assert "unmanaged: evict" in bare.reason
        assert verdict(pod(owner=None), DrainRule(unmanaged="evict")).verdict is Verdict.EVICT

    def test_local_data_is_named_before_the_missing_controller_as_kubectl_does(self) -> None:
        assert "emptyDir" in verdict(pod(owner=None, empty_dir=True)).reason

    def test_a_pod_that_its_rule_forbids(self) -> None:
        rule = DrainRule(mode=Mode.NEVER, reason="owned by the bank")
        assert "owned by the bank" in verdict(pod(), rule).reason

    def test_a_protected_namespace_whatever_the_rules_say(self) -> None:
        system = pod(namespace="kube-system")
        assert verdict(system, DrainRule(mode=Mode.EVICT)).verdict is Verdict.REFUSE
        opened = DrainRules(protected_namespaces=())
        assert planned(system, rules=opened).pods[0].verdict is Verdict.EVICT

    def test_a_pod_that_two_budgets_cover_which_the_api_server_never_evicts(self) -> None:
        budgets = tuple(
            DisruptionBudget(namespace="team-a", name=name, match_labels={"app": "llm"})
            for name in ("one", "two")
        )
        both = verdict(pod(labels={"app": "llm"}), budgets=budgets)
        assert both.verdict is Verdict.REFUSE
        assert "one, two" in both.reason


def test_a_pod_that_is_being_deleted_already_is_only_waited_for() -> None:
    going = verdict(pod(owner=None, empty_dir=True, deleting_since_seconds=START))
    assert going.verdict is Verdict.LEAVING
    assert going.goes


def test_a_pod_that_has_not_started_is_noted() -> None:
    assert "not started" in verdict(pod(phase="Pending")).reason


class TestOnlyTheHoldersOfADevice:
    ASKED = ("gpu:0",)

    def test_others_stay_whatever_they_are(self) -> None:
        holder, other = pod("a"), pod("b", empty_dir=True)
        plan = planned(
            holder, other, subjects=self.ASKED, holders={"gpu:0": ("team-a/a",), "gpu:1": ()}
        )
        assert [each.verdict for each in plan.pods] == [Verdict.EVICT, Verdict.LEAVE]
        assert plan.refused == ()

    def test_where_the_node_does_not_tell_all_that_ask_for_accelerators_go(self) -> None:
        plan = planned(pod("a", devices=8), pod("b", devices=0), subjects=self.ASKED)
        assert [each.verdict for each in plan.pods] == [Verdict.EVICT, Verdict.LEAVE]

    def test_a_device_that_nobody_holds_moves_nobody(self) -> None:
        plan = planned(pod("a"), subjects=self.ASKED, holders={"gpu:1": ("team-a/a",)})
        assert plan.going == ()


class TestGangs:
    def test_members_elsewhere_are_listed_as_affected(self) -> None:
        here, there = (
            pod("w0", labels=BERT, owner=JOB),
            pod("w1", labels=BERT, owner=JOB, node="n2"),
        )
        plan = planned(here, elsewhere=(there,))
        (gang,) = plan.gangs.values()
        assert gang.elsewhere == (there,)
        assert gang.gang.title == "JobSet team-a/bert"
        assert [each.verdict for each in plan.pods] == [Verdict.EVICT]

    def test_the_strictest_rule_of_a_member_holds_for_all(self) -> None:
        rules = DrainRules(
            rules=(
                DrainRule(labels={"role": "ps"}, mode=Mode.WAIT, deadline_seconds=600),
                DrainRule(mode=Mode.CHECKPOINT, deadline_seconds=60),
            )
        )
        worker = pod("w", labels=BERT, owner=JOB)
        server = pod("ps", labels={**BERT, "role": "ps"}, owner=JOB, node="n2")
        plan = planned(worker, rules=rules, elsewhere=(server,))
        assert plan.pods[0].verdict is Verdict.WAIT
        assert plan.pods[0].deadline_seconds == 600

    def test_a_member_on_another_node_that_must_not_be_moved_refuses_the_gang(self) -> None:
        rules = DrainRules(rules=(DrainRule(labels={"role": "ps"}, mode=Mode.NEVER),))
        server = pod("ps", labels={**BERT, "role": "ps"}, owner=JOB, node="n2")
        plan = planned(pod("w", labels=BERT, owner=JOB), rules=rules, elsewhere=(server,))
        assert plan.pods[0].verdict is Verdict.REFUSE
        assert "as a whole or not at all" in plan.pods[0].reason

    def test_data_of_members_elsewhere_is_at_stake_only_where_kueue_takes_back_all(self) -> None:
        here = pod("w0", labels=BERT, owner=JOB)
        there = pod("w1", labels=BERT, owner=JOB, node="n2", empty_dir=True)
        assert planned(here, elsewhere=(there,)).refused == ()
        gang = gang_of(here)
        assert gang is not None
        assert planned(here, elsewhere=(there,), queued={gang.key: "/w"}).refused != ()

    def test_a_queued_gang_says_that_kueue_takes_it_back(self) -> None:
        here = pod("w0", labels=BERT, owner=JOB)
        gang = gang_of(here)
        assert gang is not None
        assert "queued anew" in planned(here, queued={gang.key: "/w"}).pods[0].reason


class TestBudgetSelectors:
    @pytest.mark.parametrize(
        ("expression", "covered"),
        [
            ({"key": "app", "operator": "In", "values": ["llm", "x"]}, True),
            ({"key": "app", "operator": "In", "values": ["x"]}, False),
            ({"key": "app", "operator": "NotIn", "values": ["x"]}, True),
            ({"key": "gone", "operator": "NotIn", "values": ["x"]}, True),
            ({"key": "app", "operator": "Exists"}, True),
            ({"key": "gone", "operator": "Exists"}, False),
            ({"key": "gone", "operator": "DoesNotExist"}, True),
            ({"key": "app", "operator": "DoesNotExist"}, False),
            ({"key": "app", "operator": "Near"}, False),
        ],
    )
    def test_expressions_select_as_in_kubernetes(
        self, expression: dict[str, object], covered: bool
    ) -> None:
        budget = DisruptionBudget(namespace="team-a", name="b", match_expressions=(expression,))
        found = verdict(pod(labels={"app": "llm"}), budgets=(budget,)).budgets
        assert found == (("team-a/b",) if covered else ())

    def test_a_budget_of_another_namespace_covers_nobody_here(self) -> None:
        budget = DisruptionBudget(namespace="team-b", name="b")
        assert verdict(pod(), budgets=(budget,)).budgets == ()


def test_the_estimate_counts_waits_grace_and_the_rate_of_evictions() -> None:
    rules = DrainRules(rules=(DrainRule(mode=Mode.WAIT, deadline_seconds=600),))
    plan = planned(*(pod(f"p{n}", grace_seconds=60) for n in range(10)), rules=rules)
    assert plan.seconds_at_most == 600 + 60 + 10 / 5


def test_the_shape_names_everything_and_is_plain_json() -> None:
    here, there = pod("w0", labels=BERT, owner=JOB), pod("w1", labels=BERT, owner=JOB, node="n2")
    budget = DisruptionBudget(namespace="team-a", name="b")
    plan = planned(here, pod("web", empty_dir=True), elsewhere=(there,), budgets=(budget,))
    shape = json.loads(json.dumps(plan_shape(plan)))
    assert shape["executable"] is False
    assert shape["pods"][0] == {
        "namespace": "team-a",
        "name": "w0",
        "job": "JobSet bert",
        "gang": "JobSet team-a/bert",
        "verdict": "evict",
        "reason": plan.pods[0].reason,
        "pdb": "team-a/b",
    }
    assert shape["gangs"][0]["elsewhere"] == [{"namespace": "team-a", "name": "w1", "node": "n2"}]


def plan_of(pods: list[Pod], rules: DrainRules, subjects: tuple[str, ...] = ()) -> DrainPlan:
    here = tuple(each for each in pods if each.node == "n1")
    away = tuple(each for each in pods if each.node != "n1")
    return planned(*here, rules=rules, elsewhere=away, subjects=subjects)


@given(some_pods, some_rules)
def test_every_pod_gets_exactly_one_verdict_and_a_sentence(
    pods: list[Pod], rules: DrainRules
) -> None:
    plan = plan_of(pods, rules)
    assert [each.pod for each in plan.pods] == [each for each in pods if each.node == "n1"]
    assert all(each.reason and "\n" not in each.reason for each in plan.pods)


@given(some_pods, some_rules, st.sampled_from([(), ("gpu:0",)]))
def test_daemon_sets_mirrors_and_the_ended_are_never_moved(
    pods: list[Pod], rules: DrainRules, subjects: tuple[str, ...]
) -> None:
    for each in plan_of(pods, rules, subjects).pods:
        if each.pod.owner == DAEMON or each.pod.mirror or each.pod.finished:
            assert each.verdict is Verdict.LEAVE


@given(some_pods, some_rules)
def test_no_gang_gets_mixed_verdicts(pods: list[Pod], rules: DrainRules) -> None:
    plan = plan_of(pods, rules)
    for key in plan.gangs:
        verdicts = {
            each.verdict
            for each in plan.pods
            if each.gang == key and each.verdict not in (Verdict.LEAVE, Verdict.LEAVING)
        }
        assert len(verdicts) == 1


@given(some_pods, some_rules)
def test_nobody_is_moved_against_the_rules(pods: list[Pod], rules: DrainRules) -> None:
    for each in plan_of(pods, rules).pods:
        if each.verdict in (Verdict.EVICT, Verdict.WAIT, Verdict.CHECKPOINT):
            rule = rules.rule_for(each.pod)
            assert rule.mode is not Mode.NEVER
            assert each.pod.namespace != "kube-system"
            assert not each.pod.empty_dir or rule.empty_dir == "evict"
            assert each.pod.owner is not None or rule.unmanaged == "evict"


@given(some_pods, some_rules)
def test_a_drain_for_one_device_never_moves_more_than_one_of_the_node(
    pods: list[Pod], rules: DrainRules
) -> None:
    whole = {each.pod.path for each in plan_of(pods, rules).going}
    assert {each.pod.path for each in plan_of(pods, rules, ("gpu:0",)).going} <= whole
