"""What is printed. Evidence and notes are other people's text: nothing of it may steer a terminal."""

import datetime
import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cli.plain import clean

WIDE = 108
"""Columns from which a table has room for what comes next."""

GAP = 2
"""Spaces between columns."""

PIPE_WIDTH = 10_000
"""Where no person looks, nothing is folded: the next program wants whole lines."""


class _Console(Console):
    """One whose reader may leave: rich would call that a failure, and `| grep -q` leaves early."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        raise BrokenPipeError


class Terminal:
    """Standard output, as wide as it is."""

    def __init__(self, width: int | None = None) -> None:
        watched = sys.stdout.isatty()
        self._console = _Console(
            file=sys.stdout,
            highlight=False,
            markup=False,
            emoji=False,
            width=width or (None if watched else PIPE_WIDTH),
        )

    @property
    def wide(self) -> bool:
        """Whether there is room for a whole table."""
        return self._console.width >= WIDE

    def say(self, text: str, style: str = "", indent: int = 0) -> None:
        """One paragraph, folded between words."""
        self._console.print(
            Padding(Text(clean(text), style=style), (0, 0, 0, indent), expand=False)
        )

    def command(self, text: str) -> None:
        """One line to be copied: never folded by us."""
        line = Text("      " + clean(text), style="cyan", no_wrap=True, overflow="ignore")
        self._console.print(line, soft_wrap=True)

    def heading(self, text: str) -> None:
        """The name of a part, after an empty line."""
        self._console.print()
        self._console.print(Text(clean(text), style="bold"))

    def entry(self, when: str, text: str, style: str = "") -> None:
        """A sentence behind a hyphen, and when it was or will be."""
        body = Text(clean(text), style=style)
        if when:
            body.append(f"  {clean(when)}", style="dim")
        self._beside(Text("-"), 3, body)

    def step(self, when: str, text: str) -> None:
        """A sentence behind the moment that it tells of."""
        self._beside(Text(clean(when), style="dim"), 10, Text(clean(text)))

    def _beside(self, left: Text, width: int, right: Text) -> None:
        grid = Table.grid(padding=(0, 1))
        grid.add_column(min_width=width, no_wrap=True, justify="right")
        grid.add_column(overflow="fold")
        grid.add_row(left, right)
        self._console.print(grid)

    def rows(
        self,
        heads: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        under: Sequence[str] = (),
    ) -> None:
        """A table.

        Args:
            heads: of the columns.
            rows: as many cells each.
            under: per row what stands on a line of its own below it; empty: nothing.
        """
        cells = [[clean(cell) for cell in row] for row in rows]
        widths = [
            max((Text(row[column]).cell_len for row in [list(heads), *cells]), default=0)
            for column in range(len(heads))
        ]
        fitted = _fit(widths, self._console.width - GAP * len(heads))
        self._row(heads, fitted, ["bold"] * len(heads))
        for number, row in enumerate(cells):
            self._row(row, fitted, [""] * len(heads))
            if number < len(under) and under[number]:
                self.say(under[number], style="dim", indent=4)

    def _row(self, row: Sequence[str], widths: Sequence[int], styles: Sequence[str]) -> None:
        grid = Table.grid(padding=(0, GAP, 0, 0))
        for width in widths:
            grid.add_column(width=width, overflow="fold")
        grid.add_row(*[Text(cell, style=style) for cell, style in zip(row, styles, strict=True)])
        self._console.print(grid)

    @staticmethod
    def json(value: Any) -> None:
        """For programs; everything but ASCII is escaped."""
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=True) + "\n")


def _fit(widths: Sequence[int], room: int) -> list[int]:
    """Column widths that fit into so much room: the widest give way first, and none vanishes."""
    fitted = list(widths)
    while sum(fitted) > max(room, len(fitted)):
        fitted[fitted.index(max(fitted))] -= 1
    return fitted


def lasting(seconds: float) -> str:
    """``90`` → ``90s``, ``5400`` → ``1h30m``."""
    whole = max(0, round(seconds))
    if whole < 120:
        return f"{whole}s"
    if whole < 7_200:
        return f"{whole // 60}m"
    if whole < 172_800:
        minutes = whole % 3_600 // 60
        return f"{whole // 3_600}h{minutes}m" if minutes else f"{whole // 3_600}h"
    return f"{whole // 86_400}d"


def when(seconds: float | None, now: float) -> str:
    """A moment on this machine's clock and how far off it is: ``12:41:07, 4m ago``."""
    if seconds is None:
        return ""
    off = seconds - now
    away = f"in {lasting(off)}" if off > 0 else f"{lasting(-off)} ago"
    return f"{at}, {away}" if (at := clock(seconds, now)) else away


def clock(seconds: float | None, now: float) -> str:
    """A moment on this machine's clock, with its date where that is not today; empty where it has none."""
    if seconds is None:
        return ""
    try:
        there = datetime.datetime.fromtimestamp(seconds).astimezone()
        here = datetime.datetime.fromtimestamp(now).astimezone()
    except (ValueError, OverflowError, OSError):
        return ""
    form = "%H:%M:%S" if there.date() == here.date() else "%Y-%m-%d %H:%M:%S"
    return f"{there:{form}}"
