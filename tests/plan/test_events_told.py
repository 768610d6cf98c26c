"""Changes that people are told of by Kubernetes Events: each once, with figures, and none with every task."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from crew_plans import IDLE, NEW, child, crew, planned, seen, settled

from watchbill.plan import events
from watchbill.plan.crew import Observed
from watchbill.plan.drain import Fleet, Worker
from watchbill.plan.replicas import Load

pytestmark = pytest.mark.pure


def status(ready: str = "Available", stalled: str = "", message: str = "m") -> dict[str, Any]:
    found = [{"type": "Ready", "status": "True", "reason": ready, "message": message}]
    if stalled:
        found.append({"type": "Stalled", "status": "True", "reason": stalled, "message": message})
    return {"conditions": found}


def said(told: list[events.Told]) -> list[tuple[str, bool]]:
    return [(one.reason, one.warning) for one in told]


def test_what_somebody_must_see_to_is_told_once_and_that_it_is_over() -> None:
    good, bad = status(), status("TemplateInvalid", "TemplateInvalid")
    assert said(events.of_status({}, bad)) == [("TemplateInvalid", True)]
    assert events.of_status(bad, bad) == []
    assert said(events.of_status(bad, status("Forbidden", "Forbidden"))) == [("Forbidden", True)]
    (told,) = events.of_status(bad, good)
    assert (told.reason, told.note, told.warning) == ("Recovered", "it is no longer stalled (TemplateInvalid)", False)
    assert events.of_status({}, good) == [], "a crew that is made is no event"


def test_a_store_that_is_away_and_back_is_told() -> None:
    away = status("StoreUnavailable", message="it does not answer")
    assert said(events.of_status(status(), away)) == [("StoreUnavailable", True)]
    assert said(events.of_status(away, status())) == [("StoreAvailable", False)]


def test_dead_letters_are_told_when_they_begin_and_not_after_a_restart() -> None:
    assert said(events.of_dead("team/blog", 0, 3)) == [("DeadLetters", True)]
    assert events.of_dead("team/blog", 3, 9) == []
    assert events.of_dead("team/blog", None, 9) == []


def test_missed_slots_are_told_when_there_are_more_of_them_and_not_after_a_restart() -> None:
    beat = {"metadata": {"namespace": "team", "name": "beat"}, "spec": {"crewRef": {"name": "blog"}}}
    (told,) = events.of_missed(beat, None, 2)
    assert (told.reason, told.warning) == ("SlotsMissed", True)
    assert "watchbill events team/blog" in told.note
    assert events.of_missed(beat, 2, 5) == [told], "all are one series"
    assert events.of_missed(beat, 5, 5) == []
    assert events.of_missed(beat, 5, 0) == [], "the store has lost its data"
    assert events.of_missed({**beat, "status": {"missedSlots": 5}}, None, 5) == []
    assert events.of_missed({**beat, "status": {"missedSlots": 5}}, None, 6) == [told]


def of(observed: Observed) -> list[events.Told]:
    return events.of_plan(observed, planned(observed))


def test_a_changed_number_of_workers_is_told_with_its_figures_but_not_between_none_and_one() -> None:
    (told,) = of(settled(replicas=1, load=Load(25, 5)))
    assert told.reason == "Scaled"
    assert told.note == "3 workers instead of 1 (scale-up): 25 tasks wait, 5 run; each worker runs 10"
    assert said(of(settled(load=Load(11, 0)))) == [("Scaled", False)]
    assert of(settled(load=Load(1, 0))) == []
    assert of(settled(replicas=1, idle_for=1e9)) == []
    assert of(settled(replicas=3, load=Load(30, 0))) == []


def test_the_begin_and_the_end_of_a_rollout_are_told() -> None:
    old, new = child(replicas=1), child(NEW, replicas=1, readyReplicas=1)
    (told,) = of(seen(NEW, children=[old], has_service_account=True, load=Load(1, 0)))
    assert told.reason == "RolloutStarted"
    assert told.note == f"workers of template revision {new.revision} take the place of those of {old.revision}"
    assert of(seen(NEW, children=[old, new], has_service_account=True, load=Load(0, 1))) == []
    (told,) = of(seen(NEW, children=[child(), new], has_service_account=True, load=IDLE))
    assert (told.reason, told.note) == ("RolloutFinished", f"all workers are of template revision {new.revision}")
    assert of(seen(NEW, has_service_account=True)) == [], "a crew that is made is no rollout"


def test_a_drain_is_told_when_it_begins_is_taken_back_and_has_ended_and_names_no_worker() -> None:
    revision = child().revision
    down = crew(scaling={"down": {"stabilizationWindowSeconds": 0}})

    def drains(load: Load, *workers: Worker, ready: int = 2) -> list[events.Told]:
        up = dataclasses.replace(child(down, 2), there=2, ready=ready)
        told = of(settled(down, children=[up], load=load, fleet=Fleet(workers)))
        return [one for one in told if one.reason.startswith("Drain")]

    busy, idle = (Worker(name, revision, holds, age_seconds=60.0) for name, holds in (("pod-a", 3), ("pod-b", 1)))
    (began,) = drains(Load(0, 4), busy, idle)
    assert (began.reason, began.note[:27]) == ("DrainStarted", "workers drain for scale-in:")
    leaving = dataclasses.replace(idle, draining="scaling")
    assert drains(Load(0, 4), busy, leaving) == [], "it is told once"
    assert said(drains(Load(9, 4), busy, leaving)) == [("DrainCancelled", False)]
    empty = dataclasses.replace(leaving, holds=0, empty_seconds=60.0)
    (ended,) = drains(Load(0, 3), busy, empty, ready=1)
    assert (ended.reason, "pod" in ended.note) == ("DrainFinished", False)
