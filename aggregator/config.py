"""The aggregator's settings. Seconds and percent stand in the names."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from aggregator.policy.config import PolicyConfig

ENV_PREFIX = "FLEETMEDIC_AGGREGATOR_"


class AggregatorSettings(msgspec.Struct, frozen=True, kw_only=True):
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
        bool, Meta(description="read the real cluster, record what would be written, write nothing")
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
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="least severe log line shown"),
    ] = "info"
    log_format: Annotated[Literal["text", "json"], Meta(description="how log lines look")] = "text"

    def policy(self) -> PolicyConfig:
        """The policy's part."""
        return PolicyConfig(
            degraded_hold_seconds=self.degraded_hold_seconds,
            release_after_seconds=self.release_after_seconds,
            flap_window_seconds=self.flap_window_seconds,
            silent_after_seconds=self.silent_after_seconds,
            budget_percent=self.budget_percent,
            budget_count=self.budget_count,
        )
