"""What the aggregator's page tells of what is done, and of what is not."""

from aggregator.exporter import render as render_aggregator
from aggregator.fleet import Fleet
from aggregator.journal import Journal
from aggregator.policy.model import Attempt, AttemptOutcome, ClusterView, Incident
from aggregator.stats import AggregatorStats
from contract.vocabulary import Phase
from tests.unit.test_exporters import NOW, value


class TestWhatIsDoneAndDeclined:
    def page(self, *, stopped: str = "", leader: bool = True) -> bytes:
        stats = AggregatorStats()
        stats.leader = leader
        stats.declined.add(("reboot-node", "approval"))
        stats.declined.add(("quarantine", "breaker"), 3)
        tried = Incident(
            name="i",
            node="n",
            pool="p",
            phase=Phase.REPAIRING,
            findings=(),
            opened_seconds=NOW,
            attempts=(
                Attempt(id="i-1", rung="drain", started_seconds=NOW, deadline_seconds=NOW),
                Attempt(
                    id="i-2",
                    rung="drain",
                    started_seconds=NOW,
                    deadline_seconds=NOW,
                    outcome=AttemptOutcome.FAILED,
                ),
            ),
        )
        view = ClusterView(synced=True, nodes={}, incidents={"i": tried}, stopped=stopped)
        return render_aggregator(Fleet(), view, Journal(), stats, NOW)

    def test_what_was_declined_is_counted_by_rung_and_reason(self) -> None:
        name = "fleetmedic_aggregator_declined_total"
        assert value(self.page(), name, what="quarantine", why="breaker") == 3
        assert value(self.page(), name, what="reboot-node", why="approval") == 1

    def test_attempts_are_counted_by_rung_and_outcome_from_what_the_cluster_says(self) -> None:
        name = "fleetmedic_incident_attempts"
        assert value(self.page(), name, rung="drain", outcome="started") == 1
        assert value(self.page(), name, rung="drain", outcome="failed") == 1
        assert value(self.page(leader=False), name, rung="drain", outcome="failed") is None

    def test_a_person_s_stop_is_seen_on_every_replica(self) -> None:
        assert value(self.page(), "fleetmedic_aggregator_stopped") == 0
        assert value(self.page(stopped="why", leader=False), "fleetmedic_aggregator_stopped") == 1
