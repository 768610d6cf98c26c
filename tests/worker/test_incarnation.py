"""What an incarnation holds, and which of its results one call takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from watchbill.errors import AgentNotLoadable
from watchbill.store.queue import BATCH, BATCH_BYTES, Claim, Claimed, Finished
from watchbill.worker.incarnation import Incarnation, Job

pytestmark = pytest.mark.pure

TASK = Claimed("t", "1", 1, "a", "1-0", 5, taken_over=False)


def _finished(number: int, length: int = 0) -> Finished:
    return Finished(replace(TASK, id=f"t{number}", entry=f"{number}-0"), "completed", "x" * length)


@pytest.mark.parametrize(
    ("lengths", "taken"),
    [
        ([10] * (BATCH + 1), BATCH),
        ([BATCH_BYTES // 4] * 9, 4),
        ([2 * BATCH_BYTES, 10], 1),
        ([10, 2 * BATCH_BYTES, 10], 1),
        ([], 0),
    ],
)
def test_one_call_takes_results_by_number_and_by_bytes_and_always_one(lengths: list[int], taken: int) -> None:
    own = Incarnation("w")
    everything = [_finished(number, length) for number, length in enumerate(lengths)]
    own.finished = list(everything)
    with own.sending() as batch:
        assert batch == everything[:taken]
        assert own.finished == everything[taken:]
        assert len(own.entries) == len(lengths)
    assert own.sent == []
    with pytest.raises(OSError, match="away"), own.sending() as batch:
        raise OSError("away")
    assert own.finished == everything[taken:], "in hand again, in their order"
    assert own.sent == []


@pytest.mark.parametrize(
    ("where", "what", "is_working"),
    [
        ("jobs", {"t": Job(TASK)}, True),
        ("finished", [_finished(1)], True),
        ("sent", [[_finished(1)]], True),
        ("unloadable", [(TASK, AgentNotLoadable("nobody has its agent"))], True),
        ("unwanted", [TASK], True),
        ("beginning", [TASK], True),
        ("held", [TASK], False),
        ("heard", Claim((TASK,), 1000, 0), False),
    ],
)
def test_an_incarnation_that_holds_anything_is_not_idle_and_knows_its_entry(
    where: str, what: Any, is_working: bool
) -> None:
    own = Incarnation("w")
    assert (own.is_idle, own.is_working, own.entries) == (True, False, set())
    setattr(own, where, what)
    assert (own.is_idle, own.is_working) == (False, is_working)
    assert own.entries == {"1-0"}


def test_a_held_task_that_somebody_wants_to_stop_is_held_no_more() -> None:
    other = replace(TASK, id="other")
    own = Incarnation("w", held=[TASK, other], claimed={"t": 1.0, "other": 1.0})
    own.unhold("t", "interrupt")
    assert own.held == [other]
    assert own.unwanted == [replace(TASK, wish="interrupt")]
    assert own.claimed == {"other": 1.0}
    own.unhold("unknown", "cancel")
    assert own.held == [other]
    assert len(own.unwanted) == 1
