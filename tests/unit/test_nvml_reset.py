"""What the stand-in's reset command does to a scenario."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.nvml.reset import NoSuchGpuError, reset
from tests.nvml.standin import Rising, Scenario, h100_node

if TYPE_CHECKING:
    from pathlib import Path


def scenario(folder: Path) -> Scenario:
    made = Scenario(folder / "scenario").set(gpus=h100_node(2))
    return made.update(0, lost=True, recovery_action=1, energy_millijoules=7_000)


def changed(before: str, after: str) -> set[str]:
    return set(after.splitlines()) - set(before.splitlines())


@pytest.mark.parametrize("device", ["0000:1b:00.0", "00000000:1B:00.0", "1b:00.0"])
def test_the_device_answers_again_and_its_counter_starts_again(tmp_path: Path, device: str) -> None:
    path = scenario(tmp_path).path
    before = path.read_text()
    reset(path, device)
    after = path.read_text()
    assert changed(before, after) == {"gpu.0.energy_millijoules = 0"}
    assert not any(f"gpu.0.{each}" in after for each in ("lost", "recovery_action"))
    assert "gpu.1.lost" in after


def test_a_rising_counter_goes_on_rising_from_zero(tmp_path: Path) -> None:
    path = scenario(tmp_path).update(1, energy_millijoules=Rising(500, 25)).path
    reset(path, "0000:43:00.0")
    assert "gpu.1.energy_millijoules = 0 + 25/s" in path.read_text()


def test_readers_see_that_it_changed(tmp_path: Path) -> None:
    path = scenario(tmp_path).path
    before = path.stat()
    reset(path, "0000:1b:00.0")
    assert path.stat().st_mtime_ns > before.st_mtime_ns
    assert path.stat().st_ino != before.st_ino, "replaced in one step, not written into"


def test_a_device_that_is_not_there_is_named_beside_those_that_are(tmp_path: Path) -> None:
    path = scenario(tmp_path).path
    before = path.read_text()
    with pytest.raises(NoSuchGpuError, match=r"no GPU '0000:99:00\.0'; it has 1b:00\.0, 43:00\.0"):
        reset(path, "0000:99:00.0")
    assert path.read_text() == before
