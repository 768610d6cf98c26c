"""An API server of external metrics, as KEDA and prometheus-adapter are: the tasks of crews, by the store.

The API server leads to it by an APIService and a Service of type ExternalName, which needs no pod.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from e2e.cluster import machine
from e2e.cluster.control_plane import ControlPlane
from e2e.cluster.kubectl import KubectlError

GROUP: Final = "external.metrics.k8s.io"
VERSION: Final = "v1beta1"
API: Final = f"/apis/{GROUP}/{VERSION}"
METRIC: Final = "watchbill_tasks"
WITHIN: Final = 120.0

Tasks = Callable[[str, str], int]
"""Namespace and name of a crew → its tasks that wait or run."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    tasks: Tasks

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        match url.path.removeprefix(API).split("/"):
            case [""] if url.path == API:
                resource = {"name": METRIC, "namespaced": True, "kind": "ExternalMetricValueList", "verbs": ["get"]}
                self._answer(200, "APIResourceList", "v1", groupVersion=f"{GROUP}/{VERSION}", resources=[resource])
            case ["", "namespaces", namespace, metric] if metric == METRIC:
                (selector,) = parse_qs(url.query)["labelSelector"]
                crew = unquote(selector).removeprefix("crew=")
                now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
                value = str(type(self).tasks(namespace, crew))
                item = {"metricName": METRIC, "metricLabels": {"crew": crew}, "timestamp": now, "value": value}
                self._answer(200, "ExternalMetricValueList", f"{GROUP}/{VERSION}", metadata={}, items=[item])
            case _:
                self._answer(404, "Status", "v1", status="Failure", reason="NotFound")

    def _answer(self, code: int, kind: str, version: str, **content: Any) -> None:
        body = json.dumps({"kind": kind, "apiVersion": version, **content}).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


@contextmanager
def serving(plane: ControlPlane, namespace: str, tasks: Tasks) -> Iterator[None]:
    """The API server serves the metric for as long as the block lasts. `namespace`: of the Service."""
    handler = type("Handler", (_Handler,), {"tasks": staticmethod(tasks)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(plane.folder / "apiserver.crt", plane.folder / "apiserver.key")
    # a client that says nothing holds its own thread, and for a minute
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    running = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    running.start()
    try:
        with _registered(plane, namespace, server.server_port):
            yield
    finally:
        server.shutdown()
        running.join()
        server.server_close()


@contextmanager
def _registered(plane: ControlPlane, namespace: str, port: int) -> Iterator[None]:
    name = f"{VERSION}.{GROUP}"
    service = {"name": "metrics", "namespace": namespace}
    plane.kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": service,
            "spec": {"type": "ExternalName", "externalName": "localhost"},
        },
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": name},
            "spec": {
                "group": GROUP,
                "version": VERSION,
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "insecureSkipTLSVerify": True,  # its certificate is the API server's own, for another name
                "service": {**service, "port": port},
            },
        },
    )
    try:
        plane.kubectl("wait", f"apiservice/{name}", "--for=condition=Available", f"--timeout={WITHIN:.0f}s")
        yield
    finally:
        plane.kubectl("delete", "apiservice", name)

        def gone() -> bool:
            """A group that is listed and not served would keep namespaces from being deleted."""
            try:
                plane.kubectl("get", "--raw", f"/apis/{GROUP}")
            except KubectlError as error:
                return "NotFound" in error.stderr
            return False

        machine.until(gone, within=WITHIN, what="external metrics are no part of the API")
