"""The release of the chart in its namespace, for the tests: its store, its crews and their pods."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

import redis

from e2e.cluster import install, machine
from e2e.cluster.install import Images
from e2e.cluster.kind import Cluster
from e2e.cluster.kubectl import Kubectl
from e2e.kind import crews
from watchbill.client import Client
from watchbill.names import CrewKeys

T = TypeVar("T")

NAMESPACE = "watchbill-e2e"
SOON = 240.0
"""Seconds: for what starts or ends pods, on a busy machine."""


class Team:
    """The namespace with the release, its store and its crews."""

    def __init__(
        self,
        kubectl: Kubectl,
        cluster: Cluster,
        images: Images,
        *,
        chart: Path = install.CHART,
        own_store: bool = False,
    ) -> None:
        """`own_store`: the store is a pod of its own, and not the chart's."""
        self._kubectl = kubectl
        self._chart = chart
        self._own_store = own_store
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
        return self.kubectl("exec", "-i", "deploy/watchbill", "--", "watchbill", *words, stdin=stdin)

    def told(self, *words: str) -> str:
        """The answer of the command line on this machine, with the rights of the current kubeconfig."""
        with self.store() as url:
            environment = {"KUBECONFIG": str(self.cluster.kubeconfig), "WATCHBILL_REDIS_URL": url}
            return machine.run([sys.executable, "-m", "watchbill", *words], env=environment)

    def submit(self, crew: str, prompt: str) -> str:
        """A task's id, without waiting for its end."""
        return self.watchbill("submit", "--namespace", NAMESPACE, crew, prompt).strip()

    def result(self, crew: str, prompt: str) -> Any:
        said = self.watchbill("submit", "--namespace", NAMESPACE, crew, prompt, "--wait", "--output=json")
        return json.loads(said)["output"]

    def pods(self, *names: str) -> list[dict[str, Any]]:
        return list(self.get("pods", f"--selector={_of(names)}")["items"])

    def runner(self, crew: str) -> str:
        """The pod that runs the crew's one task; empty if none does."""
        with self.store() as url, connected(url) as client:
            held: Any = client.hvals(CrewKeys(NAMESPACE, crew).holders)
        pods = [pod["metadata"]["name"] for pod in self.pods(crew)]
        return next((pod for pod in pods for value in held if pod in value), "")

    def workers(self, crew: str) -> int:
        return int(self.get("crew", crew).get("status", {}).get("replicas", 0))

    def until_ready(self, crew: str) -> None:
        self.kubectl("wait", f"crew/{crew}", "--for=condition=Ready", f"--timeout={SOON:.0f}s", timeout=SOON + 30)

    def until_runs(self, crew: str) -> str:
        """The pod that runs the crew's one task, once one does."""
        return machine.until(lambda: self.runner(crew), within=SOON, what=f"a worker of {crew} runs its task")

    def wait(self, crew: str, task: str) -> Any:
        """The result of a task or run."""
        return self.with_client(lambda client: client.wait(crew, task, timeout=SOON))

    def until_pods(self, crew: str, count: int, within: float = SOON) -> list[dict[str, Any]]:
        """So many, all of them ready."""

        def there() -> list[dict[str, Any]]:
            pods = self.pods(crew)
            return pods if len(pods) == count and all(map(_is_ready, pods)) else []

        return machine.until(there, within=within, what=f"{count} pods of {crew}", every=0.3)

    @contextmanager
    def pod_events(self, *names: str) -> Iterator[Callable[[], list[Any]]]:
        """A call gives the events of a watch on the pods of these crews, from the beginning of the block on."""
        query = urlencode({"watch": 1, "labelSelector": _of(names)})
        path = f"/api/v1/namespaces/{NAMESPACE}/pods?{query}"
        with self._kubectl.lines("get", f"--raw={path}") as lines:
            yield lambda: [json.loads(line) for line in lines()]

    @contextmanager
    def store(self) -> Iterator[str]:
        """The URL at which this machine reaches the store."""
        data = self.get("secret", "watchbill-redis")["data"]
        url = urlsplit(base64.b64decode(data["url"]).decode())
        service = (url.hostname or "").partition(".")[0]
        with self._kubectl.port_forward(f"service/{service}", 6379, namespace=NAMESPACE) as port:
            found = f"redis://:{url.password}@127.0.0.1:{port}/0"
            with connected(found) as client:  # a client of ours gives up in ten seconds, which a busy machine may take
                client.ping()
            yield found

    def keys(self, crew: str) -> set[str]:
        """All that the store has of a crew."""
        with self.store() as url, connected(url) as client:
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

    def install(self, **values: Any) -> None:
        """Installs the release, with its store, or upgrades it to these values and no others."""
        if self._own_store:
            self.kubectl("wait", "serviceaccount/default", "--for=create", "--timeout=300s", timeout=360)
            self.apply(*crews.store(self.images, NAMESPACE))
            self.kubectl("wait", f"pod/{crews.STORE}", "--for=condition=Ready", "--timeout=300s", timeout=360)
        if self._own_store:
            values["valkey"] = {"enabled": False}
        install.install(self.cluster, self.images, namespace=NAMESPACE, chart=self._chart, values=values)

    def uninstall(self) -> None:
        """Uninstalls the release. A store of its own stays."""
        where = f"--namespace={NAMESPACE}"
        install.helm(self.cluster, "uninstall", install.RELEASE, where, "--ignore-not-found", "--wait")


def patient(script: str) -> str:
    """The script, with time for a busy machine where it leaves `kubectl wait` its 30 s."""
    return re.sub(r"(?m)^(?!.*--timeout)(kubectl wait .*)$", rf"\1 --timeout={SOON:.0f}s", script)


def connected(url: str) -> redis.Redis:
    """A client of the store, which waits for answers as long as a busy machine may need."""
    return redis.Redis.from_url(url, decode_responses=True, socket_timeout=SOON, socket_connect_timeout=SOON)


@contextmanager
def released(
    kubectl: Kubectl, cluster: Cluster, made: Images, chart: Path = install.CHART, *, own_store: bool = False
) -> Iterator[Team]:
    """The chart is installed in the namespace, which enforces the restricted Pod Security Standard. Afterwards all of
    it is gone. For `own_store` see Team."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
    team = Team(kubectl, cluster, made, chart=chart, own_store=own_store)
    try:
        team.install()
        yield team
        log = kubectl("logs", f"--namespace={NAMESPACE}", "deploy/watchbill")
        assert "Traceback" not in log, log
    finally:
        print(kubectl("logs", f"--namespace={NAMESPACE}", "deploy/watchbill", "--tail=100"))
        # The crews first, while somebody is there to clear up after them, and a store for their workers to leave.
        kubectl("delete", "crews", "--all", f"--namespace={NAMESPACE}", "--ignore-not-found")
        workers = ("pods", "--selector=watchbill.dev/crew", f"--namespace={NAMESPACE}")
        machine.until(lambda: not kubectl.items(*workers), within=3 * SOON, what="no worker is left", every=0.5)
        team.uninstall()
        kubectl("delete", "namespace", NAMESPACE, "--timeout=300s", timeout=360)
        kubectl.delete_crds("crews.watchbill.dev", "heartbeats.watchbill.dev")


def _of(names: Sequence[str]) -> str:
    return f"watchbill.dev/crew in ({','.join(names)})"


def _is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = {c["type"]: c["status"] for c in pod["status"].get("conditions", [])}
    return conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]
