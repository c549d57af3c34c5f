"""Settings of the machine that slow its GPUs, and traces that something went wrong. All only shown."""

from collections.abc import Iterator
from datetime import UTC, datetime

from agent.catalogue import Catalogue, Code
from agent.checks import Observation
from agent.checks.rdma_ports import ACTIVE_STATES
from agent.snapshot import Host, Snapshot

SOURCE = "host"


def check(
    snapshot: Snapshot, host: Host, had_peermem: bool, catalogue: Catalogue
) -> Iterator[Observation]:
    """What is worth a look.

    Args:
        snapshot: what else this node has.
        host: the machine.
        had_peermem: whether nvidia_peermem was loaded at any time in this boot.
        catalogue: of codes.
    """
    codes = catalogue.codes
    if snapshot.gpus or snapshot.npus:
        yield from _governor(host, codes["cpu-governor-not-performance"])
    if had_peermem and host.peermem_loaded is False:
        yield from _peermem(snapshot, codes["nvidia-peermem-missing"])
    yield from _fragmented(host, codes["memory-fragmented"])
    yield from _fuse(host, codes["fuse-queue-full"])
    yield from _crashes(host, codes["kernel-panic-recorded"])


def _see(code: Code, evidence: str) -> Observation:
    return Observation(code=code, subject="host", evidence=evidence, source=SOURCE)


def _governor(host: Host, code: Code) -> Iterator[Observation]:
    others = {name: count for name, count in host.cpu_governors.items() if name != "performance"}
    if others:
        listed = ", ".join(f"{others[name]} by {name}" for name in sorted(others))
        yield _see(
            code,
            f"of {sum(host.cpu_governors.values())} frequency policies {listed}, wanted: performance",
        )


def _peermem(snapshot: Snapshot, code: Code) -> Iterator[Observation]:
    active = sum(port.state in ACTIVE_STATES for port in snapshot.rdma_ports)
    if snapshot.gpus and active:
        yield _see(
            code,
            "nvidia_peermem was loaded in this boot and is not any more;"
            f" {len(snapshot.gpus)} GPUs, {active} active RDMA ports",
        )


def _fragmented(host: Host, code: Code) -> Iterator[Observation]:
    limit = code.limits["blocks"]
    few = {name: count for name, count in host.free_large_blocks.items() if count < limit}
    if few:
        listed = ", ".join(f"{few[name]} on {name}" for name in sorted(few))
        yield _see(code, f"free blocks of 1 MiB and more: {listed}; limit {limit:.0f}")


def _fuse(host: Host, code: Code) -> Iterator[Observation]:
    limit = code.limits["waiting_ratio"]
    full = [each for each in host.fuse_queues if each.waiting >= limit * each.background_max]
    if full:
        listed = ", ".join(
            f"connection {each.connection} ({each.waiting} wait, max_background {each.background_max})"
            for each in full[:3]
        )
        more = f" and {len(full) - 3} more" if len(full) > 3 else ""
        yield _see(code, f"{listed}{more}; limit {limit:.0%} of max_background")


def _crashes(host: Host, code: Code) -> Iterator[Observation]:
    if host.crash_records:
        newest = host.crash_record_newest_seconds
        when = (
            f", newest of {datetime.fromtimestamp(newest, UTC):%Y-%m-%d %H:%M} UTC"
            if newest
            else ""
        )
        yield _see(code, f"{host.crash_records} crash records in /sys/fs/pstore{when}")
