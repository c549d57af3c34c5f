"""Who holds a device at this moment. Pure."""

from collections.abc import Iterator

from agent.faults import device_of
from agent.snapshot import Snapshot
from agent.snapshot.pods import REPLICA_MARK, holders

_ASCEND = "huawei.com/"
_GPU_WORDS = ("gpu", "nvidia")


def holders_of(snapshot: Snapshot, subject: str) -> tuple[str, ...]:
    """The pods, ``namespace/pod``, that hold this GPU, MIG instance or NPU; empty where nobody can say."""
    return holders(snapshot.pods, tuple(_device_ids(snapshot, subject)))


def is_told(snapshot: Snapshot, subject: str) -> bool:
    """Whether no holders means that nobody holds this device.

    Device plugins may use names of their own, and of a dynamic resource the kubelet tells none: where it speaks of a
    device that we do not recognise, that may be this one.
    """
    if subject in (npu.subject for npu in snapshot.npus):
        indexes = {str(npu.index) for npu in snapshot.npus}
        return all(each.rpartition("-")[2] in indexes for each in _held(snapshot, (_ASCEND,)))
    known = {gpu.uuid for gpu in snapshot.gpus}
    known |= {each.uuid for gpu in snapshot.gpus for each in gpu.mig_instances}
    return any(_device_ids(snapshot, subject)) and all(
        each.partition(REPLICA_MARK)[0] in known for each in _held(snapshot, _GPU_WORDS)
    )


def _held(snapshot: Snapshot, words: tuple[str, ...]) -> Iterator[str]:
    """Devices of the resources in whose name one of these words is."""
    for pod in snapshot.pods:
        if any(word in pod.resource for word in words):
            yield from pod.device_ids


def _device_ids(snapshot: Snapshot, subject: str) -> Iterator[str]:
    """What the device plugins call it."""
    for gpu in snapshot.gpus:
        if gpu.subject == device_of(subject):
            if gpu.subject == subject:
                yield gpu.uuid
            for instance in gpu.mig_instances:
                if subject in (gpu.subject, instance.subject(gpu)):
                    yield instance.uuid
    for npu in snapshot.npus:
        if npu.subject == subject:
            yield from (
                device_id
                for pod in snapshot.pods
                if pod.resource.startswith(_ASCEND)
                for device_id in pod.device_ids
                if device_id.rpartition("-")[2] == str(npu.index)
            )
