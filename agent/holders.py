"""Who holds a device at this moment. Pure."""

from collections.abc import Iterator

from agent.faults import device_of
from agent.snapshot import Snapshot
from agent.snapshot.pods import holders

_ASCEND = "huawei.com/"


def holders_of(snapshot: Snapshot, subject: str) -> tuple[str, ...]:
    """The pods, ``namespace/pod``, that hold this GPU, MIG instance or NPU; empty where nobody can say."""
    return holders(snapshot.pods, tuple(_device_ids(snapshot, subject)))


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
