"""From what is seen of a Crew to what is done about it, and what its status says."""

from __future__ import annotations

import copy
import dataclasses
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from watchbill.api import Crew
from watchbill.api.conditions import Reason
from watchbill.plan import crew as plan
from watchbill.plan import manifests
from watchbill.plan.replicas import Load

pytestmark = pytest.mark.pure

IMAGE = "watchbill:1"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
IDLE = Load(0, 0)


def crew(**workers: Any) -> Crew:
    return Crew.model_validate(
        {"metadata": {"name": "blog"}, "spec": {"agents": [{"name": "a", "class": "EchoAgent"}], "workers": workers}}
    )


def seen(of: Crew | None = None, **changes: Any) -> plan.Observed:
    nothing = plan.Observed(
        crew=of or crew(),
        namespace="team",
        uid="u1",
        generation=1,
        status={"observedGeneration": -1},
        children=[],
        has_service_account=False,
        has_redis_secret=True,
        load=IDLE,
        store_error=None,
        idle_for=None,
        unavailable=0,
        fault=None,
    )
    return dataclasses.replace(nothing, **changes)


def planned(observed: plan.Observed, now: datetime = NOW) -> plan.Plan:
    return plan.plan(observed, now=now, default_image=IMAGE)


def stored(manifest: dict[str, Any], *, ready: int = 0, version: str = "7") -> plan.Child:
    """As the API server has it once it was applied."""
    deployment = copy.deepcopy(manifest)
    deployment["metadata"] |= {"uid": f"uid-{manifest['metadata']['name']}", "resourceVersion": version}
    deployment["status"] = {"readyReplicas": ready}
    return plan.project(deployment)


def child(of: Crew | None = None, replicas: int = 0) -> plan.Child:
    of = of or crew()
    template = manifests.pod_template(of, "team", IMAGE)
    return stored(manifests.deployment(of, "team", "u1", template, replicas))


def settled(of: Crew | None = None, replicas: int = 0, **changes: Any) -> plan.Observed:
    """All in place, its status too."""
    there = seen(of, children=[child(of, replicas)], has_service_account=True)
    status = planned(there).status
    assert status is not None
    return dataclasses.replace(there, **{"status": status, **changes})


def conditions(status: dict[str, Any] | None) -> dict[str, tuple[str, str]]:
    assert status is not None
    return {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}


def applied(of: plan.Plan, kind: str = "deployments") -> dict[str, Any]:
    (manifest,) = [m for k, m in of.applies if k == kind]
    return manifest


def test_a_new_crew_gets_its_service_account_first_and_then_a_deployment_of_zero():
    made = planned(seen())
    assert [kind for kind, _ in made.applies] == ["serviceaccounts", "deployments"]
    assert applied(made)["spec"]["replicas"] == 0
    assert "resourceVersion" not in applied(made)["metadata"]
    assert conditions(made.status) == {"Ready": ("False", "Progressing"), "Reconciling": ("True", "Progressing")}


def test_with_all_in_place_the_crew_is_ready_at_zero_workers():
    made = planned(seen(children=[child()], has_service_account=True))
    assert made.applies == ()
    assert conditions(made.status) == {"Ready": ("True", "Available")}
    assert made.status is not None
    assert made.status["replicas"] == 0
    assert made.status["observedGeneration"] == 1
    assert made.status["selector"] == manifests.selector("blog")


def test_over_an_unchanged_cluster_nothing_is_done_at_all():
    assert planned(settled(), LATER) == plan.Plan()
    busy = planned(settled(replicas=2, idle_for=1.0), LATER)
    assert (busy.applies, busy.deletes, busy.status, busy.scaled) == ((), (), None, None)


def test_a_status_that_was_stripped_is_written_again():
    assert planned(settled(status={"observedGeneration": -1})).status is not None


def test_a_status_with_a_condition_too_many_is_written_again():
    there = settled()
    more = {**there.status, "conditions": [*there.status["conditions"], {"type": "Stalled", "status": "True"}]}
    made = planned(dataclasses.replace(there, status=more))
    assert conditions(made.status) == {"Ready": ("True", "Available")}


def test_waiting_work_starts_workers_with_a_write_that_is_fenced_by_what_was_seen():
    made = planned(settled(load=Load(25, 0)))
    assert applied(made)["spec"]["replicas"] == 3
    assert applied(made)["metadata"]["resourceVersion"] == "7"
    assert made.scaled is not None
    assert made.scaled.why == "scale-up"


def test_idle_workers_go_once_idle_seconds_are_over_and_not_before():
    early = planned(settled(crew(idleSeconds=60), 2, idle_for=59.0))
    assert early.applies == ()
    assert early.again_seconds == 1.0
    late = planned(settled(crew(idleSeconds=60), 2, idle_for=60.0))
    assert applied(late)["spec"]["replicas"] == 0


@pytest.mark.parametrize("edited", [0, 1, 9])
def test_hand_edited_replicas_are_put_right(edited):
    """Down only when idle: more workers than needed are no harm, and shrinking could hit a busy one."""
    made = planned(settled(crew(minReplicas=2, maxReplicas=5), 2, children=[child(crew(), edited)], idle_for=0.0))
    assert applied(made)["spec"]["replicas"] == max(2, min(edited, 5))


def test_a_hand_edited_template_is_put_right_and_the_write_is_fenced():
    manifest = manifests.deployment(crew(), "team", "u1", manifests.pod_template(crew(), "team", IMAGE), 0)
    manifest["spec"]["template"]["spec"]["containers"][0]["image"] = "hacked"
    made = planned(settled(children=[stored(manifest, version="12")]))
    assert applied(made)["spec"]["template"]["spec"]["containers"][0]["image"] == IMAGE
    assert applied(made)["metadata"]["resourceVersion"] == "12"


def test_foreign_labels_and_annotations_are_no_reason_to_write():
    manifest = manifests.deployment(crew(), "team", "u1", manifests.pod_template(crew(), "team", IMAGE), 0)
    manifest["metadata"]["labels"]["theirs"] = "1"
    manifest["metadata"]["annotations"] = {"theirs": "1"}
    assert planned(settled(children=[stored(manifest)])).applies == ()


def test_a_missing_service_account_alone_is_made_anew():
    made = planned(settled(has_service_account=False))
    assert [kind for kind, _ in made.applies] == ["serviceaccounts"]


# ---------------------------------------------------------------- what is wrong


def test_a_missing_secret_is_said_with_its_name_and_starts_nothing():
    made = planned(seen(has_redis_secret=False, load=Load(5, 0)))
    assert conditions(made.status) == {
        "Ready": ("False", "RedisSecretMissing"),
        "Stalled": ("True", "RedisSecretMissing"),
    }
    assert made.status is not None
    assert "'watchbill-redis'" in made.status["conditions"][0]["message"]
    assert "'team'" in made.status["conditions"][0]["message"]
    assert applied(made)["spec"]["replicas"] == 0


def test_a_secret_that_vanishes_does_not_stop_workers_that_run():
    made = planned(settled(replicas=3, has_redis_secret=False, load=Load(0, 5)))
    assert made.applies == ()
    assert conditions(made.status)["Stalled"] == ("True", "RedisSecretMissing")


@pytest.mark.parametrize("replicas", [0, 3])
def test_while_the_store_is_away_workers_are_held_and_the_status_says_why(replicas):
    made = planned(settled(replicas=replicas, load=None, store_error="connection refused", idle_for=None))
    assert made.applies == ()
    assert made.deletes == ()
    assert conditions(made.status) == {"Ready": ("False", "StoreUnavailable")}
    assert made.status is not None
    assert "connection refused" in made.status["conditions"][0]["message"]


def test_while_the_store_is_away_the_last_known_figures_stay():
    known = settled(load=Load(3, 4), replicas=1)
    made = planned(dataclasses.replace(known, status={**known.status, "waiting": 3, "running": 4}, load=None))
    assert made.status is not None
    assert (made.status["waiting"], made.status["running"]) == (3, 4)


def test_when_the_store_is_back_the_crew_is_ready_again():
    down = planned(settled(load=None, store_error="away"))
    assert down.status is not None
    up = planned(settled(status=down.status), LATER)
    assert conditions(up.status) == {"Ready": ("True", "Available")}


def test_a_template_that_was_refused_is_not_applied_again():
    made = planned(seen(fault=(Reason.TEMPLATE_INVALID, "spec.x: unknown field"), has_service_account=True))
    assert made.applies == ()
    assert conditions(made.status) == {"Ready": ("False", "TemplateInvalid"), "Stalled": ("True", "TemplateInvalid")}
    assert made.status is not None
    assert made.status["conditions"][1]["message"] == "spec.x: unknown field"


def test_a_cycle_is_said_as_it_is():
    made = planned(seen(fault=(Reason.FLOW_CYCLE, "a -> b -> a"), load=None))
    assert conditions(made.status) == {"Ready": ("False", "FlowCycle"), "Stalled": ("True", "FlowCycle")}


def test_a_fault_does_not_stop_workers_that_run():
    made = planned(settled(replicas=3, load=None, fault=(Reason.FLOW_CYCLE, "a -> b -> a")))
    assert made.applies == ()
    assert made.deletes == ()


def test_tasks_without_a_worker_that_has_their_agent_are_told():
    made = planned(settled(unavailable=4))
    assert conditions(made.status)["Stalled"] == ("True", "AgentUnavailable")
    assert made.status is not None
    assert "4 tasks" in made.status["conditions"][0]["message"]


# ---------------------------------------------------------------- revisions

NEW = crew(image="mine:2")


def test_a_new_template_gets_a_deployment_of_its_own_with_as_many_workers():
    made = planned(settled(NEW, children=[child(crew(), 3)], load=Load(0, 3)))
    assert applied(made)["metadata"]["name"] != child().name
    assert applied(made)["spec"]["replicas"] == 3
    assert made.deletes == ()


@pytest.mark.parametrize(("load", "goes"), [(IDLE, True), (Load(0, 1), False), (Load(3, 1), False), (None, False)])
def test_an_old_revision_goes_only_when_nothing_runs_and_that_is_known(load, goes):
    both = [child(crew(), 1), dataclasses.replace(child(NEW, 1), ready=1)]
    made = planned(settled(NEW, children=both, load=load, store_error=None if load else "away", idle_for=0.0))
    assert made.deletes == ((both[0],) if goes else ())
    if not goes and load:
        assert made.again_seconds is not None, "nobody would come back for it"


def test_an_old_revision_stays_until_the_new_one_is_there():
    made = planned(settled(NEW, children=[child(crew(), 1)]))
    assert made.deletes == ()


def test_an_old_revision_stays_until_a_pod_of_the_new_one_is_ready():
    made = planned(settled(NEW, children=[child(crew(), 1), child(NEW, 1)], load=IDLE, idle_for=0.0))
    assert made.deletes == ()
    assert made.again_seconds is not None, "nobody would come back for it"


def test_replicas_in_the_status_are_those_of_all_revisions():
    made = planned(settled(NEW, children=[child(crew(), 2), child(NEW, 3)], load=Load(0, 40)))
    assert made.status is not None
    assert made.status["replicas"] == 5


# ---------------------------------------------------------------- External, and times


@pytest.mark.parametrize(("written", "wanted"), [(0, 1), (3, 3), (9, 5)])
def test_with_external_scaling_workers_are_as_many_as_was_written_within_bounds(written, wanted):
    external = crew(scaling={"mode": "External"}, replicas=written, minReplicas=1, maxReplicas=5)
    made = planned(settled(external, 2, load=Load(1000, 0)))
    replicas = applied(made)["spec"]["replicas"] if made.applies else 2
    assert replicas == wanted


def test_with_external_scaling_an_unknown_load_is_no_obstacle():
    external = crew(scaling={"mode": "External"}, replicas=3)
    assert applied(planned(settled(external, 1, load=None)))["spec"]["replicas"] == 3


def test_the_time_of_a_condition_is_that_of_its_last_change():
    first = settled()
    down = planned(dataclasses.replace(first, load=None, store_error="a"), LATER)
    assert down.status is not None
    assert down.status["conditions"][0]["lastTransitionTime"] == "2026-03-01T12:05:00Z"
    still = planned(
        dataclasses.replace(first, status=down.status, load=None, store_error="b"), LATER + timedelta(hours=1)
    )
    assert still.status is not None
    assert still.status["conditions"][0]["lastTransitionTime"] == "2026-03-01T12:05:00Z"
    assert still.status["conditions"][0]["message"] != down.status["conditions"][0]["message"]


def test_a_new_generation_is_observed_in_status_and_conditions():
    made = planned(settled(generation=2), LATER)
    assert made.status is not None
    assert made.status["observedGeneration"] == 2
    assert {c["observedGeneration"] for c in made.status["conditions"]} == {2}
    assert made.status["conditions"][0]["lastTransitionTime"] == "2026-03-01T12:00:00Z"


def test_a_status_is_what_the_api_server_takes():
    """The CRD bounds a condition's message; a long refusal must not make the status itself refused."""
    made = planned(seen(fault=(Reason.TEMPLATE_INVALID, "x" * 100_000)))
    assert made.status is not None
    assert max(len(c["message"]) for c in made.status["conditions"]) <= 32768
    json.dumps(made.status)
