"""Two bad devices of one node: each is drained by itself before it is reset."""

from tests.ward import Ward, dead_gpu, ward_with

FIRST = dead_gpu("reset-device", subject="gpu:0000:1b:00.0")
SECOND = dead_gpu("reset-device", subject="gpu:0000:3b:00.0")


def test_a_device_is_not_reset_under_its_pods_because_another_one_was_drained() -> None:
    ward = ward_with(FIRST, SECOND)
    ward.until("closed")
    second = [rung for rung, subject in tried(ward) if subject == SECOND.subject]
    assert second == ["drain-device", "reset-device"]


def tried(ward: Ward) -> list[tuple[str, str]]:
    """Rungs and what they were about, oldest first."""
    incident = ward.newest()
    return [(each.rung, each.subject) for each in incident.attempts] if incident else []
