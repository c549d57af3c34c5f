"""The form of the stream: its name, its version, its bounds."""

CONNECT_METHOD = "/fleetmedic.v1.Fleet/Connect"
"""gRPC path of ``Fleet.Connect``. Both ends pass raw bytes through gRPC and decode themselves, so that
one malformed report is refused and counted instead of ending the stream."""

PROTOCOL_VERSION = 1

MAX_REPORT_BYTES = 1 << 20
"""A report of 16 GPUs, 32 ports and full buffers is under 100 KiB; ten times that is abuse."""

MAX_FINDINGS = 1_000
MAX_EVENTS = 1_000
MAX_TEXT = 1_024
"""Characters kept of any one text that came from outside."""

SIGNED_PREFIX = b"fleetmedic directive v1\n"
"""Goes before a directive's bytes where they are signed, so that no signature of anything else fits."""

TOKEN_METADATA = "authorization"  # noqa: S105 - the name of the header, not a secret
"""gRPC metadata key under which an agent sends its bearer token."""

NODE_METADATA = "fleetmedic-node"
"""gRPC metadata key under which an agent names the node it speaks for."""
