"""The stream under TLS: an agent speaks only to an aggregator that its CA vouches for."""

from pathlib import Path

import grpc

from tests.controlplane.pki import Authority
from tests.stream import Hub, Node
from tests.support import until


def credentials(authority: Authority) -> grpc.ServerCredentials:
    pair = authority.server(["localhost"], ["127.0.0.1"])
    return grpc.ssl_server_credentials([(pair.key, pair.certificate)])


def ca_file(folder: Path, authority: Authority) -> str:
    path = folder / "ca.pem"
    path.write_bytes(authority.pair.certificate)
    return str(path)


async def test_reports_reach_an_aggregator_that_the_ca_vouches_for(tmp_path: Path) -> None:
    authority, hub = Authority(), Hub()
    async with hub.listening(credentials(authority)):
        node = Node(hub, ca_file=ca_file(tmp_path, authority))
        node.offer()
        async with node.running():
            await node.acked(1)
    assert [report.node for report in hub.reports] == ["n1"]


async def test_nothing_is_told_to_an_aggregator_of_another_ca(tmp_path: Path) -> None:
    hub = Hub()
    async with hub.listening(credentials(Authority())):
        node = Node(hub, ca_file=ca_file(tmp_path, Authority()))
        node.offer()
        async with node.running():
            await until(lambda: node.stats.reconnects >= 3)
    assert hub.reports == []
