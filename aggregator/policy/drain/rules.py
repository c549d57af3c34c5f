"""What users say about how their pods may be moved: by namespace or label, the first rule that fits. Types only.

The file that holds them is read in ``aggregator.drain.rules_file``.
"""

from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from aggregator.policy.drain.pods import Pod

CHECKPOINT_ASKED = "fleetmedic.io/checkpoint-requested"
CHECKPOINT_TAKEN = "fleetmedic.io/checkpointed"

Seconds = Annotated[float, Meta(ge=1, le=2_592_000)]


class Mode(StrEnum):
    """How a pod is made to go, from the readiest to the strictest."""

    EVICT = "evict"
    CHECKPOINT = "checkpoint"
    """Ask for a checkpoint, wait for the answer or the deadline, then evict."""
    WAIT = "wait"
    """Wait until it ends by itself, or the deadline."""
    NEVER = "never"


class DrainRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rule. It fits a pod whose namespace and labels both fit; what is left out fits all."""

    namespaces: tuple[str, ...] = ()
    """Shell patterns."""
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    """Key → shell pattern on the value; ``*``: the label is there. All of them have to fit."""
    mode: Mode = Mode.EVICT
    deadline_seconds: Seconds | None = None
    """With ``wait`` and ``checkpoint`` only, and needed there: how long at most."""
    then: Literal["evict", "leave"] = "evict"
    """With ``wait`` only: what happens at the deadline."""
    empty_dir: Literal["refuse", "evict"] = "refuse"
    """Pods with an emptyDir, whose data die with them."""
    unmanaged: Literal["refuse", "evict"] = "refuse"
    """Pods without a controller, which nobody starts again."""
    reason: str = ""
    """Shown with every verdict that comes from this rule."""

    def __post_init__(self) -> None:
        timed = self.mode in (Mode.WAIT, Mode.CHECKPOINT)
        if timed and self.deadline_seconds is None:
            raise ValueError(f"mode: {self.mode} needs deadline_seconds, 1 to 2592000")
        if not timed and self.deadline_seconds is not None:
            raise ValueError(f"mode: {self.mode} takes no deadline_seconds; leave it out")
        if self.then == "leave" and self.mode is not Mode.WAIT:
            raise ValueError(f"then: leave goes with mode: wait only, not with {self.mode}")

    def fits(self, pod: Pod) -> bool:
        """Whether the rule is about this pod."""
        if self.namespaces and not _any_fits(self.namespaces, pod.namespace):
            return False
        return all(
            key in pod.labels and fnmatchcase(pod.labels[key], pattern)
            for key, pattern in self.labels.items()
        )


EVERYBODY_ELSE = DrainRule()
"""What holds for a pod that no rule fits."""


class DrainRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that the file says. Without a file: evict, but refuse emptyDir and unmanaged pods."""

    rules: tuple[DrainRule, ...] = ()
    """The first that fits holds."""
    protected_namespaces: tuple[str, ...] = ("kube-system",)
    """Shell patterns; pods there are never moved, whatever the rules say."""
    checkpoint_annotation: str = CHECKPOINT_ASKED
    """By which a checkpoint is asked for; its value is the time, RFC 3339."""
    checkpointed_annotation: str = CHECKPOINT_TAKEN
    """By which the pod answers; any value that is not empty."""

    def __post_init__(self) -> None:
        names = (self.checkpoint_annotation, self.checkpointed_annotation)
        for name in names:
            prefix, slash, rest = name.partition("/")
            if not (prefix and slash and rest) or "/" in rest or " " in name:
                raise ValueError(
                    f"{name!r} is no annotation key; write it as in {CHECKPOINT_ASKED}"
                )
        if names[0] == names[1]:
            raise ValueError("checkpoint_annotation and checkpointed_annotation must differ")

    def protects(self, namespace: str) -> bool:
        """Whether pods of this namespace are never moved."""
        return _any_fits(self.protected_namespaces, namespace)

    def rule_for(self, pod: Pod) -> DrainRule:
        """The rule that holds for a pod."""
        return next((rule for rule in self.rules if rule.fits(pod)), EVERYBODY_ELSE)


def _any_fits(patterns: tuple[str, ...], text: str) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns)
