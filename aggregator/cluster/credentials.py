"""Who we are to the API server: kubernetes.aio's loaders, run in a thread because they block."""

import asyncio
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config.incluster_config import (
    SERVICE_CERT_FILENAME,
    SERVICE_TOKEN_FILENAME,
    InClusterConfigLoader,
)
from kubernetes.aio.config.kube_config import KubeConfigLoader, KubeConfigMerger

RELOAD_SECONDS = 60.0
"""How often tokens are read anew; the kubelet replaces them long before they expire."""


class CredentialsError(Exception):
    """There is no usable kubeconfig or service account; the message says which."""


class Credentials:
    """The address, the TLS settings and the current token.

    Args:
        kubeconfig: a file, or ``None`` for the service account of the pod that we run in.
    """

    def __init__(self, kubeconfig: Path | None) -> None:
        self._kubeconfig = kubeconfig
        self._loader: Any = None
        self.configuration = Configuration()

    async def load(self) -> None:
        """Read them, or read them anew.

        Raises:
            CredentialsError: they cannot be read.
        """
        try:
            await asyncio.to_thread(self._load)
        except Exception as error:  # the loaders raise whatever their parsers raise
            source = self._kubeconfig or "the pod's service account"
            raise CredentialsError(f"no credentials from {source}: {error}") from error

    def headers(self) -> dict[str, str]:
        """The authorization to send with a request, if there is one."""
        token = self.configuration.api_key.get("BearerToken")
        return {"Authorization": token} if token else {}

    def _load(self) -> None:
        if self._kubeconfig is None:
            loader = InClusterConfigLoader(  # type: ignore[no-untyped-call]
                SERVICE_TOKEN_FILENAME, SERVICE_CERT_FILENAME, try_refresh_token=False
            )
            loader.load_and_set(self.configuration)  # type: ignore[no-untyped-call]
            return
        if self._loader is None:
            merged = KubeConfigMerger(str(self._kubeconfig))  # type: ignore[no-untyped-call]
            if merged.config is None:
                raise FileNotFoundError("there is no such file")
            self._loader = KubeConfigLoader(  # type: ignore[no-untyped-call]
                config_dict=merged.config, config_base_path=None
            )
        # Runs exec plugins, and only once what they gave has expired.
        asyncio.run(self._loader.load_and_set(self.configuration))
        self._use_proxy_of_environment()

    def _use_proxy_of_environment(self) -> None:
        """Once here, as kubectl does; aiohttp would ask for every request, in a thread each."""
        server = urlsplit(self.configuration.host)
        if not self.configuration.proxy and not urllib.request.proxy_bypass(server.hostname or ""):
            self.configuration.proxy = urllib.request.getproxies().get(server.scheme)
