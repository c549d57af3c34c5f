"""GPU checks: everything that NVML's readings, the PCI bus and the memory of earlier ones say is wrong.

What is judged by one reading stands in ``gpu_heat``, ``gpu_presence``, ``gpu_fabric``, ``gpu_settings`` and
``gpu_driver``; what is judged by counters, in ``gpu_memory`` and ``gpu_links``; what is judged by time spent, in ``gpu_clocks`` and ``gpu_load``.
"""

from collections.abc import Mapping, Sequence

import msgspec

from agent.catalogue import Catalogue
from agent.checks import (
    Checked,
    Context,
    Observation,
    gpu_clocks,
    gpu_driver,
    gpu_fabric,
    gpu_heat,
    gpu_links,
    gpu_load,
    gpu_memory,
    gpu_presence,
    gpu_resets,
    gpu_settings,
    source_is_ok,
)
from agent.checks.gpu_basics import SOURCE, company, longest_window_seconds, siblings
from agent.checks.gpu_time import Minutes, Pace
from agent.snapshot import Gpu, Snapshot

_TIMED = (*gpu_clocks.CODES, *gpu_load.CODES, *gpu_links.CODES)


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of the GPUs; all mappings are by GPU subject."""

    pace: Pace = Pace()
    presence: gpu_presence.Memory = gpu_presence.Memory()
    counters: gpu_resets.Counters = {}
    errors: gpu_memory.Memory = gpu_memory.Memory()
    links: gpu_links.Memory = gpu_links.Memory()
    fabric: gpu_fabric.Memory = gpu_fabric.Memory()
    held: dict[str, gpu_clocks.Held] = {}
    minutes: dict[str, Minutes] = {}
    settings: gpu_settings.Memory = gpu_settings.Memory()


def check(snapshot: Snapshot, memory: Memory, context: Context) -> Checked[Memory]:
    """Everything wrong with this node's GPUs now."""
    catalogue = context.catalogue
    if not source_is_ok(snapshot, SOURCE):
        return Checked(observations=tuple(gpu_driver.check(snapshot, catalogue)), memory=memory)
    at = snapshot.taken_seconds
    pace, seconds = memory.pace.step(at)
    gpus = [gpu for gpu in snapshot.gpus if not gpu.lost]
    groups = siblings(gpus)
    pci = snapshot.pci_devices if source_is_ok(snapshot, "pci") else ()
    resets, counters = gpu_resets.seen(gpus, memory.counters)

    found = _of_each(snapshot.gpus, context)
    more, presence = gpu_presence.missing(snapshot, memory.presence, catalogue, context.limits)
    found += [*more, *gpu_presence.unlisted(snapshot.gpus, pci, catalogue)]
    more, errors = gpu_memory.check(gpus, memory.errors, catalogue, at_seconds=at, resets=resets)
    found += more
    more, links = gpu_links.check(
        gpus,
        groups,
        memory.links,
        catalogue,
        at_seconds=at,
        gap=not seconds,
        resets=resets,
    )
    found += more
    more, fabric = gpu_fabric.check(gpus, pci, memory.fabric, catalogue)
    found += more
    more, settings = gpu_settings.check(snapshot, gpus, memory.settings, catalogue)
    found += more
    held = {
        gpu.subject: gpu_clocks.counted(
            gpu,
            memory.held.get(gpu.subject, gpu_clocks.Held()),
            catalogue,
            at_seconds=at,
            gap=not seconds,
        )
        for gpu in gpus
    }
    together = company(gpus, snapshot.pods)
    minutes = _minutes(gpus, groups, together, memory.minutes, catalogue, at=at, seconds=seconds)
    for gpu in gpus:
        spent = minutes[gpu.subject]
        found += gpu_clocks.judge(gpu, spent, held[gpu.subject], catalogue, at_seconds=at)
        found += gpu_links.judge(gpu, spent, catalogue, at_seconds=at)
    found += gpu_load.judge(gpus, groups, minutes, catalogue, at_seconds=at)
    return Checked(
        observations=tuple(found),
        memory=Memory(
            pace=pace,
            presence=presence,
            counters=counters,
            errors=errors,
            links=links,
            fabric=fabric,
            held=held,
            minutes=minutes,
            settings=settings,
        ),
        resets=resets,
    )


def forget(memory: Memory, subject: str) -> Memory:
    """A person said that this is over: what was counted is counted anew, and what was learned is learned anew."""
    return msgspec.structs.replace(
        memory,
        presence=gpu_presence.forget(memory.presence, subject),
        errors=gpu_memory.forget(memory.errors, subject),
        links=gpu_links.forget(memory.links, subject),
        fabric=gpu_fabric.forget(memory.fabric, subject),
        held={each: held for each, held in memory.held.items() if each != subject},
        minutes={each: spent for each, spent in memory.minutes.items() if each != subject},
        settings=gpu_settings.forget(memory.settings, subject),
    )


def _of_each(gpus: Sequence[Gpu], context: Context) -> list[Observation]:
    found: list[Observation] = []
    for gpu in gpus:
        if gpu.lost:
            found.append(gpu_presence.lost(gpu, context.catalogue))
        else:
            found += gpu_heat.check(gpu, context.catalogue, context.limits)
            found += gpu_presence.of_one(gpu, context.catalogue)
    return found


def _minutes(
    gpus: Sequence[Gpu],
    groups: Mapping[str, Sequence[Gpu]],
    together: Mapping[str, Sequence[Gpu]],
    before: Mapping[str, Minutes],
    catalogue: Catalogue,
    *,
    at: float,
    seconds: float,
) -> dict[str, Minutes]:
    keep = longest_window_seconds(catalogue, _TIMED) + 60
    after = {}
    for gpu in gpus:
        held = (
            *gpu_clocks.conditions(gpu, catalogue),
            *gpu_load.conditions(
                gpu, groups.get(gpu.subject, ()), together.get(gpu.subject, ()), catalogue
            ),
            *gpu_links.conditions(gpu, catalogue),
        )
        spent = before.get(gpu.subject, Minutes())
        after[gpu.subject] = spent.add(at, seconds, held, keep_seconds=keep)
    return after
