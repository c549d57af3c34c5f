"""Other projects' own code that reads our feeds, as small Go programs; built once into a cache folder.

The modules are fetched as any Go module. Where they cannot be had, the test that needs them skips with the line that says so. A test says
by the mark ``consumer`` which it needs: they are built before any test runs (``fixtures.py``).
"""

import hashlib
import os
import subprocess
import time
from functools import cache
from pathlib import Path

import pytest

from tests.building import locked, say
from tests.controlplane.gotool import Unavailable, find_go, required_go

MODULE = Path(__file__).parent
WHO = "consumers"
BUILD = ("build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w")
ENVIRONMENT = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "", "GOWORK": "off"}
BUILD_SECONDS = 1_500

LONG = {"koordinator": "FLEETMEDIC_BUILD_KOORDINATOR"}
"""Programs that take many minutes to build (a scheduler is in them) → what asks for it. One that is built already is used."""


def need(program: str) -> Path:
    """The path of one program; skips the test where it cannot be built, or was not asked for and takes long."""
    found = find(program)
    if isinstance(found, str):
        pytest.skip(found)
    return found


@cache
def find(program: str) -> Path | str:
    """The program, or why there is none; remembered, so that a machine without network tries once."""
    try:
        return _built(program)
    except (Unavailable, OSError) as error:  # a cache that cannot be written, too
        return f"no {program}: {error}"


def _built(program: str) -> Path:
    module, package = _where(program)
    digest = hashlib.sha256()
    for file in (module / "go.mod", module / "go.sum", *sorted((MODULE / program).glob("*.go"))):
        digest.update(file.read_bytes())
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "fleetmedic" / "consumers"
    path = folder / f"{program}-{digest.hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / f"{program}.lock", WHO):
        if not path.exists():
            switch = LONG.get(program)
            if switch and not os.environ.get(switch):
                raise Unavailable(f"it takes minutes to build; set {switch}=1 to build it once")
            say(WHO, f"building {program} once into {folder} (about 3 minutes on 2 cores)")
            started_s = time.monotonic()
            _build(module, package, path)
            say(WHO, f"{program}: {time.monotonic() - started_s:.0f} s")
    return path


def _where(program: str) -> tuple[Path, str]:
    """The module that a program is in, and its package there. Some need versions that others cannot bear."""
    own = MODULE / program
    return (own, ".") if (own / "go.mod").exists() else (MODULE, f"./{program}")


def _build(module: Path, package: str, path: Path) -> None:
    go = find_go(required_go(module / "go.mod"), path.parent)
    unfinished = path.with_suffix(".partial")
    try:
        done = subprocess.run(
            [go, *BUILD, "-o", unfinished, package],
            cwd=module,
            env={**os.environ, **ENVIRONMENT},
            capture_output=True,
            text=True,
            timeout=BUILD_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"go build did not end well: {error}") from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Unavailable(f"go build {package} failed: {last}")
    unfinished.rename(path)
