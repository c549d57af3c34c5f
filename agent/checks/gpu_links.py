"""A GPU's links: PCIe slower than it could be under load, packets sent again, NVLinks inactive or in error."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import msgspec

from agent.catalogue import Catalogue, Code
from agent.checks import Observation
from agent.checks.gpu_basics import median, often_enough, see, span
from agent.checks.gpu_time import Minutes, watched
from agent.checks.window import Window
from agent.snapshot import Gpu

CODES = ("gpu-pcie-link",)


class Errors(msgspec.Struct, frozen=True, kw_only=True):
    """The link errors of one GPU, over a while."""

    pcie_replays: Window = Window()
    nvlink_retrains: Window = Window()
    """Replays and recoveries of all its links."""
    nvlink_crc: Window = Window()


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of the links."""

    errors: dict[str, Errors] = {}
    """By GPU."""
    nvlinks_were_active: bool = False
    """Any NVLink of this node ever was."""


def conditions(gpu: Gpu, catalogue: Catalogue) -> Iterator[str]:
    """What holds at this look: an idle GPU trains its PCIe link down on purpose, so only busy time counts."""
    limits = catalogue.codes["gpu-pcie-link"].limits
    load, state = gpu.utilization_ratio, gpu.performance_state
    if load is None or load < limits["busy_utilization_ratio"]:
        return
    if state is not None and state > limits["performance_state_max"]:
        return
    pairs = [
        (now, most)
        for now, most in (
            (gpu.pcie_generation, gpu.pcie_generation_max),
            (gpu.pcie_width, gpu.pcie_width_max),
        )
        if now and most
    ]
    if pairs:
        yield "pcie-busy"
    if any(now < most for now, most in pairs):
        yield "pcie-low"


def check(
    gpus: Sequence[Gpu],
    groups: Mapping[str, Sequence[Gpu]],
    memory: Memory,
    catalogue: Catalogue,
    *,
    at_seconds: float,
    gap: bool,
    resets: Collection[str],
) -> tuple[list[Observation], Memory]:
    """What is wrong with the links of these GPUs, but for what ``judge`` says of their time."""
    errors = dict(memory.errors)
    for gpu in gpus:
        before = Errors() if gpu.subject in resets else errors.get(gpu.subject, Errors())
        errors[gpu.subject] = _counted(gpu, before, catalogue, at=at_seconds, gap=gap)
    found: list[Observation] = []
    for gpu in gpus:
        found += _replays(gpu, errors[gpu.subject], catalogue.codes["gpu-pcie-replays"])
        if gpu.nvlinks and gpu.subject in groups:
            peers = [each for each in groups[gpu.subject] if each is not gpu]
            found += _inactive(gpu, peers, catalogue.codes["gpu-nvlink-inactive"])
            found += _in_error(gpu, peers, errors, catalogue)
    active = any(link.active for gpu in gpus for link in gpu.nvlinks)
    if not active:
        found += _all_inactive(gpus, memory, catalogue.codes["gpu-nvlink-all-inactive"])
    were_active = memory.nvlinks_were_active or active
    return found, Memory(errors=errors, nvlinks_were_active=were_active)


def judge(
    gpu: Gpu, minutes: Minutes, catalogue: Catalogue, *, at_seconds: float
) -> Iterator[Observation]:
    """Whose PCIe link was below its best while the GPU was busy."""
    code = catalogue.codes["gpu-pcie-link"]
    words = often_enough(code, minutes, "pcie-low", "pcie-busy", at_seconds)
    if words:
        yield see(
            code,
            gpu,
            f"PCIe below gen {gpu.pcie_generation_max} x{gpu.pcie_width_max} {words};"
            f" now gen {gpu.pcie_generation} x{gpu.pcie_width}",
        )


def _counted(gpu: Gpu, before: Errors, catalogue: Catalogue, *, at: float, gap: bool) -> Errors:
    retrains = [
        each
        for link in gpu.nvlinks
        for each in (link.replays_total, link.recoveries_total)
        if each is not None
    ]
    crc = [link.crc_errors_total for link in gpu.nvlinks if link.crc_errors_total is not None]
    nvlink_seconds = catalogue.codes["gpu-nvlink-errors"].limits["window_seconds"]
    pcie_seconds = catalogue.codes["gpu-pcie-replays"].limits["window_seconds"]
    changes: dict[str, Window] = {}
    for name, value, seconds in (
        ("pcie_replays", gpu.pcie_replays_total, pcie_seconds),
        ("nvlink_retrains", sum(retrains) if retrains else None, nvlink_seconds),
        ("nvlink_crc", sum(crc) if crc else None, nvlink_seconds),
    ):
        window: Window = getattr(before, name)
        after = watched(window, at, value, span_seconds=seconds, gap=gap)
        if after is not window:
            changes[name] = after
    return msgspec.structs.replace(before, **changes) if changes else before


def _replays(gpu: Gpu, errors: Errors, code: Code) -> Iterator[Observation]:
    window, limit = code.limits["window_seconds"], code.limits["replays_per_minute"]
    rate = errors.pcie_replays.rise / window * 60
    if gpu.pcie_replays_total is not None and rate > limit:
        yield see(
            code,
            gpu,
            f"{rate:.0f} PCIe packets per minute sent again in the last {span(window)}"
            f" (limit {limit:.0f})",
        )


def _inactive(gpu: Gpu, peers: Sequence[Gpu], code: Code) -> Iterator[Observation]:
    """Links that are inactive here and active on nearly all siblings."""
    down = [link.link for link in gpu.nvlinks if link.active is False]
    if not down or len(peers) < code.limits["siblings_min"]:
        return
    needed = code.limits["siblings_active_ratio"] * len(peers)
    active_there = [{link.link for link in peer.nvlinks if link.active} for peer in peers]
    missed = [link for link in down if sum(link in there for there in active_there) >= needed]
    if missed:
        yield see(
            code,
            gpu,
            f"NVLink {', '.join(map(str, missed))} inactive ({len(missed)} of {len(gpu.nvlinks)}),"
            f" active on at least {code.limits['siblings_active_ratio']:.0%} of {len(peers)} siblings",
        )


def _all_inactive(gpus: Sequence[Gpu], memory: Memory, code: Code) -> Iterator[Observation]:
    """Cards without a bridge are like that for good, so there must be a sign that they should be active."""
    with_links = [gpu for gpu in gpus if any(link.active is False for link in gpu.nvlinks)]
    if len(with_links) < code.limits["gpus_min"]:
        return
    if memory.nvlinks_were_active or any(gpu.fabric_state for gpu in with_links):
        yield Observation(
            code=code,
            subject="node",
            evidence=f"no NVLink of any of {len(with_links)} GPUs is active",
            source="nvidia",
        )


def _in_error(
    gpu: Gpu, peers: Iterable[Gpu], errors: Mapping[str, Errors], catalogue: Catalogue
) -> Iterator[Observation]:
    code = catalogue.codes["gpu-nvlink-errors"]
    window = code.limits["window_seconds"]
    own = errors[gpu.subject]
    for name, rise, limit in (
        ("replays and recoveries", own.nvlink_retrains.rise, code.limits["retrains"]),
        ("CRC errors", own.nvlink_crc.rise, code.limits["crc_per_second"] * window),
    ):
        if rise < limit:
            continue
        field = "nvlink_crc" if name == "CRC errors" else "nvlink_retrains"
        theirs = [getattr(errors[each.subject], field).rise for each in peers]
        usual = median(theirs) if theirs else 0.0
        # Where all siblings err alike it is the switch or a restart of the fabric, not this GPU.
        if rise >= code.limits["times_siblings"] * usual:
            yield see(
                code,
                gpu,
                f"{rise:.0f} NVLink {name} in the last {span(window)} (limit {limit:.0f}),"
                f" median of its siblings {usual:.0f}",
            )
            return


def forget(memory: Memory, subject: str) -> Memory:
    """Count anew; of the node, learn anew whether NVLinks are in use."""
    return Memory(
        errors={each: errors for each, errors in memory.errors.items() if each != subject},
        nvlinks_were_active=memory.nvlinks_were_active and subject != "node",
    )
