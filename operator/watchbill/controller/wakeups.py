"""Hears of work that has arrived, so that its crew is reconciled at once.

A message may be lost: the autoscaler's next look finds the work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import redis.asyncio

from watchbill import names
from watchbill.clock import SYSTEM, Clock
from watchbill.connection import outages
from watchbill.controller.cache import Key

SILENCE_SECONDS: Final = 5.0
"""A subscription that was silent for this long is pinged, and must answer within as much."""


class WakeUps:
    """Calls `on_wake(crew)` for each message, and `on_subscribed` whenever messages may have been lost before."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        on_wake: Callable[[Key], None],
        on_subscribed: Callable[[], None],
        clock: Clock = SYSTEM,
    ) -> None:
        self._client = client
        self._on_wake = on_wake
        self._on_subscribed = on_subscribed
        self._clock = clock

    async def run(self) -> None:
        """Listens until cancelled."""
        while True:
            subscription = _Subscription(self._client, self._on_subscribed, self._clock)
            try:
                await self._listen(subscription)
            finally:
                await subscription.aclose()  # type: ignore[no-untyped-call]

    async def _listen(self, subscription: _Subscription) -> None:
        """Returns when the other end has been silent for too long: a connection may be dead without saying so."""
        await outages.persist(lambda: subscription.psubscribe(names.WAKE_PATTERN))
        subscription.heard_at = self._clock.monotonic()
        while (silent_for := self._clock.monotonic() - subscription.heard_at) < 2 * SILENCE_SECONDS:
            if silent_for >= SILENCE_SECONDS:
                await outages.persist(subscription.ping)
            message = await outages.persist(lambda: subscription.get_message(timeout=SILENCE_SECONDS))
            if message is None or message["type"] != "pmessage":
                continue
            # Whoever may publish there may write to the crew; what a message says proves nothing.
            if keys := names.crew_of_prefix(str(message["channel"]).removesuffix("wake")):
                namespace, _, name = keys.crew.partition("/")
                self._on_wake((namespace, name))


class _Subscription(redis.asyncio.client.PubSub):
    """Calls `on_subscribed` for each new connection: messages of the time before it reached nobody."""

    def __init__(self, client: redis.asyncio.Redis, on_subscribed: Callable[[], None], clock: Clock) -> None:
        super().__init__(client.connection_pool, ignore_subscribe_messages=True)
        self._on_subscribed = on_subscribed
        self._clock = clock
        self.heard_at = clock.monotonic()
        """The time at which anything was last received, answers to pings included."""

    async def on_connect(self, connection: Any) -> None:
        await super().on_connect(connection)
        self._on_subscribed()

    async def parse_response(self, *args: Any, **options: Any) -> Any:
        response = await super().parse_response(*args, **options)
        if response is not None:
            self.heard_at = self._clock.monotonic()
        return response
