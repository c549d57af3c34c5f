"""The NVML stand-in from Python: write a scenario, start a process on it, change it while it runs.

    scenario = Scenario(tmp_path / "scenario").set(gpus=h100_node())
    process = subprocess.Popen(agent, env={**os.environ, **scenario.env()})
    scenario.update(3, temperature_celsius=92)
    scenario.event(3, data=79)
    scenario.lose(3)

Every change replaces the file in one step, so a reader sees all of it or none of it. The process that loads NVML
must start with `env()`: the dynamic loader reads its variables once.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from tests.nvml.build import build, compiler
from tests.nvml.gpu import (
    GPM_METRICS,
    Fail,
    Gpu,
    MigDevice,
    Number,
    Process,
    RetiredPage,
    Rising,
    h100,
    h100_node,
    training,
)

__all__ = [
    "EVENT_TYPES",
    "GPM_METRICS",
    "Fail",
    "Gpu",
    "MigDevice",
    "Number",
    "Process",
    "RetiredPage",
    "Rising",
    "Scenario",
    "build",
    "compiler",
    "h100",
    "h100_node",
    "training",
]

EVENT_TYPES = frozenset(
    {
        *("xid", "single_bit_ecc", "double_bit_ecc", "pstate", "clock", "power_source"),
        *("single_bit_ecc_storm", "dram_retirement", "dram_retirement_failure"),
        *("non_fatal_poison", "fatal_poison", "gpu_unavailable", "gpu_recovery_action"),
    }
)


@dataclass
class _State:
    gpus: list[Gpu] = field(default_factory=list)
    driver_version: str = "570.124.06"
    nvml_version: str = "12.570.124.06"
    cuda_driver_version: int = 12080
    init: int | str = "success"
    count: int | None = None
    scripts: dict[str, str] = field(default_factory=dict)  # hang.* and error.*
    events: list[str] = field(default_factory=list)


class Scenario:
    """A scenario file and what it says. Each method that changes it writes the file and returns it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._state = _State()
        self._missing: set[str] = set()
        self._sequence = 0
        self._stamp_nanoseconds = 0
        self._batching = False
        self._write()

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        return tuple(self._state.gpus)

    def set(
        self,
        *,
        gpus: Sequence[Gpu] | None = None,
        driver_version: str | None = None,
        nvml_version: str | None = None,
        cuda_driver_version: int | None = None,
        init: int | str | None = None,
    ) -> Self:
        """Replaces what is given. `init` is a code or name such as "driver_not_loaded"."""
        given = {
            "gpus": None if gpus is None else list(gpus),
            "driver_version": driver_version,
            "nvml_version": nvml_version,
            "cuda_driver_version": cuda_driver_version,
            "init": init,
        }
        return self._change(**{key: value for key, value in given.items() if value is not None})

    def count(self, count: int | None) -> Self:
        """What nvmlDeviceGetCount answers from now on; None: as many as init found."""
        return self._change(count=count)

    def update(self, gpu_index: int, **changes: Any) -> Self:
        """Changes fields of one GPU; a name that `Gpu` lacks raises TypeError."""
        self._state.gpus[gpu_index] = replace(self._state.gpus[gpu_index], **changes)
        return self._write()

    def lose(self, gpu: int) -> Self:
        """It falls off the bus: every call on it answers GPU_IS_LOST; the count stays."""
        return self.update(gpu, lost=True)

    def vanish(self, gpu: int) -> Self:
        """Lost, and the next nvmlInit enumerates one GPU fewer, the later ones moved up."""
        return self.update(gpu, absent=True)

    def restore(self, gpu: int) -> Self:
        """Undoes `lose` and `vanish`."""
        return self.update(gpu, lost=False, absent=False)

    def event(
        self,
        gpu: int,
        type: str | int = "xid",  # noqa: A002 - NVML's own word
        *,
        data: int = 0,
        gpu_instance: int | None = None,
        compute_instance: int | None = None,
    ) -> int:
        """Raises one event; `data` is the Xid. Returns its sequence number."""
        if isinstance(type, str) and type not in EVENT_TYPES:
            raise ValueError(f"no event type {type!r}; one of {sorted(EVENT_TYPES)}")
        self._sequence += 1
        words = [f"gpu={gpu}", f"type={type}", f"data={data}"]
        if gpu_instance is not None:
            words += [f"gi={gpu_instance}", f"ci={compute_instance or 0}"]
        self._state.events.append(f"event.{self._sequence} = {' '.join(words)}")
        self._write()
        return self._sequence

    def hang(self, function: str, *, gpu: int | None = None, seconds: float = 3600.0) -> Self:
        """Calls of `function` ("*": of every function) block, until the time is over or `unhang`."""
        return self._script("hang", function, gpu, str(seconds))

    def unhang(self, function: str | None = None, *, gpu: int | None = None) -> Self:
        """Ends one hang, or with no argument every one."""
        return self._unscript("hang", function, gpu)

    def fail(self, function: str, code: int | str, *, gpu: int | None = None) -> Self:
        """Calls of `function` ("*": of every function) answer `code`, e.g. "reset_required"."""
        return self._script("error", function, gpu, str(code))

    def unfail(self, function: str | None = None, *, gpu: int | None = None) -> Self:
        """Ends one failure, or with no argument every one."""
        return self._unscript("error", function, gpu)

    def missing(self, *symbols: str) -> Self:
        """An older driver: `env()` names a library without these symbols. Call it before `env()`."""
        self._missing.update(symbols)
        return self

    def env(
        self, base: Mapping[str, str] | None = None, *, check_milliseconds: int = 0
    ) -> dict[str, str]:
        """The variables that make pynvml load the stand-in; builds it where needed.

        Args:
            base: where an LD_LIBRARY_PATH to keep comes from; `os.environ` when None.
            check_milliseconds: how stale a reading may be; 0 looks at the file in every call.
        """
        folder = str(build(missing=self._missing).parent)
        kept = (os.environ if base is None else base).get("LD_LIBRARY_PATH", "")
        return {
            "LD_LIBRARY_PATH": f"{folder}:{kept}" if kept else folder,
            "FLEETMEDIC_NVML_SCENARIO": str(self.path.absolute()),
            "FLEETMEDIC_NVML_CHECK_MILLISECONDS": str(check_milliseconds),
        }

    @contextmanager
    def batch(self) -> Iterator[Self]:
        """Several changes that readers see as one."""
        self._batching = True
        try:
            yield self
        finally:
            self._batching = False
            self._write()

    def _change(self, **changes: Any) -> Self:
        self._state = replace(self._state, **changes)
        return self._write()

    def _script(self, kind: str, function: str, gpu: int | None, value: str) -> Self:
        self._state.scripts[_script_key(kind, function, gpu)] = value
        return self._write()

    def _unscript(self, kind: str, function: str | None, gpu: int | None) -> Self:
        if function is not None:
            del self._state.scripts[_script_key(kind, function, gpu)]
        else:
            kept = self._state.scripts.items()
            self._state.scripts = {key: v for key, v in kept if not key.startswith(f"{kind}.")}
        return self._write()

    def _lines(self) -> Iterator[str]:
        state = self._state
        yield f"driver_version = {state.driver_version}"
        yield f"nvml_version = {state.nvml_version}"
        yield f"cuda_driver_version = {state.cuda_driver_version}"
        yield f"init = {state.init}"
        if state.count is not None:
            yield f"count = {state.count}"
        for index, gpu in enumerate(state.gpus):
            for key, value in gpu.lines():
                yield f"gpu.{index}.{key} = {value}"
        for key, value in state.scripts.items():
            yield f"{key} = {value}"
        yield from state.events

    def _write(self) -> Self:
        """Replaces the file; its modification time always moves, since readers go by that."""
        if self._batching:
            return self
        self._stamp_nanoseconds = max(time.time_ns(), self._stamp_nanoseconds + 1)
        fresh = self.path.with_name(f".{self.path.name}.new")
        fresh.write_text("\n".join(self._lines()) + "\n")
        os.utime(fresh, ns=(self._stamp_nanoseconds, self._stamp_nanoseconds))
        fresh.replace(self.path)
        return self


def _script_key(kind: str, function: str, gpu: int | None) -> str:
    return f"{kind}.{function}" if gpu is None else f"{kind}.{function}.gpu.{gpu}"
