"""Reads the drain rules from the user's file."""

from pathlib import Path

from aggregator import yaml_file
from aggregator.policy.drain.rules import DrainRules

SEE = "docs/how-to/drain-rules.md shows a whole file"


def load(path: Path) -> DrainRules:
    """The rules in a file; an empty file says what no file says.

    Raises:
        SettingsError: naming the file, the place in it and what is allowed there.
    """
    return parse(yaml_file.read(path), str(path))


def parse(text: bytes, origin: str) -> DrainRules:
    """Rules from YAML; ``origin`` is what an error calls it.

    Raises:
        SettingsError: naming the origin, the place in it and what is allowed there.
    """
    return yaml_file.parse(text, DrainRules, origin, see=SEE) or DrainRules()
