"""What the status of a Crew says word by word, and why workers are as many as they are."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any

import pytest

from watchbill.api import Crew
from watchbill.api.conditions import Reason
from watchbill.plan import children, manifests
from watchbill.plan import crew as plan
from watchbill.plan.drain import Fleet
from watchbill.plan.replicas import Decision, Load

pytestmark = pytest.mark.pure

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DEFAULTS = manifests.Defaults("watchbill:1")
META = {"name": "n", "uid": "u", "resourceVersion": "7"}


def crew(**workers: Any) -> Crew:
    return Crew.model_validate(
        {"metadata": {"name": "blog"}, "spec": {"agents": [{"name": "a", "class": "EchoAgent"}], "workers": workers}}
    )


def child(of: Crew, replicas: int, **changes: Any) -> children.Child:
    """The Deployment of this crew as the API server has it, with these fields of its projection changed."""
    template = manifests.pod_template(of, "team", DEFAULTS)
    made = manifests.deployment(of, "team", "u1", template, replicas)
    made["metadata"] |= {"uid": "u", "resourceVersion": "7"}
    return dataclasses.replace(children.project(made), **changes)


def planned(of: Crew | None = None, **changes: Any) -> plan.Plan:
    of = of or crew()
    seen: dict[str, Any] = {
        "namespace": "team",
        "uid": "u1",
        "generation": 1,
        "status": {},
        "template": manifests.pod_template(of, "team", DEFAULTS),
        "children": [child(of, 0)],
        "has_service_account": True,
        "has_redis_secret": True,
        "load": Load(0, 0),
        "store_error": None,
        "idle_for": None,
        "fleet": None if "load" in changes and changes["load"] is None else Fleet(),
    }
    return plan.plan(plan.Observed(crew=of, **(seen | changes)), now=NOW, defaults=DEFAULTS)


WAITING_SINCE = datetime(2026, 3, 1, 11, 54, 59, tzinfo=UTC)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ["Ready True Available: the crew takes work"]),
        (
            {"children": []},
            [
                "Ready False Progressing: the workers' Deployment is being made",
                "Reconciling True Progressing: the workers' Deployment is being made",
            ],
        ),
        (
            {"load": None, "store_error": "refused"},
            ["Ready False StoreUnavailable: the store doesn't answer; workers are held as they are: refused"],
        ),
        (
            {"agents_loaded": False},
            [
                "Ready True AgentsUnchecked: the crew takes work; no worker has loaded all of its agents yet. "
                "One that tried in vain has logged why"
            ],
        ),
        (
            {"has_redis_secret": False},
            [
                f"{kind} RedisSecretMissing: there is no Secret 'watchbill-redis' in namespace 'team'. Create it with "
                "the store's URL as its key 'url', or name another in workers.redisSecretRef"
                for kind in ("Ready False", "Stalled True")
            ],
        ),
        (
            {"unavailable": [f"a{number}" for number in range(11)]},
            [
                f"{kind} AgentUnavailable: tasks wait for a worker that can load the agents 'a0', 'a1', 'a2', 'a3', "
                "'a4', 'a5', 'a6', 'a7', 'a8', 'a9' and 1 more. The crew's events say why (watchbill events "
                "team/blog); build them into workers.image, or mend their class"
                for kind in ("Ready False", "Stalled True")
            ],
        ),
        (
            {"unavailable": [f"a{number}" for number in range(10)]},
            [
                f"{kind} AgentUnavailable: tasks wait for a worker that can load the agents 'a0', 'a1', 'a2', 'a3', "
                "'a4', 'a5', 'a6', 'a7', 'a8', 'a9'. The crew's events say why (watchbill events team/blog); "
                "build them into workers.image, or mend their class"
                for kind in ("Ready False", "Stalled True")
            ],
        ),
        (
            {"children": [child(crew(), 2, unavailable_since=WAITING_SINCE)], "load": Load(20, 0)},
            [
                f"{kind} WorkersUnavailable: workers don't start: Deployment '{child(crew(), 2).name}' wants 2 "
                "workers, and none has been ready since 2026-03-01T11:54:59Z"
                for kind in ("Ready False", "Stalled True")
            ],
        ),
        ({"denied": "quota"}, ["Ready False Forbidden: quota", "Stalled True Forbidden: quota"]),
        (
            {"fault": (Reason.FLOW_CYCLE, "a -> a"), "denied": "quota", "load": None},
            ["Ready False FlowCycle: a -> a", "Stalled True FlowCycle: a -> a"],
        ),
    ],
    ids=lambda value: next(iter(value), "ready") if isinstance(value, dict) else "",
)
def test_a_status_says_what_is_and_what_to_do_about_it(changes: dict[str, Any], said: list[str]) -> None:
    status = planned(**changes).status
    assert status is not None
    assert [f"{c['type']} {c['status']} {c['reason']}: {c['message']}" for c in status["conditions"]] == said


@pytest.mark.parametrize(
    ("workers", "changes", "scaled"),
    [
        ({"scaling": {"mode": "External"}, "replicas": 4}, {}, Decision(4, "external")),
        ({}, {"load": Load(11, 0)}, Decision(2, "scale-up")),
        ({"idleSeconds": 30}, {"children": 2, "idle_for": 30.0}, Decision(0, "idle")),
        ({"minReplicas": 1}, {"children": 3, "idle_for": 300.0}, Decision(1, "idle")),
        ({"maxReplicas": 2}, {"children": 3, "load": Load(0, 1)}, Decision(2, "bounds")),
        ({}, {"children": 2, "idle_for": 299.0}, None),
        ({}, {"children": 2, "load": None}, None),
    ],
)
def test_a_change_of_scale_says_why(workers: dict[str, Any], changes: dict[str, Any], scaled: Decision | None) -> None:
    of = crew(**workers)
    children = [child(of, changes.pop("children", 0))]
    assert planned(of, children=children, **changes).scaled == scaled


def test_without_its_secret_a_crew_that_has_no_workers_gets_none_and_any_other_is_scaled() -> None:
    ((_, made),) = planned(crew(minReplicas=2), children=[], has_redis_secret=False, load=Load(50, 0)).applies
    assert made["spec"]["replicas"] == 0
    assert planned(has_redis_secret=False, load=Load(11, 0)).applies == ()
    there = [child(crew(), 1)]
    assert planned(children=there, has_redis_secret=False, load=Load(11, 0)).scaled == Decision(2, "scale-up")


def test_of_several_old_revisions_the_newest_stands_in_and_of_two_as_new_the_last_by_name() -> None:
    times = ("2026-03-01T10:00:00Z", "2026-03-01T11:00:00Z", "2026-03-01T11:00:00Z")
    old = [child(crew(image=f"old:{i}"), 1, created=time, name=f"blog-{2 - i}") for i, time in enumerate(times)]
    assert planned(children=old, denied="quota", load=Load(60, 0)).sizes == ((old[1], 5),)


@pytest.mark.parametrize(
    ("conditions", "trouble"),
    [
        ([{"type": "ReplicaFailure", "status": "True", "message": "quota", "reason": "FailedCreate"}], "quota"),
        ([{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate"}], "FailedCreate"),
        ([{"type": "ReplicaFailure", "status": "True"}], "unknown"),
        ([{"type": "Progressing", "status": "False", "message": 'pods "a-b" is late'}], "pods is late"),
        ([{"type": "Progressing", "status": "False", "message": 'the pods "a-b" are late'}], 'the pods "a-b" are late'),
        (
            [
                {"type": "Progressing", "status": "False", "message": "late"},
                {"type": "ReplicaFailure", "status": "True", "message": "quota"},
            ],
            "quota",
        ),
        ([{"type": "ReplicaFailure", "status": "Unknown", "message": "quota"}], ""),
    ],
)
def test_the_trouble_of_a_deployment_is_what_its_controller_says_of_it(
    conditions: list[dict[str, str]], trouble: str
) -> None:
    assert children.project({"metadata": META, "status": {"conditions": conditions}}).trouble == trouble


@pytest.mark.parametrize(
    ("available", "since"),
    [
        ({"status": "False", "lastTransitionTime": "2026-03-01T12:54:59+01:00"}, WAITING_SINCE.replace(minute=54)),
        ({"status": "False", "lastTransitionTime": ""}, None),
        ({"status": "False"}, None),
        ({"status": "True", "lastTransitionTime": "2026-03-01T11:54:59Z"}, None),
    ],
)
def test_a_deployment_is_unavailable_since_the_time_that_its_controller_says(
    available: dict[str, str], since: datetime | None
) -> None:
    seen = children.project({"metadata": META, "status": {"conditions": [{"type": "Available", **available}]}})
    assert seen.unavailable_since == since


def test_figures_are_those_of_the_store_or_the_last_that_were_known() -> None:
    known = {"waiting": 3, "running": 4, "replicas": 9}
    for load, figures in ((Load(1, 2), {"waiting": 1, "running": 2}), (None, {"waiting": 3, "running": 4})):
        status = planned(load=load, status=known).status
        assert status is not None
        assert {key: status[key] for key in ("waiting", "running")} == figures
    assert "running" not in (planned(load=None, status={"waiting": 3}).status or {})


def test_a_refusal_is_remembered_for_its_revision_and_generation_only() -> None:
    revision = manifests.revision(manifests.pod_template(crew(), "team", DEFAULTS))
    stalled = {
        "type": "Stalled",
        "status": "True",
        "reason": "TemplateInvalid",
        "message": plan.refused_message(revision, "no such field"),
        "lastTransitionTime": "2026-03-01T11:00:00Z",
        "observedGeneration": 1,
    }
    theirs = {"type": "Audited", "status": "True", "reason": "Theirs", "message": ""}
    for change, is_refused in (
        ({}, True),
        ({"type": "Ready"}, False),
        ({"reason": "Forbidden"}, False),
        ({"observedGeneration": 2}, False),
        ({"message": plan.refused_message("another", "no such field")}, False),
    ):
        made = planned(children=[], status={"conditions": [theirs, stalled | change]})
        assert (made.applies == ()) is is_refused, change
    assert plan.refused_message("r", "why") == "template revision r: why"
