"""A crew, and its workers' pods."""

from __future__ import annotations

from typing import Any

from watchbill.api import Crew
from watchbill.plan import manifests

IMAGE = "watchbill:1"

DEFAULTS = manifests.Defaults(IMAGE)

UID = "0b6f2f5e-0000-0000-0000-000000000001"


def crew(**workers: Any) -> Crew:
    return Crew.model_validate(
        {
            "metadata": {"name": "blog"},
            "spec": {"agents": [{"name": "a", "class": "EchoAgent"}], "workers": workers},
        }
    )


def template(defaults: manifests.Defaults = DEFAULTS, **workers: Any) -> dict[str, Any]:
    return manifests.pod_template(crew(**workers), "team", defaults)


def worker(of: dict[str, Any]) -> dict[str, Any]:
    return next(c for c in of["spec"]["containers"] if c["name"] == "worker")


def env(of: dict[str, Any]) -> dict[str, Any]:
    return {e["name"]: e for e in worker(of)["env"]}


def patched(pod: dict[str, Any], container: dict[str, Any] | None = None) -> dict[str, Any]:
    spec = {**pod, **({"containers": [{"name": "worker", **container}]} if container else {})}
    return template(template={"spec": spec})
