"""A Pod and a PodDisruptionBudget, as far as a drain cares. Values only."""

from collections.abc import Mapping

import msgspec


class Owner(msgspec.Struct, frozen=True):
    """The controller of an object."""

    api_version: str
    kind: str
    name: str
    uid: str


class Pod(msgspec.Struct, frozen=True, kw_only=True):
    """One Pod."""

    namespace: str
    name: str
    uid: str
    version: str = ""
    """Its resourceVersion."""
    node: str = ""
    phase: str = "Running"
    ready: bool = True
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)
    annotations: Mapping[str, str] = msgspec.field(default_factory=dict)
    owner: Owner | None = None
    """Its controller."""
    mirror: bool = False
    """Static: the kubelet runs it from a file, and the API cannot remove it."""
    empty_dir: bool = False
    """It keeps data in an emptyDir, which dies with it."""
    deleting_since_seconds: float | None = None
    """Unix time of its deletionTimestamp."""
    grace_seconds: float = 30.0
    devices: int = 0
    """Whole accelerators that it requests."""

    @property
    def path(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"

    @property
    def finished(self) -> bool:
        """Whether it ran to its end."""
        return self.phase in ("Succeeded", "Failed")


class DisruptionBudget(msgspec.Struct, frozen=True, kw_only=True):
    """One PodDisruptionBudget: who it protects and what it says now."""

    namespace: str
    name: str
    match_labels: Mapping[str, str] = msgspec.field(default_factory=dict)
    match_expressions: tuple[Mapping[str, object], ...] = ()
    disruptions_allowed: int = 0
    current_healthy: int = 0
    desired_healthy: int = 0
    always_evicts_unhealthy: bool = False
    """``unhealthyPodEvictionPolicy: AlwaysAllow``."""
