"""A desk on a real API server, one sick node, and what the test reads and writes behind its back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aggregator.cluster import EdgeError
from aggregator.cluster.client import Api
from aggregator.cluster.credentials import Credentials
from aggregator.cluster.devices.desk import DeviceDesk
from aggregator.cluster.pen import Pen
from aggregator.policy.devices.values import DeviceSettings, parse_back_ends
from aggregator.policy.model import ClusterNode, ClusterView, Incident
from contract.vocabulary import Phase
from tests.policy_builders import finding, incident

if TYPE_CHECKING:
    from tests.controlplane.api import Json
    from tests.controlplane.cluster import ControlPlane
    from tests.controlplane.proxy import FaultProxy

BAD = "gpu:0000:3b:00.0"
UUIDS = {BAD: "GPU-3b", "gpu:0000:86:00.0": "GPU-86"}
NOW = 2_000_000_000.0


class Desk:
    """One aggregator's desk, about one node."""

    def __init__(
        self, proxy: FaultProxy, node: str, back_ends: str, *, plugin_devices: int = 0
    ) -> None:
        self.proxy = proxy
        self.node = node
        self.plugin_devices = plugin_devices
        self.api = Api(Credentials(proxy.kubeconfig))
        self.allowed = True
        self.incident: Incident | None = incident(
            node, findings=(finding(subject=BAD),), quarantined_seconds=1.0
        )
        self.hardware = {node: dict(UUIDS)}
        self.now = NOW
        self.desk = self.new(back_ends)

    def new(self, back_ends: str, *, dry_run: bool = False, **settings: Any) -> DeviceDesk:
        """Another process's desk, with nothing in memory."""
        named = parse_back_ends(back_ends)
        chosen = DeviceSettings(
            back_ends=named.back_ends, vouched=named.vouched, settle_seconds=0.0, **settings
        )
        pen = Pen(self.api, permit=self.permit, dry_run=dry_run)
        return DeviceDesk(self.api, pen, chosen, permit=self.permit)

    def permit(self) -> None:
        if not self.allowed:
            raise EdgeError("not the leader")

    @property
    def view(self) -> ClusterView:
        node = ClusterNode(name=self.node, gpu_capacity=self.plugin_devices)
        known = {self.incident.name: self.incident} if self.incident else {}
        return ClusterView(synced=True, nodes={self.node: node}, incidents=known)

    async def look(self) -> bool:
        """One look, a minute later."""
        self.now += 61.0
        return await self.desk.step(self.view, self.hardware_of, self.now)

    def hardware_of(self, node: str) -> dict[str, str]:
        return self.hardware.get(node, {})

    async def looks(self, times: int) -> None:
        for _ in range(times):
            await self.look()

    @property
    def kept(self) -> frozenset[str]:
        """Devices that the desk says are kept from pods by themselves."""
        return (self.desk.in_force or {}).get(self.node, frozenset())

    @property
    def word(self) -> str:
        return self.desk.words[self.node][BAD]

    def recover(self) -> None:
        """The incident is over."""
        assert self.incident is not None
        self.incident = incident(self.node, Phase.CLOSED, quarantined_seconds=1.0)

    async def annotations(self) -> dict[str, str]:
        obj = await self.api.get(f"/api/v1/nodes/{self.node}")
        found: dict[str, str] = obj["metadata"].get("annotations", {})
        return found

    def writes(self) -> int:
        return sum(self.proxy.count(each) for each in ("PATCH", "POST", "DELETE"))


async def person(plane: ControlPlane, method: str, path: str, body: Json | None = None) -> Json:
    """Somebody else's write; it has to succeed."""
    kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
    status, answer = await plane.request(method, path, body, kind)
    assert status < 300, answer
    return answer
