"""What docs/how-to/acting.md says can be typed as it stands."""

import re
from pathlib import Path

import msgspec
import pytest

from aggregator.__main__ import CHECKS, check
from aggregator.config import AggregatorSettings, rungs
from aggregator.ladder_file import parse
from aggregator.policy.ladder import Rung
from contract.settings import SettingsError

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "acting.md").read_text()
YAML = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
SETTINGS = [
    dict(line.strip().split(": ", 1) for line in block.splitlines())
    for block in re.findall(
        r"((?:^    \w+: .+\n)+)", re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL), re.MULTILINE
    )
]


def test_the_ladder_on_the_page_is_one() -> None:
    ladder = parse(YAML[1].encode(), "acting.md")
    assert ladder.by_code["xid-48"] == (Rung.TAINT,)


def test_the_settings_on_the_page_exist_and_go_together() -> None:
    assert len(SETTINGS) == 3
    for words in SETTINGS:
        assert words.keys() <= set(AggregatorSettings.__struct_fields__)
        for name in words.keys() & {"act", "needs_approval"}:
            CHECKS[name](words[name])
        settings = AggregatorSettings(
            act=words["act"],
            needs_approval=words.get("needs_approval", ""),
            directive_key_file="a-key" if rungs(words["act"]) & {Rung.REBOOT_NODE} else "",
        )
        check(settings)


def test_the_environment_on_the_page_exists() -> None:
    names = re.findall(r"FLEETMEDIC_AGGREGATOR_(\w+)", PAGE)
    assert {name.lower() for name in names} <= set(AggregatorSettings.__struct_fields__)


def test_the_defaults_on_the_page_are_true() -> None:
    plain = AggregatorSettings()
    row = r"\| `(\w+)`(?:, `(\w+)`)?(?:, `(\w+)`)? \| ([^|]+) \|"
    found = re.findall(row, PAGE)
    assert len(found) == 4
    for *names, values in found:
        numbers = [float(each) for each in re.findall(r"[\d.]+", values)]
        assert [getattr(plain, name) for name in names if name] == numbers


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"act": "taint,reboot-node", "directive_key_file": "k"}, "reboot-node without drain"),
        ({"act": "drain,reset-device"}, "reset-device needs directive_key_file"),
        ({"diagnose": True}, "diagnose needs directive_key_file"),
        ({"needs_approval": "drain"}, "needs_approval names drain, which is not in act"),
    ],
)
def test_settings_that_contradict_each_other_say_so(changes: dict[str, object], words: str) -> None:
    with pytest.raises(SettingsError) as refused:
        check(msgspec.structs.replace(AggregatorSettings(), **changes))
    assert words in str(refused.value)
