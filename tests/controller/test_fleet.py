"""The workers that plans depend on: from what the store says, and what was seen of them before."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY

from watchbill.controller import fleet
from watchbill.controller.memory import CrewMemory
from watchbill.store.workers import Worker, Workers
from watchbill.testing import FakeClock

pytestmark = pytest.mark.pure


def found(*workers: Worker, undrained_ms: int = 0) -> Workers:
    return Workers(100_000, undrained_ms, workers)


def test_a_worker_is_empty_since_it_was_first_seen_drained_and_without_a_task() -> None:
    clock, memory = FakeClock(), CrewMemory()

    def empty_seconds(holds: int, draining: bool = True) -> float:
        one = Worker("pod-1", holds, "scaling" if draining else "", "abcd1234", 90_000)
        (seen,) = fleet.of(found(one), memory, clock).workers
        return seen.empty_seconds

    assert empty_seconds(1) == 0.0
    clock.advance(20)
    assert empty_seconds(0) == 0.0
    clock.advance(5)
    assert empty_seconds(0) == 5.0
    assert empty_seconds(0, draining=False) == 0.0
    assert empty_seconds(0) == 0.0, "it was taken back meanwhile"


def test_ages_are_by_the_clock_of_the_store_and_unknown_ones_are_none() -> None:
    old, new = Worker("a", 0, "", "abcd1234", 88_000), Worker("b", 1, "", None, 0)
    made = fleet.of(found(old, new, undrained_ms=97_000), CrewMemory(), FakeClock())
    assert [(one.name, one.revision, one.age_seconds) for one in made.workers] == [
        ("a", "abcd1234", 12.0),
        ("b", None, 0.0),
    ]
    assert made.undrained_seconds == 3.0
    assert fleet.of(found(), CrewMemory(), FakeClock()).undrained_seconds == float("inf")


def test_a_kubelet_knows_for_how_long_that_a_worker_is_as_it_is() -> None:
    def probed_seconds(ready: bool | None, holds: int, draining: bool = True) -> float | None:
        one = Worker("a", holds, "scaling" if draining else "", "abcd1234", 88_000, ready, 97_000)
        return fleet.of(found(one), CrewMemory(), FakeClock()).workers[0].probed_seconds

    assert probed_seconds(None, 0) is None
    assert [probed_seconds(True, 0, draining=False), probed_seconds(True, 1)] == [3.0, 3.0]
    assert probed_seconds(True, 0) == 0.0, "it still takes the drained one for ready"
    assert probed_seconds(False, 0) == 3.0
    assert [probed_seconds(False, 0, draining=False), probed_seconds(False, 1)] == [0.0, 0.0]


def test_what_was_seen_of_workers_that_are_gone_is_forgotten() -> None:
    memory = CrewMemory()
    fleet.of(found(Worker("a", 0, "person", "abcd1234", 1)), memory, FakeClock())
    assert list(memory.empty_since) == ["a"]
    fleet.of(found(), memory, FakeClock())
    assert memory.empty_since == {}


def test_a_drain_lasts_until_its_worker_has_ended_all_or_is_gone_and_one_that_is_taken_back_does_not_count() -> None:
    def drains() -> tuple[float, float]:
        count, total = (REGISTRY.get_sample_value(f"watchbill_operator_drain_seconds_{w}") for w in ("count", "sum"))
        return count or 0.0, total or 0.0

    def worker(name: str, holds: int) -> Worker:
        return Worker(name, holds, "scaling", "abcd1234", 90_000)

    clock, memory = FakeClock(), CrewMemory()
    before = drains()
    memory.drained_at = {"a": clock.monotonic(), "b": clock.monotonic()}
    clock.advance(7)
    fleet.of(found(worker("a", 1), worker("b", 2)), memory, clock)
    assert drains() == before
    fleet.of(found(worker("a", 0), worker("b", 1)), memory, clock)
    clock.advance(5)
    fleet.of(found(worker("a", 0)), memory, clock)
    fleet.of(found(worker("a", 0)), memory, clock)
    count, total = drains()
    assert (count - before[0], total - before[1]) == (2, 7 + 12)
    assert memory.drained_at == {}
