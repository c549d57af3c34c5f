"""Counters of errors: what their rise tells, and that a counter which has stopped tells nothing."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.catalogue.load import shipped
from agent.checks.rdma import Memory
from agent.checks.rdma_counters import COUNTERS
from agent.snapshot import RdmaPort, Snapshot
from contract.vocabulary import Finding, Severity
from tests.examples.rdma import DOWN, QUIET, infiniband, rising
from tests.unit.test_checks_rdma import judge, look, raised

NARROW = {name: judged.most for name, judged in COUNTERS.items() if judged.most is not None}
SATURATED = "rdma-counter-saturated"


def counting(at: float, **counters: int) -> Snapshot:
    return look(infiniband(0, counters={**QUIET, **counters}), at=at)


def series(counter: str, *values: int, apart: float = 10.0, **fields: Any) -> list[Snapshot]:
    return [
        look(infiniband(0, counters={**QUIET, counter: value}, **fields), at=n * apart)
        for n, value in enumerate(values)
    ]


def named(found: tuple[Finding, ...]) -> set[str]:
    return {each.code for each in found}


@pytest.mark.parametrize("counter", sorted(NARROW))
def test_a_counter_is_judged_at_its_limit_and_not_below(counter: str) -> None:
    code = shipped().codes[COUNTERS[counter].code]
    limit = int(code.limits["count"])
    assert named(raised(series(counter, 0, limit - 1))) == set()
    assert named(raised(series(counter, 0, limit))) == {code.code}


def test_what_was_counted_before_the_first_look_is_past() -> None:
    assert raised(series("symbol_error", 40_000, 40_000, 40_000)) == ()


def test_slow_errors_never_add_up() -> None:
    drops = [counting(600.0 * n, symbol_error=n) for n in range(60)]
    assert raised(drops) == ()


def test_errors_are_over_an_hour_and_ten_minutes_after_the_last() -> None:
    burst = series("symbol_error", 0, 100)
    quiet = [counting(60.0 * n, symbol_error=100) for n in range(1, 90)]
    assert named(raised([*burst, *quiet[:60]])) == {"rdma-symbol-errors"}
    assert raised([*burst, *quiet]) == ()


def test_loss_is_judged_by_the_traffic_it_happens_in() -> None:
    assert named(raised(rising("packet_seq_err", 3000, packets=1_000_000))) == {"rdma-packet-loss"}
    assert raised(rising("packet_seq_err", 3000, packets=1_000_000_000)) == ()
    without_packets = [
        look(infiniband(0, counters={"packet_seq_err": 5000 * n}), at=10.0 * n) for n in range(5)
    ]
    assert raised(without_packets) == (), "not measured is no finding"


def test_what_the_workload_or_congestion_counts_is_never_a_finding() -> None:
    of_others = (
        *("port_xmit_wait", "np_cnp_sent", "rp_cnp_handled", "np_ecn_marked_roce_packets"),
        *("req_cqe_error", "resp_cqe_error", "req_remote_access_errors", "VL15_dropped"),
        *("duplicate_request", "req_cqe_flush_error", "lifespan", "port_rcv_switch_relay_errors"),
    )
    for name in of_others:
        assert raised(series(name, 0, 10**6, 10**9, 2**32 - 1, 2**32 - 1, apart=60.0)) == ()


def test_only_errors_of_a_link_in_use_ask_for_a_part() -> None:
    """A peer that dies, or a fabric that is busy, costs a healthy node nothing."""
    by_counter = {name: shipped().codes[each.code].severity for name, each in COUNTERS.items()}
    assert {name for name, severity in by_counter.items() if severity > Severity.INFO} == {
        *("symbol_error", "link_error_recovery", "port_rcv_errors", "local_link_integrity_errors"),
    }


def test_the_errors_of_a_link_that_trains_are_no_fault_of_its_cable() -> None:
    def shot(at: float, errors: int, **fields: Any) -> Snapshot:
        return look(infiniband(0, counters={**QUIET, "symbol_error": errors}, **fields), at=at)

    trained = {"link_downed_total": 1}
    assert named(
        raised([shot(0, 0), shot(1, 500, **DOWN), shot(5, 900), shot(10, 1200), shot(700, 1200)])
    ) <= {"rdma-port-down"}
    flapped = [shot(0, 0), shot(1, 0, **trained), shot(9, 800, **trained)]
    assert named(raised(flapped)) == {"rdma-link-flap"}
    later = [*flapped, shot(60, 800, **trained), shot(70, 850, **trained)]
    assert named(raised(later)) == {"rdma-link-flap", "rdma-symbol-errors"}


class TestSaturation:
    @pytest.mark.parametrize(("counter", "most"), sorted(NARROW.items()))
    def test_a_counter_at_its_end_is_blind(self, counter: str, most: int) -> None:
        (finding,) = raised(series(counter, most, most, apart=60.0))
        assert (finding.code, finding.severity) == (SATURATED, Severity.INFO)
        assert f"{counter} at {most}" in finding.evidence
        assert "perfquery -R" in finding.evidence

    def test_a_counter_that_passes_its_narrow_end_is_wide(self) -> None:
        shots = series("symbol_error", 65_530, 65_535, 65_536, apart=5.0)
        assert SATURATED not in named(raised(shots))
        memory = judge(shots).memory
        assert memory.counters.wide == {"mlx5_0 symbol_error"}
        after_reset = series("symbol_error", 65_535, 65_535, apart=60.0)
        assert judge(after_reset, memory).observations == ()
        other = judge([other_adapter()], memory)
        assert SATURATED in {each.code.code for each in other.observations}

    def test_errors_that_end_a_counter_stay_a_finding_until_it_is_set_back(self) -> None:
        """Nothing that it does afterwards says that the link is good again."""
        pegged = [*series("symbol_error", 60_000, 65_535), *late(65_535, hours=30)]
        assert named(raised(pegged)) == {"rdma-symbol-errors", SATURATED}
        assert raised([*pegged, *late(0, hours=3, start=31)]) == ()

    def test_a_counter_that_ended_unseen_is_not_called_bad(self) -> None:
        assert named(raised(late(65_535, hours=3))) == {SATURATED}

    @given(st.sampled_from(sorted(NARROW)), st.lists(st.integers(0, 300), max_size=6))
    def test_a_counter_that_stopped_never_reads_as_good(
        self, counter: str, before: list[int]
    ) -> None:
        most = NARROW[counter]
        past = sorted(min(each, most) for each in before)
        checked = judge(series(counter, *past, most, most, most))
        assert SATURATED in {each.code.code for each in checked.observations}


def other_adapter() -> Snapshot:
    return look(infiniband(5, counters={**QUIET, "symbol_error": 65_535}))


def late(value: int, *, hours: int, start: int = 1) -> list[Snapshot]:
    return [
        counting(3600.0 * start + 60.0 * minute, symbol_error=value) for minute in range(60 * hours)
    ]


@given(
    st.dictionaries(
        st.sampled_from(sorted(COUNTERS)), st.lists(st.integers(0, 10**6), min_size=5, max_size=5)
    )
)
def test_counters_that_only_go_back_are_reloads_and_never_a_finding(
    falling: dict[str, list[int]],
) -> None:
    ordered = {name: sorted(values, reverse=True) for name, values in falling.items()}
    shots = [
        counting(10.0 * n, **{name: values[n] for name, values in ordered.items()})
        for n in range(5)
    ]
    assert named(raised(shots)) <= {SATURATED}


@given(st.lists(st.dictionaries(st.sampled_from(sorted(COUNTERS)), st.integers(0, 10**9))))
def test_a_rise_is_told_by_its_own_code_only_and_all_is_over_after_two_good_hours(
    readings: list[dict[str, int]],
) -> None:
    shots = [counting(10.0 * n, **each) for n, each in enumerate(readings)]
    quiet = [counting(1000.0 + 60 * minute) for minute in range(140)]
    expected = {COUNTERS[name].code for each in readings for name in each} | {SATURATED}
    assert named(raised(shots)) <= expected
    assert raised([*shots, *quiet]) == ()


def test_a_restart_of_the_agent_misses_no_error_and_invents_none() -> None:
    memory = judge(series("symbol_error", 5, 6)).memory
    assert judge([counting(60.0, symbol_error=30)], memory).observations != ()
    long_after = judge([counting(90_000.0, symbol_error=30)], memory)
    assert long_after.observations == (), "when in that day is not known"


def test_what_is_remembered_stays_small() -> None:
    memory = Memory()
    for second in range(0, 20_000, 10):
        port: RdmaPort = infiniband(0, counters={**QUIET, **dict.fromkeys(COUNTERS, second)})
        memory = judge([look(port, at=float(second))], memory).memory
    samples = [
        len(window.samples) for each in memory.counters.windows.values() for window in each.values()
    ]
    assert samples
    assert max(samples) <= 15
