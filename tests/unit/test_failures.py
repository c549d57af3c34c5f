"""Nodes that eat pods: who is judged, for how long, and who cannot talk a node down."""

from collections.abc import Callable, Iterable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.scores.admitted import room_beside_admitted, speaks_for
from aggregator.scores.failed_pods import AT_ONCE_SECONDS, PodFailure
from aggregator.scores.failures import (
    ENOUGH,
    KEPT_FAILURES,
    KEPT_WITNESSES,
    LONGEST_QUIET_SECONDS,
    MAX_EXCUSED,
    QUIET_SECONDS,
    WINDOW_SECONDS,
    FailureBook,
    Judged,
    most_judged,
)
from aggregator.scores.placed import PlacedPod, PodPhase
from aggregator.scores.requests import Ask, Passed
from aggregator.scores.values import PodShape
from tests.pod_failures import NOW, failure
from tests.score_builders import room

MINUTE = 60.0
NODES = 100
EIGHT = room("n1", [1000] * 8)


def placed(
    name: str, *, created: float = NOW, phase: PodPhase = "running", gpus: int = 1
) -> PlacedPod:
    ask = PodShape(gpu_count=gpus, gpu_milli=1000)
    return PlacedPod(
        namespace="team-c",
        name=name,
        uid=name,
        node="n1",
        ask=ask,
        phase=phase,
        created_seconds=created,
    )


class World:
    """One book, one clock, and the pods of each node."""

    def __init__(self) -> None:
        self.book = FailureBook()
        self.now = NOW
        self.pods: dict[str, list[PlacedPod]] = {}

    def fail(self, *failures: PodFailure) -> None:
        for each in failures:
            self.book.take(each, self.now)

    def look(self, nodes: int = NODES) -> Mapping[str, Judged]:
        return self.book.look(self.now, nodes, self.speaking)

    def speaking(self, name: str) -> list[PlacedPod]:
        return [each for each in self.pods.get(name, []) if speaks_for(each, EIGHT)]

    def after(self, seconds: float) -> Mapping[str, Judged]:
        self.now += seconds
        return self.look()

    def told(self) -> list[str]:
        return [f"{each.node}: {each.text}" for each in self.book.take_notices()]


def eaten(at: float = NOW, node: str = "n1", first: int = 0) -> list[PodFailure]:
    """Three pods of two jobs of two teams."""
    return [
        failure(first, node=node, at_seconds=at - 120),
        failure(first + 1, node=node, at_seconds=at - 60),
        failure(first, team="team-b", job="tune", node=node, at_seconds=at),
    ]


class TestWhoIsJudged:
    def test_three_pods_of_two_tenants_within_ten_minutes(self) -> None:
        world = World()
        *first, last = eaten()
        world.fail(*first)
        assert not world.look()
        world.fail(last)
        judged = world.look()["n1"]
        assert judged.reason == (
            "pods fail here at once: 3 of 2 workloads in 2 min, newest team-b/tune-0: Error exit code 128"
        )
        assert (judged.pods, judged.since_seconds) == (3, NOW)

    def test_not_when_they_are_spread_over_more_than_ten_minutes(self) -> None:
        world = World()
        for number, each in enumerate(eaten()):
            world.now = NOW + number * (WINDOW_SECONDS / 2 + 1)
            world.fail(failure(number, node=each.node, team=each.witness, at_seconds=world.now))
            assert not world.look()

    def test_not_by_one_tenant_however_many_workloads_it_has(self) -> None:
        world = World()
        world.fail(*(failure(0, job=f"job-{each}") for each in range(50)))
        assert not world.look()

    def test_by_two_workloads_where_those_are_heard(self) -> None:
        world = World()
        jobs = ["a", "a", "b"]
        world.fail(*(failure(n, job=job, witness=job) for n, job in enumerate(jobs)))
        assert "n1" in world.look()

    def test_by_three_refusals_of_the_kubelet_of_one_workload(self) -> None:
        world = World()
        world.fail(*(failure(each, refused_devices=1) for each in range(ENOUGH - 1)))
        assert not world.look()
        world.fail(failure(9, refused_devices=1))
        said = world.look()["n1"].reason
        assert said.startswith("the kubelet refuses pods here: 3 of 1 workload in 1 min")

    def test_not_by_workloads_that_fail_on_other_nodes_too(self) -> None:
        world = World()
        world.fail(*eaten(), failure(7, node="n2"))
        assert not world.look()

    def test_not_by_a_tenant_whose_many_workloads_fail_all_over_the_place(self) -> None:
        """A hundred Jobs that are wrong in the same way, and one of somebody else's."""
        world = World()
        most = most_judged(NODES)
        for node in range(most + 1):
            world.fail(*(failure(n, job=f"{node}-{n}", node=f"n{node}") for n in range(2)))
        world.fail(failure(0, team="team-b"))
        assert not world.look()
        assert world.book.doubted == 1
        world = World()
        for node in range(most):
            world.fail(*(failure(n, job=f"{node}-{n}", node=f"n{node}") for n in range(2)))
        world.fail(failure(0, team="team-b"))
        world.fail(*(failure(node, job="gang", node=f"n{node}") for node in range(NODES)))
        assert list(world.look()) == ["n1"]

    def test_the_same_pod_told_twice_counts_once(self) -> None:
        world = World()
        first, _, last = eaten()
        world.fail(first, first, last, last)
        assert not world.look()

    def test_not_where_a_pod_has_run_well_between(self) -> None:
        world = World()
        first, second, _ = eaten()
        world.fail(first, second)
        world.look()
        world.pods["n1"] = [placed("well")]
        world.after(5)
        world.after(AT_ONCE_SECONDS + 5)
        world.fail(failure(0, team="team-b", at_seconds=world.now))
        assert not world.look()

    def test_what_failed_before_our_start_counts_by_its_own_time(self) -> None:
        world = World()
        world.fail(*eaten(at=NOW - 5 * MINUTE))
        assert "n1" in world.look()
        late = World()
        late.fail(*eaten(at=NOW - WINDOW_SECONDS - 1))
        assert not late.book

    def test_a_time_to_come_is_now(self) -> None:
        world = World()
        world.fail(*(failure(each, refused_devices=1, at_seconds=NOW + 9_000) for each in range(3)))
        assert "n1" in world.look()
        assert not world.after(QUIET_SECONDS + 1)


class TestHowLong:
    def test_until_it_was_quiet_for_ten_minutes(self) -> None:
        world = World()
        world.fail(*eaten())
        world.look()
        assert "n1" in world.after(QUIET_SECONDS - 1)
        assert not world.after(1)
        began, ended = world.told()
        assert began.startswith("n1: pods fail here at once: 3 of 2 workloads")
        assert began.endswith("it ranks last until 10 minutes are quiet")
        assert ended == (
            "n1: judged by its agent alone again: no pod failed at once for 10 minutes"
        )
        assert not world.book, "nothing is kept of it but how long the next time is"

    def test_twice_as_long_when_it_does_it_again_and_not_for_ever(self) -> None:
        world = World()
        lengths = []
        for again in range(6):
            world.fail(*eaten(at=world.now, first=10 * again))
            assert "n1" in world.look()
            began = world.now
            while world.after(MINUTE):
                pass
            lengths.append((world.now - began) / MINUTE)
        assert lengths == [10, 20, 40, 80, 80, 80]
        assert LONGEST_QUIET_SECONDS == 80 * MINUTE

    def test_a_good_hour_is_enough_to_begin_anew(self) -> None:
        world = World()
        world.fail(*eaten())
        world.look()
        world.after(QUIET_SECONDS)
        world.now += 2 * 3_600
        world.fail(*eaten(at=world.now, first=5))
        world.look()
        assert not world.after(QUIET_SECONDS)

    def test_longer_when_pods_go_on_failing_there(self) -> None:
        world = World()
        world.fail(*eaten())
        world.look()
        world.now += 5 * MINUTE
        world.fail(failure(9, at_seconds=world.now))
        assert "n1" in world.look()
        assert "n1" in world.after(QUIET_SECONDS - 1)
        assert not world.after(1)

    def test_until_a_pod_that_began_after_the_failures_has_run_well(self) -> None:
        world = World()
        world.pods["n1"] = [placed("before", created=NOW - 999)]
        world.fail(*eaten())
        assert "n1" in world.look()
        assert "n1" in world.after(3 * MINUTE), "it ran before"
        world.pods["n1"].append(placed("waits", phase="pending"))
        world.pods["n1"].append(placed("cpu-only", gpus=0))
        assert "n1" in world.after(3 * MINUTE)
        world.pods["n1"].append(placed("after"))
        assert "n1" in world.after(5)
        assert "n1" in world.after(AT_ONCE_SECONDS)
        assert not world.after(5)
        assert world.told()[-1].endswith("a pod that began after the failures runs well")

    def test_not_until_one_that_crashes_between_runs_for_a_minute_on_end(self) -> None:
        world = World()
        world.fail(*eaten())
        world.look()
        for _ in range(8):
            world.pods["n1"] = [placed("loops")]
            world.after(AT_ONCE_SECONDS / 2)
            world.pods["n1"] = [placed("loops", phase="admitted")]
            assert "n1" in world.after(5)

    def test_a_restart_makes_a_pod_that_ran_before_no_later_one(self) -> None:
        world = World()
        world.pods["n1"] = [placed("before", created=NOW - 999)]
        world.fail(*eaten())
        world.look()
        world.pods["n1"] = [placed("before", created=NOW - 999, phase="admitted")]
        world.after(5)
        world.pods["n1"] = [placed("before", created=NOW - 999)]
        world.after(5)
        assert "n1" in world.after(3 * MINUTE)

    def test_a_clock_that_is_set_back_ends_it_and_the_next_one_is_judged_as_ever(self) -> None:
        world = World()
        world.fail(*eaten())
        world.look()
        world.pods["n1"] = [placed("well")]
        world.after(5)
        world.after(AT_ONCE_SECONDS + 5)
        world.now += 3 * MINUTE
        world.fail(*eaten(at=world.now, first=5))
        assert "n1" in world.look()
        world.now -= 24 * 3_600
        assert not world.look()
        assert world.told()[-1].endswith("the clock was set back")
        world.fail(*eaten(at=world.now, first=10))
        assert "n1" in world.look()

    def test_a_pod_that_was_made_after_them_is_one_even_at_the_first_look(self) -> None:
        world = World()
        world.fail(*eaten(at=NOW - 5 * MINUTE))
        world.pods["n1"] = [placed("after", created=NOW - 2 * MINUTE)]
        assert "n1" in world.look()
        assert not world.after(AT_ONCE_SECONDS + 1)

    def test_it_is_taken_back_when_the_same_workloads_fail_elsewhere(self) -> None:
        world = World()
        world.fail(*eaten())
        assert "n1" in world.look()
        world.now += MINUTE
        world.fail(failure(9, node="n2", at_seconds=world.now))
        assert not world.look()
        assert "other nodes too" in world.told()[-1]
        world.now += MINUTE
        world.fail(
            *(failure(each, refused_devices=1, at_seconds=world.now) for each in range(50, 53))
        )
        world.look()
        assert not world.after(QUIET_SECONDS), "what was taken back makes the next time no longer"


class TestDoubt:
    def apart(self, nodes: int) -> list[PodFailure]:
        """So many nodes that look so, each by workloads of its own."""
        return [
            failure(number, team=team, job=f"{team}-{node}", node=f"n{node}")
            for node in range(nodes)
            for number, team in enumerate(["team-a", "team-a", "team-b"])
        ]

    @pytest.mark.parametrize(
        ("device_nodes", "most"), [(0, 5), (8, 5), (25, 5), (30, 6), (1_000, 200)]
    )
    def test_where_too_many_look_so_nobody_is_judged(self, device_nodes: int, most: int) -> None:
        world = World()
        assert most_judged(device_nodes) == most
        world.fail(*self.apart(most))
        assert len(world.look(device_nodes)) == most
        world.fail(*self.apart(most + 1))
        assert not world.look(device_nodes)
        assert world.book.doubted == most + 1

    def test_it_is_told_of_nodes_that_were_judged_and_of_no_others(self) -> None:
        world = World()
        world.fail(*self.apart(5))
        world.look(8)
        world.told()
        world.fail(*self.apart(6))
        world.look(8)
        told = world.told()
        assert sorted(each[:2] for each in told) == ["n0", "n1", "n2", "n3", "n4"]
        assert all(each.endswith("on 6 nodes: it is the workloads") for each in told)
        world.now += 5
        world.look(8)
        assert world.told() == []

    def test_the_kubelets_word_is_not_doubted(self) -> None:
        world = World()
        world.fail(
            *(failure(each, node=f"n{n}", refused_devices=1) for n in range(9) for each in range(3))
        )
        world.fail(
            *(each for each in self.apart(40) if each.node not in {f"n{n}" for n in range(9)})
        )
        assert len(world.look(18)) == 9

    def test_where_most_kubelets_refuse_nobody_is_judged_for_it(self) -> None:
        world = World()
        world.fail(
            *(failure(each, node=f"n{n}", refused_devices=1) for n in range(9) for each in range(3))
        )
        assert len(world.look(18)) == 9
        assert not world.look(17)
        assert world.book.doubted == 9


class TestRoomBesideAdmitted:
    def test_only_what_the_kubelet_took_takes_room(self) -> None:
        eight = room("n1", [1000] * 8)
        assert (
            room_beside_admitted(
                eight,
                [placed("a", gpus=3), placed("b", phase="admitted"), placed("c", phase="pending")],
            )
            == 4
        )
        assert (
            room_beside_admitted(room("n1", [1000] * 4, sick=(True, False, False, False)), []) == 3
        )
        assert room_beside_admitted(None, []) == 0


@pytest.mark.parametrize(
    ("ask", "speaks"),
    [
        (PodShape(gpu_count=1, gpu_milli=1000, resource="nvidia.com/gpu"), True),
        (PodShape(gpu_count=1, gpu_milli=500), True),
        (PodShape(), False),
        (PodShape(gpu_count=1, gpu_milli=1000, resource="amd.com/gpu"), False),
        (Passed(reason="asks for devices by resource claims"), False),
        (Passed(reason="asks for 3 and 50 % of each", gpu_count=3), True),
    ],
)
def test_only_who_holds_a_device_of_the_node_says_that_it_is_well(ask: Ask, speaks: bool) -> None:
    pod = PlacedPod(namespace="team-a", name="x", uid="x", node="n1", ask=ask, phase="running")
    assert speaks_for(pod, EIGHT) == speaks


def test_where_no_devices_are_listed_they_are_claimed_and_who_claims_speaks() -> None:
    claims = Passed(reason="asks for devices by resource claims")
    pod = PlacedPod(namespace="team-a", name="x", uid="x", node="n1", ask=claims, phase="running")
    assert speaks_for(pod, room("n1", [], resource=""))
    assert speaks_for(pod, None)


def test_who_was_rightly_refused_never_counts_however_often_it_is_told_of() -> None:
    world = World()
    refused = [failure(each, refused_devices=1) for each in range(9)]
    for each in refused:
        world.book.excuse(each, world.now)
    world.fail(*refused)
    assert not world.look()
    for number in range(MAX_EXCUSED + 10):
        world.book.excuse(failure(number + 100, refused_devices=1), world.now)
    assert len(world.book._excused) == MAX_EXCUSED


names = st.sampled_from(["a", "b", "c"])
failures_of = st.builds(
    lambda node, team, job, number, at, refused: failure(
        number,
        node=node,
        team=team,
        job=job,
        at_seconds=NOW + at,
        refused_devices=refused,
    ),
    node=st.sampled_from([f"n{each}" for each in range(8)]),
    team=names,
    job=st.sampled_from([f"job-{each}" for each in range(6)]),
    number=st.integers(0, 99),
    at=st.integers(-900, 900),
    refused=st.just(0),
)
Steps = list[tuple[int, list[PodFailure]]]
steps = st.lists(st.tuples(st.integers(0, 400), st.lists(failures_of, max_size=12)), max_size=12)


def play(story: Steps, of: Callable[[PodFailure], bool] = lambda _: True) -> Iterable[World]:
    """The world after each step; failures come when they happen, or late."""
    world = World()
    for wait, failures in story:
        world.now += wait
        world.fail(*filter(of, failures))
        world.look(8)
        yield world


@settings(max_examples=200)
@given(steps)
def test_no_tenant_alone_talks_a_node_down(story: Steps) -> None:
    for team in "abc":
        for world in play(story, lambda each, team=team: each.witness == team):  # type: ignore[misc]
            assert not world.book.judged


@settings(max_examples=200)
@given(steps)
def test_a_node_is_judged_only_where_two_tenants_failed_and_never_too_many_are(
    story: Steps,
) -> None:
    failed: dict[str, set[str]] = {}
    for world, (_, failures) in zip(play(story), story, strict=False):
        for each in failures:
            failed.setdefault(each.node, set()).add(each.witness)
        assert len(world.book.judged) <= most_judged(8)
        for node, judged in world.book.judged.items():
            assert len(failed[node]) >= 2
            assert judged.pods >= ENOUGH


@settings(max_examples=50)
@given(steps, st.integers(0, 2_000))
def test_everything_ends_by_itself_and_nothing_is_kept(story: Steps, more: int) -> None:
    world = [World(), *play(story)][-1]
    world.after(1_000 + LONGEST_QUIET_SECONDS + more)
    world.after(0)
    assert not world.book.judged
    assert not world.book


@given(st.lists(failures_of, max_size=30), st.randoms(use_true_random=False))
def test_the_order_in_which_failures_are_told_does_not_matter(
    told: list[PodFailure], random: object
) -> None:
    one, other = World(), World()
    one.fail(*told)
    shuffled = list({each.uid: each for each in reversed(told)}.values())
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    other.fail(*shuffled)
    assert one.look().keys() == other.look().keys()


asks = st.lists(st.tuples(st.booleans(), st.integers(1, 12), st.booleans()), max_size=40)


@given(asks)
def test_a_tenant_that_binds_pods_past_the_scheduler_is_refused_and_talks_nobody_down(
    story: list[tuple[bool, int, bool]],
) -> None:
    """A well kubelet admits what fits and refuses the rest; pods hang before they run, or run."""
    world = World()
    eight = room("n1", [1000] * 8)
    there: list[PlacedPod] = []
    for number, (looks, count, runs) in enumerate(story):
        if sum(each.ask.gpu_count for each in there) + count <= 8:
            phase: PodPhase = "running" if runs else "admitted"
            there.append(placed(f"p{number}", phase=phase, gpus=count))
        elif count <= room_beside_admitted(eight, there):
            world.fail(failure(number, refused_devices=count))
        if looks:
            world.look()
    assert not world.look()


def test_a_flood_of_one_tenant_hides_nobody_and_stays_small() -> None:
    world = World()
    world.fail(*eaten())
    flood = (failure(each, job=f"job-{each}", at_seconds=NOW) for each in range(10_000))
    world.fail(*flood)
    assert "n1" in world.look()
    (node,) = world.book._nodes.values()
    assert sum(map(len, node.failures.values())) <= KEPT_FAILURES * 2
    world.fail(*(failure(0, team=f"team-{each}") for each in range(10_000)))
    assert len(node.failures) <= KEPT_WITNESSES
