"""The file with drain rules: what it may say, what fits whom, and errors that name the place."""

from pathlib import Path

import pytest

from aggregator.drain.rules_file import load, parse
from aggregator.policy.drain.rules import DrainRules, Mode
from contract.settings import SettingsError
from tests.fake_workloads import pod


def rules(text: str) -> DrainRules:
    return parse(text.encode(), "rules.yaml")


def test_an_empty_file_says_what_no_file_says() -> None:
    assert rules("") == DrainRules()
    assert rules("# nothing yet\n") == DrainRules()


def test_without_a_rule_pods_are_evicted_and_local_data_and_orphans_refused() -> None:
    rule = DrainRules().rule_for(pod())
    assert (rule.mode, rule.empty_dir, rule.unmanaged) == (Mode.EVICT, "refuse", "refuse")
    assert DrainRules().protects("kube-system")
    assert not DrainRules().protects("team-a")


def test_the_first_rule_that_fits_holds() -> None:
    found = rules(
        """
        rules:
          - {namespaces: [team-a], labels: {tier: prod}, mode: never}
          - {namespaces: ["team-*"], mode: wait, deadline_seconds: 60}
          - {labels: {app: "*"}, mode: checkpoint, deadline_seconds: 60}
        """
    )
    assert found.rule_for(pod(labels={"tier": "prod"})).mode is Mode.NEVER
    assert found.rule_for(pod(labels={"tier": "dev"})).mode is Mode.WAIT
    assert found.rule_for(pod(namespace="x", labels={"app": "any"})).mode is Mode.CHECKPOINT
    assert found.rule_for(pod(namespace="x")).mode is Mode.EVICT


def test_namespace_and_all_labels_have_to_fit() -> None:
    found = rules("rules: [{namespaces: [a], labels: {x: '1', y: '2*'}, mode: never}]")
    fits = pod(namespace="a", labels={"x": "1", "y": "23"})
    assert found.rule_for(fits).mode is Mode.NEVER
    for other in (
        pod(namespace="b", labels={"x": "1", "y": "23"}),
        pod(namespace="a", labels={"x": "1"}),
        pod(namespace="a", labels={"x": "1", "y": "3"}),
    ):
        assert found.rule_for(other).mode is Mode.EVICT


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("rules: [{mode: evict}, {mode: wiat}]", ["rules.yaml", "wiat", "$.rules[1].mode"]),
        ("rules: [{namespace: a}]", ["namespace", "$.rules[0]"]),
        ("rules: [{mode: wait}]", ["$.rules[0]", "needs deadline_seconds"]),
        ("rules: [{mode: checkpoint}]", ["$.rules[0]", "needs deadline_seconds"]),
        ("rules: [{mode: evict, deadline_seconds: 5}]", ["$.rules[0]", "leave it out"]),
        ("rules: [{mode: wait, deadline_seconds: 0}]", ["$.rules[0].deadline_seconds", ">= 1"]),
        ("rules: [{then: leave}]", ["$.rules[0]", "mode: wait only"]),
        ("checkpoint_annotation: ask", ["'ask'", "fleetmedic.io/checkpoint-requested"]),
        ("checkpoint_annotation: fleetmedic.io/checkpointed", ["must differ"]),
        ("rules: {", ["rules.yaml"]),
        ("[1]", ["rules.yaml"]),
    ],
)
def test_a_mistake_is_named_with_its_place_and_remedy(text: str, named: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        rules(text)
    for word in [*named, "drain-rules.md"]:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.yaml: cannot be read: No such file"):
        load(tmp_path / "none.yaml")
    (tmp_path / "some.yaml").write_text("protected_namespaces: [infra]\n")
    assert load(tmp_path / "some.yaml").protects("infra")
