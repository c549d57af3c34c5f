"""GPU memory: uncorrected and corrected ECC errors, rows that were remapped, pages that were retired."""

from collections.abc import Collection, Iterable, Iterator

import msgspec

from agent.catalogue import Catalogue
from agent.checks import Observation
from agent.checks.gpu_basics import see, span
from agent.checks.gpu_time import watched
from agent.checks.window import Window
from agent.snapshot import Gpu


class Errors(msgspec.Struct, frozen=True, kw_only=True):
    """The volatile counters of one GPU, over a while."""

    uncorrected: Window = Window()
    sram_uncorrected: Window = Window()
    corrected: Window = Window()


class Memory(msgspec.Struct, frozen=True):
    """What is remembered of the GPUs' memory."""

    errors: dict[str, Errors] = {}
    """By GPU."""


COUNTERS = (
    ("gpu-ecc-uncorrected", "uncorrected", "ecc_uncorrected_total", "uncorrected ECC errors"),
    (
        "gpu-ecc-sram-uncorrected",
        "sram_uncorrected",
        "ecc_sram_uncorrected_total",
        "uncorrected ECC errors in on-chip memory",
    ),
    ("gpu-ecc-corrected", "corrected", "ecc_corrected_total", "corrected ECC errors"),
)
"""Code, window in ``Errors``, field of ``Gpu``, words."""


def check(
    gpus: Iterable[Gpu],
    memory: Memory,
    catalogue: Catalogue,
    *,
    at_seconds: float,
    resets: Collection[str],
) -> tuple[list[Observation], Memory]:
    """What is wrong with the memory of these GPUs; a reset ends what was counted before it."""
    found: list[Observation] = []
    errors = dict(memory.errors)
    for gpu in gpus:
        before = Errors() if gpu.subject in resets else errors.get(gpu.subject, Errors())
        errors[gpu.subject] = after = _counted(gpu, before, catalogue, at_seconds)
        found += _rising(gpu, after, catalogue)
        found += _remapped(gpu, catalogue)
        found += _retired(gpu, catalogue)
        found += _lifetime(gpu, catalogue)
    return found, Memory(errors)


def _counted(gpu: Gpu, before: Errors, catalogue: Catalogue, at: float) -> Errors:
    changes: dict[str, Window] = {}
    for code, name, field, _ in COUNTERS:
        window: Window = getattr(before, name)
        seconds = catalogue.codes[code].limits["window_seconds"]
        after = watched(window, at, getattr(gpu, field), span_seconds=seconds)
        if after is not window:
            changes[name] = after
    return msgspec.structs.replace(before, **changes) if changes else before


def _rising(gpu: Gpu, errors: Errors, catalogue: Catalogue) -> Iterator[Observation]:
    for name, window_name, field, words in COUNTERS:
        total = getattr(gpu, field)
        rise = getattr(errors, window_name).rise
        limits = catalogue.codes[name].limits
        if total is not None and rise >= limits["errors"]:
            yield see(
                catalogue.codes[name],
                gpu,
                f"{rise:.0f} {words} in the last {span(limits['window_seconds'])}"
                f" (limit {limits['errors']:.0f}), {total} since the driver loaded",
            )


def _remapped(gpu: Gpu, catalogue: Catalogue) -> Iterator[Observation]:
    remapped = gpu.remapped_rows_uncorrected_total
    rows = "an unknown number of" if remapped is None else str(remapped)
    if gpu.remap_failed:
        yield see(
            catalogue.codes["gpu-remap-failed"],
            gpu,
            f"a row could not be replaced by a spare one; {rows} rows are remapped for uncorrected errors",
        )
    if gpu.remap_pending:
        yield see(
            catalogue.codes["gpu-remap-pending"],
            gpu,
            f"a row is replaced at the next reset; {rows} rows are remapped for uncorrected errors",
        )
    spent = catalogue.codes["gpu-remaps-spent"]
    if remapped is not None and remapped >= spent.limits["rows"]:
        yield see(
            spent,
            gpu,
            f"{remapped} rows remapped for uncorrected errors (limit {spent.limits['rows']:.0f})",
        )


def _retired(gpu: Gpu, catalogue: Catalogue) -> Iterator[Observation]:
    if gpu.retirement_pending:
        yield see(
            catalogue.codes["gpu-retirement-pending"],
            gpu,
            "a page of memory is retired when the driver loads next",
        )
    counted = (gpu.retired_pages_single_bit_total, gpu.retired_pages_double_bit_total)
    pages = sum(each for each in counted if each is not None)
    many = catalogue.codes["gpu-retired-pages"]
    if pages >= many.limits["pages"]:
        yield see(
            many,
            gpu,
            f"{pages} pages retired (limit {many.limits['pages']:.0f}): {_words(counted[0])} for"
            f" single-bit, {_words(counted[1])} for double-bit errors",
        )


def _lifetime(gpu: Gpu, catalogue: Catalogue) -> Iterator[Observation]:
    if gpu.sram_threshold_exceeded:
        yield see(
            catalogue.codes["gpu-sram-threshold"],
            gpu,
            "the driver's threshold of uncorrected errors in on-chip memory is exceeded;"
            f" {_words(gpu.ecc_sram_uncorrected_total)} since it loaded",
        )
    total = gpu.ecc_uncorrected_aggregate_total
    code = catalogue.codes["gpu-ecc-lifetime"]
    if total is not None and total > code.limits["errors"]:
        yield see(
            code,
            gpu,
            f"{total} uncorrected ECC errors in its life (limit {code.limits['errors']:.0f})",
        )


def _words(count: int | None) -> str:
    return "not measured" if count is None else str(count)


def forget(memory: Memory, subject: str) -> Memory:
    """Count anew."""
    return Memory({each: errors for each, errors in memory.errors.items() if each != subject})
