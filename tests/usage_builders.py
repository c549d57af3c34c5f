"""Reports with just the readings that say how much a node is used, and a fleet's use over a while."""

from collections.abc import Sequence

from aggregator.usage import Usage
from contract import report_pb2 as pb

GIB = 1 << 30


def report(
    node: str = "n1",
    *,
    cpu: float | None = 0.25,
    memory: float | None = 0.5,
    gpus: Sequence[float | None] = (0.75, 0.25),
    cpu_count: int = 64,
    memory_total_bytes: int = 512 * GIB,
) -> pb.NodeReport:
    """One report; shares 0..1, ``None``: not measured."""
    host = pb.Host(cpu_count=cpu_count, memory_total_bytes=memory_total_bytes)
    if cpu is not None:
        host.cpu_utilization_ratio = cpu
    if memory is not None:
        host.memory_available_bytes = round(memory_total_bytes * (1 - memory))
    devices = [pb.Gpu() if each is None else pb.Gpu(utilization_ratio=each) for each in gpus]
    return pb.NodeReport(node=node, host=host, gpus=devices)


def steady(usage: Usage, node: str, *, start: float, end: float, **readings: object) -> None:
    """The same report every five seconds, from ``start`` to before ``end``."""
    at = start
    while at < end:
        usage.take(report(node, **readings), at)  # type: ignore[arg-type]
        at += 5
