"""A slow full collection of Python's garbage collector is not repeated over the same objects."""

from __future__ import annotations

import gc
import weakref

import pytest

from watchbill.controller.garbage import PAUSE_SECONDS, WHOLE_SECONDS, bounded_pauses
from watchbill.testing import FakeClock

pytestmark = pytest.mark.pure


class Slow(FakeClock):
    """Each look at it takes so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def monotonic(self) -> float:
        self.advance(self._seconds)
        return super().monotonic()


@pytest.mark.parametrize(("seconds", "generation", "is_frozen"), [(1.0, 2, True), (1.0, 1, False), (0.0, 2, False)])
def test_what_a_slow_full_collection_leaves_is_not_looked_at_again(
    seconds: float, generation: int, is_frozen: bool
) -> None:
    assert PAUSE_SECONDS < 1
    before = gc.get_freeze_count()
    kept = [[number] for number in range(1000)]
    with bounded_pauses(Slow(seconds)):
        gc.collect(generation)
        assert (gc.get_freeze_count() - before >= len(kept)) is is_frozen
    assert gc.get_freeze_count() == 0


class _Cycle:
    def __init__(self) -> None:
        self.own = self


def test_a_frozen_cycle_that_nothing_refers_to_goes_with_the_next_look_at_all() -> None:
    clock = Slow(1.0)
    kept = _Cycle()
    gone = weakref.ref(kept)
    with bounded_pauses(clock):
        gc.collect()
        del kept
        gc.collect()
        assert gone() is not None
        clock.advance(WHOLE_SECONDS)
        gc.collect()
        assert gone() is None
