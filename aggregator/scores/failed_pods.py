"""A pod that failed at once, as its Pod object tells it, and whether the node may have to do with it. Pure, and total.

What Kubernetes writes, and what is made of it:

- A container that ended by itself: ``terminated`` with exit code, start and end. It counts where it failed within ``AT_ONCE_SECONDS`` and
  was not started before. A program that was too large for its limit (``OOMKilled``) is no node's fault.
- A container that the runtime could not start: ``terminated`` with reason ``StartError`` (containerd, exit code 128) or
  ``ContainerCannotRun`` (Docker), its start at the epoch; where it is tried again, ``waiting`` with ``RunContainerError`` or
  ``CreateContainerError``. "failed to create shim task" stands there, and so does a command that is not in the image, which is left out.
- A pod that the kubelet did not admit: ``status.reason``. The device manager's words are ``UnexpectedAdmissionError`` ("Allocate failed due to
  …, which is unexpected", ``pkg/kubelet/cm/admission``) and ``OutOf`` with the name of the device's resource
  (``pkg/kubelet/lifecycle/predicate.go``). ``OutOfcpu``, ``OutOfmemory``, ``OutOfpods`` and ``OutOfephemeral-storage`` are races between
  scheduler and kubelet; ``TopologyAffinityError`` and ``SMTAlignmentError`` are a policy of the node: none of them is a fault.
- Any other ``status.reason`` (``Evicted``, ``DeadlineExceeded``, ``Preempting``, ``NodeLost``, ``Terminated`` …), the condition
  ``DisruptionTarget`` (preemption, eviction, taints) and a deletion say that somebody ended the pod.

Not counted: ``CrashLoopBackOff`` of a program that did start (its room stays taken, and it is the program's own doing in most cases), images
that cannot be pulled, and sandboxes that cannot be made, of which a pod's status says nothing.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from aggregator.scores.placed import PlacedPod, placed_pod
from aggregator.scores.plain import dicts_of, mapping_of, text_of
from aggregator.scores.requests import Passed
from aggregator.scores.values import WHOLE, PodShape

AT_ONCE_SECONDS = 60.0
"""From a container's start to its end: long enough to load a framework and find no device."""

FIRST_TRIES = 3
"""Restarts of a container that cannot start, after which it is an old story: it counts once, not for as long as it hangs there."""

MAX_WORDS = 120
"""Characters of what runtime or kubelet say."""

_NEVER_STARTED = frozenset({"StartError", "ContainerCannotRun"})
_CANNOT_START = frozenset({"RunContainerError", "CreateContainerError"})
_NOT_THE_NODE = frozenset({"OOMKilled", "ContainerStatusUnknown"})
_OF_THE_IMAGE = ('exec: "', "no command specified")
"""In the runtime's words: the command that the pod names is not there, or not to be run."""
_NO_REFUSAL = ("cpus available", "memorymanager", "topology", "maximum request size")
"""In the kubelet's words: others that hand out parts of a node, and a wish that the plugin rightly refuses."""

_WRAPPERS = (
    "Pod was rejected: ",
    "Allocate failed due to ",
    "failed to create containerd task: ",
    "failed to create shim task: ",
    "failed to start container: ",
    "OCI runtime create failed: ",
    "runc create failed: ",
    "unable to start container process: ",
    "error during container init: ",
)
"""What stands before the cause in a message, one around the other."""

Seconds = Callable[[str], float]
"""Unix time of an RFC 3339 text; 0 where it is none."""


class PodFailure(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One pod that failed at once, by the object alone."""

    pod: str
    """``namespace/name``."""
    uid: str
    node: str
    workload: str
    """What outlives it: ``team-a/Job/train``; a pod that stands alone is its own."""
    witness: str
    """Who is heard: all failures of one witness count for one."""
    at_seconds: float
    """Unix time of its end."""
    reason: str
    """For people, one clause."""
    refused_devices: int = 0
    """Whole devices that it asked for, where the kubelet would not hand them out; 0: it was no such refusal."""
    left_devices: int = 0
    """Whole devices of pods that left its node a moment before it was told of: they may have been in its way."""


def failure_of(pod: Mapping[str, Any], seconds: Seconds, *, by_tenant: bool) -> PodFailure | None:
    """What one Pod object says; ``None``: it did not fail at once, it asks for no device, or others ended it. Never raises.

    Args:
        pod: as the API server has it.
        seconds: reads a time.
        by_tenant: whether a namespace is one witness; else each workload is.
    """
    status = mapping_of(pod.get("status"))
    found = _found(status, seconds)
    if found is None or _ended_by_others(mapping_of(pod.get("metadata")), status):
        return None
    placed = placed_pod(pod)
    refused_devices = _refused_devices(placed, found.refusal) if found.refusal else 0
    if not placed.node or not _asks_for_devices(placed) or (found.refusal and not refused_devices):
        return None
    workload = placed.workload or f"{placed.namespace}/Pod/{placed.name}"
    return PodFailure(
        pod=placed.key,
        uid=placed.uid,
        node=placed.node,
        workload=workload,
        witness=placed.namespace if by_tenant else workload,
        at_seconds=found.at_seconds,
        reason=found.words,
        refused_devices=refused_devices,
    )


class _Found(NamedTuple):
    """What the status alone tells."""

    at_seconds: float
    words: str
    refusal: str = ""
    """The kubelet's reason and message, where it did not admit the pod."""


def _found(status: Mapping[str, Any], seconds: Seconds) -> _Found | None:
    if status.get("phase") != "Failed":
        return _stuck(status, seconds)
    if reason := text_of(status.get("reason")):
        if reason != "UnexpectedAdmissionError" and not reason.startswith("OutOf"):
            return None
        message = text_of(status.get("message"))
        at = seconds(text_of(status.get("startTime")))
        return _Found(at, _words(reason, message), f"{reason} {message}")
    at, said = min(_ends(status, seconds), default=(0.0, ""))
    return _Found(at, said) if said else None


def _ends(status: Mapping[str, Any], seconds: Seconds) -> Iterator[tuple[float, str]]:
    """Of each container that failed: when, and how it did at once; the words are empty where it ran well before."""
    for each in _containers(status):
        ended = mapping_of(mapping_of(each.get("state")).get("terminated"))
        if ended and ended.get("exitCode") != 0:
            at = seconds(text_of(ended.get("finishedAt")))
            yield at, _of_container(each, ended, at, seconds)


def _of_container(
    container: Mapping[str, Any], ended: Mapping[str, Any], at: float, seconds: Seconds
) -> str:
    """In words, how it failed at once; empty: it did not."""
    reason = text_of(ended.get("reason")) or "Error"
    code = ended.get("exitCode")
    if reason in _NEVER_STARTED:
        message = text_of(ended.get("message"))
        return "" if _by_image(message) else _words(f"{reason} exit code {code}", message)
    began = seconds(text_of(ended.get("startedAt")))
    first = not container.get("restartCount")
    if reason in _NOT_THE_NODE or not first or not began or at - began > AT_ONCE_SECONDS:
        return ""
    return f"{reason} exit code {code}"


def _stuck(status: Mapping[str, Any], seconds: Seconds) -> _Found | None:
    """A container that the runtime cannot start, of a pod that is tried again."""
    for each in _containers(status):
        waiting = mapping_of(mapping_of(each.get("state")).get("waiting"))
        if not waiting:
            continue
        reason, message = text_of(waiting.get("reason")), text_of(waiting.get("message"))
        last = mapping_of(mapping_of(each.get("lastState")).get("terminated"))
        at = text_of(status.get("startTime"))
        if text_of(last.get("reason")) in _NEVER_STARTED:
            if not _is_at_most(each.get("restartCount"), FIRST_TRIES):
                continue
            at = text_of(last.get("finishedAt")) or at
            reason, message = text_of(last.get("reason")), text_of(last.get("message"))
        elif reason not in _CANNOT_START:
            continue
        if not _by_image(message):
            return _Found(seconds(at), _words(reason, message))
    return None


def _containers(status: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from dicts_of(status.get("initContainerStatuses"))
    yield from dicts_of(status.get("containerStatuses"))


def _is_at_most(value: Any, most: int) -> bool:
    return isinstance(value, int) and value <= most


def _by_image(message: str) -> bool:
    return any(each in message for each in _OF_THE_IMAGE)


def _ended_by_others(metadata: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    return bool(metadata.get("deletionTimestamp")) or any(
        one.get("type") == "DisruptionTarget" and one.get("status") == "True"
        for one in dicts_of(status.get("conditions"))
    )


def _asks_for_devices(pod: PlacedPod) -> bool:
    return isinstance(pod.ask, Passed) or pod.ask.gpu_count > 0


def _refused_devices(pod: PlacedPod, refusal: str) -> int:
    """How many whole devices the kubelet would not hand out; 0: it refused something else, or rightly.

    It has to name the pod's own devices, or say that a plugin failed: else any extended resource would do, of which a pod can
    ask for more than there is. A share of a device is handed out by schedulers of their own, whose races end in the same words.
    """
    shape = pod.ask
    if not isinstance(shape, PodShape) or shape.gpu_milli != WHOLE:
        return 0
    if refusal.startswith("OutOf"):
        return shape.gpu_count if refusal.startswith(f"OutOf{shape.resource} ") else 0
    said = refusal.lower()
    named = shape.resource.lower() in said or "rpc error" in said
    return shape.gpu_count if named and not any(each in said for each in _NO_REFUSAL) else 0


def _words(reason: str, message: str) -> str:
    said = " ".join(message.replace(";", ",").split())
    for each in _WRAPPERS:
        said = said.removeprefix(each)
    said = "".join(each for each in said if each.isprintable())
    text = f"{reason}: {said}" if said else reason
    return text if len(text) <= MAX_WORDS else text[: MAX_WORDS - 1] + "…"
