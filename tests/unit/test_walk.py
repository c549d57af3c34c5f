"""How a page to follow is read, and when what it shows is not what was printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.e2e.walk import Step, missing, steps

if TYPE_CHECKING:
    from pathlib import Path

PAGE = """\
# A page

```sh
kubectl get pods
kubectl get incidents
```

    llm-6f47f9856f-94jc7   gpu-001
    …
    gpu-001-3f3493b777   closed   29s

Words, then a step that prints nothing:

```sh
touch file
```

Words.
"""


def test_a_step_is_its_commands_and_what_is_shown_below(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    first, second = steps(page)
    assert first.commands == "kubectl get pods\nkubectl get incidents\n"
    assert first.shown.split() == PAGE.partition("```\n\n")[2].partition("Words")[0].split()
    assert second == Step("touch file\n", "")


def test_names_times_and_what_is_left_out_may_differ_and_nothing_else() -> None:
    shown = "    llm-6f47f9856f-94jc7   gpu-001\n    …\n    gpu-001-3f3493b777   closed   29s\n"
    told = "llm-8d4c5b7f6-xk2lp gpu-001\nmore\ngpu-001-00e05ae50f  closed  2m3s\n"
    assert not missing(Step("", shown), told)
    for wrong in ("gpu-001\n", "closed", "llm-"):
        assert missing(Step("", shown), told.replace(wrong, "other", 1))
    first, last = told.split("more\n")
    assert missing(Step("", shown), last + first), "the order counts"
