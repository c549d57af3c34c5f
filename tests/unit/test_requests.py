"""What pods ask for, in every way there is to ask for an accelerator."""

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.scores.accelerators import gpu_resource
from aggregator.scores.quantity import NANO, parse_nano
from aggregator.scores.requests import MAX_DEVICES, Passed, ask_of, model_name
from aggregator.scores.values import PodShape

Json = dict[str, Any]


def container(**resources: str) -> Json:
    return {"name": "main", "resources": {"requests": resources}}


def pod(*containers: Json, annotations: Json | None = None, **spec: Any) -> Json:
    return {
        "metadata": {"name": "p", "namespace": "team", "annotations": annotations or {}},
        "spec": {"containers": list(containers), **spec},
    }


def asks(annotations: Json | None = None, **resources: str) -> PodShape | Passed:
    named = {
        name.replace("__", "/").replace("_", "."): amount for name, amount in resources.items()
    }
    return ask_of(pod(container(**named), annotations=annotations))


def wants(resources: Json, **more: Any) -> PodShape | Passed:
    return ask_of(pod(container(**resources)), **more)


def reason(ask: PodShape | Passed) -> str:
    assert isinstance(ask, Passed), ask
    return ask.reason


ODD = (math.nan, math.inf, 10**30, "1\n")


class TestQuantities:
    @pytest.mark.parametrize(
        ("text", "amount"),
        [
            ("500m", Fraction(1, 2)),
            ("2Gi", 2 * 2**30),
            ("1e3", 1000),
            ("1E3", 1000),
            ("1E", 10**18),
            ("1Ei", 2**60),
            ("-.5k", -500),
            ("1.", 1),
            ("+3", 3),
            (3, 3),
            (2.5, Fraction(5, 2)),
            ("0.1n", Fraction(1, NANO)),
        ],
    )
    def test_each_way_to_write_one_is_read(self, text: Any, amount: Any) -> None:
        assert parse_nano(text) == amount * NANO

    @pytest.mark.parametrize(
        "junk",
        [
            "",
            "m",
            "1ki",
            "1e",
            "1e+",
            "NaN",
            "Infinity",
            "0x10",
            "1 Gi",
            "\u0661",
            None,
            True,
            [],
            {},
            *ODD,
        ],
    )
    def test_what_is_none_is_said_to_be_none(self, junk: Any) -> None:
        assert parse_nano(junk) is None

    def test_an_absurd_one_is_capped_and_costs_nothing(self) -> None:
        assert parse_nano("1e999") == parse_nano("9" * 40 + "E") == (2**63 - 1) * NANO
        assert parse_nano("1e9999999999") is None

    @given(
        st.one_of(st.text(), st.from_regex(r"[+-]?[0-9.]{1,6}[a-zA-Z0-9+-]{0,6}", fullmatch=True))
    )
    def test_no_text_raises(self, text: str) -> None:
        amount = parse_nano(text)
        assert amount is None or abs(amount) <= (2**63 - 1) * NANO


class TestWhatTheSchedulerSubtracts:
    def test_containers_add_up(self) -> None:
        ask = ask_of(
            pod(container(cpu="1500m", memory="1Gi"), container(cpu="0.5", memory="512Mi"))
        )
        assert ask == PodShape(cpu_milli=2000, memory_mib=1536)

    def test_a_pod_that_asks_for_nothing_is_a_shape_of_nothing(self) -> None:
        assert ask_of(pod(container())) == ask_of({}) == PodShape()

    def test_init_containers_count_by_their_hungriest_moment(self) -> None:
        init = [container(cpu="3"), container(cpu="1", memory="4Gi")]
        ask = ask_of(pod(container(cpu="2", memory="1Gi"), initContainers=init))
        assert ask == PodShape(cpu_milli=3000, memory_mib=4096)

    def test_a_sidecar_stays_beside_those_that_start_after_it(self) -> None:
        sidecar = {**container(cpu="1"), "restartPolicy": "Always"}
        late = ask_of(pod(container(cpu="2"), initContainers=[container(cpu="4"), sidecar]))
        early = ask_of(pod(container(cpu="2"), initContainers=[sidecar, container(cpu="4")]))
        assert (late, early) == (PodShape(cpu_milli=4000), PodShape(cpu_milli=5000))

    def test_a_limit_alone_is_a_request_too(self) -> None:
        ask = ask_of(pod({"resources": {"limits": {"nvidia.com/gpu": 2, "cpu": "1"}}}))
        assert ask == PodShape(
            cpu_milli=1000, gpu_count=2, gpu_milli=1000, resource="nvidia.com/gpu"
        )

    def test_overhead_comes_on_top(self) -> None:
        ask = ask_of(pod(container(cpu="1"), overhead={"cpu": "250m", "memory": "120Mi"}))
        assert ask == PodShape(cpu_milli=1250, memory_mib=120)

    def test_what_the_pod_says_as_a_whole_counts_instead(self) -> None:
        whole = {"requests": {"cpu": "4", "nvidia.com/gpu": "9"}}
        ask = ask_of(pod(container(cpu="1", memory="1Gi"), resources=whole))
        assert ask == PodShape(cpu_milli=4000, memory_mib=1024)

    def test_parts_are_rounded_up(self) -> None:
        assert wants({"cpu": "100u", "memory": "1"}) == PodShape(cpu_milli=1, memory_mib=1)


class TestDevices:
    @pytest.mark.parametrize("name", ["nvidia.com/gpu", "amd.com/gpu", "huawei.com/Ascend910B"])
    def test_whole_ones_of_each_make(self, name: str) -> None:
        assert wants({name: "8"}) == PodShape(gpu_count=8, gpu_milli=1000, resource=name)

    @pytest.mark.parametrize(
        ("resources", "count", "milli"),
        [
            ({"koordinator.sh/gpu": "50"}, 1, 500),
            ({"koordinator.sh/gpu": "100"}, 1, 1000),
            ({"koordinator.sh/gpu": "200"}, 2, 1000),
            ({"koordinator.sh/gpu-core": "30", "koordinator.sh/gpu-memory-ratio": "60"}, 1, 600),
            ({"koordinator.sh/gpu-core": "800", "koordinator.sh/gpu-memory-ratio": "800"}, 8, 1000),
            ({"koordinator.sh/gpu-core": "200", "koordinator.sh/gpu.shared": "2"}, 2, 1000),
        ],
    )
    def test_koordinator_asks_in_percent(self, resources: Json, count: int, milli: int) -> None:
        assert wants(resources) == PodShape(gpu_count=count, gpu_milli=milli)

    @pytest.mark.parametrize(
        ("resources", "count", "milli"),
        [
            ({"nvidia.com/gpucores": "30", "nvidia.com/gpumem-percentage": "20"}, 1, 300),
            ({"nvidia.com/gpumem-percentage": "20"}, 1, 200),
            ({"nvidia.com/gpucores": "30"}, 1, 1000),
            ({"nvidia.com/gpucores": "100", "nvidia.com/gpu": "2"}, 2, 1000),
        ],
    )
    def test_hami_takes_the_larger_share_and_all_memory_unless_told(
        self, resources: Json, count: int, milli: int
    ) -> None:
        ask = wants({"nvidia.com/gpu": "1", **resources})
        assert ask == PodShape(gpu_count=count, gpu_milli=milli, resource="nvidia.com/gpu")

    def test_volcano_says_the_same_in_its_own_names(self) -> None:
        ask = wants(
            {
                "volcano.sh/vgpu-number": "1",
                "volcano.sh/vgpu-cores": "40",
                "volcano.sh/vgpu-memory-percentage": "25",
            }
        )
        assert ask == PodShape(gpu_count=1, gpu_milli=400, resource="volcano.sh/vgpu-number")

    def test_an_amount_of_memory_is_a_share_only_where_devices_are_alike(self) -> None:
        wish = {"nvidia.com/gpu": "1", "nvidia.com/gpumem": "20480"}
        passed = wants(wish)
        assert "20480 MiB" in reason(passed)
        assert isinstance(passed, Passed)
        assert (passed.gpu_count, passed.gpu_memory_mib) == (1, 20480)
        share = wants(wish, device_memory_mib=81920)
        assert share == PodShape(gpu_count=1, gpu_milli=250, resource="nvidia.com/gpu")
        assert "204.8 %" not in reason(wants(wish, device_memory_mib=0))
        assert "200 % of each" in reason(wants(wish, device_memory_mib=10240))

    def test_gpushare_is_read_once_its_scheduler_wrote_how_large_the_device_is(self) -> None:
        asked = container(**{"aliyun.com/gpu-mem": "8"})
        assert "only once it is placed" in reason(ask_of(pod(asked)))
        written = {"ALIYUN_COM_GPU_MEM_DEV": "16", "ALIYUN_COM_GPU_MEM_POD": "8"}
        ask = ask_of(pod(asked, annotations=written))
        assert ask == PodShape(gpu_count=1, gpu_milli=500, resource="aliyun.com/gpu-mem")

    @pytest.mark.parametrize(
        ("resources", "words"),
        [
            ({"nvidia.com/mig-1g.10gb": "1"}, "a fixed slice"),
            ({"huawei.com/Ascend310P-2c": "1"}, "a fixed slice"),
            ({"cambricon.com/mlu": "1"}, "not read here"),
            ({"nvidia.com/gpu": "1", "amd.com/gpu": "1"}, "several makes"),
            ({"nvidia.com/gpu": "1", "koordinator.sh/gpu": "50"}, "several ways"),
            ({"nvidia.com/gpu": "1500m"}, "1.5 of nvidia.com/gpu: devices are whole numbers"),
            ({"koordinator.sh/gpu": "250"}, "multiple of 100"),
            ({"koordinator.sh/gpu.shared": "1"}, "not for how much"),
            (
                {"koordinator.sh/gpu-core": "100", "koordinator.sh/gpu.shared": "2"},
                "only one device",
            ),
            ({"nvidia.com/gpu": "2", "nvidia.com/gpumem-percentage": "50"}, "only one device"),
            ({"nvidia.com/gpu": str(MAX_DEVICES + 1)}, "no node has more"),
            ({"nvidia.com/gpu": "-1"}, "no amount"),
            ({"nvidia.com/gpu": "many"}, "'many' of nvidia.com/gpu"),
        ],
    )
    def test_what_cannot_be_told_is_passed_over_with_the_reason(
        self, resources: Json, words: str
    ) -> None:
        passed = wants({"cpu": "2", **resources})
        assert words in reason(passed)
        assert isinstance(passed, Passed)
        assert passed.cpu_milli == 2000, "it takes that of its node all the same"

    def test_claims_are_passed_over_unless_the_devices_are_asked_for_beside_them(self) -> None:
        claims = [{"name": "nic", "resourceClaimTemplateName": "rdma"}]
        assert "ResourceClaims" in reason(ask_of(pod(container(), resourceClaims=claims)))
        both = ask_of(pod(container(**{"nvidia.com/gpu": "1"}), resourceClaims=claims))
        assert isinstance(both, PodShape)

    @pytest.mark.parametrize(
        "other", ["rdma/hca", "hugepages-2Mi", "ephemeral-storage", "example.com/license"]
    )
    def test_other_resources_do_not_matter(self, other: str) -> None:
        assert wants({other: "1"}) == PodShape()

    def test_the_devices_of_a_node_go_by_one_name(self) -> None:
        assert (
            gpu_resource(["cpu", "koordinator.sh/gpu-core", "nvidia.com/gpu"]) == "nvidia.com/gpu"
        )
        assert gpu_resource(["koordinator.sh/gpu-core"]) == "koordinator.sh/gpu"
        assert gpu_resource(["cpu", "nvidia.com/mig-1g.5gb"]) == ""


class TestModels:
    PRODUCT = "nvidia.com/gpu.product"

    def models(self, **spec: Any) -> tuple[str, ...]:
        ask = ask_of(pod(container(**{"nvidia.com/gpu": "1"}), **spec))
        assert isinstance(ask, PodShape)
        return ask.models

    def term(self, *values: str, key: str = PRODUCT, operator: str = "In") -> Json:
        return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}

    def affinity(self, *terms: Json) -> Json:
        required = {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}
        }
        return {"nodeAffinity": required}

    def test_a_node_selector_names_one(self) -> None:
        assert self.models(nodeSelector={self.PRODUCT: "Tesla-T4"}) == ("Tesla-T4",)

    def test_affinity_names_several(self) -> None:
        affinity = self.affinity(self.term("b", "a"), self.term("c"))
        assert self.models(affinity=affinity) == ("a", "b", "c")
        assert self.models(affinity=affinity, nodeSelector={self.PRODUCT: "b"}) == ("b",)

    def test_a_term_that_names_none_allows_any(self) -> None:
        zone = self.term("z1", key="topology.kubernetes.io/zone")
        assert self.models(affinity=self.affinity(self.term("a"), zone)) == ()
        assert self.models(affinity=self.affinity(self.term("a", operator="NotIn"))) == ()

    def test_it_is_written_as_labels_write_it(self) -> None:
        assert model_name("NVIDIA A100-SXM4-80GB") == "NVIDIA-A100-SXM4-80GB"


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=12,
)
NAMES = st.sampled_from(
    [
        "cpu",
        "memory",
        "nvidia.com/gpu",
        "amd.com/gpu",
        "huawei.com/Ascend910",
        "nvidia.com/gpucores",
        "nvidia.com/gpumem",
        "koordinator.sh/gpu",
        "koordinator.sh/gpu.shared",
        "koordinator.sh/gpu-memory",
        "aliyun.com/gpu-mem",
        "volcano.sh/vgpu-number",
        "volcano.sh/vgpu-memory",
        "x/gpu",
    ]
)
AMOUNTS = st.integers(-3, 900).map(str) | st.sampled_from(["500m", "8Gi", "1e3", "1e30"]) | JUNK
CONTAINERS = st.lists(
    st.fixed_dictionaries(
        {"resources": st.fixed_dictionaries({"requests": st.dictionaries(NAMES, AMOUNTS) | JUNK})},
        optional={"restartPolicy": st.just("Always") | JUNK},
    )
    | JUNK,
    max_size=3,
)
PODS = st.fixed_dictionaries(
    {},
    optional={
        "metadata": st.fixed_dictionaries({"annotations": st.dictionaries(st.text(), JUNK) | JUNK})
        | JUNK,
        "spec": st.fixed_dictionaries(
            {},
            optional={
                "containers": CONTAINERS,
                "initContainers": CONTAINERS,
                "overhead": st.dictionaries(NAMES, AMOUNTS) | JUNK,
                "resources": JUNK,
                "resourceClaims": JUNK,
                "nodeSelector": st.dictionaries(st.just("nvidia.com/gpu.product"), JUNK) | JUNK,
                "affinity": JUNK,
            },
        )
        | JUNK,
    },
)


@given(PODS, st.sampled_from([0, 1, 16384, 81920]))
def test_no_pod_whatever_is_in_it_raises_or_breaks_the_form(junk: Json, memory: int) -> None:
    ask = ask_of(junk, device_memory_mib=memory)
    assert hash(ask) is not None
    assert 0 <= ask.cpu_milli <= 10**9
    assert 0 <= ask.memory_mib <= 10**9
    if isinstance(ask, Passed):
        assert ask.reason
        assert 0 <= ask.gpu_count <= MAX_DEVICES
    elif ask.gpu_count:
        assert 1 <= ask.gpu_milli <= 1000
        assert ask.gpu_count <= MAX_DEVICES
        assert ask.gpu_milli == 1000 or ask.gpu_count == 1
    else:
        assert (ask.gpu_milli, ask.resource, ask.models) == (0, "", ())
