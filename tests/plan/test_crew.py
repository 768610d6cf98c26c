"""From what is seen of a Crew to what is done about it, and what its status says."""

from __future__ import annotations

import dataclasses
import json
from datetime import timedelta
from typing import Any

import pytest
from crew_plans import (
    DEFAULTS,
    IMAGE,
    LATER,
    NEW,
    applied,
    child,
    conditions,
    crew,
    planned,
    seen,
    settled,
    stored,
)

from watchbill import cluster_names
from watchbill.api.conditions import Reason
from watchbill.plan import children, manifests
from watchbill.plan import crew as plan
from watchbill.plan.drain import Fleet, Worker
from watchbill.plan.replicas import Load

pytestmark = pytest.mark.pure


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
    assert made.sizes == (), "the write of the Deployment says how many"
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
    """What is within the bounds stays: fewer must have been wanted for a while before some leave."""
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
    manifest["metadata"]["annotations"]["theirs"] = "1"
    assert planned(settled(children=[stored(manifest)])).applies == ()


def test_a_label_and_an_owner_that_were_edited_are_put_right() -> None:
    manifest = manifests.deployment(crew(), "team", "u1", manifests.pod_template(crew(), "team", DEFAULTS), 0)
    changes: tuple[dict[str, Any], ...] = (
        {"labels": manifest["metadata"]["labels"] | {cluster_names.LABEL_CREW: "other"}},
        {"ownerReferences": []},
    )
    for edited in changes:
        made = planned(settled(children=[stored(manifest | {"metadata": manifest["metadata"] | edited})]))
        assert applied(made)["metadata"].items() >= {k: manifest["metadata"][k] for k in edited}.items()


def test_a_deployment_is_projected_to_what_plans_depend_on() -> None:
    owners = [{"uid": "of-somebody"}, {"uid": "u1", "controller": True}]
    metadata = {"name": "n", "uid": "u", "resourceVersion": "7"}
    more = {"labels": {cluster_names.LABEL_REVISION: "other"}, "ownerReferences": owners, "creationTimestamp": "t"}
    spec = {"replicas": 3, "selector": {"matchLabels": {cluster_names.LABEL_REVISION: "r"}}}
    project = children.project({"metadata": metadata | more, "spec": spec, "status": {"readyReplicas": 2}})
    assert dataclasses.replace(project, content="") == children.Child("n", "u", "7", "r", "u1", "t", 3, 2, "", None, "")
    assert project.resource_version == "7"
    bare = children.project({"metadata": metadata})
    assert dataclasses.replace(bare, content="") == children.Child("n", "u", "7", "", "", "", 1, 0, "", None, "")


@pytest.mark.parametrize(
    ("generation", "replicas", "observed", "there"),
    [(1, 0, None, 0), (1, 1, None, None), (1, 1, 1, 0), (2, 0, 1, None), (2, 0, 2, 0)],
)
def test_pods_are_counted_by_a_controller_that_has_seen_the_spec_unless_there_never_were_any(
    generation: int, replicas: int, observed: int | None, there: int | None
) -> None:
    metadata = {"name": "n", "uid": "u", "resourceVersion": "7", "generation": generation}
    status = {"observedGeneration": observed} if observed else {}
    seen = children.project({"metadata": metadata, "spec": {"replicas": replicas}, "status": status})
    assert seen.there == there


def test_a_missing_service_account_alone_is_made_anew() -> None:
    made = planned(settled(has_service_account=False))
    assert [kind for kind, _ in made.applies] == ["serviceaccounts"]


# ---------------------------------------------------------------- revisions


def workers(of: children.Child, *holds: int, draining: Any = "") -> list[Worker]:
    """The workers in pods of a Deployment, and how many tasks each holds."""
    return [
        Worker(f"{of.revision}-{draining}{n}", of.revision, held, draining, age_seconds=60.0, empty_seconds=60.0)
        for n, held in enumerate(holds)
    ]


def test_a_new_template_gets_a_deployment_of_its_own_with_as_many_workers_as_may_surge() -> None:
    old = child(crew(), 8)
    made = planned(settled(NEW, children=[old], load=Load(0, 80), fleet=Fleet(workers(old, *[10] * 8))))
    assert applied(made)["metadata"]["name"] != child().name
    assert applied(made)["spec"]["replicas"] == 2
    assert (made.drain, made.sizes, made.deletes) == ((), (), ())
    assert made.again_seconds == plan.OLD_AGAIN_SECONDS, "nobody would come back for it"


def test_an_old_revision_leaves_worker_by_worker_as_those_of_the_new_one_claim() -> None:
    old, new = child(crew(), 4), child(NEW, 1)
    fleet = Fleet(workers(old, 9, 0, 3, 9) + workers(new, 0))
    made = planned(settled(NEW, children=[old, new], load=Load(0, 21), fleet=fleet))
    assert made.drain == (f"{old.revision}-1",), "the idle one first"
    assert (made.sizes, applied(made)["spec"]["replicas"]) == ((), 2), "the one that drains gives its place"
    fleet = Fleet(workers(old, 9, 3, 9) + workers(old, 2, draining="scaling") + workers(new, 0))
    made = planned(settled(NEW, children=[old, child(NEW, 2)], load=Load(0, 33), fleet=fleet))
    assert (made.drain, made.sizes, made.applies) == ((), (), ()), "the second of the new ones does not claim yet"


def test_an_old_revision_stays_until_a_worker_of_the_new_one_claims() -> None:
    old, new = child(crew(), 1), dataclasses.replace(child(NEW, 1), ready=1)
    made = planned(settled(NEW, children=[old, new], load=Load(0, 1), fleet=Fleet(workers(old, 1))))
    assert (made.drain, made.sizes, made.deletes) == ((), (), ())
    assert made.again_seconds == plan.OLD_AGAIN_SECONDS, "nobody would come back for it"


def test_an_old_revision_whose_last_worker_is_busy_for_hours_stays_and_then_goes() -> None:
    old, new = child(crew(), 1), child(NEW, 1)
    busy = Fleet(workers(old, 1, draining="scaling") + workers(new, 3))
    held = planned(settled(NEW, children=[old, new], load=Load(0, 4), fleet=busy))
    assert (held.sizes, held.deletes, held.applies) == ((), (), ())
    ended = Fleet(workers(old, 0, draining="scaling") + workers(new, 3))
    assert planned(settled(NEW, children=[old, new], load=Load(0, 3), fleet=ended)).sizes == ((old, 0),)
    empty = child(crew(), 0)
    assert planned(settled(NEW, children=[empty, new], load=Load(0, 3), fleet=ended)).deletes == (empty,)


def test_while_the_store_does_not_answer_no_old_revision_goes() -> None:
    both = [child(crew(), 1), dataclasses.replace(child(NEW, 1), ready=1)]
    made = planned(settled(NEW, children=both, load=None, store_error="away"))
    assert (made.drain, made.sizes, made.deletes, made.applies) == ((), (), (), ())


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
