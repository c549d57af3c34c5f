"""A scenario file as types. README.md has the format as a table; a wrong field is refused by its name."""

from pathlib import Path
from typing import Any, Literal

import msgspec

from agent.checks import Limits
from contract.vocabulary import Action, Health, Severity, SourceState


class Lines(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Kernel-log lines that come in one burst."""

    text: str
    times: int = 1


class NvmlEvent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What NVML's event thread says."""

    event: str = "xid"
    gpu: int
    data: int
    gpu_instance: int | None = None


class Trouble(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a source does from now on."""

    state: Literal["ok", "absent", "failing", "stuck"]
    reason: str = ""

    @property
    def word(self) -> SourceState:
        """The same as our own word."""
        return SourceState.from_label(self.state)


class Pod(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A pod and the GPUs that it holds; ``mig`` names instances by their UUID instead."""

    pod: str
    """``namespace/name``"""
    gpus: tuple[int, ...] = ()
    mig: tuple[str, ...] = ()


class Restart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The agent ends and a new one starts."""

    kind: Literal["orderly", "crash", "reboot"]
    """``orderly`` saves its state first; ``crash`` goes on from what was saved last; ``reboot`` is orderly, and the
    kernel starts anew too."""
    away_seconds: float = 1.0
    """How long nobody looks. What the kernel writes meanwhile stands in its ring buffer."""


class Word(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A person says that a finding is over."""

    code: str
    subject: str


class Repeat(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The step happens so often, so far apart; ``{n}`` in a text is its number, from 1."""

    every_seconds: float
    times: int


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What happens at one instant. What it does not name stays as it was."""

    at: float
    """Seconds on the scenario's clock. The agent starts at 0; what is before happened without it."""
    note: str = ""
    repeat: Repeat | None = None
    kmsg: tuple[str | Lines, ...] = ()
    kmsg_lost: int = 0
    """So many records were overwritten before the agent could read them."""
    nvml: dict[int | str, dict[str, Any]] = {}
    """GPU (``all``, or its number) → changes of the raw frame."""
    nvml_unavailable: str | None = None
    """NVML's process ends with this code, until it is ``""``."""
    nvml_events: tuple[NvmlEvent, ...] = ()
    sources: dict[str, Trouble] = {}
    rdma: dict[str, dict[str, Any]] = {}
    """Adapter (or ``all``) → files under its ``ports/1`` and their content."""
    pci: dict[int | str, dict[str, Any]] = {}
    """GPU (or ``all``) → files of its PCI device and their content."""
    pods: tuple[Pod, ...] | None = None
    host: dict[str, Any] = {}
    overrides: str | None = None
    clear: Word | None = None
    restart: Restart | None = None


class Node(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The machine as it is before anything happens."""

    gpus: int = 8
    ports: int = 8
    up_seconds: float = 86_400.0
    """How long it had been up when the agent started."""
    ring_records: int = 100_000
    """So many records the kernel keeps."""
    gpu: dict[str, Any] = {}
    """Fields of every GPU's raw frame, over those of an idle H100."""
    pool: str = ""
    limits: Limits = Limits()


class Expected(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A finding that must come, and when; or one that must never."""

    code: str
    subject: str
    severity: str | None = None
    action: str | None = None
    fault: float = 0.0
    """Times are seconds on the scenario's clock. When the trouble began; a finding before it is a false one."""
    by: float | None = None
    """Raised no later than."""
    not_before: float | None = None
    recovery: float | None = None
    """When the trouble was over."""
    clears_by: float | None = None
    """Without it the finding must still be there at the end."""
    clears_not_before: float | None = None
    count: int | None = None
    """Exactly so many were counted when it ended, or the play did."""
    times: int = 1
    """It comes and goes so often, between ``fault`` and ``clears_by``."""
    never: bool = False

    def __post_init__(self) -> None:
        if not self.never and self.by is None:
            raise ValueError(f"{self.code}: say `by` when it must be there, or `never: true`")
        if self.never and (self.by, self.clears_by, self.recovery) != (None, None, None):
            raise ValueError(f"{self.code}: what never comes has no times")
        if self.clears_by is not None and self.recovery is None:
            raise ValueError(f"{self.code}: `clears_by` needs `recovery`, from which it is counted")

    def meets(self, severity: Severity, action: Action) -> bool:
        """Whether a finding with this judgement is the one meant."""
        return self.severity in (None, severity.label) and self.action in (None, action.label)


class ExpectedHealth(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a device is called at the first tick at or after an instant."""

    at: float
    subject: str
    health: Health


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file."""

    title: str
    complaint: str
    """Who asked for it: a section of the research, an issue."""
    until: float
    node: Node = Node()
    pace: dict[int, float] = {}
    """From when on the agent samples how often, in seconds; without it each second. Slower saves time of ours where
    hours pass in which nothing happens."""
    steps: tuple[Step, ...]
    expect: tuple[Expected, ...] = ()
    """Whatever else is degraded or worse is a false finding."""
    health: tuple[ExpectedHealth, ...] = ()
    told_at_most: int | None = None
    """Events passed on to the aggregator."""
    gap: str = ""
    """Why it does not come out as expected today; the expectation stays, and the test says so once it does."""


def load(path: Path) -> Scenario:
    """One scenario.

    Raises:
        ValueError: it cannot be used; the message names file and field.
    """
    try:
        return msgspec.yaml.decode(path.read_bytes(), type=Scenario)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ValueError(f"{path.name}: {error}") from error
