"""A certificate that is renewed while we serve."""

import asyncio
import ssl
from pathlib import Path

from aggregator.feeds.serving_tls import RenewedTls
from tests.controlplane import pki

NAME = "fleetmedic.test"


def certificate(folder: Path, authority: pki.Authority) -> None:
    """As cert-manager: another pair in the same files."""
    pair = authority.server([NAME], [])
    (folder / "new").write_bytes(pair.certificate)
    (folder / "new").replace(folder / "tls.crt")
    (folder / "new").write_bytes(pair.key)
    (folder / "new").replace(folder / "tls.key")


async def shown(tls: RenewedTls, trusted: pki.Authority) -> bytes:
    """The certificate that a client is shown."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0, ssl=tls.context) as server:
        port = server.sockets[0].getsockname()[1]
        client = ssl.create_default_context(cadata=trusted.pair.certificate.decode())
        _, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=client, server_hostname=NAME
        )
        found: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        await writer.wait_closed()
    return found


async def test_a_renewed_certificate_is_shown_and_a_broken_one_is_not(tmp_path: Path) -> None:
    authority = pki.Authority()
    certificate(tmp_path, authority)
    tls = RenewedTls(str(tmp_path / "tls.crt"), str(tmp_path / "tls.key"))
    first = await shown(tls, authority)
    assert not tls.renew(), "nothing changed"
    certificate(tmp_path, authority)
    assert tls.renew()
    second = await shown(tls, authority)
    assert second != first
    (tmp_path / "tls.key").write_bytes(authority.server([NAME], []).key)
    assert not tls.renew(), "a key of another certificate"
    (tmp_path / "tls.crt").unlink()
    assert not tls.renew()
    assert await shown(tls, authority) == second
    certificate(tmp_path, authority)
    assert tls.renew()
