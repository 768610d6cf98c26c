"""Logs that the collector of traces is away, and that it is back: each once. Leaves out spans that can't be sent."""

from __future__ import annotations

from collections.abc import Sequence

from watchbill.errors import needed
from watchbill.loggers import Logger

with needed("Tracing", "otel"):
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

logger = Logger("watchbill.tracing")


class Outspoken(SpanExporter):
    """Exports by another exporter, and logs what changes in that."""

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner
        self._is_away = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = self._inner.export(spans)
        except Exception:
            result = SpanExportResult.FAILURE
        if result is not SpanExportResult.SUCCESS and not _can_be_told(spans):  # an agent gave one a name that is none
            told = [span for span in spans if _can_be_told([span])]
            logger.warning("%d spans are lost: there is something in them that OTLP can't tell", len(spans) - len(told))
            return self.export(told) if 0 < len(told) < len(spans) else result
        is_away = result is not SpanExportResult.SUCCESS
        if is_away and not self._is_away:
            logger.warning("the collector of traces takes no spans, which are lost until it does")
        elif self._is_away and not is_away:
            logger.info("the collector of traces takes spans again")
        self._is_away = is_away
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._inner.force_flush(timeout_millis)


def _can_be_told(spans: Sequence[ReadableSpan]) -> bool:
    try:
        encode_spans(spans).SerializeToString()
    except Exception:
        return False
    return True
