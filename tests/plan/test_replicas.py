"""How many workers: up at once, down late, and never on what is not known."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from watchbill.plan.replicas import Bounds, Decision, Load, Past, decide, of_suspended

pytestmark = pytest.mark.pure

BOUNDS = Bounds(min_replicas=0, max_replicas=20, concurrency=10, idle_seconds=300.0)
IDLE = Load(0, 0)


@pytest.mark.parametrize(
    ("waiting", "running", "wanted"),
    [(1, 0, 1), (10, 0, 1), (11, 0, 2), (5, 6, 2), (0, 21, 3), (200, 0, 20), (100_000, 0, 20)],
)
def test_arriving_work_starts_as_many_workers_as_it_fills_up_to_the_maximum(
    waiting: int, running: int, wanted: int
) -> None:
    assert decide(BOUNDS, Load(waiting, running), 0, None) == Decision(wanted, "scale-up")


def test_no_more_workers_start_than_the_limits_of_all_agents_keep_busy() -> None:
    limited = replace(BOUNDS, at_once=25)
    assert decide(limited, Load(1000, 0), 0, None).replicas == 3
    assert decide(limited, Load(9, 0), 0, None).replicas == 1
    assert decide(limited, Load(1000, 25, deliveries=300), 0, None).replicas == 5


@pytest.mark.parametrize(("deliveries", "wanted"), [(1, 1), (64, 1), (65, 2), (100_000, 20)])
def test_results_that_are_to_be_sent_start_as_many_workers_as_send_them_at_once(deliveries: int, wanted: int) -> None:
    assert decide(BOUNDS, Load(0, 0, deliveries=deliveries), 0, 1e9) == Decision(wanted, "scale-up")
    assert decide(BOUNDS, Load(30, 0, deliveries=deliveries), 0, None).replicas == max(wanted, 3)


def test_one_worker_looks_after_the_batches_of_a_crew_that_has_nothing_else_to_do() -> None:
    load = Load(0, 0, has_batches=True)
    assert decide(BOUNDS, load, 0, 1e9) == Decision(1, "scale-up")
    assert decide(BOUNDS, load, 1, 1e9) == Decision(1, "hold")
    assert of_suspended(BOUNDS, load, 1, Past(), 0.0).replicas == 1


@pytest.mark.parametrize("load", [Load(1, 0), Load(0, 1), Load(3, 4), Load(0, 0, deliveries=1)])
def test_workers_stay_while_anything_waits_or_runs(load: Load) -> None:
    assert decide(BOUNDS, load, 7, None) == Decision(7, "hold")


def test_work_that_the_workers_can_hold_changes_nothing() -> None:
    assert decide(BOUNDS, Load(10, 10), 2, None) == Decision(2, "hold")


def test_idle_workers_stay_until_idle_seconds_are_over() -> None:
    assert decide(BOUNDS, IDLE, 4, 0.0) == Decision(4, "hold", 300.0)
    assert decide(BOUNDS, IDLE, 4, 299.0) == Decision(4, "hold", 1.0)


def test_workers_go_to_the_minimum_once_idle_for_idle_seconds() -> None:
    assert decide(BOUNDS, IDLE, 4, 300.0) == Decision(0, "idle")
    kept = Bounds(min_replicas=2, max_replicas=20, concurrency=10, idle_seconds=300.0)
    assert decide(kept, IDLE, 4, 1e9) == Decision(2, "idle")


def test_workers_stay_for_delayed_work_that_is_due_before_they_would_count_as_idle() -> None:
    made = decide(BOUNDS, Load(0, 0, due_in=BOUNDS.idle_seconds - 1), 3, BOUNDS.idle_seconds + 1)
    assert (made.replicas, made.why, made.again_seconds) == (3, "hold", BOUNDS.idle_seconds - 1)
    assert decide(BOUNDS, Load(0, 0, due_in=BOUNDS.idle_seconds + 1), 3, BOUNDS.idle_seconds + 1).why == "idle"


def test_unknown_idle_time_holds_and_looks_again() -> None:
    assert decide(BOUNDS, IDLE, 4, None) == Decision(4, "hold", 300.0)


@pytest.mark.parametrize("current", [0, 1, 20, 25])
@pytest.mark.parametrize("idle_for", [None, 0.0, 1e9])
def test_an_unknown_load_changes_nothing(current: int, idle_for: float | None) -> None:
    assert decide(BOUNDS, None, current, idle_for) == Decision(current, "unknown")


def test_a_crew_at_rest_at_its_minimum_needs_no_other_look() -> None:
    assert decide(BOUNDS, IDLE, 0, 1e9) == Decision(0, "hold")


def test_bounds_are_put_right_at_once() -> None:
    bounds = Bounds(min_replicas=2, max_replicas=5, concurrency=1, idle_seconds=300.0)
    assert decide(bounds, IDLE, 0, None) == Decision(2, "bounds")
    assert decide(bounds, Load(0, 9), 9, None) == Decision(5, "bounds")
    assert decide(bounds, Load(1, 0), 0, None).replicas == 2


def test_whatever_is_seen_the_answer_keeps_the_promises() -> None:
    for low, span, each, waiting, running, current, idle in product(
        (0, 1, 3), (0, 1, 7), (1, 4), (0, 1, 9, 50), (0, 1, 9), (0, 1, 4, 30), (None, 0.0, 10.0)
    ):
        bounds = Bounds(low, max(low + span, 1), each, 5.0)
        load = Load(waiting, running)
        decision = decide(bounds, load, current, idle)
        assert bounds.min_replicas <= decision.replicas <= bounds.max_replicas
        inside = min(max(current, bounds.min_replicas), bounds.max_replicas)
        if not load.none:
            assert decision.replicas >= inside, "scaled in with work there"
            assert decision.replicas * each >= min(waiting + running, bounds.max_replicas * each)
        elif idle is None or idle < bounds.idle_seconds:
            assert decision.replicas == inside, "scaled in too early"
            assert decision.again_seconds is not None or inside == bounds.min_replicas, "would never be looked at again"
