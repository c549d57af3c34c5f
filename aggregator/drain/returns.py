"""Notices pods that come back to a drained node, so that nobody evicts them for ever."""

from collections.abc import Iterable

from aggregator.policy.drain.plan_model import PodPlan

MOST_RETURNS = 3
"""So often the pods of one controller are evicted again that came back to the node, past taint and cordon."""


class Returns:
    """How often the pods of each controller came back to the node after they were evicted."""

    def __init__(self) -> None:
        self._owner: dict[str, str] = {}
        """By UID of a pod: the UID of its controller."""
        self._times: dict[str, int] = {}
        """By UID of a pod: as the how-manieth return it was first seen."""
        self._evicted: dict[str, int] = {}
        """By UID of a controller: returns so far, had it one now."""

    def saw(self, pods: Iterable[PodPlan]) -> None:
        """These are on the node now."""
        for each in pods:
            uid, owner = each.pod.uid, each.pod.owner
            if owner is not None and uid not in self._times:
                self._owner[uid] = owner.uid
                self._times[uid] = self._evicted.get(owner.uid, 0)

    def evicted(self, uid: str) -> None:
        """This one goes; should its controller make one here again, that one came back."""
        if (owner := self._owner.get(uid)) is not None:
            self._evicted[owner] = max(self._evicted.get(owner, 0), self._times[uid] + 1)

    def too_often(self, each: PodPlan) -> bool:
        """Whether evicting it would go on for ever."""
        return self._times.get(each.pod.uid, 0) > MOST_RETURNS
