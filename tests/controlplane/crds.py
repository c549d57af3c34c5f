"""Install custom resource definitions, ours or somebody else's, and wait until they are served."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tests.controlplane.api import APPLY, Api, Json
from tests.controlplane.binaries import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

SHARED = Path(__file__).parents[3] / "shared" / "crds"
"""Real definitions of other projects, beside the checkout; not ours to copy."""

WORKLOADS = ("kueue", "training-operator", "trainer", "volcano", "kserve")
"""Whose resources a drain meets."""


class CrdError(Exception):
    """The API server refused a definition; the text names the file and the server's reason."""


async def apply_crds(api: Api, files: Iterable[Path]) -> list[str]:
    """Server-side apply every CRD in these YAML files, wait until served; their names.

    Documents of other kinds are passed over: published bundles mix CRDs with deployments.
    """
    names: list[str] = []
    for file in files:
        text = await asyncio.to_thread(file.read_text)
        documents = [one for one in yaml.load_all(text, Loader=_Loader) if isinstance(one, dict)]
        found = [one for one in documents if one.get("kind") == "CustomResourceDefinition"]
        names += [await _apply(api, one, file) for one in found]
    for name in names:
        await api.until(f"{CRDS}/{name}", _established)
    return names


_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The C parser where there is one: large CRDs take seconds with the other."""


async def _apply(api: Api, document: Json, file: Path) -> str:
    name: str = document["metadata"]["name"]
    document.pop("status", None)
    status, answer = await api.request(
        "PATCH", f"{CRDS}/{name}?fieldManager=tests&force=true", document, APPLY
    )
    if status not in (200, 201):
        raise CrdError(f"{file}: {name}: {status} {answer.get('message', answer)}")
    return name


def _established(definition: Json) -> bool:
    # Right after creation the server answers `"conditions": null`, so a default would not do.
    conditions = definition.get("status", {}).get("conditions") or ()
    return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)


async def apply_workload_crds(api: Api) -> list[str]:
    """Install the definitions of Kueue, the training operators, Volcano and KServe; their names.

    Raises:
        Unavailable: they are not beside the checkout.
    """
    folders = [SHARED / each for each in WORKLOADS]
    if absent := [str(each) for each in folders if not await asyncio.to_thread(each.is_dir)]:
        raise Unavailable(f"no definitions of other projects: {', '.join(absent)} is not there")
    files = [file for folder in folders for file in sorted(folder.glob("*.yaml"))]
    return await apply_crds(api, files)
