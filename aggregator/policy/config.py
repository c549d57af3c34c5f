"""The policy's own settings: what people tune, as one value."""

import msgspec

from aggregator.policy.ladder import Ladder, Rung


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
    act: frozenset[Rung] = frozenset({Rung.TAINT})
    """Rungs that are on. One that is not is passed over."""
    needs_approval: frozenset[Rung] = frozenset()
    """Rungs that wait until a person names them in the incident's ``spec.approve``."""
    ladder: Ladder = Ladder(bounds={}, by_action={})
    drain_budget_percent: float = 5.0
    """Most nodes of one pool that are drained or repaired at once, in percent …"""
    drain_budget_count: int = 5
    """… and in number."""
    reboot_budget_percent: float = 5.0
    """Most nodes of one pool that reboot at once, in percent …"""
    reboot_budget_count: int = 2
    """… and in number."""
    quarantines_per_minute: int = 20
    """In the whole cluster; 0: no limit."""
    breaker_nodes: int = 5
    """The same code newly critical on this many nodes within the window opens its breaker; 0: never."""
    breaker_window_seconds: float = 600.0
    breaker_probe_seconds: float = 300.0
    """While it is half open: one node per this long."""
    mute_seconds: float = 14_400.0
    """How long a fault is left alone on a node after a person overruled us about it."""
    diagnose: bool = False
    """Whether a repaired node has to pass its agent's diagnostic before it is released."""
    diagnose_limit_seconds: float = 900.0
    verify_limit_seconds: float = 600.0
    """A repaired node that is not well by then climbs to the next rung."""
    soak_seconds: float = 300.0
    """How long a repaired node is on probation (``PreferNoSchedule``) before it is released."""
    keep_closed_seconds: float = 604_800.0
    """How long closed incidents are kept."""
    webhook: bool = False
    """Whether somebody is told when a person is needed."""


def budget(pool_size: int, config: PolicyConfig) -> int:
    """How many nodes of a pool may be under hard quarantine at once; never less than one.

    One is allowed even in a pool of one: a node whose GPUs are gone serves nobody, and the budget is there
    to bound mistakes, which a single node already does.
    """
    return _allowed(pool_size, config.budget_percent, config.budget_count)


def drain_budget(pool_size: int, config: PolicyConfig) -> int:
    """How many nodes of a pool may be drained or repaired at once; never less than one."""
    return _allowed(pool_size, config.drain_budget_percent, config.drain_budget_count)


def reboot_budget(pool_size: int, config: PolicyConfig) -> int:
    """How many nodes of a pool may be rebooting at once; never less than one."""
    return _allowed(pool_size, config.reboot_budget_percent, config.reboot_budget_count)


def _allowed(pool_size: int, percent: float, count: int) -> int:
    return max(1, min(count, int(pool_size * percent / 100)))
