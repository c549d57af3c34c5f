"""``python -m docs.health_checks`` writes what the documents say of the catalogue; ``--check`` only says what is stale.

Written are docs/health-checks.md, and between the markers of each page in docs/runbooks/findings/ its table of codes and
what follows from them; of docs/runbooks/README.md the list of pages.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from docs import comparison, families

DOCS = Path(__file__).parent
FINDINGS = DOCS / "runbooks" / "findings"
INDEX = DOCS / "runbooks" / "README.md"
PAGE = DOCS / "health-checks.md"


def documents() -> Iterator[tuple[Path, str]]:
    """Every document that is written, and what it should be.

    Raises:
        FileNotFoundError, ValueError: a family has no page, or a page lacks a marker; the message names it.
    """
    for family in families.codes():
        path = page_of(family)
        text = filled(path.read_text(), "codes", families.table(family), path)
        yield path, filled(text, "does", families.does(family), path)
    yield INDEX, filled(INDEX.read_text(), "index", _index(), INDEX)
    yield PAGE, comparison.to_markdown()


def page_of(family: str) -> Path:
    """The runbook of a family."""
    return FINDINGS / f"{family}.md"


def filled(text: str, marker: str, content: str, path: Path) -> str:
    """A page with new content between ``<!-- marker -->`` and ``<!-- /marker -->``.

    Raises:
        ValueError: the page does not have that pair once.
    """
    start, end = f"<!-- {marker} -->\n", f"<!-- /{marker} -->"
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise ValueError(f"{path}: it needs {start.strip()} and {end}, once")
    return pattern.sub(lambda _: f"{start}{content}\n{end}", text)


def summary(family: str) -> str:
    """What its page says in one line."""
    return page_of(family).read_text().split("\n\n", 2)[1].replace("\n", " ")


def _index() -> str:
    lines = ["| page | what it is about | codes |", "| --- | --- | --- |"]
    for family in families.codes():
        page = f"[{family}](findings/{family}.md)"
        lines.append(f"| {page} | {summary(family)} | {_codes(family)} |")
    return "\n".join(lines)


def _codes(family: str) -> str:
    """A few by name, of many the first ones."""
    names = [f"`{each.code}`" for each in families.everything(family)]
    if len(names) <= families.MOST_ROWS:
        return ", ".join(names) or f"`{families.UNLISTED[family]}` that no table names"
    return f"{', '.join(names[:3])} and {len(names) - 3} more"


def main(arguments: list[str] | None = None) -> int:
    """Write or check the documents; the exit status says whether they are as they should be."""
    parser = argparse.ArgumentParser(prog="python -m docs.health_checks", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when stale")
    check = parser.parse_args(arguments).check
    stale = [
        (path, text) for path, text in documents() if not path.is_file() or path.read_text() != text
    ]
    for path, text in stale:
        if check:
            sys.stderr.write(f"{path.name} is stale: run `python -m docs.health_checks`\n")
        else:
            path.write_text(text)
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
