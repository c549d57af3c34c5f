"""One example per code of ``agent/catalogue/unseen.yaml``."""

from typing import Any

from agent.checks.unseen import CODES
from agent.snapshot import Snapshot
from contract.vocabulary import SourceState
from tests.support import gpu, snapshot, source

EXAMPLES: dict[str, list[Snapshot]] = {
    code: [snapshot(sources=(source(name, SourceState.FAILING, "it says no"),))]
    for name, code in CODES.items()
}

_TEXT: Any = "warm"
EXAMPLES["check-failed"] = [snapshot(gpus=(gpu(temperature_celsius=_TEXT),))]
"""A reading of a kind that no check is prepared for."""
