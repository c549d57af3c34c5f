"""Koordinator's Device objects: one for each node, cluster-scoped, named like it."""

from contextlib import aclosing
from urllib.parse import quote

from aggregator.cluster.client import Api, Json
from aggregator.cluster.errors import NotFound
from aggregator.policy.devices.signature import SIGNATURE

DEVICES = "/apis/scheduling.koordinator.sh/v1alpha1/devices"


def device_path(node: str) -> str:
    """Where the Device of a node lives."""
    return f"{DEVICES}/{quote(node, safe='')}"


async def device_of(api: Api, node: str) -> Json | None:
    """The Device of a node; ``None``: it has none, or there is no Koordinator.

    Raises:
        ApiError: it cannot be read.
    """
    try:
        return await api.get(device_path(node))
    except NotFound:
        return None


async def signed_devices(api: Api) -> dict[str, Json]:
    """By node: Devices that carry our label, wherever they came from.

    Raises:
        ApiError: they cannot be read.
    """
    found: dict[str, Json] = {}
    try:
        async with aclosing(api.pages(DEVICES, query={"labelSelector": SIGNATURE})) as pages:
            async for page in pages:
                found |= {each["metadata"]["name"]: each for each in page.get("items") or ()}
    except NotFound:
        return {}
    return found
