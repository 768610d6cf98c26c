"""The page of a process's metrics, in the form that a scraper asks for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from prometheus_client import REGISTRY, Metric
from prometheus_client.exposition import choose_encoder

from watchbill import metrics

_END: Final = b"# EOF\n"
"""The end mark of OpenMetrics."""


class _WithoutOperator:
    """The registry of a process that is no operator. Gauges without labels are 0 from the start, and a store or leader
    that is 0 there would tell of an outage."""

    @staticmethod
    def collect() -> Iterator[Metric]:
        return (family for family in REGISTRY.collect() if not family.name.startswith(metrics.OF_OPERATOR))


def page(accept: str, *, is_operator: bool) -> tuple[bytes, str]:
    """Returns the page, and its content type. `accept` is the HTTP header: OpenMetrics, the only form that has traces
    as examples, is for those who ask for it. `is_operator`: the page has the operator's own metrics, too."""
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # a version that is no number
        encode, content_type = choose_encoder("")
    shown: Any = REGISTRY if is_operator else _WithoutOperator()  # of a registry only `collect` is called
    text = encode(shown)
    is_open_metrics = text.endswith(_END)
    queues = metrics.QUEUES.text(is_open_metrics=is_open_metrics).encode()
    return (text.removesuffix(_END) + queues + _END if is_open_metrics else text + queues), content_type
