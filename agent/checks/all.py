"""All checks over one snapshot. One that fails, fails alone: it is told, and what it would say is not known."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import msgspec

from agent.checks import Checked, Context, Observation
from agent.checks import gpu as gpu_checks
from agent.checks import host as host_checks
from agent.checks import npu as npu_checks
from agent.checks import pci as pci_checks
from agent.checks import rdma as rdma_checks
from agent.checks import storage as storage_checks
from agent.checks import unseen as unseen_checks
from agent.snapshot import Gpu, Npu, RdmaPort, Snapshot


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What the checks remember from one snapshot to the next, and over a restart."""

    gpu: gpu_checks.Memory = gpu_checks.Memory()
    rdma: rdma_checks.Memory = rdma_checks.Memory()
    host: host_checks.Memory = host_checks.Memory()
    npu: npu_checks.Memory = npu_checks.Memory()
    pci: pci_checks.Memory = pci_checks.Memory()
    storage: storage_checks.Memory = storage_checks.Memory()
    unseen: unseen_checks.Memory = unseen_checks.Memory()


MODULES = {
    "gpu": gpu_checks,
    "rdma": rdma_checks,
    "host": host_checks,
    "npu": npu_checks,
    "pci": pci_checks,
    "storage": storage_checks,
    "unseen": unseen_checks,
}
"""Each field of the memory and the module whose it is."""

SOURCES: Mapping[str, frozenset[str]] = {
    "gpu": frozenset({"nvidia", ""}),
    "rdma": frozenset({"rdma"}),
    "host": frozenset({"host"}),
    "npu": frozenset({"ascend", "pci"}),
    "pci": frozenset({"pci"}),
    "storage": frozenset({"mounts"}),
    "unseen": frozenset({""}),
}
"""Module → every source that its observations name."""


def run(snapshot: Snapshot, memory: Memory, context: Context) -> Checked[Memory]:
    """What is bad now, and what to remember for the next snapshot."""
    done: dict[str, Checked[Any]] = {}
    failed = []
    for name, module in MODULES.items():
        own = getattr(memory, name)
        try:
            done[name] = module.check(snapshot, own, context)
        except Exception as error:  # noqa: BLE001 - a mistake of ours in one check must not end the others
            failed.append(name)
            done[name] = Checked(
                observations=(_failed(name, error, context),),
                memory=own,
                blind=_devices(name, snapshot),
            )
    return Checked(
        observations=tuple(each for part in done.values() for each in part.observations),
        memory=Memory(**{name: part.memory for name, part in done.items()}),
        resets=frozenset().union(*(part.resets for part in done.values())),
        blind=frozenset().union(*(part.blind for part in done.values())),
        unjudged=frozenset().union(*(SOURCES[name] for name in failed)),
    )


def _failed(name: str, error: Exception, context: Context) -> Observation:
    return Observation(
        code=context.catalogue.codes["check-failed"],
        subject=f"check:{name}",
        evidence=f"{type(error).__name__}: {str(error)[:200]} ({_place(error)})",
        source="",
    )


def _place(error: Exception) -> str:
    """Where it was raised, for the one who mends it: ``gpu_memory.py:63``."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "nobody knows where"
    return f"{PurePath(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"


def _devices(name: str, snapshot: Snapshot) -> frozenset[str]:
    """The devices that this module would have judged."""
    devices: dict[str, tuple[Gpu | Npu | RdmaPort, ...]] = {
        "gpu": snapshot.gpus,
        "npu": snapshot.npus,
        "rdma": snapshot.rdma_ports,
    }
    return frozenset(each.subject for each in devices.get(name, ()))


def forget(memory: Memory, subject: str) -> Memory:
    """A person said that this is over: a port that was taken out on purpose is not missing."""
    forgetting = {}
    for name, module in MODULES.items():
        if hasattr(module, "forget"):
            own = getattr(memory, name)
            try:
                forgetting[name] = module.forget(own, subject)
            except Exception:  # noqa: BLE001 - as in ``run``: the others forget all the same
                forgetting[name] = own
    return msgspec.structs.replace(memory, **forgetting)
