"""Decides which servers may be sent a key of the environment: a definition names its server, but not who gets the key.

Other servers are asked without a key: many servers of users need none.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from watchbill.redaction import redact

SETTING: Final = "WATCHBILL_MODEL_HOSTS"
_SERVERS: Final = ("_BASE_URL", "_API_BASE", "_ENDPOINT")
"""The ends of names of variables that tell a library its server."""


def may_have_key(host: str, own: Callable[[], str | None], environment: Mapping[str, str]) -> bool:
    """Returns whether `host` may be sent a key: it is this machine, allowed by the setting, a server of the
    environment, or the provider's own (`own`)."""
    host = host.lower().rstrip(".")
    if not host:
        return False
    if _is_loopback(host):
        return True
    for allowed in environment.get(SETTING, "").lower().split(","):
        pattern = allowed.strip()
        if host == pattern or (pattern.startswith("*.") and host.endswith(pattern[1:])):
            return True
    if host in {host_of(value) for name, value in environment.items() if name.endswith(_SERVERS)}:
        return True
    return host == own()


def host_of(url: str) -> str | None:
    """The host of a URL in lower case; None if it has none."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def guard(own: Callable[[], str | None]) -> Callable[[Any], Any]:
    """A hook of HTTPX that keeps the environment's secrets from other hosts, also after a redirect."""

    async def check(request: Any) -> None:
        if not may_have_key(request.url.host, own, os.environ):
            for name, value in list(request.headers.items()):
                if redact(value) != value:
                    del request.headers[name]

    return check


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
