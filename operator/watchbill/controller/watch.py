"""Runs kopf as a watch transport.

kopf runs in a thread and loop of its own, because it takes over signals and cancels the tasks of others. Its handlers
only hand events over to our loop, and it writes nothing: no finalizers, no annotations, no events. If kopf ends, it is
started again after a pause; the operator's own listing finds what was missed meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final

import uvloop

from watchbill import cluster_names, kubernetes_api, kubernetes_credentials, metrics
from watchbill.clock import SYSTEM, Clock
from watchbill.errors import needed

with needed("The operator", "operator"):
    import kopf

logger = logging.getLogger("watchbill.operator")

Sink = Callable[[str, str, Mapping[str, Any]], None]
"""(plural, ADDED | MODIFIED | DELETED | '', object)"""

LOGIN_AGAIN_SECONDS: Final = 2.0
IDLE_SECONDS: Final = 0.5
"""Seconds for which kopf keeps an object, whole, after its last event. Its own five would hold all Deployments of a
listing at once: 34 KB for each."""
ENDS_MAX: Final = 3
ENDS_SECONDS: Final = 600.0
"""A watch that ended ENDS_MAX times within so many seconds is not started again."""


class Watch:
    """Watches Crews, Heartbeats and the workers' Deployments.

    Calls `sink` with each event, `on_restart` when events may have been missed, and `on_broken` with the reason when
    the watch can't be kept up: all of them on the loop in which the Watch was made.
    """

    def __init__(
        self,
        namespaces: Collection[str],
        sink: Sink,
        on_restart: Callable[[], object],
        on_broken: Callable[[str], object],
        clock: Clock = SYSTEM,
    ) -> None:
        self._namespaces = namespaces
        self._sink = sink
        self._on_restart = on_restart
        self._on_broken = on_broken
        self._restarts = Restarts(clock)
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._cancel: Callable[[], object] | None = None
        """Cancels kopf from any thread; None while it does not run."""
        self._thread = threading.Thread(target=self._run, name="watchbill-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    async def stop(self) -> None:
        self._stop.set()
        if (cancel := self._cancel) is not None:
            with suppress(RuntimeError):  # its loop has just been closed
                cancel()
        await asyncio.to_thread(self._thread.join, 5.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                uvloop.run(self._operate())
            except Exception:
                logger.exception("the watch broke; starting it again")
            if self._stop.is_set():
                return
            metrics.WATCH_RESTARTS.inc()
            pause = self._restarts.pause()
            if pause is None:
                self._call(self._on_broken, f"the watch of the API server ended {ENDS_MAX} times")
                return
            self._stop.wait(pause)
            self._call(self._on_restart)

    async def _operate(self) -> None:
        # Cancelled rather than stopped by a stop_flag: a kopf that fails would hang, waiting for the flag.
        operating = asyncio.create_task(
            kopf.operator(
                registry=registry(self._hand_over),
                settings=settings(),
                clusterwide=not self._namespaces,
                namespaces=list(self._namespaces),
            )
        )
        self._cancel = partial(asyncio.get_running_loop().call_soon_threadsafe, operating.cancel)
        if self._stop.is_set():  # before there was anything to cancel
            operating.cancel()
        await asyncio.wait([operating])
        self._cancel = None
        if not operating.cancelled():
            operating.result()

    def _hand_over(self, plural: str, kind: str, obj: Mapping[str, Any]) -> None:
        self._call(self._sink, plural, kind, obj)

    def _call(self, what: Callable[..., object], *args: Any) -> None:
        if not self._loop.is_closed():  # as it may be at the operator's end
            self._loop.call_soon_threadsafe(what, *args)


class Restarts:
    """Decides whether, and when, a watch that has ended is started again."""

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._ended_at: list[float] = []

    def pause(self) -> float | None:
        """The watch has ended. Returns after how many seconds to start it again; None: it ends too often."""
        now = self._clock.monotonic()
        self._ended_at = [at for at in self._ended_at if now - at < ENDS_SECONDS] + [now]
        return None if len(self._ended_at) >= ENDS_MAX else 2.0 ** len(self._ended_at)


def registry(hand_over: Sink) -> kopf.OperatorRegistry:
    """Returns the handlers, for `kopf.operator` and for kopf's own runner in tests. They call `hand_over` on kopf's
    loop."""
    handlers = kopf.OperatorRegistry()
    kopf.on.login(registry=handlers, backoff=LOGIN_AGAIN_SECONDS)(_login)
    for group, version, plural, labels in (
        (cluster_names.API_GROUP, cluster_names.API_VERSION, "crews", None),
        (cluster_names.API_GROUP, cluster_names.API_VERSION, "heartbeats", None),
        ("apps", "v1", "deployments", {cluster_names.LABEL_MANAGED_BY: "watchbill"}),
    ):
        kopf.on.event(group, version, plural, registry=handlers, labels=labels)(_handler(plural, hand_over))
    return handlers


def settings() -> kopf.OperatorSettings:
    """Returns kopf's settings for a watch that writes nothing."""
    made = kopf.OperatorSettings()
    made.posting.enabled = False
    made.scanning.disabled = True
    made.peering.standalone = True
    made.watching.connect_timeout = 10.0
    made.watching.chunk_size = kubernetes_api.PAGE
    # Those of others don't even come here: kopf would keep something of each for ever.
    made.watching.label_selectors["apps", "v1", "deployments"] = cluster_names.WORKER_SELECTOR
    made.queueing.idle_timeout = IDLE_SECONDS
    made.networking.request_timeout = 30.0
    made.networking.error_backoffs = [1, 2, 3, 5, 8, 13, 21, 34, 55, *([60] * 1000)]
    made.persistence.diffbase_storage = _NothingHandled()
    made.persistence.progress_storage = _NoProgress()
    made.process.ultimate_exiting_timeout = None  # else a kopf that fails kills this process
    return made


class _NothingHandled(kopf.DiffBaseStorage):
    """Keeps no state that was handled last. kopf's own copies each object twice to compare it, which is for handlers
    that we don't have, and a quarter of what an event costs."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence({})

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        pass


class _NoProgress(kopf.ProgressStorage):
    """Keeps no progress of handlers: ours are done when they return."""

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        pass

    def purge(self, **_: Any) -> None:
        pass

    def touch(self, **_: Any) -> None:
        pass

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        return essence


def _handler(plural: str, hand_over: Sink) -> Callable[..., Awaitable[None]]:
    async def handler(event: Mapping[str, Any], **_: Any) -> None:  # not sync: kopf would take a thread for each event
        # A plain copy, because kopf's own views belong to its loop.
        hand_over(plural, str(event.get("type") or ""), dict(event["object"]))

    handler.__name__ = f"hand_over_{plural}"
    return handler


async def _login(**_: Any) -> kopf.ConnectionInfo:
    """Reads the credentials. kopf calls it again when the API server no longer accepts them: tokens of pods are
    short-lived."""
    found = await kubernetes_credentials.credentials()
    return kopf.ConnectionInfo(
        server=found.server,
        ca_path=found.ca_path,
        insecure=found.insecure,
        scheme=found.scheme,
        token=found.token,
        certificate_path=found.certificate_path,
        private_key_path=found.key_path,
        proxy_url=found.proxy,
    )
