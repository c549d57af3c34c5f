"""How hot a GPU is: its core, its memory, and whether it is about to switch itself off."""

from collections.abc import Iterator

from agent.catalogue import Catalogue
from agent.checks import Limits, Observation
from agent.checks.gpu_basics import see
from agent.snapshot import Gpu


def check(gpu: Gpu, catalogue: Catalogue, limits: Limits) -> Iterator[Observation]:
    """Where this GPU is too hot now."""
    core = gpu.temperature_celsius
    if core is not None:
        yield from _core(gpu, core, catalogue, limits)
    memory = gpu.memory_temperature_celsius
    code = catalogue.codes["gpu-memory-too-hot"]
    if memory is not None and memory >= code.limits["celsius"]:
        limit = code.limits["celsius"]
        yield see(code, gpu, f"memory at {memory:.0f} C, limit {limit:.0f} C")


def _core(gpu: Gpu, core: float, catalogue: Catalogue, limits: Limits) -> Iterator[Observation]:
    slowdown = gpu.slowdown_temperature_celsius or limits.gpu_too_hot_celsius
    if core >= slowdown:
        yield see(
            catalogue.codes["gpu-too-hot"],
            gpu,
            f"core at {core:.0f} C, slows down at {slowdown:.0f} C",
        )
    code = catalogue.codes["gpu-near-shutdown"]
    shutdown = gpu.shutdown_temperature_celsius
    if shutdown and core >= shutdown - code.limits["margin_celsius"]:
        yield see(code, gpu, f"core at {core:.0f} C, switches itself off at {shutdown:.0f} C")
