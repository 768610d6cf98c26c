"""Plans for a suspended crew: its workers leave, and its status says so."""

from __future__ import annotations

import dataclasses

import pytest
from crew_plans import IDLE, child, conditions, crew, planned, seen, settled

from watchbill.api import Crew
from watchbill.plan import events
from watchbill.plan.drain import Fleet, Worker
from watchbill.plan.replicas import Load

pytestmark = pytest.mark.pure


def suspended(**workers: object) -> Crew:
    of = crew(**workers)
    return of.model_copy(update={"spec": of.spec.model_copy(update={"suspend": True})})


EXTERNAL = {"scaling": {"mode": "External"}, "replicas": 3}


@pytest.mark.parametrize("workers", [{"minReplicas": 2}, EXTERNAL, {}], ids=["minimum", "external", "neither"])
def test_workers_of_a_suspended_crew_drain_and_leave_whatever_waits(workers: dict[str, object]) -> None:
    of = suspended(**workers)
    there = [dataclasses.replace(child(of, 2), ready=2, there=2)]
    fleet = Fleet([Worker("idle", there[0].revision, 0), Worker("busy", there[0].revision, 1)])
    leaving = planned(settled(of, children=there, load=Load(500, 1), fleet=fleet))
    assert leaving.drain == ("idle", "busy")
    assert leaving.scaled is not None
    assert (leaving.scaled.replicas, leaving.scaled.why) == (0, "suspended")
    assert planned(settled(of, load=Load(500, 0))).applies == ()


def test_a_suspended_crew_keeps_or_gets_the_workers_that_its_deliveries_need_within_its_bound() -> None:
    of = suspended(maxReplicas=2)
    (_, manifest), *_ = planned(settled(of, load=Load(500, 0, deliveries=1))).applies
    assert manifest["spec"]["replicas"] == 1
    (_, manifest), *_ = planned(settled(of, load=Load(500, 0, deliveries=100_000))).applies
    assert manifest["spec"]["replicas"] == 2


def test_a_suspended_crew_at_rest_is_not_looked_at_all_the_time_and_held_while_the_store_is_away() -> None:
    of = suspended()
    assert planned(settled(of, load=Load(500, 0))).again_seconds is None
    away = settled(of, children=[child(of, 2)], load=None, store_error="away")
    assert (planned(away).applies, planned(away).drain) == ((), ())


def test_no_worker_leaves_while_the_store_does_not_know_which_are_busy() -> None:
    of = suspended()
    there = [dataclasses.replace(child(of, 2), ready=2, there=2)]
    held = planned(settled(of, children=there, load=Load(0, 0), fleet=None))
    assert (held.applies, held.sizes, held.drain, held.shrinks) == ((), (), (), False)
    assert held.scaling is not None
    assert held.scaling.held == "unknown"
    assert held.watch == "closely", "so that it goes on as soon as they are known"


def test_a_suspended_crew_is_ready_and_suspended_once_the_store_knows() -> None:
    of = suspended()
    rests = planned(settled(of)).status or settled(of).status
    both = conditions(dict(rests))
    assert both == {"Ready": ("True", "Suspended"), "Suspended": ("True", "Suspended")}

    fresh = conditions(planned(seen(of, load=None, store_error="away")).status)
    assert "Suspended" not in fresh, "a worker may still claim"
    later = settled(of)
    away = planned(dataclasses.replace(later, load=None, fleet=None, store_error="away")).status
    assert conditions(away)["Suspended"] == ("True", "Suspended"), "the store has not forgotten"

    resumed = dataclasses.replace(later, crew=crew(), generation=2, load=IDLE)
    status = planned(resumed).status
    assert conditions(status) == {"Ready": ("True", "Available")}
    assert status is not None
    told = [one.reason for one in events.of_status(status, later.status) + events.of_status(later.status, status)]
    assert told == ["Suspended", "Resumed"]
