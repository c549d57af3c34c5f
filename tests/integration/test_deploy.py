"""The manifests, judged by the real API server, the real kubectl, and the real scheduler and Prometheus."""

import argparse
import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.config import ENV_PREFIX as AGENT_PREFIX
from agent.config import AgentSettings
from aggregator.config import ENV_PREFIX as AGGREGATOR_PREFIX
from aggregator.config import AggregatorSettings
from aggregator.feeds.extender import FILTER_PATH, PRIORITIZE_PATH
from contract.settings import load
from contract.vocabulary import CONTROL_CONFIG_MAP
from tests.controlplane.binaries import program
from tests.controlplane.cluster import ControlPlane
from tests.controlplane.crds import apply_crds
from tests.prometheus import tools

DEPLOY = Path(__file__).parents[2] / "deploy"
BASE = sorted(path for path in (DEPLOY / "base").glob("*.yaml") if path.stem != "kustomization")
USER = "system:serviceaccount:fleetmedic:fleetmedic-aggregator"
GROUPS = {
    "incidents": "fleetmedic.io",
    "leases": "coordination.k8s.io",
    "tokenreviews": "authentication.k8s.io",
    "poddisruptionbudgets": "policy",
    "workloads": "kueue.x-k8s.io",
    "jobs": "batch",
    "pytorchjobs": "kubeflow.org",
    "mpijobs": "kubeflow.org",
    "tfjobs": "kubeflow.org",
    "trainjobs": "trainer.kubeflow.org",
    "jobsets": "jobset.x-k8s.io",
    "daemonsets": "apps",
}


def documents() -> list[dict[str, Any]]:
    return [
        document
        for file in BASE
        for document in yaml.safe_load_all(file.read_text())
        if document is not None
    ]


def pod_of(name: str) -> dict[str, Any]:
    """The pod template's spec of one workload."""
    (found,) = (
        each
        for each in documents()
        if each["kind"] in {"Deployment", "DaemonSet"} and each["metadata"]["name"] == name
    )
    return dict(found["spec"]["template"]["spec"])


class TestManifests:
    async def test_the_api_server_accepts_every_one_of_them(
        self, control_plane: ControlPlane
    ) -> None:
        await apply_crds(control_plane.api, [DEPLOY / "crd" / "incidents.yaml"])
        rendered = await control_plane.kubectl("kustomize", str(DEPLOY))
        wanted = list(yaml.safe_load_all(rendered))
        assert len(wanted) == len(documents()) + 1  # the CRD

        namespace = DEPLOY / "base" / "namespace.yaml"
        await _apply(control_plane, namespace.read_text())
        said = await _apply(control_plane, rendered, "--dry-run=server")
        assert len(said.splitlines()) == len(wanted)

    @pytest.mark.parametrize(
        ("name", "kind", "prefix"),
        [
            ("fleetmedic-agent", AgentSettings, AGENT_PREFIX),
            ("fleetmedic-aggregator", AggregatorSettings, AGGREGATOR_PREFIX),
        ],
    )
    def test_every_variable_is_a_setting_with_a_value_that_it_takes(
        self, name: str, kind: type[AgentSettings | AggregatorSettings], prefix: str
    ) -> None:
        (container,) = pod_of(name)["containers"]
        given = {
            each["name"]: each["value"]
            for each in container["env"]
            if each["name"].startswith(prefix)
        }
        known = {prefix + field.upper() for field in kind.__struct_fields__}
        assert given.keys() <= known
        load(kind, arguments=argparse.Namespace(config=None), environment=given, env_prefix=prefix)

    def test_the_names_are_those_that_the_aggregator_expects(self) -> None:
        settings = AggregatorSettings()
        namespace, account = settings.agent_service_account.split("/")
        found = [
            (each["metadata"].get("namespace"), each["metadata"]["name"]) for each in documents()
        ]
        assert (namespace, account) in found
        assert pod_of("fleetmedic-agent")["serviceAccountName"] == account
        assert settings.lease_namespace == namespace
        named = {
            rule["resources"][0]: rule["resourceNames"]
            for each in documents()
            for rule in each.get("rules", ())
            if rule.get("resourceNames")
        }
        assert named == {"leases": [settings.lease_name], "configmaps": [CONTROL_CONFIG_MAP]}

    def test_every_right_says_what_it_is_for(self) -> None:
        """Each block of verbs has a comment beside it, or stands under one that explains them all."""
        text = (DEPLOY / "base" / "rbac.yaml").read_text()
        plain = [line for line in text.splitlines() if "verbs:" in line and "#" not in line]
        assert {line.strip() for line in plain} <= {
            "verbs: [get]",  # owners of pods
            "verbs: [get, update]",  # the lease
            "verbs: [get, create, patch]",  # events
            "verbs: [update, patch]",  # what we say about incidents
        }

    def test_the_agent_reads_the_overrides_that_the_page_tells_how_to_write(self) -> None:
        """None are shipped: an upgrade would put ours in the place of yours."""
        assert [each for each in documents() if each["kind"] == "ConfigMap"] == []
        page = (DEPLOY.parent / "docs" / "how-to" / "overrides.md").read_text()
        written = yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0])
        pod = pod_of("fleetmedic-agent")
        (volume,) = (each for each in pod["volumes"] if each["name"] == "overrides")
        assert volume["configMap"] == {"name": written["metadata"]["name"], "optional": True}
        (agent,) = pod["containers"]
        (mount,) = (each for each in agent["volumeMounts"] if each["name"] == "overrides")
        assert "subPath" not in mount
        variables = {each["name"]: each.get("value") for each in agent["env"]}
        (key,) = written["data"]
        assert variables[f"{AGENT_PREFIX}OVERRIDES"] == f"{mount['mountPath']}/{key}"

    def test_the_kubelets_socket_is_where_the_agent_looks(self) -> None:
        pod = pod_of("fleetmedic-agent")
        (agent,) = pod["containers"]
        (mount,) = (each for each in agent["volumeMounts"] if each["name"] == "pod-resources")
        (volume,) = (each for each in pod["volumes"] if each["name"] == "pod-resources")
        folder = str(Path(AgentSettings().pod_resources).parent)
        assert mount["mountPath"] == volume["hostPath"]["path"] == folder

    def test_a_rollout_and_a_drain_can_end_though_only_the_leader_is_ready(self) -> None:
        kinds = {each["kind"]: each for each in documents()}
        assert kinds["Deployment"]["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == "100%"
        assert "PodDisruptionBudget" not in kinds

    def test_the_agents_token_is_for_us_alone(self) -> None:
        pod = pod_of("fleetmedic-agent")
        assert pod["automountServiceAccountToken"] is False
        (volume,) = (each for each in pod["volumes"] if each["name"] == "token")
        (source,) = volume["projected"]["sources"]
        assert source["serviceAccountToken"]["audience"] == "fleetmedic"

    def test_only_the_agent_has_privileges_and_it_writes_to_one_folder_of_the_host(self) -> None:
        (container,) = pod_of("fleetmedic-aggregator")["containers"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert pod_of("fleetmedic-aggregator")["securityContext"]["runAsNonRoot"] is True
        pod = pod_of("fleetmedic-agent")
        (agent,) = pod["containers"]
        variables = {each["name"]: each.get("value") for each in agent["env"]}
        writable = [each for each in agent["volumeMounts"] if not each.get("readOnly")]
        assert [each["mountPath"] for each in writable] == [variables[f"{AGENT_PREFIX}STATE_DIR"]]
        assert not {"hostNetwork", "hostIPC"} & pod.keys()
        # The host's processes and mounts are part of what it watches.
        assert pod["hostPID"] is True
        assert variables[f"{AGENT_PREFIX}HOST_ROOT"] == "/proc/1/root"

    async def test_the_ascend_overlay_gives_the_agent_the_drivers_files(
        self, control_plane: ControlPlane
    ) -> None:
        rendered = await control_plane.kubectl("kustomize", str(DEPLOY / "ascend"))
        (daemons,) = (each for each in yaml.safe_load_all(rendered) if each["kind"] == "DaemonSet")
        pod = daemons["spec"]["template"]["spec"]
        (agent,) = pod["containers"]
        mounted = {each["mountPath"]: each for each in agent["volumeMounts"]}
        assert all(
            mounted[path]["readOnly"] for path in ("/usr/local/Ascend/driver", "/usr/local/dcmi")
        )
        assert AgentSettings().hccn_tool.startswith("/usr/local/Ascend/driver/")
        variables = {each["name"]: each.get("value") for each in agent["env"]}
        folders = variables["LD_LIBRARY_PATH"].split(":")
        assert all(folder.startswith("/usr/local/") for folder in folders)
        await _apply(control_plane, (DEPLOY / "base" / "namespace.yaml").read_text())
        said = await _apply(control_plane, yaml.safe_dump(daemons), "--dry-run=server")
        assert "fleetmedic-agent" in said


class TestPermissions:
    """What the role really allows, asked of the server that will decide."""

    ALLOWED = (
        ("list", "nodes", "", ""),
        ("watch", "nodes", "", ""),
        ("patch", "nodes", "", ""),
        ("patch", "nodes/status", "", ""),
        ("watch", "incidents", "", ""),
        ("create", "incidents", "", ""),
        ("update", "incidents/status", "", ""),
        ("create", "tokenreviews", "", ""),
        ("create", "events", "default", ""),
        ("patch", "events", "default", ""),
        ("create", "leases", "fleetmedic", ""),
        ("update", "leases", "fleetmedic", "fleetmedic-aggregator"),
        ("delete", "incidents", "", ""),
        ("list", "pods", "", ""),
        ("get", "pods", "tenant", ""),
        ("patch", "pods", "tenant", ""),
        ("create", "pods/eviction", "tenant", ""),
        ("list", "poddisruptionbudgets", "tenant", ""),
        ("get", "workloads", "tenant", ""),
        ("list", "workloads", "", ""),
        ("patch", "workloads", "tenant", ""),
        *(
            ("get", each, "tenant", "")
            for each in [
                "jobs",
                "pytorchjobs",
                "mpijobs",
                "tfjobs",
                "trainjobs",
                "jobsets",
            ]
        ),
        ("get", "daemonsets", "tenant", ""),
        ("list", "configmaps", "fleetmedic", "fleetmedic-control"),
        ("watch", "configmaps", "fleetmedic", "fleetmedic-control"),
    )
    DENIED = (
        ("delete", "nodes", "", ""),
        ("update", "nodes", "", ""),
        ("patch", "incidents", "", ""),
        ("create", "events", "kube-system", ""),
        ("update", "leases", "kube-system", "kube-scheduler"),
        ("update", "leases", "fleetmedic", "another"),
        ("get", "secrets", "fleetmedic", ""),
        ("delete", "pods", "tenant", ""),
        ("deletecollection", "pods", "tenant", ""),
        ("create", "pods", "tenant", ""),
        ("create", "pods/exec", "tenant", ""),
        ("delete", "jobs", "tenant", ""),
        ("patch", "pytorchjobs", "tenant", ""),
        ("delete", "workloads", "tenant", ""),
        ("patch", "workloads/status", "tenant", ""),
        ("patch", "poddisruptionbudgets", "tenant", ""),
        ("list", "configmaps", "fleetmedic", ""),
        ("get", "configmaps", "fleetmedic", "another"),
        ("get", "configmaps", "kube-system", "fleetmedic-control"),
        ("update", "configmaps", "fleetmedic", "fleetmedic-control"),
    )

    async def test_the_aggregator_may_do_its_work_and_nothing_else(
        self, control_plane: ControlPlane
    ) -> None:
        await _apply(control_plane, (DEPLOY / "base" / "namespace.yaml").read_text())
        await _apply(control_plane, (DEPLOY / "base" / "rbac.yaml").read_text())
        async with asyncio.timeout(10):  # the authorizer follows its own watch
            while not await _may(control_plane, USER, self.ALLOWED[-1]):
                await asyncio.sleep(0.05)
        assert [each for each in self.ALLOWED if not await _may(control_plane, USER, each)] == []
        assert [each for each in self.DENIED if await _may(control_plane, USER, each)] == []

        agent = USER.replace("aggregator", "agent")
        asked = self.ALLOWED + self.DENIED
        assert [each for each in asked if await _may(control_plane, agent, each)] == []


class TestScheduler:
    def test_the_paths_are_those_that_the_aggregator_serves(self) -> None:
        (extender,) = _scheduler_config()["extenders"]
        path = "/" + extender["urlPrefix"].split("/", 3)[3]
        assert f"{path}/{extender['prioritizeVerb']}" == PRIORITIZE_PATH
        assert f"{path}/filter" == FILTER_PATH

    async def test_the_real_scheduler_starts_with_it(self, control_plane: ControlPlane) -> None:
        program(control_plane.binaries, "kube-scheduler")
        config = _scheduler_config()
        del config["clientConnection"]
        async with control_plane.scheduler_with(config):
            assert control_plane.running("kube-scheduler")

    def test_the_scheduler_goes_on_without_us_and_sends_no_cpu_pods(self) -> None:
        (extender,) = _scheduler_config()["extenders"]
        assert extender["ignorable"] is True
        assert extender["nodeCacheCapable"] is True
        assert extender["httpTimeout"] == "200ms"
        managed = {
            each["name"]: each["ignoredByScheduler"] for each in extender["managedResources"]
        }
        assert {"nvidia.com/gpu", "amd.com/gpu", "huawei.com/Ascend910"} <= managed.keys()
        assert not any(managed.values())
        assert not {"cpu", "memory", "ephemeral-storage"} & managed.keys()


class TestPrometheus:
    def test_promtool_accepts_the_scrape_job(self, tmp_path: Path) -> None:
        config = yaml.safe_load((DEPLOY / "prometheus" / "scrape.yaml").read_text())
        (job,) = config["scrape_configs"]
        assert job["honor_labels"] is True
        # Debian's build knows no discovery through Kubernetes; all the rest it can judge.
        assert job.pop("kubernetes_sd_configs")[0]["role"] == "pod"
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        said = tools.run("promtool", "check", "config", tmp_path / "config.yaml")
        assert said.returncode == 0, said.stdout + said.stderr

    def test_the_annotations_name_ports_that_the_pods_have(self) -> None:
        for each in documents():
            if each["kind"] in {"Deployment", "DaemonSet"}:
                template = each["spec"]["template"]
                ports = {
                    port["containerPort"] for port in template["spec"]["containers"][0]["ports"]
                }
                assert int(template["metadata"]["annotations"]["prometheus.io/port"]) in ports


def _scheduler_config() -> dict[str, Any]:
    file = DEPLOY / "scheduler" / "kube-scheduler-config.yaml"
    return dict(yaml.safe_load(file.read_text()))


async def _apply(plane: ControlPlane, text: str, *flags: str) -> str:
    return await plane.kubectl(
        "apply",
        "--server-side",
        "--validate=strict",
        "--field-manager=test",
        *flags,
        "-f",
        "-",
        stdin=text,
    )


async def _may(plane: ControlPlane, user: str, what: tuple[str, str, str, str]) -> bool:
    """Whether the server would let this user do it: (verb, resource, namespace, name)."""
    verb, path, namespace, name = what
    resource, _, subresource = path.partition("/")
    asked = {
        "verb": verb,
        "group": GROUPS.get(resource, ""),
        "resource": resource,
        "subresource": subresource,
        "namespace": namespace,
        "name": name,
    }
    groups = ["system:serviceaccounts", "system:serviceaccounts:fleetmedic", "system:authenticated"]
    status, answer = await plane.request(
        "POST",
        "/apis/authorization.k8s.io/v1/subjectaccessreviews",
        {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": user, "groups": groups, "resourceAttributes": asked},
        },
    )
    assert status == 201, answer
    return bool(answer["status"]["allowed"])
