"""Dynamic resource allocation: ResourceSlices and DeviceTaintRules as the server serves them, reduced to what counts. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from aggregator.policy.devices.values import Json, Published, Rule
from contract.vocabulary import ANNOTATION_PREFIX

MANAGED_BY = "app.kubernetes.io/managed-by"
OWNER = "fleetmedic"
NODE, DEVICE, UUID, SELECTOR, EFFECT = (
    f"{ANNOTATION_PREFIX}/{name}" for name in ("node", "device", "uuid", "selector", "effect")
)
"""Annotations of a rule: what it is for, and what we made it."""

UUID_ATTRIBUTES = ("uuid", "UUID")
PARENT_ATTRIBUTES = ("parentUUID", "parentUuid")
PCI_ATTRIBUTES = ("pciBusID", "pcieBusID")
"""Last part of the qualified names under which drivers tell them."""


def pci_address(text: str) -> str:
    """``0000:3b:00.0`` however it is written: upper case, or with NVIDIA's eight-digit domain."""
    domain, colon, rest = text.strip().lower().partition(":")
    padded = len(domain) > 4 and not domain[:-4].strip("0")
    return f"{domain[-4:] if padded else domain}{colon}{rest}"


def published(slices: Sequence[Json]) -> tuple[tuple[Published, ...], bool]:
    """The devices in a node's ResourceSlices, and whether every slice of each pool's newest generation is there.

    Understands v1, v1beta2 and v1beta1, which has the attributes one level deeper.
    """
    pools: dict[tuple[str, str], list[Json]] = {}
    for one in slices:
        spec = one.get("spec") or {}
        pool = spec.get("pool") or {}
        pools.setdefault((spec.get("driver") or "", pool.get("name") or ""), []).append(spec)
    found: list[Published] = []
    whole = True
    for (driver, name), specs in sorted(pools.items()):
        newest = max((each.get("pool") or {}).get("generation") or 0 for each in specs)
        current = [e for e in specs if ((e.get("pool") or {}).get("generation") or 0) == newest]
        whole = whole and len(current) == (current[0]["pool"].get("resourceSliceCount") or 0)
        for spec in current:
            found += [_published(driver, name, device) for device in spec.get("devices") or ()]
    return tuple(found), whole


def _published(driver: str, pool: str, device: Json) -> Published:
    attributes = device.get("attributes") or (device.get("basic") or {}).get("attributes") or {}
    return Published(
        driver=driver,
        pool=pool,
        name=device.get("name") or "",
        uuid=_text(attributes, UUID_ATTRIBUTES),
        parent_uuid=_text(attributes, PARENT_ATTRIBUTES),
        pci_bus_id=pci_address(_text(attributes, PCI_ATTRIBUTES)),
    )


def _text(attributes: Mapping[str, Any], names: Sequence[str]) -> str:
    for name, value in attributes.items():
        if name.rpartition("/")[2] in names and isinstance(value, Mapping):
            text = value.get("string")
            if isinstance(text, str):
                return text
    return ""


def rule_of(obj: Json, created_seconds: float) -> Rule | None:
    """A DeviceTaintRule as the server serves it; ``None``: it is not ours, whatever its label says."""
    metadata, spec = obj["metadata"], obj.get("spec") or {}
    labels, notes = metadata.get("labels") or {}, metadata.get("annotations") or {}
    if labels.get(MANAGED_BY) != OWNER or not all(
        notes.get(key) for key in (NODE, DEVICE, SELECTOR)
    ):
        return None
    chosen = spec.get("deviceSelector") or {}
    extra = set(chosen) - {"driver", "pool", "device"}
    selector = "/".join(chosen.get(key) or "" for key in ("driver", "pool", "device"))
    told = [
        each.get("message") or ""
        for each in (obj.get("status") or {}).get("conditions") or ()
        if each.get("type") == "EvictionInProgress"
        and each.get("observedGeneration") == metadata.get("generation")
    ]
    return Rule(
        name=metadata["name"],
        version=metadata["resourceVersion"],
        node=notes[NODE],
        device=notes[DEVICE],
        uuid=notes.get(UUID) or "",
        wrote_selector=notes[SELECTOR],
        wrote_effect=notes.get(EFFECT) or "",
        selector="?" if extra else selector,
        effect=(spec.get("taint") or {}).get("effect") or "",
        created_seconds=created_seconds,
        told=told[0] if told else None,
    )
