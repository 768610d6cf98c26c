"""A histogram that counts many values at once, and names traces as examples of them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from prometheus_client import Histogram
from prometheus_client.samples import Exemplar


class Times(Histogram):
    """A histogram that counts many values at once: each lock that `observe` takes costs as much as the counting.

    prometheus_client has no public method for it. A test compares the result with that of `observe`.
    """

    def observe_all(self, seconds: Sequence[float]) -> None:
        """Counts each value, as `observe` does."""
        values, bounds = sorted(seconds), self._upper_bounds
        self._sum.inc(sum(values))
        counted = 0
        while counted < len(values):  # once for each bucket with a value, not for each value
            place = bisect_left(bounds, values[counted])
            upto = bisect_right(values, bounds[place], counted)
            self._buckets[place].inc(upto - counted)
            counted = upto

    def exemplify(self, seconds: float, trace: str, at: float) -> None:
        """Makes a value the example of its bucket, with the id of its trace. It is not counted by this. `at`: the time
        in seconds since 1970."""
        self._buckets[bisect_left(self._upper_bounds, seconds)].set_exemplar(Exemplar({"trace_id": trace}, seconds, at))
