"""The tables of codes: every row can be used as it stands, and says where it comes from."""

from importlib import resources
from typing import Any

import msgspec
import pytest

from agent import catalogue
from agent.catalogue import parse, shipped
from contract.vocabulary import Action, Domain, Severity

CHECK = {
    "code": "x",
    "meaning": "m",
    "severity": "fatal",
    "action": "none",
    "domain": "gpu",
    "hold": True,
    "source": "s",
}
XID = {
    "xid": 1,
    "meaning": "m",
    "severity": "info",
    "action": "none",
    "clears": "quiet",
    "source": "s",
}
FOLDER = resources.files(catalogue)


def rows(name: str) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = msgspec.yaml.decode((FOLDER / name).read_bytes())
    return content


def text(*content: dict[str, Any]) -> bytes:
    return msgspec.yaml.encode(list(content))


def test_every_row_became_a_code() -> None:
    """None is lost to a doubled name."""
    names = [row["code"] for row in rows("checks.yaml")]
    names += [f"xid-{row['xid']}" for row in rows("xid.yaml")]
    assert sorted(names) == sorted(shipped().codes)


@pytest.mark.parametrize("code", shipped().codes.values(), ids=lambda code: code.code)
def test_every_row_says_what_it_means_and_where_that_is_written(code: catalogue.Code) -> None:
    assert len(code.meaning) > 10
    assert len(code.source) > 10
    assert code.severity in Severity
    assert code.action in Action
    assert code.domain in Domain


def test_a_row_that_asks_for_no_new_pods_says_what_would_mend_it() -> None:
    serious = [code for code in shipped().codes.values() if code.severity >= Severity.CRITICAL]
    assert serious
    assert [code.code for code in serious if code.action is Action.NONE] == []


def test_only_an_event_of_the_workload_clears_by_silence() -> None:
    quiet = [code for code in shipped().codes.values() if code.clears == "quiet"]
    assert quiet
    assert [code.code for code in quiet if code.severity > Severity.INFO] == []


@pytest.mark.parametrize(
    ("number", "severity", "action"),
    [
        (13, Severity.INFO, Action.RESTART_WORKLOAD),
        (48, Severity.FATAL, Action.RESET_DEVICE),
        (79, Severity.FATAL, Action.REBOOT_NODE),
        (94, Severity.INFO, Action.RESTART_WORKLOAD),
        (95, Severity.FATAL, Action.RESET_DEVICE),
    ],
)
def test_well_known_xids(number: int, severity: Severity, action: Action) -> None:
    code = shipped().xid(number)
    assert (code.code, code.severity, code.action) == (f"xid-{number}", severity, action)


def test_how_bad_each_of_our_own_findings_is() -> None:
    """Pods are kept off, or moved, by these words: a change here is a change for every user."""
    by_severity: dict[str, set[str]] = {}
    for code in shipped().codes.values():
        if not code.code.startswith("xid-"):
            by_severity.setdefault(code.severity.label, set()).add(code.code)
    assert by_severity == {
        "fatal": {"gpu-lost"},
        "critical": {
            *("gpu-count", "gpu-recovery-action", "rdma-port-down", "rdma-port-missing"),
            *("host-memory-pressure", "disk-pressure"),
        },
        "degraded": {"gpu-too-hot", "rdma-link-flap"},
        "info": {"nvidia-stuck"},
    }


@pytest.mark.parametrize("number", [0, 999, 10**9])
def test_an_unknown_xid_is_shown_and_never_acted_on(number: int) -> None:
    code = shipped().xid(number)
    assert (code.code, code.severity, code.action) == (f"xid-{number}", Severity.INFO, Action.NONE)
    assert code.clears == "quiet"


@pytest.mark.parametrize(
    ("checks", "xids", "named"),
    [
        ({**CHECK, "severity": "terrible"}, XID, "'terrible' is not a severity; use one of: info"),
        ({**CHECK, "action": "pray"}, XID, "'pray' is not a action"),
        ({**CHECK, "domain": "moon"}, XID, "'moon' is not a domain"),
        ({**CHECK, "colour": "red"}, XID, "colour"),
        (CHECK, {**XID, "clears": "never"}, "never"),
        (CHECK, {**XID, "xid": "many"}, "xid"),
        (CHECK, {"xid": 1}, "meaning"),
    ],
)
def test_a_malformed_row_is_named(checks: dict[str, Any], xids: dict[str, Any], named: str) -> None:
    with pytest.raises((ValueError, msgspec.ValidationError), match=named):
        parse(text(checks), text(xids))


def test_rows_as_given() -> None:
    codes = parse(text(CHECK), text(XID)).codes
    assert (codes["x"].clears, codes["x"].hold) == ("good-for", True)
    assert (codes["xid-1"].clears, codes["xid-1"].hold) == ("quiet", False)
    assert codes["xid-1"].domain is Domain.GPU
