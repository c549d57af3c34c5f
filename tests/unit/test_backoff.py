"""How long the agent waits before it tries the aggregator again."""

from hypothesis import given
from hypothesis import strategies as st

from agent.uplink import UplinkSettings, backoff_seconds

SETTINGS = UplinkSettings(node="", target="", backoff_first_seconds=0.2, backoff_most_seconds=15)
jitter = st.floats(0, 1, exclude_max=True)


@given(st.integers(0, 10**6), jitter)
def test_the_wait_is_bounded(attempt: int, random: float) -> None:
    assert 0.1 <= backoff_seconds(SETTINGS, attempt, random) <= 15.0


@given(st.integers(0, 100), jitter)
def test_the_wait_never_shrinks_with_failures_and_grows_with_the_dice(
    attempt: int, random: float
) -> None:
    wait = backoff_seconds(SETTINGS, attempt, random)
    assert backoff_seconds(SETTINGS, attempt + 1, random) >= wait
    assert backoff_seconds(SETTINGS, attempt, 0.0) <= wait


def test_agents_that_fail_together_do_not_come_back_together() -> None:
    assert len({backoff_seconds(SETTINGS, 5, n / 100) for n in range(100)}) == 100


def test_the_wait_doubles_until_its_most() -> None:
    waits = [backoff_seconds(SETTINGS, attempt, 0.0) for attempt in range(9)]
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 7.5, 7.5]
