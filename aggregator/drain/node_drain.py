"""The drain of one node: look, plan, ask, evict, look again, until all is gone or the deadline passed.

Everything follows from what is on the node now: a new process that is given the same order goes on with it.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from aggregator.cluster.workloads import WorkloadError
from aggregator.drain.asking import Readiness, Unit, readiness
from aggregator.drain.desk import Desk
from aggregator.drain.evictions import Remover, Report
from aggregator.drain.returns import MOST_RETURNS, Returns
from aggregator.drain.survey import Survey
from aggregator.policy.drain.plan import drain_plan
from aggregator.policy.drain.plan_model import DrainPlan, GangPlan, PodPlan, Verdict
from aggregator.policy.model import DrainOrder, DrainProgress, DrainState

BUSY_LOOK_SECONDS = 2.0
"""Between two looks while pods are going."""
IDLE_LOOK_SECONDS = 10.0
"""… and while nothing but waiting is done."""
MAX_NAMED = 3
MAX_TEXT = 500


class NodeDrain:
    """One per order. ``order`` may be replaced by a newer one of the same attempt while it runs."""

    def __init__(
        self,
        order: DrainOrder,
        *,
        desk: Desk,
        survey: Survey,
        evictions_per_second: float,
        on_change: Callable[[], None],
    ) -> None:
        self.order = order
        self.started = False
        self.progress: DrainProgress | None = None
        """``None`` until the first look."""
        self._desk = desk
        self._survey = survey
        self._rate = evictions_per_second
        self._on_change = on_change
        self._known: set[str] = set()
        """UIDs of all pods that ever had to go."""
        self._accepted: set[str] = set()
        self._returns = Returns()
        self._held_up: dict[str, str] = {}
        self._workers: dict[str, asyncio.Task[None]] = {}
        """By UID or gang key."""
        self._moved_by: dict[str, frozenset[str]] = {}
        """By key of a worker: the UIDs of the pods that it is about."""
        self._left: tuple[PodPlan, ...] = ()
        self._remover = Remover(
            desk,
            node=order.node,
            deadline=lambda: self.order.deadline_seconds,
            reason=lambda: self.order.reason,
            report=Report(accepted=self._accept, held_up=self._hold_up),
        )

    async def run(self) -> None:
        """Drain; returns once there is nothing more to do for this order."""
        async with asyncio.TaskGroup() as tasks:
            try:
                while not await self._round(tasks):
                    remaining = self.order.deadline_seconds - self._desk.wall()
                    pause = BUSY_LOOK_SECONDS if self._busy() else IDLE_LOOK_SECONDS
                    await asyncio.sleep(max(0.0, min(pause, remaining)))
            finally:
                for worker in self._workers.values():
                    worker.cancel()

    async def _round(self, tasks: asyncio.TaskGroup) -> bool:
        """One look and what follows from it; True: the drain is over."""
        late = self._desk.wall() >= self.order.deadline_seconds
        try:
            plan = await self._plan()
        except WorkloadError as error:
            # Before the first look nothing is known, and saying nothing is what that is called.
            if late or self.progress is not None:
                self._say(late, f"cannot look at the node: {error}")
            return late
        going = plan.going
        self._known |= {each.pod.uid for each in going}
        self._returns.saw(going)
        self._left = tuple(each for each in going if not self._counts_as_gone(each))
        self._tidy()
        self._stop_what_may_not_go(plan)
        if not self._left:
            self._tell(DrainState.DONE, "")
            return True
        if late:
            self._say(late, f"the deadline passed; left: {_names(self._left)}; {self._summary()}")
            return True
        if plan.refused:
            more = len(plan.refused) - 1
            text = plan.refused[0].reason + (f" (and {more} more)" if more else "")
            self._tell(DrainState.STUCK, f"nothing more is evicted: {text}")
            return False
        await self._act(tasks, plan)
        return False

    async def _plan(self) -> DrainPlan:
        facts = await self._survey.facts()
        return drain_plan(
            facts, self._desk.rules, now=self._desk.wall(), evictions_per_second=self._rate
        )

    async def _act(self, tasks: asyncio.TaskGroup, plan: DrainPlan) -> None:
        told: list[Readiness] = []
        only_left = True
        for unit, pods, gang in self._units(plan):
            state = await readiness(self._desk, unit, self.order.attempt)
            only_left = only_left and state.left
            if not state.ready:
                told.append(state)
            elif gang is not None and gang.workload:
                self._start(
                    tasks, f"{gang.gang.key} {min(each.pod.uid for each in pods)}", gang, pods
                )
            else:
                for each in pods:
                    self._start(tasks, each.pod.uid, None, [each])
        texts = [each.text for each in told]
        state_now = (
            DrainState.STUCK if told and only_left and not self._busy() else DrainState.RUNNING
        )
        self._tell(state_now, "; ".join([*texts, *filter(None, [self._summary()])]))

    def _units(self, plan: DrainPlan) -> Iterator[tuple[Unit, list[PodPlan], GangPlan | None]]:
        """What is still to be asked or evicted, gangs as wholes."""
        left = [
            each
            for each in self._left
            if each.verdict is not Verdict.LEAVING and each.pod.uid not in self._accepted
        ]
        for each in left:
            if self._returns.too_often(each):
                self._hold_up(each.pod.uid, f"of {each.job} came back {MOST_RETURNS} times")
        left = [each for each in left if not self._returns.too_often(each)]
        for key, gang in plan.gangs.items():
            if pods := [each for each in left if each.gang == key]:
                unit = Unit(
                    gang.gang.title,
                    gang.verdict,
                    gang.deadline_seconds,
                    gang.then == "leave",
                    gang.members,
                )
                yield unit, pods, gang
        for each in left:
            if each.gang not in plan.gangs:
                unit = Unit(
                    f"{each.job} ({each.pod.path})",
                    each.verdict,
                    each.deadline_seconds,
                    each.then == "leave",
                    (each.pod,),
                )
                yield unit, [each], None

    def _start(
        self, tasks: asyncio.TaskGroup, key: str, gang: GangPlan | None, pods: list[PodPlan]
    ) -> None:
        if key in self._workers:
            return
        work = (
            self._remover.pod(pods[0])
            if gang is None
            else self._remover.gang(gang, [each.pod for each in pods])
        )
        self._workers[key] = tasks.create_task(work, name=f"evict-{key}")
        self._moved_by[key] = frozenset(each.pod.uid for each in pods)

    def _stop_what_may_not_go(self, plan: DrainPlan) -> None:
        """What a look forbids holds for pods that are still being tried, too; those that go already are let go."""
        free = {
            each.pod.uid
            for each in plan.going
            if not plan.refused or each.verdict is Verdict.LEAVING
        }
        forbidden = {each.pod.uid for each in plan.pods} - free
        for key, worker in self._workers.items():
            if self._moved_by[key] & forbidden and not self._moved_by[key] & free:
                worker.cancel()

    def _counts_as_gone(self, each: PodPlan) -> bool:
        return self._desk.workloads.dry_run and each.pod.uid in self._accepted

    def _busy(self) -> bool:
        leaving = any(
            each.verdict is Verdict.LEAVING or each.pod.uid in self._accepted for each in self._left
        )
        return leaving or any(key not in self._held_up for key in self._workers)

    def _tidy(self) -> None:
        """Forget workers that returned and pods that are gone."""
        here = {each.pod.uid for each in self._left}
        self._workers = {key: task for key, task in self._workers.items() if not task.done()}
        self._moved_by = {key: uids for key, uids in self._moved_by.items() if key in self._workers}
        self._held_up = {uid: text for uid, text in self._held_up.items() if uid in here}

    def _accept(self, uid: str) -> None:
        self._accepted.add(uid)
        self._returns.evicted(uid)
        self._held_up.pop(uid, None)

    def _hold_up(self, uid: str, text: str) -> None:
        self._held_up[uid] = text

    def _summary(self) -> str:
        """What holds up those that are left, the same reasons counted together."""
        counted = Counter(self._held_up.values())
        parts = [f"{number} {text}" for text, number in counted.most_common()]
        going = sum(
            each.verdict is Verdict.LEAVING or each.pod.uid in self._accepted for each in self._left
        )
        return "; ".join([*parts, f"{going} being deleted"] if going else parts)

    def _say(self, late: bool, text: str) -> None:
        self._tell(DrainState.STUCK if late else DrainState.RUNNING, text)

    def _tell(self, state: DrainState, text: str) -> None:
        now = DrainProgress(
            attempt=self.order.attempt,
            state=state,
            pods_total=len(self._known),
            pods_gone=len(self._known) - len(self._left),
            text=" ".join(text.split())[:MAX_TEXT],
        )
        if now != self.progress:
            self.progress = now
            self._on_change()


def _names(pods: Iterable[PodPlan]) -> str:
    paths = [each.pod.path for each in pods]
    more = len(paths) - MAX_NAMED
    return ", ".join(paths[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
