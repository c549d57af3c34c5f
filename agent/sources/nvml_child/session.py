"""NVML, initialised, and its GPUs: opened, then sampled once per request."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from typing import TYPE_CHECKING

import pynvml as nvml

from .events import watch
from .gpu import Gpu
from .parent import Dial, Outlet

if TYPE_CHECKING:
    from queue import SimpleQueue


class Session:
    """NVML, initialised, and its GPUs."""

    def __init__(self, frames: int, dial: int) -> None:
        self._gpus: list[Gpu] = []
        self._outlet = Outlet(frames)
        self._dial = Dial(dial)
        self._driver = '""'
        """Its version, in JSON."""
        self._branch = 0

    def serve(self, asked: SimpleQueue[int]) -> None:
        """Answer requests until NVML is of no use any more."""
        try:
            self._open()
            threading.Thread(target=watch, args=(self.gpus, self._outlet), daemon=True).start()
            self._outlet.send(kind="ready")
            for tick in range(1, sys.maxsize):
                self._dial.turn("")
                request = asked.get()
                gpus = ",".join([gpu.sample(tick) for gpu in self._enumerate()])
                self._outlet.write(
                    f'{{"kind":"sample","request":{request},"driver":{self._driver},"gpus":[{gpus}]}}'
                )
        except nvml.NVMLError as error:
            self._outlet.give_up(error.value)

    def gpus(self) -> list[Gpu]:
        """Those there are; another list when their number changes."""
        return self._gpus

    def _open(self) -> None:
        self._dial.turn("nvmlInitWithFlags")
        nvml.nvmlInit()
        self._dial.turn("nvmlSystemGetDriverVersion")
        version = nvml.nvmlSystemGetDriverVersion()
        self._driver = json.dumps(version)
        branch = version.partition(".")[0]
        self._branch = int(branch) if branch.isdecimal() else sys.maxsize
        for gpu in self._enumerate():
            gpu.sample(0)

    def _enumerate(self) -> list[Gpu]:
        self._dial.turn("nvmlDeviceGetCount_v2")
        with contextlib.suppress(nvml.NVMLError_GpuIsLost):
            count = nvml.nvmlDeviceGetCount()
            if count != len(self._gpus):
                self._gpus = [Gpu(index, self._dial, self._branch) for index in range(count)]
        if not self._gpus:
            self._outlet.give_up(nvml.NVML_ERROR_GPU_NOT_FOUND)
        return self._gpus
