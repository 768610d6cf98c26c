"""From nothing to the first result, pod start included: on a cluster that has Watchbill and its bundled Valkey.

Makes one crew in the release's namespace, and removes it afterwards. Between two samples the crew goes back to zero:
a sample starts when the pod of the one before is gone.
"""

from __future__ import annotations

import base64
import json
import time
import uuid
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from bench.operator_watch import Object, Seen, Watch, store_version
from e2e.cluster import machine
from e2e.cluster.kubectl import Kubectl, KubectlError
from e2e.cluster.machine import ClusterError

from watchbill import cluster_names, connection
from watchbill.client import Client
from watchbill.errors import WatchbillError

VALKEY, VALKEY_PORT = "svc/watchbill-valkey", 6379
READY_SECONDS = 60
RESULT_SECONDS = 120.0
ZERO_SECONDS = 120.0
TOLD_SECONDS = 10.0
"""Seconds that the kubelet may take to say that a container runs."""

STAGES = (
    "submit: the call",
    "submit → scale write",
    "scale write → pod created",
    "pod created → scheduled",
    "scheduled → result",
    "scheduled → container seen running",
    "0 → first result",
)
"""All but the first and the last two follow one upon the other. The kubelet tells of a container up to a second late,
often after the result is there."""


@dataclass
class Found:
    """The measurements, in ms."""

    environment: dict[str, Any] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)
    """The stages of the very first time, which counts for nothing: programs are read from disk, scripts are loaded."""
    stages: dict[str, list[float]] = field(default_factory=lambda: {stage: [] for stage in STAGES})
    wrong: list[str] = field(default_factory=list)
    """Findings that must not be."""


async def measure(kubectl: Kubectl, namespace: str, samples: int) -> Found:
    """On the cluster of that kubectl, where Watchbill is installed in that namespace."""
    with kubectl.port_forward(VALKEY, VALKEY_PORT, namespace=namespace) as port:
        return await measure_through(kubectl, namespace, _url(kubectl, namespace, port), samples)


async def measure_through(kubectl: Kubectl, namespace: str, url: str, samples: int) -> Found:
    """Measures with the store at `url`."""
    found = Found()
    name = f"bench-{uuid.uuid4().hex[:8]}"
    where = f"--namespace={namespace}"
    selector = f"{cluster_names.LABEL_CREW}={name}"
    async with (
        Client(url, namespace=namespace) as client,
        Watch(kubectl, f"/apis/apps/v1/namespaces/{namespace}/deployments", selector=selector) as deployments,
        Watch(kubectl, f"/api/v1/namespaces/{namespace}/pods", selector=selector) as pods,
    ):
        kubectl.apply(_crew(name), namespace=namespace)
        try:
            kubectl("wait", "crew", name, where, "--for=condition=Ready", f"--timeout={READY_SECONDS}s", timeout=90)
            found.environment = await _environment(kubectl, url, namespace)
            given: list[str] = []
            for number in range(samples + 1):
                await _until_zero(deployments, pods)
                stages = await _sample(found, client, name, deployments, pods, given)
                for stage, took in stages.items():
                    if number:
                        found.stages[stage].append(took)
                    else:
                        found.first[stage] = took
                total = stages["0 → first result"] / 1000
                machine.say(f"{f'sample {number} of {samples}' if number else 'the first time'}: {total:.2f} s")
            await _until_zero(deployments, pods)
            await _check(found, client, url, name, given)
        except (KubectlError, TimeoutError, WatchbillError) as error:
            conditions = kubectl("get", "crew", name, where, "--output=jsonpath={.status.conditions}")
            states = [one.get("status") for one in pods.objects.values()]
            reason = (
                f"{type(error).__name__}: {error}\nthe crew: {conditions}\nits pods: {json.dumps(states, indent=1)}"
            )
            raise ClusterError(reason) from error
        finally:
            kubectl("delete", "crew", name, where, "--ignore-not-found", "--wait=true", timeout=90)
    return found


async def _sample(
    found: Found, client: Client, crew: str, deployments: Watch, pods: Watch, given: list[str]
) -> dict[str, float]:
    seen_deployments, seen_pods = len(deployments.events), len(pods.events)
    prompt = uuid.uuid4().hex
    begin = time.perf_counter()
    task = await client.submit(crew, prompt, agent="echo")
    returned = time.perf_counter()
    given.append(task)
    try:
        result = await client.wait(crew, task, timeout=RESULT_SECONDS)
    except TimeoutError:
        raise TimeoutError(f"no result within {RESULT_SECONDS:g} s") from None
    ended = time.perf_counter()
    if not (result.success and result.output == prompt):
        found.wrong.append(f"task {task} gave {result.output!r} ({result.error}) and not {prompt!r}")

    async def pod(condition: Any, what: str) -> Seen:
        return await pods.first(condition, since=seen_pods, within=TOLD_SECONDS, what=what)

    scaled = await deployments.first(
        lambda one: one["spec"]["replicas"] > 0, since=seen_deployments, within=TOLD_SECONDS, what="the scale write"
    )
    created = await pod(lambda _: True, "a pod")
    scheduled = await pod(lambda one: one["spec"].get("nodeName"), "the pod is scheduled")
    stages = {
        "submit: the call": returned - begin,
        "submit → scale write": scaled.at - begin,
        "scale write → pod created": created.at - scaled.at,
        "pod created → scheduled": scheduled.at - created.at,
        "scheduled → result": ended - scheduled.at,
        "0 → first result": ended - begin,
    }
    try:
        running = await pod(_is_running, "the container runs")
        stages["scheduled → container seen running"] = running.at - scheduled.at
    except TimeoutError:  # so short was its life that the kubelet never said so
        pass
    uids = {seen.object["metadata"]["uid"] for seen in pods.events[seen_pods:]}
    if len(uids) != 1:
        found.wrong.append(f"{len(uids)} pods for one task")
    return {stage: 1000 * took for stage, took in stages.items()}


async def _until_zero(deployments: Watch, pods: Watch) -> None:
    """No replica is wanted, its controllers have seen that, and the last pod is gone."""

    def is_zero(deployment: Object) -> bool:
        status = deployment.get("status", {})
        return (
            deployment["spec"]["replicas"] == 0
            and not status.get("replicas")
            and status.get("observedGeneration") == deployment["metadata"]["generation"]
        )

    await deployments.until(
        lambda: deployments.objects and all(map(is_zero, deployments.objects.values())) and not pods.objects,
        within=ZERO_SECONDS,
        what="the crew is at zero, and its pod gone",
        every=0.1,
    )


async def _check(found: Found, client: Client, url: str, crew: str, given: list[str]) -> None:
    """Every task that was given has one result, and nothing is left."""
    async with connection.connected(url) as store:
        entries: Any = await store.xrange(client.keys(crew).results)
    results = sorted(fields["id"] for _, fields in entries)
    if results != sorted(given):
        found.wrong.append(f"{len(given)} tasks were given, and there are {len(results)} results")
    figures = await client.figures(crew)
    if figures.waiting or figures.running:
        found.wrong.append(f"{figures.waiting} tasks wait and {figures.running} run at the end")


async def _environment(kubectl: Kubectl, url: str, namespace: str) -> dict[str, Any]:
    async with connection.connected(url) as store:
        version = store_version(await store.info("server"))
    node = kubectl.items("nodes")[0]["status"]["nodeInfo"]
    words = ("deployments", "--selector=app.kubernetes.io/component=operator", f"--namespace={namespace}")
    containers = [one["spec"]["template"]["spec"]["containers"][0]["image"] for one in kubectl.items(*words)]
    return {
        "Kubernetes": node["kubeletVersion"],
        "runtime": node["containerRuntimeVersion"],
        "store": version,
        "operator": ", ".join(containers),
    }


def _url(kubectl: Kubectl, namespace: str, port: int) -> str:
    """Returns the URL at which this machine reaches the store that the Secret names."""
    secret = kubectl.json("get", "secret", cluster_names.REDIS_SECRET, f"--namespace={namespace}")
    url = urlsplit(base64.b64decode(secret["data"][cluster_names.REDIS_SECRET_KEY]).decode())
    credentials = f"{url.netloc.rpartition('@')[0]}@" if "@" in url.netloc else ""
    return url._replace(netloc=f"{credentials}127.0.0.1:{port}").geturl()


def _is_running(pod: Object) -> bool:
    return any("running" in one.get("state", {}) for one in pod.get("status", {}).get("containerStatuses") or [])


def _crew(name: str) -> Object:
    return {
        "apiVersion": f"{cluster_names.API_GROUP}/{cluster_names.API_VERSION}",
        "kind": "Crew",
        "metadata": {"name": name},
        "spec": {
            "agents": [{"name": "echo", "class": "EchoAgent"}],
            "workers": {"idleSeconds": 1, "maxReplicas": 1},
        },
    }
