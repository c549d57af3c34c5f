"""What a look needs of a Node: its annotations (ours and HAMi's) at one version."""

from contextlib import aclosing
from typing import Any

from aggregator.cluster.client import Api, Json
from aggregator.cluster.errors import NotFound
from aggregator.cluster.nodes import NODES, node_path
from aggregator.policy.devices.signature import SIGNATURE, has_label
from aggregator.policy.devices.values import NodePicture


async def signed_nodes(api: Api) -> dict[str, Json]:
    """Nodes on which something of ours was ever signed and not taken back: found by label, after any crash.

    Raises:
        ApiError: they cannot be read.
    """
    found: dict[str, Json] = {}
    async with aclosing(api.pages(NODES, query={"labelSelector": SIGNATURE})) as pages:
        async for page in pages:
            found |= {each["metadata"]["name"]: each for each in page.get("items") or ()}
    return found


async def read_node(api: Api, name: str) -> Json | None:
    """One Node; ``None``: there is none.

    Raises:
        ApiError: it cannot be read.
    """
    try:
        return await api.get(node_path(name))
    except NotFound:
        return None


def picture_of(name: str, node: Json | None, plugin_devices: int, **more: Any) -> NodePicture:
    """A node's picture, with what the back-ends told beside it."""
    if node is None:
        return NodePicture(name=name, exists=False, **more)
    metadata = node["metadata"]
    return NodePicture(
        name=name,
        version=metadata["resourceVersion"],
        uid=metadata.get("uid") or "",
        annotations=metadata.get("annotations") or {},
        labelled=has_label(metadata),
        plugin_devices=plugin_devices,
        **more,
    )
