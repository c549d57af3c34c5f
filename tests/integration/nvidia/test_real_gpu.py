"""On a machine with an NVIDIA GPU: the agent says what nvidia-smi says. Skipped everywhere else."""

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

NVIDIA_SMI = shutil.which("nvidia-smi")
MIB = 1 << 20
MEGAHERTZ = 1_000_000

Answers = list[dict[str, str]]

pytestmark = pytest.mark.skipif(NVIDIA_SMI is None, reason="no nvidia-smi here: no NVIDIA driver")

RECOVERY_ACTIONS = ("None", "Reset", "Reboot", "Drain P2P", "Drain and Reset")
"""nvidia-smi's words, in the order of NVML's numbers."""

SAME: dict[str, tuple[str, Callable[[str], Any]]] = {
    "uuid": ("uuid", str),
    "pci.bus_id": ("pci_bus_id", lambda text: text.lower()[4:]),
    "name": ("model", str),
    "serial": ("serial", str),
    "vbios_version": ("vbios_version", str),
    "index": ("index", int),
    "memory.total": ("memory_total_bytes", lambda text: int(text) * MIB),
    "enforced.power.limit": ("power_limit_watts", float),
    "clocks.max.sm": ("sm_clock_max_hertz", lambda text: float(text) * MEGAHERTZ),
    "pcie.link.gen.max": ("pcie_generation_max", int),
    "pcie.link.width.max": ("pcie_width_max", int),
    "pcie.link.width.current": ("pcie_width", int),
    "persistence_mode": ("persistence_mode", lambda text: text == "Enabled"),
    "mig.mode.current": ("mig_enabled", lambda text: text == "Enabled"),
    "ecc.errors.corrected.volatile.total": ("ecc_corrected_total", int),
    "ecc.errors.uncorrected.volatile.total": ("ecc_uncorrected_total", int),
    "ecc.errors.corrected.aggregate.total": ("ecc_corrected_aggregate_total", int),
    "ecc.errors.uncorrected.aggregate.total": ("ecc_uncorrected_aggregate_total", int),
    "gpu_recovery_action": (
        "recovery_action",
        RECOVERY_ACTIONS.index,
    ),
}
"""nvidia-smi's column → our field, and how to read the column. Where nvidia-smi says N/A we say nothing."""

NEAR: dict[str, tuple[str, float, float]] = {
    "temperature.gpu": ("temperature_celsius", 1, 4),
    "temperature.memory": ("memory_temperature_celsius", 1, 4),
    "power.draw": ("power_watts", 1, 60),
    "memory.used": ("memory_used_bytes", MIB, 600 * MIB),
    "clocks.mem": ("memory_clock_hertz", MEGAHERTZ, 0),
}
"""nvidia-smi's column → our field, its unit, and how far it may move between two readings."""

UNKNOWN = ("[N/A]", "[Not Supported]", "N/A", "[Unknown Error]")


@pytest.fixture(scope="module")
def nvidia_smi() -> Answers:
    """One row per GPU."""
    columns = [*SAME, *NEAR, "driver_version"]
    assert NVIDIA_SMI is not None
    told = subprocess.run(
        [NVIDIA_SMI, f"--query-gpu={','.join(columns)}", "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    return [
        dict(zip(columns, (each.strip() for each in row), strict=True))
        for row in csv.reader(told.splitlines())
    ]


@pytest.fixture(scope="module")
def snapshot() -> dict[str, Any]:
    told = subprocess.run(
        [sys.executable, "-m", "agent", "snapshot"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    found: dict[str, Any] = json.loads(told)["snapshot"]
    return found


def test_the_driver_and_the_number_of_gpus_are_nvidia_smis(
    nvidia_smi: Answers, snapshot: dict[str, Any]
) -> None:
    assert [each["index"] for each in snapshot["gpus"]] == [
        int(each["index"]) for each in nvidia_smi
    ]
    assert snapshot["driver_version"] == nvidia_smi[0]["driver_version"]
    assert {"nvidia": "ok"}.items() <= {
        each["name"]: each["state"] for each in snapshot["sources"]
    }.items()


@pytest.mark.parametrize("column", SAME)
def test_what_stands_still_is_the_same(
    column: str, nvidia_smi: Answers, snapshot: dict[str, Any]
) -> None:
    field, read = SAME[column]
    for theirs, ours in zip(nvidia_smi, snapshot["gpus"], strict=True):
        if theirs[column] in UNKNOWN:
            assert ours.get(field) in (None, "", False), f"nvidia-smi does not know {column}"
        else:
            assert ours.get(field) == read(theirs[column])


@pytest.mark.parametrize("column", NEAR)
def test_what_moves_is_near(column: str, nvidia_smi: Answers, snapshot: dict[str, Any]) -> None:
    field, unit, room = NEAR[column]
    for theirs, ours in zip(nvidia_smi, snapshot["gpus"], strict=True):
        if theirs[column] in UNKNOWN:
            assert field not in ours, f"nvidia-smi does not know {column}"
        else:
            assert ours[field] == pytest.approx(float(theirs[column]) * unit, abs=room)
