"""Nodes where pods fail at once though their agents say that all is well: black holes. Pure: the clock comes as an argument. One owner.

Each pod that fails frees its room, so that the node is the favourite again and the next pod goes there too. Within ``WINDOW_SECONDS``,
since the last pod that ran well there, a node is judged by

- ``ENOUGH`` pods whose devices the kubelet did not hand out, though the pods that it took, and those that left just before, leave room
  for them. That is the node's own word: one workload is enough.
- ``ENOUGH`` pods that failed at once, of ``WITNESSES`` witnesses: namespaces, or workloads where the cluster has one tenant. All failures
  of one witness count for one, so that no tenant alone talks a node down. Failures of a workload that fails on other nodes too do not count,
  nor do those of a witness that fails on more nodes than may be judged: a hundred Jobs of one tenant, all wrong in the same way.

It ends when nothing failed for the quiet time, or when a pod that began after the failures ran well. A node that does it again within
``REMEMBERED_SECONDS`` has a quiet time of twice the length, up to ``LONGEST_QUIET_SECONDS``. What counted is looked at again for as long as the
judgement lasts: where the same workloads fail elsewhere later, it is taken back.

Doubt: where more than ``most_judged`` nodes would be judged by failures, the workloads are sick, and nobody is. Where the kubelets of more than half of
the nodes refuse, there is no better place to send pods to, and nobody is judged either: a node whose agent is dead would stand before them all.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from aggregator.scores.failed_pods import AT_ONCE_SECONDS, PodFailure
from aggregator.scores.placed import PlacedPod

WINDOW_SECONDS = 600.0
ENOUGH = 3
WITNESSES = 2
QUIET_SECONDS = 600.0
LONGEST_QUIET_SECONDS = 4_800.0
REMEMBERED_SECONDS = 3_600.0
"""After a judgement ended, in which the next one lasts longer."""

LEAST_DOUBTED = 5
DOUBTED_SHARE = 0.2
"""Of the nodes with devices."""
_TOO_MANY = "pods fail at once on {nodes} nodes: it is the workloads"
_ALL_REFUSE = "the kubelets of {nodes} nodes refuse pods: there is no better place to send them to"

KEPT_FAILURES = 8
"""Per node and witness, the newest: a flood of one witness hides nothing of another's."""
KEPT_WITNESSES = 32
"""Per node, those heard last."""

MAX_EXCUSED = 20_000
"""Pods that were rightly refused, the newest."""

SLICE_NODES = 20
"""Looked at in one piece: a millisecond."""

PodsOn = Callable[[str], Iterable[PlacedPod]]
"""The pods bound to a node that have not ended, and whose running well says something (``admitted.speaks_for``)."""


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """A node that eats pods."""

    reason: str
    """One clause for people."""
    pods: int
    """That failed there at once, as far as they count."""
    since_seconds: float
    """Unix time."""


class Notice(NamedTuple):
    """A judgement that began or ended, for the record."""

    node: str
    text: str


class _Spell(msgspec.Struct):
    """One judgement, while it lasts."""

    evidence: tuple[PodFailure, ...]
    since_seconds: float
    quiet_seconds: float

    @property
    def newest_seconds(self) -> float:
        return self.evidence[-1].at_seconds

    @property
    def by_refusal(self) -> bool:
        return _refused_enough(self.evidence)


class _Run(NamedTuple):
    """A pod that was seen running."""

    after_seconds: float
    """It began no earlier than this."""
    seen_seconds: float
    """It was seen running for the first time."""


class _Node(msgspec.Struct):
    failures: dict[str, list[PodFailure]] = {}
    """By witness, oldest first."""
    spell: _Spell | None = None
    runs: dict[str, _Run] = {}
    """By UID."""
    looked_seconds: float | None = None
    well_seconds: float = -math.inf
    """What failed before this was followed by a pod that ran well."""


class _Spread(msgspec.Struct):
    """Where else who failed on a node fails; refusals left out."""

    most: int
    """Nodes that may be judged by failures."""
    workloads: dict[str, set[str]] = {}
    """By name: the nodes."""
    witnesses: dict[str, str] = {}
    """By workload."""
    reaches: dict[str, set[str]] | None = None
    """By witness, the nodes where workloads of its fail that fail nowhere else; worked out when asked for."""
    doubted: int = 0
    """Nodes that are not judged since their witnesses fail all over the place."""

    def take(self, name: str, node: _Node) -> None:
        """Take in what failed on one node."""
        for failure in _all(node):
            if not failure.refused_devices:
                self.workloads.setdefault(failure.workload, set()).add(name)
                self.witnesses[failure.workload] = failure.witness

    def counting(self, failures: Iterable[PodFailure]) -> tuple[PodFailure, ...]:
        """Refusals, and failures of workloads that fail nowhere else; oldest first."""
        found = (
            each
            for each in failures
            if each.refused_devices or self.workloads.get(each.workload, set()) <= {each.node}
        )
        return tuple(sorted(found, key=lambda each: each.at_seconds))

    def believed(self, failures: Iterable[PodFailure]) -> tuple[PodFailure, ...]:
        """Of those that count, refusals and failures of witnesses that do not fail all over the place."""
        return tuple(
            each for each in failures if each.refused_devices or self.reach([each]) <= self.most
        )

    def reach(self, failures: Iterable[PodFailure]) -> int:
        """On how many nodes one of their witnesses fails, a gang that fails as a whole left out."""
        if self.reaches is None:
            self.reaches = {}
            for workload, nodes in self.workloads.items():
                if len(nodes) == 1:
                    self.reaches.setdefault(self.witnesses[workload], set()).update(nodes)
        return max((len(self.reaches.get(each.witness, ())) for each in failures), default=0)


def most_refusing(device_nodes: int) -> int:
    """So many nodes of a cluster may be judged by refusals at the same time."""
    return max(LEAST_DOUBTED, device_nodes // 2)


def most_judged(device_nodes: int) -> int:
    """So many nodes of a cluster may be judged by failures at the same time."""
    return max(LEAST_DOUBTED, math.floor(DOUBTED_SHARE * device_nodes))


class FailureBook:
    """Failures in, judged nodes out."""

    def __init__(self) -> None:
        self._nodes: dict[str, _Node] = {}
        self._ended: dict[str, tuple[float, float]] = {}
        """Node → when its last judgement ended, and the quiet time of that one."""
        self._notices: list[Notice] = []
        self._judged: Mapping[str, Judged] = {}
        self._now = -math.inf
        """Unix time of the newest call."""
        self._excused: dict[str, float] = {}
        """UID → when it was refused, of pods that were rightly refused: who touches such a pod later does not bring it up again."""
        self.doubted = 0
        """Nodes that would be judged if there were not so many of them; 0: there is no doubt."""

    @property
    def judged(self) -> Mapping[str, Judged]:
        """As of the last look, by node."""
        return self._judged

    def __len__(self) -> int:
        """Nodes to look at."""
        return len(self._nodes)

    def take(self, failure: PodFailure, now: float) -> bool:
        """One pod that failed; told twice it counts once.

        Args:
            failure: as its object says. A time to come is taken for now.
            now: Unix time.

        Returns:
            Whether it is new and recent.
        """
        self._follow_clock(now)
        if not now - failure.at_seconds < WINDOW_SECONDS or failure.uid in self._excused:
            return False
        if failure.at_seconds > now:
            failure = msgspec.structs.replace(failure, at_seconds=now)
        node = self._nodes.setdefault(failure.node, _Node())
        heard = node.failures.setdefault(failure.witness, [])
        if any(each.uid == failure.uid for each in heard):
            return False
        heard.append(failure)
        heard.sort(key=lambda each: each.at_seconds)
        del heard[:-KEPT_FAILURES]
        if len(node.failures) > KEPT_WITNESSES:
            oldest = min(node.failures, key=lambda each: node.failures[each][-1].at_seconds)
            del node.failures[oldest]
        return True

    def excuse(self, failure: PodFailure, now: float) -> None:
        """A pod that was rightly refused: it never counts, however often it is told of, and whatever has left the node since."""
        self._follow_clock(now)
        if now - failure.at_seconds < WINDOW_SECONDS:
            self._excused.setdefault(failure.uid, min(failure.at_seconds, now))
            if len(self._excused) > MAX_EXCUSED:
                del self._excused[next(iter(self._excused))]

    def look(self, now: float, device_nodes: int, pods_on: PodsOn) -> Mapping[str, Judged]:
        """Who is judged now; arguments as of ``looking``."""
        for _ in self.looking(now, device_nodes, pods_on):
            pass
        return self._judged

    def looking(self, now: float, device_nodes: int, pods_on: PodsOn) -> Iterator[None]:
        """Find out who is judged now, in slices of ``SLICE_NODES``: with thousands of nodes it takes half a second.

        Args:
            now: Unix time.
            device_nodes: how many nodes with devices there are.
            pods_on: those pods of a suspected node that speak for it when they run well.
        """
        self._follow_clock(now)
        spread = _Spread(most_judged(device_nodes))
        for number, (name, node) in enumerate(self._nodes.items()):
            _prune(node, now)
            spread.take(name, node)
            if number % SLICE_NODES == 0:
                yield
        self._ended = {
            name: each for name, each in self._ended.items() if now - each[0] <= REMEMBERED_SECONDS
        }
        self._excused = {uid: at for uid, at in self._excused.items() if now - at < WINDOW_SECONDS}
        for number, (name, node) in enumerate(self._nodes.items()):
            _watch_runs(node, pods_on(name), now)
            self._judge(name, node, spread, now)
            if number % SLICE_NODES == 0:
                yield
        self._doubt(spread, self._by(refusal=False), spread.most, _TOO_MANY)
        self._doubt(spread, self._by(refusal=True), most_refusing(device_nodes), _ALL_REFUSE)
        self._nodes = {
            name: node for name, node in self._nodes.items() if node.failures or node.spell
        }
        self._judged = {
            name: _told(node.spell) for name, node in self._nodes.items() if node.spell is not None
        }

    def _follow_clock(self, now: float) -> None:
        """Where the clock was set back, what was heard lies in the future, and would stay there: begin anew."""
        if now < self._now - WINDOW_SECONDS:
            for name, node in self._nodes.items():
                if node.spell is not None:
                    self._end(name, node, "the clock was set back")
            self._nodes, self._ended, self._excused = {}, {}, {}
            self._judged, self.doubted = {}, 0
        self._now = now

    def take_notices(self) -> Sequence[Notice]:
        """What began and ended since the last call."""
        taken, self._notices = self._notices, []
        return taken

    def _judge(self, name: str, node: _Node, spread: _Spread, now: float) -> None:
        fresh = spread.counting(f for f in _all(node) if f.at_seconds > node.well_seconds)
        if _holds(believed := spread.believed(fresh)):
            self._go_on(name, node, believed, now)
            return
        spell = node.spell
        if _holds(fresh):
            spread.doubted += 1
            if spell is not None:
                self._end(name, node, _TOO_MANY.format(nodes=spread.reach(fresh)))
            return
        if spell is None:
            return
        if not _holds(spread.believed(spread.counting(spell.evidence))):
            self._end(name, node, "the same workloads fail on other nodes too")
        elif node.well_seconds >= spell.newest_seconds:
            self._end(name, node, "a pod that began after the failures runs well", now)
        elif not -WINDOW_SECONDS < now - spell.newest_seconds < spell.quiet_seconds:
            minutes = spell.quiet_seconds / 60
            self._end(name, node, f"no pod failed at once for {minutes:.0f} minutes", now)

    def _go_on(self, name: str, node: _Node, evidence: tuple[PodFailure, ...], now: float) -> None:
        if node.spell is not None:
            node.spell.evidence = evidence
            return
        quiet = QUIET_SECONDS
        if ended := self._ended.get(name):
            quiet = min(2 * ended[1], LONGEST_QUIET_SECONDS)
        node.spell = _Spell(evidence, now, quiet)
        words = (
            f"{_told(node.spell).reason}; it ranks last until {quiet / 60:.0f} minutes are quiet"
        )
        self._notices.append(Notice(name, words))

    def _end(self, name: str, node: _Node, why: str, now: float | None = None) -> None:
        """End a judgement; without a time it was none, and is not remembered."""
        if node.spell is not None and now is not None:
            self._ended[name] = (now, node.spell.quiet_seconds)
        node.spell = None
        self._notices.append(Notice(name, f"judged by its agent alone again: {why}"))

    def _by(self, *, refusal: bool) -> dict[str, _Node]:
        return {
            name: node
            for name, node in self._nodes.items()
            if node.spell is not None and node.spell.by_refusal == refusal
        }

    def _doubt(self, spread: _Spread, doubtful: dict[str, _Node], most: int, why: str) -> None:
        """Judge none of these, where they are more than may be."""
        self.doubted = spread.doubted if why == _TOO_MANY else self.doubted
        if len(doubtful) <= most:
            return
        self.doubted += len(doubtful)
        self._notices = [each for each in self._notices if each.node not in doubtful]
        for name, node in doubtful.items():
            if name in self._judged:
                self._end(name, node, why.format(nodes=len(doubtful)))
            node.spell = None


def _prune(node: _Node, now: float) -> None:
    for witness, heard in list(node.failures.items()):
        kept = [each for each in heard if now - each.at_seconds < WINDOW_SECONDS]
        if kept:
            node.failures[witness] = kept
        else:
            del node.failures[witness]


def _all(node: _Node) -> Iterator[PodFailure]:
    for heard in node.failures.values():
        yield from heard


def _holds(evidence: Sequence[PodFailure]) -> bool:
    witnesses = {each.witness for each in evidence}
    return _refused_enough(evidence) or (len(evidence) >= ENOUGH and len(witnesses) >= WITNESSES)


def _refused_enough(evidence: Iterable[PodFailure]) -> bool:
    return sum(each.refused_devices > 0 for each in evidence) >= ENOUGH


def _told(spell: _Spell) -> Judged:
    evidence = spell.evidence
    workloads = len({each.workload for each in evidence})
    minutes = max(1, math.ceil((evidence[-1].at_seconds - evidence[0].at_seconds) / 60))
    newest = evidence[-1]
    what = "the kubelet refuses pods here" if spell.by_refusal else "pods fail here at once"
    return Judged(
        reason=f"{what}: {len(evidence)} of {workloads} workload{'s' * (workloads != 1)} in {minutes} min, "
        f"newest {newest.pod}: {newest.reason}",
        pods=len(evidence),
        since_seconds=spell.since_seconds,
    )


def _watch_runs(node: _Node, pods: Iterable[PlacedPod], now: float) -> None:
    """Take down who runs there, and whether one that began later than a failure has run well since.

    When a container began is not kept of all pods: a pod that is seen running for the first time began after the last look,
    and at the first look no earlier than it was made.
    """
    runs = {}
    for pod in pods:
        run = node.runs.get(pod.uid)
        if pod.phase != "running":
            if run is not None:  # its minute begins anew, its life does not
                runs[pod.uid] = run._replace(seen_seconds=now)
            continue
        after = pod.created_seconds if node.looked_seconds is None else node.looked_seconds
        runs[pod.uid] = run = run or _Run(after, now)
        if now - run.seen_seconds > AT_ONCE_SECONDS:
            node.well_seconds = max(node.well_seconds, run.after_seconds)
    node.runs, node.looked_seconds = runs, now
