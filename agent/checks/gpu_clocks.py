"""Clocks that are held down: by heat, by the power brake, or by nothing that anybody can name.

A power cap in software is how a busy GPU runs, so it is never a fault.
"""

from collections.abc import Iterator

import msgspec

from agent.catalogue import Catalogue, Code
from agent.checks import Observation
from agent.checks.gpu_basics import (
    EXPLAINED_CLOCKS,
    HARDWARE_SLOWDOWN,
    HARDWARE_THERMAL,
    POWER_BRAKE,
    SOFTWARE_THERMAL,
    often_enough,
    see,
    span,
)
from agent.checks.gpu_time import Minutes, watched
from agent.checks.window import Window
from agent.snapshot import Gpu

CODES = (
    "gpu-hardware-slowdown",
    "gpu-power-brake",
    "gpu-software-slowdown",
    "gpu-clock-stuck",
)

_ANY_SLOWDOWN = HARDWARE_SLOWDOWN | SOFTWARE_THERMAL | HARDWARE_THERMAL | POWER_BRAKE
_MOST_PLAUSIBLE = 1.2
"""A counter that runs faster than the clock is in another unit than we believe."""


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """The driver's own counters of seconds held down, over a while."""

    hardware: Window = Window()
    power_brake: Window = Window()
    thermal: Window = Window()


COUNTERS = (
    ("gpu-hardware-slowdown", "hardware", "hardware_slowdown_seconds_total"),
    ("gpu-power-brake", "power_brake", "power_brake_seconds_total"),
    ("gpu-software-slowdown", "thermal", "thermal_violation_seconds_total"),
)
"""Code, window in ``Held``, field of ``Gpu``."""


def conditions(gpu: Gpu, catalogue: Catalogue) -> Iterator[str]:
    """What holds at this look."""
    reasons = gpu.clocks_event_reasons
    if reasons is None:
        return
    if reasons & POWER_BRAKE:
        yield "power-brake"
    elif reasons & (HARDWARE_SLOWDOWN | HARDWARE_THERMAL):
        yield "hardware-slowdown"
    elif reasons & SOFTWARE_THERMAL:
        yield "software-slowdown"
    limits = catalogue.codes["gpu-clock-stuck"].limits
    if gpu.utilization_ratio is None or gpu.sm_clock_hertz is None or not gpu.sm_clock_max_hertz:
        return
    if gpu.utilization_ratio >= limits["busy_utilization_ratio"]:
        yield "clock-busy"
        low = gpu.sm_clock_hertz < limits["clock_ratio"] * gpu.sm_clock_max_hertz
        if low and not reasons & (EXPLAINED_CLOCKS | _ANY_SLOWDOWN):
            yield "clock-low"


def counted(gpu: Gpu, held: Held, catalogue: Catalogue, *, at_seconds: float, gap: bool) -> Held:
    """The counters with this look's readings."""
    changes: dict[str, Window] = {}
    for code, name, field in COUNTERS:
        window: Window = getattr(held, name)
        seconds = catalogue.codes[code].limits["window_seconds"]
        after = watched(window, at_seconds, getattr(gpu, field), span_seconds=seconds, gap=gap)
        if after is not window:
            changes[name] = after
    return msgspec.structs.replace(held, **changes) if changes else held


def judge(
    gpu: Gpu, minutes: Minutes, held: Held, catalogue: Catalogue, *, at_seconds: float
) -> Iterator[Observation]:
    """Whose clocks were held down too long."""
    codes = catalogue.codes
    brake = _share(codes["gpu-power-brake"], minutes, "power-brake", at_seconds)
    brake = max(brake, _counter_share(codes["gpu-power-brake"], held.power_brake.rise))
    hardware = _share(codes["gpu-hardware-slowdown"], minutes, "hardware-slowdown", at_seconds)
    # The driver's counter of hardware slowdown also runs under the power brake.
    if not brake or gpu.power_brake_seconds_total is not None:
        rise = held.hardware.rise - held.power_brake.rise
        hardware = max(hardware, _counter_share(codes["gpu-hardware-slowdown"], rise))
    software = _share(codes["gpu-software-slowdown"], minutes, "software-slowdown", at_seconds)
    software = max(software, _counter_share(codes["gpu-software-slowdown"], held.thermal.rise))
    where = _where(gpu)
    seen: list[Observation] = []
    for code, share, words in (
        ("gpu-power-brake", brake, "slowed down by the power brake"),
        ("gpu-hardware-slowdown", hardware, "slowed down by its hardware"),
        ("gpu-software-slowdown", software, "slowed down by the driver against heat"),
    ):
        limits = codes[code].limits
        if share >= limits["share_ratio"] and not (code == "gpu-software-slowdown" and seen):
            window = span(limits["window_seconds"])
            evidence = f"{words} for {share:.0%} of the last {window} (limit {limits['share_ratio']:.0%}){where}"
            seen.append(see(codes[code], gpu, evidence))
    yield from seen
    yield from _stuck(gpu, minutes, codes["gpu-clock-stuck"], at_seconds)


def _stuck(gpu: Gpu, minutes: Minutes, code: Code, at: float) -> Iterator[Observation]:
    words = often_enough(code, minutes, "clock-low", "clock-busy", at)
    if words and gpu.sm_clock_hertz is not None and gpu.sm_clock_max_hertz is not None:
        yield see(
            code,
            gpu,
            f"SM clock below {code.limits['clock_ratio']:.0%} of {gpu.sm_clock_max_hertz / 1e6:.0f} MHz"
            f" with no reason given {words}; now {gpu.sm_clock_hertz / 1e6:.0f} MHz",
        )


def _share(code: Code, minutes: Minutes, condition: str, at: float) -> float:
    window = code.limits["window_seconds"]
    return min(minutes.seconds(condition, window, at) / window, 1.0)


def _counter_share(code: Code, seconds: float) -> float:
    share = seconds / code.limits["window_seconds"]
    return min(share, 1.0) if share <= _MOST_PLAUSIBLE else 0.0


def _where(gpu: Gpu) -> str:
    parts = []
    if gpu.temperature_celsius is not None:
        parts.append(f"core at {gpu.temperature_celsius:.0f} C")
    if gpu.power_watts is not None:
        parts.append(f"{gpu.power_watts:.0f} W")
    return f"; now {', '.join(parts)}" if parts else ""
