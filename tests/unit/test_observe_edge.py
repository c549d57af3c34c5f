"""Without a cluster: the same intents make a picture in memory, and never more than that."""

import msgspec
import pytest

from aggregator.cluster import EdgeError
from aggregator.cluster.observe import MAX_CLOSED_INCIDENTS, ObserveEdge
from aggregator.cluster.workloads import WorkloadError, Workloads
from aggregator.policy.drain.pods import Pod
from aggregator.policy.model import (
    ClusterView,
    Condition,
    Cordon,
    ForgetIncident,
    Intent,
    Notify,
    RecordEvent,
    RemoveTaint,
    SaveIncident,
    SetCondition,
    SetTaint,
    Taint,
    Uncordon,
)
from contract.vocabulary import Phase
from tests.policy_builders import incident

TAINT = Taint("xid-79", "NoSchedule")
GOOD = Condition("True", "AllChecksPass", "all checks pass")
SET = SetTaint(node="n", taint=TAINT, reason="r")
REMOVE = RemoveTaint(node="n", reason="r")
STATE = SetCondition(node="n", type="GPUHealthy", condition=GOOD, reason="r")
TELL = RecordEvent(node="n", type="Warning", event_reason="Quarantined", reason="r")
SAVE = SaveIncident(incident=incident("n"), reason="r")
CORDON = Cordon(node="n", incident="i", reason="r")
UNCORDON = Uncordon(node="n", reason="r")
NOTIFY = Notify(incident=incident("n", Phase.NEEDS_HUMAN), reason="r")
FORGET = ForgetIncident(node="n", name=SAVE.incident.name, reason="r")


@pytest.fixture
def edge() -> ObserveEdge:
    edge = ObserveEdge()
    edge.saw("n", pool="H100", gpu_capacity=8)
    return edge


async def view_after(edge: ObserveEdge, *intents: Intent) -> ClusterView:
    for intent in intents:
        await edge.apply(intent)
    return edge.view()


def test_it_says_what_it_is() -> None:
    edge = ObserveEdge()
    assert (edge.mode, edge.leading, edge.knows("any")) == ("observe", True, True)
    assert edge.view() == ClusterView(synced=True, nodes={}, incidents={})


async def test_the_view_shows_an_intent_when_apply_returns(edge: ObserveEdge) -> None:
    assert (await view_after(edge, SET)).nodes["n"].taint == TAINT
    assert (await view_after(edge, REMOVE)).nodes["n"].taint is None
    assert (await view_after(edge, STATE)).nodes["n"].conditions == {"GPUHealthy": GOOD}
    assert (await view_after(edge, SAVE)).incidents == {SAVE.incident.name: SAVE.incident}
    before = edge.view()
    assert await view_after(edge, TELL) == before


async def test_taint_and_cordon_are_signed_as_in_a_real_cluster(edge: ObserveEdge) -> None:
    signed = msgspec.structs.replace(SET, incident="i")
    node = (await view_after(edge, signed, CORDON)).nodes["n"]
    assert (node.quarantined_by, node.unschedulable, node.cordoned_by) == ("i", True, "i")
    node = (await view_after(edge, REMOVE, UNCORDON)).nodes["n"]
    assert (node.taint, node.quarantined_by, node.unschedulable, node.cordoned_by) == (
        None,
        "",
        False,
        "",
    )


async def test_only_a_closed_incident_is_forgotten(edge: ObserveEdge) -> None:
    await view_after(edge, SAVE)
    with pytest.raises(EdgeError, match="only closed ones"):
        await edge.apply(FORGET)
    closed = msgspec.structs.replace(SAVE.incident, phase=Phase.CLOSED)
    assert (
        await view_after(edge, SaveIncident(incident=closed, reason="r"), FORGET)
    ).incidents == {}


async def test_the_webhook_alone_is_really_told(edge: ObserveEdge) -> None:
    with pytest.raises(EdgeError, match="no webhook_url is set"):
        await edge.apply(NOTIFY)
    told: list[Notify] = []

    async def notifier(notify: Notify) -> None:
        told.append(notify)

    other = ObserveEdge(notifier=notifier)
    other.saw("n", pool="H100", gpu_capacity=8)
    await other.apply(NOTIFY)
    assert told == [NOTIFY]


async def test_without_a_cluster_there_are_no_pods_and_nothing_forbids_anything(
    edge: ObserveEdge,
) -> None:
    edge.permit()
    workloads: Workloads = edge.workloads
    pod = Pod(namespace="a", name="p", uid="u")
    assert await workloads.pods_on("n") == ()
    assert await workloads.pods_of("a", {"b": "c"}) == ()
    assert await workloads.pod("a", "p") is None
    assert await workloads.disruption_budgets("a") == ()
    assert await workloads.get("/api/v1/nodes/n") is None
    assert await workloads.evict(pod, reason="r") is False
    assert workloads.dry_run
    for write in (workloads.annotate(pod, {}), workloads.deactivate("/apis/x", reason="r")):
        with pytest.raises(WorkloadError, match="there is no cluster"):
            await write


async def test_a_view_once_taken_does_not_change(edge: ObserveEdge) -> None:
    first = edge.view()
    assert edge.view() is first
    copy = ClusterView(synced=True, nodes=dict(first.nodes), incidents=dict(first.incidents))
    edge.saw("other", pool="H100", gpu_capacity=8)
    await view_after(edge, SET, STATE, SAVE)
    assert first == copy
    assert set(edge.view().nodes) == {"n", "other"}


async def test_conditions_of_other_types_and_the_taint_stay(edge: ObserveEdge) -> None:
    other = msgspec.structs.replace(STATE, type="HostHealthy")
    node = (await view_after(edge, SET, STATE, other)).nodes["n"]
    assert (node.taint, set(node.conditions)) == (TAINT, {"GPUHealthy", "HostHealthy"})


@pytest.mark.parametrize(
    "intent",
    [SET, REMOVE, STATE, TELL, SAVE, CORDON, UNCORDON, NOTIFY, FORGET],
    ids=lambda each: type(each),
)
async def test_a_node_that_never_reported_cannot_be_written(intent: Intent) -> None:
    edge = ObserveEdge()
    with pytest.raises(EdgeError, match="no node 'n'"):
        await edge.apply(intent)
    assert edge.view() == ClusterView(synced=True, nodes={}, incidents={})


async def test_new_hardware_moves_a_node_and_keeps_what_was_decided(edge: ObserveEdge) -> None:
    await view_after(edge, SET)
    edge.saw("n", pool="H200", gpu_capacity=4)
    node = edge.view().nodes["n"]
    assert (node.pool, node.gpu_capacity, node.taint) == ("H200", 4, TAINT)


def test_gpus_that_cannot_be_read_now_do_not_move_a_node_to_another_pool(edge: ObserveEdge) -> None:
    """A stuck driver on many nodes must not thin their pool out and fill another one's budget."""
    edge.saw("n", pool="default", gpu_capacity=0)
    assert (edge.view().nodes["n"].pool, edge.view().nodes["n"].gpu_capacity) == ("H100", 8)


async def test_only_closed_incidents_are_trimmed_the_oldest_first(edge: ObserveEdge) -> None:
    await view_after(edge, SAVE)
    for number in range(MAX_CLOSED_INCIDENTS + 20):
        closed = incident("n", Phase.CLOSED, name=f"i{number}", closed_seconds=float(number))
        await edge.apply(SaveIncident(incident=closed, reason="r"))
    kept = edge.view().incidents
    assert len(kept) == MAX_CLOSED_INCIDENTS + 1
    assert SAVE.incident.name in kept
    assert "i19" not in kept
    assert "i20" in kept
