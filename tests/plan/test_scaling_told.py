"""Why a crew has as many workers as it has: in its status, and as sentences from the same values."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import pytest
from crew_plans import NOW, child, crew, planned, settled

from watchbill.plan.drain import PROBED_SECONDS, Fleet, Worker
from watchbill.plan.replicas import Load, Past
from watchbill.plan.scaling import REASONS, Scaling, sentences

pytestmark = pytest.mark.pure

REVISION = child().revision


def worker(name: str, holds: int = 0, draining: Any = "", **more: Any) -> Worker:
    made = Worker(name, REVISION, holds, draining, age_seconds=60.0, empty_seconds=PROBED_SECONDS)
    return dataclasses.replace(made, **more)


def told(*workers: Worker, load: Load | None, pods: int = 2, ready: int | None = None, **more: Any) -> Scaling:
    up = dataclasses.replace(child(replicas=pods), there=pods, ready=pods if ready is None else ready)
    known = {"store_error": "away", "fleet": None} if load is None else {"fleet": Fleet(workers)}
    plan = planned(settled(children=[up], load=load, **{**known, **more}))
    assert plan.scaling is not None
    status = (plan.status or {}).get("scaling")
    if plan.scaling.held:
        assert status is not None
        assert status["reason"] == REASONS[plan.scaling.held]
        assert status["message"][1:] in sentences(plan.scaling)[1]
    else:
        assert status is None
    assert Scaling.unpack(plan.scaling.pack()) == plan.scaling
    return plan.scaling


BUSY = (worker("a", 3), worker("b", 1))


def test_a_window_a_policy_and_urgent_tasks_hold_workers_and_say_until_when() -> None:
    seen = told(*BUSY, load=Load(0, 4), past=Past(highs=((0.0, 2),), size=2), at=10.0)
    assert (seen.held, seen.wanted, seen.replicas) == ("window", 1, 2)
    assert seen.until == f"{NOW + timedelta(seconds=300):%Y-%m-%dT%H:%M:%SZ}"
    assert sentences(seen)[:2] == [
        "1 worker is wanted, between 0 (minReplicas) and 20 (maxReplicas): tasks that wait: 0, that run: 4; "
        "each worker runs 10.",
        f"2 workers stay until {seen.until}: that many were wanted within the last 300 s "
        "(scaling.down.stabilizationWindowSeconds).",
    ]
    assert told(*BUSY, load=Load(1, 4, critical=1)).held == "critical"
    assert told(*BUSY, load=Load(1, 4, oldest_seconds=60.0), pods=3, ready=2).held == "waits"
    slow = crew(scaling={"up": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}})
    seen = told(*BUSY, load=Load(90, 4), crew=slow)
    assert (seen.held, seen.wanted, seen.replicas) == ("policy", 10, 3)
    assert "policies of scaling.up allow 3 workers" in sentences(seen)[1]


@pytest.mark.parametrize(
    ("workers", "ready", "held"),
    [
        ((worker("a", 3), worker("b", 1, "scaling")), 2, "drains"),
        ((worker("a", 3), worker("b", 0, "scaling")), 2, "probes"),
        ((worker("a", 3), worker("b", 0, "scaling", empty_seconds=1.0)), 1, "probes"),
        ((worker("a", 3), worker("b", 0, "scaling")), 0, "not-ready"),
        ((worker("a", 3), worker("b", 0, "scaling"), worker("c", 1, revision=None)), 1, "older-release"),
    ],
)
def test_a_drained_worker_that_stays_says_for_what_it_waits(workers: tuple[Worker, ...], ready: int, held: str) -> None:
    seen = told(*workers, load=Load(0, 4), ready=ready)
    assert seen.held == held
    holds = "holds 1 task" if workers[1].holds else "is empty"
    assert f"Worker b was drained by scaling, and {holds}." in sentences(seen)


def test_unknown_figures_hold_and_an_even_crew_has_no_word_of_it_in_its_status() -> None:
    assert told(load=None).held == "unknown"
    assert told(*BUSY, load=Load(0, 14)).held == ""
    assert sentences(told(*BUSY, load=Load(0, 14)))[1] == f"Deployment blog-{REVISION}: 2 pods, 2 ready."
    external = crew(scaling={"mode": "External"}, replicas=2)
    assert sentences(told(*BUSY, load=Load(0, 1), crew=external))[0].startswith("2 workers: workers.replicas says so")


def test_a_sentence_that_only_ages_is_no_change_of_the_status() -> None:
    up = dataclasses.replace(child(replicas=2), there=2, ready=2)
    seen = settled(children=[up], load=Load(0, 4), fleet=Fleet(BUSY), past=Past(highs=((0.0, 2),), size=2), at=10.0)
    status = planned(seen).status
    assert status is not None
    later = dataclasses.replace(seen, status=status, at=200.0)
    assert planned(later, NOW + timedelta(seconds=200)).status is None
    window_over = dataclasses.replace(later, load=Load(0, 14))
    assert "scaling" not in (planned(window_over).status or {})


def test_what_another_version_kept_is_read_as_far_as_it_is_known() -> None:
    seen = told(*BUSY, load=Load(0, 14))
    assert Scaling.unpack(seen.pack()[:-1] + ',"later":1}') == seen
    assert Scaling.unpack("nothing") is None
    assert Scaling.unpack('{"at":"x"}') is None
