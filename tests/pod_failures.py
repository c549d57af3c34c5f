"""Pods as Kubernetes writes them when they fail: the kubelet's, containerd's and the controllers' own words."""

from typing import Any

from aggregator.cluster import times
from aggregator.scores.failed_pods import PodFailure, failure_of

Json = dict[str, Any]

NOW = 1_760_000_000.0
EPOCH = "1970-01-01T00:00:00Z"
REFUSED = (
    "Pod was rejected: Allocate failed due to requested number of devices unavailable for nvidia.com/gpu. "
    "Requested: 1, Available: 0, which is unexpected"
)
NO_SHIM = (
    "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: "
    "unable to start container process: error during container init: nvidia-container-cli: initialization error"
)
NO_COMMAND = (
    "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: "
    'unable to start container process: exec: "trian": executable file not found in $PATH: unknown'
)


def seconds(text: str) -> float:
    try:
        return times.to_seconds(text)
    except ValueError:
        return 0.0


def stamp(at: float) -> str:
    return times.whole(at)


def pod(
    name: str = "train-0",
    *,
    team: str = "team-a",
    job: str = "train",
    node: str = "n1",
    gpus: int = 1,
    status: Json | None = None,
    **metadata: Any,
) -> Json:
    owner = {"kind": "Job", "name": job, "controller": True}
    limits = {"nvidia.com/gpu": str(gpus)} if gpus else {}
    return {
        "metadata": {
            "namespace": team,
            "name": name,
            "uid": f"uid-{team}-{name}",
            "ownerReferences": [owner] if job else [],
            **metadata,
        },
        "spec": {
            "nodeName": node,
            "containers": [{"name": "main", "resources": {"limits": limits}}],
        },
        "status": status or exited(),
    }


def exited(
    *,
    at: float = NOW,
    ran: float = 3.0,
    code: int = 1,
    reason: str = "Error",
    restarts: int = 0,
    **status: Any,
) -> Json:
    """A pod whose only container ended with this code after so many seconds."""
    ended = {
        "exitCode": code,
        "reason": reason,
        "finishedAt": stamp(at),
        "startedAt": stamp(at - ran),
    }
    container = {"name": "main", "restartCount": restarts, "state": {"terminated": ended}}
    began = stamp(at - ran - 5)
    return {"phase": "Failed", "startTime": began, "containerStatuses": [container], **status}


def not_started(message: str = NO_SHIM, *, at: float = NOW) -> Json:
    """As containerd and kubelet write it where the runtime could not start the container, and it is not tried again."""
    ended = {
        "exitCode": 128,
        "reason": "StartError",
        "message": message,
        "startedAt": EPOCH,
        "finishedAt": stamp(at),
    }
    container = {"name": "main", "restartCount": 0, "state": {"terminated": ended}}
    return {"phase": "Failed", "startTime": stamp(at - 4), "containerStatuses": [container]}


def tried_again(
    waiting: str,
    *,
    last: Json | None = None,
    message: str = "",
    at: float = NOW,
    restarts: int = 1,
) -> Json:
    """A pod that is not given up: its container waits for the next try."""
    container = {
        "name": "main",
        "restartCount": restarts,
        "state": {"waiting": {"reason": waiting, "message": message}},
        "lastState": {"terminated": last} if last else {},
    }
    return {"phase": "Pending", "startTime": stamp(at), "containerStatuses": [container]}


def refused(
    reason: str = "UnexpectedAdmissionError", message: str = REFUSED, *, at: float = NOW
) -> Json:
    """As the kubelet writes it where it does not admit a pod: no container was ever there."""
    return {"phase": "Failed", "reason": reason, "message": message, "startTime": stamp(at)}


def read(obj: Json, *, by_tenant: bool = True) -> PodFailure | None:
    return failure_of(obj, seconds, by_tenant=by_tenant)


def failure(number: int = 0, **changes: Any) -> PodFailure:
    """A failure of its own pod; by default all of one job of team-a, on n1, now."""
    team = changes.pop("team", "team-a")
    job = changes.pop("job", "train")
    known: Json = {
        "pod": f"{team}/{job}-{number}",
        "uid": f"{team}-{job}-{number}",
        "node": "n1",
        "workload": f"{team}/Job/{job}",
        "witness": team,
        "at_seconds": NOW,
        "reason": "Error exit code 128",
    }
    return PodFailure(**(known | changes))
