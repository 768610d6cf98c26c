"""Plans for crews with something wrong, and for workers that can't start."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import pytest
from crew_plans import DEFAULTS, IDLE, LATER, NEW, NOW, applied, child, conditions, crew, planned, seen, settled

from watchbill.api import Crew
from watchbill.api.conditions import Reason
from watchbill.plan import crew as plan
from watchbill.plan import manifests
from watchbill.plan.drain import Fleet, Worker
from watchbill.plan.replicas import Load

pytestmark = pytest.mark.pure

# ---------------------------------------------------------------- what is wrong


def test_a_missing_secret_is_said_with_its_name_and_starts_nothing() -> None:
    made = planned(seen(has_redis_secret=False, load=Load(5, 0)))
    assert conditions(made.status) == {
        "Ready": ("False", "RedisSecretMissing"),
        "Stalled": ("True", "RedisSecretMissing"),
    }
    assert made.status is not None
    assert "'watchbill-redis'" in made.status["conditions"][0]["message"]
    assert "'team'" in made.status["conditions"][0]["message"]
    assert applied(made)["spec"]["replicas"] == 0


def test_a_secret_that_vanishes_does_not_stop_workers_that_run() -> None:
    made = planned(settled(replicas=3, has_redis_secret=False, load=Load(0, 5)))
    assert made.applies == ()
    assert conditions(made.status)["Stalled"] == ("True", "RedisSecretMissing")


@pytest.mark.parametrize("replicas", [0, 3])
def test_while_the_store_is_away_workers_are_held_and_the_status_says_why(replicas: int) -> None:
    made = planned(settled(replicas=replicas, load=None, store_error="connection refused", idle_for=None))
    assert made.applies == ()
    assert made.deletes == ()
    assert conditions(made.status) == {"Ready": ("False", "StoreUnavailable")}
    assert made.status is not None
    assert "connection refused" in made.status["conditions"][0]["message"]


def test_while_the_store_is_away_the_last_known_figures_stay() -> None:
    known = settled(load=Load(3, 4), replicas=1)
    made = planned(dataclasses.replace(known, status={**known.status, "waiting": 3, "running": 4}, load=None))
    assert made.status is not None
    assert (made.status["waiting"], made.status["running"]) == (3, 4)


def test_when_the_store_is_back_the_crew_is_ready_again() -> None:
    down = planned(settled(load=None, store_error="away"))
    assert down.status is not None
    up = planned(settled(status=down.status), LATER)
    assert conditions(up.status) == {"Ready": ("True", "Available")}


def test_with_a_store_that_may_delete_work_a_crew_stays_ready_and_says_so_once() -> None:
    before = settled()
    told = planned(dataclasses.replace(before, evicts="the policy is 'allkeys-lru'. Set it"), LATER)
    assert told.status is not None
    assert conditions(told.status) == {"Ready": ("True", "StoreEvicts")}
    (ready,) = told.status["conditions"]
    assert ready["message"] == "the crew takes work, but the policy is 'allkeys-lru'. Set it"
    assert ready["lastTransitionTime"] == before.status["conditions"][0]["lastTransitionTime"]
    assert planned(settled(status=told.status, evicts="the policy is 'allkeys-lru'. Set it")).status is None
    mended = planned(settled(status=told.status))
    assert conditions(mended.status) == {"Ready": ("True", "Available")}


def test_agents_that_no_worker_has_loaded_are_said_to_be_unchecked() -> None:
    unchecked = planned(settled(agents_loaded=False))
    assert unchecked.status is not None
    assert conditions(unchecked.status) == {"Ready": ("True", "AgentsUnchecked")}
    assert conditions(planned(settled(status=unchecked.status)).status) == {"Ready": ("True", "Available")}


def test_what_stops_a_crew_comes_before_what_its_store_may_do() -> None:
    assert conditions(planned(settled(evicts="x", has_redis_secret=False)).status)["Ready"][1] == "RedisSecretMissing"
    away = planned(settled(evicts="x", load=None, store_error="away"))
    assert conditions(away.status)["Ready"][1] == "StoreUnavailable"


def refused(of: Crew, **changes: Any) -> plan.Observed:
    """The server has just refused the crew's template."""
    revision = manifests.revision(manifests.pod_template(of, "team", DEFAULTS))
    return seen(of, refusal=(revision, "spec.x: unknown field"), has_service_account=True, **changes)


def test_a_template_that_was_refused_is_not_applied_again_and_its_status_says_why() -> None:
    made = planned(refused(crew()))
    assert made.applies == ()
    assert conditions(made.status) == {"Ready": ("False", "TemplateInvalid"), "Stalled": ("True", "TemplateInvalid")}
    assert made.status is not None
    assert made.status["conditions"][1]["message"].endswith(": spec.x: unknown field")


def test_what_was_refused_is_known_from_the_status_alone_until_spec_or_template_change() -> None:
    made = planned(refused(crew()))
    assert made.status is not None
    again = planned(seen(crew(), status=made.status, has_service_account=True), LATER)
    assert again.applies == ()
    assert again.status is None
    assert planned(seen(crew(), status=made.status, generation=2)).applies
    template = manifests.pod_template(crew(), "team", manifests.Defaults("watchbill:2"))
    other_image = planned(seen(crew(), status=made.status, template=template))
    assert other_image.applies, "an operator with another image never tried its template"


@pytest.mark.parametrize(("load", "idle_for", "size"), [(Load(25, 0), None, 3), (IDLE, 1e9, 0)])
def test_while_a_template_is_refused_the_newest_revision_before_it_is_scaled(
    load: Load | None, idle_for: float | None, size: int
) -> None:
    older = child(crew(image="mine:0"), created="2026-03-01T09:00:00Z")
    old = dataclasses.replace(child(crew(), 1, created="2026-03-01T10:00:00Z"), ready=1)
    made = planned(refused(NEW, children=[old, older], load=load, idle_for=idle_for))
    assert made.applies == ()
    assert (made.sizes, made.deletes) == (((old, size),), (older,))
    assert made.scaled is not None
    assert conditions(made.status)["Stalled"] == ("True", "TemplateInvalid")


def test_what_is_forbidden_is_said_and_does_not_stop_the_scaling_of_what_there_is() -> None:
    made = planned(settled(NEW, children=[child(crew(), 1)], load=Load(25, 0), denied="exceeded quota"))
    assert made.applies == ()
    assert made.sizes == ((child(crew(), 1), 3),)
    assert conditions(made.status)["Stalled"] == ("True", "Forbidden")


def test_a_crew_that_is_anothers_gets_no_workers_and_keeps_those_it_has() -> None:
    external = crew(scaling={"mode": "External"}, replicas=3)
    fault = (Reason.OWNER_CONFLICT, "another's")
    new = planned(seen(external, load=None, fault=fault))
    assert (new.applies, new.sizes, new.deletes) == ((), (), ())
    assert conditions(new.status) == {"Ready": ("False", "OwnerConflict"), "Stalled": ("True", "OwnerConflict")}
    old = planned(settled(external, 1, load=None, fault=fault))
    assert (old.applies, old.sizes, old.deletes) == ((), (), ())


def test_a_cycle_is_said_as_it_is() -> None:
    made = planned(seen(fault=(Reason.FLOW_CYCLE, "a -> b -> a"), load=None))
    assert conditions(made.status) == {"Ready": ("False", "FlowCycle"), "Stalled": ("True", "FlowCycle")}


def test_workers_of_a_crew_whose_new_definition_is_refused_are_scaled_by_the_work_of_the_old_one() -> None:
    made = planned(settled(fault=(Reason.FLOW_CYCLE, "a -> b -> a"), load=Load(25, 0)))
    assert applied(made)["spec"]["replicas"] == 3


def test_a_fault_does_not_stop_workers_that_run() -> None:
    made = planned(settled(replicas=3, load=None, fault=(Reason.FLOW_CYCLE, "a -> b -> a")))
    assert made.applies == ()
    assert made.deletes == ()


def test_tasks_without_a_worker_that_has_their_agent_are_told() -> None:
    made = planned(settled(unavailable=["critic", "writer"]))
    assert conditions(made.status)["Stalled"] == ("True", "AgentUnavailable")
    assert made.status is not None
    assert "'critic', 'writer'" in made.status["conditions"][0]["message"]


def test_tasks_of_a_role_that_no_agent_has_are_told() -> None:
    made = planned(settled(unavailable=["critic", "role:reviewer"]))
    assert conditions(made.status)["Stalled"] == ("True", "AgentUnavailable")
    assert made.status is not None
    assert "for the roles 'reviewer', which no agent has" in made.status["conditions"][0]["message"]


def test_a_hundred_agents_without_a_worker_are_not_all_named() -> None:
    made = planned(settled(unavailable=[f"agent-{i}" for i in range(100)]))
    assert made.status is not None
    assert "'agent-9' and 90 more" in made.status["conditions"][0]["message"]


# ---------------------------------------------------------------- workers that can't start


def deployment_condition(kind: str, status: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "status": status, "message": f"{kind} says why", **more}


@pytest.mark.parametrize("told", [("ReplicaFailure", "True"), ("Progressing", "False")])
def test_what_keeps_workers_from_starting_is_said_in_the_deployments_words(told: tuple[str, str]) -> None:
    failing = child(replicas=2, conditions=[deployment_condition(*told)])
    made = planned(settled(children=[failing], load=Load(20, 0)))
    assert conditions(made.status) == {
        "Ready": ("False", "WorkersUnavailable"),
        "Stalled": ("True", "WorkersUnavailable"),
    }
    assert made.status is not None
    assert f"{told[0]} says why" in made.status["conditions"][0]["message"]
    cured = dataclasses.replace(child(replicas=2), ready=2)
    healed = planned(settled(children=[cured], load=Load(20, 0), status=made.status), LATER)
    assert conditions(healed.status) == {"Ready": ("True", "Available")}


@pytest.mark.parametrize("told", [("ReplicaFailure", "False"), ("Progressing", "True")])
def test_a_deployment_that_is_well_is_no_trouble(told: tuple[str, str]) -> None:
    well = child(replicas=2, conditions=[deployment_condition(*told)])
    assert planned(settled(children=[well], load=Load(20, 0), idle_for=None)).status is None or conditions(
        planned(settled(children=[well], load=Load(20, 0))).status
    ) == {"Ready": ("True", "Available")}


def test_trouble_is_none_while_no_worker_is_wanted() -> None:
    failing = child(replicas=0, conditions=[deployment_condition("ReplicaFailure", "True")])
    assert conditions(planned(seen(children=[failing], has_service_account=True)).status)["Ready"][0] == "True"


def test_the_name_of_each_failing_pod_is_not_another_message() -> None:
    def message(pod: str) -> str:
        told = deployment_condition("ReplicaFailure", "True", message=f'pods "{pod}" is forbidden: exceeded quota')
        return child(replicas=1, conditions=[{**told, "message": f'pods "{pod}" is forbidden: exceeded quota'}]).trouble

    assert message("echo-1-a") == message("echo-1-b") == "pods is forbidden: exceeded quota"


def test_workers_that_never_become_ready_are_said_once_they_had_time_to() -> None:
    """The Deployment's own deadline does not run when it is scaled from 0."""
    since = "2026-03-01T12:00:00Z"
    stuck = child(replicas=1, conditions=[deployment_condition("Available", "False", lastTransitionTime=since)])
    early = planned(settled(children=[stuck], load=Load(5, 0)), NOW + timedelta(seconds=manifests.START_SECONDS - 1))
    assert conditions(early.status)["Ready"] == ("True", "Available")
    assert early.again_seconds == 1.0
    late = planned(settled(children=[stuck], load=Load(5, 0)), NOW + timedelta(seconds=manifests.START_SECONDS))
    assert conditions(late.status)["Stalled"] == ("True", "WorkersUnavailable")
    some = dataclasses.replace(stuck, ready=1)
    assert conditions(planned(settled(children=[some], load=Load(5, 0)), LATER).status)["Ready"][0] == "True"


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ({}, None),
        ({"load": Load(1, 0)}, 60),
        ({"load": Load(1, 0, oldest_seconds=59.0)}, 1),
        ({"load": Load(0, 0, 600.0)}, 600),
        ({"children": [child(replicas=1)], "idle_for": 0.0}, 300),
        ({"load": Load(0, 0, -3.0)}, 0),
        ({"load": None, "store_error": "away"}, 5),
        ({"load": None}, None),
        ({"has_redis_secret": False}, 5),
        ({"fault": (Reason.OWNER_CONFLICT, "another's")}, 5),
        ({"fault": (Reason.FLOW_CYCLE, "a, b, a")}, None),
    ],
    ids=str,
)
def test_a_crew_is_reconciled_again_when_no_event_would_tell_of_a_change(
    changes: dict[str, Any], seconds: float | None
) -> None:
    assert planned(settled(**changes)).again_seconds == seconds


def worker(revision: str, holds: int = 0, **more: Any) -> Worker:
    return Worker("pod-1", revision, holds, **more)


def test_the_store_is_looked_at_as_closely_as_workers_move() -> None:
    revision = child().revision
    up = dataclasses.replace(child(replicas=1), there=1, ready=1)
    busy: dict[str, Any] = {"load": Load(0, 1), "children": [up]}
    assert planned(settled()).watch == ""
    assert planned(settled(load=None, store_error="away")).watch == ""
    assert planned(settled(load=Load(1, 0))).watch == "closely", "a worker is to be started"
    assert planned(settled(**busy, fleet=Fleet([worker(revision, 1)]))).watch == "changes"
    assert planned(settled(**busy, fleet=Fleet())).watch == "rarely", "it starts, and its first worker will change that"
    assert planned(settled(**busy, fleet=Fleet([worker(revision, 1, draining="person")]))).watch == "closely"
    waits = {**busy, "load": Load(1, 1, oldest_seconds=60.0)}
    assert planned(settled(**waits, fleet=Fleet([worker(revision, 1)]))).watch == "closely"
    idle = {**busy, "load": Load(0, 0)}
    assert planned(settled(**idle, fleet=Fleet([worker(revision)]), idle_for=0.0)).watch == "changes"
    assert not planned(settled(**idle, fleet=Fleet([worker(revision)]), idle_for=0.0)).shrinks
    gone = settled(**idle, fleet=Fleet([worker(revision, draining="scaling", empty_seconds=60.0)]), idle_for=300.0)
    assert planned(gone).shrinks
