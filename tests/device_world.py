"""For tests of device quarantine: one node as a server in memory would hold it, and what the planner does to it."""

import copy
from typing import Any

import msgspec

from aggregator.cluster import times
from aggregator.policy.devices.dra_objects import published, rule_of
from aggregator.policy.devices.hami import CORDON, REGISTER, cordoned
from aggregator.policy.devices.planner import DeviceMemory, Planned, plan
from aggregator.policy.devices.signature import has_label
from aggregator.policy.devices.values import BackEnd, DeviceSettings, NodePicture, Step
from aggregator.policy.model import ClusterNode, ClusterView, Incident
from tests.policy_builders import FATAL, START, finding, incident

Json = dict[str, Any]

ALL = DeviceSettings(
    back_ends=tuple(BackEnd), vouched=frozenset(BackEnd), settle_seconds=0, probe_seconds=20
)
NAME = "n"
A, B = "gpu:0000:3b:00.0", "gpu:0000:86:00.0"
TOLD = "{} published device{} selected. 0 allocated devices selected. 0 pods would be evicted"


def merged(target: Json, patch: Json) -> Json:
    """RFC 7386, as the API server does it."""
    out = dict(target)
    for key, value in patch.items():
        if value is None:
            out.pop(key, None)
        elif isinstance(value, dict):
            out[key] = merged(out.get(key) or {}, value)
        else:
            out[key] = copy.deepcopy(value)
    return out


class DeviceWorld:
    """A Node, DeviceTaintRules, ResourceSlices, a Device object, and an incident."""

    def __init__(self, settings: DeviceSettings, *, plugin_devices: int = 0) -> None:
        self.settings = settings
        self.now = START
        self.plugin_devices = plugin_devices
        self.hardware = {A: "GPU-a", B: "GPU-b"}
        """What the agent says."""
        self.node: Json = {"metadata": {"name": NAME, "resourceVersion": "1", "annotations": {}}}
        self.rules: dict[str, Json] = {}
        self.devices: list[Json] = []
        self.whole = True
        self.device_object: Json | None = None
        self.troubles: dict[BackEnd, str] = {}
        self.incident: Incident | None = None
        self.memory = DeviceMemory()
        self.version = 1
        self.tells = 1
        """How many devices the server says that a rule selects; 0: it says nothing."""
        self.dra_version = "v1"

    # -- what there is

    def with_dra(self) -> "DeviceWorld":
        self.devices = [device("gpu-0", "GPU-a", A), device("gpu-1", "GPU-b", B)]
        return self

    def with_hami(self, cordon: str | None = None) -> "DeviceWorld":
        listed = [{"id": "GPU-a"}, {"id": "GPU-b"}]
        self.annotations[REGISTER] = msgspec.json.encode(listed).decode()
        if cordon is not None:
            self.annotations[CORDON] = cordon
        return self

    def with_koordinator(self) -> "DeviceWorld":
        listed = [
            {"type": "gpu", "id": "GPU-a", "minor": 0, "health": True},
            {"type": "gpu", "id": "GPU-b", "minor": 1, "health": True},
        ]
        self.device_object = {
            "metadata": {"name": NAME, "resourceVersion": "1"},
            "spec": {"devices": listed},
        }
        return self

    @property
    def annotations(self) -> dict[str, str]:
        found: dict[str, str] = self.node["metadata"].setdefault("annotations", {})
        return found

    @property
    def cordoned(self) -> list[str]:
        return cordoned(self.annotations.get(CORDON) or "")

    @property
    def effects(self) -> dict[str, str]:
        """Device name → effect of the rule that selects it."""
        return {
            each["spec"]["deviceSelector"]["device"]: each["spec"]["taint"]["effect"]
            for each in self.rules.values()
        }

    @property
    def health(self) -> dict[str, bool]:
        assert self.device_object is not None
        return {each["id"]: each["health"] for each in self.device_object["spec"]["devices"]}

    def sick(self, *devices: str, name: str = "i1", **changes: Any) -> None:
        """These devices are what a quarantine is about."""
        found = tuple(finding(subject=each) for each in devices) or (FATAL,)
        self.incident = incident(NAME, name=name, findings=found, **changes)

    def well(self) -> None:
        self.incident = None

    # -- the server's doing

    def bump(self) -> str:
        self.version += 1
        return str(self.version)

    def picture(self) -> NodePicture:
        found, whole = published(slices(self.devices))
        told = TOLD.format(self.tells, "" if self.tells == 1 else "s")
        rules = []
        for each in self.rules.values():
            obj = copy.deepcopy(each)
            if self.tells and obj["spec"]["taint"]["effect"] == "None":
                status = {
                    "type": "EvictionInProgress",
                    "message": told,
                    "observedGeneration": obj["metadata"].get("generation"),
                }
                obj["status"] = {"conditions": [status]}
            made = times.to_seconds(obj["metadata"]["creationTimestamp"])
            if (rule := rule_of(obj, made)) is not None:
                rules.append(rule)
        return NodePicture(
            name=NAME,
            version=self.node["metadata"]["resourceVersion"],
            annotations=dict(self.annotations),
            labelled=has_label(self.node["metadata"]),
            plugin_devices=self.plugin_devices,
            published=found,
            whole=whole and self.whole,
            rules=tuple(rules),
            device_object=copy.deepcopy(self.device_object),
            troubles=self.troubles,
        )

    @property
    def view(self) -> ClusterView:
        known = {self.incident.name: self.incident} if self.incident else {}
        return ClusterView(synced=True, nodes={NAME: ClusterNode(name=NAME)}, incidents=known)

    def planned(self) -> Planned:
        """One look without writing."""
        return plan(
            self.view,
            [self.picture()],
            {NAME: self.hardware},
            self.settings,
            self.memory,
            self.now,
            dra_version=self.dra_version,
        )

    def look(self, after: float = 5.0) -> Planned:
        """Time passes, one look, and all of it is written."""
        self.now += after
        planned = self.planned()
        self.memory = planned.memory
        for step in planned.steps:
            self.write(step)
        return planned

    def looks(self, times_: int) -> Planned:
        for _ in range(times_ - 1):
            self.look()
        return self.look()

    def write(self, step: Step) -> None:
        """As the server does it; a version that is not the newest is lost."""
        match step.kind, step.verb:
            case "rule", "create":
                if step.name in self.rules:
                    return
                obj = copy.deepcopy(step.body)
                obj["metadata"] |= {
                    "resourceVersion": self.bump(),
                    "creationTimestamp": times.whole(self.now),
                    "generation": 1,
                }
                self.rules[step.name] = obj
            case "rule", "delete":
                rule = self.rules[step.name]
                wanted = step.body["preconditions"]["resourceVersion"]
                if rule["metadata"]["resourceVersion"] == wanted:
                    del self.rules[step.name]
            case "rule", _:
                self.rules[step.name] = self._merged(self.rules[step.name], step.body)
            case "node", _:
                self.node = self._merged(self.node, step.body)
            case _:
                assert self.device_object is not None
                self.device_object = self._merged(self.device_object, step.body)

    def _merged(self, obj: Json, body: Json) -> Json:
        if body["metadata"]["resourceVersion"] != obj["metadata"]["resourceVersion"]:
            return obj
        out = merged(obj, body)
        out["metadata"]["resourceVersion"] = self.bump()
        return out

    # -- people's doing

    def person_notes(self, key: str, value: str | None) -> None:
        """A person annotates the Node."""
        patch = {"metadata": {"annotations": {key: value}}}
        self.node = merged(self.node, patch)
        self.node["metadata"]["resourceVersion"] = self.bump()

    def person_edits_rule(self, name: str, **spec: Any) -> None:
        self.rules[name] = merged(self.rules[name], {"spec": spec})
        self.rules[name]["metadata"]["resourceVersion"] = self.bump()


def device(name: str, uuid: str, subject: str, **attributes: str) -> Json:
    """One device of a ResourceSlice."""
    told = {"uuid": uuid, "resource.kubernetes.io/pciBusID": subject.partition(":")[2]}
    named = {key: {"string": value} for key, value in (told | attributes).items()}
    return {"name": name, "attributes": named}


def slices(devices: list[Json]) -> list[Json]:
    """They as one whole pool."""
    if not devices:
        return []
    pool = {"name": NAME, "generation": 1, "resourceSliceCount": 1}
    return [{"spec": {"driver": "gpu.nvidia.com", "pool": pool, "devices": devices}}]


def foreign_rule(name: str) -> Json:
    """Somebody else's, which only carries our label."""
    return {
        "metadata": {
            "name": name,
            "resourceVersion": "1",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app.kubernetes.io/managed-by": "fleetmedic"},
        },
        "spec": {"deviceSelector": {"device": "gpu-0"}, "taint": {"key": "x", "effect": "None"}},
    }


def world(settings: DeviceSettings = ALL, **options: int) -> DeviceWorld:
    made = DeviceWorld(settings, **options)
    made.sick(A)
    return made


def word(planned: Planned, device: str = A) -> str:
    return planned.words[NAME][device]
