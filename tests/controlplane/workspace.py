"""A folder for a person who works on a cluster: what to source, and room for keys and logs; gone with the cluster."""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.controlplane.process import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

ENV = "env"
"""In the folder: exports for a shell. Also the sign that the folder is ours, and locked while a cluster uses it."""


class WorkspaceError(Exception):
    """The folder cannot be used; the text names it and the remedy."""


@contextmanager
def workspace(folder: Path) -> Iterator[Path]:
    """An empty folder of our own, removed with all that is in it at the end.

    Leftovers of an earlier cluster go; a folder of anybody else's is left alone.

    Raises:
        WorkspaceError: another cluster uses it, or it is not ours.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sign = folder / ENV
    if not sign.exists() and any(folder.iterdir()):
        raise WorkspaceError(f"{folder} is not empty and not ours: name another, or empty it")
    with sign.open("a") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WorkspaceError(
                f"another cluster uses {folder}: stop it, or name another"
            ) from None
        for each in folder.iterdir():
            if each.is_dir() and not each.is_symlink():
                shutil.rmtree(each)
            elif each != sign:
                each.unlink()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def write_env(folder: Path, *, kubeconfig: Path, programs: Sequence[Path]) -> None:
    """What to source: where the cluster is, and addresses that nobody has for an aggregator and its agents.

    Args:
        folder: the workspace.
        kubeconfig: of the cluster.
        programs: folders that come before the rest of PATH.
    """
    http, grpc = (f"127.0.0.1:{port}" for port in _two_ports())
    variables = {
        "KUBECONFIG": str(kubeconfig),
        "KUBECACHEDIR": str(folder.absolute() / "kubectl"),
        "FLEETMEDIC_SERVER": f"http://{http}",
        "FLEETMEDIC_AGGREGATOR_KUBECONFIG": str(kubeconfig),
        "FLEETMEDIC_AGGREGATOR_HTTP_LISTEN": http,
        "FLEETMEDIC_AGGREGATOR_GRPC_LISTEN": grpc,
        "FLEETMEDIC_AGENT_AGGREGATOR": grpc,
    }
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    front = os.pathsep.join(shlex.quote(str(each.absolute())) for each in programs)
    (folder / ENV).write_text("\n".join([*lines, f'export PATH={front}{os.pathsep}"$PATH"', ""]))


def _two_ports() -> tuple[int, int]:
    first = free_port()
    while (second := free_port()) == first:
        pass
    return first, second
