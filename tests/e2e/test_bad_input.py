"""A hostile agent against the real aggregator and API server: what it sends stays its own node's trouble."""

from __future__ import annotations

import asyncio
import math
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import grpc
import grpc.aio
import msgspec
import pytest

from contract import report_pb2 as pb
from contract.vocabulary import TAINT_KEY
from contract.wire import CONNECT_METHOD, MAX_REPORT_BYTES, NODE_METADATA
from tests.e2e.rig import Rig
from tests.prometheus.tools import run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tests.controlplane.api import Json
    from tests.controlplane.cluster import ControlPlane
    from tests.controlplane.sandbox import Sandbox

    Send = Callable[[bytes], Awaitable[str]]

pytestmark = pytest.mark.cluster

INCIDENTS = "/apis/fleetmedic.io/v1alpha1/incidents"
LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
SIX_BYTES_IN_JSON = "\x01"
EVIL = '\x00\x1b[31mred\n<script>alert(1)</script>"\\\u202e' + "漢" * 5_000
ETCD_OBJECT_BYTES = 1_500_000


@pytest.fixture
async def rig(kwok: ControlPlane, sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[Rig]:
    async with Rig(sandbox, tmp_path) as started:
        await started.start_aggregator(
            agent_auth="none", budget_percent="100", budget_count="10000"
        )
        yield started


@asynccontextmanager
async def stream(rig: Rig, node: str) -> AsyncIterator[Send]:
    """A stream that speaks for one node; what is sent comes back as the reason it was refused for."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.grpc_port}") as channel:
        call = channel.stream_stream(CONNECT_METHOD)(metadata=((NODE_METADATA, node),))

        async def send(message: bytes) -> str:
            async with asyncio.timeout(10):
                await call.write(message)
                answer = await call.read()
            assert isinstance(answer, bytes), await call.details()
            return pb.Downstream.FromString(answer).ack.refused

        yield send
        call.cancel()


async def known(rig: Rig, node: str) -> None:
    """Wait until the aggregator takes reports of this node."""
    async with stream(rig, node) as send, asyncio.timeout(10):
        while await send(pb.NodeReport(node=node).SerializeToString()):
            await asyncio.sleep(0.05)


def finding(code: str, subject: str, evidence: str, **fields: float) -> pb.Finding:
    return pb.Finding(
        code=code,
        subject=subject,
        evidence=evidence,
        severity=pb.SEVERITY_FATAL,
        domain=pb.DOMAIN_GPU,
        count=2**64 - 1,
        since_time_seconds=fields.get("since", math.nan),
        last_seen_time_seconds=fields.get("last", math.inf),
    )


async def incident_of(rig: Rig, node: str, phase: str) -> Json:
    """The node's one incident, once it is in this phase."""
    async with asyncio.timeout(20):
        while True:
            _, listed = await rig.plane.request("GET", INCIDENTS)
            found = [each for each in listed["items"] if each["spec"]["node"] == node]
            assert len(found) <= 1
            if found and found[0].get("status", {}).get("phase") == phase:
                incident: Json = found[0]
                return incident
            await asyncio.sleep(0.05)


async def page(rig: Rig, path: str) -> str:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{rig.http_port}{path}") as response,
    ):
        assert response.status == 200
        return await response.text()


@pytest.mark.parametrize("code", [EVIL, "", "-._-", "a" * 62 + ".b", "\x00"])
async def test_whatever_a_finding_says_its_node_is_quarantined_and_everything_stays_readable(
    rig: Rig, code: str
) -> None:
    node = await rig.sandbox.node("evil")
    await known(rig, node)
    report = pb.NodeReport(
        node=node,
        findings=[finding(code, EVIL, EVIL)],
        driver_version=EVIL,
        gpus=[pb.Gpu(uuid=EVIL, model=EVIL, utilization_ratio=1e300, temperature_celsius=math.nan)],
        host=pb.Host(cpu_utilization_ratio=-math.inf, uptime_seconds=math.nan),
    )
    async with stream(rig, node) as send:
        assert await send(report.SerializeToString()) == ""
        incident = await incident_of(rig, node, "quarantined")
        detail, summary, metrics = await asyncio.gather(
            page(rig, f"/api/v1/nodes/{node}"), page(rig, "/api/v1/summary"), page(rig, "/metrics")
        )
    assert incident["status"]["findings"][0]["count"] == 2**63 - 1
    _, seen = await rig.plane.request("GET", f"/api/v1/nodes/{node}")
    (taint,) = [each for each in seen["spec"]["taints"] if each["key"] == TAINT_KEY]
    assert LABEL_VALUE.fullmatch(taint.get("value", ""))
    msgspec.json.decode(detail)
    assert msgspec.json.decode(summary)["gpu_utilization_ratio"] is None, "one agent, not the fleet"
    checked = await asyncio.to_thread(run, "promtool", "check", "metrics", stdin=metrics)
    assert checked.returncode == 0, checked.stderr


async def test_a_finding_with_a_new_name_in_every_report_stays_one_incident_that_fits_into_etcd(
    rig: Rig,
) -> None:
    node = await rig.sandbox.node("flood")
    await known(rig, node)
    long = SIX_BYTES_IN_JSON * 2_000
    async with stream(rig, node) as send:
        for number in range(60):
            listed = [
                finding(f"{number}-{each}{long}", long, long, since=1e9 - number - each, last=1e9)
                for each in range(60)
            ]
            report = pb.NodeReport(node=node, findings=listed)
            assert await send(report.SerializeToString()) == ""
            await incident_of(rig, node, "quarantined")
    incident = await incident_of(rig, node, "quarantined")
    assert len(incident["status"]["findings"]) == 50
    assert len(msgspec.json.encode(incident)) < ETCD_OBJECT_BYTES
    failed = 'fleetmedic_aggregator_decisions_total{kind="save-incident",taken="false"}'
    assert await rig.metric(failed) == 0


async def test_a_report_that_cannot_be_one_is_refused_and_nobody_else_is_disturbed(
    rig: Rig,
) -> None:
    bad, good = await asyncio.gather(rig.sandbox.node("bad"), rig.sandbox.node("good"))
    await known(rig, good)
    plain = pb.NodeReport(node=good).SerializeToString()
    empty_gpus = b"\x52\x00" * 100_000
    async with stream(rig, good) as well, stream(rig, bad) as send:
        assert "not a NodeReport" in await send(b"\xff" * 50)
        head = pb.NodeReport(node=bad).SerializeToString()
        assert "more than 1000 devices" in await send(head + empty_gpus)
        assert "no usable node name" in await send(b"")
        assert "speaks for" in await send(plain)
        with pytest.raises(grpc.aio.AioRpcError, match="larger than max"):
            await send(b"\x00" * (MAX_REPORT_BYTES + 1))
        assert await well(plain) == ""
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.grpc_port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n" + b"\xff" * 10_000)
    async with asyncio.timeout(10):
        await reader.read(1)
    writer.close()
    async with stream(rig, good) as well:
        assert await well(plain) == ""
