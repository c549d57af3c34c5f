"""Readings that several parts want of the same report, read once: eight GPUs take 4 to 8 µs. Pure."""

from collections.abc import Iterable

from contract import report_pb2 as pb


def duty_ratio(device: pb.Gpu | pb.Npu) -> float | None:
    """How much a device is used, as reported: 0..1 in a sound report; ``None``: not measured.

    Its duty cycle where the driver tells it, else the utilization of the moment at which it was read, which says little of a load that
    comes and goes within seconds. Everything that wants use over time takes it from here.
    """
    if isinstance(device, pb.Gpu) and (
        # Only of a zero it has to be asked whether it was measured. What is no share of time hides no utilization.
        0 < (duty := device.duty_cycle_ratio) <= 1
        or (duty == 0 and device.HasField("duty_cycle_ratio"))
    ):
        return duty
    if (momentary := device.utilization_ratio) or device.HasField("utilization_ratio"):
        return momentary
    return None


def utilizations(devices: Iterable[pb.Gpu | pb.Npu]) -> list[float]:
    """Of each device whose use was measured, as ``duty_ratio`` says it."""
    return [ratio for device in devices if (ratio := duty_ratio(device)) is not None]
