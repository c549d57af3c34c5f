"""The ladder as data: what is shipped makes sense, and what people write is read or refused with the place."""

from pathlib import Path

import pytest

from agent.catalogue.load import shipped as catalogue
from aggregator.ladder_file import load, parse, shipped
from aggregator.policy.ladder import DRAINS, REPAIRS, Rung
from contract.settings import SettingsError
from contract.vocabulary import Action
from tests.ward import dead_gpu


def test_every_action_has_its_ladder_and_every_rung_its_bounds() -> None:
    ladder = shipped()
    assert set(ladder.by_action) == {action.label for action in Action}
    assert set(ladder.bounds) == set(Rung)


def test_every_ladder_begins_with_the_taint_and_never_repairs_under_pods() -> None:
    ladder = shipped()
    for rungs in (*ladder.by_action.values(), *ladder.by_code.values()):
        assert rungs[0] is Rung.TAINT
        if Rung.RESET_DEVICE in rungs:
            assert set(rungs[: rungs.index(Rung.RESET_DEVICE)]) & DRAINS
        if Rung.REBOOT_NODE in rungs:
            assert Rung.DRAIN in rungs[: rungs.index(Rung.REBOOT_NODE)]
        assert list(rungs).count(Rung.REPLACE) <= 1
        assert Rung.REPLACE not in rungs[:-1], "people come last"


def test_every_repair_is_bounded() -> None:
    for rung in REPAIRS | DRAINS:
        bounds = shipped().bounds[rung]
        assert 1 <= bounds.most_attempts <= 3
        assert bounds.window_seconds >= 86_400
        assert 0 < bounds.time_limit_seconds <= 7_200


def test_a_code_of_ours_named_in_it_is_one_that_exists() -> None:
    known = set(catalogue().codes)
    assert set(shipped().by_code) <= known


def test_a_code_goes_before_its_action() -> None:
    ladder = parse(
        b"bounds: {}\nby_action: {reset-device: [taint, drain]}\nby_code: {xid-48: [taint]}\n", "m"
    )
    assert ladder.rungs(dead_gpu("reset-device", code="xid-48")) == (Rung.TAINT,)
    assert ladder.rungs(dead_gpu("reset-device")) == (Rung.TAINT, Rung.DRAIN)
    assert ladder.rungs(dead_gpu("reboot-node")) == (Rung.TAINT,), "not named: the taint alone"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "is empty"),
        (b"bounds: {}\n", "by_action"),
        (b"bounds: {}\nby_action: {reset-gpu: [taint]}\n", "'reset-gpu' is no action; use one of"),
        (b"bounds: {}\nby_action: {none: [explode]}\n", "explode"),
        (b"bounds: {drain: {most: 1}}\nby_action: {}\n", "most"),
        (b"bounds: {drain: {most_attempts: -1}}\nby_action: {}\n", "drain: a number below 0"),
        (b"bounds: [\n", "m:"),
    ],
)
def test_what_cannot_be_used_names_itself(text: bytes, words: str) -> None:
    with pytest.raises(SettingsError, match=r"^m: ") as refused:
        parse(text, "m")
    assert words in str(refused.value)


def test_a_file_that_is_not_there_names_itself(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.yaml: cannot be read: No such file"):
        load(tmp_path / "none.yaml")
