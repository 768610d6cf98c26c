"""kopf as a watch transport: a thread and loop of its own, because it takes over signals and cancels others' tasks.

Its handlers do nothing but hand events over to our loop. It writes nothing: no finalizers, no annotations, no events.
If it ends, it is started again with pauses; what was missed meanwhile the operator's own listing finds.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import kopf

from watchbill import names

logger = logging.getLogger("watchbill.operator")

Sink = Callable[[str, str, Mapping[str, Any]], None]
"""(plural, ADDED | MODIFIED | DELETED | '', object); called on the sink's loop."""

FAILURES_MAX = 3
FAILURES_SECONDS = 600.0


class Watch:
    """Watches Crews, Heartbeats and the workers' Deployments."""

    def __init__(self, namespaces: Collection[str], sink: Sink, on_broken: Callable[[str], None]) -> None:
        self._namespaces = namespaces
        self._sink = sink
        self._on_broken = on_broken
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchbill-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    async def stop(self) -> None:
        self._stop.set()
        await asyncio.to_thread(self._thread.join, 5.0)

    def _run(self) -> None:
        failures: list[float] = []
        while not self._stop.is_set():
            try:
                asyncio.run(self._operate())
            except Exception:
                logger.exception("the watch broke; starting it again")
            if self._stop.is_set():
                return
            now = time.monotonic()
            failures = [at for at in failures if now - at < FAILURES_SECONDS] + [now]
            if len(failures) >= FAILURES_MAX:
                self._loop.call_soon_threadsafe(self._on_broken, "the watch of the API server ended three times")
                return
            self._stop.wait(min(2.0 ** len(failures), 30.0))

    async def _operate(self) -> None:
        settings = kopf.OperatorSettings()
        settings.posting.enabled = False
        settings.scanning.disabled = True
        settings.peering.standalone = True
        settings.watching.connect_timeout = 10.0
        settings.networking.request_timeout = 30.0
        settings.networking.error_backoffs = [1, 2, 3, 5, 8, 13, 21, 34, 55, *([60] * 1000)]
        settings.process.ultimate_exiting_timeout = 5.0
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry)(_login)
        for group, version, plural, labels in (
            (names.API_GROUP, names.API_VERSION, "crews", None),
            (names.API_GROUP, names.API_VERSION, "heartbeats", None),
            ("apps", "v1", "deployments", {names.LABEL_MANAGED_BY: "watchbill"}),
        ):
            kopf.on.event(group, version, plural, registry=registry, labels=labels)(self._handler(plural))
        await kopf.operator(
            registry=registry,
            settings=settings,
            stop_flag=self._stop,
            clusterwide=not self._namespaces,
            namespaces=list(self._namespaces),
        )

    def _handler(self, plural: str) -> Callable[..., None]:
        def hand_over(event: Mapping[str, Any], **_: Any) -> None:
            # a plain copy: kopf's own views belong to its loop
            obj, kind = dict(event["object"]), str(event.get("type") or "")
            self._loop.call_soon_threadsafe(self._sink, plural, kind, obj)

        hand_over.__name__ = f"hand_over_{plural}"
        return hand_over


def _login(**kwargs: Any) -> kopf.ConnectionInfo | None:
    return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)
