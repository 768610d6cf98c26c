"""Finds targets in a cluster for a Prometheus that can't do so itself: Debian's knows no Kubernetes.

Runs in its pod, on Python alone. Answers `/?role=pod&selector=a=b&namespace=team` as `http_sd_configs` want it, with
the labels that `kubernetes_sd_configs` have, as far as they are used here. Without a namespace it looks at all.
"""

from __future__ import annotations

import json
import ssl
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit
from urllib.request import Request, urlopen

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
API = "https://kubernetes.default.svc"
META = "__meta_kubernetes_"
LISTED = {"pod": ("/api/v1", "pods"), "endpointslice": ("/apis/discovery.k8s.io/v1", "endpointslices")}


def listed(role: str, selector: str, namespace: str) -> list[dict[str, Any]]:
    """Returns the objects of this role, as the API server lists them."""
    group, kind = LISTED[role]
    inside = f"/namespaces/{namespace}" if namespace else ""
    token = (ACCOUNT / "token").read_text()
    asked = Request(f"{API}{group}{inside}/{kind}?labelSelector={quote(selector)}")
    asked.add_header("Authorization", f"Bearer {token}")
    trusted = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    with urlopen(asked, timeout=120, context=trusted) as answer:
        found: list[dict[str, Any]] = json.load(answer)["items"]
    return found


def of_pod(pod: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Returns a target for each port of a pod that has an address."""
    address, metadata = pod["status"].get("podIP"), pod["metadata"]
    if not address or pod["status"]["phase"] in ("Succeeded", "Failed"):
        return
    labels = {f"{META}pod_label_{as_label(name)}": value for name, value in metadata.get("labels", {}).items()}
    labels |= {f"{META}namespace": metadata["namespace"], f"{META}pod_name": metadata["name"]}
    for container in pod["spec"]["containers"]:
        for port in container.get("ports", []):
            named = {f"{META}pod_container_port_name": port.get("name", "")}
            yield {"targets": [f"{address}:{port['containerPort']}"], "labels": {**labels, **named}}


def of_endpointslice(part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Returns a target for each port of each endpoint."""
    for port in part.get("ports", []):
        for endpoint in part.get("endpoints", []):
            labels = {
                f"{META}namespace": part["metadata"]["namespace"],
                f"{META}pod_name": endpoint.get("targetRef", {}).get("name", ""),
                f"{META}endpointslice_port_name": port.get("name", ""),
            }
            yield {"targets": [f"{address}:{port['port']}" for address in endpoint["addresses"]], "labels": labels}


def as_label(name: str) -> str:
    """The name as Prometheus can have it."""
    return "".join(letter if letter.isalnum() else "_" for letter in name)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        asked = parse_qs(urlsplit(self.path).query)
        role, of = asked["role"][0], {"pod": of_pod, "endpointslice": of_endpointslice}
        try:
            found = [
                target
                for namespace in asked.get("namespace", [""])
                for one in listed(role, asked["selector"][0], namespace)
                for target in of[role](one)
            ]
        except OSError as error:  # Prometheus keeps what it knew
            self.send_error(502, str(error))
            return
        body = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
