"""What the pages in docs/runbooks/findings/ say of their codes: read from the catalogue, so that it never goes stale."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import groupby

from agent.catalogue import DRIVER_VERDICTS, Code, Escalation
from agent.catalogue.ascend import FAMILIES, npu_codes
from agent.catalogue.load import shipped
from agent.faults import Timing
from aggregator.policy.config import PolicyConfig
from contract.vocabulary import Action, Severity

UNLISTED = {
    "xid": "xid-<number>",
    "sxid": "sxid-<number>",
    "npu": "npu-<name>",
} | dict.fromkeys(FAMILIES.values(), "npu-<8 or 9 hex digits>")
"""Families of codes that no row needs to name, and how such a code is written."""

BY_THE_DRIVER = frozenset({"xid-154", "gpu-recovery-action"})
"""Codes whose severity and action are what the driver asks for."""

MOST_ROWS = 12
"""Codes with a row each; where a family has more, those judged alike share one."""

_WORDS = {
    "quiet": "no repeat for {}",
    "good-for": "good for {}",
    "device-answers": "the device answers cleanly for {}",
    "driver": "the driver takes its verdict back, or a reset of the device",
    "boot": "a new boot",
    "person": "a person",
}


@cache
def codes() -> Mapping[str, tuple[Code, ...]]:
    """Family → its codes; those of the NPU driver's own numbers are in ``npu_faults``."""
    found: dict[str, list[Code]] = {"npu": []}
    for code in shipped().codes.values():
        found.setdefault(code.family, []).append(code)
    for family in npu_faults():
        found.setdefault(family, [])
    return {family: tuple(found[family]) for family in sorted(found)}


@cache
def npu_faults() -> Mapping[str, tuple[Code, ...]]:
    """Family → the NPU driver's fault codes."""
    table = npu_codes()
    found: dict[str, list[Code]] = {family: [] for family in FAMILIES.values()}
    for number in sorted(table.numbers):
        code = table.find(number)
        found[code.family].append(code)
    return {family: tuple(own) for family, own in found.items()}


def everything(family: str) -> tuple[Code, ...]:
    """All codes of a family that we list."""
    return (*codes()[family], *npu_faults().get(family, ()))


def table(family: str) -> str:
    """The codes of a family as a Markdown table; those of a large family by how they are judged."""
    own = codes()[family]
    if family in npu_faults():
        return _npu_table(family)
    if not own:
        return f"No code is listed: any `{UNLISTED[family]}` that no table of ours knows. Shown as `info`."
    if len(own) <= MOST_ROWS:
        rows = (
            (f"`{each.code}`", *_judged(each), each.meaning.rstrip("."), _numbers(each))
            for each in own
        )
        return _markdown(("code", "severity", "action", "clears", "what it is", "numbers"), rows)
    return _markdown(("codes", "severity", "action", "clears", "numbers"), _alike(own))


def _alike(own: Iterable[Code]) -> Iterable[tuple[str, ...]]:
    def judgement(code: Code) -> tuple[str, ...]:
        return (*_judged(code), _numbers(code))

    def rank(code: Code) -> tuple[object, ...]:
        return (-code.severity, *judgement(code))

    for _, group in groupby(sorted(own, key=rank), key=rank):
        alike = tuple(group)
        yield (", ".join(f"`{each.code}`" for each in alike), *judgement(alike[0]))


def _npu_table(family: str) -> str:
    """Eight hundred numbers, by the vendor's level and by what their repeating adds."""

    def judgement(code: Code) -> tuple[str, ...]:
        lasting = npu_codes().lasting(int(code.code.removeprefix("npu-"), 16))
        lasts = (
            f"lasts {span(lasting.seconds)}: {lasting.severity.label}, {lasting.action.label}"
            if lasting
            else ""
        )
        what = code.meaning.rpartition("; ")[2].rstrip(".")
        worse = "; ".join(filter(None, (lasts, _numbers(code))))
        return (*_judged(code), what, worse)

    def rank(code: Code) -> tuple[object, ...]:
        return (-code.severity, *judgement(code))

    rows = []
    for _, group in groupby(sorted(npu_faults()[family], key=rank), key=rank):
        alike = tuple(group)
        first = ", ".join(f"`{each.code}`" for each in alike[:3])
        more = f" and {len(alike) - 3} more" if len(alike) > 3 else ""
        rows.append((first + more, *judgement(alike[0])))
    head = ("codes", "severity", "action", "clears", "the vendor's answer", "gets worse")
    return (
        f"Codes are written `{UNLISTED[family]}`. All of them: `python -m agent catalogue | grep '^npu-'`.\n\n"
        f"{_markdown(head, rows)}"
    )


def _judged(code: Code) -> tuple[str, str, str]:
    return (code.severity.label, code.action.label, clears(code))


def clears(code: Code) -> str:
    """What ends a finding of this code, in words."""
    usual = Timing().clear_seconds
    seconds = usual if code.clear_seconds is None else code.clear_seconds
    return _WORDS[code.clears].format(span(seconds))


def _numbers(code: Code) -> str:
    parts = []
    hold_seconds = Timing().hold_seconds if code.hold_seconds is None else code.hold_seconds
    if code.clears == "good-for" and hold_seconds:
        parts.append(f"bad for {span(hold_seconds)}")
    parts += [f"`{name}: {number:g}`" for name, number in code.limits.items()]
    parts += [_rung(each, code) for each in code.escalation]
    return "; ".join(parts)


def _rung(rung: Escalation, code: Code) -> str:
    what = " different workloads" if rung.across_pods else " times"
    apart = f", {span(rung.apart_seconds)} apart," if rung.apart_seconds else ""
    return (
        f"{rung.count}{what}{apart} in {span(rung.within_seconds)}:"
        f" {max(rung.severity, code.severity).label}, {rung.action.label}"
    )


def span(seconds: float) -> str:
    """A length of time in words: ``10 min``."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length and seconds % length == 0:
            return f"{seconds / length:g} {unit}"
    return f"{seconds:g} s"


def does(family: str) -> str:
    """What follows from a family's findings, as the policy has it."""
    config = PolicyConfig()
    reached = {severity for severity, _ in _judgements(family)} or {Severity.INFO}
    said = ["Shows every finding on the fleet page and in the metric `fleetmedic_finding`."]
    if Severity.INFO in reached:
        said[0] += " `info` is that and nothing more."
    if Severity.DEGRADED in reached:
        said.append(
            f"`degraded`: opens an Incident; after {span(config.degraded_hold_seconds)} the node gets"
            " the taint `fleetmedic.io/quarantine` with `PreferNoSchedule`."
        )
    hard = [each.label for each in sorted(reached) if each >= Severity.CRITICAL]
    if hard:
        names = " and ".join(f"`{each}`" for each in hard)
        said.append(
            f"{names}: opens an Incident and sets the taint to `NoSchedule` at once, within the pool's budget"
            f" ({config.budget_percent:g} % of its nodes, at most {config.budget_count}, always one);"
            " beyond it `PreferNoSchedule`."
        )
    if reached != {Severity.INFO}:
        said.append(
            f"When the findings have been clear for {span(config.release_after_seconds)} the taint goes and the"
            " Incident closes; each earlier quarantine within"
            f" {span(config.flap_window_seconds)} doubles that time."
        )
    return "\n".join(f"- {each}" for each in (*said, _not_yet(family)))


def _judgements(family: str) -> Iterator[tuple[Severity, Action]]:
    """All that a finding of this family can come to."""
    for code in everything(family):
        yield code.severity, code.action
        yield from ((rung.severity, rung.action) for rung in code.escalation)
        if code.code in BY_THE_DRIVER:
            yield from DRIVER_VERDICTS.values()
        if family in npu_faults() and (
            lasting := npu_codes().lasting(int(code.code.removeprefix("npu-"), 16))
        ):
            yield lasting.severity, lasting.action


def _not_yet(family: str) -> str:
    if not {action for _, action in _judgements(family)} - {Action.NONE}:
        return "There is nothing to carry out: no code here names an action."
    return "Today Fleetmedic only names the action. It does not drain, reset, restart or reboot: that is yours to do."


def _markdown(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(_cell(each) for each in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|") or " "
