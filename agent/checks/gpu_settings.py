"""What is not as the others are, and what is left over: VBIOS versions, processes that no pod accounts for."""

from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec

from agent.catalogue import Catalogue
from agent.checks import Observation, source_is_ok
from agent.checks.gpu_basics import see
from agent.snapshot import Gpu, PodDevices, Snapshot
from agent.snapshot.pods import REPLICA_MARK, holders


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of who holds the GPUs; by subject."""

    held: frozenset[str] = frozenset()
    """Those that a pod was ever seen to hold: only of those the kubelet is known to tell."""
    stray: frozenset[str] = frozenset()
    """Those with a stray process when the kubelet last said who holds what."""


def check(
    snapshot: Snapshot, gpus: Sequence[Gpu], memory: Memory, catalogue: Catalogue
) -> tuple[list[Observation], Memory]:
    """What is odd about these GPUs, all of which answer."""
    memory = _remembered(snapshot, gpus, memory)
    code = catalogue.codes["gpu-stray-process"]
    strays = [
        see(code, gpu, f"{_processes(gpu)}; no pod holds this GPU, and pods have held it")
        for gpu in gpus
        if gpu.subject in memory.stray and gpu.process_count
    ]
    return [*strays, *_vbios(gpus, catalogue)], memory


def forget(memory: Memory, subject: str) -> Memory:
    """A person said that this is over: learn anew whether pods hold this GPU."""
    return Memory(held=memory.held - {subject}, stray=memory.stray - {subject})


def _vbios(gpus: Sequence[Gpu], catalogue: Catalogue) -> Iterator[Observation]:
    models = {gpu.model for gpu in gpus if gpu.model and gpu.vbios_version}
    for model in sorted(models):
        alike = [gpu for gpu in gpus if gpu.model == model and gpu.vbios_version]
        votes = Counter(gpu.vbios_version for gpu in alike)
        usual = max(votes, key=lambda version: (votes[version], version))
        for gpu in alike:
            if gpu.vbios_version != usual:
                yield see(
                    catalogue.codes["gpu-vbios-differs"],
                    gpu,
                    f"VBIOS {gpu.vbios_version}, {votes[usual]} of {len(alike)} {model} have {usual}",
                )


def _remembered(snapshot: Snapshot, gpus: Sequence[Gpu], memory: Memory) -> Memory:
    if not source_is_ok(snapshot, "pods"):
        return memory
    by_pods = {gpu.subject for gpu in gpus if holders(snapshot.pods, _device_ids(gpu))}
    held = memory.held if by_pods <= memory.held else memory.held | by_pods
    everywhere = _on_every_gpu(gpus)
    stray = frozenset(
        gpu.subject
        for gpu in gpus
        if gpu.process_count
        and gpu.subject in held - by_pods
        and not (gpu.process_ids and everywhere.issuperset(gpu.process_ids))
    )
    if stray and _tells_of_others(snapshot.pods, gpus):
        stray = frozenset()
    return (
        Memory(held=held, stray=stray) if (held, stray) != (memory.held, memory.stray) else memory
    )


def _on_every_gpu(gpus: Sequence[Gpu]) -> frozenset[int]:
    """Processes on each of several GPUs: a daemon of the host (MPS, a diagnosis), and no job's remains."""
    if len(gpus) < 2:
        return frozenset()
    return frozenset.intersection(*(frozenset(gpu.process_ids) for gpu in gpus))


def _tells_of_others(pods: Sequence[PodDevices], gpus: Sequence[Gpu]) -> bool:
    """Whether pods hold shares of GPUs, or GPUs by names that we cannot match: then nobody knows whose a process is."""
    known = {each for gpu in gpus for each in _device_ids(gpu)}
    return any(
        REPLICA_MARK in each or each not in known
        for pod in pods
        if "nvidia" in pod.resource
        for each in pod.device_ids
    )


def _device_ids(gpu: Gpu) -> tuple[str, ...]:
    return (gpu.uuid, *(each.uuid for each in gpu.mig_instances))


def _processes(gpu: Gpu) -> str:
    first = ", ".join(str(each) for each in gpu.process_ids[:3])
    more = f" and {len(gpu.process_ids) - 3} more" if len(gpu.process_ids) > 3 else ""
    listed = f" (process {first}{more})" if first else ""
    return f"{gpu.process_count} compute processes{listed}"
