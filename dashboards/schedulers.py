"""What schedulers ask, what they are told, and what stands in the way.

With two replicas the counters are summed over both: the one that does not lead is not asked and writes nothing, so its
counters stand still and add nothing, and in a change of leader nothing is lost or counted twice. Gauges are the leader's.
"""

from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard as model

from dashboards.panels import HALF, ORANGE, THIRD, YELLOW, Section, lines, number

ASKED = "fleetmedic_aggregator_extender_requests_total"
ANSWERED = "fleetmedic_aggregator_extender_answers_total"
PASSED_OVER = "fleetmedic_aggregator_extender_passed_over_total"
SECONDS = "fleetmedic_aggregator_extender_seconds_bucket"
FEED = "fleetmedic_aggregator_feed"
DEVICES = "fleetmedic_aggregator_devices_quarantined"
LEADS = "fleetmedic_aggregator_leader == 1"


def schedulers() -> Section:
    """The scores' way to the schedulers."""
    return "What schedulers are told", [
        *_figures(),
        lines(
            "What answers rest on",
            "Answers of the extender."
            " pod: ranked by the pod's own wish, as it should be."
            " node: ranked as for a typical pod; Passed over says why."
            " not-ours: it asks for no GPU; keep such pods away with managedResources in the"
            " scheduler's configuration."
            " stale: our scores were old, so all nodes were told to be equal."
            " unreadable: the request has no form that we know."
            " What to do about the last two is in the runbook FleetmedicFeedFailing.",
            (f"sum by (basis) (rate({ANSWERED}[$__rate_interval]))", "{{basis}}"),
            unit="reqps",
            span=HALF,
            stacked=True,
        ),
        *_questions(),
        *_writes(),
    ]


def _figures() -> list[Builder[model.Panel]]:
    return [
        number(
            "Answers without a ranking",
            f'sum(increase({ANSWERED}{{basis=~"stale|unreadable"}}[1h])) or vector(0)',
            "In the last hour. The scheduler went on by its own plugins. A few after an aggregator"
            " started are nothing; for more, see the runbook FleetmedicFeedFailing.",
            steps=((1, YELLOW), (100, ORANGE)),
        ),
        number(
            "Asked, not answered",
            f"sum({ASKED}) - (sum({ANSWERED}) or vector(0)) or vector(0)",
            "Since the aggregators started. Each is a mistake of ours that the scheduler hides:"
            " take the aggregator's log and report it. One may just be under way.",
            steps=((2, ORANGE),),
        ),
        number(
            "Failing feeds",
            f"count(sum by (feed) (increase({FEED}_errors_total[15m])) > 0) or vector(0)",
            "Feeds with an error in 15 minutes. Failed writes and reads says which. A single error"
            " is tried again by itself; one that stays is in the aggregator's log, with its remedy.",
            steps=((1, YELLOW),),
        ),
        number(
            "Devices quarantined",
            f"sum(max by (cluster) ({DEVICES} and {LEADS}))",
            "Single GPUs that new pods are kept from, while the rest of their node works. Each"
            " belongs to an open incident: `fleetmedic explain NODE` says what it waits for.",
            steps=((1, YELLOW),),
        ),
    ]


def _questions() -> list[Builder[model.Panel]]:
    return [
        lines(
            "Questions of schedulers",
            "By the extender's verb, and by feed. None while GPU pods start: the scheduler is not"
            " set up to ask, or cannot reach us, which it tells nobody. Go through"
            " docs/how-to/scheduler-extender.md (or that of the feed) from its first step.",
            (f"sum by (verb) (rate({ASKED}[$__rate_interval]))", "extender {{verb}}"),
            (f"sum by (feed) (rate({FEED}_requests_total[$__rate_interval]))", "{{feed}}"),
            unit="reqps",
            span=THIRD,
        ),
        lines(
            "Time to answer",
            "Of the extender, once a request is read. Every GPU pod waits this long. Above the"
            " httpTimeout of the scheduler's configuration (0.2 s as shipped) it goes on without"
            " us: give the aggregator more CPU rather than the scheduler more patience.",
            (f"histogram_quantile(0.5, sum by (le) (rate({SECONDS}[$__rate_interval])))", "half"),
            (
                f"histogram_quantile(0.99, sum by (le) (rate({SECONDS}[$__rate_interval])))",
                "99 of 100",
            ),
            unit="s",
            span=THIRD,
        ),
        lines(
            "Passed over",
            "Per hour: pods that were ranked as a typical pod, since their own wish is not"
            " understood. mig, resource-claims, several-vendors, several-ways: that is all we can"
            " do. odd-amount, memory-share, unknown-device: look at what the pods ask for,"
            " `fleetmedic why POD` says it in words.",
            (f"sum by (reason) (increase({PASSED_OVER}[1h]))", "{{reason}}"),
            span=THIRD,
        ),
    ]


def _writes() -> list[Builder[model.Panel]]:
    return [
        lines(
            "Written for schedulers",
            "Per minute, by feed. None from a feed that is on: nothing changed, it fails (the next"
            " panel), or a person stopped all writes. Many for hours: scores swing; see which nodes'"
            " findings come and go.",
            (f"60 * sum by (feed) (rate({FEED}_writes_total[$__rate_interval]))", "{{feed}}"),
            span=THIRD,
        ),
        lines(
            "Failed writes and reads",
            "Per 15 minutes, by feed. All at once: the API server. One alone: a right is missing, or"
            " an admission rule refuses; the aggregator's log names it once. Errors that outnumber"
            " the writes for a quarter of an hour raise FleetmedicFeedFailing.",
            (f"sum by (feed) (increase({FEED}_errors_total[15m]))", "{{feed}}"),
            span=THIRD,
        ),
        lines(
            "Held back",
            "Per 15 minutes. Delayed: a write waited for its budget. For an hour or more: what nodes"
            " carry is late; raise score_label_writes_per_second. Suppressed: a score came back"
            " before it was written, which saved a write.",
            (f"sum by (feed) (increase({FEED}_delayed_total[15m]))", "{{feed}} delayed"),
            (f"sum by (feed) (increase({FEED}_suppressed_total[15m]))", "{{feed}} suppressed"),
            span=THIRD,
        ),
    ]
