"""docs/how-to/drain-rules.md: its file is one that we read, and it decides as the page says."""

import re
from pathlib import Path

import msgspec
import pytest

from aggregator.drain.asking import WAITED_FOR_SINCE
from aggregator.drain.rules_file import parse
from aggregator.policy.drain.rules import (
    CHECKPOINT_ASKED,
    CHECKPOINT_TAKEN,
    DrainRule,
    DrainRules,
    Mode,
)
from tests.fake_workloads import pod

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "drain-rules.md").read_text()
[FILE] = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
RULES = parse(FILE.encode(), "drain-rules.md")


@pytest.mark.parametrize(
    ("namespace", "labels", "mode"),
    [
        ("payments", {"tier": "production"}, Mode.NEVER),
        ("payments", {"tier": "test"}, Mode.EVICT),
        ("team-a", {"checkpoints": "yes"}, Mode.CHECKPOINT),
        ("team-a", {"kind": "evaluation"}, Mode.WAIT),
        ("anywhere", {"long-run": "since May"}, Mode.WAIT),
        ("team-b", {}, Mode.EVICT),
        ("elsewhere", {}, Mode.EVICT),
    ],
)
def test_the_file_on_the_page_decides_as_its_comments_say(
    namespace: str, labels: dict[str, str], mode: Mode
) -> None:
    assert RULES.rule_for(pod(namespace=namespace, labels=labels)).mode is mode


def test_who_may_lose_what_is_as_on_the_page() -> None:
    notebook, team = pod(namespace="notebooks"), pod(namespace="team-b")
    assert RULES.rule_for(notebook).unmanaged == "evict"
    assert RULES.rule_for(team).empty_dir == "evict"
    assert RULES.rule_for(team).unmanaged == "refuse"
    assert RULES.rule_for(pod(labels={"long-run": "x"})).then == "leave"
    assert [RULES.protects(name) for name in ("kube-system", "infra-dns", "team-a")] == [
        True,
        True,
        False,
    ]


def test_every_field_every_mode_and_every_annotation_is_explained() -> None:
    for field in msgspec.structs.fields(DrainRule):
        assert f"| `{field.name}` |" in PAGE
    for field in msgspec.structs.fields(DrainRules):
        assert f"`{field.name}`" in PAGE or f"\n{field.name}:" in PAGE
    for mode in Mode:
        assert f"\n**{mode}**: " in PAGE
    for annotation in (CHECKPOINT_ASKED, CHECKPOINT_TAKEN, WAITED_FOR_SINCE):
        assert f"`{annotation}`" in PAGE
