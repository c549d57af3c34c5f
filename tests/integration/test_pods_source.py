"""Which pod holds which device: asked of a real gRPC server on a unix socket, as a kubelet has it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from agent import podresources_pb2 as pb
from agent.snapshot.pods import PodDevices, holders
from agent.sources import SourceAbsentError, SourceFailingError, SourceStuckError
from agent.sources.pods import MAX_REPLY_BYTES, PodsSource
from tests.kubelet import Kubelet

GPU = "GPU-5a1c7e9e-0000-4000-8000-000000000001"
OTHER = "GPU-5a1c7e9e-0000-4000-8000-000000000002"
MIG = "MIG-5a1c7e9e-0000-4000-8000-000000000003"


@pytest.fixture
async def kubelet(tmp_path: Path) -> AsyncIterator[Kubelet]:
    async with Kubelet(tmp_path / "kubelet.sock").listening() as kubelet:
        yield kubelet


@pytest.fixture
async def source(tmp_path: Path) -> AsyncIterator[PodsSource]:
    source = PodsSource(socket=str(tmp_path / "kubelet.sock"), every_seconds=0, retry_seconds=0)
    yield source
    await source.close()


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.sources.pods.FRESH_SECONDS", 0)


async def test_every_pod_with_a_device_is_told_once_per_resource(
    kubelet: Kubelet, source: PodsSource
) -> None:
    kubelet.gives(
        {
            "vision/train-0": {"nvidia.com/gpu": [GPU, OTHER], "rdma/hca": ["mlx5_0"]},
            "web/page-1": {},
        }
    )
    assert (await source.read()).pods == (
        PodDevices(
            namespace="vision", pod="train-0", resource="nvidia.com/gpu", device_ids=(GPU, OTHER)
        ),
        PodDevices(namespace="vision", pod="train-0", resource="rdma/hca", device_ids=("mlx5_0",)),
    )


async def test_what_two_containers_of_a_pod_hold_is_one_holding(
    kubelet: Kubelet, source: PodsSource
) -> None:
    def container(*ids: str) -> pb.ContainerResources:
        given = pb.ContainerDevices(resource_name="nvidia.com/gpu", device_ids=ids)
        return pb.ContainerResources(devices=[given])

    pod = pb.PodResources(
        name="p", namespace="n", containers=[container(GPU), container(OTHER, GPU)]
    )
    kubelet.says(pb.ListPodResourcesResponse(pod_resources=[pod]))
    (held,) = (await source.read()).pods
    assert held.device_ids == (GPU, OTHER)


async def test_a_dynamic_resource_is_told_by_its_driver_pool_and_device(
    kubelet: Kubelet, source: PodsSource
) -> None:
    claimed = [
        pb.ClaimResource(driver_name="gpu.nvidia.com", pool_name="n1", device_name="gpu-0"),
        pb.ClaimResource(),  # a kubelet that does not tell
    ]
    container = pb.ContainerResources(
        dynamic_resources=[pb.DynamicResource(claim_resources=claimed)]
    )
    pod = pb.PodResources(name="p", namespace="n", containers=[container])
    kubelet.says(pb.ListPodResourcesResponse(pod_resources=[pod]))
    (held,) = (await source.read()).pods
    assert (held.resource, held.device_ids) == ("gpu.nvidia.com", ("n1/gpu-0",))


async def test_the_field_numbers_are_those_of_kubernetes(
    kubelet: Kubelet, source: PodsSource
) -> None:
    """Written out by hand: pod 1{name 1, namespace 2, containers 3{devices 2{resource 1, ids 2}, cpu_ids 3}}."""

    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    device = field(1, b"nvidia.com/gpu") + field(2, b"GPU-1") + field(3, b"")
    container = field(1, b"main") + field(2, device) + field(3, b"\x01\x02")
    kubelet.reply = field(1, field(1, b"train-0") + field(2, b"vision") + field(3, container))
    (held,) = (await source.read()).pods
    assert held == PodDevices(
        namespace="vision", pod="train-0", resource="nvidia.com/gpu", device_ids=("GPU-1",)
    )


async def test_a_machine_without_a_kubelet_is_absent(source: PodsSource, tmp_path: Path) -> None:
    with pytest.raises(SourceAbsentError, match=r"no kubelet socket at .*kubelet\.sock"):
        await source.read()
    nowhere = PodsSource(socket=str(tmp_path / "no" / "such" / "folder"))
    with pytest.raises(SourceAbsentError):
        await nowhere.read()
    await nowhere.close()


async def test_the_kubelet_may_come_go_and_come_again(source: PodsSource, tmp_path: Path) -> None:
    with pytest.raises(SourceAbsentError):
        await source.read()
    kubelet = Kubelet(tmp_path / "kubelet.sock")
    for round_ in range(3):
        async with kubelet.listening():
            kubelet.gives({f"n/p{round_}": {"nvidia.com/gpu": [GPU]}})
            assert [each.pod for each in await _read_in_time(source)] == [f"p{round_}"]
        with pytest.raises(SourceFailingError, match="the kubelet is not running"):
            await source.read()


async def _read_in_time(source: PodsSource) -> tuple[PodDevices, ...]:
    """Its connection may be in a backoff of at most a second."""
    async with asyncio.timeout(5):
        while True:
            try:
                return (await source.read()).pods
            except SourceFailingError:
                await asyncio.sleep(0.05)


async def test_a_socket_that_nobody_listens_on_is_failing(
    source: PodsSource, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(tmp_path / "kubelet.sock"))
    with pytest.raises(SourceFailingError, match="UNAVAILABLE"):
        await source.read()


async def test_a_file_that_is_no_socket_is_failing(source: PodsSource, tmp_path: Path) -> None:
    (tmp_path / "kubelet.sock").write_text("")
    with pytest.raises(SourceFailingError, match="is no socket"):
        await source.read()


async def test_a_refusal_is_told_in_the_kubelets_words(
    kubelet: Kubelet, source: PodsSource
) -> None:
    kubelet.refusal = (grpc.StatusCode.RESOURCE_EXHAUSTED, "rejected by rate limit")
    with pytest.raises(SourceFailingError, match="RESOURCE_EXHAUSTED: rejected by rate limit"):
        await source.read()
    kubelet.refusal = None
    assert (await source.read()).pods == ()


@pytest.mark.parametrize("reply", [b"\xff\xff\xff", b"\x0a\x03\x0a\x01\xff"])
async def test_an_answer_that_is_none_is_failing(
    kubelet: Kubelet, source: PodsSource, reply: bytes
) -> None:
    kubelet.reply = reply
    with pytest.raises(SourceFailingError, match="no list of pods"):
        await source.read()


async def test_an_answer_has_a_size(kubelet: Kubelet, source: PodsSource) -> None:
    kubelet.reply = bytes(MAX_REPLY_BYTES + 1)
    with pytest.raises(SourceFailingError, match="RESOURCE_EXHAUSTED"):
        await source.read()


async def test_a_kubelet_that_does_not_answer_is_stuck_and_holds_nobody_up(
    kubelet: Kubelet,
) -> None:
    kubelet.answers.clear()
    source = PodsSource(socket=str(kubelet.socket), deadline_seconds=0.2)
    loop = asyncio.get_running_loop()
    started = loop.time()
    with pytest.raises(SourceStuckError, match=r"no answer for 0\.2 s"):
        await source.read()
    with pytest.raises(SourceStuckError):  # kept, not asked again
        await source.read()
    assert loop.time() - started < 2
    assert kubelet.asked == 1
    await source.close()
    kubelet.answers.set()


async def test_an_answer_is_kept_until_somebody_asks_for_a_new_one(kubelet: Kubelet) -> None:
    source = PodsSource(socket=str(kubelet.socket), every_seconds=3600)
    kubelet.gives({"n/old": {"nvidia.com/gpu": [GPU]}})
    first = await source.read()
    kubelet.gives({"n/new": {"nvidia.com/gpu": [GPU]}})
    assert await source.read() is first
    assert kubelet.asked == 1
    assert [each.pod for each in (await source.refresh()).pods] == ["new"]
    assert [each.pod for each in (await source.read()).pods] == ["new"]
    await source.close()


async def test_a_storm_of_questions_is_one(
    kubelet: Kubelet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.sources.pods.FRESH_SECONDS", 3600)
    source = PodsSource(socket=str(kubelet.socket))
    answers = await asyncio.gather(*(source.refresh() for _ in range(100)))
    assert len({id(each) for each in answers}) == 1
    assert kubelet.asked == 1
    await source.close()


async def test_a_question_that_is_called_off_hinders_no_other(
    kubelet: Kubelet, source: PodsSource
) -> None:
    kubelet.answers.clear()
    asking = asyncio.create_task(source.read())
    while not kubelet.asked:
        await asyncio.sleep(0.01)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    kubelet.answers.set()
    assert (await source.read()).pods == ()


async def test_closing_ends_what_is_under_way(kubelet: Kubelet, source: PodsSource) -> None:
    kubelet.answers.clear()
    asking = asyncio.create_task(source.read())
    while not kubelet.asked:
        await asyncio.sleep(0.01)
    async with asyncio.timeout(1):
        await source.close()
        await asyncio.wait({asking})
    kubelet.answers.set()
    assert asking.cancelled() or isinstance(asking.exception(), SourceFailingError)


PODS = (
    PodDevices(namespace="b", pod="whole", resource="nvidia.com/gpu", device_ids=(GPU, OTHER)),
    PodDevices(namespace="a", pod="share", resource="nvidia.com/gpu", device_ids=(f"{GPU}::3",)),
    PodDevices(namespace="a", pod="slice", resource="nvidia.com/mig-1g.10gb", device_ids=(MIG,)),
    PodDevices(namespace="a", pod="nic", resource="rdma/hca", device_ids=("mlx5_0",)),
)


@pytest.mark.parametrize(
    ("device_ids", "named"),
    [
        ([GPU], ("a/share", "b/whole")),
        ([GPU, MIG], ("a/share", "a/slice", "b/whole")),
        ([OTHER, OTHER], ("b/whole",)),
        (["GPU-5a1c"], ()),
        ([], ()),
    ],
)
def test_who_holds_a_gpu(device_ids: list[str], named: tuple[str, ...]) -> None:
    assert holders(PODS, device_ids) == named
