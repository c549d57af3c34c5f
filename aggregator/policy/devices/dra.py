"""Dynamic resource allocation: one DeviceTaintRule for each device. Pure.

KEP-5055. A rule begins with effect ``None``: the server then tells in its status what it would hit, and only a rule that
selects exactly the one device is raised to ``NoSchedule``. Never to ``NoExecute``: that deletes pods past their disruption
budgets; the ladder's drain moves them. A device's name is not tied to hardware, so each look compares the UUID that the
ResourceSlices tell for the name with the one that the rule was made for.
"""

import hashlib
import re
from collections.abc import Mapping

from aggregator.policy.devices import signature
from aggregator.policy.devices.dra_objects import (
    DEVICE,
    EFFECT,
    MANAGED_BY,
    NODE,
    OWNER,
    SELECTOR,
    UUID,
    pci_address,
)
from aggregator.policy.devices.signature import Signatures, Signed
from aggregator.policy.devices.values import (
    BackEnd,
    DeviceSettings,
    Json,
    Looked,
    NodePicture,
    Published,
    Rule,
    Step,
    Wanted,
)
from contract.vocabulary import TAINT_KEY

NONE, RAISED = "None", "NoSchedule"
SELECTED = re.compile(r"(\d+) published devices? selected")
"""In the condition's message, Kubernetes 1.36. A text that says it otherwise is not understood, and nothing is raised."""


def look(
    wanted: Mapping[str, Wanted],
    picture: NodePicture,
    refused: Mapping[str, str],
    settings: DeviceSettings,
    now: float,
) -> Looked:
    """What is due on one node.

    Args:
        wanted: by device.
        picture: the node, read just now.
        refused: devices that are given up for now, and why.
        settings: how long to wait for the server.
        now: Unix time.
    """
    if trouble := picture.troubles.get(BackEnd.DRA):
        if not picture.published and picture.whole:
            return Looked()  # nothing here is handed out this way
        return Looked(seen=frozenset(wanted), words=dict.fromkeys(wanted, trouble))
    if not (picture.published or picture.rules):
        signatures = signature.read(picture.annotations) or {}
        if not signature.of(signatures, BackEnd.DRA):
            return Looked()
    return _Look(picture, refused, settings, now).all(wanted)


class _Look:
    """One look under way."""

    def __init__(
        self,
        picture: NodePicture,
        refused: Mapping[str, str],
        settings: DeviceSettings,
        now: float,
    ) -> None:
        self._picture = picture
        self._refused = refused
        self._settings = settings
        self._now = now
        read = signature.read(picture.annotations)
        self._unreadable = read is None
        self._signatures: Signatures = read or {}
        self._signed: Mapping[str, Signed] = signature.of(self._signatures, BackEnd.DRA)
        self._steps: list[Step] = []
        self._words: dict[str, str] = {}
        self._in_force: set[str] = set()
        self._given_up: dict[str, str] = {}

    def all(self, wanted: Mapping[str, Wanted]) -> Looked:
        seen = frozenset(wanted) if self._picture.published else frozenset()
        if self._unreadable:
            text = f"the Node's annotation {signature.SIGNATURE} cannot be read; remove it"
            return Looked(seen=seen, words=dict.fromkeys(wanted, text))
        rules = {each.device: each for each in self._picture.rules}
        for rule in self._picture.rules:
            if rule.device not in wanted or rules[rule.device] is not rule:
                self._take_back(rule, f"{rule.device} is not quarantined any more")
        ours = {each.uuid for each in self._picture.rules if each.selector == each.wrote_selector}
        for key, signed in sorted(self._signed.items()):
            if key not in ours and signature.is_stale(key, signed, wanted):
                self._unsign(key, "its DeviceTaintRule is gone")
        for device, each in sorted(wanted.items()):
            self._words[device] = self._device(each, rules.get(device))
        return Looked(
            seen,
            frozenset(self._in_force),
            tuple(self._steps),
            self._words,
            self._given_up,
        )

    def _device(self, wanted: Wanted, rule: Rule | None) -> str:
        """What is due for one wanted device, and how it stands in words."""
        if not self._picture.whole:
            return "the node's ResourceSlices are not complete now; waiting for the driver"
        if rule is not None and rule.selector != rule.wrote_selector:
            return f"a person changed what DeviceTaintRule {rule.name} selects: it is theirs now"
        if rule is not None and rule.effect == NONE and rule.wrote_effect:
            return self._lowered(wanted, rule)
        hardware = self._hardware(wanted)
        if isinstance(hardware, str):
            return self._not_found(wanted, rule, hardware)
        if rule is not None and not _made_for(rule, hardware, wanted):
            self._take_back(rule, f"{rule.selector} is other hardware than {rule.uuid} now")
            return "the rule is taken back: its name belongs to other hardware now"
        if rule is None:
            return self._none_yet(wanted, hardware)
        return self._ruled(wanted, rule, hardware)

    def _hardware(self, wanted: Wanted) -> Published | str:
        """The one published device that this hardware is, or why there is not one."""
        address = pci_address(wanted.device.partition(":")[2])
        same = [each for each in self._picture.published if _is(each, wanted.uuid, address)]
        if not same:
            return "no ResourceSlice of the node lists it"
        if len(same) > 1:
            names = f"{same[0].name} and {len(same) - 1} more"
            return f"it is published as {len(same)} devices ({names}), and one rule taints one"
        (one,) = same
        if wanted.uuid and one.uuid and wanted.uuid.lower() != one.uuid.lower():
            return f"its ResourceSlice says {one.uuid}, its agent {wanted.uuid}: not touched"
        return one

    def _not_found(self, wanted: Wanted, rule: Rule | None, why: str) -> str:
        if rule is None:
            return why
        names = {each.selector for each in self._picture.published}
        if rule.selector in names:
            self._take_back(rule, f"{rule.selector} is other hardware than {rule.uuid} now")
            return f"{why}; its rule is taken back"
        if rule.effect != NONE and self._is_signed(rule, wanted):
            self._in_force.add(wanted.device)
            return "not published any more; its rule stays"
        return why

    def _none_yet(self, wanted: Wanted, hardware: Published) -> str:
        key = _key(hardware, wanted)
        text = "a person deleted its rule, or took our label or annotations off it: not put back unasked"
        if self._yields(key, wanted, text):
            return text
        if why := self._refused.get(wanted.device):
            return why
        body = _new_rule(wanted, hardware, key)
        reason = f"{wanted.code} on {wanted.device}: what would a taint on {hardware.selector} hit?"
        name = body["metadata"]["name"]
        self._steps.append(Step(wanted.node, BackEnd.DRA, "create", "rule", name, body, reason))
        return "a DeviceTaintRule without effect is made"

    def _lowered(self, wanted: Wanted, rule: Rule) -> str:
        text = f"a person set {rule.name} to effect None: not raised again unasked"
        if self._yields(rule.uuid, wanted, text):
            return text
        self._take_back(rule, f"that a person set {rule.name} to None was in an earlier incident")
        return "its old rule is taken back first"

    def _yields(self, key: str, wanted: Wanted, text: str) -> bool:
        """Whether a person took this quarantine off since this incident began; written down once."""
        signed = self._signed.get(key)
        if signed is None or signed.incident != wanted.incident:
            return False
        if not signed.yielded:
            self._node_patch(signature.yielding(self._signed, key), text)
        return True

    def _ruled(self, wanted: Wanted, rule: Rule, hardware: Published) -> str:
        if rule.effect != NONE:
            self._in_force.add(wanted.device)
            if not self._is_signed(rule, wanted):
                self._sign(rule, wanted)
            return f"no new pods: {rule.name} taints {hardware.selector}"
        if wrong := self._wrong(rule):
            self._given_up[wanted.device] = wrong
            self._take_back(rule, wrong)
            return wrong
        if rule.told is None:
            return "the server is asked what its rule would hit"
        if not self._is_signed(rule, wanted):
            self._sign(rule, wanted)
            return f"its rule hits it alone; signed: {rule.told}"
        body = {
            "metadata": {"resourceVersion": rule.version, "annotations": {EFFECT: RAISED}},
            "spec": {"taint": {"effect": RAISED}},
        }
        reason = f"{wanted.code} on {wanted.device}: no new pods on {rule.selector} ({rule.uuid})"
        self._steps.append(Step(wanted.node, BackEnd.DRA, "patch", "rule", rule.name, body, reason))
        return "its rule is raised to NoSchedule"

    def _wrong(self, rule: Rule) -> str:
        """Why this rule may not be raised; empty: nothing says so yet."""
        if rule.told is None:
            if self._now - rule.created_seconds < self._settings.probe_seconds:
                return ""
            return (
                "the server does not tell what its rule would hit: turn the feature gate "
                "DRADeviceTaintRules on in kube-controller-manager"
            )
        match = SELECTED.search(rule.told)
        if match is None:
            return f"what its rule would hit is not understood: {rule.told!r}"
        if match[1] != "1":
            return f"its rule would hit {match[1]} devices, not the one that is meant"
        return ""

    def _is_signed(self, rule: Rule, wanted: Wanted) -> bool:
        signed = self._signed.get(rule.uuid)
        return signed is not None and signed.incident == wanted.incident

    def _sign(self, rule: Rule, wanted: Wanted) -> None:
        kept = signature.signing(self._signed, rule.uuid, wanted)
        self._node_patch(kept, f"{rule.name} is ours, for {wanted.incident}")

    def _take_back(self, rule: Rule, why: str) -> None:
        """First the signature, then the rule: whenever we crash, a signature without its rule is a person's word."""
        if rule.selector != rule.wrote_selector:
            return  # a person's by now
        signed = self._signed.get(rule.uuid)
        if signed is not None and signed.device == rule.device:
            self._unsign(rule.uuid, why)
            return
        body = {"preconditions": {"resourceVersion": rule.version}}
        self._steps.append(
            Step(self._picture.name, BackEnd.DRA, "delete", "rule", rule.name, body, why)
        )

    def _unsign(self, key: str, why: str) -> None:
        self._node_patch(signature.without(self._signed, key), why)

    def _node_patch(self, kept: Mapping[str, Signed], reason: str) -> None:
        if not self._picture.exists:
            return
        name = self._picture.name
        body = signature.patch(self._picture.version, self._signatures, BackEnd.DRA, kept)
        self._steps.append(Step(name, BackEnd.DRA, "patch", "node", name, body, reason))


def _is(each: Published, uuid: str, address: str) -> bool:
    """Whether a published device is this hardware or a part of it."""
    if uuid and uuid.lower() in (each.uuid.lower(), each.parent_uuid.lower()):
        return True
    return bool(each.pci_bus_id) and each.pci_bus_id == address


def _made_for(rule: Rule, hardware: Published, wanted: Wanted) -> bool:
    """Whether nothing says that it is other hardware: after our restart an agent may not have told its UUID yet."""
    said = (hardware.uuid or wanted.uuid).lower()
    return rule.selector == hardware.selector and (
        not said or rule.uuid.lower() in (said, hardware.pci_bus_id)
    )


def _key(hardware: Published, wanted: Wanted) -> str:
    """What tells this piece of hardware from its successor: its UUID, else where it sits."""
    return hardware.uuid or wanted.uuid or hardware.pci_bus_id


def _new_rule(wanted: Wanted, hardware: Published, key: str) -> Json:
    digest = hashlib.sha256(f"{wanted.node}/{hardware.selector}/{key}".encode()).hexdigest()[:16]
    value = re.sub(r"[^A-Za-z0-9_.-]", "-", wanted.code)[:63].strip("-_.")
    return {
        "kind": "DeviceTaintRule",
        "metadata": {
            "name": f"fleetmedic-{digest}",
            "labels": {MANAGED_BY: OWNER},
            "annotations": {
                NODE: wanted.node,
                DEVICE: wanted.device,
                UUID: key,
                SELECTOR: hardware.selector,
            },
        },
        "spec": {
            "deviceSelector": {
                "driver": hardware.driver,
                "pool": hardware.pool,
                "device": hardware.name,
            },
            "taint": {"key": TAINT_KEY, "value": value, "effect": NONE},
        },
    }
