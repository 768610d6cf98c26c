"""Reads how the API server is reached: its address, who we are there, and through which proxy."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from watchbill.errors import needed

with needed("The operator", "operator"):
    from kubernetes.aio import client, config


@dataclass(frozen=True, slots=True)
class Credentials:
    """The address of the API server and the operator's credentials, for another client than kubernetes_api.py's."""

    server: str
    ca_path: str | None
    insecure: bool
    scheme: str | None
    token: str | None
    certificate_path: str | None
    key_path: str | None
    proxy: str | None


async def credentials() -> Credentials:
    """Reads the credentials that `KubernetesApi.connect` takes, anew. Raises OSError or ValueError without any."""
    try:
        found = await configuration()
    except config.ConfigException as error:
        raise ValueError(str(error)) from error
    header = str(await found.get_api_key_with_prefix("BearerToken") or "").strip()
    scheme, _, token = header.rpartition(" ")
    return Credentials(
        server=found.host,
        ca_path=found.ssl_ca_cert,
        insecure=not found.verify_ssl,
        scheme=scheme or None,
        token=token or None,
        certificate_path=found.cert_file,
        key_path=found.key_file,
        proxy=found.proxy,
    )


async def configuration() -> client.Configuration:
    """Reads them as the kubernetes package takes them. Raises OSError, ConfigException."""
    made = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=made)  # type: ignore[no-untyped-call]
    except config.ConfigException:
        await config.load_kube_config(client_configuration=made)  # type: ignore[no-untyped-call]
    if not made.proxy:
        made.proxy = _proxy(made.host)
    # Otherwise aiohttp looks for proxies, and for a password in ~/.netrc, before each request, in a thread each time.
    made.client_session_kwargs = {"trust_env": False}
    return made


def _proxy(server: str) -> str | None:
    """Returns the proxy that HTTPS_PROXY and NO_PROXY name for this server; None: there is none."""
    parts = urlsplit(server)
    return None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
