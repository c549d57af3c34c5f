"""The process that touches NVML, so that a call that hangs for minutes hangs nobody else.

Started by ``agent.sources.nvidia`` as ``python -I -S nvml_child.py PARENT_PID DIAL_FD LIBRARY_FOLDER``. It imports
nothing of ours and no more than it must: its memory counts as the agent's.

- stdin: a request number per line; end of file means "end now", also while a call hangs.
- stdout: one JSON object per line; ``kind`` is ``ready``, ``sample``, ``event`` or ``unavailable``. Numbers are raw,
  in NVML's own units, which their names tell; ``agent.sources.nvml_wire`` makes them ours.
- the dial: a page shared with the parent in which the sampler writes the call it is about to make, so that the
  parent can name a call that hangs without asking anybody.

Three threads: the main one only reads stdin, one samples, one waits for events. None waits for another.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import mmap
import os
import signal
import sys
import threading
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

DIAL_BYTES = 64
"""Byte 0: GPU index + 1, or 0; the rest: the name of the function, blank when none runs."""
PR_SET_PDEATHSIG = 1
SLOW = 10
"""Samples between two readings of what changes slowly or costs the driver much; of a GPU without a handle, too."""
RARELY = 300
"""Samples until a value that a GPU does not support is asked for again."""
EVENT_WAIT_MILLISECONDS = 5000
EVENT_KINDS = {0x8: "xid", 0x2: "double-bit-ecc"}
LONGEST_EVENT_PAUSE_SECONDS = 60.0

INVALID_ARGUMENT, TIMEOUT = 2, 10
UNSUPPORTED = frozenset({3, 13, 25, 26})
"""NOT_SUPPORTED, FUNCTION_NOT_FOUND, ARGUMENT_VERSION_MISMATCH, DEPRECATED."""
LOST = frozenset({15, 16})
"""GPU_IS_LOST, RESET_REQUIRED."""
NO_HANDLE = LOST | {6, 28}
"""NOT_FOUND and GPU_NOT_FOUND say that a GPU is gone only where its handle is asked for."""
SESSION_OVER = frozenset({1, 9, 18})
"""UNINITIALIZED, DRIVER_NOT_LOADED, LIB_RM_VERSION_MISMATCH: no GPU will answer this process any more."""

FIELDS = {
    3: "ecc_corrected",
    4: "ecc_uncorrected",
    82: "memory_temperature_celsius",
    83: "energy_millijoules",
    230: "recovery_action",
}
VALUE_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
"""Member of a field value's union, by NVML's value type."""

FACTS = (
    ("uuid", "nvmlDeviceGetUUID", ()),
    ("bus", "nvmlDeviceGetPciInfo_v3", ()),
    ("model", "nvmlDeviceGetName", ()),
    ("serial", "nvmlDeviceGetSerial", ()),
    ("shutdown_temperature_celsius", "nvmlDeviceGetTemperatureThreshold", (0,)),
    ("slowdown_temperature_celsius", "nvmlDeviceGetTemperatureThreshold", (1,)),
)
"""What stays as it is while a GPU stays: name, function, arguments after the handle."""

READINGS: tuple[tuple[int, str, tuple[tuple[Any, ...], ...]], ...] = (
    (1, "temperature_celsius", (("nvmlDeviceGetTemperatureV", 0), ("nvmlDeviceGetTemperature", 0))),
    (1, "utilization", (("nvmlDeviceGetUtilizationRates",),)),
    (1, "memory", (("nvmlDeviceGetMemoryInfo", 0x02000028), ("nvmlDeviceGetMemoryInfo",))),
    (1, "power_milliwatts", (("nvmlDeviceGetPowerUsage",),)),
    (1, "sm_clock_megahertz", (("nvmlDeviceGetClockInfo", 1),)),
    (
        1,
        "clocks_event_reasons",
        (
            ("nvmlDeviceGetCurrentClocksEventReasons",),
            ("nvmlDeviceGetCurrentClocksThrottleReasons",),
        ),
    ),
    (
        SLOW,
        "power_limit_milliwatts",
        (("nvmlDeviceGetEnforcedPowerLimit",), ("nvmlDeviceGetPowerManagementLimit",)),
    ),
    (
        SLOW,
        "processes",
        (
            ("nvmlDeviceGetComputeRunningProcesses_v3",),
            ("nvmlDeviceGetComputeRunningProcesses_v2",),
        ),
    ),
)
"""What changes: every how many samples, name, and the calls that answer it, the preferred one first."""

nvml: ModuleType
"""pynvml, imported by ``main`` from the folder that the parent names."""

Values = dict[str, Any]

UNPACK: dict[str, Callable[[Any], Values]] = {
    "utilization": lambda rates: {
        "utilization_percent": rates.gpu,
        "memory_utilization_percent": rates.memory,
    },
    "memory": lambda info: {"memory_used_bytes": info.used, "memory_total_bytes": info.total},
    "processes": lambda processes: {"process_count": len(processes)},
}
"""Readings that are more than one number."""


class Dial:
    """Where the sampler says which call it is making."""

    def __init__(self, descriptor: int) -> None:
        self._page = mmap.mmap(descriptor, DIAL_BYTES)
        self._names: dict[str, bytes] = {}

    def turn(self, function: str, gpu: int = -1) -> None:
        """Say that this function is about to be called; an empty name says that none is."""
        name = self._names.get(function)
        if name is None:
            padded = function.encode().ljust(DIAL_BYTES - 1)
            name = self._names[function] = padded[: DIAL_BYTES - 1]
        self._page[0] = gpu + 1
        self._page[1:DIAL_BYTES] = name


class Outlet:
    """Frames to the parent, whole, from any thread."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def send(self, **frame: Any) -> None:
        """Write one line."""
        line = memoryview(json.dumps(frame, separators=(",", ":")).encode() + b"\n")
        with self._lock:
            while line:
                line = line[os.write(self._descriptor, line) :]

    def give_up(self, code: int) -> NoReturn:
        """Say why NVML cannot be used, and end: a process that cannot read costs memory for nothing."""
        prefix = "NVML_ERROR_"
        names = (name for name in dir(nvml) if name.startswith(prefix))
        name = next((name for name in names if getattr(nvml, name) == code), f"{prefix}{code}")
        self.send(kind="unavailable", code=name.removeprefix(prefix))
        os._exit(0)


class Value:
    """One reading of one GPU: asked when due, by the first call that this GPU knows."""

    __slots__ = ("_at", "_calls", "_due", "_every", "_last", "_unpack")

    def __init__(
        self, every: int, calls: tuple[tuple[Any, ...], ...], unpack: Callable[[Any], Values]
    ) -> None:
        self._every = every
        self._calls = [(name, getattr(nvml, name), arguments) for name, *arguments in calls]
        self._unpack = unpack
        self._at = self._due = 0
        self._last: Values = {}

    def read(self, gpu: Gpu, tick: int, dial: Dial) -> Values:
        """The reading, or nothing where the GPU does not support it; then it is not asked for a while."""
        if tick < self._due:
            return self._last
        self._last = {}
        for name, call, arguments in self._calls[self._at :]:
            dial.turn(name, gpu.index)
            try:
                self._last = self._unpack(call(gpu.handle, *arguments))
            except nvml.NVMLError as error:
                if error.value not in UNSUPPORTED:
                    raise
                self._at += 1
            else:
                # Not every GPU's slow readings in the same sample.
                self._due = tick + self._every - (tick - gpu.index) % self._every
                return self._last
        self._at, self._due = 0, tick + RARELY
        return self._last


class Fields:
    """Many values by one call. Ids that a GPU does not know are left out of the next batches."""

    def __init__(self) -> None:
        self.ids = list(FIELDS)
        self._batches = 0

    def unpack(self, batch: Any) -> Values:
        """Each value has a return code of its own."""
        values: Values = {}
        for field in batch:
            code = field.nvmlReturn
            if code == 0:
                values[FIELDS[field.fieldId]] = getattr(field.value, VALUE_MEMBERS[field.valueType])
            elif code in LOST:
                raise nvml.NVMLError(code)
            elif code in UNSUPPORTED or code == INVALID_ARGUMENT:
                self.ids.remove(field.fieldId)
        self._batches += 1
        if self._batches % RARELY == 0:
            self.ids[:] = FIELDS
        return values


class Gpu:
    """One place in NVML's enumeration."""

    def __init__(self, index: int, dial: Dial) -> None:
        self.index = index
        self.handle: Any = None
        self.lost = False
        self.meetings = 0
        self.facts: Values = {}
        self._dial = dial
        self._retry = 0
        self._values: list[Value] = []

    def sample(self, tick: int) -> Values:
        """Facts and readings; of a GPU out of reach its facts, as far as they are known, and that it is lost."""
        try:
            if (self.handle is None or self.lost) and not self._meet(tick):
                return {"index": self.index, "lost": self.lost, **self.facts}
            return {"index": self.index, **self.facts, **self._read(tick)}
        except nvml.NVMLError as error:
            if error.value in SESSION_OVER:
                raise
            self.lost = error.value in (NO_HANDLE if self.handle is None else LOST)
            return {"index": self.index, "lost": self.lost, **self.facts}

    def _meet(self, tick: int) -> bool:
        """Take the handle and read the facts; without a handle only now and then, for that can cost seconds."""
        if self.handle is None:
            if tick < self._retry:
                return False
            self._retry = tick + SLOW
            self._dial.turn("nvmlDeviceGetHandleByIndex_v2", self.index)
            self.handle = nvml.nvmlDeviceGetHandleByIndex(self.index)
        facts: Values = {}
        for name, function, arguments in FACTS:
            self._dial.turn(function, self.index)
            try:
                facts[name] = getattr(nvml, function)(self.handle, *arguments)
            except nvml.NVMLError as error:
                if error.value in LOST or error.value in SESSION_OVER:
                    self.facts = self.facts or _plain(facts)
                    raise
        self.facts, self.lost, self.meetings = _plain(facts), False, self.meetings + 1
        fields = Fields()
        self._values = [Value(1, (("nvmlDeviceGetFieldValues", fields.ids),), fields.unpack)]
        for every, name, calls in READINGS:
            self._values.append(Value(every, calls, UNPACK.get(name, _one(name))))
        return True

    def _read(self, tick: int) -> Values:
        values: Values = {}
        for value in self._values:
            try:
                values.update(value.read(self, tick, self._dial))
            except nvml.NVMLError as error:
                if error.value in LOST or error.value in SESSION_OVER:
                    raise
        return values


def _one(name: str) -> Callable[[Any], Values]:
    return lambda number: {name: number}


def _plain(facts: Values) -> Values:
    if "bus" in facts:
        facts["bus"] = facts["bus"].busId
    return facts


class Session:
    """NVML, initialised, and its GPUs."""

    def __init__(self, outlet: Outlet, dial: Dial) -> None:
        self.gpus: list[Gpu] = []
        self._outlet = outlet
        self._dial = dial
        self._driver = ""

    def serve(self, asked: SimpleQueue[int]) -> None:
        """Answer requests until NVML is of no use any more."""
        try:
            self._open()
            threading.Thread(target=watch, args=(self, self._outlet), daemon=True).start()
            self._outlet.send(kind="ready")
            for tick in range(sys.maxsize):
                self._dial.turn("")
                request = asked.get()
                gpus = [gpu.sample(tick) for gpu in self._enumerate()]
                self._outlet.send(kind="sample", request=request, driver=self._driver, gpus=gpus)
        except nvml.NVMLError as error:
            self._outlet.give_up(error.value)

    def met(self) -> list[tuple[Gpu, int]]:
        """Which GPUs there are, and how often each was met: changes when events must be asked for anew."""
        return [(gpu, gpu.meetings) for gpu in self.gpus]

    def _open(self) -> None:
        self._dial.turn("nvmlInitWithFlags")
        nvml.nvmlInit()
        self._dial.turn("nvmlSystemGetDriverVersion")
        self._driver = nvml.nvmlSystemGetDriverVersion()
        for gpu in self._enumerate():
            gpu.sample(0)

    def _enumerate(self) -> list[Gpu]:
        self._dial.turn("nvmlDeviceGetCount_v2")
        with contextlib.suppress(nvml.NVMLError_GpuIsLost):
            count = nvml.nvmlDeviceGetCount()
            if count != len(self.gpus):
                self.gpus = [Gpu(index, self._dial) for index in range(count)]
        if not self.gpus:
            self._outlet.give_up(nvml.NVML_ERROR_GPU_NOT_FOUND)
        return self.gpus


def watch(session: Session, outlet: Outlet) -> None:
    """Push events as they come, for ever. Where NVML refuses, wait longer each time: the kernel log has them too."""
    pause = 1.0
    while True:
        with contextlib.suppress(nvml.NVMLError):
            if _watch_until_changed(session, outlet):
                pause = 1.0
                continue
        time.sleep(pause)
        pause = min(pause * 2, LONGEST_EVENT_PAUSE_SECONDS)


def _watch_until_changed(session: Session, outlet: Outlet) -> bool:
    """Wait for events of the GPUs there are, until there are others; false if none of them has events."""
    met = session.met()
    events = nvml.nvmlEventSetCreate()
    try:
        buses = _register(session.gpus, events)
        while buses and session.met() == met:
            try:
                event = nvml.nvmlEventSetWait_v2(events, EVENT_WAIT_MILLISECONDS)
            except nvml.NVMLError_Timeout:
                continue
            outlet.send(
                kind="event",
                event=EVENT_KINDS.get(event.eventType, "other"),
                bus=buses.get(_address(event.device), ""),
                data=event.eventData,
                gpu_instance=event.gpuInstanceId,
            )
        return bool(buses)
    finally:
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlEventSetFree(events)


def _register(gpus: list[Gpu], events: Any) -> dict[int, str]:
    """Bus id of each GPU that now reports to this set, by the address that stands for it in events."""
    buses: dict[int, str] = {}
    for gpu in gpus:
        with contextlib.suppress(nvml.NVMLError):
            wanted = nvml.nvmlDeviceGetSupportedEventTypes(gpu.handle) & sum(EVENT_KINDS)
            if not wanted:
                continue
            nvml.nvmlDeviceRegisterEvents(gpu.handle, wanted, events)
            buses[_address(gpu.handle)] = gpu.facts.get("bus", "")
    return buses


def _address(handle: Any) -> int:
    return ctypes.cast(handle, ctypes.c_void_p).value or 0


def _end_on_error(caught: threading.ExceptHookArgs) -> None:
    threading.__excepthook__(caught)
    sys.stderr.flush()
    os._exit(70)


def _spare_ctypes_util() -> None:
    """Spare us ``ctypes.util``: pynvml imports it, on Linux never uses it, and pays 2 MiB."""

    def find_library(name: str) -> str | None:
        del sys.modules["ctypes.util"]
        found: str | None = importlib.import_module("ctypes.util").find_library(name)
        return found

    lean = type(sys)("ctypes.util")
    vars(lean)["find_library"] = find_library
    sys.modules["ctypes.util"] = lean


def main(parent: int, dial: int, library_folder: str) -> NoReturn:
    """Start the threads and read requests until there is nobody left to answer."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's goes to the parent too: it decides
    if os.getppid() != parent:
        os._exit(0)
    frames = os.dup(1)
    os.dup2(2, 1)  # a library that prints must not break a frame
    sys.path.append(library_folder)
    _spare_ctypes_util()
    global nvml
    nvml = importlib.import_module("pynvml")
    threading.excepthook = _end_on_error
    asked: SimpleQueue[int] = SimpleQueue()
    session = Session(Outlet(frames), Dial(dial))
    threading.Thread(target=session.serve, args=(asked,), daemon=True).start()
    while requests := os.read(0, 4096):
        for request in requests.split():
            asked.put(int(request))
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
