"""Whether a directive may be started. Pure; what is not known is a reason against it."""

from agent.faults import device_of
from agent.holders import holders_of
from agent.repairs.rules import PCI_BUS_ID, SUBJECT, Rules
from agent.snapshot import Gpu, Snapshot
from contract.vocabulary import Directive, DirectiveKind, SourceState

MAX_AGE_SECONDS = 900.0
"""A directive issued longer ago is void, whatever it says of its own end."""

CLOCKS_DIFFER_SECONDS = 60.0
"""So much may the aggregator's clock be ahead."""

_DYNAMIC = "gpu.nvidia.com"
"""The kubelet names the pods that hold such a resource, and not which GPU it is."""


def refusal(
    directive: Directive,
    *,
    node: str,
    boot_id: str,
    now: float,
    rules: Rules,
    snapshot: Snapshot,
    running: str = "",
    forgotten_seconds: float = 0.0,
) -> str:
    """Why this directive, whose signature holds and whose id is new, must not be started; empty: it may.

    Args:
        directive: as it was signed.
        node: the name of this node.
        boot_id: of this boot.
        now: Unix time.
        rules: what this node allows.
        snapshot: the newest one.
        running: id of the directive that is being carried out; empty: none.
        forgotten_seconds: when the newest directive was issued that is not remembered any more; of what is older
            nobody knows whether it was carried out.
    """
    return (
        _not_for_here(directive, node=node, boot_id=boot_id)
        or _not_now(directive, now=now, forgotten_seconds=forgotten_seconds)
        or _not_allowed(directive, rules)
        or (
            "the id of this boot is not known, so no reboot could be proven"
            if directive.kind == DirectiveKind.REBOOT_NODE and not boot_id
            else ""
        )
        or (
            f"{running} is being carried out; one at a time"
            if running and directive.kind != DirectiveKind.CLEAR
            else ""
        )
        or _in_use(directive, snapshot)
    )


def _not_for_here(directive: Directive, *, node: str, boot_id: str) -> str:
    if directive.node != node:
        return f"it is for node {directive.node!r}, and this is {node!r}"
    if directive.boot_id and directive.boot_id != boot_id:
        return f"it is for boot {directive.boot_id}, and this is boot {boot_id or 'unknown'}"
    return ""


def _not_now(directive: Directive, *, now: float, forgotten_seconds: float) -> str:
    age = now - directive.issued_seconds
    if age > MAX_AGE_SECONDS:
        return f"it was issued {age:.0f} s ago; more than {MAX_AGE_SECONDS:.0f} s is too old"
    if age < -CLOCKS_DIFFER_SECONDS:
        return f"it was issued {-age:.0f} s from now: set the clocks of this node and of the aggregator"
    if directive.expires_seconds <= now:
        return f"it expired {now - directive.expires_seconds:.0f} s ago"
    if directive.issued_seconds <= forgotten_seconds:
        return "it is older than some that this agent no longer remembers: it may have been carried out already"
    return ""


def _not_allowed(directive: Directive, rules: Rules) -> str:
    kind = directive.kind
    if kind not in rules.allowed:
        setting = "diagnostic_command" if kind == DirectiveKind.DIAGNOSE else "allow_repairs"
        return f"{kind!r} is not allowed on this node: {setting} does not name it"
    if directive.subject and not SUBJECT.fullmatch(directive.subject):
        return f"{directive.subject[:64]!r} is no subject of ours"
    if kind == DirectiveKind.CLEAR and not (directive.code and directive.subject):
        return "it does not say which finding to forget"
    if kind == DirectiveKind.RESET_DEVICE and not pci_bus_id(directive.subject):
        return f"{directive.subject or 'the whole node'} is no GPU, and only GPUs are reset"
    if kind == DirectiveKind.RESTART_SERVICE and not rules.unit_for(directive.code):
        return (
            f"restart_services names no service that mends {directive.code or 'an unnamed finding'}"
        )
    return ""


def pci_bus_id(subject: str) -> str:
    """Of the GPU that this subject is, or is a part of; empty: it is none."""
    kind, _, address = device_of(subject).partition(":")
    return address if kind == "gpu" and PCI_BUS_ID.fullmatch(address) else ""


def _in_use(directive: Directive, snapshot: Snapshot) -> str:
    """Why the devices that it would take away are not free."""
    if directive.kind not in (DirectiveKind.RESET_DEVICE, DirectiveKind.DIAGNOSE):
        return ""
    subject = device_of(directive.subject)
    gpus = [gpu for gpu in snapshot.gpus if subject in ("", gpu.subject)]
    if subject.startswith("gpu:") and not gpus:
        return f"{subject} is not among the GPUs that the driver tells of now"
    others = [subject] if subject else [npu.subject for npu in snapshot.npus]
    return next(
        filter(
            None,
            (
                *(in_use(gpu, snapshot) for gpu in gpus),
                *(_held(each, snapshot) for each in others),
            ),
        ),
        "",
    )


def _held(subject: str, snapshot: Snapshot) -> str:
    pods = holders_of(snapshot, subject)
    return f"{subject} is held by {', '.join(pods[:4])}" if pods else ""


def in_use(gpu: Gpu, snapshot: Snapshot) -> str:
    """Why this GPU is not known to be free; empty: it is."""
    if held := _held(gpu.subject, snapshot):
        return held
    if gpu.process_count:
        return f"{gpu.process_count} processes use {gpu.subject}"
    kubelet = snapshot.source("pods")
    if kubelet is not None and kubelet.state in (SourceState.FAILING, SourceState.STUCK):
        return f"nobody can say which pods hold {gpu.subject}: {kubelet.reason}"
    if gpu.process_count is None and (
        kubelet is None
        or kubelet.state is SourceState.ABSENT
        or any(each.resource == _DYNAMIC for each in snapshot.pods)
    ):
        return f"nobody can say whether {gpu.subject} is in use: neither its driver nor a kubelet tells"
    return ""
