"""The machine of a scenario: what it shows to whoever looks, over restarts of the agent and of itself."""

from pathlib import Path
from typing import Any

import msgspec

from agent.snapshot import Host, PodDevices
from contract.vocabulary import Event
from tests.support import START
from tests.timelines.kernel_ring import KernelRing
from tests.timelines.model import Lines, Node, Pod, Step, Trouble
from tests.timelines.nvml_script import ScriptedNvml, uuid
from tests.timelines.sysfs import Sysfs

HOST: dict[str, Any] = {
    "cpu_count": 192,
    "cpu_utilization_ratio": 0.04,
    "memory_total_bytes": 2_160_000_000_000,
    "memory_available_bytes": 2_000_000_000_000,
    "load_average_1m": 6.0,
    "disks": [
        {"mount_point": "/", "total_bytes": 960_000_000_000, "available_bytes": 500_000_000_000}
    ],
}


class World:
    """One machine. Times are seconds on the scenario's clock."""

    def __init__(self, node: Node, folder: Path) -> None:
        self.ring = KernelRing(folder / "kmsg", keeps=node.ring_records)
        self.nvml = ScriptedNvml(node.gpus, node.gpu)
        self.sysfs = Sysfs(folder / "sys", gpus=node.gpus, ports=node.ports)
        self.troubles: dict[str, Trouble] = {}
        self.pods: tuple[PodDevices, ...] = ()
        self.boots = 1
        self._booted = -node.up_seconds
        self._host = dict(HOST)

    @property
    def boot_id(self) -> str:
        """Another one after each boot."""
        return f"boot-{self.boots}"

    @property
    def boot_seconds(self) -> float:
        """Unix time of the boot."""
        return START + self._booted

    def host(self, now: float) -> Host:
        """What the machine says of itself."""
        return msgspec.convert({**self._host, "uptime_seconds": now - self._booted}, type=Host)

    def apply(self, step: Step, now: float) -> list[Event]:
        """Let it happen; returns what NVML's event thread says of it."""
        if step.kmsg:
            texts = [
                each.text if isinstance(each, Lines) else each
                for each in step.kmsg
                for _ in range(each.times if isinstance(each, Lines) else 1)
            ]
            self.ring.write(texts, up_seconds=now - self._booted)
        if step.kmsg_lost:
            self.ring.lose(step.kmsg_lost)
        for which, fields in step.nvml.items():
            self.nvml.change(which, fields, now)
        if step.nvml_unavailable is not None:
            self.nvml.become_unavailable(step.nvml_unavailable)
        self.troubles |= step.sources
        for name, files in step.rdma.items():
            self.sysfs.change_adapter(name, files, now)
        for which, files in step.pci.items():
            self.sysfs.change_gpu(which, files, now)
        if step.pods is not None:
            self.pods = tuple(_devices(each) for each in step.pods)
        self._host |= step.host
        return [self.nvml.event(each, START + now) for each in step.nvml_events]

    def close(self) -> None:
        """The end of the play."""
        self.ring.close()
        self.sysfs.close()

    def reboot(self, now: float) -> None:
        """The machine goes down; its kernel starts with an empty ring."""
        self.boots += 1
        self._booted = now
        self.ring.boot()


def _devices(pod: Pod) -> PodDevices:
    namespace, _, name = pod.pod.partition("/")
    ids = (*(uuid(index) for index in pod.gpus), *pod.mig)
    resource = "nvidia.com/mig-1g.10gb" if pod.mig else "nvidia.com/gpu"
    return PodDevices(namespace=namespace, pod=name, resource=resource, device_ids=ids)
