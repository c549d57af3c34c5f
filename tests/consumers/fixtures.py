"""Builds the programs that the collected tests are marked with, before any of them runs; ``tests/conftest.py`` names this module.

A build takes minutes: here it says what it does, and no test's timeout runs.
"""

import pytest

from tests import consumers
from tests.building import past_capture


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what is missing; a program that cannot be built skips its tests later, with the reason."""
    if session.config.option.collectonly or session.testsfailed:
        return
    marks = (mark for item in session.items for mark in item.iter_markers("consumer"))
    with past_capture(session.config):
        for program in sorted({mark.args[0] for mark in marks}):
            consumers.find(program)
