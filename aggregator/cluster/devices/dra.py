"""Dynamic resource allocation on the server: which versions it has, ResourceSlices of a node, DeviceTaintRules of ours."""

from collections.abc import Mapping
from contextlib import aclosing
from typing import NamedTuple

from aggregator.cluster import times
from aggregator.cluster.client import Api, Json
from aggregator.cluster.errors import ApiError, NotFound
from aggregator.policy.devices.dra_objects import MANAGED_BY, OWNER, rule_of
from aggregator.policy.devices.values import Rule

GROUP = "/apis/resource.k8s.io"
RULE_VERSIONS = ("v1", "v1beta2", "v1alpha3")
"""Newest first, as we know them: 1.37, 1.36, 1.33."""
SLICE_VERSIONS = ("v1", "v1beta2", "v1beta1")
MAX_RULES = 2_000
MAX_SLICES = 200
"""Of one node; partitions of eight GPUs fill a few."""


class Served(NamedTuple):
    """Where the server has what we need."""

    rules: str = ""
    """Version of DeviceTaintRules; empty: it does not serve them."""
    slices: str = ""
    """Version of ResourceSlices; empty: it does not serve them."""

    @property
    def rules_path(self) -> str:
        """The collection of DeviceTaintRules."""
        return f"{GROUP}/{self.rules}/devicetaintrules"

    @property
    def missing(self) -> str:
        """What is not there, in words, with the remedy; empty: all is."""
        if not self.slices:
            return "the server serves no ResourceSlices: it has no dynamic resource allocation"
        if not self.rules:
            return (
                "the server serves no DeviceTaintRules: on kube-apiserver turn the feature gate "
                "DRADeviceTaintRules and --runtime-config=resource.k8s.io/v1beta2=true on"
            )
        return ""


async def discover(api: Api) -> Served:
    """Ask which versions there are.

    Raises:
        ApiError: the server does not answer.
    """
    try:
        group = await api.get(GROUP)
    except NotFound:
        return Served()
    there = {each["version"] for each in group.get("versions") or ()}
    held: dict[str, set[str]] = {}
    for version in sorted(there.intersection((*RULE_VERSIONS, *SLICE_VERSIONS))):
        listed = await api.get(f"{GROUP}/{version}")
        held[version] = {each["name"] for each in listed.get("resources") or ()}
    return Served(
        next((each for each in RULE_VERSIONS if "devicetaintrules" in held.get(each, ())), ""),
        next((each for each in SLICE_VERSIONS if "resourceslices" in held.get(each, ())), ""),
    )


async def our_rules(api: Api, served: Served) -> list[Rule]:
    """All DeviceTaintRules that carry our label and our annotations.

    Raises:
        ApiError: they cannot be read, or are too many.
    """
    query = {"labelSelector": f"{MANAGED_BY}={OWNER}"}
    found = await _all(api, served.rules_path, query, MAX_RULES)
    rules = [
        rule_of(each, times.to_seconds(each["metadata"]["creationTimestamp"])) for each in found
    ]
    return [each for each in rules if each is not None]


async def slices_of(api: Api, served: Served, node: str) -> list[Json]:
    """The ResourceSlices of one node; those for many nodes or all of them are not about one device of it.

    Raises:
        ApiError: they cannot be read, or are too many.
    """
    path = f"{GROUP}/{served.slices}/resourceslices"
    return await _all(api, path, {"fieldSelector": f"spec.nodeName={node}"}, MAX_SLICES)


def rule_object(served: Served, body: Json) -> Json:
    """A new rule in the version that the server has."""
    return {"apiVersion": f"resource.k8s.io/{served.rules}", **body}


async def _all(api: Api, path: str, query: Mapping[str, str], most: int) -> list[Json]:
    found: list[Json] = []
    async with aclosing(api.pages(path, query=query)) as pages:
        async for page in pages:
            found += page.get("items") or ()
            if len(found) > most:
                raise ApiError(f"more than {most} objects at {path}: none is looked at")
    return found
