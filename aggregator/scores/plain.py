"""Parts of a Kubernetes object, whatever they are: a part of the wrong kind reads as one that is not there. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any


def mapping_of(value: Any) -> Mapping[str, Any]:
    """An object, or nothing."""
    return value if isinstance(value, dict) else {}


def dicts_of(value: Any) -> Sequence[Mapping[str, Any]]:
    """The objects of a list, or nothing."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def text_of(value: Any) -> str:
    """A text, or an empty one."""
    return value if isinstance(value, str) else ""
