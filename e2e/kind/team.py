"""The release of the chart in its namespace, for the tests: its store, its crews and their pods."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import redis

from e2e.cluster import install, machine
from e2e.cluster.install import Images
from e2e.cluster.kind import Cluster
from e2e.cluster.kubectl import Kubectl
from watchbill.client import Client

T = TypeVar("T")

NAMESPACE = "watchbill-e2e"
SOON = 60.0
"""Seconds: for what starts or ends pods, on a busy machine."""


class Team:
    """The namespace with the release, its store and its crews."""

    def __init__(self, kubectl: Kubectl, cluster: Cluster, images: Images) -> None:
        self._kubectl = kubectl
        self.cluster = cluster
        self.images = images

    def kubectl(self, *words: str | Path, **more: Any) -> str:
        return self._kubectl(f"--namespace={NAMESPACE}", *words, **more)

    def get(self, *words: str) -> Any:
        return self._kubectl.json("get", f"--namespace={NAMESPACE}", *words)

    def apply(self, *objects: Mapping[str, Any]) -> None:
        self._kubectl.apply(*map(dict, objects), namespace=NAMESPACE)

    def watchbill(self, *words: str, stdin: str | None = None) -> str:
        """The command line, in the operator's pod."""
        return self.kubectl("exec", "-i", "deploy/watchbill", "--", "watchbill", *words, stdin=stdin, timeout=120)

    def submit(self, crew: str, prompt: str) -> str:
        """A task's id, without waiting for its end."""
        return self.watchbill("submit", "--namespace", NAMESPACE, crew, prompt).strip()

    def result(self, crew: str, prompt: str) -> Any:
        said = self.watchbill("submit", "--namespace", NAMESPACE, crew, prompt, "--wait", "--output=json")
        return json.loads(said)["output"]

    def pods(self, crew: str) -> list[dict[str, Any]]:
        return list(self.get("pods", f"--selector=watchbill.dev/crew={crew}")["items"])

    def workers(self, crew: str) -> int:
        return int(self.get("crew", crew).get("status", {}).get("replicas", 0))

    def until_ready(self, crew: str) -> None:
        self.kubectl("wait", f"crew/{crew}", "--for=condition=Ready", "--timeout=60s", timeout=90)

    def until_pods(self, crew: str, count: int, within: float = SOON) -> list[dict[str, Any]]:
        """So many, all of them ready."""

        def there() -> bool:
            pods = self.pods(crew)
            return len(pods) == count and all(map(_is_ready, pods))

        machine.until(there, within=within, what=f"{count} pods of {crew}", every=0.3)
        return self.pods(crew)

    @contextmanager
    def store(self) -> Iterator[str]:
        """The URL at which this machine reaches the bundled Valkey."""
        data = self.get("secret", "watchbill-redis")["data"]
        url = urlsplit(base64.b64decode(data["url"]).decode())
        with self._kubectl.port_forward("service/watchbill-valkey", 6379, namespace=NAMESPACE) as port:
            yield f"redis://:{url.password}@127.0.0.1:{port}/0"

    def keys(self, crew: str) -> set[str]:
        """All that the store has of a crew."""
        with self.store() as url, redis.Redis.from_url(url, decode_responses=True) as client:
            found = {str(key) for key in client.scan_iter(match=f"*{crew}*", count=1000)}
            if client.sismember(f"crew:{{{NAMESPACE}}}:list", crew):
                found.add("the list of crews")
            return found

    def with_client(self, call: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
        async def work(url: str) -> T:
            async with Client(url, namespace=NAMESPACE) as client:
                return await call(client)

        with self.store() as url:
            return asyncio.run(work(url))


@contextmanager
def released(kubectl: Kubectl, cluster: Cluster, made: Images, chart: Path = install.CHART) -> Iterator[Team]:
    """The chart is installed in the namespace, which enforces the restricted Pod Security Standard. Afterwards all of
    it is gone."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
    try:
        install.install(cluster, made, namespace=NAMESPACE, chart=chart)
        yield Team(kubectl, cluster, made)
        log = kubectl("logs", f"--namespace={NAMESPACE}", "deploy/watchbill")
        assert "Traceback" not in log, log
    finally:
        print(kubectl("logs", f"--namespace={NAMESPACE}", "deploy/watchbill", "--tail=100"))
        # The crews first, while somebody is there to clear up after them, and a store for their workers to leave.
        kubectl("delete", "crews", "--all", f"--namespace={NAMESPACE}", "--ignore-not-found")
        workers = ("pods", "--selector=watchbill.dev/crew", f"--namespace={NAMESPACE}")
        machine.until(lambda: not kubectl.items(*workers), within=3 * SOON, what="no worker is left", every=0.5)
        install.helm(cluster, "uninstall", install.RELEASE, f"--namespace={NAMESPACE}", "--ignore-not-found")
        kubectl("delete", "namespace", NAMESPACE, "--timeout=90s", timeout=120)
        kubectl.delete_crds("crews.watchbill.dev", "heartbeats.watchbill.dev")


def _is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = {c["type"]: c["status"] for c in pod["status"].get("conditions", [])}
    return conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]
