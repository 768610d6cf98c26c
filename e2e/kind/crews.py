"""Manifests of the tests' crews, and of a store that is no part of the release."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from e2e.cluster.install import Images

AGENTS = Path(__file__).with_name("sample_agents.py")
STORE = "store"
_PASSWORD = "of-the-tests"

Object = dict[str, Any]


def crew(name: str, agent: str = "EchoAgent", **workers: Any) -> Object:
    """A crew with one agent, `one`, and `spec.workers`."""
    return {
        "apiVersion": "watchbill.dev/v1alpha1",
        "kind": "Crew",
        "metadata": {"name": name},
        "spec": {"agents": [{"name": "one", "class": agent}], "workers": workers},
    }


def sample(
    name: str,
    agent: str,
    *,
    pod: Mapping[str, Any] | None = None,
    container: Mapping[str, Any] | None = None,
    lease_seconds: int = 15,
    **workers: Any,
) -> list[Object]:
    """A crew whose agent is one of sample_agents.py, and the ConfigMap from which its workers have it. `pod`,
    `container`: more of the workers' template. `lease_seconds`: where no task may begin again, a worker must not lose
    its lease because the machine is busy."""
    worker = {"name": "worker", "volumeMounts": [{"name": "agents", "mountPath": "/agents"}], **(container or {})}
    volume = {"name": "agents", "configMap": {"name": name}}
    template = {"spec": {"containers": [worker], "volumes": [volume], **(pod or {})}}
    data = {AGENTS.name: AGENTS.read_text()}
    made = crew(name, f"{AGENTS.stem}:{agent}", template=template, **workers)
    made["spec"]["tasks"] = {"leaseSeconds": lease_seconds}
    return [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}, made]


def store(images: Images, namespace: str) -> list[Object]:
    """A store of one's own, and the Secret that leads the release and its workers to it."""
    container = {
        "name": STORE,
        "image": images.valkey,
        "args": ["--requirepass", _PASSWORD, "--save", "", "--dir", "/tmp"],
        "readinessProbe": {"tcpSocket": {"port": 6379}, "periodSeconds": 1},
    }
    url = f"redis://:{_PASSWORD}@{STORE}.{namespace}.svc:6379/0"
    return [
        pod(STORE, container),
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": STORE},
            "spec": {"selector": {"app": STORE}, "ports": [{"port": 6379}]},
        },
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "watchbill-redis"}, "stringData": {"url": url}},
    ]


def pod(name: str, container: Object) -> Object:
    """A pod of its own, as the restricted Pod Security Standard wants it."""
    own = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    security = {"runAsNonRoot": True, "runAsUser": 999, "seccompProfile": {"type": "RuntimeDefault"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"securityContext": security, "containers": [{**container, "securityContext": own}]},
    }
