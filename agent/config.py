"""The agent's settings. Seconds, bytes and degrees stand in the names."""

import socket
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

ENV_PREFIX = "FLEETMEDIC_AGENT_"


class AgentSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a person may set on an agent."""

    node: Annotated[
        str, Meta(description="name of this node in Kubernetes (also read from NODE_NAME)")
    ] = ""
    aggregator: Annotated[
        str,
        Meta(description="host:port of the aggregator's report stream; empty: report to nobody"),
    ] = ""
    aggregator_ca_file: Annotated[
        str, Meta(description="PEM file to verify the aggregator with; empty: plaintext")
    ] = ""
    token_file: Annotated[
        str, Meta(description="file with the bearer token that proves this node")
    ] = ""
    http_listen: Annotated[
        str,
        Meta(
            description="address:port of /metrics and /healthz; port 0 picks a free one; empty: off"
        ),
    ] = "0.0.0.0:9402"
    sample_seconds: Annotated[
        float, Meta(ge=0.05, le=60, description="time between two samples of every source")
    ] = 1.0
    report_seconds: Annotated[
        float,
        Meta(
            ge=0.1,
            le=300,
            description="time between two regular reports; fatal findings never wait",
        ),
    ] = 5.0
    event_buffer: Annotated[
        int, Meta(ge=10, le=100_000, description="events kept while the aggregator is away")
    ] = 1_000
    kmsg: Annotated[
        str, Meta(description="kernel log device, fifo or file; empty: do not read one")
    ] = "/dev/kmsg"
    sysfs_root: Annotated[
        str, Meta(description="root of the sysfs tree to read RDMA ports from")
    ] = "/sys"
    proc_root: Annotated[str, Meta(description="root of the proc file system of the host")] = (
        "/proc"
    )
    host_root: Annotated[
        str,
        Meta(
            description="where the host's root is reached from a container (/proc/1/root); empty: not in one"
        ),
    ] = ""
    state_dir: Annotated[
        str,
        Meta(
            description="folder where faults and the kernel-log position outlive a restart; empty: they do not"
        ),
    ] = ""
    overrides: Annotated[
        str,
        Meta(
            description="file of overrides per code and pool, read again when it changes; empty: none"
        ),
    ] = ""
    pool: Annotated[str, Meta(description="pool of this node, as overrides name it")] = ""
    pod_resources: Annotated[
        str, Meta(description="socket on which the kubelet says which pod holds which device")
    ] = "/var/lib/kubelet/pod-resources/kubelet.sock"
    ascend: Annotated[bool, Meta(description="read Ascend NPUs through DCMI and hccn_tool")] = True
    hccn_tool: Annotated[str, Meta(description="Ascend's tool for the RoCE side of an NPU")] = (
        "/usr/local/Ascend/driver/tools/hccn_tool"
    )
    rdma_exclude: Annotated[
        str, Meta(description="comma-separated shell patterns of adapters that are not judged")
    ] = ""
    mount_types: Annotated[
        str,
        Meta(
            description="comma-separated shell patterns of file-system types whose mounts are probed; empty: none"
        ),
    ] = "nfs,nfs4,cifs,ceph,lustre,gpfs,beegfs,fuse.*,fuse,cpfs*,9p"
    nvidia: Annotated[bool, Meta(description="read NVIDIA GPUs through NVML")] = True
    rdma: Annotated[bool, Meta(description="read RDMA ports from sysfs")] = True
    disk_paths: Annotated[
        str, Meta(description="comma-separated mount points whose space is watched")
    ] = "/"
    expected_gpus: Annotated[
        int,
        Meta(
            ge=-1,
            le=64,
            description="GPUs this node should have; -1: those that this agent has seen",
        ),
    ] = -1
    gpu_too_hot_celsius: Annotated[
        float,
        Meta(
            ge=40,
            le=130,
            description="core temperature judged too hot where the GPU names no slowdown limit",
        ),
    ] = 90.0
    hold_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=3600,
            description="how long a measured value must be bad before it is a finding",
        ),
    ] = 10.0
    clear_seconds: Annotated[
        float,
        Meta(ge=0, le=86_400, description="how long it must be good before the finding clears"),
    ] = 60.0
    memory_low_ratio: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="share of host memory available below which it is under pressure",
        ),
    ] = 0.03
    disk_low_ratio: Annotated[
        float,
        Meta(ge=0, le=1, description="share of a disk available below which it is under pressure"),
    ] = 0.05
    directive_public_key_file: Annotated[
        str,
        Meta(
            description="PEM file with the keys whose directives are believed; empty: every directive is refused"
        ),
    ] = ""
    allow_repairs: Annotated[
        str,
        Meta(
            description="comma-separated repairs this node may be told to do: reset-device, restart-service, reboot-node; empty: none"
        ),
    ] = ""
    command_prefix: Annotated[
        str,
        Meta(
            description="words before every repair command, such as nsenter from a container into the host"
        ),
    ] = ""
    reset_command: Annotated[
        str, Meta(description="resets one GPU; {device} is its PCI bus id")
    ] = "nvidia-smi --gpu-reset -i {device}"
    restart_services: Annotated[
        str,
        Meta(
            description="comma-separated code=unit: findings by shell pattern, and the service that mends them; no other is ever restarted"
        ),
    ] = ""
    restart_command: Annotated[
        str, Meta(description="restarts one service; {unit} is its name")
    ] = "systemctl restart {unit}"
    service_probe_command: Annotated[
        str,
        Meta(
            description="prints ActiveState=… and lines that change with each start of {unit}; proves a restart"
        ),
    ] = "systemctl show --property=ActiveState,InvocationID,ActiveEnterTimestampMonotonic,MainPID {unit}"
    reboot_command: Annotated[str, Meta(description="reboots this node")] = "systemctl reboot"
    diagnostic_command: Annotated[
        str,
        Meta(
            description="your burn-in; status 0 proves {subject}, which is node for the whole node; empty: none"
        ),
    ] = ""
    reset_limit_seconds: Annotated[
        float, Meta(ge=0.1, le=3600, description="how long the reset command may run")
    ] = 120.0
    restart_limit_seconds: Annotated[
        float, Meta(ge=0.1, le=3600, description="how long the restart command may run")
    ] = 120.0
    reboot_limit_seconds: Annotated[
        float,
        Meta(
            ge=0.1,
            le=7200,
            description="how long until the node must be up again under a new boot id",
        ),
    ] = 900.0
    diagnostic_limit_seconds: Annotated[
        float, Meta(ge=0.1, le=86_400, description="how long the diagnostic may run")
    ] = 600.0
    evidence_limit_seconds: Annotated[
        float,
        Meta(ge=0.1, le=3600, description="how long after a repair its proof may take to show"),
    ] = 60.0
    dcgm_names: Annotated[
        bool, Meta(description="also export the widely used DCGM metric names")
    ] = True
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="least severe log line shown"),
    ] = "info"
    log_format: Annotated[Literal["text", "json"], Meta(description="how log lines look")] = "text"


def node_name(settings: AgentSettings, environment_name: str | None) -> str:
    """The node this agent speaks for: the setting, else ``NODE_NAME``, else the host's name."""
    return settings.node or environment_name or socket.gethostname().lower()
