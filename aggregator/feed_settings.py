"""The settings of what schedulers are told, one group per consumer; ``feeding.py`` hands them on.

Values only, so that ``--help`` needs no numpy. Seconds and percent stand in the names.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class FeedSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a person may set on scores and on who gets them. What writes to the cluster is off by default."""

    score_terms: Annotated[
        str,
        Meta(
            description="weights of the score's terms that are not the default's, separated by commas: "
            "packing=10,keep_whole=0.2,rdma=2,neighbourhood=1,use=4; 0 switches a term off"
        ),
    ] = ""
    overload_risk_percent: Annotated[
        float,
        Meta(
            ge=0.1,
            le=99,
            description="chance that a shared device is asked for more than it has, up to which pods are packed there",
        ),
    ] = 5.0
    watch_pods: Annotated[
        bool,
        Meta(
            description="follow all pods, to know what nodes have left; false: scores go by reports alone"
        ),
    ] = True
    failing_pods: Annotated[
        Literal["off", "by-tenant", "by-workload"],
        Meta(
            description="rank nodes last where pods fail at once: by-tenant asks for failures of two namespaces, "
            "by-workload of two workloads, for clusters of one tenant; needs watch_pods"
        ),
    ] = "by-tenant"
    scheduler_listen: Annotated[
        str,
        Meta(
            description="address:port of the scheduler extender alone, in a process of its own; "
            "empty: on http_listen, beside everything else"
        ),
    ] = ""
    extender_scale: Annotated[
        int,
        Meta(
            ge=10,
            le=1_000,
            description="best number that the scheduler is told of a node; it adds ten times that, times its weight",
        ),
    ] = 100
    score_labels: Annotated[
        bool,
        Meta(
            description="write each GPU node's score on its Node, as label and annotation, for schedulers that "
            "follow them; false: what was written before is taken off"
        ),
    ] = False
    score_label_writes_per_second: Annotated[
        float,
        Meta(
            ge=0.1,
            le=100,
            description="most Nodes whose score is written in a second, in the long run",
        ),
    ] = 10.0
    device_quarantine: Annotated[
        str,
        Meta(
            description="who keeps pods from a single bad device: off, auto, or a list of dra, hami, koordinator"
        ),
    ] = "off"
    device_look_seconds: Annotated[
        float,
        Meta(
            ge=0.1,
            le=30,
            description="between two looks at device quarantines; each look writes at most one step of each",
        ),
    ] = 5.0
    device_settle_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=3_600,
            description="how long a device quarantine must be seen to hold before the node's taint is relaxed for it",
        ),
    ] = 30.0
    watcher_unhealthy: Annotated[
        Literal["keep", "leave-out"],
        Meta(
            description="of /watcher: tell the truth about sick nodes too, or leave them out, so that Trimaran "
            "ranks them last"
        ),
    ] = "keep"
    custom_metrics_listen: Annotated[
        str,
        Meta(description="address:port, with TLS, of Volcano's custom metrics; empty: not served"),
    ] = ""
    custom_metrics_cert_file: Annotated[str, Meta(description="PEM certificate of that port")] = ""
    custom_metrics_key_file: Annotated[str, Meta(description="PEM key of that port")] = ""
    custom_metrics_client_ca_file: Annotated[
        str,
        Meta(
            description="PEM authority of who may ask there: the API server's requestheader-client-ca; empty: whoever reaches the port"
        ),
    ] = ""
    koordinator_thresholds: Annotated[
        bool, Meta(description="tighten Koordinator's usage thresholds on hot and sick nodes")
    ] = False
    koordinator_hot_percent: Annotated[
        float,
        Meta(
            ge=1, le=100, description="a node is hot at this p95 of ten minutes, of CPU or memory …"
        ),
    ] = 85.0
    koordinator_calm_percent: Annotated[
        float, Meta(ge=1, le=100, description="… until it is below this")
    ] = 70.0
    koordinator_cpu_percent: Annotated[
        int,
        Meta(
            ge=1,
            le=100,
            description="CPU that a hot or sick node may use and still take new pods …",
        ),
    ] = 50
    koordinator_memory_percent: Annotated[int, Meta(ge=1, le=100, description="… and memory")] = 70
    koordinator_aggregation: Annotated[
        Literal["", "avg", "p50", "p90", "p95", "p99"],
        Meta(description="where LoadAwareScheduling has `aggregated` usage thresholds: their type"),
    ] = ""
    koordinator_node_metric: Annotated[
        bool,
        Meta(
            description="write NodeMetric objects for nodes without koordlet; read docs/how-to/koordinator.md first"
        ),
    ] = False
    koordinator_scheduler_config: Annotated[
        str,
        Meta(description="namespace/name of the ConfigMap that koord-scheduler is started with"),
    ] = "koordinator-system/koord-scheduler-config"
    koordinator_expiry_confirmed: Annotated[
        bool,
        Meta(
            description="you say that every scheduler lets nodes with expired NodeMetrics pass; the ConfigMap is "
            "not read then"
        ),
    ] = False
