"""The table of the driver's fault codes: every one has a judgement that can be used as it stands."""

import subprocess
import sys

import pytest

from agent.catalogue.ascend import NpuCodes, npu_codes
from contract.vocabulary import Action, Domain, Severity


def test_every_code_can_be_used_as_it_stands() -> None:
    codes = npu_codes()
    assert len(codes) == 802
    for number in codes.numbers:
        code = codes.find(number)
        assert code.code == f"npu-{number:08x}"
        assert len(code.meaning) > 10
        assert code.domain is Domain.NPU
        assert code.severity < Severity.CRITICAL or code.action is not Action.NONE
        assert all(rung.severity > code.severity for rung in code.escalation if code.severity < 30)
        assert codes.by_name(code.code) == code


@pytest.mark.parametrize(
    ("number", "severity", "action"),
    [
        (0x8C1F8609, Severity.INFO, Action.NONE),  # NotHandleFault
        (0x80C98008, Severity.DEGRADED, Action.RESTART_WORKLOAD),  # RestartRequest
        (0x80E01801, Severity.DEGRADED, Action.RESTART_WORKLOAD),  # RestartBusiness
        (0x8C084E00, Severity.DEGRADED, Action.RESET_DEVICE),  # FreeRestartNPU
        (0x40F84E00, Severity.FATAL, Action.RESET_DEVICE),  # RestartNPU
        (0x8F180220, Severity.CRITICAL, Action.RESET_DEVICE),  # PreSeparateNPU
        (0x80E18402, Severity.FATAL, Action.REPLACE_HARDWARE),  # SeparateNPU
        (0xA2301001, Severity.FATAL, Action.REPLACE_HARDWARE),  # in two lists: the worse counts
    ],
)
def test_levels_on_our_ladder(number: int, severity: Severity, action: Action) -> None:
    code = npu_codes().find(number)
    assert (code.severity, code.action) == (severity, action)


@pytest.mark.parametrize(
    ("number", "count"), [(0x80E01801, 2), (0x80E18005, 3), (0x81078603, 5), (0x8C1F8609, None)]
)
def test_so_many_in_a_day_are_worse(number: int, count: int | None) -> None:
    rungs = [(rung.count, rung.within_seconds) for rung in npu_codes().find(number).escalation]
    assert rungs == ([] if count is None else [(count, 86400)])


def test_the_meaning_names_the_part_of_the_chip() -> None:
    assert npu_codes().find(0x80C98008).meaning.startswith("Fault in the chip's AI core;")
    assert npu_codes().find(0x12345678).meaning.startswith("Fault of the chip;")


@pytest.mark.parametrize("name", ["npu-network", "npu-lost", "xid-79", "npu-80E01801", "npu-1"])
def test_a_name_of_another_kind_is_no_fault_code(name: str) -> None:
    assert npu_codes().by_name(name) is None


def test_a_wrong_word_is_named() -> None:
    text = b"""
source: s
source_date: ""
clear_seconds: 60
levels: [{level: L, severity: terrible, action: none, meaning: m, codes: "1"}]
lasting: []
escalations: []
unknown: []
meanings: {}
modules: {}
"""
    with pytest.raises(ValueError, match="'terrible' is not a severity"):
        NpuCodes(text)


def test_nobody_pays_for_the_table_before_the_first_fault() -> None:
    program = (
        "from agent.checks.all import run; from agent.catalogue.ascend import npu_codes;"
        "print(npu_codes.cache_info().currsize)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert ran.stdout.split() == [b"0"]
