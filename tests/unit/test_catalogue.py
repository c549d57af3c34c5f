"""The tables of codes: every row can be used as it stands, and says where it comes from."""

from importlib import resources
from typing import Any

import msgspec
import pytest

from agent import catalogue
from agent.catalogue.load import FILES, parse, shipped
from contract.vocabulary import Action, Domain, Severity

ROW = {
    "code": "x",
    "meaning": "m",
    "severity": "fatal",
    "action": "none",
    "domain": "gpu",
    "family": "f",
    "clears": "good-for",
    "source": "s",
}


def text(*content: dict[str, Any], **defaults: Any) -> bytes:
    return msgspec.yaml.encode({"defaults": defaults, "codes": list(content)})


def test_every_file_is_loaded() -> None:
    folder = resources.files(catalogue)
    assert {each.name for each in folder.iterdir() if each.name.endswith(".yaml")} == {
        *FILES,
        "ascend.yaml",  # read only on machines with NPUs
    }


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


def test_what_ends_by_silence_alone_keeps_no_pod_away_and_lasts_where_others_are_preferred() -> (
    None
):
    """Silence is no proof: nothing that is critical ends by it, and nothing that is degraded ends soon."""
    quiet = [code for code in shipped().codes.values() if code.clears == "quiet"]
    assert quiet
    assert [each.code for each in quiet if each.severity > Severity.DEGRADED] == []
    assert [
        each.code
        for each in quiet
        if each.severity > Severity.INFO and (each.clear_seconds or 0) < 600
    ] == []


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


def test_how_bad_the_findings_are_that_every_fleet_meets() -> None:
    """Pods are kept off, or moved, by these words: a change here is a change for every user."""
    expected = {
        "fatal": {"gpu-lost"},
        "critical": {
            *("gpu-count", "gpu-recovery-action", "rdma-port-down", "rdma-port-missing"),
            *("host-memory-pressure", "disk-pressure", "gpu-init-failed", "gpu-bar-invalid"),
        },
        "degraded": {"gpu-too-hot", "rdma-link-flap"},
        "info": {"nvidia-stuck", "gpu-not-supported", "nvidia-version-mismatch"},
    }
    codes = shipped().codes
    assert {
        severity: {each for each in named if codes[each].severity.label == severity}
        for severity, named in expected.items()
    } == expected


@pytest.mark.parametrize("number", [0, 999, 10**9])
def test_an_unknown_xid_is_shown_and_never_acted_on(number: int) -> None:
    code = shipped().xid(number)
    assert (code.code, code.severity, code.action) == (f"xid-{number}", Severity.INFO, Action.NONE)
    assert code.clears == "quiet"


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({**ROW, "severity": "terrible"}, "'terrible' is not a severity; use one of: info"),
        ({**ROW, "action": "pray"}, "'pray' is not a action"),
        ({**ROW, "domain": "moon"}, "'moon' is not a domain"),
        ({**ROW, "colour": "red"}, "colour"),
        ({**ROW, "clears": "never"}, "never"),
        ({**ROW, "limits": {"ratio": "high"}}, "limits"),
        ({"code": "x"}, "meaning"),
    ],
)
def test_a_malformed_row_is_named(row: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named) as caught:
        parse(text(row))
    assert "code x" in str(caught.value)


def test_a_doubled_row_is_named() -> None:
    with pytest.raises(ValueError, match="code x: it has two rows"):
        parse(text(ROW), text(ROW))


def test_a_row_may_leave_out_what_its_file_says_for_all() -> None:
    short = {"code": "y", "meaning": "m", "severity": "info", "action": "none"}
    codes = parse(text(short, domain="rdma", family="f", clears="quiet", source="s")).codes
    assert (codes["y"].domain, codes["y"].clears, codes["y"].hold_seconds) == (
        Domain.RDMA,
        "quiet",
        None,
    )


def test_a_sub_code_is_judged_as_its_code() -> None:
    found = parse(text({**ROW, "code": "xid-145"})).find("xid-145-7")
    assert (found.code, found.severity) == ("xid-145-7", Severity.FATAL)
