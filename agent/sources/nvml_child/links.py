"""The NVLinks of one GPU: which field ids say how they are, on this generation and driver."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pynvml as nvml

from .values import LOST, SESSION_OVER

if TYPE_CHECKING:
    from collections.abc import Callable

    from .fields import Key
    from .parent import Dial
    from .values import Values

MOST_LINKS = 72
UNKNOWN = -1
ACTIVE = {0: False, 1: True, 2: True}
"""NVML's link states: inactive, active, asleep for want of traffic; of others nobody said yet what they mean."""


def _scoped(number: int) -> Callable[[int], tuple[Key, ...]]:
    return lambda link: ((number, link),)


def _numbered(*firsts: tuple[int, int]) -> Callable[[int], tuple[Key, ...]]:
    """Ids for each of the first twelve links: those from link 0 on, and those from link 6 on."""
    return lambda link: tuple(
        (zeroth + link if link < 6 else sixth + link - 6, 0)
        for zeroth, sixth in firsts
        if link < 12
    )


WAYS: dict[str, tuple[Callable[[int], tuple[Key, ...]], ...]] = {
    "active": (_scoped(165),),
    "replays_total": (_scoped(161), _numbered((46, 108))),
    "recoveries_total": (_scoped(162), _scoped(215), _numbered((53, 114))),
    "crc_errors_total": (_scoped(163), _numbered((32, 96), (39, 102))),
}
"""What is said of a link, and the ways to ask, the preferred one first. 161 to 163 are not there on Blackwell, which has
215 instead, nor with old drivers, which have an id for each link."""
COUNTERS = tuple(name for name in WAYS if name != "active")


class Links:
    """Asked with the other fields of the GPU; a way that no link answers gives place to the next one."""

    def __init__(self) -> None:
        self.found: list[Values] = []
        """The links that answered last time, in JSON's words."""
        self.keys: list[Key] = []
        self.unfinished = False
        """Whether there is something to ask that was not known of when the last batch was made."""
        self._count = 0
        self._ways = dict.fromkeys(WAYS, 0)
        self._plan()

    def start_again(self) -> None:
        """Try every way once more to what no way has told."""
        for name in WAYS:
            if all(link[name] is None for link in self.found):
                self._ways[name] = 0
        self._plan()

    def _plan(self) -> None:
        self._owners: dict[Key, tuple[int, str]] = {
            key: (link, name)
            for name, at in self._ways.items()
            for link in range(self._count)
            for key in (WAYS[name][at](link) if at < len(WAYS[name]) else ())
        }
        self.keys = list(self._owners)
        self._said: dict[str, dict[int, Any]] = {name: {} for name in WAYS}

    def take(self, key: Key, value: Any, refused: bool) -> None:
        """One answer; ``refused``: this link, or this GPU, does not have it."""
        link, name = self._owners[key]
        if refused:
            return
        said = self._said[name]
        said[link] = value if said.get(link) is None else said[link] + (value or 0)

    def finish(self, handle: Any, index: int, dial: Dial, count: int | None) -> None:
        """All answers of this batch are in; ``count``: how many links NVML has places for."""
        said, self._said = self._said, {name: {} for name in WAYS}
        self.unfinished = False
        count = self._count if count is None else min(count, MOST_LINKS)
        if count != self._count:
            self._count, self.found = count, []
            self._plan()
            self.unfinished = count > 0
            return
        silent = [
            name for name, ways in WAYS.items() if self._ways[name] < len(ways) and not said[name]
        ]
        if count and self._ways["active"] >= len(WAYS["active"]):
            said["active"] = self._states(handle, index, dial)
        self.found = [
            {
                "link": link,
                "active": ACTIVE.get(said["active"].get(link, UNKNOWN)),
                **{name: said[name].get(link) for name in COUNTERS},
            }
            for link in range(count)
            if any(link in each for each in said.values())
        ]
        if count and silent:
            for name in silent:
                self._ways[name] += 1
            self._plan()
            self.unfinished = True

    def _states(self, handle: Any, index: int, dial: Dial) -> dict[int, Any]:
        """By a call for each link, with drivers that have no field for it."""
        states: dict[int, Any] = {}
        dial.turn("nvmlDeviceGetNvLinkState", index)
        for link in range(self._count):
            try:
                states[link] = nvml.nvmlDeviceGetNvLinkState(handle, link)
            except nvml.NVMLError as error:
                if error.value in LOST or error.value in SESSION_OVER:
                    raise
        return states
