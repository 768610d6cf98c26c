"""What the benches of the operator make of what they saw."""

from __future__ import annotations

from collections import Counter

import pytest
from bench import failover, instructions, paired, rollout
from e2e.cluster.control_plane import Write

pytestmark = pytest.mark.pure


def write(user: str, resource: str = "crews", code: int = 200) -> Write:
    return Write(user, "patch", "", resource, "", "bench", "a", code, "/", "", "2026-01-01T00:00:00Z")


def test_only_writes_after_the_takeover_that_the_api_server_took_are_the_former_leaders_fault() -> None:
    before = [write("old"), write("new", "leases", 409), write("old", "leases"), write("new", "leases")]
    late = write("old", "deployments")
    assert failover.after_takeover([*before, write("old", code=409), write("new"), late], old="old", new="new") == [
        late
    ]
    assert failover.after_takeover([write("old")], old="old", new="new") == []


@pytest.mark.parametrize(
    ("slots", "found"), [([], (0, 0)), ([5, 6, 7], (0, 0)), ([7, 5], (1, 0)), ([5, 5, 6, 9], (2, 1))]
)
def test_slots_that_are_missing_or_there_twice(slots: list[int], found: tuple[int, int]) -> None:
    assert failover.gaps(slots) == found


def test_the_lowest_throughput_is_that_of_any_span() -> None:
    ends = [10.0, 10.5, 11.2, 12.1, 12.9, 13.0]
    assert rollout.throughput(ends, 2, 10, 13) == 0.5
    assert rollout.throughput(ends, 2, 10, 13, span=2) == 0.75
    assert rollout.throughput(ends, 2, 10, 15) == 0


def test_of_tasks_that_come_evenly_as_many_end_in_each_second() -> None:
    load = rollout.Load(200, 1, 60)
    ends = Counter(int(number / 200 + load.seconds(number)) for number in range(1, 20_000))
    assert all(abs(ends[second] - 200) <= 2 for second in range(60, 95))


def test_the_cost_of_a_part_is_the_median_of_ratios_within_rounds() -> None:
    def cost(cpu: float) -> paired.Cost:
        return paired.Cost(cpu, 2 * cpu)

    rounds = [{"off": cost(off), "on": cost(off * ratio)} for off, ratio in ((50, 1.02), (100, 1.03), (70, 1.9))]
    found = paired.compared(rounds)
    assert (round(found.percent, 6), round(found.wall_percent, 6), found.without) == (3, 3, 70)
    assert found.microseconds == pytest.approx(3)
    assert 0 < found.error < 2, "one busy moment is no error of all"


def test_what_a_share_of_tasks_costs_follows_from_the_instructions_of_each_kind() -> None:
    rounds = [
        {"off": 500.0, "left out": 505.0, "recorded": 1005.0},
        {"off": 100.0, "left out": 100.0, "recorded": 300.0},
    ]
    kinds = {"all": {"recorded": 1.0}, "1 %": {"left out": 0.99, "recorded": 0.01}}
    first, second = instructions.percent(rounds, kinds)
    assert first == {"all": pytest.approx(101), "1 %": pytest.approx(2)}
    assert second == {"all": pytest.approx(200), "1 %": pytest.approx(2)}
