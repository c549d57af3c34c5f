"""What a user is told about Ascend NPUs, and what not: never on what was not measured, never on an unwired port."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.catalogue import Catalogue
from agent.catalogue.ascend import npu_codes
from agent.catalogue.load import shipped
from agent.checks import Context, Observation
from agent.checks import npu as npu_checks
from agent.faults import Book, Timing, findings
from agent.faults.levels import advance
from agent.overrides import Override, Overrides, apply
from agent.snapshot import Snapshot
from agent.snapshot.npu import Npu, NpuFault, NpuNetwork, Optics
from contract.vocabulary import Action, Finding, Severity, SourceState
from tests.examples.npu import device, linked, npu, optics, shot
from tests.support import START, snapshot, source

CONTEXT = Context(catalogue=shipped())
TIMING = Timing(started_seconds=START)

HBM = NpuFault(code=0x80E01801, text="HBM multi bit", severity=3)
PORT_DOWN = NpuFault(code=0x81078603)
AI_CORE = NpuFault(code=0x80C98008)


class Watch:
    """The checks and the book over a row of snapshots."""

    def __init__(self, context: Context = CONTEXT) -> None:
        self._context = context
        self.memory = npu_checks.Memory()
        self.book = Book()
        self.blind: frozenset[str] = frozenset()
        self.seen: tuple[Observation, ...] = ()

    def see(self, *shots: Snapshot) -> set[str]:
        """The codes seen in the last of these snapshots."""
        for each in shots:
            checked = npu_checks.check(each, self.memory, self._context)
            # What is remembered survives a restart as JSON.
            written = msgspec.json.encode(checked.memory)
            self.memory = msgspec.json.decode(written, type=npu_checks.Memory)
            self.seen, self.blind = checked.observations, checked.blind
            self.book = advance(self.book, each, self.seen, TIMING, checked.resets)
        return {each.code.code for each in self.seen}

    @property
    def raised(self) -> dict[str, Finding]:
        return {each.code: each for each in findings(self.book, TIMING)}


def every_second(until: int, *npus: Npu, start: int = 0) -> list[Snapshot]:
    return [shot(at, *npus) for at in range(start, until + 1)]


def test_a_healthy_node_is_told_nothing_about() -> None:
    nodes = (linked(0), linked(1), npu(2), Npu(card=3, chip=0, index=3))
    pci = tuple(device(index) for index in range(3))
    assert Watch().see(shot(0, *nodes, pci=pci), shot(60, *nodes, pci=pci)) == set()


@pytest.mark.parametrize("state", [SourceState.FAILING, SourceState.STUCK, SourceState.ABSENT])
def test_nothing_is_said_about_chips_whose_source_is_silent(state: SourceState) -> None:
    watch = Watch()
    watch.see(shot(0, npu(0), npu(1)))
    known = watch.memory
    assert watch.see(snapshot(60, sources=(source("ascend", state),))) == set()
    assert watch.memory == known


def test_without_an_ascend_source_nothing_is_said() -> None:
    assert Watch().see(snapshot(0, pci_devices=(device(0),))) == set()


def test_a_fault_is_raised_at_once_with_the_drivers_words_and_clears_when_it_is_gone() -> None:
    watch = Watch()
    watch.see(shot(0, npu(3, health=3, faults=(HBM,))))
    found = watch.raised["npu-80e01801"]
    assert (found.subject, found.severity) == ("npu:3", Severity.DEGRADED)
    assert found.evidence == "DCMI fault 80e01801: HBM multi bit (health 3)"
    watch.see(*every_second(61, npu(3), start=1))
    assert watch.raised == {}


def test_a_fault_does_not_clear_while_the_driver_does_not_say() -> None:
    watch = Watch()
    watch.see(shot(0, npu(faults=(HBM,))))
    watch.see(shot(100, npu(state="unreadable", faults=None, health=None)))
    assert "npu:0" in watch.blind


def test_a_fault_explains_the_health() -> None:
    assert Watch().see(shot(0, npu(health=3, faults=(HBM,)))) == {"npu-80e01801"}


@pytest.mark.parametrize(
    ("health", "code", "severity"),
    [
        (1, "npu-health-minor", Severity.INFO),
        (2, "npu-health-major", Severity.DEGRADED),
        (3, "npu-health-critical", Severity.CRITICAL),
    ],
)
def test_health_that_nothing_explains_is_told_after_a_while(
    health: int, code: str, severity: Severity
) -> None:
    watch = Watch()
    watch.see(shot(0, npu(health=health)))
    assert watch.raised == {}
    watch.see(shot(20, npu(health=health)))
    assert watch.raised[code].severity == severity


def test_a_port_that_is_down_for_a_moment_is_shown_and_for_longer_takes_no_new_pods() -> None:
    watch = Watch()
    watch.see(shot(0, npu(faults=(PORT_DOWN,))), shot(19, npu(faults=(PORT_DOWN,))))
    assert watch.raised["npu-81078603"].severity == Severity.INFO
    watch.see(shot(20, npu(faults=(PORT_DOWN,))))
    found = watch.raised["npu-81078603"]
    assert (found.severity, found.action) == (Severity.CRITICAL, Action.REPLACE_HARDWARE)


def test_the_time_that_a_fault_lasts_starts_again_after_it_was_gone() -> None:
    watch = Watch()
    watch.see(
        shot(0, npu(faults=(PORT_DOWN,))), shot(19, npu()), shot(25, npu(faults=(PORT_DOWN,)))
    )
    assert watch.raised["npu-81078603"].severity == Severity.INFO


def test_a_request_that_is_to_be_repeated_becomes_serious_when_it_lasts() -> None:
    watch = Watch()
    watch.see(shot(0, npu(faults=(AI_CORE,))))
    found = watch.raised["npu-80c98008"]
    assert (found.severity, found.action) == (Severity.DEGRADED, Action.RESTART_WORKLOAD)
    watch.see(shot(60, npu(faults=(AI_CORE,))))
    found = watch.raised["npu-80c98008"]
    assert (found.severity, found.action) == (Severity.CRITICAL, Action.RESET_DEVICE)
    assert found.evidence.endswith("for more than 60 s")


def test_the_same_fault_twice_in_a_day_is_worse_and_stays() -> None:
    watch = Watch()
    watch.see(shot(0, npu(faults=(AI_CORE,))), *every_second(62, npu(), start=1))
    assert watch.raised == {}
    watch.see(shot(3600, npu(faults=(AI_CORE,))))
    assert watch.raised["npu-80c98008"].severity == Severity.CRITICAL
    watch.see(*every_second(3700, npu(), start=3601))
    assert watch.raised["npu-80c98008"].action == Action.REPLACE_HARDWARE


@pytest.mark.parametrize(
    ("severity", "health", "wanted"),
    [
        (None, None, Severity.INFO),
        (1, 3, Severity.INFO),
        (2, 0, Severity.DEGRADED),
        (3, 0, Severity.CRITICAL),
        (None, 3, Severity.CRITICAL),
    ],
)
def test_a_code_that_nobody_lists_is_judged_by_the_drivers_severity(
    severity: int | None, health: int | None, wanted: Severity
) -> None:
    watch = Watch()
    watch.see(shot(0, npu(health=health, faults=(NpuFault(code=0x12345678, severity=severity),))))
    assert watch.raised["npu-12345678"].severity == wanted


def test_a_row_of_the_catalogue_outranks_the_table() -> None:
    code = msgspec.structs.replace(npu_codes().find(0x80E18402), severity=Severity.INFO)
    context = Context(catalogue=Catalogue({**shipped().codes, code.code: code}))
    watch = Watch(context)
    watch.see(shot(0, npu(faults=(NpuFault(code=0x80E18402),))))
    assert watch.raised["npu-80e18402"].severity == Severity.INFO


@pytest.mark.parametrize(
    ("state", "code", "hold", "severity"),
    [
        ("lost", "npu-lost", 30, Severity.FATAL),
        ("not-ready", "npu-not-ready", 180, Severity.FATAL),
        ("unresponsive", "npu-unresponsive", 0, Severity.DEGRADED),
        ("unreadable", "npu-unreadable", 60, Severity.INFO),
    ],
)
def test_a_chip_that_does_not_answer(state: Any, code: str, hold: int, severity: Severity) -> None:
    watch = Watch()
    bad = npu(0, state=state, state_reason="dcmi_get_device_health answers -1", health=None)
    watch.see(shot(0, bad, npu(1)), shot(max(hold - 1, 0), bad, npu(1)))
    assert (code in watch.raised) == (hold == 0)
    watch.see(shot(hold, bad, npu(1)))
    assert watch.raised[code].severity == severity
    assert "answers -1" in watch.raised[code].evidence
    assert watch.blind == {"npu:0"}


def test_a_reset_takes_a_while_and_alarms_nobody() -> None:
    watch = Watch()
    resetting = npu(state="not-ready", health=None, faults=None)
    watch.see(shot(0, npu()), *every_second(150, resetting, start=1), shot(151, npu()))
    assert watch.raised == {}


def test_a_chip_that_is_gone_after_a_boot_is_missing_by_its_address() -> None:
    watch = Watch()
    watch.see(shot(0, npu(0), npu(1), npu(2)))
    renumbered = msgspec.structs.replace(npu(2), index=1)
    watch.see(shot(600, npu(0), renumbered), shot(660, npu(0), renumbered))
    found = watch.raised["npu-missing"]
    assert (found.subject, found.severity) == ("npu:0000:01:00.0", Severity.CRITICAL)
    assert found.evidence.startswith("npu:1 at 0000:01:00.0 was here")
    watch.memory = npu_checks.forget(watch.memory, found.subject)
    assert watch.see(shot(700, npu(0), renumbered)) == set()


def test_a_missing_chip_that_the_bus_still_shows() -> None:
    watch = Watch()
    watch.see(shot(0, npu(0), npu(1)))
    watch.see(shot(60, npu(0), pci=(device(0), device(1))))
    assert watch.seen[0].evidence.endswith("still on the PCI bus")


@pytest.mark.parametrize(
    "other", [{"class_code": 0x060400}, {"vendor": 0x10DE}, {"is_virtual_function": True}]
)
def test_only_an_ascend_accelerator_can_be_without_its_driver(other: dict[str, Any]) -> None:
    assert Watch().see(shot(0, npu(0), pci=(device(0), device(1, **other)))) == set()


def test_addresses_that_cannot_be_compared_say_nothing() -> None:
    assert Watch().see(shot(0, npu(0, pci_bus_id=""), pci=(device(0),))) == set()
    elsewhere = npu(0, pci_bus_id="0000:99:00.0")
    assert Watch().see(shot(0, elsewhere, pci=(device(0), device(1)))) == set()


def test_a_port_that_was_never_up_is_not_down() -> None:
    watch = Watch()
    unwired = linked(link_up=False, optics=Optics(present=False))
    assert watch.see(*every_second(60, unwired)) == set()


def test_a_port_that_was_up_is_down_after_a_while() -> None:
    watch = Watch()
    watch.see(shot(0, linked()), shot(10, linked(link_up=False)))
    assert watch.raised == {}
    watch.see(shot(35, linked(link_up=False)))
    found = watch.raised["npu-link-down"]
    assert (found.severity, found.action) == (Severity.CRITICAL, Action.REPLACE_HARDWARE)
    watch.memory = npu_checks.forget(watch.memory, "npu:0")
    assert watch.see(shot(36, linked(link_up=False))) == set()


def test_a_port_in_trouble_that_is_not_read_any_more_is_not_well_again() -> None:
    watch = Watch()
    watch.see(shot(0, linked()), shot(10, linked(link_up=False)), shot(40, npu()))
    assert watch.blind == {"npu:0"}
    watch.see(shot(50, linked()), shot(60, npu()))
    assert watch.blind == frozenset()


def test_a_reset_of_the_chip_is_no_flap_and_no_error() -> None:
    watch = Watch()
    before = linked(link_ups_total=7, counters={"roce_rx_err_pkt_num": 5000})
    after = linked(link_ups_total=2, counters={"roce_rx_err_pkt_num": 400})
    assert watch.see(shot(0, before), shot(60, after), shot(120, after)) == set()


def test_a_flap_is_over_when_its_window_is() -> None:
    watch = Watch()
    watch.see(shot(0, linked()), shot(60, linked(link_ups_total=2)))
    assert "npu-link-flap" in watch.raised
    quiet = [shot(at, linked(link_ups_total=2)) for at in range(70, 900, 10)]
    assert watch.see(*quiet) == set()


@pytest.mark.parametrize("health", [None, 0, 6])
def test_a_network_that_is_good_or_not_tried_is_not_told(health: int | None) -> None:
    assert Watch().see(shot(0, npu(network_health=health))) == set()


def test_a_link_that_is_down_explains_the_network() -> None:
    watch = Watch()
    down = msgspec.structs.replace(linked(link_up=False), network_health=5)
    assert watch.see(shot(0, linked()), shot(10, down)) == {"npu-link-down"}


def test_optics_just_outside_are_borne_and_further_outside_are_told_with_the_lane() -> None:
    watch = Watch()
    assert watch.see(shot(0, linked(optics=optics(receive_watts=(0.00014,))))) == set()
    watch.see(shot(0, linked(optics=optics(receive_watts=(0.001, 0.0000054)))))
    assert watch.seen[0].evidence == "lane 1: received 0.0054 mW, least 0.1445 mW"


def test_nothing_measured_is_nothing_found() -> None:
    bare = Npu(card=0, chip=0, index=0, network=NpuNetwork(optics=Optics()))
    assert Watch().see(shot(0, bare), shot(60, bare)) == set()


def test_errors_of_queues_are_the_jobs_business() -> None:
    before, after = ({"roce_qp_status_err_num": count} for count in (0, 10**6))
    assert Watch().see(shot(0, linked(counters=before)), shot(60, linked(counters=after))) == set()


@given(
    st.lists(
        st.builds(
            npu,
            st.integers(0, 3),
            health=st.none() | st.integers(0, 9),
            faults=st.none()
            | st.lists(st.builds(NpuFault, code=st.integers(1, 0xFFFFFFFF)), max_size=3).map(tuple),
            state=st.sampled_from(["ok", "lost", "not-ready", "unreadable", "unresponsive"]),
            network_health=st.none() | st.integers(-1, 255),
            ecc_double_bit_total=st.none() | st.integers(0, 10),
        ),
        max_size=4,
        unique_by=lambda each: each.index,
    )
)
def test_only_what_is_seen_is_told_and_each_thing_once(npus: list[Npu]) -> None:
    watch = Watch()
    watch.see(shot(0, *npus), shot(1, *npus))
    subjects = {each.subject for each in npus}
    assert {each.subject for each in watch.seen} <= subjects
    assert all(each.evidence for each in watch.seen)
    assert watch.blind == {each.subject for each in npus if each.state != "ok"}
    for each in npus:
        told = {found.code.code for found in watch.seen if found.subject == each.subject}
        if each.state != "ok":
            assert len(told) == 1
        else:
            assert {fault.name for fault in each.faults or ()} <= told


def test_an_override_of_a_fault_code_is_heard() -> None:
    entry = Override(code="npu-*", severity=Severity.INFO, action=Action.NONE, reason="a drill")
    judged = apply(shipped(), Overrides((entry,)), pool="", model="", node="n1").catalogue
    usual = npu_codes().find(0x80E01801)
    assert usual.severity > Severity.INFO
    assert judged.over(usual).severity is Severity.INFO
    assert shipped().over(usual) == usual
