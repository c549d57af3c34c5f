"""What we make of each XID, against what NVIDIA's catalogue (2025-10-29) says is to be done at once."""

import pytest

from agent.catalogue import Code
from agent.catalogue.load import shipped
from agent.kernel_log import event_from, parse_record
from contract.vocabulary import Action, Severity
from tests.examples.xid import FALLBACKS, LINES, UNITS, nvlink5_line, sxid_line

NVIDIA = {
    "RESET_GPU": (46, 62, 64, 95, 109, 110, 119, 120, 136, 140, 143, 155, 156, 158),
    "RESTART_BM": (79,),
    "RESTART_VM": (151,),
    "CHECK_MECHANICALS": (54,),
    "CHECK_UVM": (159,),
    "UPDATE_SWFW": (78,),
    "RESTART_APP": (
        *(8, 11, 13, 25, 31, 32, 39, 40, 41, 60, 68, 69, 70, 71, 72, 75, 76, 77, 80, 82, 83, 84),
        *(85, 86, 88, 89, 94, *range(96, 106), *range(126, 136), 139),
    ),
    "IGNORE": (
        *(14, 37, 38, 43, 44, 63, 66, 67, 92, 93, 106, 107, 108, 121, 137, 141, 152, 153, 157),
        *(160, 161),
    ),
    "WORKFLOW_XID_45": (45,),
    "WORKFLOW_XID_48": (48,),
    "WORKFLOW_NVLINK_ERR": (74,),
    "WORKFLOW_NVLINK5_ERR": tuple(range(144, 151)),
    "XID_154": (154,),
    "CONTACT_SUPPORT": (
        *(*range(1, 8), 9, 10, 12, *range(15, 25), *range(26, 31), 33, 34, 35, 36, 42, 47),
        *(*range(49, 54), *range(55, 60), 61, 65, 73, 81, 87, 90, 91, *range(111, 119)),
        *(122, 123, 124, 125, 138, 142),
    ),
    "no action named": tuple(range(162, 173)),
}

OURS = {
    "RESET_GPU": (Severity.FATAL, Action.RESET_DEVICE),
    "RESTART_BM": (Severity.FATAL, Action.REBOOT_NODE),
    "RESTART_VM": (Severity.CRITICAL, Action.REBOOT_NODE),
    "CHECK_MECHANICALS": (Severity.CRITICAL, Action.REPLACE_HARDWARE),
    "CHECK_UVM": (Severity.INFO, Action.RESTART_WORKLOAD),
    "UPDATE_SWFW": (Severity.INFO, Action.NONE),
    "RESTART_APP": (Severity.INFO, Action.RESTART_WORKLOAD),
    "IGNORE": (Severity.INFO, Action.NONE),
    "WORKFLOW_XID_45": (Severity.INFO, Action.NONE),
    "WORKFLOW_XID_48": (Severity.FATAL, Action.RESET_DEVICE),
    "WORKFLOW_NVLINK_ERR": (Severity.CRITICAL, Action.RESET_DEVICE),
    "WORKFLOW_NVLINK5_ERR": (Severity.INFO, Action.NONE),
    "XID_154": (Severity.INFO, Action.NONE),
    "CONTACT_SUPPORT": (Severity.INFO, Action.NONE),
    "no action named": (Severity.INFO, Action.NONE),
}

OTHERWISE = {
    57: (Severity.DEGRADED, Action.REPLACE_HARDWARE, "old drivers: the memory does not work"),
    58: (Severity.DEGRADED, Action.REPLACE_HARDWARE, "old drivers: the memory does not work"),
    59: (Severity.DEGRADED, Action.RESET_DEVICE, "old drivers: a controller of the GPU failed"),
    61: (Severity.DEGRADED, Action.RESET_DEVICE, "old drivers: a controller of the GPU failed"),
    90: (Severity.DEGRADED, Action.RESET_DEVICE, "old drivers: the cache failed"),
    125: (Severity.INFO, Action.REPLACE_HARDWARE, "the GPU forgets its repaired memory"),
    142: (Severity.INFO, Action.RESTART_WORKLOAD, "as every other engine for video"),
    155: (Severity.CRITICAL, Action.RESET_DEVICE, "what runs without NVLink goes on"),
    156: (Severity.CRITICAL, Action.RESET_DEVICE, "what runs goes on"),
    165: (Severity.INFO, Action.REPLACE_HARDWARE, "a part is worn out; the GPU goes on"),
    167: (Severity.CRITICAL, Action.REBOOT_NODE, "the name says that PCIe is dead"),
    168: (Severity.DEGRADED, Action.RESET_DEVICE, "the name says that memory is missing"),
    169: (Severity.CRITICAL, Action.RESET_DEVICE, "the name says that a controller halted"),
}
"""Where we depart from the rule above, and why."""

RULES = """
144 SAW_MVB Nonfatal IGNORE 1 4 8 20
144 SAW_MVB Fatal RESET_GPU 2 10
145 RLW_CTRL Nonfatal IGNORE 80000000
145 RLW_REMAP Nonfatal XID_154_EVAL 1 2 4 8 10 20
145 RLW_REMAP Fatal RESET_GPU 40 80
145 RLW_REMAP Nonfatal IGNORE 100 200 80000000
145 RLW_RSPCOL Nonfatal IGNORE 1 80000000
145 RLW_RSPCOL Fatal RESET_GPU 2
145 RLW_RXPIPE Nonfatal IGNORE 1 2 4 8 80000000
145 RLW_SRC_TRACK Fatal RESET_GPU 1 10 20
145 RLW_SRC_TRACK Nonfatal IGNORE 2 80000000
145 RLW_SRC_TRACK Nonfatal XID_154_EVAL 4 8
145 RLW_TAGSTATE Nonfatal IGNORE 1 10000 80000000
145 RLW_TAGSTATE Fatal RESET_GPU 2 20000 100000
146 TLW_CTRL Nonfatal IGNORE 1 2 80000000
146 TLW_CTRL Fatal RESET_GPU 4
146 TLW_RX/TLW_RX_PIPE0 Nonfatal IGNORE 1 2 80000000
146 TLW_RX/TLW_RX_PIPE0 Fatal RESET_GPU 4
146 TLW_RX/TLW_RX_PIPE1 Nonfatal IGNORE 1 2 80000000
146 TLW_RX/TLW_RX_PIPE1 Fatal RESET_GPU 4
146 TLW_TX/TLW_TX_PIPE0 Nonfatal IGNORE 1 2 80000000
146 TLW_TX/TLW_TX_PIPE0 Fatal RESET_GPU 4
146 TLW_TX/TLW_TX_PIPE1 Nonfatal IGNORE 1 2 80000000
146 TLW_TX/TLW_TX_PIPE1 Fatal RESET_GPU 4
147 TREX Nonfatal IGNORE 1 80000000
148 NVLPW_CTRL/NVLPW Nonfatal IGNORE 80000000
149 NETIR/NETIR_INT Fatal RESET_GPU 0
149 NETIR_BER_EVENT Nonfatal IGNORE 0 1 2 3
149 NETIR_MFDE_EVENT Fatal RESET_GPU 1 4 5 7
149 NETIR_MFDE_EVENT Nonfatal IGNORE 3
150 MSE_WATCHDOG Fatal RESET_GPU 0
"""
"""NVIDIA's rules for NVLink5: XID, unit (old/new name), the severity in the line, immediate action, error statuses."""

LINK_DOWN = {
    "RESET_GPU": (0, 1, 2, 4, 10, 15, 16, 17, 18, 21, 22, *range(32, 38), 42, 43),
    "IGNORE": (38, 40),
}
"""The same for NETIR_LINK_EVT/NETIR_LINK_DOWN, by sub-code; the error status is 0, the severity Fatal."""

NVLINK5 = {
    "RESET_GPU": {(Severity.FATAL, Action.RESET_DEVICE)},
    "IGNORE": {(Severity.INFO, Action.NONE), (Severity.INFO, Action.RESTART_WORKLOAD)},
    "XID_154_EVAL": {(Severity.INFO, Action.RESTART_WORKLOAD)},
}

WORD = {number: word for word, numbers in NVIDIA.items() for number in numbers}


def judged(line: str) -> Code:
    event = event_from(parse_record(line.encode()), id="kmsg:1", time_seconds=0.0)
    assert event is not None, line
    return shipped().find(event.finding)


def test_the_table_is_nvidias() -> None:
    assert sorted(WORD) == list(range(1, 173))
    assert {word: len(NVIDIA[word]) for word in ("RESET_GPU", "RESTART_APP", "IGNORE")} == {
        "RESET_GPU": 14,
        "RESTART_APP": 48,
        "IGNORE": 21,
    }


@pytest.mark.parametrize(("number", "word"), WORD.items())
def test_we_ask_for_what_nvidia_asks_for_or_say_why_not(number: int, word: str) -> None:
    code = judged(LINES[f"xid-{number}"][0])
    assert code.code == f"xid-{number}"
    expected = OTHERWISE[number][:2] if number in OTHERWISE else OURS[word]
    assert (code.severity, code.action) == expected
    assert word in code.source


def test_no_exception_is_needless() -> None:
    assert [each for each, row in OTHERWISE.items() if OURS[WORD[each]] == row[:2]] == []


@pytest.mark.parametrize(
    ("number", "word", "severity", "action"),
    [
        (109, "RESET_GPU", "fatal", "reset-device"),
        (136, "RESET_GPU", "fatal", "reset-device"),
        (155, "RESET_GPU", "critical", "reset-device"),
        (156, "RESET_GPU", "critical", "reset-device"),
        (158, "RESET_GPU", "fatal", "reset-device"),
        (32, "RESTART_APP", "info", "restart-workload"),
        (60, "RESTART_APP", "info", "restart-workload"),
        (68, "RESTART_APP", "info", "restart-workload"),
        (69, "RESTART_APP", "info", "restart-workload"),
        (94, "RESTART_APP", "info", "restart-workload"),
        (38, "IGNORE", "info", "none"),
        (44, "IGNORE", "info", "none"),
        (63, "IGNORE", "info", "none"),
        (121, "IGNORE", "info", "none"),
    ],
)
def test_neither_missed_nor_blown_up(number: int, word: str, severity: str, action: str) -> None:
    """Of these fourteen, five are often taken for harmless and nine for a reason to reboot the node."""
    assert WORD[number] == word
    code = shipped().xid(number)
    assert (code.severity.label, code.action.label) == (severity, action)


def test_every_rule_for_nvlink5() -> None:
    checked = 0
    for rule in RULES.split("\n")[1:-1]:
        number, units, severity, word, *statuses = rule.split()
        old = units.partition("/")[0]
        for status in statuses:
            checked += 1
            line = nvlink5_line(old, severity, status=int(status, 16))
            assert f": {number}, " in line
            for name in {units, *units.split("/")}:
                code = judged(line.replace(old, name, 1))
                assert (code.severity, code.action) in NVLINK5[word], (rule, name)
    for word, reasons in LINK_DOWN.items():
        for reason in reasons:
            checked += 1
            for name in ("NETIR_LINK_EVT", "NETIR_LINK_DOWN", "NETIR_LINK_EVT/NETIR_LINK_DOWN"):
                line = nvlink5_line("NETIR_LINK_EVT", "Fatal", status=0, reason=reason)
                code = judged(line.replace("NETIR_LINK_EVT", name))
                assert code.code == f"xid-149-link-{reason}"
                assert (code.severity, code.action) in NVLINK5[word]
    assert checked == 94


def test_a_nonfatal_line_asks_for_nothing_of_the_node() -> None:
    for unit in UNITS:
        for reason in range(64):
            code = judged(nvlink5_line(unit, "Nonfatal", reason=reason))
            assert code.severity is Severity.INFO
            assert code.action <= Action.RESTART_WORKLOAD
            assert code.source, code.code


def test_a_fatal_line_is_never_lost() -> None:
    for unit in UNITS:
        for reason in set(range(64)) - {38, 40}:
            code = judged(nvlink5_line(unit, "Fatal", reason=reason))
            assert code.severity >= Severity.CRITICAL
            assert code.action is Action.RESET_DEVICE


def test_the_bare_number_of_nvlink5_does_not_judge() -> None:
    """NVML gives no more, beside the line that has the rest."""
    for number in range(144, 151):
        assert shipped().xid(number).severity is Severity.INFO


def test_sxids_that_break_the_fabric() -> None:
    for number in (12020, 22003, 22011, *range(23001, 23018)):
        code = judged(sxid_line(number, "Fatal"))
        assert (code.severity, code.action) == (Severity.FATAL, Action.REBOOT_NODE)


def test_an_sxid_is_as_bad_as_its_line_says() -> None:
    for number in range(10_000, 30_000):
        assert judged(sxid_line(number, "Fatal")).severity >= Severity.CRITICAL
        for word in ("Non-fatal", "Correctable"):
            assert judged(sxid_line(number, word)).severity <= Severity.DEGRADED


def test_every_row_has_a_line_that_raises_it() -> None:
    named = ("xid-", "sxid", *(each for each in LINES if not each.startswith(("xid-", "sxid-"))))
    written = {code for code in shipped().codes if code.startswith(named)}
    assert written == LINES.keys() | FALLBACKS.keys()
    for code, lines in LINES.items():
        assert [judged(line).code for line in lines] == [code] * len(lines)
    for code, line in FALLBACKS.items():
        assert judged(line).code.rpartition("-")[0] == code
        assert judged(line).meaning == shipped().codes[code].meaning


def test_no_escalation_is_milder_than_one_fault_alone() -> None:
    for code in shipped().codes.values():
        if code.code.startswith(("xid-", "sxid")):
            ladder = [(rung.severity, rung.action) for rung in code.escalation]
            assert ladder == sorted(ladder)
            assert all(each > (code.severity, code.action) for each in ladder), code.code


def test_a_program_that_crash_loops_takes_no_gpu_away() -> None:
    """A Job with the default backoffLimit makes seven pods; only pods beyond that say that it is the GPU."""
    for number in (13, 31, 43, 45):
        rungs = shipped().xid(number).escalation
        assert rungs
        assert all(rung.across_pods for rung in rungs)
        assert all(rung.count > 7 for rung in rungs if rung.severity >= Severity.CRITICAL)
