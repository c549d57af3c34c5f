"""Which GPUs were reset since the snapshot before: counters that start with the driver started again."""

from collections.abc import Iterable

from agent.snapshot import Gpu

Counters = dict[str, tuple[float | None, float | None]]
"""GPU subject → energy in joules, volatile ECC errors; as last read."""

_LEAST_JOULES = 1.0
"""Less than a counter's rounding is no restart."""


def seen(gpus: Iterable[Gpu], before: Counters) -> tuple[frozenset[str], Counters]:
    """Subjects of the GPUs that were reset, and the counters to compare with next.

    Energy decides where it is measured, since an administrator can clear the error counters by hand. A counter that
    cannot be read for once keeps its last value.
    """
    after = dict(before)
    resets = set()
    for gpu in gpus:
        energy_before, errors_before = before.get(gpu.subject, (None, None))
        energy = gpu.energy_joules_total
        errors = _errors(gpu)
        if energy is not None and energy_before is not None:
            restarted = energy < energy_before - _LEAST_JOULES
        else:
            restarted = errors is not None and errors_before is not None and errors < errors_before
        if restarted:
            resets.add(gpu.subject)
        after[gpu.subject] = (
            energy_before if energy is None else energy,
            errors_before if errors is None else errors,
        )
    return frozenset(resets), after


def _errors(gpu: Gpu) -> float | None:
    corrected, uncorrected = gpu.ecc_corrected_total, gpu.ecc_uncorrected_total
    return None if corrected is None or uncorrected is None else corrected + uncorrected
