"""TLS of a port whose certificate is renewed while we run, as cert-manager does: read anew when its files change."""

import asyncio
import ssl
from pathlib import Path

import structlog

LOOK_SECONDS = 60.0

log = structlog.get_logger()


class RenewedTls:
    """A server's TLS context, kept as new as its files.

    An old certificate would be refused from its last day on, and with it the API group that is behind it.

    Args:
        certificate: path of the PEM certificate.
        key: path of its PEM key.
        client_authority: path of the PEM certificates of an authority; a client without a certificate of it is not spoken
            to. Kubernetes' API server shows extensions one of its ``requestheader`` authority. Empty: anybody may come.
            A further authority in the file is believed without a restart; one that is taken out is, until a restart.

    Raises:
        OSError: they cannot be read (``ssl.SSLError`` is one: they do not fit).
    """

    def __init__(self, certificate: str, key: str, client_authority: str = "") -> None:
        self._files = (certificate, key)
        self._client_authority = client_authority
        self._told = ""
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._stamps = self._look()
        self._load(self.context)

    async def run(self) -> None:
        """Look once a minute until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.renew()

    def renew(self) -> bool:
        """Read the files anew if they changed; whether that was so. What cannot be used is told once, and the old one stays."""
        try:
            stamps = self._look()
            if stamps == self._stamps:
                return False
            # First where it does no harm: half of a pair would break the context that serves.
            self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
            self._load(self.context)
        except OSError as error:
            if str(error) != self._told:
                self._told = str(error)
                log.warning(
                    "the old certificate stays in use", file=self._files[0], error=self._told
                )
            return False
        self._stamps, self._told = stamps, ""
        log.info("certificate renewed", file=self._files[0])
        return True

    def _load(self, context: ssl.SSLContext) -> None:
        context.load_cert_chain(*self._files)
        if self._client_authority:
            try:
                context.load_verify_locations(self._client_authority)
            except ssl.SSLError as error:
                text = f"no certificate of an authority in {self._client_authority!r}: {error}"
                raise ssl.SSLError(text) from error
            context.verify_mode = ssl.CERT_REQUIRED

    def _look(self) -> tuple[tuple[int, int], ...]:
        named = (*self._files, self._client_authority)
        found = (Path(each).stat() for each in named if each)
        return tuple((each.st_mtime_ns, each.st_ino) for each in found)
