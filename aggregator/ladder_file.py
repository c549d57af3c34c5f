"""Reads a ladder from its file: the shipped one, or the user's own."""

from importlib import resources
from pathlib import Path

from aggregator import yaml_file
from aggregator.policy.ladder import Ladder
from contract.settings import SettingsError
from contract.vocabulary import Action

SHIPPED = "ladder.yaml"


def shipped() -> Ladder:
    """The ladder that comes with Fleetmedic."""
    return parse(resources.files("aggregator.policy").joinpath(SHIPPED).read_bytes(), SHIPPED)


def load(path: Path) -> Ladder:
    """The user's own ladder.

    Raises:
        SettingsError: naming the file, the place in it and what is allowed there.
    """
    return parse(yaml_file.read(path), str(path))


def parse(text: bytes, origin: str) -> Ladder:
    """A ladder from YAML.

    Args:
        text: the file's content.
        origin: what an error calls it.

    Raises:
        SettingsError: naming the origin, the place in it and what is allowed there.
    """
    ladder = yaml_file.parse(text, Ladder, origin)
    if ladder is None:
        raise SettingsError(f"{origin}: is empty; start from aggregator/policy/{SHIPPED}")
    allowed = {action.label for action in Action}
    if unknown := sorted(set(ladder.by_action) - allowed):
        raise SettingsError(
            f"{origin}: by_action: {unknown[0]!r} is no action; use one of: {', '.join(sorted(allowed))}"
        )
    for name, bounds in ladder.bounds.items():
        numbers = (
            bounds.most_attempts,
            bounds.window_seconds,
            bounds.cool_down_seconds,
            bounds.time_limit_seconds,
        )
        if min(numbers) < 0:
            raise SettingsError(f"{origin}: bounds: {name}: a number below 0 makes no sense")
    return ladder
