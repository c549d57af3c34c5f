"""What the GPU checks share: how they say what they saw, and who a GPU's peers are."""

from collections.abc import Iterable, Sequence

from agent.catalogue import Catalogue, Code
from agent.checks import Observation
from agent.checks.gpu_time import Minutes
from agent.snapshot import Gpu, PodDevices
from agent.snapshot.pods import holders

SOURCE = "nvidia"

EXPLAINED_CLOCKS = 0x01 | 0x02 | 0x04 | 0x10 | 0x100
"""NVML clocks event reasons that somebody wants: idle, application clocks, software power cap, sync boost, display."""

HARDWARE_SLOWDOWN, SOFTWARE_THERMAL, HARDWARE_THERMAL, POWER_BRAKE = 0x08, 0x20, 0x40, 0x80
"""Those that nobody wants. The first is also set with the last two."""


def see(code: Code, gpu: Gpu, evidence: str) -> Observation:
    """Something is bad with this GPU now."""
    return Observation(code=code, subject=gpu.subject, evidence=evidence, source=SOURCE)


def siblings(gpus: Iterable[Gpu]) -> dict[str, list[Gpu]]:
    """GPUs that can be compared, by subject: same model, and not cut into MIG instances; each is among its own."""
    by_model: dict[str, list[Gpu]] = {}
    for gpu in gpus:
        if not gpu.mig_enabled:
            by_model.setdefault(gpu.model, []).append(gpu)
    return {gpu.subject: group for group in by_model.values() for gpu in group}


def median(values: Iterable[float]) -> float:
    """The middle value; of an even number the mean of the middle two. There must be one."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


def often_enough(code: Code, minutes: Minutes, bad: str, busy: str, at: float) -> str:
    """How long it was bad while busy, in words; empty where that is not long enough to judge, or not bad enough.

    Args:
        code: its limits are ``window_seconds``, ``busy_seconds_min`` and ``bad_ratio``.
        minutes: the GPU's.
        bad: the condition that counts.
        busy: the condition of which it is a share.
        at: Unix time now.
    """
    window = code.limits["window_seconds"]
    bad_seconds = minutes.seconds(bad, window, at)
    if not bad_seconds:
        return ""
    busy_seconds = minutes.seconds(busy, window, at)
    if busy_seconds < code.limits["busy_seconds_min"]:
        return ""
    if bad_seconds < code.limits["bad_ratio"] * busy_seconds:
        return ""
    return (
        f"for {bad_seconds / busy_seconds:.0%} of {busy_seconds:.0f} busy s"
        f" in the last {span(window)} (limit {code.limits['bad_ratio']:.0%})"
    )


def span(seconds: float) -> str:
    """A length of time in words: ``10 min``."""
    return f"{seconds / 3600:g} h" if seconds >= 7200 else f"{seconds / 60:g} min"


def longest_window_seconds(catalogue: Catalogue, codes: Iterable[str]) -> float:
    """The longest ``window_seconds`` among codes."""
    return max(catalogue.codes[code].limits["window_seconds"] for code in codes)


def company(gpus: Sequence[Gpu], pods: Iterable[PodDevices]) -> dict[str, tuple[Gpu, ...]]:
    """By subject: the GPUs that work on the same thing, itself among them.

    Those that share a pod; where nobody says who holds a GPU, all of whom nobody says it.
    """
    listed = tuple(pods)
    held_by = {gpu.subject: holders(listed, (gpu.uuid,)) for gpu in gpus}
    return {
        gpu.subject: tuple(each for each in gpus if held_by[each.subject] == held_by[gpu.subject])
        for gpu in gpus
    }
