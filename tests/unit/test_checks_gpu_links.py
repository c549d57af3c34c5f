"""GPU checks of links: PCIe replays, NVLinks against siblings, the fabric, and what the bus itself reports."""

from typing import Any

import msgspec
import pytest

from agent.catalogue.load import shipped
from agent.checks import Checked, Context
from agent.checks import pci as pci_checks
from agent.checks.gpu import Memory
from agent.snapshot import Gpu, NvLink, PciDevice, Snapshot
from contract.vocabulary import Domain, Severity, SourceState
from tests.examples.gpu import BUSY, EXAMPLES, IDLE, LINKS, aer, eight, nvlinks, on_the_bus, pci
from tests.support import gpu, snapshot, source
from tests.unit.test_checks_gpu_presence import after, judge

INACTIVE = tuple(NvLink(link=link, active=False) for link in range(18))


def codes(*shots: Snapshot) -> set[tuple[str, str]]:
    return {(each.code.code, each.subject) for each in after(list(shots)).observations}


def node(at: float = 0.0, *, base: dict[str, Any] = IDLE, **first: Any) -> Snapshot:
    return snapshot(at, gpus=eight(base, **first))


@pytest.mark.parametrize(("replays", "bad"), [(79, False), (81, True)])
def test_pcie_replays_count_by_their_rate(replays: int, bad: bool) -> None:
    shots = [node(tick * 10.0, pcie_replays_total=replays * tick // 60) for tick in range(61)]
    assert codes(*shots) == ({("gpu-pcie-replays", gpu(0).subject)} if bad else set())


def test_many_old_replays_are_no_rate() -> None:
    shots = [node(tick * 10.0, pcie_replays_total=10**6) for tick in range(10)]
    assert codes(*shots) == set()
    later = node(7200.0, pcie_replays_total=2 * 10**6)
    assert codes(*shots, later) == set()


def test_a_link_that_only_this_gpu_lacks() -> None:
    (observation,) = after([node(nvlinks=nvlinks(active=False))]).observations
    assert (observation.code.code, observation.subject) == ("gpu-nvlink-inactive", gpu(0).subject)
    assert "NVLink 0 inactive (1 of 18)" in observation.evidence
    assert codes(node(nvlinks=INACTIVE)) == {("gpu-nvlink-inactive", gpu(0).subject)}


def test_a_link_that_nobody_measured_is_not_inactive() -> None:
    assert codes(node(nvlinks=nvlinks(active=None))) == set()
    assert codes(node(nvlinks=())) == set()


def cards(*links: tuple[NvLink, ...]) -> tuple[Gpu, ...]:
    """PCIe cards: no fabric."""
    base = {**IDLE, "model": "NVIDIA A100 80GB PCIe", "fabric_state": 0, "fabric_status": None}
    return tuple(gpu(index, **{**base, "nvlinks": each}) for index, each in enumerate(links))


def test_cards_with_and_without_bridges_are_well() -> None:
    none, bridged = INACTIVE[:12], LINKS[:12]
    for mix in ((none,) * 4, (bridged, bridged, none, none), (bridged, bridged, none), ((),) * 4):
        assert codes(snapshot(gpus=cards(*mix))) == set()


def test_no_link_anywhere_is_shown_where_there_should_be_some() -> None:
    all_down = {**IDLE, "nvlinks": INACTIVE}
    (observation,) = after([node(base=all_down)]).observations
    assert (observation.code.code, observation.code.severity) == (
        "gpu-nvlink-all-inactive",
        Severity.INFO,
    )
    before = snapshot(0, gpus=cards(*(LINKS,) * 4))
    assert codes(before, snapshot(10, gpus=cards(*(INACTIVE,) * 4))) == {
        ("gpu-nvlink-all-inactive", "node")
    }


def test_link_errors_count_against_siblings() -> None:
    twelve = nvlinks(recoveries_total=12)
    assert codes(node(), node(10, nvlinks=twelve)) == {("gpu-nvlink-errors", gpu(0).subject)}
    assert codes(node(), node(10, base={**IDLE, "nvlinks": twelve})) == set()
    assert codes(node(nvlinks=twelve), node(10, nvlinks=twelve)) == set()
    assert codes(node(), node(10, nvlinks=nvlinks(replays_total=9))) == set()
    crc = nvlinks(crc_errors_total=400_000)
    assert codes(node(), node(10, nvlinks=crc)) == {("gpu-nvlink-errors", gpu(0).subject)}
    few = nvlinks(crc_errors_total=300_000)
    assert codes(node(), node(10, nvlinks=few)) == set()


def fabric(at: float = 0.0, *, switch: bool = False, gpus: int = 8, **fields: Any) -> Snapshot:
    base = {**IDLE, **fields}
    return snapshot(
        at,
        sources=(source("nvidia"), source("pci")),
        gpus=eight(base)[:gpus],
        pci_devices=(pci(40, class_code=0x068000),) if switch else (),
    )


@pytest.mark.parametrize("state", [1, 2])
def test_an_unfinished_registration_is_critical_only_where_it_is_needed(state: int) -> None:
    def found(*shots: Snapshot) -> set[str]:
        return {code for code, _ in codes(*shots)}

    assert found(fabric(fabric_state=state)) == {"gpu-fabric-pending"}
    assert found(fabric(fabric_state=state, switch=True)) == {"gpu-fabric-not-ready"}
    assert found(fabric(), fabric(10, fabric_state=state)) == {"gpu-fabric-not-ready"}
    assert found(fabric(fabric_state=state, gpus=1)) == set()


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"fabric_state": 0}, set()),
        ({"fabric_state": None, "fabric_status": None, "fabric_health_mask": None}, set()),
        ({"fabric_status": None}, set()),
        ({"fabric_status": 3}, set()),
        ({"fabric_status": 999}, {"gpu-fabric-failed"}),
        ({"fabric_health_mask": 0}, set()),
        ({"fabric_health_mask": 0b0001_10_10_10_10}, set()),
        ({"fabric_health_mask": 0b10_10_10_01}, {"gpu-fabric-degraded"}),
        ({"fabric_health_mask": 0b10_01_10_10}, {"gpu-fabric-degraded"}),
        ({"fabric_health_mask": 0b0101_10_10_10_10}, {"gpu-fabric-degraded"}),
        ({"fabric_state": 2, "fabric_health_mask": 0b01}, {"gpu-fabric-pending"}),
    ],
)
def test_what_the_fabric_says(fields: dict[str, Any], found: set[str]) -> None:
    assert {code for code, _ in codes(fabric(**fields))} == found


def test_the_fabrics_complaint_is_put_in_words() -> None:
    mask = 0b0101_10_01_10_01
    observation = after([fabric(fabric_health_mask=mask)]).observations[0]
    assert observation.evidence == (
        "bandwidth degraded, route unhealthy, configured wrongly (too few NVLinks)"
        f" (health mask {mask:#x})"
    )


def bus(*shots: Snapshot) -> Checked[pci_checks.Memory]:
    checked: Checked[pci_checks.Memory] = Checked(memory=pci_checks.Memory())
    for shot in shots:
        checked = pci_checks.check(shot, checked.memory, Context(catalogue=shipped()))
    return checked


def test_errors_that_the_bus_reports_about_any_device() -> None:
    for code in ("pcie-aer-fatal", "pcie-aer-nonfatal", "pcie-aer-correctable"):
        checked = bus(*EXAMPLES[code])
        (observation,) = checked.observations
        assert (observation.code.code, observation.subject) == (code, "pci:0000:a1:00.0")
        assert observation.code.domain is Domain.HOST
        text = msgspec.json.encode(checked.memory)
        assert msgspec.json.decode(text, type=pci_checks.Memory) == checked.memory
        assert not pci_checks.forget(checked.memory, observation.subject).errors


def test_a_gpus_bus_errors_are_the_gpus() -> None:
    checked = bus(*on_the_bus((pci(0, aer_fatal_total=0),), (pci(0, aer_fatal_total=2),)))
    assert [each.subject for each in checked.observations] == [gpu(0).subject]


@pytest.mark.parametrize(
    "totals",
    [
        {"aer_nonfatal_total": 9},
        {"aer_correctable_total": 9_999},
        {"aer_fatal_total": None},
    ],
)
def test_few_bus_errors_or_none_measured_are_nothing(totals: dict[str, Any]) -> None:
    assert not bus(*on_the_bus(aer(), aer(**totals))).observations


def test_bus_errors_that_cannot_be_read_now_are_no_finding() -> None:
    shots = on_the_bus(aer(), aer(aer_fatal_total=3), aer(aer_fatal_total=None))
    assert bus(*shots[:2]).observations
    assert not bus(*shots).observations


def test_bus_errors_from_before_are_history() -> None:
    old: tuple[PciDevice, ...] = aer(aer_fatal_total=7, aer_nonfatal_total=100)
    assert not bus(*on_the_bus(old, old)).observations


def test_a_bus_that_cannot_be_read_says_nothing() -> None:
    first, second = EXAMPLES["pcie-aer-fatal"]
    unread = msgspec.structs.replace(second, sources=(source("pci", SourceState.STUCK),))
    checked = bus(first, unread)
    assert not checked.observations
    assert bus(first).memory == checked.memory


def test_busy_gpus_with_all_links_are_well() -> None:
    assert codes(node(base=BUSY), node(10, base=BUSY)) == set()
    assert isinstance(judge(node()).memory, Memory)
