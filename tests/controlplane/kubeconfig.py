"""Write kubeconfig files: JSON, which is YAML, with everything inline so that one file travels."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

    from tests.controlplane.pki import Pair


def write(
    path: Path, *, url: str, ca: bytes, token: str | None = None, client: Pair | None = None
) -> Path:
    """A kubeconfig with one cluster and one user, who shows a token or a client certificate."""
    user: dict[str, str] = {}
    if token is not None:
        user["token"] = token
    if client is not None:
        user["client-certificate-data"] = _base64(client.certificate)
        user["client-key-data"] = _base64(client.key)
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [
            {
                "name": "test",
                "cluster": {"server": url, "certificate-authority-data": _base64(ca)},
            }
        ],
        "users": [{"name": "test", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    }
    path.touch(mode=0o600)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=2))
    return path


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
