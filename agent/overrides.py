"""A cluster's own judgement on codes, per pool, GPU model and node: what it says, and what it makes of the catalogue.

Pure. ``agent.overrides_file`` understands the file that people write.
"""

from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

import msgspec

from agent.catalogue import Catalogue, Code, Escalation
from contract.vocabulary import Action, Severity


class Override(msgspec.Struct, frozen=True, kw_only=True):
    """One entry. What it does not name stays as it was."""

    code: str
    """A code, or a shell pattern."""
    pools: tuple[str, ...] = ()
    """Shell patterns, of which one must match, whatever the case; none: all. So with models and nodes."""
    models: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    severity: Severity | None = None
    action: Action | None = None
    hold_seconds: float | None = None
    clear_seconds: float | None = None
    limits: Mapping[str, float] = {}
    escalation: tuple[Escalation, ...] | None = None
    """``()``: none any more."""
    ignore: bool | None = None
    """The code raises nothing; ``False`` takes an earlier entry's word back."""
    reason: str

    def concerns(self, *, pool: str, model: str, node: str) -> bool:
        """Whether it speaks about a node of this pool, with GPUs of this model, of this name."""
        return (
            _one_matches(self.pools, pool)
            and _one_matches(self.models, model)
            and _one_matches(self.nodes, node)
        )

    def judges(self, code: str, row: str) -> bool:
        """Whether it speaks about a code, or about the row of the catalogue that the code is judged by."""
        return fnmatchcase(code, self.code) or fnmatchcase(row, self.code)

    def over(self, code: Code) -> Code:
        """The code with what this entry says of it."""
        changes: dict[str, Any] = {
            name: value
            for name in ("severity", "action", "hold_seconds", "clear_seconds", "escalation")
            if (value := getattr(self, name)) is not None
        }
        known = {name: value for name, value in self.limits.items() if name in code.limits}
        if known:
            changes["limits"] = {**code.limits, **known}
        return msgspec.structs.replace(code, **changes) if changes else code


class Overrides(msgspec.Struct, frozen=True):
    """All entries, in the order of the file: later ones win."""

    entries: tuple[Override, ...] = ()


class Overridden(Catalogue, frozen=True):
    """A catalogue under overrides; also the codes that have no row of their own are judged by them."""

    base: Catalogue
    entries: tuple[Override, ...]

    def find(self, code: str) -> Code:
        """The judgement on one code, as the catalogue's, with every entry that speaks about it over it."""
        known = self.codes.get(code)
        if known is not None:
            return known
        found = self.base.find(code)
        for entry in speaking(self.entries, code, self.base):
            found = entry.over(found)
        return found

    def over(self, code: Code) -> Code:
        """A judgement that did not come from the catalogue, with every entry that speaks about it over it."""
        for entry in speaking(self.entries, code.code, self.base):
            code = entry.over(code)
        return code


class Ignored(Collection[str]):
    """The codes that raise nothing. Holds codes without a row too; only those with one are listed."""

    def __init__(self, catalogue: Catalogue, entries: tuple[Override, ...]) -> None:
        self._catalogue = catalogue
        self._entries = tuple(each for each in entries if each.ignore is not None)
        said = {
            code: entry.ignore
            for entry in self._entries
            for code in matching(entry.code, catalogue.codes)
        }
        self._known = frozenset(code for code, ignore in said.items() if ignore)

    def __contains__(self, code: object) -> bool:
        if code in self._known:
            return True
        if not isinstance(code, str) or not code:  # an event that raises nothing has no code
            return False
        if not self._entries or code in self._catalogue.codes:
            return False
        said = [each.ignore for each in speaking(self._entries, code, self._catalogue)]
        return bool(said) and said[-1] is True

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._known))

    def __len__(self) -> int:
        return len(self._known)


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """What one node judges by."""

    catalogue: Catalogue
    ignored: Ignored
    entries: tuple[Override, ...] = ()
    """Those that concern this node."""

    def reason(self, code: str) -> str:
        """Why a code is judged differently here: the word of the last entry about it; empty: it is not."""
        said = [each.reason for each in speaking(self.entries, code, self._base)]
        return said[-1] if said else ""

    @property
    def _base(self) -> Catalogue:
        return self.catalogue.base if isinstance(self.catalogue, Overridden) else self.catalogue


def apply(
    catalogue: Catalogue, overrides: Overrides, *, pool: str, model: str, node: str
) -> Judgement:
    """What a node of this pool, with GPUs of this model, judges by."""
    entries = tuple(
        each for each in overrides.entries if each.concerns(pool=pool, model=model, node=node)
    )
    codes = dict(catalogue.codes)
    for entry in entries:
        for name in matching(entry.code, codes):
            codes[name] = entry.over(codes[name])
    return Judgement(
        catalogue=Overridden(codes=codes, base=catalogue, entries=entries)
        if entries
        else catalogue,
        ignored=Ignored(catalogue, entries),
        entries=entries,
    )


def matching(pattern: str, codes: Collection[str]) -> Collection[str]:
    """Those of the codes that a pattern names."""
    if pattern in codes:  # no code has a letter that means something in a pattern
        return (pattern,)
    return [code for code in codes if fnmatchcase(code, pattern)] if _is_pattern(pattern) else ()


def speaking(entries: tuple[Override, ...], code: str, catalogue: Catalogue) -> Iterator[Override]:
    """The entries about one code, in their order; a sub-code without a row follows its code's entries too."""
    row = code
    if code not in catalogue.codes:
        parent = code.rpartition("-")[0]
        row = parent if parent in catalogue.codes else code
    return (each for each in entries if each.judges(code, row))


def _is_pattern(text: str) -> bool:
    return any(letter in text for letter in "*?[")


def _one_matches(patterns: tuple[str, ...], text: str) -> bool:
    return not patterns or any(fnmatchcase(text.lower(), pattern.lower()) for pattern in patterns)
