"""Reads the drain rules from the user's file."""

from pathlib import Path

import msgspec

from aggregator.policy.drain.rules import DrainRules
from contract.settings import SettingsError

SEE = "docs/how-to/drain-rules.md shows a whole file"


def load(path: Path) -> DrainRules:
    """The rules in a file; an empty file says what no file says.

    Raises:
        SettingsError: naming the file, the place in it and what is allowed there.
    """
    try:
        return parse(path.read_bytes(), str(path))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error


def parse(text: bytes, origin: str) -> DrainRules:
    """Rules from YAML.

    Args:
        text: the file's content.
        origin: what an error calls it.

    Raises:
        SettingsError: naming the origin, the place in it and what is allowed there.
    """
    try:
        return msgspec.yaml.decode(text, type=DrainRules | None) or DrainRules()
    except msgspec.DecodeError as error:
        message = " ".join(str(error).split())
        raise SettingsError(f"{origin}: {message}; {SEE}") from error
