"""While the store is away, one request a second asks whether it is back."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY

from watchbill.controller.store_gate import StoreGate
from watchbill.testing import FakeClock

pytestmark = pytest.mark.pure


def is_up() -> float | None:
    return REGISTRY.get_sample_value("watchbill_operator_store_up")


def test_a_store_that_is_away_is_asked_once_a_second_and_its_return_is_told_once() -> None:
    clock, back = FakeClock(), []
    gate = StoreGate(lambda: back.append(clock.monotonic()), clock)
    assert (gate.may_ask(), gate.may_ask(), gate.down_for, is_up()) == (True, True, None, 1)
    clock.advance(5)
    gate.failed(OSError("refused"))
    gate.failed(OSError("refused otherwise"))
    assert (gate.error, gate.down_for, is_up()) == ("refused", 0, 0)
    clock.advance(0.75)
    assert not gate.may_ask()
    clock.advance(0.25)
    assert gate.may_ask()
    assert not gate.may_ask(), "one asks for all"
    clock.advance(0.5)
    gate.failed(OSError("it took half a second to say no"))
    clock.advance(0.75)
    assert not gate.may_ask()
    clock.advance(0.25)
    assert gate.may_ask()
    assert (gate.down_for, back) == (2.5, [])
    gate.answered()
    gate.answered()
    assert (gate.may_ask(), gate.may_ask(), gate.down_for, back, is_up()) == (True, True, None, [7.5], 1)
