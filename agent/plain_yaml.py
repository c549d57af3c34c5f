"""YAML from people who may make mistakes: bounded, without aliases, no key twice. Pure.

The usual loader composes nested content by recursion in C, so that a short hostile file ends the process; and
where a key stands twice it silently takes the last.
"""

from typing import Any

import msgspec
import yaml

MAX_DEPTH = 16

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load(text: bytes, *, most_bytes: int) -> Any:
    """The content of a YAML file.

    Raises:
        ValueError: it is too large, not valid, or uses more of YAML than lists, mappings and values.
    """
    if len(text) > most_bytes:
        raise ValueError(f"it has {len(text)} bytes or more; {most_bytes} are allowed: shorten it")
    try:
        _look_through(text)
        return msgspec.yaml.decode(text)
    except _RefusedError:
        raise
    except Exception as error:  # a value can make the loader raise nearly anything
        raise ValueError(f"not valid YAML: {' '.join(str(error).split())[:300]}") from error


class _RefusedError(ValueError):
    """What is wrong, in words."""


class _Open:
    """A list or mapping that has not ended yet."""

    def __init__(self, *, is_mapping: bool) -> None:
        self.keys: set[str] | None = set() if is_mapping else None
        self.key_is_next = is_mapping


def _look_through(text: bytes) -> None:
    """Walk the events of the file, which takes no recursion."""
    opened: list[_Open] = []
    for event in yaml.parse(text, Loader=_LOADER):
        where = f"line {event.start_mark.line + 1}" if event.start_mark else "somewhere"
        if isinstance(event, yaml.AliasEvent):
            raise _RefusedError(f"{where}: an alias (*…): write the value out")
        if isinstance(event, yaml.CollectionEndEvent):
            opened.pop()
        elif isinstance(event, yaml.NodeEvent):
            parent = opened[-1] if opened else None
            if parent is not None and parent.keys is not None:
                if parent.key_is_next:
                    if not isinstance(event, yaml.ScalarEvent):
                        raise _RefusedError(f"{where}: a key must be one word")
                    if event.value in parent.keys:
                        raise _RefusedError(f"{where}: {event.value[:40]!r} stands twice: keep one")
                    parent.keys.add(event.value)
                parent.key_is_next = not parent.key_is_next
            if isinstance(event, yaml.CollectionStartEvent):
                opened.append(_Open(is_mapping=isinstance(event, yaml.MappingStartEvent)))
                if len(opened) > MAX_DEPTH:
                    raise _RefusedError(f"{where}: nested deeper than {MAX_DEPTH} levels")
