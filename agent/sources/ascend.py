"""Huawei Ascend NPUs: DCMI in a child process that can be left behind, hccn_tool beside it.

DCMI calls can hang when a chip dies. So nothing in this process calls DCMI: a child does (``dcmi_child``, held by
``dcmi_process.py``) and is replaced when it does not come back. The chip whose call hung is then left alone for a
while, so that one dead chip does not hide the others.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from agent.catalogue.ascend import npu_codes
from agent.snapshot.npu import Npu
from agent.sources import (
    Emit,
    Reading,
    SourceAbsentError,
    SourceError,
    SourceFailingError,
    SourceStuckError,
)
from agent.sources import dcmi_wire as wire
from agent.sources.abandonable import Abandonable
from agent.sources.dcmi_process import ChildEndedError, DcmiChild, end_all
from agent.sources.hccn import HccnTool
from contract.vocabulary import Event

LIBRARY = "libdcmi.so"
DRIVER = "/usr/local/Ascend/driver/lib64"
FOLDERS = (f"{DRIVER}/driver", DRIVER, f"{DRIVER}/common", "/usr/local/dcmi")
"""Where the driver's installer puts the library and what it loads in its turn."""

LONGEST_BACKOFF_SECONDS = 60.0
STEADY_SECONDS = 60.0
"""A child that answers for so long has left the trouble of those before it behind."""
MOST_ABANDONED = 2
LONGEST_AVOIDANCE_SECONDS = 3600.0

RECOVERED, RAISED, ONE_OFF = 0, 1, 2
"""``assertion`` of a fault event."""


class AscendSource:
    """The Ascend NPUs of this node. One reader at a time.

    Args:
        emit: takes fault events the moment they come.
        clock: Unix time in seconds.
        random: 0..1, spreads restarts over a fleet.
        hccn_tool: path of the tool that reads the chips' network; empty: not read.
        device_file: what the kernel driver makes where there are NPUs; without it, a library that refuses is no fault.
        deadline_seconds: how long one reading may take.
        kill_after_seconds: how long a child may leave a request unanswered before it is replaced.
        absent_retry_seconds: how often to look whether a driver has come.
        backoff_seconds: pause before the first replacement; doubles up to a minute.
        avoid_seconds: how long a chip whose call hung is left alone; doubles up to an hour.
        environment: variables for child and tool, over this process's own; the folders of ``LD_LIBRARY_PATH`` are
            searched before the usual ones.
    """

    def __init__(
        self,
        *,
        emit: Emit,
        clock: Callable[[], float],
        random: Callable[[], float],
        hccn_tool: str,
        device_file: str = "/dev/davinci_manager",
        deadline_seconds: float = 0.8,
        kill_after_seconds: float = 10.0,
        absent_retry_seconds: float = 60.0,
        backoff_seconds: float = 1.0,
        avoid_seconds: float = 300.0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._emit = emit
        self._clock = clock
        self._random = random
        self._deadline_seconds = deadline_seconds
        self._kill_after_seconds = kill_after_seconds
        self._absent_retry_seconds = absent_retry_seconds
        self._backoff_seconds = backoff_seconds
        self._avoid_seconds = avoid_seconds
        self._environment = {**os.environ, **(environment or {})}
        own = [each for each in self._environment.get("LD_LIBRARY_PATH", "").split(":") if each]
        self._folders = (*own, *FOLDERS)
        self._environment["LD_LIBRARY_PATH"] = ":".join(self._folders)
        self._search = Abandonable(
            lambda: _look(self._folders, device_file),
            what=f"the search for {LIBRARY}",
            deadline_seconds=deadline_seconds,
        )
        self._hccn_path = hccn_tool
        self._hccn: HccnTool | None = None
        self._roll = wire.Roll()
        self._avoided: dict[wire.Place, tuple[float, str]] = {}
        self._hangs: dict[wire.Place, int] = {}
        self._child: DcmiChild | None = None
        self._abandoned: list[DcmiChild] = []
        self._outcome: SourceError = SourceFailingError("DCMI was not started yet")
        self._retry_at = 0.0
        self._failures = 0
        self._sequence = 0
        self._has_device_file = False
        self._closed = False

    @property
    def name(self) -> str:
        """``ascend``."""
        return "ascend"

    @property
    def child_pids(self) -> tuple[int, ...]:
        """Processes that are this source's and not known to have ended."""
        own = (self._child, *self._abandoned)
        return tuple(child.pid for child in own if child and not child.ended.done())

    async def read(self) -> Reading:
        """Ask the child; start or replace it where there is none, or none of use.

        Raises:
            SourceAbsentError: no driver, or no NPU, and none known to have been here.
            SourceFailingError: DCMI refuses, with its code, or its process died.
            SourceStuckError: no answer by the deadline, naming the call.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self._deadline_seconds
        self._reap()
        child = self._child or await self._next_child()
        if child is None:
            raise type(self._outcome)(str(self._outcome))
        if child.busy_since is not None:
            raise self._stuck(child)
        avoided = {place: why for place, (_, why) in self._avoided_now().items()}
        try:
            sample = await child.ask(until, avoided)
        except TimeoutError:
            raise self._stuck(child) from None
        except ChildEndedError:
            self._reap()
            raise type(self._outcome)(str(self._outcome)) from None
        if loop.time() - child.started_at >= STEADY_SECONDS:
            self._failures = 0
        for raw in sample.chips:
            self._hangs.pop((raw.card, raw.chip), None)
        npus = self._with_network(self._roll.call(sample.chips, avoided))
        return Reading(driver_version=sample.driver, npus=npus)

    async def close(self) -> None:
        """End every child; within a second, whatever they do."""
        self._closed = True
        self._search.abandon()
        self._outcome = SourceFailingError("the Ascend source is closed")
        left = [child for child in (self._child, *self._abandoned) if child]
        self._child = None
        self._abandoned = []
        if self._hccn is not None:
            await self._hccn.close()
        await end_all(left)

    def _with_network(self, npus: tuple[Npu, ...]) -> tuple[Npu, ...]:
        """The chips with what is known of their network; asking goes on beside the readings."""
        if not self._hccn_path:
            return npus
        if self._hccn is None:
            self._hccn = HccnTool(self._hccn_path, environment=self._environment)
        tool = self._hccn
        answering = [each for each in npus if each.physical_id is not None and each.state == "ok"]
        tool.watch(
            (each.physical_id for each in answering if each.physical_id is not None),
            net_health_of=(
                each.physical_id
                for each in answering
                if each.physical_id is not None and each.network_health is None
            ),
        )
        return tuple(_networked(each, tool) for each in npus)

    def _avoided_now(self) -> dict[wire.Place, tuple[float, str]]:
        now = asyncio.get_running_loop().time()
        self._avoided = {place: kept for place, kept in self._avoided.items() if now < kept[0]}
        return self._avoided

    def _reap(self) -> None:
        """Take note of children that have ended since."""
        self._abandoned = [child for child in self._abandoned if not child.ended.done()]
        child = self._child
        if child and child.ended.done():
            self._child = None
            if child.unavailable is None:
                self._back_off(SourceFailingError(child.last_words))
                return
            has_npus = self._has_device_file or len(self._roll) > 0
            error = wire.reason(child.unavailable, has_npus=has_npus)
            absent = isinstance(error, SourceAbsentError)
            self._back_off(error, self._absent_retry_seconds if absent else 0.0)

    def _back_off(self, outcome: SourceError, seconds: float = 0.0) -> None:
        """Say this until then: the seconds given, else longer after each failure."""
        if not seconds:
            seconds = min(self._backoff_seconds * 2**self._failures, LONGEST_BACKOFF_SECONDS)
            self._failures = min(self._failures + 1, 16)
        self._outcome = outcome
        self._retry_at = asyncio.get_running_loop().time() + seconds * (0.5 + self._random() / 2)

    def _stuck(self, child: DcmiChild) -> SourceStuckError:
        """The reason, now; a child that has been silent for too long is replaced."""
        now = asyncio.get_running_loop().time()
        silent = now - (child.busy_since or 0.0)
        function, place = child.call
        process = "the DCMI process" if child.ready else "the start of the DCMI process"
        where = f" on NPU {self._roll.index_of(place)}" if place else ""
        text = f"{function or process}{where} has not answered for {silent:.1f} s"
        if silent < self._kill_after_seconds:
            return SourceStuckError(text)
        self._child = None
        child.kill()
        self._abandoned.append(child)
        error = SourceStuckError(f"{text}; its process was told to end")
        if place is None:
            self._back_off(error)
            return error
        hung = self._hangs[place] = self._hangs.get(place, 0) + 1
        pause = min(self._avoid_seconds * 2 ** (hung - 1), LONGEST_AVOIDANCE_SECONDS)
        self._avoided[place] = (now + pause, f"{function} did not return for {silent:.0f} s")
        self._outcome, self._retry_at = error, now  # the others can be read again at once
        return error

    async def _next_child(self) -> DcmiChild | None:
        """A new child, if it is time for one."""
        if self._closed or asyncio.get_running_loop().time() < self._retry_at:
            return None
        if len(self._abandoned) >= MOST_ABANDONED:
            pids = ", ".join(str(child.pid) for child in self._abandoned)
            raise SourceStuckError(
                f"DCMI processes hang in the kernel and cannot be killed (pids {pids}); no other is started: "
                "the driver answers nobody any more, reboot the node"
            )
        library, self._has_device_file = await self._search.run()
        if not library:
            self._nothing_found()
            return None
        try:
            self._child = await DcmiChild.start(self._on_event, library, self._environment)
        except OSError as error:
            self._back_off(SourceFailingError(f"the DCMI process cannot be started: {error}"))
        if self._child and self._closed:
            self._child.kill()
            self._abandoned.append(self._child)
            self._child = None
        return self._child

    def _nothing_found(self) -> None:
        text = f"{LIBRARY} is not found: no Ascend driver is installed here"
        if len(self._roll):
            known = f"{text}, but this node has {len(self._roll)} known NPUs"
            self._back_off(SourceFailingError(known))
        else:
            self._back_off(SourceAbsentError(text), self._absent_retry_seconds)

    def _on_event(self, child: DcmiChild, happened: wire.Happened) -> None:
        """A fault that came, or came and went: raised at once. One that is over is seen by the next reading."""
        del child
        now = self._clock()
        self._sequence = max(self._sequence + 1, int(now * 1000))
        code = npu_codes().find(happened.code, severity=happened.severity)
        what = {RECOVERED: "recovered", RAISED: "raised", ONE_OFF: "happened"}
        words = f": {happened.text}" if happened.text else ""
        said = what.get(happened.assertion, f"assertion {happened.assertion}")
        self._emit(
            Event(
                id=f"dcmi:{self._sequence}",
                time_seconds=now,
                kind="npu",
                subject=f"npu:{happened.index}",
                message=f"DCMI fault {happened.code:08x} {said}{words}",
                code=happened.code,
                finding="" if happened.assertion == RECOVERED else code.code,
            )
        )


def _look(folders: tuple[str, ...], device_file: str) -> tuple[str, bool]:
    """Where the library is, empty for nowhere, and whether the kernel driver has devices.

    Looked up here, so that a node without NPUs pays for no process.
    """
    found = next((path for folder in folders if (path := Path(folder, LIBRARY)).exists()), None)
    if found is None:
        return "", False
    npu_codes()  # read where it may block, for a node that will need it
    return str(found.resolve()), Path(device_file).exists()


def _networked(npu: Npu, tool: HccnTool) -> Npu:
    if npu.physical_id is None or npu.state != "ok":
        return npu
    health = npu.network_health
    return msgspec.structs.replace(
        npu,
        network=tool.network(npu.physical_id),
        network_reason=tool.hangs(npu.physical_id),
        network_health=tool.net_health(npu.physical_id) if health is None else health,
    )
