"""GPUs that look busy and are not, and GPUs that do the same work differently from their siblings.

A kernel that waits for other GPUs (as NCCL's do) keeps a GPU at 100 % with little power and no traffic, for as long as
another node is dead. That cannot be told from a hung GPU by looking at one: so where all busy GPUs of a pod (of the
node, where nobody says who holds them) are like that, it is only shown.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from agent.catalogue import Catalogue, Code
from agent.checks import Observation
from agent.checks.gpu_basics import EXPLAINED_CLOCKS, median, often_enough, see
from agent.checks.gpu_time import Minutes
from agent.snapshot import Gpu

CODES = (
    "gpu-hang-suspect",
    "gpu-clock-outlier",
    "gpu-temperature-outlier",
    "gpu-power-outlier",
)


def conditions(
    gpu: Gpu, group: Sequence[Gpu], company: Sequence[Gpu], catalogue: Catalogue
) -> Iterator[str]:
    """What holds at this look.

    Args:
        gpu: the GPU.
        group: GPUs that it can be compared with, itself among them.
        company: GPUs that work on the same thing, itself among them.
        catalogue: has the limits.
    """
    if gpu.utilization_ratio is None:
        return
    hang = catalogue.codes["gpu-hang-suspect"].limits
    if gpu.utilization_ratio >= hang["busy_utilization_ratio"]:
        yield "working-or-spinning"
        if _is_spinning(gpu, hang):
            yield "spinning"
            if any(_is_working(each, hang) for each in company if each is not gpu):
                yield "spinning-alone"
    yield from _apart(gpu, gpu.utilization_ratio, group, catalogue)


def _is_working(gpu: Gpu, limits: Mapping[str, float]) -> bool:
    busy = (gpu.utilization_ratio or 0.0) >= limits["busy_utilization_ratio"]
    return busy and not _is_spinning(gpu, limits)


def _is_spinning(gpu: Gpu, limits: Mapping[str, float]) -> bool:
    """Everything that would show work must be measured, and show none."""
    if gpu.power_watts is None or not gpu.power_limit_watts or gpu.process_count == 0:
        return False
    received, sent = gpu.pcie_received_bytes_per_second, gpu.pcie_transmitted_bytes_per_second
    if received is None or sent is None:
        return False
    over_nvlink = [
        each
        for each in (gpu.nvlink_received_bytes_per_second, gpu.nvlink_transmitted_bytes_per_second)
        if each is not None
    ]
    if gpu.dram_active_ratio is not None:
        memory_is_quiet = gpu.dram_active_ratio <= limits["dram_active_ratio"]
    elif gpu.memory_utilization_ratio is not None:
        memory_is_quiet = gpu.memory_utilization_ratio <= limits["memory_utilization_ratio"]
    else:
        return False
    return (
        memory_is_quiet
        and gpu.power_watts <= limits["power_ratio"] * gpu.power_limit_watts
        and received + sent <= limits["link_bytes_per_second"]
        and sum(over_nvlink) <= limits["link_bytes_per_second"]
        and (gpu.tensor_active_ratio or 0.0) <= limits["tensor_active_ratio"]
    )


def _apart(gpu: Gpu, load: float, group: Sequence[Gpu], catalogue: Catalogue) -> Iterator[str]:
    limits = catalogue.codes["gpu-clock-outlier"].limits
    if load < limits["busy_utilization_ratio"]:
        return
    others = [
        each
        for each in group
        if each is not gpu
        and each.utilization_ratio is not None
        and each.utilization_ratio >= limits["busy_utilization_ratio"]
    ]
    if len(others) < limits["siblings_min"]:
        return
    yield "as-busy-as-siblings"
    reasons = gpu.clocks_event_reasons
    clock = _against(gpu, others, "sm_clock_hertz", limits)
    unexplained = reasons is not None and not reasons & EXPLAINED_CLOCKS
    if clock and unexplained and clock[0] < limits["clock_ratio"] * clock[1]:
        yield "slower-than-siblings"
    heat = _against(gpu, others, "temperature_celsius", limits)
    above = catalogue.codes["gpu-temperature-outlier"].limits["above_celsius"]
    if heat and heat[0] >= heat[1] + above:
        yield "hotter-than-siblings"
    power = _against(gpu, others, "power_watts", limits)
    ratio = catalogue.codes["gpu-power-outlier"].limits["power_ratio"]
    if power and power[0] < ratio * power[1]:
        yield "weaker-than-siblings"


def _against(
    gpu: Gpu, others: Iterable[Gpu], field: str, limits: Mapping[str, float]
) -> tuple[float, float] | None:
    """Its own value and the others' median; ``None`` where too few are measured."""
    own = getattr(gpu, field)
    values = [value for each in others if (value := getattr(each, field)) is not None]
    if own is None or len(values) < limits["siblings_min"]:
        return None
    return own, median(values)


def judge(
    gpus: Iterable[Gpu],
    groups: Mapping[str, Sequence[Gpu]],
    minutes: Mapping[str, Minutes],
    catalogue: Catalogue,
    *,
    at_seconds: float,
) -> Iterator[Observation]:
    """GPUs that spin, and GPUs apart from their siblings."""
    hang = catalogue.codes["gpu-hang-suspect"]
    for gpu in gpus:
        spent = minutes.get(gpu.subject, Minutes())
        busy = "working-or-spinning"
        if alone := often_enough(hang, spent, "spinning-alone", busy, at_seconds):
            yield _spinning(gpu, alone, catalogue, alone=True)
        elif together := often_enough(hang, spent, "spinning", busy, at_seconds):
            yield _spinning(gpu, together, catalogue, alone=False)
        for code, condition, words in (
            ("gpu-clock-outlier", "slower-than-siblings", "SM clock"),
            ("gpu-temperature-outlier", "hotter-than-siblings", "core temperature"),
            ("gpu-power-outlier", "weaker-than-siblings", "power"),
        ):
            row = catalogue.codes[code]
            often = often_enough(row, spent, condition, "as-busy-as-siblings", at_seconds)
            if often:
                group = groups.get(gpu.subject, ())
                yield see(row, gpu, f"{words} {_compared(gpu, group, row)} {often}")


def _spinning(gpu: Gpu, words: str, catalogue: Catalogue, *, alone: bool) -> Observation:
    code = catalogue.codes["gpu-hang-suspect" if alone else "gpu-spinning"]
    limits = catalogue.codes["gpu-hang-suspect"].limits
    others = (
        "other GPUs of the same work go on"
        if alone
        else "so do all busy GPUs of the same work, which another node may keep waiting"
    )
    return see(
        code,
        gpu,
        f"busy below {limits['power_ratio']:.0%} of its power limit, without memory or link traffic"
        f" {words}; {others}",
    )


def _compared(gpu: Gpu, group: Sequence[Gpu], code: Code) -> str:
    field, unit, divisor = {
        "gpu-clock-outlier": ("sm_clock_hertz", "MHz", 1e6),
        "gpu-temperature-outlier": ("temperature_celsius", "C", 1.0),
        "gpu-power-outlier": ("power_watts", "W", 1.0),
    }[code.code]
    own = getattr(gpu, field)
    values = [
        value for each in group if each is not gpu and (value := getattr(each, field)) is not None
    ]
    now = "not measured" if own is None else f"{own / divisor:.0f} {unit}"
    usual = f"{median(values) / divisor:.0f} {unit}" if values else "not measured"
    return f"apart from its siblings (now {now}, their median {usual})"
