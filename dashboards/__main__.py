"""``python -m dashboards`` writes fleet.json; ``--check`` only says whether it is up to date."""

import argparse
import sys
from pathlib import Path

from dashboards.fleet import to_json

FILE = Path(__file__).with_name("fleet.json")


def main(arguments: list[str] | None = None) -> int:
    """Write or check the file; the exit status says whether it is as it should be."""
    parser = argparse.ArgumentParser(prog="python -m dashboards", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when stale")
    check = parser.parse_args(arguments).check
    wanted = to_json()
    if not check:
        FILE.write_text(wanted)
        return 0
    if FILE.is_file() and FILE.read_text() == wanted:
        return 0
    print(f"{FILE.name} is stale: run `python -m dashboards`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
