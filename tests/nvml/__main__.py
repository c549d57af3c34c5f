"""``eval "$(python -m tests.nvml)"``: programs started from this shell see eight GPUs of the stand-in."""

import argparse
import shlex
import tempfile
from dataclasses import replace
from pathlib import Path

from tests.nvml.standin import Scenario, h100_node

STILL_MILLIJOULES = 8_640_000_000


def main() -> None:
    """Write a scenario, build the library, print the exports."""
    parser = argparse.ArgumentParser(prog="python -m tests.nvml", description=__doc__)
    parser.add_argument("--gpus", type=int, default=8, metavar="N", help="how many (default: 8)")
    parser.add_argument(
        "--scenario",
        type=Path,
        default=Path(tempfile.gettempdir()) / "fleetmedic-nvml.scenario",
        metavar="FILE",
        help="where to write it; edit it while programs run (default: %(default)s)",
    )
    parser.add_argument(
        "--idle",
        action="store_true",
        help="nobody uses them (default: in training), and only a reset moves their energy counters",
    )
    arguments = parser.parse_args()
    gpus = h100_node(arguments.gpus, busy=not arguments.idle)
    if arguments.idle:
        # A rising counter starts again with each process that loads the library, which would pass for a reset.
        gpus = [replace(gpu, energy_millijoules=STILL_MILLIJOULES) for gpu in gpus]
    scenario = Scenario(arguments.scenario).set(gpus=gpus)
    for name, value in sorted(scenario.env({}).items()):
        print(f"export {name}={shlex.quote(value)}")


if __name__ == "__main__":
    main()
