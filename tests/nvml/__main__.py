"""``eval "$(python -m tests.nvml)"``: programs started from this shell see eight GPUs of the stand-in."""

import argparse
import shlex
import tempfile
from pathlib import Path

from tests.nvml.standin import Scenario, h100_node


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
    arguments = parser.parse_args()
    scenario = Scenario(arguments.scenario).set(gpus=h100_node(arguments.gpus, busy=True))
    for name, value in sorted(scenario.env({}).items()):
        print(f"export {name}={shlex.quote(value)}")


if __name__ == "__main__":
    main()
