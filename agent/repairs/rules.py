"""What this node allows to be done to it, from its settings. Nothing here comes from a directive."""

import re
import shlex
from fnmatch import fnmatchcase
from typing import Self

import msgspec

from agent.config import AgentSettings
from contract.settings import SettingsError
from contract.vocabulary import DirectiveKind

REPAIRS = (
    DirectiveKind.RESET_DEVICE,
    DirectiveKind.RESTART_SERVICE,
    DirectiveKind.REBOOT_NODE,
)
"""Kinds that ``allow_repairs`` may name."""

UNIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@:-]{0,200}\.service")
PCI_BUS_ID = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
SUBJECT = re.compile(r"[a-z][a-z0-9-]{0,31}(:[A-Za-z0-9_./:-]{1,200})?")

WHOLE_NODE = "node"
"""Stands for an empty subject where a command is given one."""

_PLACEHOLDER = re.compile(r"\{([a-z]+)\}")


class Command(msgspec.Struct, frozen=True):
    """The words of one command; they go to the kernel as they are, never through a shell."""

    words: tuple[str, ...]

    @classmethod
    def parse(
        cls, name: str, text: str, *, needs: str = "", may: str = "", prefix: str = ""
    ) -> Self:
        """From a setting.

        Args:
            name: of the setting, for the message.
            text: its value.
            needs: the placeholder that must be in it.
            may: the one that may.
            prefix: what goes before every command.

        Raises:
            SettingsError: it cannot be split into words, is empty, or has other placeholders.
        """
        try:
            words, before = tuple(shlex.split(text)), tuple(shlex.split(prefix))
        except ValueError as error:
            raise SettingsError(
                f"{name} = {text!r} (or command_prefix): {error}; mind the quotes"
            ) from error
        if not words:
            raise SettingsError(
                f"{name} is empty: name the command, or leave the repair out of allow_repairs"
            )
        found = set(_PLACEHOLDER.findall(text))
        if needs and needs not in found:
            raise SettingsError(
                f"{name} = {text!r} must say {{{needs}}}: else it would act on anything"
            )
        if strangers := found - {needs, may}:
            known = needs or may
            allowed = f"only {{{known}}} is known here" if known else "none is known here"
            raise SettingsError(f"{name} = {text!r} says {{{min(strangers)}}}, and {allowed}")
        return cls(before + words)

    def with_values(self, **values: str) -> tuple[str, ...]:
        """The words with every placeholder filled in; values were checked by whoever gives them."""
        return tuple(
            _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), word)
            for word in self.words
        )


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """Which service mends which findings."""

    codes: str
    """Shell pattern on the finding's code."""
    unit: str


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a directive may lead to on this node; times in seconds."""

    allowed: frozenset[str]
    """Kinds, ``clear`` among them."""
    services: tuple[Service, ...]
    reset: Command
    restart: Command
    probe: Command
    reboot: Command
    diagnostic: Command | None
    reset_limit_seconds: float
    restart_limit_seconds: float
    reboot_limit_seconds: float
    diagnostic_limit_seconds: float
    evidence_limit_seconds: float

    @property
    def repairs(self) -> tuple[str, ...]:
        """What reports tell others that they may ask for, sorted."""
        return tuple(sorted(self.allowed - {DirectiveKind.CLEAR}))

    def unit_for(self, code: str) -> str:
        """The service that mends this finding; empty: none."""
        return next((each.unit for each in self.services if fnmatchcase(code, each.codes)), "")


def rules_of(settings: AgentSettings) -> Rules | None:
    """The rules; ``None`` where no directive is to be believed.

    Raises:
        SettingsError: naming the setting and the remedy.
    """
    named = [word.strip() for word in settings.allow_repairs.split(",") if word.strip()]
    for word in named:
        if word not in REPAIRS:
            raise SettingsError(f"allow_repairs names {word!r}; use any of: {', '.join(REPAIRS)}")
    asked = named + ([DirectiveKind.DIAGNOSE] if settings.diagnostic_command else [])
    if asked and not settings.directive_public_key_file:
        raise SettingsError(
            f"{', '.join(asked)} needs directive_public_key_file: without a key nobody can be believed "
            "(fleetmedic-aggregator keygen --out DIR makes a pair)"
        )
    if asked and not settings.state_dir:
        raise SettingsError(
            f"{', '.join(asked)} needs state_dir: what was done once must be known after a restart, "
            "else it could be done again"
        )
    services = _services(settings.restart_services)
    if DirectiveKind.RESTART_SERVICE in named and not services:
        raise SettingsError(
            "allow_repairs names restart-service and restart_services is empty: say which service mends what, "
            "such as gpu-fabric*=nvidia-fabricmanager.service"
        )
    if not settings.directive_public_key_file:
        return None
    prefix = settings.command_prefix
    diagnostic = settings.diagnostic_command
    return Rules(
        allowed=frozenset({DirectiveKind.CLEAR.value, *map(str, asked)}),
        services=services,
        reset=Command.parse("reset_command", settings.reset_command, needs="device", prefix=prefix),
        restart=Command.parse(
            "restart_command", settings.restart_command, needs="unit", prefix=prefix
        ),
        probe=Command.parse(
            "service_probe_command", settings.service_probe_command, needs="unit", prefix=prefix
        ),
        reboot=Command.parse("reboot_command", settings.reboot_command, prefix=prefix),
        diagnostic=Command.parse("diagnostic_command", diagnostic, may="subject", prefix=prefix)
        if diagnostic
        else None,
        reset_limit_seconds=settings.reset_limit_seconds,
        restart_limit_seconds=settings.restart_limit_seconds,
        reboot_limit_seconds=settings.reboot_limit_seconds,
        diagnostic_limit_seconds=settings.diagnostic_limit_seconds,
        evidence_limit_seconds=settings.evidence_limit_seconds,
    )


def _services(text: str) -> tuple[Service, ...]:
    services = []
    for part in filter(None, map(str.strip, text.split(","))):
        codes, separator, unit = (word.strip() for word in part.partition("="))
        if not separator or not codes or not UNIT.fullmatch(unit):
            raise SettingsError(
                f"restart_services: {part!r} is not code=unit, like gpu-fabric*=nvidia-fabricmanager.service"
            )
        services.append(Service(codes=codes, unit=unit))
    return tuple(services)
