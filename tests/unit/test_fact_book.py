"""Which nodes are looked at again: all about which anything changed, and no others."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from aggregator.fleet import Fleet
from aggregator.policy.model import ClusterNode, ClusterView, Incident
from aggregator.scores.inputs import FactBook, Silence, known_nodes, open_incidents
from contract import report_pb2 as pb
from contract.vocabulary import Phase
from tests.score_builders import NOW

SILENT_S = 30.0


def suspected(node: str) -> Incident:
    return Incident(
        name=f"i-{node}", node=node, pool="", phase=Phase.SUSPECT, findings=(), opened_seconds=NOW
    )


class World:
    """A fleet and a cluster, and a book that looks at what is due."""

    def __init__(self, nodes: int = 4) -> None:
        self.book, self.fleet = FactBook(), Fleet()
        self.now = NOW
        self.nodes = {f"n{n}": ClusterNode(name=f"n{n}", gpu_capacity=8) for n in range(nodes)}
        self.incidents: dict[str, Incident] = {}
        self.failing: dict[str, str] = {}
        for name in self.nodes:
            self.report(name)

    def report(self, name: str, use: float = 0.5) -> None:
        report = pb.NodeReport(node=name, gpus=[pb.Gpu(index=0, utilization_ratio=use)])
        self.fleet.apply(report, self.now)

    def same_again(self, name: str) -> None:
        """Its object is another one that says the same, as after every relist."""
        self.nodes[name] = msgspec.structs.replace(self.nodes[name])

    def look(self, *reported: str, all_of_them: bool = False) -> tuple[list[str], list[str]]:
        """Who was looked at, and of whom anything new came out."""
        view = ClusterView(synced=True, nodes=dict(self.nodes), incidents=dict(self.incidents))
        incidents, silence = open_incidents(view), Silence(self.now, SILENT_S)
        names = known_nodes(self.fleet, view)
        due = list(
            self.book.due(
                names,
                self.fleet,
                view,
                incidents,
                silence,
                reported=set(reported),
                failing=self.failing,
            )
        )
        news = [
            name
            for name in (names if all_of_them else due)
            if self.book.look(
                name,
                self.fleet,
                view,
                incidents.get(name),
                silence,
                readings=name in reported,
                failing=self.failing.get(name, ""),
            )
        ]
        return due, news


def test_at_first_all_then_none() -> None:
    world = World()
    everybody = sorted(world.nodes)
    assert world.look() == (everybody, everybody)
    assert world.look() == ([], [])


def test_a_report_waits_for_its_turn_and_is_not_lost_by_a_look_for_another_reason() -> None:
    world = World()
    world.look()
    world.now += 1
    world.report("n1", use=0.9)
    assert world.look() == ([], [])
    world.same_again("n1")
    assert world.look() == (["n1"], [])
    assert world.look() == ([], []), "an equal Node costs one look"
    assert world.look("n1") == (["n1"], ["n1"])


def test_failing_pods_an_incident_and_silence_are_looked_at_at_once() -> None:
    world = World()
    world.look()
    world.failing["n2"] = "pods fail here at once"
    assert world.look() == (["n2"], ["n2"])
    assert world.look() == ([], [])
    world.incidents["i"] = suspected("n0")
    assert world.look()[1] == ["n0"]
    world.now += SILENT_S + 1
    for name in ("n0", "n2", "n3"):
        world.report(name)
    assert world.look()[1] == ["n1"]


changes = st.lists(
    st.tuples(
        st.sampled_from(
            ["report", "same", "taint", "failing", "well", "incident", "wait", "leave"]
        ),
        st.sampled_from(["n0", "n1", "n2", "n3"]),
        st.booleans(),
    ),
    max_size=20,
)


@given(changes)
def test_who_is_not_due_has_nothing_new(story: list[tuple[str, str, bool]]) -> None:
    world = World()
    world.look()
    for number, (what, name, told) in enumerate(story):
        match what:
            case "report":
                world.report(name, use=number / 20)
            case "same" if name in world.nodes:
                world.same_again(name)
            case "taint" if name in world.nodes:
                world.nodes[name] = msgspec.structs.replace(
                    world.nodes[name], gpu_capacity=number + 1
                )
            case "failing":
                world.failing[name] = f"{number} pods"
            case "well":
                world.failing.pop(name, None)
            case "incident":
                world.incidents[name] = suspected(name)
            case "wait":
                world.now += 17
            case "leave":
                world.nodes.pop(name, None)
                world.fleet.forget(name)
        due, news = world.look(*([name] if told else []), all_of_them=True)
        assert set(news) <= set(due)
