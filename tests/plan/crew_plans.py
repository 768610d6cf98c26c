"""A crew, what is seen of it, and what is planned."""

from __future__ import annotations

import copy
import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

from watchbill.api import Crew
from watchbill.plan import children, manifests
from watchbill.plan import crew as plan
from watchbill.plan.drain import Fleet
from watchbill.plan.replicas import Load

IMAGE = "watchbill:1"

DEFAULTS = manifests.Defaults(IMAGE)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)

LATER = NOW + timedelta(minutes=5)

IDLE = Load(0, 0)


def crew(**workers: Any) -> Crew:
    return Crew.model_validate(
        {"metadata": {"name": "blog"}, "spec": {"agents": [{"name": "a", "class": "EchoAgent"}], "workers": workers}}
    )


def seen(of: Crew | None = None, **changes: Any) -> plan.Observed:
    of = of or crew()
    nothing = plan.Observed(
        crew=of,
        namespace="team",
        uid="u1",
        generation=1,
        status={"observedGeneration": -1},
        template=manifests.pod_template(of, "team", DEFAULTS),
        children=[],
        has_service_account=False,
        has_redis_secret=True,
        load=IDLE,
        store_error=None,
        idle_for=None,
    )
    known = {"fleet": None if changes.get("load", IDLE) is None else Fleet()}
    return dataclasses.replace(nothing, **{**known, **changes})


def planned(observed: plan.Observed, now: datetime = NOW) -> plan.Plan:
    return plan.plan(observed, now=now, defaults=DEFAULTS)


def stored(manifest: dict[str, Any], *, version: str = "7", created: str = "", **status: Any) -> children.Child:
    """As the API server has it once it was applied."""
    deployment = copy.deepcopy(manifest)
    deployment["metadata"] |= {"uid": f"uid-{manifest['metadata']['name']}", "resourceVersion": version}
    deployment["metadata"]["creationTimestamp"] = created or "2026-03-01T11:00:00Z"
    deployment["status"] = status
    return children.project(deployment)


def child(of: Crew | None = None, replicas: int = 0, **more: Any) -> children.Child:
    of = of or crew()
    template = manifests.pod_template(of, "team", DEFAULTS)
    return stored(manifests.deployment(of, "team", "u1", template, replicas), **more)


def settled(of: Crew | None = None, replicas: int = 0, **changes: Any) -> plan.Observed:
    """All in place, its status too."""
    there = seen(of, children=[child(of, replicas)], has_service_account=True)
    status = planned(there).status
    assert status is not None
    known = {"fleet": None if changes.get("load", IDLE) is None else Fleet()}
    return dataclasses.replace(there, **{"status": status, **known, **changes})


def conditions(status: dict[str, Any] | None) -> dict[str, tuple[str, str]]:
    assert status is not None
    return {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}


def applied(of: plan.Plan, kind: str = "deployments") -> dict[str, Any]:
    (manifest,) = [m for k, m in of.applies if k == kind]
    return manifest


NEW = crew(image="mine:2")
