"""Typed values from a user's YAML file, with errors that name the file and the place in it."""

from pathlib import Path
from typing import TypeVar

import msgspec

from contract.settings import SettingsError

T = TypeVar("T", bound=msgspec.Struct)


def read(path: Path) -> bytes:
    """The file's content.

    Raises:
        SettingsError: naming the file and what is wrong with it.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error


def parse(text: bytes, kind: type[T], origin: str, *, see: str = "") -> T | None:
    """The value that a file says; ``None``: it says nothing.

    Args:
        text: the file's content.
        kind: what it must be.
        origin: what an error calls it.
        see: where a good one can be seen.

    Raises:
        SettingsError: naming the origin, the place in it and what is allowed there.
    """
    try:
        value: T | None = msgspec.yaml.decode(text, type=kind | None)
    except msgspec.DecodeError as error:
        message = " ".join(str(error).split())
        raise SettingsError(f"{origin}: {message}" + (f"; {see}" if see else "")) from error
    return value
