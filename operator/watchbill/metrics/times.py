"""A histogram that counts many values at once, and names traces as examples of them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from prometheus_client import Histogram
from prometheus_client.samples import Exemplar


class Times(Histogram):
    """A histogram that counts many values at once: each lock that `observe` takes costs as much as the counting.

    prometheus_client has no public method for it. A test compares the result with that of `observe`.
    """

    def observe_all(self, seconds: Sequence[float]) -> None:
        """Counts each value, as `observe` does."""
        counts = [0] * len(self._upper_bounds)
        for value in seconds:
            counts[bisect_left(self._upper_bounds, value)] += 1
        self._sum.inc(sum(seconds))
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)

    def exemplify(self, seconds: float, trace: str, at: float) -> None:
        """Makes a value the example of its bucket, with the id of its trace. It is not counted by this. `at`: the time
        in seconds since 1970."""
        self._buckets[bisect_left(self._upper_bounds, seconds)].set_exemplar(Exemplar({"trace_id": trace}, seconds, at))
