"""A real Prometheus and a real Alertmanager on loopback, with the alerts of the chart in hurried time, and a receiver.

Hurried: a window of minutes is one of seconds, so that a test needn't wait; what the rules say stays as it is.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import yaml

from e2e.cluster import monitoring
from e2e.cluster.control_plane import free_ports
from e2e.monitor import server
from e2e.monitor.server import Prometheus

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_WINDOW: Final = re.compile(r"(\[|offset )(\d+)([smhd])")
_SHORTEST, _LONGEST = 10, 20
"""Seconds of a hurried window: a scrape is due every two, and what has ended must leave all windows soon."""


def hurried(rules: Mapping[str, Any]) -> dict[str, Any]:
    """The rules with windows of 10 to 20 seconds; what had to last for minutes must for a second."""

    def window(found: re.Match[str]) -> str:
        seconds = int(found[2]) * _UNITS[found[3]] / 60
        return f"{found[1]}{min(max(round(seconds), _SHORTEST), _LONGEST)}s"

    def one(rule: Mapping[str, Any]) -> dict[str, Any]:
        made = {**rule, "expr": _WINDOW.sub(window, rule["expr"])}
        return {**made, "for": "1s" if rule["for"] != "0s" else "0s"} if "alert" in rule else made

    return {"groups": [{"name": g["name"], "rules": [one(rule) for rule in g["rules"]]} for g in rules["groups"]]}


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # a close waits for them


class Receiver:
    """A server for webhooks: those of Alertmanager at /alerts, and at any other path results, which it refuses until
    it is told otherwise."""

    def __init__(self) -> None:
        self.firing: dict[str, dict[str, Any]] = {}
        """Alerts that fire now, by name: the last that was told of each."""
        self.fired: dict[str, dict[str, Any]] = {}
        """Alerts that have ever fired."""
        self.takes_results = False
        self.results = 0
        self._open: dict[str, set[str]] = {}
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def take(self, alert: Mapping[str, Any]) -> None:
        """Notes what Alertmanager says of one alert. Two of a name are told apart by their labels."""
        name, which = alert["labels"]["alertname"], json.dumps(alert["labels"], sort_keys=True)
        of_name = self._open.setdefault(name, set())
        if alert["status"] == "firing":
            of_name.add(which)
            self.firing[name] = self.fired[name] = dict(alert)
        else:
            of_name.discard(which)
        if not of_name:
            self.firing.pop(name, None)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                code = 200
                if self.path == "/alerts":
                    for alert in json.loads(body)["alerts"]:
                        receiver.take(alert)
                else:
                    receiver.results += 1
                    code = 200 if receiver.takes_results else 500
                self.send_response(code)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        return Handler


@contextmanager
def running(
    folder: Path, rules: Mapping[str, Any], targets: Mapping[str, Sequence[int]], receiver: Receiver
) -> Iterator[Prometheus]:
    """Prometheus over these rules, whose alerts the receiver gets. `targets`: job → ports of this machine. The
    namespace of what has none is the job's name: workers are elsewhere than the operator."""
    (managers,) = free_ports(1)
    (folder / "rules.yaml").write_text(yaml.safe_dump(dict(rules)))
    (folder / "alertmanager.yaml").write_text(yaml.safe_dump(_alertmanager(receiver.url)))
    manager = monitoring.alertmanager(
        f"--config.file={folder / 'alertmanager.yaml'}",
        f"--storage.path={folder / 'alertmanager'}",
        f"--web.listen-address=127.0.0.1:{managers}",
        "--cluster.listen-address=",
    )
    config = _prometheus(folder, managers, targets)
    with (
        server.served(manager, managers, folder),
        server.running(folder, config, "--rules.alert.resend-delay=1s") as prometheus,
    ):
        yield prometheus


def _prometheus(folder: Path, managers: int, targets: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    def job(name: str, of: Sequence[int]) -> dict[str, Any]:
        here = {"targets": [f"127.0.0.1:{port}" for port in of], "labels": {"namespace": name}}
        return {"job_name": name, "honor_labels": True, "static_configs": [here]}

    return {
        "global": {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "1s"},
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{managers}"]}]}]},
        "rule_files": [str(folder / "rules.yaml")],
        "scrape_configs": [job(name, of) for name, of in targets.items()],
    }


def _alertmanager(url: str) -> dict[str, Any]:
    waits = {"group_wait": "0s", "group_interval": "1s", "repeat_interval": "1h"}
    return {
        "route": {"receiver": "test", "group_by": ["..."], **waits},
        "receivers": [{"name": "test", "webhook_configs": [{"url": f"{url}/alerts", "send_resolved": True}]}],
    }
