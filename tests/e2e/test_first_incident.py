"""docs/how-to/first-incident.md, followed as it stands: every command, and all that it says one will see."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.controlplane.binaries import find_or_build
from tests.e2e.walk import Step, missing, steps

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "first-incident.md"
WORKSPACE = "build/cluster"
UP = "Ctrl-C stops it and removes everything."
MARK = "=== step"
LIMIT_SECONDS = 90


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Where somebody follows the page: this source, and a build folder of its own."""
    for name in ("deploy", "docs", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


@contextmanager
def cluster(checkout: Path) -> Iterator[str]:
    """What `make cluster` runs, while the block runs, and what it said."""
    find_or_build()  # skips the test where there are no binaries
    command = [sys.executable, "-m", "tests.controlplane", "up", "--workspace", WORKSPACE]
    process = subprocess.Popen(command, cwd=checkout, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process:
        try:
            said = ""
            for line in process.stdout:
                said += line
                if line.startswith(UP):
                    break
            else:
                raise AssertionError(f"no cluster: {said}")
            yield said
        finally:
            process.send_signal(signal.SIGINT)
            process.stdout.read()
    assert process.returncode == 0


def follow(walk: Sequence[Step], checkout: Path) -> list[str]:
    """What each step printed, typed one after the other into one shell; a command that fails ends it."""
    said = "".join(f"echo '{MARK}'\n{each.commands}" for each in walk)
    script = f"set -e\ntrap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n{said}"
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("FLEETMEDIC_")
    }
    log = checkout / "walk.log"
    with log.open("wb") as output:
        shell = subprocess.Popen(
            ["bash", "-c", script],
            cwd=checkout,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = str(shell.wait(LIMIT_SECONDS))
        except subprocess.TimeoutExpired:
            status = f"not over after {LIMIT_SECONDS} s"
        finally:
            if shell.poll() is None:  # with all that it started
                os.killpg(shell.pid, signal.SIGKILL)
                shell.wait()
    printed = log.read_text().split(f"{MARK}\n")[1:]
    assert status == "0", f"{status}, in\n{walk[len(printed) - 1].commands}{printed[-1]}"
    return printed


def test_a_newcomer_sees_what_the_page_says(checkout: Path) -> None:
    first, *walk = steps(PAGE)
    assert first.commands == "make cluster\n"
    assert f"up --workspace {WORKSPACE} " in (ROOT / "Makefile").read_text()
    with cluster(checkout) as said:
        assert not missing(first, said)
        assert str(PAGE.relative_to(ROOT)) in said
        printed = follow(walk, checkout)
    for step, output in zip(walk, printed, strict=True):
        assert not missing(step, output), f"after\n{step.commands}this was printed:\n{output}"
    assert not (checkout / WORKSPACE).exists()
