"""A queue's quota follows the nodes that we took out: never too far, never for long, never against its owner."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aggregator.feeds.kueue_quota import (
    ANNOTATION,
    QuotaMemory,
    QuotaPatch,
    QuotaSettings,
    Slot,
    parse_slots,
    plan,
)
from aggregator.policy.model import ClusterNode, ClusterView, Taint

GPU = "nvidia.com/gpu"
SLOT = Slot("team-a", "h100", GPU)
POOL = "H100"
NOW = 1_000.0
HARD = Taint("xid-79", "NoSchedule")
SOFT = Taint("gpu-hot", "PreferNoSchedule")

Json = dict[str, Any]


def queue(name: str = "team-a", quota: int | str = 64, **resource: Any) -> Json:
    gpus = {"name": GPU, "nominalQuota": quota, **resource}
    cpus = {"name": "cpu", "nominalQuota": "500m"}
    flavors = [{"name": "h100", "resources": [cpus, gpus]}]
    groups = [{"coveredResources": ["cpu", GPU], "flavors": flavors}]
    return {
        "metadata": {"name": name, "resourceVersion": "7"},
        "spec": {"cohortName": "all", "resourceGroups": groups},
    }


def nodes(count: int = 8, out: int = 0, **sick: Any) -> list[ClusterNode]:
    """Nodes of 8 GPUs, the first ones taken out."""
    made = [ClusterNode(name=f"n{each}", gpu_capacity=8, pool=POOL) for each in range(count)]
    change = sick or {"taint": HARD}
    return [msgspec.structs.replace(each, **change) for each in made[:out]] + made[out:]


def view(*members: ClusterNode, synced: bool = True) -> ClusterView:
    return ClusterView(synced=synced, nodes={each.name: each for each in members}, incidents={})


def quota_of(obj: Json) -> Any:
    return obj["spec"]["resourceGroups"][0]["flavors"][0]["resources"][1]["nominalQuota"]


def kept(obj: Json) -> Json:
    text = (obj["metadata"].get("annotations") or {}).get(ANNOTATION)
    return json.loads(text) if text else {}


def merged(obj: Json, patch: QuotaPatch) -> Json:
    """What the API server makes of a merge patch, as far as we write one."""
    assert patch.body["metadata"]["resourceVersion"] == obj["metadata"]["resourceVersion"]
    annotations = {
        **(obj["metadata"].get("annotations") or {}),
        **patch.body["metadata"]["annotations"],
    }
    return {
        "metadata": {
            **obj["metadata"],
            "annotations": {k: v for k, v in annotations.items() if v is not None},
        },
        "spec": {**obj["spec"], **patch.body["spec"]},
    }


class World:
    """Queues on a server, and the memory of one leader."""

    def __init__(self, *queues: Json, **settings: Any) -> None:
        self.queues = {each["metadata"]["name"]: each for each in queues or (queue(),)}
        self.settings = QuotaSettings(**{"pools": {SLOT: POOL}, **settings})
        self.memory = QuotaMemory()
        self.words: Mapping[Slot, str] = {}
        self.troubles: Mapping[Slot, str] = {}
        self.now = NOW

    def look(self, members: Sequence[ClusterNode], seconds: float = 0.0) -> list[QuotaPatch]:
        self.now += seconds
        planned = plan(self.queues, view(*members), self.settings, self.memory, self.now)
        patches, self.memory, self.words, self.troubles = planned
        for patch in patches:
            self.queues[patch.queue] = merged(self.queues[patch.queue], patch)
        return patches

    def settle(self, members: Sequence[ClusterNode]) -> None:
        """Look until nothing is left to do."""
        for _ in range(5):
            self.look(members, 100.0)
        assert not self.look(members, 100.0)

    @property
    def quota(self) -> Any:
        return quota_of(self.queues["team-a"])


def test_a_quarantined_node_lowers_the_quota_at_once_and_its_return_restores_it_as_it_was() -> None:
    world = World(queue(quota="64"))
    before = world.queues["team-a"]
    assert world.look(nodes(out=1))[0].reason == f"h100/{GPU} 64 → 56 of 64"
    assert world.quota == "56"
    assert kept(world.queues["team-a"]) == {f"h100/{GPU}": {"original": "64", "written": "56"}}
    assert world.look(nodes(), 1) == [], "it must stay well for a while"
    assert world.look(nodes(), 61)
    assert world.queues["team-a"]["spec"] == before["spec"]
    assert world.queues["team-a"]["metadata"]["annotations"] == {}


def test_nothing_else_of_the_queue_is_touched() -> None:
    world = World()
    [patch] = world.look(nodes(out=1))
    expected = queue(quota=56)["spec"]["resourceGroups"]
    assert patch.body["spec"] == {"resourceGroups": expected}
    assert patch.body["metadata"].keys() == {"resourceVersion", "annotations"}


@pytest.mark.parametrize(
    "sick",
    [
        {"taint": SOFT},
        {"unschedulable": True},
        {"cordoned_by": "inc-1"},
    ],
    ids=["a warning", "somebody else's cordon", "a cordon that a person took off"],
)
def test_a_node_that_we_did_not_take_out_counts(sick: Json) -> None:
    world = World()
    assert world.look(nodes(out=3, **sick)) == []


def test_our_own_cordon_counts_as_out() -> None:
    world = World()
    assert world.look(nodes(out=1, unschedulable=True, cordoned_by="inc-1"))
    assert world.quota == 56


def test_a_sick_node_that_lost_its_devices_counts_as_whole() -> None:
    world = World()
    world.look(nodes(out=1, taint=HARD, gpu_capacity=0))
    assert world.quota == 56


@pytest.mark.parametrize(
    ("quota", "present", "expected"),
    [(32, 8, 32), (64, 5, 56), (100, 8, 92)],
    ids=[
        "room to spare",
        "a pool that is scaled up when needed",
        "a promise of more than there is",
    ],
)
def test_a_pool_of_another_size_than_its_quota_is_the_owners_decision(
    quota: int, present: int, expected: int
) -> None:
    world = World(queue(quota=quota))
    assert world.look(nodes(present)) == []
    world.settle(nodes(present, out=1))
    assert world.quota == expected


def test_quotas_of_one_pool_share_what_is_left() -> None:
    pools = {SLOT: POOL, SLOT._replace(queue="team-b"): POOL}
    world = World(queue(quota=48), queue("team-b", 16), pools=pools)
    world.settle(nodes(out=2))
    assert [quota_of(each) for each in world.queues.values()] == [36, 12]


def test_there_is_a_floor_and_a_lending_limit_is_one_too() -> None:
    world = World()
    world.look(nodes(out=8))
    assert world.quota == 32
    world = World(queue(lendingLimit="60"))
    world.settle(nodes(out=8))
    assert world.quota == 60, "Kueue refuses a quota below what the queue lends"


def test_a_persons_edit_is_the_new_original() -> None:
    world = World()
    world.look(nodes(out=1))
    world.queues["team-a"]["spec"] = queue(quota=40)["spec"]
    world.settle(nodes(out=1))
    assert world.quota == 40, "56 healthy ones are enough for it"
    assert kept(world.queues["team-a"]) == {}
    world.queues["team-a"]["spec"] = queue(quota=60)["spec"]
    world.settle(nodes(out=1))
    assert kept(world.queues["team-a"])[f"h100/{GPU}"] == {"original": 60, "written": 56}
    world.settle(nodes())
    assert world.quota == 60


def test_an_entry_that_is_removed_puts_the_original_back() -> None:
    world = World()
    world.look(nodes(out=1))
    world.settings = QuotaSettings()
    world.memory = QuotaMemory()
    assert world.look(nodes(out=1))
    assert world.queues["team-a"]["spec"] == queue()["spec"]
    assert kept(world.queues["team-a"]) == {}


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"h100/nvidia.com/gpu": 64}',
        '{"h100/nvidia.com/gpu": {"original": "many", "written": 64}}',
        '{"h100/nvidia.com/gpu": {"original": 8, "written": 64}}',
    ],
)
def test_an_annotation_without_sense_stops_that_queue_and_says_so(text: str) -> None:
    world = World()
    world.queues["team-a"]["metadata"]["annotations"] = {ANNOTATION: text}
    assert world.look(nodes(out=1)) == []
    assert world.troubles[SLOT].startswith("left alone: ")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quota": "1500m"}, "'1500m' is not a whole number"),
        ({"name": "other"}, "there is no ClusterQueue team-a"),
    ],
)
def test_what_cannot_be_followed_is_told(changes: Json, words: str) -> None:
    world = World(queue(**changes))
    assert world.look(nodes(out=1)) == []
    assert words in world.troubles[SLOT] == world.words[SLOT]


def test_a_pool_that_nobody_is_in_is_told_and_changes_nothing() -> None:
    world = World(pools={SLOT: "H2OO"})
    assert world.look(nodes(out=3)) == []
    assert "no node with devices in pool H2OO" in world.troubles[SLOT]


def test_an_unsynced_view_decides_nothing() -> None:
    settings = QuotaSettings(pools={SLOT: POOL})
    seen = view(*nodes(out=3), synced=False)
    assert plan({"team-a": queue()}, seen, settings, QuotaMemory(), NOW).patches == []


def test_writes_to_one_queue_are_rationed() -> None:
    world = World()
    assert world.look(nodes(out=1))
    assert world.look(nodes(out=2), 29) == []
    assert world.look(nodes(out=2), 1)


def test_the_setting_is_read_and_a_mistake_names_itself() -> None:
    text = "team-a/h100/nvidia.com/gpu = H100, team-b/h100/nvidia.com/gpu=H100\n"
    assert parse_slots(text) == {SLOT: POOL, SLOT._replace(queue="team-b"): POOL}
    assert parse_slots("") == {}
    for bad in ("team-a/h100=H100", "team-a/h100/nvidia.com/gpu", "a//b=c", "a/b/c="):
        with pytest.raises(ValueError, match=f"'{bad}' is not cluster_queue/flavor/resource=pool"):
            parse_slots(bad)
    with pytest.raises(ValueError, match="twice"):
        parse_slots("a/b/c=d,a/b/c=e")


@given(
    originals=st.lists(st.integers(0, 200), min_size=1, max_size=4),
    sizes=st.lists(st.tuples(st.integers(0, 16), st.booleans()), max_size=20),
    floor=st.floats(0, 100),
)
def test_the_bounds_hold_for_every_pool(
    originals: list[int], sizes: list[tuple[int, bool]], floor: float
) -> None:
    names = [f"q{number}" for number in range(len(originals))]
    world = World(
        *(queue(name, size) for name, size in zip(names, originals, strict=True)),
        pools={SLOT._replace(queue=name): POOL for name in names},
        floor_percent=floor,
    )
    members = [
        ClusterNode(name=f"n{number}", pool=POOL, gpu_capacity=size, taint=HARD if out else None)
        for number, (size, out) in enumerate(sizes)
    ]
    world.settle(members)
    found = [quota_of(world.queues[name]) for name in names]
    lost = sum(out for _, out in sizes) * max((size for size, _ in sizes), default=0)
    for quota, original in zip(found, originals, strict=True):
        assert original * floor / 100 <= quota + 1e-9 or quota == original
        assert quota <= original
    assert sum(originals) - sum(found) <= lost + len(names), "no more than what we took out"
    if not any(out for _, out in sizes):
        assert found == originals


class Life(RuleBasedStateMachine):
    """Faults, recoveries, people's edits, restarts, the entry on and off: the owner's word is never lost."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.owner = 64
        self.out = 0
        self.on = True

    @rule(out=st.integers(0, 8))
    def health_changes(self, out: int) -> None:
        self.out = out

    @rule(seconds=st.floats(0, 200))
    def look(self, seconds: float) -> None:
        self.world.look(nodes(out=self.out), seconds)

    @rule(quota=st.integers(0, 100))
    def a_person_edits(self, quota: int) -> None:
        if quota != self.world.quota:  # the same number again is no edit that anybody could see
            self.owner = quota
            self.world.queues["team-a"]["spec"] = queue(quota=quota)["spec"]

    @rule()
    def another_leader(self) -> None:
        self.world.memory = QuotaMemory()

    @rule(on=st.booleans())
    def the_entry_goes_or_comes(self, on: bool) -> None:
        self.world.settings = QuotaSettings(pools={SLOT: POOL} if on else {})
        self.on = on

    @invariant()
    def never_above_the_owner_nor_below_the_floor(self) -> None:
        assert self.owner / 2 <= self.world.quota <= self.owner

    @precondition(lambda self: self.out == 0 or not self.on)
    @rule()
    def once_it_settles_it_is_as_its_owner_wrote_it(self) -> None:
        self.world.settle(nodes(out=self.out))
        assert self.world.quota == self.owner
        assert kept(self.world.queues["team-a"]) == {}


TestLife = Life.TestCase
