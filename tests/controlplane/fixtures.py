"""Pytest's way to the real control plane; `tests/conftest.py` names this module in pytest_plugins.

`control_plane`  the one of this test run, started on first use
`kwok`           the same, with kwok playing the nodes annotated for it
`scheduler`      the same, with kube-scheduler in its default configuration
`workload_crds`  the same, with the resources of Kueue, Kubeflow, Volcano and KServe served
`dra_plane`      another one, whose parts know DeviceTaintRules, with kube-scheduler
`sandbox`        this test's own namespace and nodes on it
"""

from __future__ import annotations

import asyncio
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import pytest

from tests.building import past_capture
from tests.controlplane.binaries import Unavailable, cached, find_or_build
from tests.controlplane.cluster import ControlPlane
from tests.controlplane.crds import apply_workload_crds
from tests.controlplane.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

BINARIES = pytest.StashKey["Path | str"]()
"""The folder with the binaries, or why there is none."""

WORKLOAD_CRDS = pytest.StashKey[bool]()
"""Whether the definitions of other projects are installed already."""


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what the collected tests need, here where no test's timeout runs."""
    if session.config.option.collectonly or session.testsfailed:
        return
    if any("control_plane" in getattr(item, "fixturenames", ()) for item in session.items):
        session.config.stash[BINARIES] = _binaries(session.config)


def _binaries(config: pytest.Config) -> Path | str:
    """The folder, or the reason against it; a build shows its progress past pytest's capture."""
    try:
        folder = cached()
        if folder is not None:
            return folder
        with past_capture(config):
            return find_or_build()
    except Unavailable as error:
        return f"no control plane: {error}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Iterator[None]:
    """A fixture that needs a program nobody has skips its test, with the line that says so."""
    with _skipping():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """The same for the test itself, which may start scheduler, kwok or kubectl."""
    with _skipping():
        return (yield)


@contextmanager
def _skipping() -> Iterator[None]:
    try:
        yield
    except Unavailable as error:
        _do_without(str(error))


def _do_without(reason: str) -> NoReturn:
    """Skip the test; where the cluster is required (in CI), a skip would hide a gap: fail."""
    if os.environ.get("FLEETMEDIC_REQUIRE_CLUSTER"):
        pytest.fail(f"{reason} (FLEETMEDIC_REQUIRE_CLUSTER is set, so this is no skip)")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def control_plane(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ControlPlane]:
    """etcd, kube-apiserver and kube-controller-manager, for the whole run.

    Not an async fixture: its processes outlive the event loop of every single test.
    """
    found = request.config.stash.get(BINARIES, None) or _binaries(request.config)
    if isinstance(found, str):
        _do_without(found)
    plane = ControlPlane(found, folder=tmp_path_factory.mktemp("controlplane"))
    asyncio.run(plane.start())
    yield plane
    asyncio.run(plane.stop())


@pytest.fixture(scope="session")
def dra_plane(
    control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ControlPlane]:
    """API server, controller manager and scheduler that know DeviceTaintRules: off by default in Kubernetes 1.36."""
    gate = "--feature-gates=DRADeviceTaintRules=true"
    plane = ControlPlane(
        control_plane.binaries,
        folder=tmp_path_factory.mktemp("dra"),
        apiserver_args=[gate, "--runtime-config=resource.k8s.io/v1beta2=true"],
        controller_manager_args=[gate],
        scheduler_args=[gate],
    )

    async def start() -> None:
        await plane.start()
        await plane.start_scheduler()

    asyncio.run(start())
    yield plane
    asyncio.run(plane.stop())


@pytest.fixture
async def kwok(control_plane: ControlPlane) -> ControlPlane:
    """The control plane with kwok running; it stays up for later tests."""
    if not control_plane.running("kwok"):
        await control_plane.start_kwok()
    return control_plane


@pytest.fixture
async def scheduler(control_plane: ControlPlane) -> ControlPlane:
    """The control plane with kube-scheduler running as it comes; it stays up for later tests."""
    if not control_plane.running("kube-scheduler"):
        await control_plane.start_scheduler()
    return control_plane


@pytest.fixture
async def workload_crds(
    control_plane: ControlPlane, request: pytest.FixtureRequest
) -> ControlPlane:
    """The control plane with the definitions of other projects; they stay for later tests."""
    if not request.config.stash.get(WORKLOAD_CRDS, False):
        await apply_workload_crds(control_plane.api)
        request.config.stash[WORKLOAD_CRDS] = True
    return control_plane


@pytest.fixture
async def sandbox(control_plane: ControlPlane) -> AsyncIterator[Sandbox]:
    """A fresh namespace, and nodes with names of their own, removed after the test."""
    async with Sandbox(control_plane) as corner:
        yield corner
