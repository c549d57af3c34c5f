"""How both sides read their settings: defaults < file < environment < flags; a bad value names itself.

A settings type is a frozen ``msgspec.Struct`` whose fields are scalars annotated with
``msgspec.Meta(description=…)`` and their allowed range. From it come the flags, the help text, the names of
the environment variables, and the messages.
"""

import argparse
import difflib
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

S = TypeVar("S", bound=msgspec.Struct)

EXIT_BAD_SETTINGS = 2


class SettingsError(ValueError):
    """A setting cannot be used; the message names it, where it came from, and what is allowed."""


def add_flags(parser: argparse.ArgumentParser, kind: type[S], env_prefix: str) -> None:
    """Give ``parser`` one flag per setting, and ``--config``."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        help=f"YAML file of settings (flags and environment win) [{env_prefix}CONFIG]",
    )
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in msgspec.structs.fields(kind):
        metavar = _metavar(hints[field.name])
        description = _description(hints[field.name])
        shown = "none" if field.default in (None, "") else field.default
        allowed = _range(hints[field.name])
        text = f"{description}{allowed} [{env_prefix}{field.name.upper()}; default: {shown}]"
        parser.add_argument(
            "--" + field.name.replace("_", "-"),
            dest=f"setting_{field.name}",
            metavar=metavar,
            nargs="?" if metavar == "true|false" else None,
            const="true" if metavar == "true|false" else None,
            help=text.replace("%", "%%"),
        )


def load(
    kind: type[S],
    *,
    arguments: argparse.Namespace,
    environment: Mapping[str, str],
    env_prefix: str,
    checks: Mapping[str, Callable[[Any], object]] | None = None,
) -> S:
    """Build settings from the file, the environment and the flags.

    Args:
        kind: what to build.
        arguments: as parsed by a parser that ``add_flags`` was given.
        environment: variables.
        env_prefix: what the names of ours begin with.
        checks: by setting, what else its value must pass; raises ``ValueError`` saying why not.

    Raises:
        SettingsError: one line that names the setting, the value, its origin and the allowed range.
    """
    hints = typing.get_type_hints(kind, include_extras=True)
    names = [field.name for field in msgspec.structs.fields(kind)]
    values: dict[str, Any] = {}
    checks = checks or {}
    config = arguments.config or environment.get(f"{env_prefix}CONFIG")
    if config:
        for name, raw in _read_file(Path(config)).items():
            if name not in hints:
                raise SettingsError(f"{config}: unknown setting {name!r}{_suggestion(name, names)}")
            values[name] = _convert(name, raw, hints[name], checks.get(name), origin=str(config))
    for name in names:
        variable = env_prefix + name.upper()
        if variable in environment:
            raw, origin = environment[variable], f"environment {variable}"
            values[name] = _convert(name, raw, hints[name], checks.get(name), origin=origin)
        flag = getattr(arguments, f"setting_{name}", None)
        if flag is not None:
            origin = f"flag --{name.replace('_', '-')}"
            values[name] = _convert(name, flag, hints[name], checks.get(name), origin=origin)
    return kind(**values)


def _read_file(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        content = msgspec.yaml.decode(text)
    except msgspec.DecodeError as error:
        raise SettingsError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(
            f"{path}: expected 'setting: value' lines, got a {type(content).__name__}"
        )
    return {str(key): value for key, value in content.items()}


def _convert(
    name: str, raw: Any, hint: Any, check: Callable[[Any], object] | None, *, origin: str
) -> Any:
    try:
        value = msgspec.convert(raw, hint, strict=not isinstance(raw, str))
    except msgspec.ValidationError as error:
        expected = _expected(str(error), hint)
        raise SettingsError(
            f"{origin}: {name} = {raw!r} cannot be used: expected {expected}{_range(hint)}"
        ) from error
    if check is not None:
        try:
            check(value)
        except ValueError as error:
            raise SettingsError(f"{origin}: {name} cannot be used: {error}") from error
    return value


def _expected(message: str, hint: Any) -> str:
    base = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
    if typing.get_origin(base) is typing.Literal:
        return "one of " + ", ".join(str(value) for value in typing.get_args(base))
    return message.removeprefix("Expected ").replace("`", "").partition(" - at ")[0]


def _range(hint: Any) -> str:
    bounds = []
    for meta in typing.get_args(hint)[1:]:
        if isinstance(meta, msgspec.Meta):
            bounds += [f">= {meta.ge:g}"] if meta.ge is not None else []
            bounds += [f"<= {meta.le:g}"] if meta.le is not None else []
    return f" (allowed: {' and '.join(bounds)})" if bounds else ""


def _suggestion(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known settings: {', '.join(names)}"


def _description(hint: Any) -> str:
    for meta in typing.get_args(hint)[1:]:
        if isinstance(meta, msgspec.Meta) and meta.description:
            return meta.description
    return ""


def _metavar(hint: Any) -> str:
    base = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
    if base is bool:
        return "true|false"
    if typing.get_origin(base) is typing.Literal:
        return "|".join(str(value) for value in typing.get_args(base))
    return {float: "NUMBER", int: "N"}.get(base, "TEXT")
