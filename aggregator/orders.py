"""What should be going on now, beyond single writes: drains, and directives whose outcome is waited for."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from aggregator.policy.model import DirectiveOrder, DrainOrder, DrainProgress
from contract.vocabulary import DirectiveOutcome


class Orders(NamedTuple):
    """Everything that should be going on at this moment; what is not in it is to stop."""

    drains: tuple[DrainOrder, ...] = ()
    directives: tuple[DirectiveOrder, ...] = ()

    def keeping(self, before: "Orders", busy: Callable[[str], bool]) -> "Orders":
        """These orders, but for busy nodes those from before."""
        return Orders(
            tuple(
                [each for each in before.drains if busy(each.node)]
                + [each for each in self.drains if not busy(each.node)]
            ),
            tuple(
                [each for each in before.directives if busy(each.node)]
                + [each for each in self.directives if not busy(each.node)]
            ),
        )


class DrainCarrier(Protocol):
    """Whoever drains nodes."""

    def carry(self, orders: Sequence[DrainOrder]) -> None:
        """Start what is missing, stop what is no longer asked for. Never blocks."""

    def progress(self) -> Mapping[str, DrainProgress]:
        """How the drains go, by node."""


class DirectiveCarrier(Protocol):
    """Whoever gets directives to agents."""

    def carry(self, orders: Sequence[DirectiveOrder]) -> None:
        """Send what its agent does not know yet. Never blocks."""

    def outcomes(self, node: str) -> Sequence[DirectiveOutcome]:
        """What is known of a node's directives beside what its agent says: in a dry run, that none was sent."""


class Carriers(NamedTuple):
    """Who carries orders out."""

    drains: DrainCarrier
    directives: DirectiveCarrier

    def carry(self, orders: Orders) -> None:
        """Everything that should be going on now."""
        self.drains.carry(orders.drains)
        self.directives.carry(orders.directives)
