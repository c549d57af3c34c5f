"""A cluster's own judgement: what a file may say, what it changes, and what happens to one that cannot be used."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import assume, example, given
from hypothesis import strategies as st

from agent.catalogue.load import parse as catalogue_of
from agent.catalogue.load import shipped
from agent.config import ENV_PREFIX, AgentSettings
from agent.overrides import Judgement, Override, Overrides, apply
from agent.overrides_file import MAX_BYTES, MAX_ENTRIES, OverridesError, parse
from agent.overrides_keeper import OverrideKeeper
from contract.vocabulary import Action, Severity

ROW = {"meaning": "m", "domain": "gpu", "family": "f", "clears": "quiet", "source": "s"}
STEP = {"count": 3, "within_seconds": 3600, "severity": "critical", "action": "reset-device"}
ROWS = (
    {"code": "xid-63", "severity": "info", "action": "none"},
    {"code": "xid-79", "severity": "fatal", "action": "reboot-node"},
    {"code": "xid-145", "severity": "degraded", "action": "reset-device", "escalation": [STEP]},
    {
        "code": "gpu-hot",
        "severity": "degraded",
        "action": "replace-hardware",
        "limits": {"core_celsius": 90.0, "memory_celsius": 95.0},
    },
    {
        "code": "rdma-errors",
        "severity": "degraded",
        "action": "replace-hardware",
        "limits": {"per_hour": 10, "window_seconds": 3600, "spare": 0},
    },
)
CATALOGUE = catalogue_of(msgspec.yaml.encode({"defaults": ROW, "codes": list(ROWS)}))
HERE = {"pool": "h100", "model": "NVIDIA H100 80GB HBM3", "node": "gpu-07.example"}


def text(*entries: Any) -> bytes:
    return msgspec.yaml.encode({"overrides": list(entries)})


def entry(**fields: Any) -> dict[str, Any]:
    return {"code": "xid-63", "reason": "known", **fields}


def judged(*entries: dict[str, Any], **here: str) -> Judgement:
    return apply(CATALOGUE, parse(text(*entries), CATALOGUE), **{**HERE, **here})


def problems(content: bytes) -> tuple[str, ...]:
    with pytest.raises(OverridesError) as caught:
        parse(content, CATALOGUE)
    return caught.value.problems


class TestWhatItChanges:
    def test_only_what_is_named(self) -> None:
        before = CATALOGUE.find("gpu-hot")
        after = judged(entry(code="gpu-hot", severity="info")).catalogue.find("gpu-hot")
        assert after == msgspec.structs.replace(before, severity=Severity.INFO)

    def test_every_field(self) -> None:
        code = judged(
            entry(
                code="gpu-hot",
                severity="critical",
                action="reset-device",
                hold_seconds=0,
                clear_seconds=600,
                limits={"core_celsius": 80},
                escalation=[STEP],
            )
        ).catalogue.find("gpu-hot")
        assert (code.severity, code.action) == (Severity.CRITICAL, Action.RESET_DEVICE)
        assert (code.hold_seconds, code.clear_seconds) == (0, 600)
        assert code.limits == {"core_celsius": 80, "memory_celsius": 95}
        (step,) = code.escalation
        assert (step.count, step.within_seconds, step.severity) == (3, 3600, Severity.CRITICAL)

    def test_an_escalation_is_taken_away_by_an_empty_one_alone(self) -> None:
        kept = judged(entry(code="xid-145", severity="info")).catalogue.find("xid-145")
        assert len(kept.escalation) == 1
        gone = judged(entry(code="xid-145", escalation=[])).catalogue.find("xid-145")
        assert gone.escalation == ()

    def test_later_entries_win_field_by_field(self) -> None:
        code = judged(
            entry(code="gpu-hot", severity="info", hold_seconds=30),
            entry(code="gpu-*", hold_seconds=60),
        ).catalogue.find("gpu-hot")
        assert (code.severity, code.hold_seconds) == (Severity.INFO, 60)

    def test_a_pattern_sets_a_limit_where_there_is_one(self) -> None:
        codes = judged(entry(code="*", limits={"per_hour": 99})).catalogue.codes
        assert codes["rdma-errors"].limits == {
            **CATALOGUE.codes["rdma-errors"].limits,
            "per_hour": 99,
        }
        assert codes["gpu-hot"].limits == CATALOGUE.codes["gpu-hot"].limits

    def test_a_limit_that_ships_as_zero_may_be_zero(self) -> None:
        code = judged(entry(code="rdma-errors", limits={"spare": 0, "per_hour": 1}))
        assert code.catalogue.find("rdma-errors").limits["spare"] == 0

    @pytest.mark.parametrize(
        ("fields", "concerned"),
        [
            ({}, True),
            ({"pools": ["h100"]}, True),
            ({"pools": ["a100-*", "H1*"]}, True),
            ({"pools": ["a100-*"]}, False),
            ({"models": ["*h100*"]}, True),
            ({"models": ["H100"]}, False),
            ({"nodes": ["gpu-07*"]}, True),
            ({"nodes": ["gpu-08*"]}, False),
            ({"pools": ["h100"], "models": ["*H100*"], "nodes": ["gpu-08*"]}, False),
        ],
    )
    def test_whom_it_concerns(self, fields: dict[str, Any], concerned: bool) -> None:
        judgement = judged(entry(hold_seconds=77, **fields))
        assert (judgement.catalogue.find("xid-63").hold_seconds == 77) is concerned
        assert judgement.reason("xid-63") == ("known" if concerned else "")

    def test_a_node_that_names_no_pool_is_in_none(self) -> None:
        assert judged(entry(ignore=True, pools=["h100"]), pool="").catalogue is CATALOGUE


class TestCodesWithoutARow:
    def test_a_pattern_covers_xids_that_nobody_knows(self) -> None:
        find = judged(entry(code="xid-*", severity="degraded")).catalogue.find
        assert find("xid-999").severity is Severity.DEGRADED
        assert find("xid-79").severity is Severity.DEGRADED
        assert find("sxid-999").severity is Severity.INFO

    def test_an_unknown_xid_can_be_named(self) -> None:
        judgement = judged(entry(code="xid-999", severity="critical", action="reset-device"))
        code = judgement.catalogue.xid(999)
        assert (code.severity, code.action) == (Severity.CRITICAL, Action.RESET_DEVICE)
        assert judgement.catalogue.xid(998).severity is Severity.INFO

    def test_a_judgement_from_another_table_is_overridden_too(self) -> None:
        """The eight hundred fault codes of NPUs are kept apart from the catalogue."""
        fault = msgspec.structs.replace(CATALOGUE.find("xid-79"), code="npu-80e01801")
        over = judged(
            entry(code="npu-80e0*", severity="degraded"), entry(severity="info")
        ).catalogue.over
        assert over(fault) == msgspec.structs.replace(fault, severity=Severity.DEGRADED)
        assert judged().catalogue.over(fault) is fault

    def test_a_sub_code_follows_its_code_and_the_later_entry_wins(self) -> None:
        whole = entry(code="xid-145", severity="info")
        part = entry(code="xid-145-7", severity="fatal", action="reboot-node")
        find = judged(whole, part).catalogue.find
        assert [find(f"xid-145-{n}").severity for n in (6, 7)] == [Severity.INFO, Severity.FATAL]
        assert judged(part, whole).catalogue.find("xid-145-7").severity is Severity.INFO


class TestIgnoring:
    def test_an_ignored_code_is_ignored_and_still_known(self) -> None:
        judgement = judged(entry(code="xid-79", ignore=True, reason="a lab"))
        assert "xid-79" in judgement.ignored
        assert list(judgement.ignored) == ["xid-79"]
        assert judgement.catalogue.find("xid-79") == CATALOGUE.find("xid-79")
        assert judgement.reason("xid-79") == "a lab"

    def test_also_where_there_is_no_row(self) -> None:
        ignored = judged(entry(code="xid-*", ignore=True)).ignored
        assert {"xid-63", "xid-999", "xid-145-7"} <= {
            code for code in ("xid-63", "xid-999", "xid-145-7", "gpu-hot") if code in ignored
        }
        assert "gpu-hot" not in ignored

    def test_what_raises_nothing_anyway_has_no_code_to_ignore(self) -> None:
        """An event that a person wrote to clear a finding carries none."""
        ignored = judged(entry(code="*", ignore=True)).ignored
        assert "" not in ignored
        assert "gpu-new" in ignored

    def test_a_later_entry_takes_it_back(self) -> None:
        ignored = judged(
            entry(code="xid-*", ignore=True), entry(code="xid-79", ignore=False)
        ).ignored
        assert "xid-63" in ignored
        assert "xid-79" not in ignored

    def test_without_a_word_nothing_is(self) -> None:
        assert len(judged(entry(code="*", severity="info")).ignored) == 0
        assert "xid-999" not in judged().ignored
        assert judged().catalogue is CATALOGUE


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("fields", "told"),
        [
            ({"severity": "terrible"}, "severity: 'terrible' cannot be used: 'terrible' is not a"),
            ({"severity": "terrible"}, "use one of: info, degraded, critical, fatal"),
            ({"action": "pray"}, "use one of: none, restart-workload"),
            ({"hold_seconds": -1}, "hold_seconds: -1 cannot be used: expected 0 to 86400 seconds"),
            ({"clear_seconds": 1e9}, "expected 0 to 2.592e+06 seconds"),
            ({"hold_seconds": float("nan")}, "expected a finite number"),
            ({"hold_seconds": True}, "expected a number"),
            ({"hold_seconds": "10s"}, "'10s' cannot be used: expected a number"),
            ({"ignore": "yes please"}, "expected true or false"),
            ({"severty": "info"}, "unknown field 'severty'; did you mean 'severity'?"),
            (
                {"code": "xid-seventy"},
                "no code is called 'xid-seventy'; known: gpu-hot, rdma-errors, xid-145",
            ),
            ({"code": "gpu-hto", "ignore": True}, "did you mean 'gpu-hot'?"),
            ({"code": 63, "ignore": True}, "code: 63 cannot be used: expected text"),
            ({"code": "gpu-hot", "limits": {"celsius": 1}}, "did you mean 'core_celsius'?"),
            ({"limits": {"celsius": 1}}, "'celsius' is no limit of 'xid-63'; there is none to set"),
            ({"code": "gpu-hot", "limits": {"core_celsius": "hot"}}, "expected a number"),
            ({"code": "gpu-hot", "limits": []}, "expected 'name: number' lines"),
            (
                {"code": "gpu-hot", "limits": {"core_celsius": 0}},
                "limits: core_celsius 0 cannot be used: expected 1e-09 to 1e+12",
            ),
            ({"code": "gpu-*", "limits": {"core_celsius": -3}}, "core_celsius -3 cannot be used"),
            ({"code": "gpu-hot", "limits": {"core_celsius": 1e13}}, "expected 1e-09 to 1e+12"),
            ({"code": "gpu-hot", "limits": {"core_celsius": 5e-324}}, "expected 1e-09 to 1e+12"),
            ({"code": "rdma-errors", "limits": {"window_seconds": 0}}, "1e-09 to 2.592e+06 sec"),
            ({"code": "rdma-errors", "limits": {"window_seconds": 2.6e6}}, "to 2.592e+06 seconds"),
            ({"code": "*", "limits": {"window_seconds": -1}}, "window_seconds -1 cannot be used"),
            ({"code": "rdma-errors", "limits": {"spare": -1}}, "spare -1 cannot be used"),
            ({"pools": "h100", "ignore": True}, "expected a list of shell patterns"),
            ({"pools": [], "ignore": True}, "leave it out for all"),
            ({"pools": [100], "ignore": True}, "put it in quotes"),
            ({"severity": "fatal"}, "say in the same entry what mends it"),
            ({"severity": "critical", "action": "none"}, "say in the same entry what mends it"),
            ({"code": "xid-79", "action": "none"}, "say in the same entry how bad it is"),
            ({"escalation": [{**STEP, "action": "none"}]}, "escalation: critical with action none"),
            ({"escalation": [{**STEP, "count": 0}]}, "count 0 is too small"),
            ({"escalation": [{**STEP, "within_seconds": 0}]}, "expected more than 0"),
            ({"escalation": [{"count": 1}]}, "missing required field `within_seconds`"),
            ({"reason": "", "ignore": True}, "expected 1 to 500 printable characters"),
            ({"reason": "a\x07b", "ignore": True}, "printable"),
            ({}, "it changes nothing; give one of action, clear_seconds,"),
        ],
    )
    def test_it_says_what_and_what_to_do(self, fields: dict[str, Any], told: str) -> None:
        found = problems(text(entry(), entry(**fields)))[1:]
        assert any(told in each for each in found), found
        assert all(each.startswith("entry 2") for each in found)

    @pytest.mark.parametrize(
        ("code", "taken"),
        [
            *(("npu-*", True), ("sxid-2300?", True), ("npu-80e01801", True), ("xid-145-9", True)),
            *(("npu-temp*", False), ("rdma-9", False), ("xidd-*", False), ("XID-63", False)),
        ],
    )
    def test_only_vendors_numbers_need_no_row(self, code: str, taken: bool) -> None:
        content = text(entry(code=code, ignore=True))
        if taken:
            assert len(parse(content, CATALOGUE).entries) == 1
        else:
            assert "no code is called" in problems(content)[0]

    def test_all_mistakes_at_once_each_with_its_entry(self) -> None:
        found = problems(
            text(
                entry(severity="terrible", hold_seconds=-1),
                entry(severity="info"),
                {"code": "gpu-hot", "ignore": True},
                "xid-79",
            )
        )
        assert [each.partition(":")[0] for each in found] == [
            "entry 1 (xid-63)",
            "entry 1 (xid-63)",
            "entry 3 (gpu-hot)",
            "entry 4",
        ]
        assert "it has no reason" in found[2]

    def test_a_thousand_mistakes_are_not_told_one_by_one(self) -> None:
        with pytest.raises(OverridesError) as caught:
            parse(text(*[entry(severity="x")] * 400), CATALOGUE)
        assert str(caught.value).endswith("\nand 350 more")

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            (b"a" * (MAX_BYTES + 1), "262144 are allowed"),
            (text(*[entry(ignore=True)] * (MAX_ENTRIES + 1)), "501 entries; 500 are allowed"),
            (b"overrides:\n  code: x\n", "begin each entry with '- code: "),
            (b"- code: x\n", "the file must have one key, 'overrides:'"),
            (b"overrides: []\nother: 1\n", "the file must have one key"),
            (b"overrides: [", "not valid YAML"),
            (b"\xff\xfe\xff", "not valid YAML"),
            (b"overrides: []\noverrides: []\n", "line 2: 'overrides' stands twice"),
            (b"overrides:\n- code: a\n  code: b\n", "line 3: 'code' stands twice"),
            (b"overrides: &a [*a]", "write the value out"),
            (b"[" * 200_000, "nested deeper than 16 levels"),
            (b"a: 2001-99-99", "not valid YAML"),
            (b"{[a]: 1}", "a key must be one word"),
        ],
    )
    def test_a_file_that_is_none(self, content: bytes, told: str) -> None:
        (found,) = problems(content)
        assert told in found

    @pytest.mark.parametrize("content", [b"", b"# nothing\n", b"overrides:\n", b"overrides: []\n"])
    def test_an_empty_file_overrides_nothing(self, content: bytes) -> None:
        assert parse(content, CATALOGUE) == Overrides()


class TestKeeper:
    def test_a_refused_file_leaves_the_last_good_one_in_force(self) -> None:
        keeper = OverrideKeeper(CATALOGUE)
        assert keeper.valid
        assert keeper.offer(text(entry(code="xid-79", ignore=True)))
        assert keeper.offer(text(entry(severity="terrible")))
        assert not keeper.valid
        assert "'terrible' is not a severity" in keeper.error
        assert "xid-79" in keeper.judgement(**HERE).ignored
        assert keeper.offer(b"")
        assert keeper.valid
        assert "xid-79" not in keeper.judgement(**HERE).ignored

    def test_only_news_is_news(self) -> None:
        keeper = OverrideKeeper(CATALOGUE)
        assert not keeper.offer(b"")
        good = text(entry(ignore=True))
        assert keeper.offer(good)
        judgement = keeper.judgement(**HERE)
        assert not keeper.offer(good + b"\n# a comment\n")
        assert keeper.judgement(**HERE) is judgement
        assert keeper.offer(b"a")
        assert not keeper.offer(b"a")
        assert keeper.judgement(**HERE) is judgement

    def test_a_gpu_that_is_named_later_is_judged_by_its_model(self) -> None:
        keeper = OverrideKeeper(CATALOGUE)
        keeper.offer(text(entry(ignore=True, models=["*H100*"])))
        assert "xid-63" not in keeper.judgement(**{**HERE, "model": ""}).ignored
        assert "xid-63" in keeper.judgement(**HERE).ignored


CODE = st.sampled_from(["*", "xid-*", "gpu-hot", "xid-63", "xid-79", "xid-999", "xid-145-7"])
SAID = st.fixed_dictionaries(
    {"code": CODE, "reason": st.just("r")},
    optional={
        "pools": st.lists(st.sampled_from(["h100", "a*", "*"]), min_size=1, max_size=2),
        "severity": st.sampled_from([each.label for each in Severity]),
        "action": st.sampled_from([each.label for each in Action]),
        "hold_seconds": st.floats(0, 100),
        "ignore": st.booleans(),
        "escalation": st.lists(st.just(STEP), max_size=2),
    },
)


@given(st.lists(SAID, max_size=6))
def test_no_combination_loses_a_code_or_keeps_pods_away_without_a_remedy(
    entries: list[dict[str, Any]],
) -> None:
    good: list[Override] = []
    for each in entries:
        try:
            good += parse(text(each), CATALOGUE).entries
        except OverridesError:
            continue
    assume(good)
    judgement = apply(CATALOGUE, Overrides(tuple(good)), **HERE)
    assert judgement.catalogue.codes.keys() == CATALOGUE.codes.keys()
    for name in (*CATALOGUE.codes, "xid-999", "xid-145-7", "gpu-new"):
        code = judgement.catalogue.find(name)
        assert code.code == name
        assert code.severity < Severity.CRITICAL or code.action is not Action.NONE
    assert set(judgement.ignored) <= CATALOGUE.codes.keys()


PIECES = st.sampled_from(
    [
        *(b"overrides:", b"\n", b"\n- ", b"\n  ", b"code: xid-63", b"reason: x", b"severity: "),
        *(b"[", b"]", b"{", b"}", b"!!int ", b"!!float ", b"!!timestamp ", b"!!set ", b"!!binary "),
        *(b"&a ", b"*a", b"<<: ", b"? ", b": ", b"- ", b"'", b'"', b"|", b"2001-12-14", b"=", b"~"),
        *(b".nan", b"-.inf", b"0x" + b"f" * 5000, b"9" * 5000, b"1:2:3", b'"\\ud800"', b"limits: "),
    ]
)


@given(st.binary(max_size=300) | st.lists(PIECES, max_size=25).map(b"".join))
@example(b"overrides: [{code: xid-63, reason: 0x" + b"f" * 5000 + b"}]")
@example(b"overrides: [{code: xid-63, reason: r, hold_seconds: 0x" + b"f" * 5000 + b"}]")
@example(b"overrides: [{code: xid-63, reason: r, 0x" + b"f" * 5000 + b": 1}]")
@example(b"overrides: [{? !!timestamp x : 1}]")
@example(b"overrides: [{escalation: {a: -0x" + b"f" * 5000 + b"}}]")
def test_no_bytes_raise_anything_but_the_mistake(content: bytes) -> None:
    with suppress(OverridesError):
        parse(content, CATALOGUE)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from([*Override.__struct_fields__, "x"]), inner, max_size=8
            )
        ),
        max_leaves=20,
    )
)
def test_no_values_do_either(content: Any) -> None:
    whole = yaml.safe_dump({"overrides": [content]}, allow_unicode=False).encode()
    with suppress(OverridesError):
        parse(whole, CATALOGUE)


PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "overrides.md"


def examples() -> list[str]:
    blocks = PAGE.read_text().split("```yaml\n")[1:]
    return [block.partition("```")[0] for block in blocks]


def documents() -> list[dict[str, Any]]:
    return [each for block in examples() for each in yaml.safe_load_all(block)]


def test_every_example_of_the_page_can_be_used_as_it_stands() -> None:
    """Lists of entries, ConfigMaps that hold them, and manifests that set settings of ours."""
    used: dict[str, list[str]] = {"entries": [], "ConfigMap": [], "settings": []}
    for block in examples():
        for document in yaml.safe_load_all(block):
            if "overrides" in document:
                found = parse(block.encode(), shipped()).entries
                used["entries"] += [each.code for each in found]
            elif document.get("kind") == "ConfigMap":
                (content,) = document["data"].values()
                found = parse(content.encode(), shipped()).entries
                used["ConfigMap"] += [each.code for each in found]
            else:
                names = [each["name"] for each in _settings_in(document)]
                assert {name.removeprefix(ENV_PREFIX).lower() for name in names} <= {
                    *AgentSettings.__struct_fields__
                }
                used["settings"] += names
    assert all(used.values()), used


def test_the_page_names_every_field_and_no_other() -> None:
    named = {line.split("`")[1] for line in PAGE.read_text().splitlines() if line.startswith("| `")}
    assert named == set(Override.__struct_fields__)


def test_what_the_examples_change_is_worth_an_example() -> None:
    """Each changes the shipped catalogue somewhere; a stale example would not."""
    for document in documents():
        if document.get("kind") != "ConfigMap":
            continue
        (content,) = document["data"].values()
        for each in parse(content.encode(), shipped()).entries:
            alone = Overrides((msgspec.structs.replace(each, pools=(), models=(), nodes=()),))
            judgement = apply(shipped(), alone, pool="", model="", node="")
            before, after = (
                [catalogue.codes, catalogue.find("xid-999")]
                for catalogue in (shipped(), judgement.catalogue)
            )
            assert judgement.ignored or before != after, each


def _settings_in(document: Any) -> list[dict[str, Any]]:
    if isinstance(document, dict):
        found = [document] if str(document.get("name", "")).startswith(ENV_PREFIX) else []
        return found + [each for value in document.values() for each in _settings_in(value)]
    if isinstance(document, list):
        return [each for value in document for each in _settings_in(value)]
    return []
