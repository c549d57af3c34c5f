"""The aggregator's settings. Seconds and percent stand in the names."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from aggregator.feed_settings import FeedSettings
from aggregator.ladder_file import load, shipped
from aggregator.policy.config import PolicyConfig
from aggregator.policy.ladder import Rung

ENV_PREFIX = "FLEETMEDIC_AGGREGATOR_"


class AggregatorSettings(FeedSettings, frozen=True, kw_only=True):
    """Everything a person may set on an aggregator."""

    cluster: Annotated[
        Literal["auto", "kubernetes", "observe"],
        Meta(
            description="auto: the cluster this pod runs in, or the one of --kubeconfig, else observe; "
            "observe: decide and record, write nothing"
        ),
    ] = "auto"
    kubeconfig: Annotated[
        str,
        Meta(description="kubeconfig file of the cluster to act on; never guessed from ~/.kube"),
    ] = ""
    dry_run: Annotated[
        bool,
        Meta(
            description="a real cluster whose server judges every write and keeps none (dryRun=All); "
            "what would be done is recorded"
        ),
    ] = False
    http_listen: Annotated[
        str,
        Meta(description="address:port of the page, the API, /metrics and the scheduler extender"),
    ] = "127.0.0.1:8080"
    grpc_listen: Annotated[
        str, Meta(description="address:port of the stream that agents report on")
    ] = "127.0.0.1:50051"
    tls_cert_file: Annotated[
        str, Meta(description="PEM certificate of the stream; empty: plaintext")
    ] = ""
    tls_key_file: Annotated[str, Meta(description="PEM key of the stream")] = ""
    reader_auth: Annotated[
        Literal["none", "kubernetes"],
        Meta(
            description="who may read /api/ on http_listen: none: whoever reaches the port; kubernetes: tokens with `get` on "
            "services/proxy of fleetmedic-aggregator:http, and the loopback; docs/how-to/read-access.md"
        ),
    ] = "none"
    agent_auth: Annotated[
        Literal["auto", "none", "kubernetes"],
        Meta(
            description="how an agent proves its node: kubernetes reviews its service-account token; "
            "none believes it; auto: kubernetes where there is a cluster"
        ),
    ] = "auto"
    agent_service_account: Annotated[
        str, Meta(description="namespace/name that an agent's token must be of")
    ] = "fleetmedic/fleetmedic-agent"
    lease_namespace: Annotated[str, Meta(description="namespace of the leader's Lease")] = (
        "fleetmedic"
    )
    lease_name: Annotated[str, Meta(description="name of the leader's Lease")] = (
        "fleetmedic-aggregator"
    )
    lease_duration_seconds: Annotated[
        float, Meta(ge=1, le=300, description="a Lease unchanged for this long may be taken over")
    ] = 15.0
    lease_renew_deadline_seconds: Annotated[
        float,
        Meta(
            ge=0.5, le=250, description="a leader that could not renew for this long stops acting"
        ),
    ] = 10.0
    lease_retry_seconds: Annotated[
        float, Meta(ge=0.1, le=60, description="time between two attempts to renew or to acquire")
    ] = 2.0
    tick_seconds: Annotated[
        float,
        Meta(
            ge=0.05,
            le=60,
            description="longest time between two decisions; news never waits for it",
        ),
    ] = 1.0
    degraded_hold_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=86_400,
            description="how long a degraded finding lasts before other nodes are preferred",
        ),
    ] = 30.0
    release_after_seconds: Annotated[
        float,
        Meta(ge=0, le=86_400, description="how long a node must be clear before it is released"),
    ] = 60.0
    flap_window_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=604_800,
            description="each earlier quarantine within it doubles the wait for release",
        ),
    ] = 3_600.0
    silent_after_seconds: Annotated[
        float, Meta(ge=1, le=3_600, description="a node without a report for this long is unknown")
    ] = 30.0
    budget_percent: Annotated[
        float,
        Meta(ge=0, le=100, description="most nodes of a pool under hard quarantine, in percent …"),
    ] = 10.0
    budget_count: Annotated[
        int,
        Meta(
            ge=1, le=10_000, description="… and in number; the smaller holds, one is always allowed"
        ),
    ] = 10
    act: Annotated[
        str,
        Meta(
            description="rungs of the ladder that are on, separated by commas: taint, drain-device, drain, "
            "reset-device, restart-service, reboot-node, replace; the others are passed over"
        ),
    ] = "taint"
    needs_approval: Annotated[
        str,
        Meta(
            description="rungs that wait until a person approves them for an incident, separated by commas"
        ),
    ] = ""
    ladder_file: Annotated[
        str, Meta(description="YAML file instead of the shipped ladder; empty: the shipped one")
    ] = ""
    drain_rules_file: Annotated[
        str,
        Meta(
            description="YAML file: how pods are drained, by namespace or label; empty: evict, emptyDir and "
            "unmanaged pods refused"
        ),
    ] = ""
    directive_key_file: Annotated[
        str,
        Meta(
            description="PEM private key that signs what agents are told to do "
            "(fleetmedic-aggregator keygen); empty: they are told nothing"
        ),
    ] = ""
    evictions_per_second: Annotated[
        float, Meta(ge=0.01, le=1_000, description="most evictions in the whole cluster")
    ] = 5.0
    drain_budget_percent: Annotated[
        float,
        Meta(
            ge=0, le=100, description="most nodes of a pool drained or repaired at once, percent …"
        ),
    ] = 5.0
    drain_budget_count: Annotated[
        int, Meta(ge=1, le=10_000, description="… and in number; one is always allowed")
    ] = 5
    reboot_budget_percent: Annotated[
        float, Meta(ge=0, le=100, description="most nodes of a pool that reboot at once, percent …")
    ] = 5.0
    reboot_budget_count: Annotated[
        int, Meta(ge=1, le=10_000, description="… and in number; one is always allowed")
    ] = 2
    quarantines_per_minute: Annotated[
        int, Meta(ge=0, le=10_000, description="in the whole cluster; 0: no limit")
    ] = 20
    breaker_nodes: Annotated[
        int,
        Meta(
            ge=0,
            le=10_000,
            description="so many nodes on which the same critical code appears within the window stop "
            "further quarantines, drains and reboots for it; 0: never",
        ),
    ] = 5
    breaker_window_seconds: Annotated[
        float, Meta(ge=1, le=86_400, description="the window of the breaker")
    ] = 600.0
    breaker_probe_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=86_400,
            description="once no new node shows the code, the time between two quarantines for it",
        ),
    ] = 300.0
    mute_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=2_592_000,
            description="how long a fault is left alone on a node after a person overruled us about it",
        ),
    ] = 14_400.0
    diagnose: Annotated[
        bool,
        Meta(
            description="a repaired node has to pass its agent's diagnostic before it is released"
        ),
    ] = False
    diagnose_limit_seconds: Annotated[
        float, Meta(ge=1, le=86_400, description="how long a diagnostic may take")
    ] = 900.0
    verify_limit_seconds: Annotated[
        float,
        Meta(
            ge=1,
            le=604_800,
            description="a repaired node that is not well by then climbs the ladder",
        ),
    ] = 600.0
    soak_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=604_800,
            description="how long a repaired node is on probation (PreferNoSchedule) before release",
        ),
    ] = 300.0
    keep_closed_seconds: Annotated[
        float, Meta(ge=0, le=31_536_000, description="how long closed incidents are kept")
    ] = 604_800.0
    webhook_url: Annotated[
        str, Meta(description="https URL that is told when a person is needed; empty: nobody is")
    ] = ""
    webhook_token_file: Annotated[
        str, Meta(description="file with the bearer token for the webhook; empty: none")
    ] = ""
    kueue_quota: Annotated[
        str,
        Meta(
            description="Kueue quotas that follow the healthy nodes, separated by commas: "
            "cluster_queue/flavor/resource=pool; empty: none"
        ),
    ] = ""
    kueue_floor_percent: Annotated[
        float,
        Meta(ge=0, le=100, description="least of a quota that is left, in percent of its own"),
    ] = 50.0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="least severe log line shown"),
    ] = "info"
    log_format: Annotated[Literal["text", "json"], Meta(description="how log lines look")] = "text"

    def policy(self) -> PolicyConfig:
        """The policy's part, with the ladder from its file.

        Raises:
            SettingsError: the ladder's file cannot be used.
        """
        theirs = {field.name for field in msgspec.structs.fields(PolicyConfig)}
        same = {name: getattr(self, name) for name in self.__struct_fields__ if name in theirs}
        return PolicyConfig(
            **{
                **same,
                "act": rungs(self.act) | {Rung.TAINT},
                "needs_approval": rungs(self.needs_approval),
                "ladder": load(Path(self.ladder_file)) if self.ladder_file else shipped(),
                "webhook": bool(self.webhook_url),
            }
        )


def rungs(text: str) -> frozenset[Rung]:
    """Rungs from a list with commas.

    Raises:
        ValueError: naming the word and those allowed.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    allowed = [rung.value for rung in Rung]
    for word in words:
        if word not in allowed:
            raise ValueError(f"{word!r} is no rung; use some of: {', '.join(allowed)}")
    return frozenset(Rung(word) for word in words)
