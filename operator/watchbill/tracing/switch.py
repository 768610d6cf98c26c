"""Turns tracing on and off, for a process that Watchbill begins. Off, OpenTelemetry is not imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from watchbill import tracing
from watchbill.errors import MissingExtra
from watchbill.loggers import Logger

if TYPE_CHECKING:
    from watchbill.settings import Settings

logger = Logger("watchbill.tracing")

FLUSH_SECONDS: Final = 2.0
"""The longest wait for a collector at the end of a process. Spans that it has not taken by then are lost."""


def on(settings: Settings, service: str, namespace: str = "") -> bool:
    """Exports spans from now on, if the settings name a collector and nobody has done so before; returns whether it
    does. `service`, `namespace`: what the spans call this process, unless the environment says otherwise."""
    if not settings.otel_exporter_otlp_endpoint or tracing.active is not None:
        return False
    try:
        from watchbill.tracing.exporting import Exporting
    except MissingExtra as error:
        logger.warning("no traces are sent to OTEL_EXPORTER_OTLP_ENDPOINT: %s", error)
        return False
    tracing.active = Exporting(service, namespace, content=settings.trace_content)
    return True


def off() -> None:
    """Sends the spans that are left, and exports no more. It blocks, for FLUSH_SECONDS at most."""
    traces, tracing.active = tracing.active, None
    if traces is not None:
        traces.close(FLUSH_SECONDS)
