"""Answers as JSON that no cache keeps."""

from typing import Any

import msgspec
from aiohttp import web

_encode = msgspec.json.Encoder().encode


def json_reply(data: Any, status: int = 200) -> web.Response:
    """Anything that msgspec encodes."""
    return web.Response(
        body=_encode(data),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def no_such_node(name: str) -> web.Response:
    """404, in words."""
    text = f"no node named {name!r}: it never reported here and the cluster does not list it"
    return json_reply({"error": text}, status=404)
