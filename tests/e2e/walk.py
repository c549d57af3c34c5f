"""A page to follow, read for a test: the commands of its ``sh`` blocks, and the output that it shows below each.

What the page shows is what the commands print, but for what differs every time and for what ``…`` leaves out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LEFT_OUT = "…"

_FENCE = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^ {4}.*\n|^\n(?= {4}))+", re.MULTILINE)
_VARYING = (
    (re.compile(r"\bllm-[a-z0-9]+(-[a-z0-9]+)?\b"), "POD"),
    (re.compile(r"\bgpu-001-[0-9a-f]+\b"), "INCIDENT"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]"), ""),
    (re.compile(r"\b\d\d:\d\d:\d\d(\.\d+)?Z?(?=[ ,;)]|$)", re.MULTILINE), "TIME"),
    (re.compile(r"\b(\d+(\.\d+)?[smhd])+\b"), "DURATION"),
    (re.compile(r"\b\d+(\.\d+)? (s|min)\b"), "DURATION"),
    (re.compile(r"\bgpu-00[23]\b"), "ANOTHER-NODE"),
    (re.compile(r"\s+"), " "),
)


@dataclass(frozen=True)
class Step:
    """One block of commands, and what the page shows of its output; empty: nothing."""

    commands: str
    shown: str


def steps(page: Path) -> list[Step]:
    """The page's blocks in order; an indented block below one is its output."""
    text = page.read_text()
    fences = list(_FENCE.finditer(text))
    ends = [each.start() for each in fences[1:]] + [len(text)]
    found = []
    for fence, end in zip(fences, ends, strict=True):
        below = _INDENTED.search(text, fence.end(), end)
        found.append(Step(fence[1], below[0] if below else ""))
    return found


def missing(step: Step, printed: str) -> list[str]:
    """Parts of what the page shows that were not printed, in the page's order; times, ages and names may differ."""
    left, absent = _alike(printed), []
    for part in filter(None, map(_alike, step.shown.split(LEFT_OUT))):
        before, found, after = left.partition(part)
        if found:
            left = after
        else:
            absent.append(f"{part!r}, in what was left: {before!r}")
    return absent


def _alike(text: str) -> str:
    for pattern, instead in _VARYING:
        text = pattern.sub(instead, text)
    return text.strip()
