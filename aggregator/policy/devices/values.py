"""What the planner of device quarantines is told and what it answers. Values only."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal, NamedTuple

import msgspec

Json = dict[str, Any]


class BackEnd(StrEnum):
    """Who can keep pods from one device."""

    DRA = "dra"
    """A DeviceTaintRule of Kubernetes' dynamic resource allocation (KEP-5055)."""
    HAMI = "hami"
    """HAMi's node annotation ``hami.io/device-cordon``."""
    KOORDINATOR = "koordinator"
    """``health: false`` in Koordinator's Device object, where nobody else writes it."""


AUTO = (BackEnd.DRA, BackEnd.HAMI)
"""Those that harm nobody where they do nothing."""


class DeviceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Which back-ends, and how carefully. All durations in seconds."""

    back_ends: tuple[BackEnd, ...] = ()
    """Those that are used; none: what earlier settings left behind is taken back, and nothing else is done."""
    vouched: frozenset[BackEnd] = frozenset()
    """Those that a person named, and so says that every pod which gets these devices goes through them."""
    look_seconds: float = 5.0
    """Between two looks."""
    settle_seconds: float = 30.0
    """How long a device quarantine must be seen to hold before the node's taint is relaxed for it."""
    probe_seconds: float = 60.0
    """How long the server may take to tell what a rule without effect would hit."""
    retry_seconds: float = 600.0
    """After a rule was taken back because it would have hit too much or nobody told what."""
    steps_per_look: int = 10
    """Most writes in one look, in the whole cluster; at most one for each node and back-end."""


def parse_back_ends(text: str) -> DeviceSettings:
    """Read the setting ``device_quarantine``: ``off``, ``auto``, or names separated by commas.

    Raises:
        ValueError: naming the word and what is allowed.
    """
    words = [each.strip() for each in text.split(",") if each.strip()]
    if words in ([], ["off"]):
        return DeviceSettings()
    if words == ["auto"]:
        return DeviceSettings(back_ends=AUTO)
    known = {each.value for each in BackEnd}
    for word in words:
        if word not in known:
            allowed = ", ".join(sorted(known))
            raise ValueError(f"{word!r} is not off, auto or a list of {allowed}")
    named = tuple(each for each in BackEnd if each in words)
    return DeviceSettings(back_ends=named, vouched=frozenset(named))


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """One device that should get no new pods."""

    node: str
    device: str
    """As findings name it: ``gpu:0000:3b:00.0``."""
    uuid: str = ""
    """Of the hardware that is there now, as its agent says; empty: not known."""
    incident: str
    code: str
    """Of the worst finding about it."""


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """One device in a ResourceSlice of a node."""

    driver: str
    pool: str
    name: str
    uuid: str = ""
    parent_uuid: str = ""
    """Of a partition: the device that it is a part of."""
    pci_bus_id: str = ""

    @property
    def selector(self) -> str:
        """As we write it into an annotation."""
        return f"{self.driver}/{self.pool}/{self.name}"


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One DeviceTaintRule of ours, as it stands."""

    name: str
    version: str
    """Its resourceVersion."""
    node: str
    device: str
    uuid: str
    wrote_selector: str
    """What we made it select; another selector is a person's edit."""
    wrote_effect: str
    """The effect that we raised it to; empty: not yet."""
    selector: str
    effect: str
    created_seconds: float
    """Unix time."""
    told: str | None = None
    """What the server says that this rule, as it is now, would hit; ``None``: nothing yet."""


class NodePicture(msgspec.Struct, frozen=True, kw_only=True):
    """What was read about one node just now."""

    name: str
    exists: bool = True
    """False: its Node object is gone."""
    version: str = ""
    """The Node's resourceVersion."""
    annotations: Mapping[str, str] = {}
    labelled: bool = True
    """Whether it has the label by which what is signed is found after a crash."""
    plugin_devices: int = 0
    """Accelerators that a device plugin offers: DRA's taints do not reach those."""
    published: tuple[Published, ...] = ()
    whole: bool = True
    """Whether every ResourceSlice of its pools is there."""
    rules: tuple[Rule, ...] = ()
    device_object: Json | None = None
    """Koordinator's Device of this node."""
    troubles: Mapping[BackEnd, str] = {}
    """Why a back-end cannot be used here, in words."""
    uid: str = ""
    """Of the Node object: one that is made anew under the same name has another one."""


class Step(NamedTuple):
    """One write, and why."""

    node: str
    back_end: BackEnd
    verb: Literal["create", "patch", "delete"]
    kind: Literal["rule", "node", "device"]
    """What is written to: a DeviceTaintRule, the Node, Koordinator's Device."""
    name: str
    body: Json
    """An object, a merge patch that a resourceVersion guards, or DeleteOptions with a precondition."""
    reason: str


class Looked(NamedTuple):
    """What one back-end makes of one node."""

    seen: frozenset[str] = frozenset()
    """The wanted devices that this back-end hands out."""
    in_force: frozenset[str] = frozenset()
    """Those of them that it keeps from new pods now."""
    steps: tuple[Step, ...] = ()
    """What is due, in order."""
    words: Mapping[str, str] = {}
    """By device: how it stands."""
    refused: Mapping[str, str] = {}
    """By device: why it is given up for a while."""
