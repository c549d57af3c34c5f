"""A stand-in for ``nvidia-smi --gpu-reset -i``: ``python -m tests.nvml.reset 0000:1b:00.0``.

It does to the scenario file what a reset does to a GPU, as far as an agent can see: the device answers, asks for
nothing, and its energy counter starts from zero.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

_BUS_ID = re.compile(
    r"gpu\.(\d+)\.pci_bus_id = (?:[0-9a-f]+:)?([0-9a-f]+:[0-9a-f]+\.[0-7])", re.IGNORECASE
)
_ENERGY = re.compile(r"(energy_millijoules = )\d+")

MENDED = ("lost = ", "absent = ", "recovery_action = ")
"""Readings that a reset puts right; without their line each has its healthy value."""


class NoSuchGpuError(Exception):
    """The scenario has no such GPU; the message lists those that it has."""


def reset(scenario: Path, device: str) -> None:
    """Reset one GPU of a scenario; readers see the file as it was or as it is then, nothing between.

    Args:
        scenario: its file.
        device: PCI bus id, with or without a domain; domain 0 is the only one there.

    Raises:
        NoSuchGpuError: no GPU has that bus id.
    """
    lines = scenario.read_text().splitlines()
    found = {match[2].lower(): match[1] for match in map(_BUS_ID.match, lines) if match}
    wanted = device.lower().split(":", device.count(":") - 1)[-1]
    if wanted not in found:
        raise NoSuchGpuError(f"{scenario} has no GPU {device!r}; it has {', '.join(found)}")
    own = f"gpu.{found[wanted]}."
    kept = [line for line in lines if not line.startswith(tuple(own + each for each in MENDED))]
    again = [_ENERGY.sub(r"\g<1>0", line) if line.startswith(own) else line for line in kept]
    # Readers go by the time of the last change, which a second change within one tick would not move.
    stamp_nanoseconds = scenario.stat().st_mtime_ns + 1
    fresh = scenario.with_name(f".{scenario.name}.reset")
    fresh.write_text("\n".join(again) + "\n")
    now_nanoseconds = fresh.stat().st_mtime_ns
    if now_nanoseconds < stamp_nanoseconds:
        os.utime(fresh, ns=(stamp_nanoseconds, stamp_nanoseconds))
    fresh.replace(scenario)


def main() -> int:
    """Reset the GPU that is named, in the scenario that this shell's programs see."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.nvml.reset", description="Reset a GPU of the NVML stand-in."
    )
    parser.add_argument("device", metavar="DEVICE", help="PCI bus id, like 0000:1b:00.0")
    parser.add_argument(
        "--scenario",
        type=Path,
        default=os.environ.get("FLEETMEDIC_NVML_SCENARIO"),
        metavar="FILE",
        help="the scenario [FLEETMEDIC_NVML_SCENARIO]",
    )
    arguments = parser.parse_args()
    if arguments.scenario is None:
        parser.error("name a scenario: --scenario FILE, or set FLEETMEDIC_NVML_SCENARIO")
    try:
        reset(arguments.scenario, arguments.device)
    except (NoSuchGpuError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    print(f"stand-in: {arguments.device} is reset, its energy counter started again")
    return 0


if __name__ == "__main__":
    sys.exit(main())
