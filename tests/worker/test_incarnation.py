"""What of a life's results one call takes."""

from __future__ import annotations

import pytest

from watchbill.store.queue import BATCH, BATCH_BYTES, Claimed, Finished
from watchbill.worker.incarnation import Incarnation

pytestmark = pytest.mark.pure


def _finished(number: int, length: int) -> Finished:
    task = Claimed(f"t{number}", "1", 1, "a", f"{number}-0", 5, taken_over=False)
    return Finished(task, "completed", "x" * length)


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
    me = Incarnation("w")
    everything = [_finished(number, length) for number, length in enumerate(lengths)]
    me.finished = list(everything)
    with me.sending() as batch:
        assert batch == everything[:taken]
        assert me.finished == everything[taken:]
        assert len(me.entries) == len(lengths)
    with pytest.raises(OSError, match="away"), me.sending() as batch:
        raise OSError("away")
    assert me.finished == everything[taken:], "in hand again, in their order"
