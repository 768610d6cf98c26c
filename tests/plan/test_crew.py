"""From what is seen of a Crew to what is done about it, and what its status says."""

from __future__ import annotations

import copy
import dataclasses
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from watchbill import names
from watchbill.api import Crew
from watchbill.api.conditions import Reason
from watchbill.plan import crew as plan
from watchbill.plan import manifests
from watchbill.plan.replicas import Load

pytestmark = pytest.mark.pure

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
    )
    return dataclasses.replace(nothing, **changes)


def planned(observed: plan.Observed, now: datetime = NOW) -> plan.Plan:
    return plan.plan(observed, now=now, defaults=DEFAULTS)


def stored(manifest: dict[str, Any], *, version: str = "7", created: str = "", **status: Any) -> plan.Child:
    """As the API server has it once it was applied."""
    deployment = copy.deepcopy(manifest)
    deployment["metadata"] |= {"uid": f"uid-{manifest['metadata']['name']}", "resourceVersion": version}
    deployment["metadata"]["creationTimestamp"] = created or "2026-03-01T11:00:00Z"
    deployment["status"] = status
    return plan.project(deployment)


def child(of: Crew | None = None, replicas: int = 0, **more: Any) -> plan.Child:
    of = of or crew()
    template = manifests.pod_template(of, "team", DEFAULTS)
    return stored(manifests.deployment(of, "team", "u1", template, replicas), **more)


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


def test_a_new_crew_gets_its_service_account_first_and_then_a_deployment_of_zero() -> None:
    made = planned(seen())
    assert [kind for kind, _ in made.applies] == ["serviceaccounts", "deployments"]
    assert applied(made)["spec"]["replicas"] == 0
    assert "resourceVersion" not in applied(made)["metadata"]
    assert conditions(made.status) == {"Ready": ("False", "Progressing"), "Reconciling": ("True", "Progressing")}


def test_with_all_in_place_the_crew_is_ready_at_zero_workers() -> None:
    made = planned(seen(children=[child()], has_service_account=True))
    assert made.applies == ()
    assert conditions(made.status) == {"Ready": ("True", "Available")}
    assert made.status is not None
    assert made.status["replicas"] == 0
    assert made.status["observedGeneration"] == 1
    assert made.status["selector"] == manifests.selector("blog")


def test_over_an_unchanged_cluster_nothing_is_done_at_all() -> None:
    assert planned(settled(), LATER) == plan.Plan(revision=child().revision)
    busy = planned(settled(replicas=2, idle_for=1.0), LATER)
    assert (busy.applies, busy.deletes, busy.status, busy.scaled) == ((), (), None, None)


def test_a_status_that_was_stripped_is_written_again() -> None:
    assert planned(settled(status={"observedGeneration": -1})).status is not None


def test_a_status_with_a_condition_too_many_is_written_again() -> None:
    there = settled()
    stale = {"type": "Stalled", "status": "True", "reason": "Forbidden", "message": ""}
    more = {**there.status, "conditions": [*there.status["conditions"], stale]}
    made = planned(dataclasses.replace(there, status=more))
    assert conditions(made.status) == {"Ready": ("True", "Available")}


def test_the_condition_that_sums_up_is_found_where_there_is_one() -> None:
    ready = {"type": "Ready", "status": "True"}
    assert plan.summary({"conditions": [{"type": "Stalled"}, ready]}) == ready
    assert plan.summary({"conditions": []}) == plan.summary({}) == {}


def test_a_condition_of_somebody_else_is_left_alone() -> None:
    """Our apply could not remove it: to try would be a write at every look."""
    there = settled()
    theirs = {"type": "Audited", "status": "True", "reason": "Theirs", "message": ""}
    more = {**there.status, "conditions": [*there.status["conditions"], theirs]}
    assert planned(dataclasses.replace(there, status=more)).status is None


def test_a_new_crew_has_as_many_replicas_in_its_status_as_it_is_to_have() -> None:
    made = planned(seen(crew(minReplicas=2)))
    assert made.status is not None
    assert made.status["replicas"] == applied(made)["spec"]["replicas"] == 2


def test_waiting_work_starts_workers_with_a_write_that_is_fenced_by_what_was_seen() -> None:
    made = planned(settled(load=Load(25, 0)))
    assert made.resize is None, "the write of the Deployment says how many"
    assert applied(made)["spec"]["replicas"] == 3
    assert applied(made)["metadata"]["resourceVersion"] == "7"
    assert made.scaled is not None
    assert made.scaled.why == "scale-up"


def test_idle_workers_go_once_idle_seconds_are_over_and_not_before() -> None:
    early = planned(settled(crew(idleSeconds=60), 2, idle_for=59.0))
    assert early.applies == ()
    assert early.again_seconds == 1.0
    late = planned(settled(crew(idleSeconds=60), 2, idle_for=60.0))
    assert applied(late)["spec"]["replicas"] == 0


@pytest.mark.parametrize("edited", [0, 1, 9])
def test_hand_edited_replicas_are_put_right(edited: int) -> None:
    """Down only when idle: more workers than needed are no harm, and shrinking could hit a busy one."""
    made = planned(settled(crew(minReplicas=2, maxReplicas=5), 2, children=[child(crew(), edited)], idle_for=0.0))
    assert applied(made)["spec"]["replicas"] == max(2, min(edited, 5))


def test_a_hand_edited_template_is_put_right_and_the_write_is_fenced() -> None:
    manifest = manifests.deployment(crew(), "team", "u1", manifests.pod_template(crew(), "team", DEFAULTS), 0)
    manifest["spec"]["template"]["spec"]["containers"][0]["image"] = "hacked"
    made = planned(settled(children=[stored(manifest, version="12")]))
    assert applied(made)["spec"]["template"]["spec"]["containers"][0]["image"] == IMAGE
    assert applied(made)["metadata"]["resourceVersion"] == "12"


def test_foreign_labels_and_annotations_are_no_reason_to_write() -> None:
    manifest = manifests.deployment(crew(), "team", "u1", manifests.pod_template(crew(), "team", DEFAULTS), 0)
    manifest["metadata"]["labels"]["theirs"] = "1"
    manifest["metadata"]["annotations"] = {"theirs": "1"}
    assert planned(settled(children=[stored(manifest)])).applies == ()


def test_a_label_and_an_owner_that_were_edited_are_put_right() -> None:
    manifest = manifests.deployment(crew(), "team", "u1", manifests.pod_template(crew(), "team", DEFAULTS), 0)
    changes: tuple[dict[str, Any], ...] = (
        {"labels": manifest["metadata"]["labels"] | {names.LABEL_CREW: "other"}},
        {"ownerReferences": []},
    )
    for edited in changes:
        made = planned(settled(children=[stored(manifest | {"metadata": manifest["metadata"] | edited})]))
        assert applied(made)["metadata"].items() >= {k: manifest["metadata"][k] for k in edited}.items()


def test_a_deployment_is_projected_to_what_plans_depend_on() -> None:
    owners = [{"uid": "of-somebody"}, {"uid": "u1", "controller": True}]
    metadata = {"name": "n", "uid": "u", "resourceVersion": "7"}
    more = {"labels": {names.LABEL_REVISION: "r"}, "ownerReferences": owners, "creationTimestamp": "t"}
    project = plan.project({"metadata": metadata | more, "spec": {"replicas": 3}, "status": {"readyReplicas": 2}})
    assert dataclasses.replace(project, content="") == plan.Child("n", "u", "7", "r", "u1", "t", 3, 2, "", None, "")
    bare = plan.project({"metadata": metadata})
    assert dataclasses.replace(bare, content="") == plan.Child("n", "u", "7", "", "", "", 1, 0, "", None, "")


def test_a_missing_service_account_alone_is_made_anew() -> None:
    made = planned(settled(has_service_account=False))
    assert [kind for kind, _ in made.applies] == ["serviceaccounts"]


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
    other_image = plan.plan(seen(crew(), status=made.status), now=NOW, defaults=manifests.Defaults("watchbill:2"))
    assert other_image.applies, "an operator with another image never tried its template"


@pytest.mark.parametrize(("load", "idle_for", "size"), [(Load(25, 0), None, 3), (IDLE, 1e9, 0)])
def test_while_a_template_is_refused_the_newest_revision_before_it_is_scaled(
    load: Load | None, idle_for: float | None, size: int
) -> None:
    older = dataclasses.replace(child(crew(image="mine:0"), 1, created="2026-03-01T09:00:00Z"), ready=1)
    old = dataclasses.replace(child(crew(), 1, created="2026-03-01T10:00:00Z"), ready=1)
    made = planned(refused(NEW, children=[old, older], load=load, idle_for=idle_for))
    assert made.applies == ()
    assert made.resize == (old, size)
    assert made.scaled is not None
    assert made.deletes == (older,)
    assert conditions(made.status)["Stalled"] == ("True", "TemplateInvalid")


def test_what_is_forbidden_is_said_and_does_not_stop_the_scaling_of_what_there_is() -> None:
    made = planned(settled(NEW, children=[child(crew(), 1)], load=Load(25, 0), denied="exceeded quota"))
    assert made.applies == ()
    assert made.resize == (child(crew(), 1), 3)
    assert conditions(made.status)["Stalled"] == ("True", "Forbidden")


def test_a_crew_that_is_anothers_gets_no_workers_and_keeps_those_it_has() -> None:
    external = crew(scaling={"mode": "External"}, replicas=3)
    fault = (Reason.OWNER_CONFLICT, "another's")
    new = planned(seen(external, load=None, fault=fault))
    assert (new.applies, new.resize, new.deletes) == ((), None, ())
    assert conditions(new.status) == {"Ready": ("False", "OwnerConflict"), "Stalled": ("True", "OwnerConflict")}
    old = planned(settled(external, 1, load=None, fault=fault))
    assert (old.applies, old.resize, old.deletes) == ((), None, ())


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
        ({"load": Load(1, 0)}, 2),
        ({"children": [child(replicas=1)], "idle_for": 0.0}, 2),
        ({"load": Load(0, 0, 600.0)}, 600),
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


# ---------------------------------------------------------------- revisions

NEW = crew(image="mine:2")


def test_a_new_template_gets_a_deployment_of_its_own_with_as_many_workers() -> None:
    made = planned(settled(NEW, children=[child(crew(), 3)], load=Load(0, 3)))
    assert applied(made)["metadata"]["name"] != child().name
    assert applied(made)["spec"]["replicas"] == 3
    assert made.deletes == ()


@pytest.mark.parametrize(("load", "goes"), [(IDLE, True), (Load(0, 1), False), (Load(3, 1), False), (None, False)])
def test_an_old_revision_goes_only_when_nothing_runs_and_that_is_known(load: Load | None, goes: bool) -> None:
    both = [child(crew(), 1), dataclasses.replace(child(NEW, 1), ready=1)]
    made = planned(settled(NEW, children=both, load=load, store_error=None if load else "away", idle_for=0.0))
    assert made.deletes == ((both[0],) if goes else ())
    if not goes:
        assert made.again_seconds == plan.OLD_AGAIN_SECONDS, "nobody would come back for it"


def test_an_old_revision_stays_until_the_new_one_is_there() -> None:
    made = planned(settled(NEW, children=[child(crew(), 1)]))
    assert made.deletes == ()


def test_an_old_revision_stays_until_a_pod_of_the_new_one_is_ready() -> None:
    made = planned(settled(NEW, children=[child(crew(), 1), child(NEW, 1)], load=IDLE, idle_for=0.0))
    assert made.deletes == ()
    assert made.again_seconds == plan.OLD_AGAIN_SECONDS, "nobody would come back for it"


def test_replicas_in_the_status_are_those_of_all_revisions() -> None:
    made = planned(settled(NEW, children=[child(crew(), 2), child(NEW, 3)], load=Load(0, 40)))
    assert made.status is not None
    assert made.status["replicas"] == 5


def test_deployments_of_a_former_crew_of_that_name_go_before_the_new_one_gets_its_own() -> None:
    """They may have the same name, and their workers are not the new crew's."""
    old = dataclasses.replace(child(replicas=3), owner="former")
    made = planned(seen(children=[old], load=Load(5, 0)))
    assert made.deletes == (old,)
    assert made.applies == ()
    assert planned(seen(children=[dataclasses.replace(old, replicas=0)])).again_seconds == plan.OLD_AGAIN_SECONDS
    assert applied(planned(seen(children=[])))["spec"]["replicas"] == 0


def test_a_deployment_whose_owner_was_edited_away_is_taken_back() -> None:
    edited = dataclasses.replace(child(), owner="", content="{}")
    made = planned(settled(children=[edited]))
    assert made.deletes == ()
    assert applied(made)["metadata"]["ownerReferences"][0]["uid"] == "u1"


# ---------------------------------------------------------------- External, and times


@pytest.mark.parametrize(("written", "wanted"), [(0, 1), (3, 3), (9, 5)])
def test_with_external_scaling_workers_are_as_many_as_was_written_within_bounds(written: int, wanted: int) -> None:
    external = crew(scaling={"mode": "External"}, replicas=written, minReplicas=1, maxReplicas=5)
    made = planned(settled(external, 2, load=Load(1000, 0)))
    replicas = applied(made)["spec"]["replicas"] if made.applies else 2
    assert replicas == wanted


def test_with_external_scaling_an_unknown_load_is_no_obstacle() -> None:
    external = crew(scaling={"mode": "External"}, replicas=3)
    assert applied(planned(settled(external, 1, load=None)))["spec"]["replicas"] == 3


def test_the_time_of_a_condition_is_that_of_its_last_change() -> None:
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


def test_a_new_generation_is_observed_in_status_and_conditions() -> None:
    made = planned(settled(generation=2), LATER)
    assert made.status is not None
    assert made.status["observedGeneration"] == 2
    assert {c["observedGeneration"] for c in made.status["conditions"]} == {2}
    assert made.status["conditions"][0]["lastTransitionTime"] == "2026-03-01T12:00:00Z"


def test_a_status_is_what_the_api_server_takes() -> None:
    """The CRD bounds a condition's message; a long refusal must not make the status itself refused."""
    made = planned(seen(fault=(Reason.INVALID_SPEC, "x" * 100_000)))
    assert made.status is not None
    assert max(len(c["message"]) for c in made.status["conditions"]) <= 32768
    json.dumps(made.status)
