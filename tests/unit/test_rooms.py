"""How much room nodes have: seats known and guessed, sick devices, shares, and the same answer in any order of news."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.policy.model import ClusterNode, NodeCapacity
from aggregator.scores.capacity import MAX_NODE_DEVICES, capacity_of
from aggregator.scores.device_facts import DeviceFacts
from aggregator.scores.placed import PlacedPod
from aggregator.scores.requests import Ask, Passed
from aggregator.scores.rooms import ASSUMED_CPU_MILLI, RoomBook
from aggregator.scores.values import NodeRoom, PodShape

GPU = "nvidia.com/gpu"
UUIDS = ("GPU-a", "GPU-b", "GPU-c", "GPU-d")


def node(
    gpus: int = 4, *, name: str = "n1", listed: int | None = None, **capacity: Any
) -> ClusterNode:
    usual: dict[str, Any] = {"cpu_milli": 64_000, "memory_mib": 262_144, "model": "T4"}
    devices = {GPU: gpus} if gpus else {}
    return ClusterNode(
        name=name,
        gpu_capacity=gpus if listed is None else listed,
        capacity=NodeCapacity(**{**usual, "devices": devices, **capacity}),
    )


def shape(count: int = 1, milli: int = 1000, cpu: int = 1000, memory: int = 1024) -> PodShape:
    return PodShape(
        cpu_milli=cpu, memory_mib=memory, gpu_count=count, gpu_milli=milli, resource=GPU
    )


def pod(name: str, ask: Ask | None = None, **more: Any) -> PlacedPod:
    usual = {"namespace": "team", "uid": f"uid-{name}", "node": "n1", "phase": "running"}
    return PlacedPod(**{**usual, "name": name, "ask": ask or shape(), **more})


def facts(**more: Any) -> DeviceFacts:
    usual: dict[str, Any] = {
        "resource": GPU,
        "model": "T4",
        "ids": UUIDS,
        "sick": (False,) * 4,
        "busy": (False,) * 4,
        "memory_mib": (16_384,) * 4,
    }
    return DeviceFacts(**{**usual, **more})


def book(
    *pods: PlacedPod,
    cluster: ClusterNode | None = None,
    devices: DeviceFacts | None = None,
    pods_known: bool = True,
) -> RoomBook:
    made = RoomBook(pods_known=pods_known)
    made.set_node(cluster or node())
    made.set_devices("n1", devices)
    for each in pods:
        made.set_pod(each)
    return made


def room(*pods: PlacedPod, **more: Any) -> NodeRoom:
    found = book(*pods, **more).room("n1")
    assert found is not None
    return found


class TestRequestsAlone:
    def test_what_pods_ask_for_is_gone(self) -> None:
        left = room(pod("a", shape(2)), pod("b", PodShape(cpu_milli=500, memory_mib=100)))
        assert (left.cpu_free_milli, left.memory_free_mib) == (62_500, 262_144 - 1124)
        assert sorted(left.gpus) == [0, 0, 1000, 1000]
        assert (left.resource, left.model, left.sick) == (GPU, "T4", ())

    def test_who_sits_where_is_a_guess_and_said_to_be_one(self) -> None:
        assert room(pod("a")).guessed
        assert not room(pod("a", PodShape(cpu_milli=1))).guessed
        assert not room().guessed

    def test_shares_are_thought_to_be_packed(self) -> None:
        shares = [pod(f"p{each}", shape(1, each)) for each in (300, 700, 400, 600)]
        assert sorted(room(*shares).gpus) == [0, 0, 1000, 1000]

    def test_a_pod_that_cannot_be_told_still_takes_its_part(self) -> None:
        passed = Passed(reason="odd", cpu_milli=4000, memory_mib=10, gpu_count=1)
        left = room(pod("a", passed))
        assert (left.cpu_free_milli, sorted(left.gpus)) == (60_000, [0, 1000, 1000, 1000])

    def test_one_that_asks_by_memory_takes_its_share_where_the_device_is_known(self) -> None:
        asked = Passed(reason="by memory", gpu_count=1, gpu_memory_mib=4096)
        assert sorted(room(pod("a", asked), devices=facts()).gpus) == [750, 1000, 1000, 1000]
        assert sorted(room(pod("a", asked)).gpus) == [0, 1000, 1000, 1000]

    def test_more_than_there_is_leaves_nothing_and_never_less(self) -> None:
        left = room(*(pod(f"p{each}", shape(3, cpu=50_000)) for each in range(4)))
        assert (left.gpus, left.cpu_free_milli) == ((0, 0, 0, 0), 0)

    def test_a_flood_of_pods_that_fit_nowhere_costs_little(self) -> None:
        """Anybody may create pods with a node's name in them; the kubelet refuses them a moment later."""
        flood = [pod(f"p{each}", shape(MAX_NODE_DEVICES)) for each in range(2_000)]
        left = room(*flood, cluster=node(MAX_NODE_DEVICES))
        assert left.gpus == (0,) * MAX_NODE_DEVICES

    def test_waiting_pods_and_pods_elsewhere_take_nothing(self) -> None:
        assert room(pod("a", node=""), pod("b", node="n2")).gpus == (1000,) * 4


class TestWhatTheAgentKnows:
    def test_holders_say_who_sits_where(self) -> None:
        held = facts(holders={"GPU-c": ("team/a",), "GPU-a": ("team/s", "team/t")})
        pods = [pod("a"), pod("s", shape(1, 300)), pod("t", shape(1, 300))]
        left = room(*pods, devices=held)
        assert (left.gpus, left.guessed) == ((400, 1000, 0, 1000), False)
        seats = book(*pods, devices=held).device_pods("n1")
        assert [[each.name for each in seat] for seat in seats] == [["s", "t"], [], ["a"], []]

    def test_so_do_the_annotations_of_schedulers_that_share(self) -> None:
        by_index = pod("a", shape(1, 500), devices=("3",))
        by_uuid = pod("b", shape(1, 200), devices=("GPU-b",))
        left = room(by_index, by_uuid, devices=facts())
        assert (left.gpus, left.guessed) == ((1000, 800, 1000, 500), False)

    def test_a_device_that_nobody_knows_is_guessed(self) -> None:
        left = room(pod("a", devices=("GPU-x",)), pod("b", devices=("99",)), devices=facts())
        assert (sum(left.gpus), left.guessed) == (2000, True)

    def test_a_guess_goes_where_a_process_runs(self) -> None:
        assert room(pod("a"), devices=facts(busy=(False, False, True, False))).gpus[2] == 0

    def test_a_sick_device_is_no_room_whoever_holds_it(self) -> None:
        sick = facts(sick=(True, False, False, False))
        left = room(devices=sick)
        assert (left.gpus, left.sick) == ((0, 1000, 1000, 1000), (True, False, False, False))
        held = facts(sick=sick.sick, holders={"GPU-a": ("team/a",)})
        assert sum(room(pod("a"), devices=held).gpus) == 3000

    def test_a_device_in_quarantine_by_itself_is_no_room_though_it_may_be_well(self) -> None:
        made = book(devices=facts(subjects=("gpu:0", "gpu:1", "gpu:2", "gpu:3")))
        made.take_changed()
        made.set_quarantined({"n1": frozenset({"gpu:2/mig:1", "GPU-d"})})
        assert made.take_changed() == {"n1"}
        assert made.room("n1").gpus == (1000, 1000, 0, 0)  # type: ignore[union-attr]
        made.set_quarantined({})
        assert made.take_changed() == {"n1"}
        assert made.room("n1").gpus == (1000,) * 4  # type: ignore[union-attr]

    def test_an_unknown_seat_is_thought_to_be_on_a_healthy_device(self) -> None:
        left = room(pod("a"), devices=facts(sick=(True, False, False, False)))
        assert sum(left.gpus) == 2000

    def test_what_the_device_plugin_holds_back_is_held_back(self) -> None:
        left = room(pod("a"), cluster=node(3, listed=4), devices=facts())
        assert (sum(left.gpus), sum(left.sick), left.guessed) == (2000, 1, True)
        ours = facts(sick=(False, True, False, False))
        left = room(cluster=node(3, listed=4), devices=ours)
        assert (left.sick, left.guessed) == ((False, True, False, False), False)

    def test_time_slices_are_devices_and_a_sick_device_takes_all_of_its_own(self) -> None:
        left = room(cluster=node(8, sliced=True), devices=facts(sick=(False, True, False, False)))
        assert left.gpus == (1000, 1000, 0, 0, 1000, 1000, 1000, 1000)
        ids = book(cluster=node(8, sliced=True), devices=facts()).device_ids("n1")
        assert ids == ("GPU-a", "GPU-a", "GPU-b", "GPU-b", "GPU-c", "GPU-c", "GPU-d", "GPU-d")
        held = facts(holders={"GPU-d": ("team/a", "team/b")})
        left = room(pod("a"), pod("b"), cluster=node(8, sliced=True), devices=held)
        assert (left.gpus, left.guessed) == ((1000,) * 6 + (0, 0), False)

    def test_an_agent_that_sees_half_of_the_devices_makes_them_no_slices(self) -> None:
        left = room(cluster=node(8), devices=facts(sick=(True, False, False, False)))
        assert left.gpus == (0,) + (1000,) * 7

    def test_behind_a_sharing_layer_there_are_as_many_as_there_really_are(self) -> None:
        left = room(pod("a", shape(1, 300)), cluster=node(40, physical_devices=4))
        assert sorted(left.gpus) == [700, 1000, 1000, 1000]


class TestWithoutPods:
    """Observe mode, or no right to watch pods."""

    def test_what_a_process_holds_is_taken(self) -> None:
        left = room(devices=facts(busy=(True, False, True, False)), pods_known=False)
        assert (left.gpus, left.guessed) == ((0, 1000, 0, 1000), True)
        assert left.cpu_free_milli == left.cpu_milli == 64_000

    def test_a_node_without_a_node_object_is_what_its_agent_sees(self) -> None:
        bare = ClusterNode(name="n1", gpu_capacity=4)
        left = room(cluster=bare, devices=facts(cpu_milli=96_000), pods_known=False)
        assert (left.gpus, left.resource, left.model) == ((1000,) * 4, GPU, "T4")
        assert (left.cpu_milli, left.cpu_free_milli) == (96_000, 96_000)
        silent = room(cluster=bare, pods_known=False)
        assert (silent.gpus, silent.cpu_milli) == ((), ASSUMED_CPU_MILLI)

    def test_that_pods_become_known_changes_every_room(self) -> None:
        made = book(pod("a"), devices=facts(), pods_known=False)
        made.take_changed()
        made.pods_known = True
        assert made.take_changed() == {"n1"}
        assert sum(made.room("n1").gpus) == 3000  # type: ignore[union-attr]


class TestChanges:
    def test_only_nodes_with_news_are_told(self) -> None:
        made = book()
        made.set_node(node(name="n2"))
        assert made.take_changed() == {"n1", "n2"}
        made.set_pod(pod("a"))
        assert made.take_changed() == {"n1"}
        made.set_pod(pod("a"))
        made.set_devices("n1", None)
        made.set_node(msgspec.structs.replace(node(), unschedulable=True))
        assert made.take_changed() == set()

    def test_a_pod_that_moves_frees_its_old_node(self) -> None:
        made = book(pod("a"))
        made.set_node(node(name="n2"))
        made.take_changed()
        made.set_pod(pod("a", node="n2"))
        assert made.take_changed() == {"n1", "n2"}
        assert [sum(each.gpus) for each in made.rooms()] == [4000, 3000]

    def test_a_node_that_left_has_no_room_and_is_told_once(self) -> None:
        made = book(pod("a"))
        made.take_changed()
        made.set_nodes({})
        assert made.take_changed() == {"n1"}
        assert made.room("n1") is None
        made.set_nodes({"n1": node()})
        assert sum(made.room("n1").gpus) == 3000, "its pods are known still"  # type: ignore[union-attr]


class TestNodeObjects:
    def test_allocatable_is_read(self) -> None:
        read = capacity_of(
            {
                "metadata": {"labels": {"nvidia.com/gpu.product": "Tesla-T4"}},
                "status": {
                    "allocatable": {"cpu": "63500m", "memory": "1000001Ki", GPU: "8", "pods": "110"}
                },
            }
        )
        assert read == NodeCapacity(
            cpu_milli=63_500, memory_mib=976, devices={GPU: 8}, model="Tesla-T4"
        )

    @pytest.mark.parametrize(
        ("labels", "sliced"),
        [
            ({"nvidia.com/gpu.replicas": "4"}, True),
            ({"nvidia.com/gpu.replicas": "1"}, False),
            ({"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb"}, True),
            ({}, False),
        ],
    )
    def test_slices_are_told_by_labels(self, labels: dict[str, str], sliced: bool) -> None:
        assert capacity_of({"metadata": {"labels": labels}}).sliced is sliced

    @pytest.mark.parametrize(
        "annotations",
        [
            {"hami.io/node-nvidia-register": '[{"id": "GPU-a"}, {"id": "GPU-b"}]'},
            {
                "hami.io/node-nvidia-register": "GPU-a,10,16384,100,T4,0,true:GPU-b,10,1,1,T4,0,true:"
            },
            {"volcano.sh/node-vgpu-register": "GPU-a,10,16384,T4,0,true:GPU-b,10,1,T4,0,true:"},
        ],
    )
    def test_devices_behind_a_sharing_layer_are_counted(self, annotations: dict[str, str]) -> None:
        obj = {"metadata": {"annotations": annotations}, "status": {"allocatable": {GPU: "20"}}}
        assert capacity_of(obj).physical_devices == 2

    def test_a_resource_that_was_taken_away_counts_for_nothing(self) -> None:
        devices = {GPU: 0, "volcano.sh/vgpu-number": 40}
        left = room(cluster=node(0, devices=devices, physical_devices=4))
        assert (left.resource, left.gpus) == ("volcano.sh/vgpu-number", (1000,) * 4)
        none = room(cluster=node(0, listed=4, devices={GPU: 0}))
        assert (none.gpus, none.sick) == ((0,) * 4, (True,) * 4)

    def test_koordinator_counts_in_percent(self) -> None:
        allocatable = {"koordinator.sh/gpu-core": "400", "koordinator.sh/gpu": "400"}
        read = capacity_of({"status": {"allocatable": allocatable}})
        assert read.devices == {"koordinator.sh/gpu": 4}
        left = room(cluster=ClusterNode(name="n1", capacity=read))
        assert (left.gpus, left.resource) == ((1000,) * 4, "koordinator.sh/gpu")

    @pytest.mark.parametrize(
        "junk", [{}, {"status": None}, {"status": {"allocatable": {"cpu": [], GPU: "x"}}}]
    )
    def test_junk_is_nothing(self, junk: dict[str, Any]) -> None:
        assert sum(capacity_of(junk).devices.values()) == 0

    def test_an_absurd_number_of_devices_is_bounded(self) -> None:
        read = capacity_of({"status": {"allocatable": {GPU: "9999999999"}}})
        assert read.devices == {GPU: MAX_NODE_DEVICES}
        left = room(cluster=ClusterNode(name="n1", gpu_capacity=10**9, capacity=read))
        assert len(left.gpus) == MAX_NODE_DEVICES


SHAPES = st.builds(
    lambda count, milli, cpu, memory: (
        shape(count, 1000 if count != 1 else milli, cpu, memory)
        if count
        else PodShape(cpu_milli=cpu, memory_mib=memory)
    ),
    st.integers(0, 9),
    st.sampled_from([1, 250, 500, 999, 1000]),
    st.integers(0, 90_000),
    st.integers(0, 10**6),
)
ASKS = SHAPES | st.builds(
    Passed,
    reason=st.just("odd"),
    cpu_milli=st.integers(0, 90_000),
    gpu_count=st.integers(0, 3),
    gpu_memory_mib=st.sampled_from([0, 1, 8192, 10**6]),
)
NODE_NAMES = st.sampled_from(["n1", "n2", "n3"])
DEVICE_IDS = st.sampled_from([*UUIDS, "0", "3", "7", "GPU-x"])
PODS = st.builds(
    PlacedPod,
    namespace=st.just("team"),
    name=st.sampled_from("abcdef"),
    uid=st.sampled_from(["1", "2"]),
    node=NODE_NAMES | st.just(""),
    ask=ASKS,
    created_seconds=st.sampled_from([0.0, 1.0]),
    devices=st.lists(DEVICE_IDS, max_size=3, unique=True).map(tuple),
)
FLAGS = st.lists(st.booleans(), max_size=4).map(tuple)
FACTS = st.builds(
    DeviceFacts,
    resource=st.just(GPU),
    ids=st.integers(0, 4).map(lambda count: UUIDS[:count]),
    sick=FLAGS,
    busy=FLAGS,
    memory_mib=st.lists(st.sampled_from([0, 16_384]), max_size=4).map(tuple),
    holders=st.dictionaries(
        DEVICE_IDS, st.lists(st.sampled_from(["team/a", "team/b", "x/y"]), max_size=2).map(tuple)
    ),
    cpu_milli=st.sampled_from([0, 8000]),
)
NODES = st.builds(
    ClusterNode,
    name=NODE_NAMES,
    gpu_capacity=st.integers(0, 8),
    capacity=st.builds(
        NodeCapacity,
        cpu_milli=st.sampled_from([0, 64_000]),
        memory_mib=st.sampled_from([0, 262_144]),
        devices=st.dictionaries(st.sampled_from([GPU, "koordinator.sh/gpu"]), st.integers(0, 8)),
        physical_devices=st.sampled_from([0, 0, 4]),
        sliced=st.booleans(),
    ),
)
NEWS = st.one_of(
    st.tuples(st.just("pod"), PODS),
    st.tuples(st.just("gone"), st.sampled_from(["team/a", "team/b", "team/c"])),
    st.tuples(st.just("node"), NODES),
    st.tuples(st.just("left"), NODE_NAMES),
    st.tuples(st.just("facts"), st.tuples(NODE_NAMES, FACTS | st.none())),
    st.tuples(st.just("known"), st.booleans()),
    st.tuples(st.just("look"), NODE_NAMES),
)


@given(st.lists(NEWS, max_size=25))
def test_whatever_comes_in_whatever_order_rooms_are_as_if_made_anew_and_never_negative(
    news: list[tuple[str, Any]],
) -> None:
    made = RoomBook()
    nodes: dict[str, ClusterNode] = {}
    pods: dict[str, PlacedPod] = {}
    devices: dict[str, DeviceFacts | None] = {}
    before: dict[str, NodeRoom | None] = {}
    told: set[str] = set()
    for kind, what in news:
        match kind:
            case "pod":
                pods[what.key] = what
                made.set_pod(what)
            case "gone":
                pods.pop(what, None)
                made.drop_pod(what)
            case "node":
                nodes[what.name] = what
                made.set_node(what)
            case "left":
                nodes.pop(what, None)
                devices.pop(what, None)
                made.drop_node(what)
            case "facts":
                devices[what[0]] = what[1]
                made.set_devices(*what)
            case "known":
                made.pods_known = what
            case "look":
                told |= made.take_changed()
                made.room(what)
    anew = RoomBook(pods_known=made.pods_known)
    for name in sorted(devices, reverse=True):
        anew.set_devices(name, devices[name])
    for key in sorted(pods, reverse=True):
        anew.set_pod(pods[key])
    anew.set_nodes(nodes)
    told |= made.take_changed()
    for name in ("n1", "n2", "n3"):
        left = made.room(name)
        assert left == anew.room(name)
        assert left == before.get(name) or name in told
        if left is not None:
            assert_sound(left)


def assert_sound(left: NodeRoom) -> None:
    assert 0 <= left.cpu_free_milli <= left.cpu_milli
    assert 0 <= left.memory_free_mib <= left.memory_mib
    assert all(0 <= each <= 1000 for each in left.gpus)
    assert len(left.sick) in (0, len(left.gpus))
    assert not any(free for free, sick in zip(left.gpus, left.sick, strict=False) if sick)


@given(st.lists(PODS, unique_by=lambda each: each.key), NODES, FACTS)
def test_no_guess_shows_more_room_than_requests_leave(
    pods: list[PlacedPod], cluster: ClusterNode, told: DeviceFacts
) -> None:
    """Where no device is sick: then a seat on it would free a healthy one."""
    healthy = msgspec.structs.replace(told, sick=(), holders={})
    here = [msgspec.structs.replace(each, node=cluster.name, devices=()) for each in pods]
    made = RoomBook()
    made.set_node(cluster)
    made.set_devices(cluster.name, healthy)
    for each in here:
        made.set_pod(each)
    left = made.room(cluster.name)
    assert left is not None
    whole = sum(
        each.ask.gpu_count
        for each in here
        if isinstance(each.ask, PodShape) and each.ask.gpu_milli == 1000
    )
    assert sum(free == 1000 for free in left.gpus) <= max(0, len(left.gpus) - whole)


def test_a_change_among_fifty_thousand_pods_costs_only_its_node() -> None:
    made = RoomBook()
    for number in range(500):
        made.set_node(node(8, name=f"n{number}"))
    for number in range(5_000):
        made.set_pod(pod(f"p{number}", shape(1, 500), node=f"n{number % 500}"))
    rooms = {each.name: each for each in made.rooms()}
    made.take_changed()
    made.set_pod(pod("new", node="n7"))
    after = {each.name: each for each in made.rooms()}
    assert made.take_changed() == {"n7"}
    assert [name for name in rooms if after[name] is not rooms[name]] == ["n7"]
