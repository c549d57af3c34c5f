"""What docs/how-to/score-labels.md and node-metadata.md tell people to type works as it stands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from aggregator.cluster.score_labels import LOOK_SECONDS
from aggregator.feeds.node_labels import LabelSettings
from contract.vocabulary import SCORE_ANNOTATION, SCORE_BAND_LABEL
from tests.controlplane.process import ProcessError
from tests.controlplane.sandbox import LABEL
from tests.e2e.rig import install
from tests.score_feed import AT_ONCE, feeding, healthy

if TYPE_CHECKING:
    from tests.controlplane.cluster import ControlPlane
    from tests.controlplane.sandbox import Sandbox
    from tests.score_feed import Feed, Keys

ROOT = Path(__file__).parents[2]
LABELS = (ROOT / "docs" / "how-to" / "score-labels.md").read_text()
METADATA = (ROOT / "docs" / "how-to" / "node-metadata.md").read_text()
LEASES = "/apis/coordination.k8s.io/v1/namespaces/fleetmedic/leases"


def blocks(page: str, kind: str) -> list[str]:
    """The page's blocks of code, without the indentation of the list that they stand in."""
    found = re.findall(rf"^( *)```{kind}\n(.*?)^ *```", page, re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def commands(page: str) -> list[str]:
    return [line for block in blocks(page, "sh") for line in block.splitlines()]


def shipped(name: str) -> dict[str, Any]:
    """A shipped scheduler configuration; only the way to the server is the test's own."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "scheduler" / name).read_text())
    config.pop("clientConnection")
    return config


def arguments(config: dict[str, Any], plugin: str) -> Any:
    (profile,) = (each for each in config["profiles"] if each["schedulerName"] == "fleetmedic-gpu")
    (found,) = (each["args"] for each in profile["pluginConfig"] if each["name"] == plugin)
    return found


async def run(plane: ControlPlane, line: str, node: str) -> str:
    program, *args = shlex.split(line.replace("NODE", node))
    assert program == "kubectl"
    return await plane.kubectl(*args)


async def known(feed: Feed, name: str, keys: Keys) -> None:
    await feed.until(lambda: feed.keys().get(name) == keys)


@pytest.mark.cluster
async def test_the_commands_of_the_label_page_show_and_clear_the_labels(
    control_plane: ControlPlane, sandbox: Sandbox
) -> None:
    await install(control_plane)
    lease = {"metadata": {"name": "fleetmedic-aggregator"}, "spec": {"holderIdentity": ""}}
    await control_plane.request("POST", LEASES, lease)
    labelled, bare = [await sandbox.node(stem, kwok=False) for stem in ("labelled", "bare")]
    show, missing, renewed, unlabel, unannotate, label_one, unlabel_one = commands(LABELS)
    async with feeding(control_plane.kubeconfig, sandbox.namespace, **AT_ONCE) as feed:
        await feed.until(lambda: len(feed.keys()) == 2)
        people = {"metadata": {"labels": {"fleetmedic.io/managed": "false"}}}
        await feed.api.patch(f"/api/v1/nodes/{bare}", people)
        await feed.until(lambda: not feed.nodes.entries[bare].value.node.managed)
        await feed.labels.step({labelled: healthy(700)})
        shown = {
            line.split()[0]: line.split()[-1]
            for line in (await run(control_plane, show, bare)).splitlines()
        }
        assert shown[labelled] == "7"
        listed = await run(control_plane, missing, bare)
        assert bare in listed
        assert labelled not in listed
        await run(control_plane, renewed, bare)
        await run(control_plane, label_one, bare)
        await known(feed, bare, ("3", ""))
        await run(control_plane, unlabel_one, labelled)
        await known(feed, labelled, ("", "700"))
        await feed.labels.step({labelled: healthy(700)})
        await known(feed, labelled, ("7", "700"))
        for line in (unlabel, unannotate):
            await run(control_plane, line, bare)
        await known(feed, labelled, ("", ""))
        await known(feed, bare, ("", ""))
    await control_plane.request("DELETE", f"{LEASES}/fleetmedic-aggregator")


@pytest.mark.cluster
async def test_the_commands_of_the_metadata_page_show_and_set_the_annotation(
    control_plane: ControlPlane, sandbox: Sandbox
) -> None:
    one, other = [await sandbox.node(stem, kwok=False) for stem in ("one", "other")]
    show, set_one, set_all = commands(METADATA)
    assert "<none>" in await run(control_plane, show, one)
    async with feeding(control_plane.kubeconfig, sandbox.namespace) as feed:
        await run(control_plane, set_one, one)
        await known(feed, one, ("", "500"))
        assert feed.keys()[other] == ("", "")
        await run(control_plane, set_all, one)
        await known(feed, other, ("", "500"))


@pytest.mark.cluster
async def test_the_pod_on_the_page_goes_to_the_best_node_by_the_shipped_profile(
    control_plane: ControlPlane, sandbox: Sandbox
) -> None:
    scores = {
        await sandbox.node(f"n{score}", kwok=False): healthy(score) for score in (310, 870, 640)
    }
    (pod,) = (yaml.safe_load(each) for each in blocks(LABELS, "yaml") if "kind: Pod" in each)
    pod["spec"]["nodeSelector"] = {LABEL: sandbox.namespace}
    async with feeding(control_plane.kubeconfig, sandbox.namespace, **AT_ONCE) as feed:
        await feed.until(lambda: len(feed.keys()) == 3)
        await feed.labels.step(scores)
    async with control_plane.scheduler_with(shipped("label-profile.yaml")):
        await sandbox.create(sandbox.path("pods"), pod)
        bound = await control_plane.until(
            sandbox.path("pods", pod["metadata"]["name"]),
            lambda seen: seen.get("spec", {}).get("nodeName"),
        )
    assert scores[bound["spec"]["nodeName"]].score == 870


@pytest.mark.cluster
async def test_the_stock_scheduler_objects_to_nothing_in_the_metadata_profile_but_the_plugin(
    control_plane: ControlPlane,
) -> None:
    config = shipped("node-metadata-profile.yaml")
    with pytest.raises(ProcessError, match=r"ScorePlugin \\?.NodeMetadata\\?. does not exist"):
        await control_plane.start_scheduler(config)
    (profile,) = (each for each in config["profiles"] if each["schedulerName"] == "fleetmedic-gpu")
    profile["plugins"]["score"].pop("enabled")
    profile["pluginConfig"] = [
        each for each in profile["pluginConfig"] if each["name"] != "NodeMetadata"
    ]
    async with control_plane.scheduler_with(config):
        assert control_plane.running("kube-scheduler")


def test_the_plugin_reads_the_annotation_that_is_written_and_the_page_shows_what_is_shipped() -> (
    None
):
    (core,) = (yaml.safe_load(each) for each in blocks(METADATA, "yaml"))
    args = arguments(shipped("node-metadata-profile.yaml"), "NodeMetadata")
    assert core == [{"name": "NodeMetadata", "args": args}]
    assert args["metadataKey"] == SCORE_ANNOTATION
    assert args["metadataSource"] == "Annotation"


def test_the_label_profile_has_a_term_for_every_band_and_its_middle_for_nodes_without_one() -> None:
    affinity = arguments(shipped("label-profile.yaml"), "NodeAffinity")["addedAffinity"]
    assert affinity.keys() == {"preferredDuringSchedulingIgnoredDuringExecution"}, "never a filter"
    weights: dict[str, int] = {}
    for term in affinity["preferredDuringSchedulingIgnoredDuringExecution"]:
        (rule,) = term["preference"]["matchExpressions"]
        assert rule["key"] == SCORE_BAND_LABEL
        (value,) = rule.get("values", ["none"])
        assert rule["operator"] == ("DoesNotExist" if value == "none" else "In")
        weights[value] = term["weight"]
    assert weights == {str(band): 10 * band for band in range(1, 11)} | {"none": 50}


def test_the_numbers_on_the_page_are_the_defaults() -> None:
    plain = LabelSettings()
    assert (plain.margin, plain.step) == (25, 25)
    assert plain.settle_seconds == plain.stale_seconds == 2 * 60
    assert plain.pause_seconds == 60
    assert (plain.writes_per_second, plain.burst) == (10, 50)
    assert plain.burst >= plain.writes_per_second * LOOK_SECONDS, "else it would be slower"
    for words in ("in steps of 25", "for 2 minutes", "10 writes a second, 50 after a quiet time"):
        assert words in LABELS
