"""Volcano's own code, configured as the page says: what it reads of us, and which nodes its scheduler then takes."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests import consumers
from tests.controlplane.cluster import ControlPlane
from tests.controlplane.crds import apply_crds
from tests.e2e.volcano_rig import (
    HISTORY_SECONDS,
    STEP_SECONDS,
    Load,
    ask,
    asking,
    configuration,
    connections,
    definitions,
    open_queue,
    prometheus,
    round_of,
    scheduling,
)
from tests.integration.test_volcano_metrics import NOW, behind
from tests.prometheus import server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.controlplane.sandbox import Sandbox

SWITCH = "FLEETMEDIC_VC_SCHEDULER"
"""Names a vc-scheduler; it cannot be built from Go modules alone, for Volcano takes volcano.sh/apis from its own tree."""

IDLE, BUSY, HOT, FULL = Load(0.1, 0.2), Load(0.6, 0.5), Load(0.9, 0.1), Load(0.1, 0.95)

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.consumer("volcano"),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def program() -> Path:
    return consumers.need("volcano")


def shares(answer: Any) -> dict[str, tuple[Any, Any]]:
    """Node → its CPU and memory in percent."""
    return {
        node: (pytest.approx(each["CPU"], abs=1), pytest.approx(each["Memory"], abs=0.1))
        for node, each in answer.items()
    }


def percent(load: Load) -> tuple[float, float]:
    return 100 * load.cpu, 100 * load.memory


async def test_its_prometheus_client_reads_each_nodes_load_and_takes_no_data_for_idle(
    control_plane: ControlPlane, program: Path, tmp_path: Path
) -> None:
    loads = {"busy": BUSY, "hot": HOT, "silent": FULL}
    async with prometheus(tmp_path, loads, frozenset({"silent"})) as url:
        metrics = yaml.safe_load(configuration(url))["metrics"]
        # Until the rules have gone on from the history.
        longer = f"count_over_time(node_cpu_seconds_total[1h]) > {HISTORY_SECONDS / STEP_SECONDS}"
        await server.until_value(url, f"count({longer}) == 3", seconds=60)
        answer = await ask(program, control_plane, metrics, *loads, "unknown")
    nothing = (0, 0)
    assert shares(answer) == {
        **{node: percent(load) for node, load in loads.items()},
        "unknown": nothing,
    }
    answer = await ask(program, control_plane, metrics, *loads)
    assert shares(answer) == dict.fromkeys(loads, nothing), "a Prometheus that is not there"
    assert "0001-01-01" not in json.dumps(answer), "and this counts as measured just now"


async def test_its_prometheus_client_takes_a_node_that_is_new_to_the_rules_for_busy(
    control_plane: ControlPlane, program: Path, tmp_path: Path
) -> None:
    """Its rate is over five minutes, however few of them there were."""
    async with prometheus(tmp_path, {"new": IDLE}, seconds=90) as url:
        metrics = yaml.safe_load(configuration(url))["metrics"]
        answer = await ask(program, control_plane, metrics, "new")
    assert answer["new"]["CPU"] > 50
    assert answer["new"]["Memory"] == pytest.approx(100 * IDLE.memory)


async def test_its_custom_metrics_client_reads_each_nodes_load_with_the_time_it_was_measured(
    control_plane: ControlPlane, sandbox: Sandbox, program: Path, tmp_path: Path
) -> None:
    async with behind(control_plane, sandbox, tmp_path):
        metrics = {"type": "prometheus_adaptor", "interval": "30s"}
        answer = await ask(program, control_plane, metrics, "a", "b", "unknown")
    assert shares(answer) == {"a": (37.5, 25), "b": (100, 50), "unknown": (0, 0)}
    assert answer["unknown"]["MetricsTime"].startswith("0001-01-01"), "never: it scores 0"
    stamp = time.strftime("%Y-%m-%dT%H:%M", time.gmtime(NOW - 65))
    assert answer["b"]["MetricsTime"].startswith(stamp)


async def test_each_round_leaves_one_connection_per_node_open(
    control_plane: ControlPlane, program: Path, tmp_path: Path
) -> None:
    """Why the page says how Prometheus has to be started."""
    async with prometheus(tmp_path, {}) as url:
        metrics = yaml.safe_load(configuration(url))["metrics"]
        async with asking(program, control_plane, metrics, "a", "b", "c") as child:
            before = await connections(url)
            for _ in range(4):
                await round_of(child)
            assert await connections(url) - before == 3 * 4


@pytest.fixture(scope="module")
def scheduler_program() -> Path:
    """A vc-scheduler, where somebody has named one."""
    named = os.environ.get(SWITCH)
    if not named:
        pytest.skip(f"set {SWITCH} to a vc-scheduler, for example the one in Volcano's image")
    return Path(named)


@pytest.fixture(scope="module")
def volcano_plane(
    scheduler_program: Path,  # first, for without it there is nothing to do
    program: Path,
    control_plane: ControlPlane,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ControlPlane]:
    """A cluster of its own: the scheduler looks at all nodes, and Volcano's definitions are newer than those of other tests."""
    plane = ControlPlane(control_plane.binaries, folder=tmp_path_factory.mktemp("volcano"))

    async def start() -> None:
        await plane.start()
        await apply_crds(plane.api, sorted(definitions(program).glob("*.yaml")))
        await open_queue(plane)

    asyncio.run(start())
    yield plane
    asyncio.run(plane.stop())


async def test_pods_go_to_the_idlest_node_and_one_above_the_threshold_is_only_the_last(
    volcano_plane: ControlPlane, scheduler_program: Path, tmp_path: Path
) -> None:
    loads = {"busy": BUSY, "hot": HOT, "idle": IDLE}
    async with scheduling(volcano_plane, scheduler_program, tmp_path, loads) as corner:
        assert await corner.place("a", "b", "c") == ["idle"] * 3
        assert await corner.place("d", nodeSelector=at("hot")) == ["hot"]


async def test_with_the_filter_a_node_above_a_threshold_takes_none(
    volcano_plane: ControlPlane, scheduler_program: Path, tmp_path: Path
) -> None:
    loads = {"hot": HOT, "full": FULL, "busy": BUSY}
    async with scheduling(
        volcano_plane, scheduler_program, tmp_path, loads, predicate=True
    ) as corner:
        await corner.refused("a", "the CPU load of the node exceeds", nodeSelector=at("hot"))
        await corner.refused("b", "the memory load of the node exceeds", nodeSelector=at("full"))
        assert await corner.place("c", "d") == ["busy"] * 2


async def test_a_node_that_nobody_measures_is_taken_for_idle_and_goes_first(
    volcano_plane: ControlPlane, scheduler_program: Path, tmp_path: Path
) -> None:
    loads = {"idle": IDLE, "busy": BUSY}
    async with scheduling(
        volcano_plane, scheduler_program, tmp_path, loads, ("unknown",), predicate=True
    ) as corner:
        assert await corner.place("a", "b") == ["unknown"] * 2


async def test_without_any_data_pods_are_placed_all_the_same(
    volcano_plane: ControlPlane, scheduler_program: Path, tmp_path: Path
) -> None:
    async with scheduling(
        volcano_plane, scheduler_program, tmp_path, {}, ("one", "two"), predicate=True
    ) as corner:
        assert set(await corner.place("a", "b")) <= {"one", "two"}


def at(node: str) -> dict[str, str]:
    return {"kubernetes.io/hostname": node}
