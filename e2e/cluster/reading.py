"""Reads objects as `kubectl get --output=json` prints them, without a process: tests ask again and again until
something is so, and a kubectl takes ten times the CPU of its answer. What isn't plain here is left to kubectl."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import yaml

SECONDS: Final = 120.0

_KINDS: Final = {
    "crew": "apis/watchbill.dev/v1alpha1 crews",
    "deployment": "apis/apps/v1 deployments",
    "events.events.k8s.io": "apis/events.k8s.io/v1 events",
    "heartbeat": "apis/watchbill.dev/v1alpha1 heartbeats",
    "pod": "api/v1 pods",
    "secret": "api/v1 secrets",
}


class Reader:
    """Reads from an API server on this machine's loopback, as the user of the kubeconfig."""

    def __init__(self, kubeconfig: Path) -> None:
        self._kubeconfig = kubeconfig
        self._door: tuple[str, int, ssl.SSLContext, dict[str, str]] | None = None

    def get(self, words: Sequence[str]) -> Any:
        """Returns what `kubectl get WORDS` gives of one namespace. None: ask kubectl, which also knows why it fails."""
        path = _path(words)
        if path is None:
            return None
        try:
            self._door = self._door or _door(self._kubeconfig)
            if self._door is None:
                return None
            host, port, context, headers = self._door
            with closing(http.client.HTTPSConnection(host, port, timeout=SECONDS, context=context)) as connection:
                connection.request("GET", path, headers=headers)
                answer = connection.getresponse()
                return _printed(json.load(answer)) if answer.status == 200 else None
        except (OSError, http.client.HTTPException, LookupError, ValueError, yaml.YAMLError):
            return None


def _path(words: Sequence[str]) -> str | None:
    """The path of what these words of `get` name: objects of one kind in one namespace. None of all else."""
    named = [part for word in words if not word.startswith("-") for part in word.split("/")]
    flags = dict(word.partition("=")[::2] for word in words if word.startswith("-"))
    namespace, selector = flags.pop("--namespace", ""), flags.pop("--selector", "")
    if flags or not namespace or not 1 <= len(named) <= 2:
        return None
    found = _KINDS.get(named[0]) or _KINDS.get(named[0].removesuffix("s"))
    if found is None:
        return None
    group, plural = found.split()
    inside = "/".join(map(quote, ("namespaces", namespace, plural, *named[1:])))
    return f"/{group}/{inside}" + (f"?labelSelector={quote(selector, safe='')}" if selector else "")


def _door(kubeconfig: Path) -> tuple[str, int, ssl.SSLContext, dict[str, str]] | None:
    """Host, port, trust and headers; None if the server is another machine's, or asks who we are in another way."""
    config = yaml.safe_load(kubeconfig.read_text())
    if len(config["contexts"]) != 1:
        return None
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    server = urlsplit(cluster["server"])
    if server.scheme != "https" or server.hostname != "127.0.0.1" or server.port is None:
        return None
    context = ssl.create_default_context(
        cafile=cluster.get("certificate-authority"), cadata=_decoded(cluster, "certificate-authority-data")
    )
    if "token" in user:
        return server.hostname, server.port, context, {"Authorization": f"Bearer {user['token']}"}
    certificate, key = _decoded(user, "client-certificate-data"), _decoded(user, "client-key-data")
    if certificate is None or key is None:
        return None
    with tempfile.NamedTemporaryFile("w") as file:  # which is how the library takes it
        file.write(f"{certificate}\n{key}\n")
        file.flush()
        context.load_cert_chain(file.name)
    return server.hostname, server.port, context, {}


def _decoded(found: dict[str, str], name: str) -> str | None:
    return base64.b64decode(found[name]).decode() if name in found else None


def _printed(found: dict[str, Any]) -> dict[str, Any]:
    """As kubectl prints it: without managed fields; of a list, each object with its kind."""
    if "items" not in found:
        found["metadata"].pop("managedFields", None)
        return found
    kind = {"apiVersion": found["apiVersion"], "kind": found["kind"].removesuffix("List")}
    items = [_printed({**kind, **item}) for item in found["items"]]
    return {"apiVersion": "v1", "items": items, "kind": "List", "metadata": {"resourceVersion": ""}}
