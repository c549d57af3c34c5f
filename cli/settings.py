"""How the command finds the aggregator and the cluster."""

from typing import Annotated

import msgspec
from msgspec import Meta

ENV_PREFIX = "FLEETMEDIC_"

RUNGS = (
    "taint",
    "drain-device",
    "drain",
    "reset-device",
    "restart-service",
    "reboot-node",
    "replace",
)
"""Steps of a repair, as the ladder names them."""

MAX_NOTE = 4096
"""Characters, as the schema of incidents has it."""


class CliSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where to ask and as whom. The environment variables are named alike: ``FLEETMEDIC_SERVER``."""

    server: Annotated[
        str,
        Meta(
            description="URL of the aggregator's HTTP port, like http://localhost:8080; empty: through the "
            "Kubernetes API"
        ),
    ] = ""
    kubeconfig: Annotated[
        str,
        Meta(
            description="kubeconfig file; empty: KUBECONFIG, ~/.kube/config, or the pod we run in"
        ),
    ] = ""
    context: Annotated[
        str, Meta(description="context of the kubeconfig; empty: its current one")
    ] = ""
    namespace: Annotated[
        str, Meta(description="where the aggregator and the kill switch are", min_length=1)
    ] = "fleetmedic"
    service: Annotated[str, Meta(description="name of the aggregator's Service", min_length=1)] = (
        "fleetmedic-aggregator"
    )
    timeout_seconds: Annotated[
        float, Meta(ge=0.1, le=600, description="how long one request may take")
    ] = 30.0
