"""Fixtures of the tests in which faults are treated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.scheduler_rig import scheduler_rig
from tests.e2e.shift import shift_of_two
from tests.e2e.ward import treating

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.controlplane.cluster import ControlPlane
    from tests.controlplane.sandbox import Sandbox
    from tests.e2e.scheduler_rig import SchedulerRig
    from tests.e2e.shift import Shift
    from tests.e2e.ward import Ward


@pytest.fixture
async def ward(kwok: ControlPlane, sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[Ward]:
    """One aggregator that acts, not started yet."""
    async with treating(kwok, sandbox, tmp_path) as one:
        yield one


@pytest.fixture
async def shift(kwok: ControlPlane, sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[Shift]:
    """Two of them, of which one leads."""
    async with shift_of_two(kwok, sandbox, tmp_path) as two:
        yield two


@pytest.fixture
async def scheduling(
    control_plane: ControlPlane, sandbox: Sandbox, tmp_path: Path
) -> AsyncIterator[SchedulerRig]:
    """A corner of the cluster for nodes, pods and one aggregator."""
    async with scheduler_rig(control_plane, sandbox, tmp_path) as one:
        yield one
