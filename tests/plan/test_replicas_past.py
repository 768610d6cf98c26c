"""How fast the number of workers follows the load: windows, policies, urgent work."""

from __future__ import annotations

from typing import Any

import pytest

from watchbill.api.workers import ScaleDown, ScaleUp
from watchbill.plan.replicas import Bounds, Decision, Held, Load, Past, decide

pytestmark = pytest.mark.pure


class Crew:
    """A crew whose decisions are carried out at once, on a clock that the test turns."""

    def __init__(self, size: int = 0, up: Any = None, down: Any = None) -> None:
        self.bounds = Bounds(0, 100, 10, 300.0, ScaleUp.model_validate(up or {}), ScaleDown.model_validate(down or {}))
        self.size = size
        self.now = 0.0
        self.past = Past()

    def at(self, now: float, running: int, **more: Any) -> Decision:
        self.now = now
        load = Load(more.pop("waiting", 0), running, **more)
        made = decide(self.bounds, load, self.size, None, past=self.past, now=now, up=self.size)
        self.size, self.past = made.replicas, made.past
        return made


def policy(kind: str, value: int, seconds: int) -> dict[str, Any]:
    return {"type": kind, "value": value, "periodSeconds": seconds}


def test_steady_low_traffic_shrinks_a_crew_from_its_peak_once_the_window_is_over() -> None:
    crew = Crew()
    assert crew.at(0, 200).replicas == 20
    for second in range(2, 302, 2):
        made = crew.at(second, 1)
        assert made.replicas == 20, second
        assert made.held == Held("window", 1, 302 - second), "20 were wanted until it was seen that 1 is"
    made = crew.at(302, 1)
    assert (made.replicas, made.why, made.held) == (1, "scale-down", None)


def test_it_goes_down_to_the_most_that_was_wanted_within_the_window() -> None:
    crew = Crew(size=20)
    crew.at(0, 200)
    crew.at(100, 70)
    crew.at(200, 30)
    assert crew.at(300, 10).held == Held("window", 1, 100), "what was wanted last is wanted until there is a change"
    assert crew.at(400, 10).replicas == 7
    assert crew.at(500, 10).replicas == 3
    assert crew.at(600, 10).replicas == 1


def test_after_a_restart_the_window_begins_anew() -> None:
    crew = Crew(size=20)
    assert crew.at(5000, 10) == Decision(20, "hold")
    assert crew.at(5299, 10).replicas == 20
    assert crew.at(5300, 10).replicas == 1


def test_a_window_of_zero_follows_at_once_both_ways() -> None:
    crew = Crew(size=4, down={"stabilizationWindowSeconds": 0})
    assert [crew.at(second, running).replicas for second, running in enumerate([10, 90, 20, 0, 41])] == [1, 9, 2, 1, 5]


def test_a_crew_without_work_keeps_one_worker_until_it_counts_as_idle() -> None:
    crew = Crew(size=7, down={"stabilizationWindowSeconds": 0})
    assert crew.at(0, 0) == Decision(1, "scale-down", 300.0)
    assert decide(crew.bounds, Load(0, 0), 1, 300.0, past=crew.past, now=300.0) == Decision(0, "idle")


def test_a_window_for_more_waits_until_they_have_been_wanted_that_long() -> None:
    crew = Crew(size=1, up={"stabilizationWindowSeconds": 30})
    assert [crew.at(second, 50).replicas for second in (0, 10, 29)] == [1, 1, 1]
    assert crew.at(29, 50).held == Held("window", 5, 1)
    assert crew.at(30, 50).replicas == 5
    dips = Crew(size=1, up={"stabilizationWindowSeconds": 30})
    assert [dips.at(second, running).replicas for second, running in ((0, 50), (20, 20), (30, 90), (49, 90))] == [
        1, 1, 2, 2
    ]  # fmt: skip


def test_policies_bound_the_change_within_their_periods_and_the_widest_counts() -> None:
    crew = Crew(size=2, up={"policies": [policy("Pods", 3, 60), policy("Percent", 100, 60)]})
    assert [crew.at(second, 900).replicas for second in (0, 30, 60, 90, 120)] == [5, 5, 10, 10, 20]
    down = Crew(size=40, down={"stabilizationWindowSeconds": 0, "policies": [policy("Percent", 25, 60)]})
    assert [down.at(second, 10).replicas for second in (0, 59, 60, 120)] == [30, 30, 22, 16]
    assert down.at(130, 10).held == Held("policy", 1, 50.0)
    assert Crew(size=2, up={"policies": [policy("Pods", 3, 60)]}).at(0, 900).held == Held("policy", 90, 60.0)


def test_a_percentage_lets_a_crew_leave_zero() -> None:
    assert Crew(up={"policies": [policy("Percent", 10, 60)]}).at(0, 0, waiting=90).replicas == 1


def test_critical_and_old_tasks_are_kept_waiting_by_no_window_and_no_policy() -> None:
    slow = {"stabilizationWindowSeconds": 600, "policies": [policy("Pods", 1, 600)]}
    assert Crew(size=1, up=slow).at(0, 10, waiting=40).replicas == 1
    assert Crew(size=1, up=slow).at(0, 10, waiting=40, critical=1).replicas == 5
    assert Crew(size=1, up=slow).at(0, 10, waiting=40, oldest_seconds=60.0).replicas == 5
    assert Crew(size=1, up=slow | {"waitSeconds": 61}).at(0, 10, waiting=40, oldest_seconds=60.0).replicas == 1


def test_a_task_that_waits_long_beside_workers_with_room_gets_one_more_when_all_of_them_are_up() -> None:
    """Agents that were abandoned hold their slots."""
    crew = Crew(size=3)
    load = Load(1, 20, oldest_seconds=60.0)
    assert decide(crew.bounds, load, 3, None, up=2, now=0.0).replicas == 3, "one is starting"
    assert decide(crew.bounds, load, 3, None, up=None, now=0.0).replicas == 3
    assert decide(crew.bounds, load, 3, None, up=3, now=0.0) == Decision(4, "scale-up")
    assert decide(crew.bounds, load, 100, None, up=100, now=0.0).replicas == 100


def test_none_leaves_while_a_task_waits_long_or_is_critical() -> None:
    for more in ({"oldest_seconds": 60.0}, {"critical": 1}):
        crew = Crew(size=9, down={"stabilizationWindowSeconds": 0})
        made = decide(crew.bounds, Load(1, 10, **more), 9, None, up=1, now=0.0)
        assert (made.replicas, made.held) == (9, Held("critical" if "critical" in more else "waits", 2)), more
