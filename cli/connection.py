"""One HTTP service and who we are to it. Plain JSON in and out; what goes wrong names the address and the remedy."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
import urllib3
from kubernetes.client.configuration import Configuration
from kubernetes.client.rest import RESTClientObject
from kubernetes.config import ConfigException, load_incluster_config, load_kube_config

from cli.settings import CliSettings

Json = dict[str, Any]

JSON = "application/json"
MERGE = "application/merge-patch+json"

MAX_BYTES = 256 << 20
"""Of one answer; ten thousand nodes are a tenth of it."""

MAX_MESSAGE = 600
"""Characters repeated of what a server says."""


class Refused(Exception):  # noqa: N818 - it is an answer
    """It cannot be done; the message names the value and the remedy."""


class Answer(NamedTuple):
    """What a service said."""

    status: int
    body: Json
    """Empty where it was no JSON object."""
    text: str

    @property
    def message(self) -> str:
        """Why not, in the words of whoever refused: the aggregator's, the API server's, else what there is."""
        said = self.body.get("error") or self.body.get("message") or self.text.strip()
        return str(said or f"status {self.status}")[:MAX_MESSAGE]


class Connection:
    """A service to ask.

    Args:
        configuration: its address and our credentials.
        what: its name in messages.
        remedy: what to do where it cannot be reached.
        seconds: how long one request may take.
    """

    def __init__(
        self, configuration: Configuration, *, what: str, remedy: str, seconds: float
    ) -> None:
        self.url = str(configuration.host).rstrip("/")
        self.what = what
        self._configuration = configuration
        self._remedy = remedy
        self._timeout = urllib3.Timeout(total=seconds, connect=min(seconds, 10.0))
        self._rest = RESTClientObject(configuration)

    def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        content_type: str = JSON,
    ) -> Answer:
        """One request, sent once.

        Raises:
            Refused: there was no answer.
        """
        headers = {"Accept": JSON, "User-Agent": "fleetmedic"}
        if token := self._configuration.get_api_key_with_prefix("BearerToken"):
            headers["Authorization"] = token
        if body is not None:
            headers["Content-Type"] = content_type
        try:
            reply = self._rest.pool_manager.request(
                method,
                self.url + path,
                body=None if body is None else msgspec.json.encode(body),
                headers=headers,
                timeout=self._timeout,
                retries=False,
                redirect=False,
                preload_content=False,
            )
            raw = reply.read(MAX_BYTES, decode_content=True)
            reply.release_conn()
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise Refused(
                f"cannot reach {self.what} at {self.url}: {_words(error)}; {self._remedy}"
            ) from error
        return Answer(reply.status, _object(raw), raw[:4096].decode(errors="replace"))

    def close(self) -> None:
        """Let go of connections."""
        self._rest.close()


def server(settings: CliSettings) -> Connection:
    """The aggregator at ``--server``.

    Raises:
        Refused: that is no URL.
    """
    parts = urlsplit(settings.server)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Refused(
            f"--server {settings.server!r} is no URL; give one like http://localhost:8080"
        )
    configuration = Configuration(host=settings.server.rstrip("/"))
    return Connection(
        configuration,
        what="the aggregator",
        remedy="name another with --server URL or FLEETMEDIC_SERVER, "
        "or leave both away to go through the Kubernetes API",
        seconds=settings.timeout_seconds,
    )


def cluster(settings: CliSettings) -> Connection:
    """The API server that the kubeconfig names, as whom it says.

    Raises:
        Refused: there is no usable kubeconfig.
    """
    configuration = Configuration()
    try:
        _load(configuration, settings)
    except Exception as error:
        source = settings.kubeconfig or "KUBECONFIG or ~/.kube/config"
        raise Refused(
            f"no usable kubeconfig ({source}): {_words(error)}; name one with --kubeconfig FILE, or, "
            "to read only, the aggregator with --server URL"
        ) from error
    return Connection(
        configuration,
        what="the Kubernetes API",
        remedy="name another cluster with --kubeconfig FILE or --context NAME",
        seconds=settings.timeout_seconds,
    )


def _load(configuration: Configuration, settings: CliSettings) -> None:
    try:
        load_kube_config(  # type: ignore[no-untyped-call]
            config_file=settings.kubeconfig or None,
            context=settings.context or None,
            client_configuration=configuration,
        )
    except ConfigException:
        if settings.kubeconfig or settings.context:
            raise
        try:
            load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        except ConfigException:
            pass
        else:
            return
        raise


def _object(raw: bytes) -> Json:
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


def _words(error: Exception) -> str:
    """The reason alone; urllib3's own texts begin with the object that it happened to."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.sub(r"^HTTPS?Connection(Pool)?\([^)]*\): ", "", text)[:MAX_MESSAGE]
