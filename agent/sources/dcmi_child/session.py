"""DCMI, initialised, and its chips: found, then sampled once per request."""

from __future__ import annotations

import contextlib
import os
from ctypes import byref, c_int, create_string_buffer
from typing import TYPE_CHECKING, Any, NoReturn

from .chip import Chip
from .events import subscribe
from .library import MAX_CARDS, MAX_CHIPS_OF_CARD, TEXT_BYTES, Dcmi, DcmiError
from .parent import Dial, Outlet

if TYPE_CHECKING:
    from queue import SimpleQueue

LOOK_AGAIN = 60
"""Samples between two looks at which cards there are."""


class Session:
    """One use of the library, from load to the end of the process."""

    def __init__(self, frames: int, dial: int, library: str) -> None:
        self._outlet = Outlet(frames)
        self._dial = Dial(dial)
        self._path = library
        self._chips: dict[tuple[int, int], Chip] = {}
        self._version = ""

    def serve(self, asked: SimpleQueue[bytes]) -> NoReturn:
        """Open the library, then answer requests for ever."""
        dcmi = self._open()
        handler = None
        tick = 0
        while True:
            number, *avoided = asked.get().split()
            places = {place.decode() for place in avoided}
            if tick % LOOK_AGAIN == 0:
                self._look(dcmi, places)
            samples: list[Any] = [
                chip.sample(tick)
                for chip in list(self._chips.values())
                if f"{chip.card}:{chip.chip}" not in places
            ]
            self._dial.turn("")
            self._outlet.send(
                kind="sample", request=int(number), driver=self._version, chips=samples
            )
            tick += 1
            if handler is None:
                handler = subscribe(dcmi, self._outlet)
                self._dial.turn("")

    def _open(self) -> Dcmi:
        self._dial.turn("dlopen")
        try:
            dcmi = Dcmi(self._path, self._dial)
        except OSError as error:
            self._give_up(0, str(error))
        try:
            dcmi.call("dcmi_init")
        except DcmiError as error:
            self._give_up(error.code, "dcmi_init")
        self._version = _driver_version(dcmi)
        self._outlet.send(kind="ready")
        return dcmi

    def _look(self, dcmi: Dcmi, avoided: set[str]) -> None:
        """Find the chips there are. A card that does not answer keeps the chips it had."""
        count, cards = c_int(), (c_int * MAX_CARDS)()
        try:
            dcmi.call("dcmi_get_card_list", byref(count), cards, MAX_CARDS)
        except DcmiError as error:
            if not self._chips:
                self._give_up(error.code, "dcmi_get_card_list")
            return
        listed = list(cards[: max(min(count.value, MAX_CARDS), 0)])
        for place in [place for place in self._chips if place[0] not in listed]:
            del self._chips[place]
        for card in listed:
            held_back = any(place.startswith(f"{card}:") for place in avoided)
            for chip in range(1 if held_back else _chips_of(dcmi, card)):
                if (card, chip) not in self._chips:
                    self._chips[card, chip] = Chip(dcmi, card, chip)

    def _give_up(self, code: int, what: str) -> NoReturn:
        """Say why DCMI cannot be used, and end: a process that cannot read costs memory for nothing."""
        self._outlet.send(kind="unavailable", code=code, what=what)
        os._exit(0)


def _chips_of(dcmi: Dcmi, card: int) -> int:
    """How many chips; where the card does not say, the one that each has at least, so that it is not overlooked."""
    count = c_int()
    try:
        dcmi.call("dcmi_get_device_num_in_card", card, byref(count), card=card)
    except DcmiError:
        return 1
    return max(min(count.value, MAX_CHIPS_OF_CARD), 0)


def _driver_version(dcmi: Dcmi) -> str:
    text = create_string_buffer(TEXT_BYTES)
    with contextlib.suppress(DcmiError):
        dcmi.call("dcmi_get_driver_version", text, TEXT_BYTES)
    return text.value.decode(errors="replace").strip()
