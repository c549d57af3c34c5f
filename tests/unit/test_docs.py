"""The documents that people follow at night: complete, true to the catalogue, and without dead ends."""

import re
from itertools import chain
from pathlib import Path

import pytest

from agent.catalogue.load import shipped
from docs import comparison, families, health_checks

ROOT = Path(__file__).parents[2]
SECTIONS = [
    "What it means",
    "How sure we are",
    "What Fleetmedic does by itself",
    "What to do by hand",
]
COMPARISON = comparison.load()
ROWS = [(table.title, row) for table in COMPARISON.tables for row in table.rows]
PAGES = [*sorted(health_checks.FINDINGS.glob("*.md")), health_checks.INDEX, health_checks.PAGE]
EXPORTERS = "".join(path.read_text() for path in (ROOT / "agent" / "exporter").glob("*.py"))
PROOFS = sorted(
    {
        *chain.from_iterable(row.proof for _, row in ROWS),
        *chain.from_iterable(each.proof for each in COMPARISON.differences),
    }
)


def page(family: str) -> str:
    return health_checks.page_of(family).read_text()


def prose(family: str) -> str:
    """What people wrote: the page without what is generated."""
    return re.sub(r"<!-- (codes|does) -->.*?<!-- /\1 -->", "", page(family), flags=re.DOTALL)


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors(path: Path) -> set[str]:
    return {slug(each) for each in re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)}


def test_every_family_has_a_page_and_every_page_a_family() -> None:
    assert {path.stem for path in health_checks.FINDINGS.glob("*.md")} == set(families.codes())


def test_a_code_without_a_row_has_a_page_too() -> None:
    for code in ("xid-4711", "sxid-4711", "npu-4711", "npu-ffffffff"):
        assert health_checks.page_of(shipped().find(code).family).is_file()


@pytest.mark.parametrize("family", families.codes())
class TestEachPage:
    def test_it_has_its_title_a_summary_and_the_four_sections(self, family: str) -> None:
        text = page(family)
        assert text.startswith(f"# {family}\n\n")
        assert health_checks.summary(family).endswith(".")
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS

    def test_every_section_says_something(self, family: str) -> None:
        for section in re.split(r"^## .+$", page(family), flags=re.MULTILINE)[1:]:
            assert len(re.sub(r"<!--.*?-->", "", section).split()) > 5

    def test_it_names_every_code(self, family: str) -> None:
        text = page(family)
        missing = [code.code for code in families.codes()[family] if f"`{code.code}`" not in text]
        assert missing == []
        if not families.codes()[family]:
            assert families.UNLISTED[family] in text

    def test_it_says_how_to_end_a_finding_and_how_to_judge_otherwise(self, family: str) -> None:
        by_hand = prose(family).partition("## What to do by hand")[2]
        found = re.search(
            r"^    echo 'fleetmedic: clear (\S+) (\S+)' > /dev/kmsg$", by_hand, re.MULTILINE
        )
        assert found
        assert family == "npu" or shipped().find(found[1]).family == family
        assert "overrides.md" in by_hand

    def test_there_is_a_command_to_copy(self, family: str) -> None:
        by_hand = prose(family).partition("## What to do by hand")[2]
        commands = re.findall(r"^ {4,}(\S.*)$", by_hand, re.MULTILINE)
        assert [each for each in commands if not each.startswith("echo 'fleetmedic")]

    def test_every_limit_that_it_quotes_is_one_of_its_codes(self, family: str) -> None:
        limits = {name for code in families.everything(family) for name in code.limits}
        quoted = set(
            re.findall(
                r"`(\w+_(?:seconds|ratio|celsius|min|max|minute|siblings)|\w+_per_\w+)`",
                prose(family),
            )
        )
        others = {"gpu_too_hot_celsius", "disk_low_ratio", "memory_low_ratio", "pid_max"}
        assert quoted - limits - others == set()

    def test_it_fits_on_a_screen_or_two(self, family: str) -> None:
        assert 20 <= len(prose(family).splitlines()) <= 50


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        name, _, anchor = target.partition("#")
        file = (path.parent / name) if name else path
        assert file.exists(), f"{path.name}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{path.name}: {target}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_code_that_is_named_exists(path: Path) -> None:
    families_too = set(families.codes()) | {"xid-149-link"}
    named = set(
        re.findall(
            r"`((?:gpu|rdma|mlx5|disk|mount|nvme|raid|task|xid|sxid)-[a-z0-9-]+)`", path.read_text()
        )
    )
    unknown = [each for each in named - families_too if not comparison.matching(each)]
    assert unknown == []


def test_the_documents_are_fresh(capsys: pytest.CaptureFixture[str]) -> None:
    assert health_checks.main(["--check"]) == 0, capsys.readouterr().err


def test_a_stale_document_is_named_and_left_as_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "page.md"
    file.write_text("old")
    monkeypatch.setattr(health_checks, "documents", lambda: iter([(file, "new")]))
    assert health_checks.main(["--check"]) == 1
    assert "page.md is stale" in capsys.readouterr().err
    assert file.read_text() == "old"
    assert health_checks.main([]) == 0
    assert file.read_text() == "new"
    assert health_checks.main(["--check"]) == 0


def test_a_page_without_its_marker_is_named() -> None:
    with pytest.raises(ValueError, match=r"gpu\.md: it needs <!-- codes -->"):
        health_checks.filled("# gpu\n", "codes", "table", Path("gpu.md"))


class TestTheComparison:
    @pytest.mark.parametrize(("title", "row"), ROWS)
    def test_an_empty_cell_has_a_reason_and_who_shows_it(
        self, title: str, row: comparison.Row
    ) -> None:
        if not (row.ours or row.shown):
            assert row.why, f"{title}: {row.theirs}"
            assert row.not_yet or row.proof or row.document, f"{title}: {row.theirs}"

    def test_what_is_missing_says_why_and_is_listed_once_more(self) -> None:
        listed = health_checks.PAGE.read_text().partition("## Missing")[2]
        missing = [(title, row) for title, row in ROWS if row.not_yet]
        assert missing
        for title, row in missing:
            assert row.why
            assert f"- {row.theirs} ({title}): {row.why}" in listed

    @pytest.mark.parametrize("pattern", sorted({each for _, row in ROWS for each in row.ours}))
    def test_every_code_exists(self, pattern: str) -> None:
        assert comparison.matching(pattern)

    @pytest.mark.parametrize("name", sorted({each for _, row in ROWS for each in row.shown}))
    def test_every_metric_exists(self, name: str) -> None:
        assert f'"{name}"' in EXPORTERS

    @pytest.mark.parametrize("proof", PROOFS)
    def test_every_proof_exists(self, proof: str) -> None:
        file, _, name = proof.partition("::")
        text = (ROOT / file).read_text()
        if name:
            assert re.search(rf"^ *(?:async )?def {name}\(", text, re.MULTILINE)
        else:
            assert file.startswith("tests/timelines/scenarios/")

    def test_each_difference_is_shown_by_a_test(self) -> None:
        assert len(COMPARISON.differences) == 8
        for each in COMPARISON.differences:
            assert any("::" in proof for proof in each.proof), each.title

    def test_the_counts_are_those_of_the_catalogue(self) -> None:
        text = health_checks.PAGE.read_text()
        faults = sum(len(own) for own in families.npu_faults().values())
        assert f"| all | {len(shipped().codes) + faults} |" in text
        for name in (path.name for path in comparison.CATALOGUE.glob("*.yaml")):
            assert f"| `{name}` |" in text
