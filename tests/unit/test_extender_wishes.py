"""A pod like one that was asked about before is not read anew, and gets what reading it anew would give."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.feeds import extender_wishes
from aggregator.feeds.extender import PRIORITIZE_PATH, VERBS, Extender
from aggregator.feeds.extender_pod import Wish, wish_of
from aggregator.feeds.extender_wishes import MAX_PARTS, MAX_PARTS_BYTES, Wishes, glance
from aggregator.scores.book import ScoreBook
from aggregator.stats import AggregatorStats
from tests.controlplane.manifests import extender_args
from tests.score_builders import NOW, facts, put

GPUSHARE = "ALIYUN_COM_GPU_MEM_DEV", "ALIYUN_COM_GPU_MEM_POD"
MODEL = "nvidia.com/gpu.product"

amounts = st.dictionaries(
    st.sampled_from(
        [
            "cpu",
            "memory",
            "nvidia.com/gpu",
            "nvidia.com/gpumem",
            "nvidia.com/mig-1g.5gb",
            "koordinator.sh/gpu-core",
            "aliyun.com/gpu-mem",
            "amd.com/gpu",
        ]
    ),
    st.sampled_from(["0", "1", "2", "50", "64Gi", "1500m", 1, 4, "much", None, -1]),
    max_size=3,
)
odd: st.SearchStrategy[Any] = st.sampled_from(
    [None, {}, [], "x", 7, {"requests": None}, {"limits": []}]
)
resources = st.fixed_dictionaries({}, optional={"requests": amounts, "limits": amounts}) | odd
container = st.fixed_dictionaries(
    {"name": st.sampled_from(["a", "b"])},
    optional={"resources": resources, "restartPolicy": st.sampled_from(["Always", "Never", None])},
)
containers = st.lists(container | st.sampled_from([None, 3]), max_size=2) | odd
selector = st.fixed_dictionaries({}, optional={MODEL: st.sampled_from(["H100", "A100", 5])})
term = st.fixed_dictionaries(
    {"key": st.sampled_from([MODEL, "zone"]), "operator": st.sampled_from(["In", "NotIn"])},
    optional={"values": st.lists(st.sampled_from(["H100", "H200"]), max_size=2)},
)
affinity = st.builds(
    lambda terms: {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": each} for each in terms]
            }
        }
    },
    st.lists(st.lists(term, max_size=2), max_size=2),
)
spec = st.fixed_dictionaries(
    {},
    optional={
        "containers": containers,
        "initContainers": containers,
        "resources": resources,
        "overhead": amounts | odd,
        "resourceClaims": st.sampled_from([None, [], [{"name": "one"}], "x"]),
        "nodeSelector": selector | odd,
        "affinity": affinity | odd,
        "volumes": st.lists(st.just({"name": "kube-api-access-x7f2p"}), max_size=1),
    },
)
metadata = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["one", "two"]),
        "namespace": st.sampled_from(["team-a", "team-b"]),
        "labels": st.dictionaries(
            st.sampled_from(["serving.kserve.io/inferenceservice", "app"]),
            st.sampled_from(["llm", "vision"]),
        ),
        "annotations": st.dictionaries(
            st.sampled_from([*GPUSHARE, "note"]), st.sampled_from(["16", "4", 8, None])
        )
        | odd,
    },
)
pods = st.fixed_dictionaries({}, optional={"spec": spec | odd, "metadata": metadata | odd}) | odd


def request_of(pod: Any, names: list[str] | None = None) -> bytes:
    return extender_args(pod, names or ["a", "b"])


def gpus(count: int, **spec: Any) -> dict[str, Any]:
    limits = {"nvidia.com/gpu": str(count)}
    return {"spec": {"containers": [{"resources": {"limits": limits}}], **spec}}


def book() -> ScoreBook:
    known = ScoreBook()
    put(known, facts("a", use_ratio=0.9))
    put(known, facts("b", use_ratio=0.1))
    known.settle(NOW)
    return known


def extender(stats: AggregatorStats) -> Extender:
    return Extender(book(), stats, clock=lambda: NOW)


@given(kinds=st.lists(pods, min_size=1, max_size=4), turns=st.lists(st.integers(0, 3), max_size=12))
def test_who_was_asked_before_answers_like_who_is_asked_for_the_first_time(
    kinds: list[Any], turns: list[int]
) -> None:
    counted, apart = AggregatorStats(), AggregatorStats()
    old = extender(counted)
    for turn in turns:
        body = request_of(kinds[turn % len(kinds)])
        question = old.read(VERBS[PRIORITIZE_PATH], body)
        anew = extender(apart).read(VERBS[PRIORITIZE_PATH], body)
        assert (question.names, question.wish, question.unreadable) == (
            anew.names,
            anew.wish,
            anew.unreadable,
        )
    assert counted.extender_errors_total == apart.extender_errors_total


@given(pods, pods)
def test_pods_with_the_same_parts_have_the_same_wish(one: Any, other: Any) -> None:
    wishes = Wishes()
    seen = glance(request_of(one))
    if seen is None or (wish := wish_of(one)) is None:
        return
    wishes.learn(seen.parts, wish)
    also = glance(request_of(other))
    if also is not None and (recalled := wishes.recall(also.parts)):
        assert recalled.wish == wish_of(other)


@given(spec | st.just({}), metadata, metadata)
def test_names_labels_and_notes_are_no_parts_of_a_wish(spec: Any, one: Any, other: Any) -> None:
    for each in (one, other):
        each.pop("annotations", None)
    seen, also = (
        glance(request_of({"spec": spec, "metadata": each, "status": {"phase": "Pending"}}))
        for each in (one, other)
    )
    assert (seen and seen.parts) == (also and also.parts)


def limits(**amounts: str) -> dict[str, Any]:
    return {"resources": {"limits": {"nvidia.com/gpu": "1"} | amounts}}


def allowed(model: str) -> dict[str, Any]:
    terms = [{"matchExpressions": [{"key": MODEL, "operator": "In", "values": [model]}]}]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    return {"nodeAffinity": required}


SHARES = [{"resources": {"limits": {"aliyun.com/gpu-mem": "4"}}}]


def gpushare(**annotations: str) -> dict[str, Any]:
    named = {f"ALIYUN_COM_GPU_MEM_{name}": text for name, text in annotations.items()}
    return {"spec": {"containers": SHARES}, "metadata": {"annotations": named}}


ONE, BIG = limits(), limits(cpu="64")
APART = {
    "a container's resources": ({"containers": [ONE]}, {"containers": [BIG]}),
    "the number of containers": ({"containers": [ONE]}, {"containers": [ONE, ONE]}),
    "an init container's resources": (
        {"containers": [ONE], "initContainers": [ONE]},
        {"containers": [ONE], "initContainers": [BIG]},
    ),
    "whether it is a sidecar": (
        {"containers": [ONE], "initContainers": [BIG]},
        {"containers": [ONE], "initContainers": [BIG | {"restartPolicy": "Always"}]},
    ),
    "whether it is an init container": (
        {"containers": [ONE, BIG]},
        {"containers": [ONE], "initContainers": [BIG]},
    ),
    "whether the last one is an init container": (
        {"containers": [ONE, BIG, {}]},
        {"containers": [ONE], "initContainers": [BIG]},
    ),
    "resources of the whole pod": (
        {"containers": [ONE]},
        {"containers": [ONE], "resources": {"requests": {"cpu": "9"}}},
    ),
    "overhead": ({"containers": [ONE]}, {"containers": [ONE], "overhead": {"cpu": "2"}}),
    "resource claims": (
        {"containers": [{}]},
        {"containers": [{}], "resourceClaims": [{"name": "a"}]},
    ),
    "the node selector": (
        {"containers": [ONE], "nodeSelector": {MODEL: "H100"}},
        {"containers": [ONE], "nodeSelector": {MODEL: "A100"}},
    ),
    "the affinity": (
        {"containers": [ONE], "affinity": allowed("H100")},
        {"containers": [ONE], "affinity": allowed("A100")},
    ),
}
PAIRS = {name: ({"spec": one}, {"spec": other}) for name, (one, other) in APART.items()} | {
    "the size of a shared device": (gpushare(DEV="x", POD="4"), gpushare(DEV="4", POD="4")),
    "the share of a device": (gpushare(DEV="4", POD="x"), gpushare(DEV="4", POD="4")),
    "which of both is said": (gpushare(DEV="4"), gpushare(POD="4")),
    "whether it is said in annotations": (
        gpushare(DEV="4", POD="4"),
        {"spec": {"containers": [*SHARES, {"resources": "4"}, {"resources": "4"}]}},
    ),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
def test_pods_that_differ_in_one_thing_that_counts_are_told_apart(pair: tuple[Any, Any]) -> None:
    seen = [glance(request_of(each)) for each in pair]
    assert None not in seen
    assert seen[0] != seen[1]
    for first, then in (pair, pair[::-1]):
        asked = extender(AggregatorStats())
        for pod in (first, then, first):
            assert asked.read("prioritize", request_of(pod)).wish == wish_of(pod)


@pytest.mark.parametrize("name", APART)
def test_and_they_do_ask_for_something_else(name: str) -> None:
    one, other = PAIRS[name]
    assert wish_of(one) != wish_of(other)


def test_a_pod_that_cannot_be_read_is_an_error_each_time() -> None:
    stats = AggregatorStats()
    asked = extender(stats)
    body = request_of({"spec": {}}).replace(b'"spec"', b'"status":"\xff","spec"')
    for count in (1, 2):
        assert not asked.read("prioritize", body).wish.ours
        assert stats.extender_errors_total == count


def test_what_is_not_looked_at_may_be_broken_once_its_like_is_known() -> None:
    stats = AggregatorStats()
    asked = extender(stats)
    known = asked.read("prioritize", request_of(gpus(2))).wish
    broken = request_of(gpus(2)).replace(b'"spec"', b'"status":"\xff","spec"')
    assert asked.read("prioritize", broken).wish == known
    assert stats.extender_errors_total == 0


def test_a_request_too_deep_is_told_in_words() -> None:
    body = request_of({}).replace(b"{}", b'{"status":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    assert "recursion" in extender(AggregatorStats()).read("prioritize", body).unreadable.lower()


def test_the_next_pod_of_a_job_is_known_by_its_first(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = extender(AggregatorStats())
    first = asked.read("prioritize", request_of(gpus(4) | {"metadata": {"name": "worker-0"}}))
    monkeypatch.setattr("aggregator.feeds.extender.wish_of", None)  # would fail
    volumes = [{"name": "kube-api-access-9xk2l"}]
    pod = gpus(4, volumes=volumes) | {"metadata": {"name": "worker-1"}}
    assert asked.read("prioritize", request_of(pod)).wish == first.wish


def test_pods_that_share_a_device_are_told_apart_by_whose_they_are() -> None:
    half = {"koordinator.sh/gpu-core": "50", "koordinator.sh/gpu-memory-ratio": "50"}
    spec = {"containers": [{"resources": {"limits": half}}]}
    asked = extender(AggregatorStats())
    wishes = {
        asked.read(
            "prioritize",
            request_of(
                {
                    "spec": spec,
                    "metadata": {
                        "namespace": "team-a",
                        "labels": {"serving.kserve.io/inferenceservice": service},
                    },
                }
            ),
        ).wish
        for service in ("llm", "vision")
    }
    assert len(wishes) == 2


@pytest.mark.parametrize(
    "body",
    [
        b'{"pod": {}, "nodenames": []}',
        b'{"Pod": {}, "NodeNames": [], "nodeNames": ["a"]}',
        b'{"Pod": {}, "NodeNames": null, "Nodes": {"items": []}}',
        b'{"Pod": {"spec": {"containers": {}}}, "NodeNames": []}',
        b'{"Pod": {}}',
        b"[]",
        b"{",
    ],
)
def test_what_is_written_otherwise_is_read_with_more_care(body: bytes) -> None:
    assert glance(body) is None


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extender_wishes, "MAX_WISHES", 3)
    wishes = Wishes()
    for number in range(10):
        wishes.learn((b"%d" % number,), Wish(reason=str(number)))
        known = [each for each in range(10) if wishes.recall((b"%d" % each,)) is not None]
        assert known == list(range(max(0, number - 2), number + 1))
    for large in ((b"x" * (MAX_PARTS_BYTES + 1),), (b"",) * (MAX_PARTS + 1)):
        wishes.learn(large, Wish())
        assert wishes.recall(large) is None
