"""A real Kubernetes control plane of plain processes, up in a few seconds, gone without a trace.

    async with ControlPlane() as plane:
        await plane.start_kwok()
        await plane.start_scheduler()
        status, nodes = await plane.request("GET", "/api/v1/nodes")

Methods open their own connections, so one control plane serves tests in many event loops.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import ssl
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec

from tests.controlplane import components, kubeconfig, pki
from tests.controlplane.api import JSON, UNTIL_S, Api, Json
from tests.controlplane.binaries import find_or_build, missing, program
from tests.controlplane.components import Layout
from tests.controlplane.process import Process, free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from types import TracebackType

START_S = 60.0
"""How long one component may take to become ready; a loaded machine is slow, not broken."""

ADMIN_TOKEN = "fleetmedic-test-admin"

LEAVE_FIRST = ("kwok", "kube-scheduler", "kube-controller-manager")


class KubectlError(Exception):
    """kubectl exited with an error; the text is what it wrote to stderr."""


class ControlPlane:
    """etcd, kube-apiserver and kube-controller-manager; scheduler and kwok when asked for.

    Args:
        binaries: the folder with the programs; found or built when None.
        folder: where certificates, data and logs go; kept (without etcd's data) after stop().
            When None, a temporary folder that stop() removes.
        node_grace_s: how long a node without heartbeat is believed to be as it says. The default
            never gets in the way of a node that a test writes by hand.
        apiserver_args: further flags for kube-apiserver.
        controller_manager_args: further flags for kube-controller-manager.
        scheduler_args: further flags for kube-scheduler.
    """

    def __init__(
        self,
        binaries: Path | None = None,
        *,
        folder: Path | None = None,
        node_grace_s: float = 3600.0,
        apiserver_args: Sequence[str] = (),
        controller_manager_args: Sequence[str] = (),
        scheduler_args: Sequence[str] = (),
    ) -> None:
        self._binaries = binaries
        self._folder = folder
        self._node_grace_s = node_grace_s
        self._apiserver_args = tuple(apiserver_args)
        self._controller_manager_args = tuple(controller_manager_args)
        self._scheduler_args = tuple(scheduler_args)
        self._processes: dict[str, Process] = {}
        self._parent: ThreadPoolExecutor | None = None
        self._layout: Layout | None = None
        self._authority = pki.Authority()
        self._tls = ssl.create_default_context(
            cadata=self._authority.pair.certificate.decode(),
        )
        self._scheduler_config: Mapping[str, Any] | None = None

    # --- life -------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start etcd, kube-apiserver and kube-controller-manager, and wait until they work.

        Raises:
            Unavailable: there are no binaries and none can be built.
            ProcessError: a component died or did not become ready.
        """
        if self._layout is not None:
            raise RuntimeError("this control plane is already started")
        self._layout = await asyncio.to_thread(self._prepare)
        self._parent = ThreadPoolExecutor(1, thread_name_prefix="controlplane")
        try:
            etcd = Api(self._layout.etcd_url, self._tls, None)
            await self._launch(
                "etcd", components.etcd(self._layout), lambda: etcd.healthy("/health")
            )
            await self.start_apiserver()
            if "kube-controller-manager" not in missing(self._layout.binaries):
                await self._start_controller_manager()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop every process in order and remove the data; harmless when nothing runs."""
        layout, parent = self._layout, self._parent
        self._layout = self._parent = None
        await asyncio.gather(*(self._stop(name) for name in LEAVE_FIRST))
        for name in list(reversed(self._processes)):
            await self._stop(name)
        if parent is not None:
            await asyncio.to_thread(parent.shutdown)
        if layout is not None:
            gone = layout.home if self._folder is None else layout.home / "etcd"
            await asyncio.to_thread(shutil.rmtree, gone, ignore_errors=True)

    # --- where it is ------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The API server's address."""
        return self._at.url

    @property
    def folder(self) -> Path:
        """Certificates, kubeconfigs and one `<component>.log` each."""
        return self._at.home

    @property
    def binaries(self) -> Path:
        """The folder with the programs."""
        return self._at.binaries

    @property
    def ca_file(self) -> Path:
        """The authority that signed the server's certificate, PEM."""
        return self._at.home / "ca.crt"

    @property
    def kubeconfig(self) -> Path:
        """The kubeconfig of an administrator (group system:masters)."""
        return self._at.kubeconfig

    @property
    def token(self) -> str:
        """The administrator's bearer token."""
        return ADMIN_TOKEN

    @property
    def api(self) -> Api:
        """The administrator's way to the API server."""
        return Api(self.url, self._tls, ADMIN_TOKEN)

    def api_as(self, token: str | None) -> Api:
        """The way of somebody else: a service account's token, or nobody (None)."""
        return Api(self.url, self._tls, token)

    def running(self, name: str) -> bool:
        """Whether a component runs now: "kube-apiserver", "kwok" and so on."""
        return name in self._processes and self._processes[name].running

    @property
    def _at(self) -> Layout:
        if self._layout is None:
            raise RuntimeError("this control plane is not started")
        return self._layout

    # --- speaking to it ---------------------------------------------------------------------

    async def request(
        self, method: str, path: str, body: object = None, content_type: str = JSON
    ) -> tuple[int, Json]:
        """One request as the administrator: (status, object); see `Api.request`."""
        return await self.api.request(method, path, body, content_type)

    async def until(
        self, path: str, predicate: Callable[[Json], object], *, timeout_s: float = UNTIL_S
    ) -> Json:
        """Watch the object at `path` until it is as wanted; see `Api.until`."""
        return await self.api.until(path, predicate, timeout_s=timeout_s)

    async def kubectl(self, *args: str, stdin: str | None = None) -> str:
        """Run kubectl as the administrator; what it printed.

        Raises:
            KubectlError: it exited with an error.
        """
        child = await asyncio.create_subprocess_exec(
            program(self._at.binaries, "kubectl"),
            f"--kubeconfig={self.kubeconfig}",
            f"--cache-dir={self.folder / 'kubectl'}",
            *args,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await child.communicate((stdin or "").encode())
        if child.returncode != 0:
            raise KubectlError(f"kubectl {' '.join(args)}: {errors.decode().strip()}")
        return output.decode()

    def write_kubeconfig(
        self,
        name: str,
        *,
        token: str | None = None,
        user: str | None = None,
        groups: Sequence[str] = (),
    ) -> Path:
        """A kubeconfig for a token's bearer, or for a user with a new client certificate."""
        if (token is None) == (user is None):
            raise ValueError("give a token or a user, one of them")
        return kubeconfig.write(
            self.folder / f"{name}.kubeconfig",
            url=self.url,
            ca=self._authority.pair.certificate,
            token=token,
            client=self._authority.client(user, groups) if user is not None else None,
        )

    # --- its parts --------------------------------------------------------------------------

    async def start_apiserver(self) -> None:
        """Start the API server on the same port and data as before; wait until it is ready."""
        await self._launch(
            "kube-apiserver",
            components.apiserver(self._at, self._apiserver_args),
            self.api.healthy,
        )

    async def kill_apiserver(self, sign: signal.Signals = signal.SIGKILL) -> None:
        """Kill the API server, by default without a chance to say goodbye."""
        await self._stop("kube-apiserver", sign)

    async def start_scheduler(
        self, config: Mapping[str, Any] | None = None, *, program: Path | None = None
    ) -> None:
        """Start kube-scheduler, or start it again with another configuration.

        Args:
            config: a KubeSchedulerConfiguration, or a part of one (`extenders`, `profiles`):
                kind, kubeconfig and the absence of leader election are filled in.
            program: another build of it, with plugins of others.
        """
        await self.stop_scheduler()
        port, path = free_port(), self.folder / "scheduler.json"
        client = {"kubeconfig": str(self.folder / "scheduler.kubeconfig"), "qps": 500, "burst": 500}
        content = {
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "leaderElection": {"leaderElect": False},
            "clientConnection": client,
            **(config or {}),
        }
        await asyncio.to_thread(path.write_bytes, msgspec.json.encode(content))
        await self._launch(
            "kube-scheduler",
            components.scheduler(self._at, port, path, self._scheduler_args, program),
            self._probe(port, path="/readyz"),
        )
        self._scheduler_config = dict(config or {})

    async def stop_scheduler(self) -> None:
        """Stop kube-scheduler; harmless when it does not run."""
        await self._stop("kube-scheduler")

    @asynccontextmanager
    async def scheduler_with(
        self, config: Mapping[str, Any], *, program: Path | None = None
    ) -> AsyncIterator[None]:
        """Run the scheduler with this configuration, then as it was before (or not at all)."""
        before = self._scheduler_config if self.running("kube-scheduler") else None
        await self.start_scheduler(config, program=program)
        try:
            yield
        finally:
            await self.stop_scheduler()
            if before is not None:
                await self.start_scheduler(before)

    async def start_kwok(
        self, *, manage_all_nodes: bool = False, stages: Path = components.STAGES
    ) -> None:
        """Start kwok, or start it again otherwise: it plays the nodes annotated for it.

        Args:
            manage_all_nodes: play every node, annotated `kwok.x-k8s.io/node=fake` or not.
            stages: what to play; see `stages.yaml` for ours and its annotations.
        """
        await self.stop_kwok()
        port = free_port()
        argv = components.kwok(self._at, port, manage_all_nodes=manage_all_nodes, stages=stages)
        await self._launch("kwok", argv, self._probe(port, scheme="http"))

    async def stop_kwok(self) -> None:
        """Stop kwok; its nodes' leases end, its pods stay as they are."""
        await self._stop("kwok")

    # --- inside -----------------------------------------------------------------------------

    def _prepare(self) -> Layout:
        """Binaries, ports, certificates and files; runs in a thread because all of it blocks."""
        binaries = self._binaries or find_or_build()
        home = self._folder or Path(tempfile.mkdtemp(prefix="fleetmedic-controlplane-"))
        home.mkdir(parents=True, exist_ok=True)
        layout = Layout(binaries, home, free_port(), free_port())
        names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        pairs = {
            "ca": self._authority.pair,
            "server": self._authority.server(names, ["127.0.0.1", "10.0.0.1"]),
        }
        for name, pair in pairs.items():
            (home / f"{name}.crt").write_bytes(pair.certificate)
            (home / f"{name}.key").write_bytes(pair.key)
        signing = pki.signing_key()
        (home / "sa.pub").write_bytes(signing.certificate)
        (home / "sa.key").write_bytes(signing.key)
        (home / "tokens.csv").write_text(f'{ADMIN_TOKEN},admin,admin,"system:masters"\n')
        ca = pairs["ca"].certificate
        kubeconfig.write(layout.kubeconfig, url=layout.url, ca=ca, token=ADMIN_TOKEN)
        kubeconfig.write(
            home / "scheduler.kubeconfig",
            url=layout.url,
            ca=ca,
            client=self._authority.client("system:kube-scheduler"),
        )
        return layout

    async def _start_controller_manager(self) -> None:
        port = free_port()
        argv = components.controller_manager(
            self._at, port, node_grace_s=self._node_grace_s, extra=self._controller_manager_args
        )
        await self._launch("kube-controller-manager", argv, self._probe(port))
        await self.until("/api/v1/namespaces/default/serviceaccounts/default", bool)

    async def _launch(
        self, name: str, argv: Sequence[str], probe: Callable[[], Awaitable[bool]]
    ) -> None:
        if self._parent is None:
            raise RuntimeError("this control plane is not started")
        if self.running(name):
            raise RuntimeError(f"{name} is already running")
        process = self._processes[name] = Process(name, argv, self._at.log(name))
        try:
            await process.start(self._parent)
            await process.ready(probe, timeout_s=START_S)
        except BaseException:
            await self._stop(name)
            raise

    async def _stop(self, name: str, sign: signal.Signals = signal.SIGTERM) -> None:
        process = self._processes.pop(name, None)
        if process is not None:
            await process.stop(sign)

    def _probe(
        self, port: int, *, scheme: str = "https", path: str = "/healthz"
    ) -> Callable[[], Awaitable[bool]]:
        api = Api(f"{scheme}://127.0.0.1:{port}", self._tls, None)
        return lambda: api.healthy(path)
