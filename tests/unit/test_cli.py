"""The operator's command by itself: what it refuses, what it prints, and that nobody's text steers the terminal."""

import json
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.policy.ladder import Rung
from cli.__main__ import TEXTS, main, parser
from cli.plain import clean
from cli.settings import RUNGS
from cli.terminal import Terminal, lasting, when
from contract.settings import EXIT_BAD_SETTINGS

NOW = 1_760_000_000.0


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in os.environ if each.startswith("FLEETMEDIC_")]:
        monkeypatch.delenv(name)


def test_it_knows_the_rungs_of_the_ladder() -> None:
    assert list(RUNGS) == [each.value for each in Rung]


@pytest.mark.parametrize("command", ["", *TEXTS])
def test_help_teaches_by_example_within_80_columns(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"] if command else ["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert f"  fleetmedic {command or 'incidents'}" in text
    assert "example" in text
    if not command:
        assert max(len(line) for line in text.splitlines()) <= 84


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["COMMAND"]),
        (["hold"], ["NODE"]),
        (["approve", "gpu-07"], ["STEP"]),
        (["approve", "gpu-07", "explode"], ["'explode'", "reboot-node"]),
        (["stop"], ["REASON"]),
        (["stop", "  "], ["REASON", "say why"]),
        (["hold", "gpu-07", "--note", ""], ["--note", "say why"]),
        (["note", "gpu-07", "x" * 5000], ["5000", "4096"]),
        (["why"], ["POD"]),
        (["why", "train-0", "--top", "0"], ["--top", "'0'", "from 1 to 100"]),
        (["frobnicate"], ["frobnicate", "incidents"]),
    ],
)
def test_what_is_not_understood_exits_2_and_names_it(
    arguments: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert all(part in said for part in parts)


def test_a_bad_setting_exits_2_and_says_where_it_came_from(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEETMEDIC_TIMEOUT_SECONDS", "soon")
    assert main(["incidents"]) == EXIT_BAD_SETTINGS
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "environment FLEETMEDIC_TIMEOUT_SECONDS" in said
    assert "'soon'" in said


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["incidents", "--server", "nowhere"], ["--server 'nowhere'", "http://localhost:8080"]),
        (
            ["explain", "gpu-07", "--server", "http://127.0.0.1:1"],
            [
                "the aggregator at http://127.0.0.1:1",
                "refused",
                "--server URL",
                "FLEETMEDIC_SERVER",
            ],
        ),
        (
            ["hold", "gpu-07", "--kubeconfig", "/none.yaml"],
            ["no usable kubeconfig (/none.yaml)", "--kubeconfig FILE"],
        ),
        (["incidents", "--kubeconfig", "/none.yaml"], ["/none.yaml", "--server URL"]),
    ],
)
def test_who_cannot_be_reached_is_named_with_the_remedy(
    arguments: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    for part in parts:
        assert part in said


@given(st.text())
def test_no_text_can_steer_a_terminal(text: str) -> None:
    assert all(each.isprintable() for each in clean(text))


def test_what_can_be_read_stays() -> None:
    assert clean("GPU 3: 91 °C, 温度过高") == "GPU 3: 91 °C, 温度过高"
    assert clean("\x1b[31mred\x1b[0m\r\nnext\x9b2J\u202e") == "[31mred[0m next2J"


def test_json_is_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().json({"evidence": "\x9b2J温"})
    text = capsys.readouterr().out
    assert text.isascii()
    assert json.loads(text) == {"evidence": "\x9b2J温"}


ROWS: list[list[str]] = [
    ["gpu-07", "gpu:0000:3b:00.0", "xid-79", "draining", "15m"],
    ["gpu-1234.rack-7", "rdma:mlx5_0/1", "rdma-port-down", "needs-human (held)", "2d"],
]


@pytest.mark.parametrize("width", [80, 120])
def test_a_table_fits_the_terminal_and_keeps_every_word(
    width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    under = ["waits for the budget: 2 of at most 2 nodes of pool 'h100' are quarantined " * 2, ""]
    Terminal(width).rows(["NODE", "DEVICE", "CODE", "PHASE", "AGE"], ROWS, under=under)
    printed = capsys.readouterr().out
    assert max(len(line.rstrip()) for line in printed.splitlines()) <= width
    assert all(cell in printed for row in ROWS for cell in row)
    assert " ".join(printed.split()).count("pool 'h100' are quarantined") == 2


def test_a_name_too_long_for_the_terminal_is_folded_and_not_cut(
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = "abcdefghijklmnopqrstuvwxyz" * 4
    Terminal(80).rows(["NODE", "CODE"], [[name, "0123456789"]])
    printed = capsys.readouterr().out.removeprefix("NODE")
    assert max(len(line.rstrip()) for line in printed.splitlines()) <= 80
    assert sorted("".join(printed.split())) == sorted(f"CODE{name}0123456789")


def test_where_no_person_looks_nothing_is_folded(capsys: pytest.CaptureFixture[str]) -> None:
    long = "word " * 200
    Terminal().say(long)
    Terminal().entry("", long)
    Terminal().command("kubectl " + long)
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0s"), (90, "90s"), (600, "10m"), (5_400, "90m"), (9_000, "2h30m"), (864_000, "10d")],
)
def test_durations(seconds: float, text: str) -> None:
    assert lasting(seconds) == text


def test_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    assert when(None, NOW) == ""
    assert when(NOW - 5, NOW).endswith(", 5s ago")
    assert when(NOW + 86_400 * 3, NOW).endswith(", in 3d")
    assert when(1e30, NOW).startswith("in ")


def test_every_command_is_parsed_as_its_example_says() -> None:
    import shlex

    def parsed(command: str) -> Any:
        return parser().parse_args(shlex.split(command)[1:])

    for name, (_, _, example) in TEXTS.items():
        assert parsed(example).command == name
    assert parsed("fleetmedic unhold gpu-07").command == "resume"
