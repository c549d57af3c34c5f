"""The command line of every component: pure functions of a layout, so that they read as a table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.controlplane.binaries import program

if TYPE_CHECKING:
    from collections.abc import Sequence

STAGES = Path(__file__).parent / "stages.yaml"

ISSUER = "https://kubernetes.default.svc.cluster.local"
SERVICE_RANGE = "10.0.0.0/24"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything of one control plane lies and listens (on 127.0.0.1)."""

    binaries: Path
    home: Path
    etcd_port: int
    apiserver_port: int

    @property
    def url(self) -> str:
        """The API server's address."""
        return f"https://127.0.0.1:{self.apiserver_port}"

    @property
    def etcd_url(self) -> str:
        """etcd's client address; plain, because only this machine's loopback sees it."""
        return f"http://127.0.0.1:{self.etcd_port}"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.home / "admin.kubeconfig"

    def file(self, name: str) -> str:
        """A file of ours as an argument."""
        return str(self.home / name)

    def log(self, name: str) -> Path:
        """The file that one component logs into."""
        return self.home / f"{name}.log"


def etcd(at: Layout) -> list[str]:
    """No fsync: the data is thrown away, and a test machine's disk is slow."""
    return [
        str(program(at.binaries, "etcd")),
        f"--data-dir={at.file('etcd')}",
        f"--listen-client-urls={at.etcd_url}",
        f"--advertise-client-urls={at.etcd_url}",
        "--listen-peer-urls=http://127.0.0.1:0",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def apiserver(at: Layout, extra: Sequence[str]) -> list[str]:
    """RBAC and the node authorizer as on a kubeadm cluster; tokens of service accounts work."""
    return [
        str(program(at.binaries, "kube-apiserver")),
        f"--etcd-servers={at.etcd_url}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        "--endpoint-reconciler-type=none",
        f"--secure-port={at.apiserver_port}",
        f"--tls-cert-file={at.file('server.crt')}",
        f"--tls-private-key-file={at.file('server.key')}",
        f"--client-ca-file={at.file('ca.crt')}",
        f"--token-auth-file={at.file('tokens.csv')}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--service-account-issuer={ISSUER}",
        f"--service-account-key-file={at.file('sa.pub')}",
        f"--service-account-signing-key-file={at.file('sa.key')}",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        "--allow-privileged=true",
        "--profiling=false",
        *extra,
    ]


def controller_manager(
    at: Layout, port: int, *, node_grace_s: float, extra: Sequence[str]
) -> list[str]:
    """Quick to act, slow to suspect.

    Node health is looked at every second and evictions are not rationed, but a node whose
    heartbeat nobody sends is believed for `node_grace_s`.
    """
    return [
        str(program(at.binaries, "kube-controller-manager")),
        f"--kubeconfig={at.kubeconfig}",
        "--leader-elect=false",
        *_serving(at, port),
        f"--root-ca-file={at.file('ca.crt')}",
        f"--service-account-private-key-file={at.file('sa.key')}",
        f"--cluster-signing-cert-file={at.file('ca.crt')}",
        f"--cluster-signing-key-file={at.file('ca.key')}",
        "--node-monitor-period=1s",
        f"--node-monitor-grace-period={node_grace_s:g}s",
        f"--node-startup-grace-period={node_grace_s:g}s",
        "--node-eviction-rate=100",
        "--kube-api-qps=500",
        "--kube-api-burst=500",
        "--profiling=false",
        *extra,
    ]


def scheduler(
    at: Layout, port: int, config: Path, extra: Sequence[str] = (), other: Path | None = None
) -> list[str]:
    """Everything else about the scheduler is in its configuration file; another build of it may be given."""
    return [
        str(other or program(at.binaries, "kube-scheduler")),
        f"--config={config}",
        *_serving(at, port),
        *extra,
    ]


def kwok(at: Layout, port: int, *, manage_all_nodes: bool, stages: Path) -> list[str]:
    """By default only nodes annotated `kwok.x-k8s.io/node=fake` are played."""
    which = (
        "--manage-all-nodes=true"
        if manage_all_nodes
        else "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake"
    )
    return [
        str(program(at.binaries, "kwok")),
        f"--kubeconfig={at.kubeconfig}",
        f"--config={stages}",
        which,
        "--node-ip=127.0.0.1",
        "--node-lease-duration-seconds=40",
        f"--server-address=127.0.0.1:{port}",
    ]


def _serving(at: Layout, port: int) -> list[str]:
    return [
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--tls-cert-file={at.file('server.crt')}",
        f"--tls-private-key-file={at.file('server.key')}",
    ]
