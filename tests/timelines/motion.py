"""Values that move by themselves between two steps of a scenario: counters that rise, temperatures that swing."""

import math
from collections.abc import Callable
from typing import Any

Value = Any
Moving = Callable[[float], Value]
"""Seconds on the scenario's clock → the value then."""


def moving(described: Any, before: Any, since: float) -> Moving | None:
    """How a described value moves; ``None``: it is a plain value and stands still.

    ``{per_second: 5, base: 100}`` rises from its base, or from where it was; ``{low: 40, high: 70, period_seconds:
    600}`` swings between the two, lowest at ``since``.

    Raises:
        ValueError: it is a mapping of another form.
    """
    if not isinstance(described, dict):
        return None
    keys = set(described)
    if keys <= {"per_second", "base"} and "per_second" in keys:
        base = described.get("base", before or 0)
        return lambda now: int(base + described["per_second"] * (now - since))
    if keys == {"low", "high", "period_seconds"}:
        middle, swing = (
            (described["low"] + described["high"]) / 2,
            (described["high"] - described["low"]) / 2,
        )
        turn = 2 * math.pi / described["period_seconds"]
        return lambda now: int(middle - swing * math.cos(turn * (now - since)))
    raise ValueError(f"{described} does not say how a value moves")


class Values:
    """Named values, some of which move."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._still = dict(given)
        self._moving: dict[str, Moving] = {}

    @property
    def moves(self) -> bool:
        """Whether any of them does."""
        return bool(self._moving)

    def change(self, name: str, described: Any, now: float) -> None:
        """From now on it is so; ``"+3"`` adds to what it was."""
        before = self._at(name, now)
        path = moving(described, before, now)
        if path is not None:
            self._moving[name] = path
            return
        self._moving.pop(name, None)
        if isinstance(described, str) and described.startswith("+") and described[1:].isdigit():
            described = int(before or 0) + int(described)
        self._still[name] = described

    def at(self, now: float) -> dict[str, Any]:
        """All of them at an instant."""
        return {**self._still, **{name: path(now) for name, path in self._moving.items()}}

    def in_motion(self, now: float) -> dict[str, Any]:
        """Those that move."""
        return {name: path(now) for name, path in self._moving.items()}

    def _at(self, name: str, now: float) -> Any:
        return self._moving[name](now) if name in self._moving else self._still.get(name)
