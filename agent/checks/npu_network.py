"""The RoCE side of NPUs: link, network health, optics, broken packets. Called by ``npu.py``."""

from collections.abc import Iterator, Mapping

import msgspec

from agent.catalogue import Catalogue
from agent.checks import Observation
from agent.checks.window import Window
from agent.snapshot.npu import Npu, NpuNetwork, Optics

SOURCE = "ascend"

NETWORK_HEALTH = {
    1: "its socket fails",
    2: "receive timeout",
    3: "unreachable",
    4: "time exceeded",
    5: "fault",
    7: "its thread fails",
    8: "no detection address",
}
"""DCMI's numbers that are not good."""
UNTESTED = frozenset({1, 7, 8})

BROKEN = (
    *("mac_rx_bad_pkt_num", "mac_tx_bad_pkt_num", "roce_rx_err_pkt_num", "roce_tx_err_pkt_num"),
    "roce_verification_err_num",
)
"""Not ``roce_qp_status_err_num``: ending a job does that too."""
REPEATED = ("roce_new_pkt_rty_num", "roce_out_of_order_num")


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of the NPUs' network, by subject."""

    linked: frozenset[str] = frozenset()
    """Ports ever seen up: only those can be *down*; an unwired port is not."""
    fitted: frozenset[str] = frozenset()
    """Ports whose optical module was seen."""
    windows: dict[str, Window] = {}
    """``npu:0 flaps`` → how a counter rose."""
    troubled: frozenset[str] = frozenset()
    """Those with something wrong at their last reading: while there is none, that is not over."""


def forget(memory: Memory, subject: str) -> Memory:
    """A cable that was taken out on purpose is not missing."""
    return msgspec.structs.replace(
        memory,
        linked=memory.linked - {subject},
        fitted=memory.fitted - {subject},
        troubled=memory.troubled - {subject},
    )


def check(
    npus: tuple[Npu, ...], memory: Memory, catalogue: Catalogue, now: float
) -> tuple[list[Observation], Memory, frozenset[str]]:
    """What is wrong, what to remember, and whose network cannot be judged now although it was in trouble.

    Args:
        npus: the chips that answer.
        memory: what was remembered.
        catalogue: the rows.
        now: Unix time of the snapshot.
    """
    found: list[Observation] = []
    linked, fitted, troubled = set(memory.linked), set(memory.fitted), set(memory.troubled)
    windows = dict(memory.windows)
    for npu in npus:
        found += _health(npu, catalogue)
        if npu.network_reason:
            found.append(_seen(catalogue, "npu-network-unreadable", npu, npu.network_reason))
        if npu.network is None:
            continue
        _count(npu, npu.network, windows, catalogue, now)
        mine = [
            *_link(npu, npu.network, memory.linked, catalogue),
            *_optics(npu, npu.network.optics, memory.fitted, catalogue),
            *_rises(npu, windows, catalogue),
        ]
        found += mine
        if npu.network.link_up:
            linked.add(npu.subject)
        if npu.network.optics is not None and npu.network.optics.present:
            fitted.add(npu.subject)
        (troubled.add if mine else troubled.discard)(npu.subject)
    remembered = Memory(
        linked=frozenset(linked),
        fitted=frozenset(fitted),
        windows=windows,
        troubled=frozenset(troubled),
    )
    unread = {npu.subject for npu in npus if npu.network is None}
    return found, remembered, frozenset(unread & troubled)


def risen(window: Window | None, now: float, total: int, *, span_seconds: float) -> Window:
    """A window with one more reading of a counter; one that fell was reset with its chip, and starts anew."""
    if window is None or (window.last is not None and total < window.last):
        window = Window()
    return window.add(now, total, span_seconds=span_seconds, slots=12)


def _seen(catalogue: Catalogue, code: str, npu: Npu, evidence: str) -> Observation:
    return Observation(
        code=catalogue.codes[code], subject=npu.subject, evidence=evidence, source=SOURCE
    )


def _health(npu: Npu, catalogue: Catalogue) -> Iterator[Observation]:
    words = NETWORK_HEALTH.get(npu.network_health or 0)
    if words is None or (npu.network is not None and npu.network.link_up is False):
        return  # good, not known, or explained by the link
    code = "npu-network-detection" if npu.network_health in UNTESTED else "npu-network"
    yield _seen(catalogue, code, npu, f"DCMI network health {npu.network_health} ({words})")


def _link(
    npu: Npu, network: NpuNetwork, linked: frozenset[str], catalogue: Catalogue
) -> Iterator[Observation]:
    if network.link_up is False and npu.subject in linked:
        yield _seen(catalogue, "npu-link-down", npu, "hccn_tool: link DOWN, and it was UP")


def _optics(
    npu: Npu, optics: Optics | None, fitted: frozenset[str], catalogue: Catalogue
) -> Iterator[Observation]:
    if optics is None:
        return
    if optics.present is False:
        if npu.subject in fitted:
            yield _seen(catalogue, "npu-optics-missing", npu, "hccn_tool: module not present")
        return
    margin = catalogue.codes["npu-optics-power"].limits["margin_ratio"]
    outside = [
        *_outside(
            "received",
            optics.receive_watts,
            optics.receive_low_watts,
            optics.receive_high_watts,
            margin,
        ),
        *_outside(
            "sent",
            optics.transmit_watts,
            optics.transmit_low_watts,
            optics.transmit_high_watts,
            margin,
        ),
    ]
    if outside:
        yield _seen(catalogue, "npu-optics-power", npu, "; ".join(outside))
    limit, celsius = optics.temperature_high_celsius, optics.temperature_celsius
    more = catalogue.codes["npu-optics-too-hot"].limits["margin_celsius"]
    if limit is not None and celsius is not None and celsius >= limit + more:
        evidence = f"module at {celsius:.0f} C, its threshold is {limit:.0f} C"
        yield _seen(catalogue, "npu-optics-too-hot", npu, evidence)


def _outside(
    what: str, watts: tuple[float, ...], low: float | None, high: float | None, margin: float
) -> Iterator[str]:
    for lane, power in enumerate(watts):
        if low is not None and power < low * (1 - margin):
            yield f"lane {lane}: {what} {_milliwatts(power)}, least {_milliwatts(low)}"
        elif high is not None and power > high * (1 + margin):
            yield f"lane {lane}: {what} {_milliwatts(power)}, most {_milliwatts(high)}"


def _milliwatts(watts: float) -> str:
    return f"{watts * 1000:.4f} mW"


def _count(
    npu: Npu,
    network: NpuNetwork,
    windows: dict[str, Window],
    catalogue: Catalogue,
    now: float,
) -> None:
    counters = network.counters or {}
    for name, code, total in (
        ("flaps", "npu-link-flap", network.link_ups_total),
        ("broken", "npu-roce-errors", _sum(counters, BROKEN)),
        ("repeated", "npu-roce-retries", _sum(counters, REPEATED)),
    ):
        if total is not None:
            key = f"{npu.subject} {name}"
            span = catalogue.codes[code].limits["window_seconds"]
            windows[key] = risen(windows.get(key), now, total, span_seconds=span)


def _sum(counters: Mapping[str, int], names: tuple[str, ...]) -> int | None:
    found = [counters[name] for name in names if name in counters]
    return sum(found) if found else None


def _rises(npu: Npu, windows: Mapping[str, Window], catalogue: Catalogue) -> Iterator[Observation]:
    for name, code, limit, what in (
        ("flaps", "npu-link-flap", "flaps", "link-ups"),
        ("broken", "npu-roce-errors", "errors", "broken packets"),
        ("repeated", "npu-roce-retries", "packets", "repeated or disordered packets"),
    ):
        window = windows.get(f"{npu.subject} {name}")
        limits = catalogue.codes[code].limits
        if window is not None and window.rise >= limits[limit]:
            yield _seen(
                catalogue,
                code,
                npu,
                f"{window.rise:.0f} {what} within {limits['window_seconds'] / 60:.0f} min,"
                f" limit {limits[limit]:.0f}",
            )
