"""The API server with our CRDs, and what is read from it."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from e2e.cluster import machine, recipe
from e2e.cluster.control_plane import ControlPlane
from e2e.control_plane.manifests import as_yaml, crew, heartbeat
from watchbill import api
from watchbill.api.parse import parse

CRDS = recipe.HERE.parent.parent / "crds"

NAMES = ("crews.watchbill.dev", "heartbeats.watchbill.dev")

GROUP = "/apis/watchbill.dev/v1alpha1"

PLURALS = {"Crew": "crews", "Heartbeat": "heartbeats"}

STRICT = "fieldValidation=Strict"

IDLE_SECONDS: Final = 30.0
"""The API server closes a connection that was idle for 90 s, as while kubectl takes its time on a busy machine."""


@dataclass(frozen=True)
class Answer:
    """An answer of the API server."""

    code: int
    body: dict[str, Any]
    warnings: list[str] = field(default_factory=list)

    @property
    def message(self) -> str:
        return str(self.body.get("message", ""))

    def fields(self) -> set[str]:
        """The fields that it names as wrong."""
        causes = self.body.get("details", {}).get("causes", [])
        # what begins with a dot follows from the scale subresource finding something else than expected
        return {c["field"] for c in causes if c["field"] != "<nil>" and not c["field"].startswith(".")}


class Server:
    """One connection to the API server, with every right: a kubectl per manifest would take minutes."""

    def __init__(self, plane: ControlPlane) -> None:
        config = json.loads(plane.kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        trusted = ssl.create_default_context(cafile=cluster["certificate-authority"])
        self._connection = http.client.HTTPSConnection(cluster["server"].partition("//")[2], context=trusted)
        self._token = user["token"]
        self._used_at = time.monotonic()

    def send(self, method: str, path: str, content: Any = None, *, as_: str = "json") -> Answer:
        text = content if content is None or isinstance(content, str) else json.dumps(content)
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": f"application/{as_}"}
        if time.monotonic() > self._used_at + IDLE_SECONDS:
            self._connection.close()  # and the next request opens another
        self._connection.request(method, path, text.encode() if text is not None else None, headers)
        answer = self._connection.getresponse()
        body = answer.read()
        self._used_at = time.monotonic()
        return Answer(answer.status, json.loads(body), answer.headers.get_all("Warning") or [])

    def close(self) -> None:
        self._connection.close()

    def try_out(self, manifest: dict[str, Any] | str, kind: str = "") -> Answer:
        """Creates it as a dry run, from the same YAML that `parse` gets, and as strict as kubectl."""
        text = as_yaml(manifest)
        kind = kind or (manifest["kind"] if isinstance(manifest, dict) else "Crew")
        path = f"{GROUP}/namespaces/default/{PLURALS[kind]}?{STRICT}&dryRun=All"
        return self.send("POST", path, text, as_="yaml")

    def create(self, manifest: dict[str, Any], namespace: str) -> Answer:
        return self.send("POST", f"{GROUP}/namespaces/{namespace}/{PLURALS[manifest['kind']]}?{STRICT}", manifest)

    def apply(self, manifest: dict[str, Any], namespace: str, manager: str) -> Answer:
        """Server-side apply, unforced."""
        path = f"{place(manifest, namespace)}?fieldManager={manager}&{STRICT}"
        return self.send("PATCH", path, manifest, as_="apply-patch+yaml")


def until_served(plane: ControlPlane) -> None:
    """Waits until both kinds are served: they are Established before every part of the API server has heard of them."""
    with contextlib.closing(Server(plane)) as server:

        def served() -> bool:
            return all(server.try_out(manifest).code == 201 for manifest in (crew(), heartbeat()))

        machine.until(served, within=180, what="both kinds are served")


def place(manifest: dict[str, Any], namespace: str) -> str:
    return f"{GROUP}/namespaces/{namespace}/{PLURALS[manifest['kind']]}/{manifest['metadata']['name']}"


def read(text: str) -> api.Crew | api.Heartbeat:
    parsed = parse(text, "crew.yaml")
    found: list[api.Crew | api.Heartbeat] = [*parsed.crews, *parsed.heartbeats]
    (only,) = found
    return only


def objects(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every part of a schema that has fields, by the path that `kubectl explain` knows it by."""
    inner = schema.get("items", schema)
    if "properties" in inner:
        yield path, inner["properties"]
        for name, child in inner["properties"].items():
            yield from objects(child, f"{path}.{name}")
