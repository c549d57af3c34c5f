"""Kernel-log lines → findings by the catalogue's patterns; ordinary lines and forged ones give none."""

import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.catalogue import Catalogue
from agent.catalogue.load import parse, shipped
from agent.faults import Book, Timing, findings
from agent.faults.events import record_events
from agent.kernel_log import MAX_LINE_BYTES, event_from, parse_record
from agent.kernel_log.rules import Rules, compile_rules
from contract.vocabulary import Action, Event, Severity
from contract.wire import MAX_TEXT
from tests.examples.kernel import LINES, OVER
from tests.kernel_noise import LINES as NOISE
from tests.support import START

EVERY = [(code, line) for code, lines in LINES.items() for line in lines]
RULES = compile_rules(shipped())
TIMING = Timing(started_seconds=START)


def read(line: str, at: float = 0.0, id_: str = "kmsg:1") -> Event | None:
    return event_from(parse_record(line.encode()), id=id_, time_seconds=START + at)


def found(line: str) -> str:
    event = read(line)
    return event.finding if event else ""


def subject(line: str) -> str:
    event = read(line)
    assert event is not None
    return event.subject


@pytest.mark.parametrize(
    ("code", "line"), EVERY, ids=[f"{c}-{n}" for n, (c, _) in enumerate(EVERY)]
)
def test_every_shape_of_every_line(code: str, line: str) -> None:
    event = read(line)
    assert event is not None
    assert (event.kind, event.finding, event.message) == ("kernel", code, line[:MAX_TEXT])
    assert event.code is None
    assert " " not in event.subject  # a person must be able to write it into `fleetmedic: clear`
    for written in (
        f"3,812,5000000,-,caller=T4711;{line}",
        f"[  812.512345] {line}",
        f"[12345.000001][ T4711] {line}",
    ):
        again = read(written)
        assert again is not None
        assert (again.finding, again.subject) == (code, event.subject)


def test_every_pattern_has_a_line_that_it_matches() -> None:
    ours = {name: rule for name, rule in RULES.rules.items() if rule.code.code in LINES}
    used = {
        match.lastgroup
        for _, line in [*EVERY, *((code, line) for code, pair in OVER.items() for line in pair)]
        if (match := RULES.expression.match(line))
    }
    assert {ours[name].code.code for name in ours.keys() - used} == set()


def test_no_ordinary_line_is_a_finding() -> None:
    assert len(NOISE) > 400
    assert len(set(NOISE)) == len(NOISE)
    told = {line: event for line in NOISE if (event := read(line))}
    assert told == {}
    stamped = {line: event for line in NOISE if (event := read(f"[   17.412345] {line}"))}
    assert stamped == {}


@pytest.mark.parametrize(
    ("line", "subject_"),
    [
        (LINES["filesystem-read-only"][1], "disk:nvme0n1p2"),
        (LINES["memory-uncorrected-error"][0], "memory:mc2"),
        (LINES["aer-fatal"][2], "pci:0000:3b:00.0"),
        (LINES["aer-corrected"][3], "pci:10000:01:00.0"),
        (LINES["iommu-fault"][0], "pci:0000:3b:00.0"),
        (LINES["mlx5-module-hot"][0], "pci:0000:5e:00.0"),
        (LINES["nic-link-down"][2], "net:ib3"),
        (LINES["nvme-dead"][0], "disk:nvme4"),
        (LINES["raid-failed"][0], "disk:md0"),
        (LINES["nfs-not-responding"][1], "nfs:nas-a.example.internal"),
        (LINES["oom-kill-host"][0], "host"),
    ],
)
def test_what_a_line_is_about(line: str, subject_: str) -> None:
    assert subject(line) == subject_


def test_a_workload_at_its_own_limit_is_not_a_machine_out_of_memory() -> None:
    killed = "ut of memory: Killed process 12 (python3) total-vm:1kB"
    assert found(f"Memory cgroup o{killed}") == "oom-kill-workload"
    assert found(f"O{killed}") == "oom-kill-host"
    for line in (f"Memory cgroup o{killed}", f"O{killed}"):
        book = record_events(Book(), [e for e in [read(line)] if e], shipped(), TIMING)
        assert [each.severity for each in findings(book, TIMING)] == [Severity.INFO]


def test_a_tenants_volume_that_fails_takes_no_node_out_of_service() -> None:
    for volume in ("rbd0", "nbd12", "loop3", "drbd7p1"):
        for line in (
            f"EXT4-fs ({volume}): Remounting filesystem read-only",
            f"XFS ({volume}): Filesystem has been shut down due to log error (0x2).",
        ):
            assert shipped().codes[found(line)].severity is Severity.INFO
    local = found("EXT4-fs (nvme0n1p2): Remounting filesystem read-only")
    assert shipped().codes[local].severity is Severity.CRITICAL


def test_nothing_that_a_workload_can_do_alone_takes_a_node_out_of_service() -> None:
    """A name that a process gives itself, its own memory limit, its own crash, a file server that it uses."""
    for code in (
        *("oom-kill-workload", "oom-kill-host", "task-hung", "task-hung-nvidia", "nccl-segfault"),
        *("nfs-not-responding", "ceph-evicted", "lustre-evicted", "workload-process-limit"),
        *("volume-read-only", "beyond-end-of-device", "peermem-invalid-context"),
    ):
        row = shipped().codes[code]
        worst = [row.severity, *(rung.severity for rung in row.escalation)]
        assert max(worst) <= Severity.DEGRADED, code


# --- forging --------------------------------------------------------------------------------------------------------

FREE_TEXT = {"beyond-end-of-device", "nccl-segfault"}
"""Lines that begin with a process's name by nature; both are `info`."""


@pytest.mark.parametrize("code", sorted(LINES.keys() - FREE_TEXT))
def test_a_line_that_quotes_a_fault_is_none(code: str) -> None:
    for line in LINES[code]:
        for quoted in (
            f"a user wrote: {line}",
            f"my-app[31]: {line}",
            f'audit: type=1400 audit(1.1:1): apparmor="DENIED" name="{line}" comm="cat"',
            f" {line}",
            f'"{line}"',
        ):
            assert found(quoted) == "", quoted


@pytest.mark.parametrize("code", sorted(LINES.keys() - FREE_TEXT))
def test_no_program_can_forge_a_fault_by_its_names(code: str) -> None:
    """A process's name (15 bytes) begins the kernel's line about its crash; the name of its library ends it."""
    for line in LINES[code]:
        for length in range(1, 16):
            comm, library = line[:length], line[length:].replace("/", "_")
            for forged in (
                f"{comm}[4711]: segfault at 0 ip 0000560c sp 00007ffd error 4 in {library}[560c+2d1]",
                f"{comm}[4711]: segfault at 0 ip 0000560c sp 00007ffd error 4 in {line[:200]}[560c+2d1]",
                f"traps: {comm}[4711] general protection fault ip:7f sp:7f error:0 in {library}[7f+2]",
                f"{comm} invoked oom-killer: gfp_mask=0x1100cca(GFP_HIGHUSER_MOVABLE), order=0",
                f"{comm} (4711): drop_caches: 1",
                f"{comm}: page allocation failure: order:4, mode:0x40dc0(GFP_KERNEL)",
            ):
                assert found(forged) == "", forged


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0\n"), min_size=1, max_size=15))
def test_whatever_a_killed_process_is_called_the_line_is_read_the_same(comm: str) -> None:
    line = f"Memory cgroup out of memory: Killed process 9 ({comm}) total-vm:1kB, anon-rss:1kB"
    assert found(line) == "oom-kill-workload"
    assert found(f"watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [{comm}:9]") == "soft-lockup"
    hung = found(f"INFO: task {comm}:9 blocked for more than 120 seconds.")
    assert hung in ("task-hung", "task-hung-nvidia")


def test_a_process_named_like_a_fault_of_the_driver_hides_no_oom_kill() -> None:
    assert found(LINES["oom-kill-workload"][1]) == "oom-kill-workload"


# --- over again -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", OVER)
def test_a_line_that_says_it_is_over_clears_it(code: str) -> None:
    bad, good = OVER[code]
    first, second = read(bad), read(good, 5.0, "kmsg:2")
    assert first is not None
    assert second is not None
    assert second.finding == ""
    raised = record_events(Book(), [first], shipped(), TIMING)
    assert [(each.code, each.subject) for each in findings(raised, TIMING)] == [
        (code, first.subject)
    ]
    assert findings(record_events(raised, [second], shipped(), TIMING), TIMING) == ()


def test_one_server_that_is_back_clears_no_other() -> None:
    events = [
        read("nfs: server nas-a not responding, still trying", 0.0, "kmsg:1"),
        read("nfs: server nas-b not responding, still trying", 1.0, "kmsg:2"),
        read("nfs: server nas-a OK", 2.0, "kmsg:3"),
    ]
    book = record_events(Book(), [each for each in events if each], shipped(), TIMING)
    assert [each.subject for each in findings(book, TIMING)] == ["nfs:nas-b"]


@pytest.mark.parametrize(
    ("code", "times", "severity", "action"),
    [
        ("task-hung", 9, Severity.INFO, Action.NONE),
        ("task-hung", 10, Severity.DEGRADED, Action.NONE),
        ("soft-lockup", 9, Severity.DEGRADED, Action.REBOOT_NODE),
        ("soft-lockup", 10, Severity.CRITICAL, Action.REBOOT_NODE),
        ("netdev-leaked", 3, Severity.DEGRADED, Action.REBOOT_NODE),
        ("disk-io-error", 10, Severity.DEGRADED, Action.REPLACE_HARDWARE),
        ("memory-uncorrected-error", 1, Severity.CRITICAL, Action.REBOOT_NODE),
    ],
)
def test_what_comes_often_is_worse(
    code: str, times: int, severity: Severity, action: Action
) -> None:
    events = [read(LINES[code][0], 20.0 * n, f"kmsg:{n}") for n in range(times)]
    book = record_events(Book(), [each for each in events if each], shipped(), TIMING)
    (finding,) = findings(book, TIMING)
    assert (finding.severity, finding.action, finding.count) == (severity, action, times)


def test_two_uncorrected_memory_errors_are_one_failure_only_when_close_together() -> None:
    def judged(apart_seconds: float) -> Action:
        line = LINES["memory-uncorrected-error"][0]
        events = [read(line, apart_seconds * n, f"kmsg:{n}") for n in range(2)]
        book = record_events(Book(), [each for each in events if each], shipped(), TIMING)
        (finding,) = findings(book, TIMING)
        assert (finding.severity, finding.count) == (Severity.CRITICAL, 2)
        return finding.action

    assert judged(0.2) is Action.REBOOT_NODE
    assert judged(599) is Action.REBOOT_NODE
    assert judged(601) is Action.REPLACE_HARDWARE


# --- bad input ------------------------------------------------------------------------------------------------------


@given(
    st.sampled_from(EVERY),
    st.integers(0, 60),
    st.text(st.characters(codec="utf-8"), max_size=40),
)
def test_no_text_is_an_error_and_no_subject_is_long(
    example: tuple[str, str], cut: int, text: str
) -> None:
    line = example[1]
    for mangled in (line[:cut] + text + line[cut:], line[:cut] + text, line + text):
        event = read(mangled)
        if event is not None:
            assert len(event.subject) < 160
            assert len(event.message) <= MAX_TEXT
            assert not event.finding or event.finding in shipped().codes


FILLINGS = ["a", "0", " ", ":", "a b", "0:", "(", "[0", "0.0:", "_-", "error ", "x (0x1) "]


def test_no_line_of_8_kib_takes_long() -> None:
    """Every way into every pattern, followed by as much as a record can hold of what its repeats like."""
    slowest = (0.0, "")
    for _, line in EVERY:
        for cut in {8, 16, 24, 40, len(line) // 2, len(line)}:
            for filling in FILLINGS:
                text = (line[:cut] + filling * MAX_LINE_BYTES)[:MAX_LINE_BYTES]
                started = time.process_time()
                RULES.match(text)
                slowest = max(slowest, (time.process_time() - started, text[:60] + filling))
    assert slowest[0] < 0.02, slowest


def rules(*patterns: str, **fields: Any) -> Rules:
    row = {
        "code": "x-y",
        "meaning": "meaning",
        "severity": "info",
        "action": "none",
        "domain": "host",
        "family": "f",
        "clears": "quiet",
        "source": "source",
        "subject": "host",
        "patterns": list(patterns),
        **fields,
    }
    return compile_rules(parse(msgspec.yaml.encode({"codes": [row]})))


@pytest.mark.parametrize(
    ("pattern", "fields", "named"),
    [
        ("a(b", {}, "code x-y: pattern"),
        ("a", {"subject": ""}, "code x-y: it has patterns and no subject"),
        ("a", {"subject": "disk:{dev}"}, "code x-y: its pattern 'a' does not fill its subject"),
        ("a", {"subject": "disk:{"}, "code x-y"),
    ],
)
def test_a_pattern_that_cannot_be_used_names_its_code(
    pattern: str, fields: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        rules(pattern, **fields)


def test_a_catalogue_without_patterns_matches_nothing() -> None:
    empty = compile_rules(Catalogue({}))
    assert empty.match("") is None
    assert empty.match("EXT4-fs error (device sda1): x") is None


def test_the_first_pattern_that_matches_wins_and_groups_do_not_mix() -> None:
    both = rules("one (?P<name>\\d+)", "one (?P<name>\\w+)", subject="n:{name}")
    assert [both.match(text) for text in ("one 1", "one a", "two")] == [
        (both.rules["end_0"].code, "n:1", False),
        (both.rules["end_1"].code, "n:a", False),
        None,
    ]
