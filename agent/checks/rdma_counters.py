"""Counters of errors: how fast they rise, and which of them have stopped. Pure.

A counter that stands at its largest value is not quiet, it is blind: that is told, and what was known of it before
stays as it was. Congestion (``np_cnp_sent``, ``port_xmit_wait`` and their like) is shown on the metrics page and never
judged: it is the workload's. What applications cause (``*_remote_access_errors`` …) is not judged either.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from agent.catalogue import Catalogue, Code
from agent.checks import Observation
from agent.checks.rdma_ports import SOURCE
from agent.checks.window import Window
from agent.snapshot import RdmaPort

SLOTS = 12
"""Samples kept of one window."""

PACKETS = "packets"


class Judged(NamedTuple):
    """How one counter is judged."""

    code: str
    most: int | None = None
    """Where it stops on adapters that show the narrow one; IBTA specification 1.3, table 247."""


COUNTERS: Mapping[str, Judged] = {
    "symbol_error": Judged("rdma-symbol-errors", 65_535),
    "link_error_recovery": Judged("rdma-link-recoveries", 255),
    "port_rcv_errors": Judged("rdma-receive-errors", 65_535),
    "port_rcv_remote_physical_errors": Judged("rdma-remote-errors", 65_535),
    "local_link_integrity_errors": Judged("rdma-link-integrity", 15),
    "excessive_buffer_overrun_errors": Judged("rdma-buffer-overruns", 15),
    "port_xmit_discards": Judged("rdma-discards", 65_535),
    "port_xmit_constraint_errors": Judged("rdma-constraint-errors", 255),
    "port_rcv_constraint_errors": Judged("rdma-constraint-errors", 255),
    "local_ack_timeout_err": Judged("rdma-ack-timeouts"),
    "roce_adp_retrans_to": Judged("rdma-ack-timeouts"),
    "packet_seq_err": Judged("rdma-packet-loss"),
    "out_of_sequence": Judged("rdma-packet-loss"),
    "implied_nak_seq_err": Judged("rdma-packet-loss"),
    "rnr_nak_retry_err": Judged("rdma-receiver-not-ready"),
    "out_of_buffer": Judged("rdma-receiver-not-ready"),
    "rx_icrc_encapsulated": Judged("rdma-corrupt-packets"),
}

_LINK_DOWNED_MOST = 255
_NARROW = {name: judged.most for name, judged in COUNTERS.items() if judged.most is not None}

_NOTES = {"rdma-remote-errors": "; another link on the way damaged and marked them"}
"""What a reader must know beside the numbers."""


class CounterMemory(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of the counters."""

    at_seconds: float = 0.0
    """Unix time of the last reading."""
    last: dict[str, dict[str, int]] = {}
    """Port subject → its counters as they were read last."""
    windows: dict[str, dict[str, Window]] = {}
    """Port subject → counter → how it rose. Only of counters that did."""
    wide: frozenset[str] = frozenset()
    """``<device> <counter>`` that was seen above the narrow maximum, so that it does not stop there."""

    def without(self, subject: str) -> "CounterMemory":
        """Without one port; the width of a counter is the adapter's and stays."""
        return msgspec.structs.replace(
            self,
            last={each: value for each, value in self.last.items() if each != subject},
            windows={each: value for each, value in self.windows.items() if each != subject},
        )


def learned_widths(ports: Sequence[RdmaPort], wide: frozenset[str]) -> frozenset[str]:
    """The known wide counters, with those that show themselves to be."""
    seen = {
        f"{port.device} {name}"
        for port in ports
        for name, most in _NARROW.items()
        if port.counters.get(name, 0) > most
    }
    seen |= {
        f"{port.device} link_downed"
        for port in ports
        if (port.link_downed_total or 0) > _LINK_DOWNED_MOST
    }
    return wide if seen <= wide else wide | seen


def link_downed_is_saturated(port: RdmaPort, wide: frozenset[str]) -> bool:
    """Whether this port's flap counter stands at the largest value it can show."""
    return port.link_downed_total == _LINK_DOWNED_MOST and f"{port.device} link_downed" not in wide


def saturated(port: RdmaPort, wide: frozenset[str]) -> dict[str, int]:
    """Counters that stand at the largest value they can show, and that value."""
    stopped = {
        name: most
        for name, most in _NARROW.items()
        if port.counters.get(name) == most and f"{port.device} {name}" not in wide
    }
    if link_downed_is_saturated(port, wide):
        stopped["link_downed"] = _LINK_DOWNED_MOST
    return stopped


def errors(
    ports: Sequence[RdmaPort],
    memory: CounterMemory,
    unsettled: frozenset[str],
    catalogue: Catalogue,
    now: float,
) -> tuple[tuple[Observation, ...], CounterMemory]:
    """What the error counters tell now, and what to remember.

    Args:
        ports: all that are judged.
        memory: so far.
        unsettled: subjects of ports whose link is down or was a moment ago.
        catalogue: of codes.
        now: Unix time of the reading.
    """
    last, windows = dict(memory.last), dict(memory.windows)
    found: list[Observation] = []
    for port in ports:
        subject = port.subject
        stopped = saturated(port, memory.wide)
        if stopped:
            found.append(_blind(port, stopped, catalogue))
        before = memory.last.get(subject, {})
        watched = _watched(port.counters)
        after = before if watched == before else {**before, **watched}
        last[subject] = after
        opened = _Reading(
            before=before,
            after=after,
            before_seconds=memory.at_seconds,
            now=now,
            stopped=stopped.keys(),
            settled=subject not in unsettled,
            catalogue=catalogue,
        ).windows(windows.pop(subject, {}))
        if opened:
            windows[subject] = opened
            found += _fast(port, opened, stopped.keys(), catalogue)
    return tuple(found), CounterMemory(at_seconds=now, last=last, windows=windows, wide=memory.wide)


def _blind(port: RdmaPort, stopped: Mapping[str, int], catalogue: Catalogue) -> Observation:
    names = ", ".join(f"{name} at {value}" for name, value in sorted(stopped.items()))
    return Observation(
        code=catalogue.codes["rdma-counter-saturated"],
        subject=port.subject,
        evidence=f"{names}: the most they can show, more errors are not seen; set them back with"
        " perfquery -R, or load the driver anew",
        source=SOURCE,
    )


def _watched(counters: Mapping[str, int]) -> dict[str, int]:
    watched = {name: counters[name] for name in COUNTERS if name in counters}
    if "port_rcv_packets" in counters and "port_xmit_packets" in counters:
        watched[PACKETS] = counters["port_rcv_packets"] + counters["port_xmit_packets"]
    return watched


class _Reading(NamedTuple):
    """One port's counters, now and at the reading before."""

    before: Mapping[str, int]
    after: Mapping[str, int]
    before_seconds: float
    now: float
    stopped: Collection[str]
    settled: bool
    catalogue: Catalogue

    def windows(self, known: Mapping[str, Window]) -> dict[str, Window]:
        """The windows after this reading; one in which nothing rises any more is dropped."""
        windows = {
            name: window
            for name in self.after
            if name != PACKETS and (window := self._window(name, known.get(name))) is not None
        }
        if windows and PACKETS in self.after:
            packets = known.get(PACKETS) or self._started(PACKETS)
            windows[PACKETS] = self._moved(PACKETS, packets)
        return windows

    def _window(self, name: str, known: Window | None) -> Window | None:
        if known is not None and name in self.stopped:
            return known  # not seeing is not good, and not bad either
        if self.now - self.before_seconds > self._span(name):
            return None  # nobody looked for so long that it is not known when it rose
        if known is None:
            rose = name in self.before and self.after[name] > self.before[name]
            if not rose or not self.settled:
                return None
            known = self._started(name)
        moved = self._moved(name, known)
        return moved if moved.rise > 0 else None

    def _started(self, name: str) -> Window:
        start = self.before.get(name, self.after[name])
        return Window(((self.before_seconds, 0.0),), start)

    def _moved(self, name: str, window: Window) -> Window:
        value = self.after[name]
        if not self.settled or (window.last is not None and value < window.last):
            # Set back, as by a driver that was loaded anew, or a link that trains: no error.
            window = msgspec.structs.replace(window, last=value)
        return window.add(self.now, value, span_seconds=self._span(name), slots=SLOTS)

    def _span(self, name: str) -> float:
        if name != PACKETS:
            return self.catalogue.codes[COUNTERS[name].code].limits["within_seconds"]
        return max(
            self.catalogue.codes[each.code].limits["within_seconds"]
            for each in COUNTERS.values()
            if "per_packet_ratio" in self.catalogue.codes[each.code].limits
        )


def _fast(
    port: RdmaPort, windows: Mapping[str, Window], stopped: Collection[str], catalogue: Catalogue
) -> Iterator[Observation]:
    """One observation for each code of which at least one counter rose too far."""
    words: dict[str, list[str]] = {}
    packets = windows[PACKETS].rise if PACKETS in windows else None
    for name, window in windows.items():
        if name != PACKETS:
            code = catalogue.codes[COUNTERS[name].code]
            words.setdefault(code.code, []).extend(
                _too_fast(name, window, packets, code, name in stopped)
            )
    for code_name, each in words.items():
        if each:
            yield Observation(
                code=catalogue.codes[code_name],
                subject=port.subject,
                evidence="; ".join(each) + _NOTES.get(code_name, ""),
                source=SOURCE,
            )


def _too_fast(
    name: str, window: Window, packets: float | None, code: Code, stopped: bool
) -> Iterator[str]:
    count, ratio = code.limits["count"], code.limits.get("per_packet_ratio")
    if window.rise < count:
        return
    words = (
        f"{name} rose by {window.rise:.0f} within {max(1.0, window.seconds / 60):.0f} min,"
        f" limit {count:g} within {code.limits['within_seconds'] / 60:g} min"
    )
    if ratio is not None:
        if not packets or window.rise < packets * ratio:
            return
        words += f", {window.rise / packets:.2g} for each packet, limit {ratio:g}"
    yield words + (", and has stopped at its largest value" if stopped else "")
