"""Volcano's metrics through the real API server: its aggregation layer, kubectl, and Kubernetes' own metrics client."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shlex
import ssl
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import yaml
from aiohttp import web

from aggregator.feeds.serving_tls import RenewedTls
from aggregator.feeds.volcano import CustomMetrics
from aggregator.usage import Usage
from tests import consumers
from tests.controlplane import pki
from tests.controlplane.cluster import ControlPlane
from tests.controlplane.sandbox import Sandbox
from tests.pages import HOW_TO, yaml_block
from tests.prometheus import tools
from tests.support import START
from tests.usage_builders import steady

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.controlplane.api import Json

NOW = START + 600
PAGE = HOW_TO / "volcano.md"
SERVICES = "/apis/apiregistration.k8s.io/v1/apiservices"
RAW = "/apis/custom.metrics.k8s.io/v1beta2/nodes/*/node_cpu_usage_avg"


def certificate(folder: Path, name: str) -> str:
    """An authority for an APIService's ``caBundle``; what our server shows lies in the folder."""
    authority = pki.Authority()
    pair = authority.server([name], [])
    (folder / "tls.crt").write_bytes(pair.certificate)
    (folder / "tls.key").write_bytes(pair.key)
    return authority.pair.certificate.decode()


def available(service: Json) -> bool:
    conditions = service.get("status", {}).get("conditions") or ()
    return any(each["type"] == "Available" and each["status"] == "True" for each in conditions)


@pytest.fixture
async def plane(
    control_plane: ControlPlane, sandbox: Sandbox, tmp_path: Path
) -> AsyncIterator[ControlPlane]:
    """The API server with our feed behind it."""
    async with behind(control_plane, sandbox, tmp_path):
        yield control_plane


@asynccontextmanager
async def behind(
    plane: ControlPlane, sandbox: Sandbox, folder: Path, client_authority: str = ""
) -> AsyncIterator[int]:
    """Our feed behind an API server, as docs/how-to/volcano.md says, but by a Service that is a name; the feed's port."""
    usage = Usage()
    steady(usage, "a", start=START, end=NOW, cpu=0.375, memory=0.25)
    steady(usage, "b", start=START, end=NOW - 60, cpu=1.0, memory=0.5)
    app = web.Application()
    app.add_routes(CustomMetrics(usage, serving=lambda: True, clock=lambda: NOW).routes())
    runner = web.AppRunner(app)
    await runner.setup()
    host = f"fleetmedic.{sandbox.namespace}.svc"
    bundle = await asyncio.to_thread(certificate, folder, host)
    tls = RenewedTls(str(folder / "tls.crt"), str(folder / "tls.key"), client_authority)
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls.context).start()
    port = runner.addresses[0][1]
    await sandbox.create(
        sandbox.path("services"),
        {
            "metadata": {"name": "fleetmedic"},
            "spec": {"type": "ExternalName", "externalName": "localhost"},
        },
    )
    paths = []
    for service in api_services(sandbox.namespace, port, bundle):
        created = await sandbox.create(SERVICES, service)
        paths.append(f"{SERVICES}/{created['metadata']['name']}")
    try:
        for path in paths:
            await plane.until(path, available)
        yield port
    finally:
        for path in paths:  # before the server that they name is gone
            await plane.request("DELETE", path)
        await runner.cleanup()


def page() -> str:
    return PAGE.read_text()


def from_the_page(kind: str) -> list[Json]:
    """The objects of the block that has this kind."""
    return list(yaml.safe_load_all(yaml_block(PAGE, f"kind: {kind}\n")))


def api_services(namespace: str, port: int, bundle: str) -> list[Json]:
    """Those of the page, with this test's Service and authority."""
    services = from_the_page("APIService")
    for each in services:
        each["spec"]["service"] = {"namespace": namespace, "name": "fleetmedic", "port": port}
        each["spec"]["caBundle"] = base64.b64encode(bundle.encode()).decode()
    return services


@pytest.mark.cluster
@pytest.mark.consumer("custommetrics")
async def test_volcanos_way_through_the_api_server_gets_each_node_with_its_time(
    plane: ControlPlane,
) -> None:
    raw = json.loads(await plane.kubectl("get", "--raw", RAW))
    assert {each["describedObject"]["name"]: each["value"] for each in raw["items"]} == {
        "a": "375m",
        "b": "1000m",
    }
    program = await asyncio.to_thread(consumers.need, "custommetrics")
    for metric, shares in (
        ("node_cpu_usage_avg", (0.375, 1.0)),
        ("node_memory_usage_avg", (0.25, 0.5)),
    ):
        readings = await ask(program, plane, metric)
        assert [(each["node"], each["value"]) for each in readings] == list(
            zip("ab", shares, strict=True)
        )
        assert [each["time"] for each in readings] == [int(NOW - 5), int(NOW - 65)]


@pytest.mark.cluster
async def test_volcano_may_read_them_once_it_has_the_pages_role(
    plane: ControlPlane, sandbox: Sandbox
) -> None:
    volcano = {"Impersonate-User": "system:serviceaccount:volcano-system:volcano-scheduler"}
    assert (await plane.api.request("GET", RAW, headers=volcano))[0] == 403
    role, binding = from_the_page("ClusterRole")
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    await sandbox.create(f"{rbac}/clusterroles", role)
    await sandbox.create(f"{rbac}/clusterrolebindings", binding)
    async with asyncio.timeout(30):  # the API server learns of roles when it does, and tells nobody
        while (await plane.api.request("GET", RAW, headers=volcano))[0] != 200:
            await asyncio.sleep(0.05)


@pytest.fixture
async def front_plane(control_plane: ControlPlane, tmp_path: Path) -> AsyncIterator[ControlPlane]:
    """An API server that shows extensions who it is, as kubeadm sets it up."""
    authority = pki.Authority()
    pair = authority.client("front-proxy-client")
    (tmp_path / "front-ca.crt").write_bytes(authority.pair.certificate)
    (tmp_path / "front.crt").write_bytes(pair.certificate)
    (tmp_path / "front.key").write_bytes(pair.key)
    flags = [
        f"--requestheader-client-ca-file={tmp_path / 'front-ca.crt'}",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={tmp_path / 'front.crt'}",
        f"--proxy-client-key-file={tmp_path / 'front.key'}",
    ]
    async with ControlPlane(
        control_plane.binaries, folder=tmp_path / "plane", apiserver_args=flags
    ) as plane:
        yield plane


@pytest.mark.cluster
async def test_with_the_api_servers_authority_nobody_else_gets_an_answer(
    front_plane: ControlPlane, tmp_path: Path
) -> None:
    """The authority is read as the page says."""
    [command] = re.findall(
        r"^(kubectl .*requestheader-client-ca-file.*) > (\S+)$", page(), re.MULTILINE
    )
    told = await front_plane.kubectl(*shlex.split(command[0])[1:])
    (tmp_path / command[1]).write_text(told)
    async with (
        Sandbox(front_plane) as sandbox,
        behind(front_plane, sandbox, tmp_path, str(tmp_path / command[1])) as port,
    ):
        raw = json.loads(await front_plane.kubectl("get", "--raw", RAW))
        assert {each["describedObject"]["name"] for each in raw["items"]} == {"a", "b"}
        anybody = ssl.create_default_context(cafile=front_plane.ca_file)
        anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                await session.get(f"https://127.0.0.1:{port}{RAW}", ssl=anybody)


async def ask(program: Path, plane: ControlPlane, metric: str) -> Any:
    child = await asyncio.create_subprocess_exec(
        program,
        plane.kubeconfig,
        metric,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await child.communicate()
    assert child.returncode == 0, errors.decode()
    return json.loads(output)


def test_volcanos_own_prometheus_queries_say_the_same_with_our_rules() -> None:
    root = Path(__file__).parents[2]
    rules = root / "deploy" / "prometheus" / "volcano-rules.yaml"
    checked = tools.run("promtool", "check", "rules", rules)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    judged = tools.run(
        "promtool", "test", "rules", root / "tests" / "prometheus" / "volcano-rules.test.yaml"
    )
    assert judged.returncode == 0, judged.stdout + judged.stderr
