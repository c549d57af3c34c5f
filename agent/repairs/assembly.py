"""Puts the repairs of one agent together. Loaded only where its settings name a key."""

from collections.abc import Callable

from agent.config import AgentSettings
from agent.repairs.book_file import BookFile
from agent.repairs.desk import Repairs
from agent.repairs.release import ReleasableSource
from agent.repairs.rules import Rules, rules_of
from agent.repairs.work import Surroundings, Worker
from agent.stats import AgentStats
from contract.signing import Verifier, load_verifier


def read(settings: AgentSettings) -> tuple[Rules, Verifier] | None:
    """What these settings allow, and whom they believe; ``None``: nobody.

    Raises:
        SettingsError: naming the setting, or the key's file, and the remedy.
    """
    rules = rules_of(settings)
    return None if rules is None else (rules, load_verifier(settings.directive_public_key_file))


def build(
    settings: AgentSettings,
    *,
    node: str,
    boot_id: str,
    surroundings: Surroundings,
    nvidia: ReleasableSource | None,
    stats: AgentStats,
    clock: Callable[[], float],
) -> Repairs | None:
    """The repairs of one node; ``None`` where nobody is believed.

    Raises:
        SettingsError: as ``read``.
    """
    found = read(settings)
    if found is None:
        return None
    rules, verifier = found
    return Repairs(
        node=node,
        boot_id=boot_id,
        rules=rules,
        verifier=verifier,
        file=BookFile(settings.state_dir, node=node),
        worker=Worker(rules, surroundings=surroundings, nvidia=nvidia, boot_id=boot_id),
        surroundings=surroundings,
        stats=stats,
        clock=clock,
    )
