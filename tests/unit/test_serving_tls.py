"""A certificate that is renewed while we serve."""

import asyncio
import ssl
from contextlib import suppress
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


async def shown(
    tls: RenewedTls, trusted: pki.Authority, mine: tuple[Path, Path] | None = None
) -> bytes:
    """The certificate that a client is shown, one that shows its own where it has any; empty: it is turned away."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"welcome")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0, ssl=tls.context) as server:
        port = server.sockets[0].getsockname()[1]
        client = ssl.create_default_context(cadata=trusted.pair.certificate.decode())
        if mine:
            client.load_cert_chain(*mine)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=client, server_hostname=NAME
        )
        found = bytes(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
        try:  # in TLS 1.3 a client learns only by reading that it was turned away
            welcome = await reader.read() == b"welcome"
        except OSError:
            welcome = False
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    return found if welcome else b""


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


def own(folder: Path, authority: pki.Authority) -> tuple[Path, Path]:
    """A client's own certificate and key."""
    pair = authority.client("front-proxy-client")
    files = folder / "client.crt", folder / "client.key"
    files[0].write_bytes(pair.certificate)
    files[1].write_bytes(pair.key)
    return files


async def test_with_a_client_authority_only_who_has_a_certificate_of_it_is_spoken_to(
    tmp_path: Path,
) -> None:
    authority, proxies, later = pki.Authority(), pki.Authority(), pki.Authority()
    certificate(tmp_path, authority)
    bundle = tmp_path / "clients.crt"
    bundle.write_bytes(proxies.pair.certificate)
    tls = RenewedTls(str(tmp_path / "tls.crt"), str(tmp_path / "tls.key"), str(bundle))
    assert await shown(tls, authority, own(tmp_path, proxies))
    for stranger in (None, own(tmp_path, later), own(tmp_path, authority)):
        assert not await shown(tls, authority, stranger)
    bundle.write_bytes(b"not a certificate")
    assert not tls.renew()
    assert await shown(tls, authority, own(tmp_path, proxies)), "what was believed before"
    bundle.write_bytes(proxies.pair.certificate + later.pair.certificate)
    assert tls.renew()
    assert await shown(tls, authority, own(tmp_path, later))
