"""Where the control plane's binaries come from: an environment variable, a cache, or a build.

`KUBEBUILDER_ASSETS` is the convention of setup-envtest. Without it we build once from the Go
modules pinned in `binaries/go.mod`, into a cache folder named after what went into the build.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from tests.building import locked, say
from tests.controlplane.gotool import Unavailable, find_go, required_go

__all__ = [
    "PROGRAMS",
    "Unavailable",
    "cache_folder",
    "cached",
    "find_or_build",
    "missing",
    "program",
]

MODULE = Path(__file__).parent / "binaries"
WHO = "controlplane"

PROGRAMS = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
    "kwok": "sigs.k8s.io/kwok/cmd/kwok",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
}

NEEDED_FOR = {
    "etcd": "everything",
    "kube-apiserver": "everything",
    "kube-controller-manager": "budgets, taints by condition, garbage collection",
    "kube-scheduler": "placing pods",
    "kwok": "nodes and pods that answer",
    "kubectl": "the kubectl() helper",
}
INDISPENSABLE = ("etcd", "kube-apiserver")

BUILD_FLAGS = ("-mod=readonly", "-trimpath", "-buildvcs=false")
BUILD_ENV = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "", "GOWORK": "off"}


def find_or_build() -> Path:
    """The folder with the binaries; builds them when there is no other way (minutes, once).

    Raises:
        Unavailable: there are none and none can be built; the message says what to do.
    """
    found = cached()
    return found if found is not None else _build(cache_folder())


def cached() -> Path | None:
    """The folder with the binaries when nothing has to be built, else None.

    Raises:
        Unavailable: `KUBEBUILDER_ASSETS` names a folder that cannot serve.
    """
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets:
        folder = Path(assets)
        lacking = [name for name in INDISPENSABLE if not _is_program(folder / name)]
        if lacking:
            raise Unavailable(
                f"KUBEBUILDER_ASSETS={assets} has no {' and no '.join(lacking)}: "
                "put them there, or unset the variable to use our own build"
            )
        return folder
    folder = cache_folder()
    return folder if not missing(folder) else None


def missing(folder: Path) -> dict[str, str]:
    """The programs that this folder lacks, each with what cannot be done without it."""
    return {name: NEEDED_FOR[name] for name in PROGRAMS if not _is_program(folder / name)}


def program(folder: Path, name: str) -> Path:
    """The path of one program.

    Raises:
        Unavailable: this folder does not have it.
    """
    path = folder / name
    if not _is_program(path):
        raise Unavailable(
            f"{folder} has no {name}, needed for {NEEDED_FOR[name]}: "
            "put it there, or unset KUBEBUILDER_ASSETS to use our own build"
        )
    return path


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _ldflags() -> str:
    """Go's linker flags: no debug tables, and the Kubernetes version that `go build` would lose."""
    found = re.search(r"k8s\.io/kubernetes v((\d+)\.(\d+)\.\S+)", (MODULE / "go.mod").read_text())
    if found is None:
        raise ValueError(f"{MODULE / 'go.mod'} does not require k8s.io/kubernetes")
    at = "-X k8s.io/component-base/version."
    return f"-s -w {at}gitVersion=v{found[1]} {at}gitMajor={found[2]} {at}gitMinor={found[3]}"


def _cache_root() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fleetmedic" / "controlplane"


def cache_folder() -> Path:
    """One folder per set of inputs: other versions or other flags are another folder."""
    digest = hashlib.sha256()
    for name in ("go.mod", "go.sum"):
        digest.update((MODULE / name).read_bytes())
    digest.update(repr((BUILD_FLAGS, sorted(BUILD_ENV.items()), _ldflags())).encode())
    return _cache_root() / digest.hexdigest()[:12]


def _build(folder: Path) -> Path:
    """Build what is missing into a `.partial` folder, then rename it: complete or not there.

    An interrupted build keeps the programs it finished, so the next one goes on from there.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"set XDG_CACHE_HOME to a folder that can be written: {error}") from error
    with locked(folder.with_name(folder.name + ".lock"), WHO):
        if not missing(folder):
            return folder
        go = find_go(required_go(MODULE / "go.mod"), folder.parent)
        partial = folder.with_name(folder.name + ".partial")
        partial.mkdir(exist_ok=True)
        todo = missing(partial)
        say(WHO, f"building {len(todo)} programs once into {folder} (about 7 minutes on 2 cores)")
        for number, name in enumerate(todo, start=1):
            started_s = time.monotonic()
            _build_one(go, name, partial)
            say(WHO, f"{number}/{len(todo)} {name}: {time.monotonic() - started_s:.0f} s")
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    return folder


def _build_one(go: Path, name: str, folder: Path) -> None:
    unfinished = folder / f".{name}"
    argv = [str(go), "build", *BUILD_FLAGS, "-ldflags", _ldflags(), "-o", str(unfinished)]
    done = subprocess.run(
        [*argv, PROGRAMS[name]],
        cwd=MODULE,
        env={**os.environ, **BUILD_ENV},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stdout.strip().splitlines() or ["no message"])[-1]
        raise Unavailable(
            f"set KUBEBUILDER_ASSETS, or make this work: go build {PROGRAMS[name]}: {last}"
        )
    unfinished.rename(folder / name)
