"""The policy's own settings: what people tune, as one value."""

import msgspec


class PolicyConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How careful to be. All durations in seconds."""

    degraded_hold_seconds: float = 30.0
    """How long a degraded finding must last before other nodes are preferred."""
    release_after_seconds: float = 60.0
    """How long a node must be clear before it is released."""
    flap_window_seconds: float = 3_600.0
    """Each earlier quarantine of the node within this window doubles ``release_after_seconds``."""
    flap_most_seconds: float = 3_600.0
    """The longest that doubling makes a clear node wait."""
    silent_after_seconds: float = 30.0
    """A node without a report for this long is unknown: nothing is decided about it."""
    budget_percent: float = 10.0
    """Most nodes of one pool under hard quarantine at once, in percent of the pool …"""
    budget_count: int = 10
    """… and in number; the smaller of the two holds, but one node is always allowed."""


def budget(pool_size: int, config: PolicyConfig) -> int:
    """How many nodes of a pool may be under hard quarantine at once; never less than one.

    One is allowed even in a pool of one: a node whose GPUs are gone serves nobody, and the budget is there
    to bound mistakes, which a single node already does.
    """
    return max(1, min(config.budget_count, int(pool_size * config.budget_percent / 100)))
