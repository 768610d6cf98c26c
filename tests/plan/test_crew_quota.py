"""A crew whose namespace has a quota: no room, and its share of the workers."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from crew_plans import child, conditions, crew, planned, settled

from watchbill.plan import events, replicas
from watchbill.plan.drain import PROBED_SECONDS, Fleet, Worker
from watchbill.plan.quotas import Hold, Share
from watchbill.plan.replicas import Load, Past
from watchbill.plan.scaling import Scaling, sentences

pytestmark = pytest.mark.pure

HOLD = Hold("team", "crews", 3, 3, 1, "quotas.default.hard")
BUSY = Load(40, 20)


def workers(number: int, holds: int = 1) -> Fleet:
    revision = child().revision
    of = [Worker(f"w{i}", revision, holds, age_seconds=60.0, empty_seconds=PROBED_SECONDS) for i in range(number)]
    return Fleet(of)


def up(number: int) -> Any:
    return dataclasses.replace(child(replicas=number), there=number, ready=number)


def test_a_crew_without_room_is_stalled_with_the_figures_and_gets_no_worker() -> None:
    plan = planned(settled(load=Load(40, 0), hold=HOLD))
    assert conditions(plan.status)["Stalled"] == ("True", "QuotaExceeded")
    assert conditions(plan.status)["Ready"] == ("False", "QuotaExceeded")
    assert plan.applies == ()
    assert plan.watch == "", "whoever deletes another crew wakes it"
    assert plan.again_seconds is None
    assert plan.scaling is not None
    assert sentences(plan.scaling)[1] == f"No worker runs, because {HOLD.why}."
    assert (plan.status or {})["scaling"]["reason"] == "NamespaceQuota"
    (told,) = events.of_status({}, plan.status or {})
    assert (told.reason, told.warning) == ("QuotaExceeded", True)
    assert HOLD.why in told.note


def test_busy_workers_of_a_crew_that_has_no_room_any_more_drain_and_none_is_stopped() -> None:
    seen = settled(children=[up(2)], load=BUSY, fleet=workers(2), hold=HOLD)
    plan = planned(seen)
    assert (sorted(plan.drain), plan.shrinks) == (["w0", "w1"], False)
    drained = [dataclasses.replace(w, draining="scaling", holds=0) for w in workers(2).workers]
    plan = planned(dataclasses.replace(seen, fleet=Fleet(drained), load=Load(40, 0)))
    assert plan.shrinks


def test_a_share_bounds_what_tasks_ask_for_and_says_so() -> None:
    share = Share(3, 10, 19, "quotas.default.hard")
    plan = planned(settled(load=BUSY, share=share))
    assert (plan.wish, plan.applies[0][1]["spec"]["replicas"]) == (6, 3)
    assert plan.scaling is not None
    assert Scaling.unpack(plan.scaling.pack()) == plan.scaling
    assert sentences(plan.scaling)[:2] == [
        "6 workers are wanted, between 0 (minReplicas) and 20 (maxReplicas): tasks that wait: 40, that run: 20; each "
        "worker runs 10.",
        "This crew's share is 3 workers: the crews of its namespace want 25 in all, and may have 10 "
        "(quotas.default.hard.workers).",
    ]
    assert (plan.status or {})["scaling"]["reason"] == "NamespaceQuota"
    plan = planned(settled(load=BUSY, share=dataclasses.replace(share, most=7)))
    assert (plan.wish, plan.applies[0][1]["spec"]["replicas"]) == (6, 6)
    assert "scaling" not in (plan.status or {})


def test_workers_beyond_the_share_drain_by_what_they_hold_and_the_busiest_stay() -> None:
    fleet = workers(6)
    fleet = Fleet([dataclasses.replace(w, holds=i) for i, w in enumerate(fleet.workers)])
    share = Share(4, 10, 19, "quotas.default.hard")
    plan = planned(settled(children=[up(6)], load=BUSY, fleet=fleet, share=share))
    assert (plan.wish, plan.drain, plan.shrinks) == (6, ("w0", "w1"), False)


def test_the_share_bounds_replicas_that_others_write_and_min_replicas_too() -> None:
    share = Share(3, 10, 19, "quotas.default.hard")
    external = crew(scaling={"mode": "External"}, replicas=8)
    plan = planned(settled(external, load=None, store_error="away", share=share))
    assert (plan.wish, plan.applies[0][1]["spec"]["replicas"]) == (8, 3)
    assert (plan.status or {})["scaling"]["reason"] == "NamespaceQuota"
    plan = planned(settled(external, load=BUSY, share=share))
    assert plan.scaling is not None
    assert sentences(plan.scaling)[0].startswith("8 workers: workers.replicas says so")
    plan = planned(settled(crew(minReplicas=5), share=share))
    assert (plan.wish, plan.applies[0][1]["spec"]["replicas"]) == (5, 3)


def test_unknown_figures_change_nothing_and_say_nothing_of_what_is_wanted() -> None:
    seen = settled(children=[up(5)], load=None, store_error="away", share=Share(3, 10, 19, ""))
    plan = planned(seen)
    assert (plan.wish, plan.applies, plan.drain, plan.shrinks) == (None, (), (), False)


def test_what_a_quota_decides_counts_as_the_change_for_policies() -> None:
    decision = replicas.Decision(8, "scale-up", past=Past(changes=((5.0, 6),), size=8))
    bounded = replicas.at_most(decision, 3, 2, Past(), 5.0)
    assert (bounded.replicas, bounded.why, bounded.past) == (3, "quota", Past(changes=((5.0, 1),), size=3))
    assert replicas.at_most(decision, 8, 2, Past(), 5.0) is decision
