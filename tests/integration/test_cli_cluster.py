"""What a person decides with the command, on a real API server: written once, guarded, with that person's rights."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from aggregator.web.api import create_app
from cli import acts
from cli import incidents as writing
from cli.__main__ import main
from cli.connection import MERGE, Connection, Json
from contract.vocabulary import CONTROL_CONFIG_MAP
from tests.controlplane.cluster import ControlPlane
from tests.controlplane.crds import apply_crds
from tests.controlplane.sandbox import Sandbox
from tests.integration.web.world import World

pytestmark = pytest.mark.cluster

CRD = Path(__file__).parents[2] / "deploy" / "crd" / "incidents.yaml"
INCIDENTS = "/apis/fleetmedic.io/v1alpha1/incidents"
RBAC = "/apis/rbac.authorization.k8s.io/v1"


class Person:
    """Runs the command with a kubeconfig of their own."""

    def __init__(
        self, kubeconfig: Path, namespace: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self._where = ["--kubeconfig", str(kubeconfig), "--namespace", namespace]
        self._capsys = capsys

    async def __call__(self, *arguments: str, status: int = 0) -> str:
        self._capsys.readouterr()
        got = await asyncio.to_thread(main, [*arguments, *self._where])
        printed = self._capsys.readouterr()
        assert got == status, printed.err
        return printed.err if status else printed.out

    async def may(self, *arguments: str) -> bool:
        """Whether it is not refused."""
        status = await asyncio.to_thread(main, [*arguments, *self._where])
        self._capsys.readouterr()
        return status == 0


@pytest.fixture
async def cluster(control_plane: ControlPlane) -> ControlPlane:
    await apply_crds(control_plane.api, [CRD])
    return control_plane


@pytest.fixture
async def admin(
    cluster: ControlPlane, sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> Person:
    return Person(cluster.kubeconfig, sandbox.namespace, capsys)


class Trouble:
    """A node's incidents, as objects."""

    def __init__(self, cluster: ControlPlane, sandbox: Sandbox) -> None:
        self._cluster = cluster
        self._sandbox = sandbox
        self.node = sandbox.name("gpu-07")

    async def open(self, stem: str = "inc", phase: str = "quarantined", **spec: Any) -> str:
        name = self._sandbox.name(stem)
        body = {
            "apiVersion": "fleetmedic.io/v1alpha1",
            "kind": "Incident",
            "metadata": {"name": name},
            "spec": {"node": self.node, **spec},
        }
        await self._sandbox.create(INCIDENTS, body)
        status = {"status": {"phase": phase, "openedTime": "2026-11-26T06:00:00Z"}}
        got, answer = await self._cluster.request(
            "PATCH", f"{INCIDENTS}/{name}/status", status, MERGE
        )
        assert got == 200, answer
        return name

    async def read(self, name: str) -> Json:
        status, found = await self._cluster.request("GET", f"{INCIDENTS}/{name}")
        assert status == 200
        return found

    async def spec(self, name: str) -> Json:
        spec: Json = (await self.read(name))["spec"]
        assert spec.pop("node") == self.node
        return spec


@pytest.fixture
async def trouble(cluster: ControlPlane, sandbox: Sandbox) -> Trouble:
    return Trouble(cluster, sandbox)


async def test_hold_and_resume_are_written_once_and_said(admin: Person, trouble: Trouble) -> None:
    name = await trouble.open()
    said = await admin("hold", trouble.node, "--note", "vendor on site")
    assert f"{trouble.node} is on hold (incident {name})" in said
    assert f"fleetmedic resume {trouble.node}" in said
    assert await trouble.spec(name) == {"hold": True, "note": "vendor on site"}

    before = await trouble.read(name)
    said = await admin("hold", trouble.node)
    assert "it was so already, nothing is changed" in said
    assert await trouble.read(name) == before

    await admin("unhold", trouble.node)
    assert await trouble.spec(name) == {"hold": False, "note": "vendor on site"}
    assert "nothing is changed" in await admin("resume", trouble.node)


async def test_approve_adds_to_what_was_agreed(admin: Person, trouble: Trouble) -> None:
    name = await trouble.open()
    await admin("approve", trouble.node, "drain")
    said = await admin("approve", trouble.node, "reboot-node", "--note", "ok by Ada")
    assert f"reboot-node is approved for {trouble.node}" in said
    assert await trouble.spec(name) == {"approve": ["drain", "reboot-node"], "note": "ok by Ada"}
    assert "nothing is changed" in await admin("approve", trouble.node, "drain")
    await admin("hold", trouble.node)
    assert f"fleetmedic resume {trouble.node}" in await admin("approve", trouble.node, "drain")


async def test_cancel_takes_a_hold_off_with_it(admin: Person, trouble: Trouble) -> None:
    name = await trouble.open(hold=True)
    said = await admin("cancel", trouble.node, "--note", "sensor is lying")
    assert "cancelled" in said
    assert "The hold that was on it is taken off" in said
    assert await trouble.spec(name) == {"cancel": True, "hold": False, "note": "sensor is lying"}
    assert "nothing is changed" in await admin("cancel", trouble.node)


async def test_release_and_note(admin: Person, trouble: Trouble) -> None:
    name = await trouble.open(phase="needs-human")
    assert "is said to be mended" in await admin("release", trouble.node)
    await admin("note", trouble.node, "board  replaced\nby Ada")
    assert await trouble.spec(name) == {"release": True, "note": "board replaced by Ada"}


async def test_a_second_release_is_no_dead_end(
    cluster: ControlPlane, admin: Person, trouble: Trouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first was acted upon, and the node failed its check: mended again, it is said again."""
    name = await trouble.open(phase="needs-human", release=True)
    path = f"{INCIDENTS}/{name}/status"

    async def taken(when: str | None) -> None:
        code, answer = await cluster.request(
            "PATCH", path, {"status": {"releaseTakenTime": when}}, MERGE
        )
        assert code == 200, answer

    await taken("2026-11-26T06:10:00Z")
    monkeypatch.setattr(acts, "TAKEN_BACK_SECONDS", 0.1)
    assert "on hold or everything is stopped" in await admin("release", trouble.node, status=1)
    monkeypatch.setattr(acts, "TAKEN_BACK_SECONDS", 30.0)
    said = asyncio.create_task(admin("release", trouble.node))
    await cluster.until(f"{INCIDENTS}/{name}", lambda one: one["spec"]["release"] is False)
    await taken(None)  # as the aggregator does when it sees that
    assert "nothing is changed" not in await said
    assert await trouble.spec(name) == {"release": True}


async def test_a_release_whose_check_is_under_way_is_left_alone(
    cluster: ControlPlane, admin: Person, trouble: Trouble
) -> None:
    name = await trouble.open(phase="verifying", release=True)
    status = {"status": {"releaseTakenTime": "2026-11-26T06:10:00Z"}}
    await cluster.request("PATCH", f"{INCIDENTS}/{name}/status", status, MERGE)
    before = await trouble.read(name)
    assert "it was so already" in await admin("release", trouble.node)
    assert await trouble.read(name) == before


@pytest.mark.parametrize("command", [["cancel"], ["hold"], ["approve", "drain"], ["note", "x"]])
async def test_a_node_without_an_open_incident_is_refused_and_left_alone(
    admin: Person, trouble: Trouble, command: list[str]
) -> None:
    arguments = [command[0], trouble.node, *command[1:]]
    said = await admin(*arguments, status=1)
    assert f"node {trouble.node!r} has no open incident." in said
    assert "fleetmedic incidents" in said
    name = await trouble.open(phase="closed")
    before = await trouble.read(name)
    assert "its 1 earlier ones are closed" in await admin(*arguments, status=1)
    assert await trouble.read(name) == before


async def test_of_two_open_incidents_the_one_that_counts_is_changed(
    admin: Person, trouble: Trouble
) -> None:
    suspect = await trouble.open("a", "suspect")
    further = await trouble.open("b", "draining")
    await admin("note", trouble.node, "hello")
    assert (await trouble.spec(further), await trouble.spec(suspect)) == ({"note": "hello"}, {})


async def test_what_somebody_else_wrote_meanwhile_is_not_lost(
    admin: Person, trouble: Trouble, cluster: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two people agree to different steps at the same moment: both stand in the end."""
    name = await trouble.open()
    loop = asyncio.get_running_loop()
    reads: list[str] = []
    original: Callable[[Connection, str], Json] = writing.open_incident

    async def other_person() -> None:
        patch = {"spec": {"approve": ["drain"]}}
        await cluster.request("PATCH", f"{INCIDENTS}/{name}", patch, MERGE)

    def slow_reader(api: Connection, node: str) -> Json:
        found = original(api, node)
        reads.append(node)
        if len(reads) == 1:
            asyncio.run_coroutine_threadsafe(other_person(), loop).result(20)
        return found

    monkeypatch.setattr(writing, "open_incident", slow_reader)
    await admin("approve", trouble.node, "reboot-node")
    assert len(reads) == 2
    assert await trouble.spec(name) == {"approve": ["drain", "reboot-node"]}


async def test_go_also_takes_back_a_stop_that_is_no_text(
    admin: Person, cluster: ControlPlane, sandbox: Sandbox
) -> None:
    where = f"/api/v1/namespaces/{sandbox.namespace}/configmaps"
    body = {"metadata": {"name": CONTROL_CONFIG_MAP}, "binaryData": {"stop": "AAA="}}
    await sandbox.create(where, body)
    assert "it was stopped: 'no reason given'" in await admin("go")
    _, found = await cluster.request("GET", f"{where}/{CONTROL_CONFIG_MAP}")
    assert "stop" not in (found.get("binaryData") or {})
    await admin("stop", "again")
    assert "it was stopped: 'again'" in await admin("go")


async def test_stop_and_go(admin: Person, cluster: ControlPlane, sandbox: Sandbox) -> None:
    path = sandbox.path("configmaps", CONTROL_CONFIG_MAP)
    assert "it was not stopped" in await admin("go")
    assert (await cluster.request("GET", path))[0] == 404

    said = await admin("stop", "power work until noon")
    assert "Stopped: 'power work until noon'" in said
    assert "fleetmedic go" in said
    assert (await cluster.request("GET", path))[1]["data"] == {"stop": "power work until noon"}
    assert "it was so already" in await admin("stop", "power work until noon")
    assert "before: 'power work until noon'" in await admin("stop", "longer")

    assert "it was stopped: 'longer'" in await admin("go")
    assert "data" not in (await cluster.request("GET", path))[1]
    assert "it was not stopped" in await admin("go")
    await admin("stop", "again")
    assert (await cluster.request("GET", path))[1]["data"] == {"stop": "again"}


async def test_without_rights_the_verb_and_the_resource_are_named(
    cluster: ControlPlane,
    sandbox: Sandbox,
    trouble: Trouble,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = await trouble.open()
    user = sandbox.name("bob")
    bob = Person(cluster.write_kubeconfig(user, user=user), sandbox.namespace, capsys)
    said = await bob("hold", trouble.node, status=1)
    assert "forbidden" in said
    assert "you need the verb list on incidents.fleetmedic.io" in said
    assert user in said
    said = await bob("stop", "x", status=1)
    assert f"you need the verb get on configmaps in namespace {sandbox.namespace!r}" in said
    said = await bob("explain", trouble.node, status=1)
    assert f"get on services/proxy in namespace {sandbox.namespace!r}, or --server URL" in said

    rules = [{"apiGroups": ["fleetmedic.io"], "resources": ["incidents"], "verbs": ["list"]}]
    role = {"metadata": {"name": user}, "rules": rules}
    await sandbox.create(f"{RBAC}/clusterroles", role)
    group = "rbac.authorization.k8s.io"
    binding = {
        "metadata": {"name": user},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": user},
        "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
    }
    await sandbox.create(f"{RBAC}/clusterrolebindings", binding)
    async with asyncio.timeout(20):  # the authorizer watches roles
        while "verb patch on" not in (said := await bob("hold", trouble.node, status=1)):
            await asyncio.sleep(0.05)
    assert "you need the verb patch on incidents.fleetmedic.io" in said
    assert await trouble.spec(name) == {}


async def test_the_rights_that_the_documentation_names_are_enough(
    cluster: ControlPlane,
    sandbox: Sandbox,
    trouble: Trouble,
    service: World,
    capsys: pytest.CaptureFixture[str],
) -> None:
    service.drain("node-1")
    name, user = await trouble.open(), sandbox.name("ada")
    group = "rbac.authorization.k8s.io"
    roles = list(yaml.safe_load_all(documented_yaml()))
    assert [each["kind"] for each in roles] == ["ClusterRole", "Role"]
    for role in roles:
        where = RBAC if role["kind"] == "ClusterRole" else f"{RBAC}/namespaces/{sandbox.namespace}"
        plural = role["kind"].lower()
        await sandbox.create(
            f"{where}/{plural}s", {"metadata": {"name": user}, "rules": role["rules"]}
        )
        binding = {
            "metadata": {"name": user},
            "roleRef": {"apiGroup": group, "kind": role["kind"], "name": user},
            "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
        }
        await sandbox.create(f"{where}/{plural}bindings", binding)
    ada = Person(cluster.write_kubeconfig(user, user=user), sandbox.namespace, capsys)
    async with asyncio.timeout(20):  # the authorizer watches roles
        while not await ada.may("explain", "node-1") or not await ada.may("go"):
            await asyncio.sleep(0.05)
    await ada("hold", trouble.node)
    assert await trouble.spec(name) == {"hold": True}
    await ada("stop", "drill")
    await ada("stop", "longer drill")
    await ada("go")


def documented_yaml() -> str:
    text = (Path(__file__).parents[2] / "docs" / "how-to" / "why.md").read_text()
    return text.split("```yaml\n")[1].split("```")[0]


async def test_a_stranger_is_told_so(
    cluster: ControlPlane, sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    config = cluster.write_kubeconfig(sandbox.name("stranger"), token="none")
    stranger = Person(config, sandbox.namespace, capsys)
    for command in (["hold", "gpu-07"], ["explain", "gpu-07"]):
        said = await stranger(*command, status=1)
        assert f"the Kubernetes API at {cluster.url} does not know you" in said


def own_address() -> str:
    """An address of this machine that the API server's proxy agrees to: no loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            address: str = probe.getsockname()[0]
        except OSError:
            address = "127.0.0.1"
    if address.startswith("127."):
        pytest.skip(
            "this machine has no address but loopback, which the API server does not proxy to"
        )
    return address


@pytest.fixture
async def service(cluster: ControlPlane, sandbox: Sandbox) -> AsyncIterator[World]:
    """An aggregator behind a Service of this test's namespace."""
    world = World()
    world.mode = "kubernetes"
    world.report("node-1")
    runner = web.AppRunner(create_app(world.deps()))
    await runner.setup()
    address = own_address()
    await web.TCPSite(runner, address, 0).start()
    port = runner.addresses[0][1]
    name = "fleetmedic-aggregator"
    ports = [{"name": "http", "port": 8080, "targetPort": port}]
    await sandbox.create(
        sandbox.path("services"), {"metadata": {"name": name}, "spec": {"ports": ports}}
    )
    # The API server leads only to addresses of pods that say they have them.
    await sandbox.pod("aggregator", gpus=1)
    told = {"status": {"podIP": address, "podIPs": [{"ip": address}]}}
    pod = sandbox.path("pods", "aggregator")
    assert (await cluster.request("PATCH", f"{pod}/status", told, MERGE))[0] == 200
    target = {"kind": "Pod", "namespace": sandbox.namespace, "name": "aggregator"}
    addresses = [{"ip": address, "targetRef": target}]
    ready = {"addresses": addresses, "ports": [{"name": "http", "port": port}]}
    endpoints = {"metadata": {"name": name}, "subsets": [ready]}
    await sandbox.create(sandbox.path("endpoints"), endpoints)
    yield world
    await runner.cleanup()


async def test_questions_go_through_the_kubernetes_api(
    admin: Person, service: World, sandbox: Sandbox
) -> None:
    service.drain("node-1")
    said = await admin("explain", "node-1")
    assert said.startswith("node-1 is quarantined and cordoned by Fleetmedic: gpu-lost")
    assert "node-1" in await admin("incidents")
    assert "no node named 'nope'" in await admin("explain", "nope", status=1)
    assert "there is no cluster whose pods" in await admin("plan", "node-1", status=1)


async def test_no_aggregator_behind_the_service_names_where_to_look(
    admin: Person, sandbox: Sandbox
) -> None:
    said = await admin("explain", "node-1", status=1)
    assert f"no aggregator answers behind Service {sandbox.namespace}/fleetmedic-aggregator" in said
    assert f"kubectl -n {sandbox.namespace} get pods" in said
