"""The core of RedisPubSub: which channels have handlers, and how to listen to them for as long as the program runs.

It yields what its shell is to do (steps.py, and those below), and decides on messages, silence and errors.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import redis

from watchbill import message_names
from watchbill.clock import Clock
from watchbill.connection import outages
from watchbill.errors import StoreUnavailable
from watchbill.loggers import Logger
from watchbill.messaging import checks
from watchbill.messaging.shells import FAILURES
from watchbill.messaging.steps import Call, Pause, Steps

logger = Logger("watchbill.messaging.pubsub")

POLL_SECONDS: Final = 0.2
"""A new subscription, and the end, take effect within so long."""
PING_SECONDS: Final = 10.0
"""A server that was silent for so long is asked whether it is there."""
SILENT_SECONDS: Final = 25.0
"""A connection that was silent for so long is given up, and made anew."""
CONFIRM_SECONDS: Final = 5.0
"""A caller waits at most so long until the server confirms a subscription."""
STOP_SECONDS: Final = 5.0
"""`stop` waits at most so long for a handler that runs."""
_FIRST_PAUSE_SECONDS: Final = 0.05
_LONGEST_PAUSE_SECONDS: Final = 1.0

Handler = Callable[[Any], object]


@dataclass(frozen=True, slots=True)
class Open:
    """Drop the connection that there may be, and begin with a new one."""


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Ask for the messages of these channels."""

    channels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Ask for no more messages of these channels."""

    channels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ping:
    """Ask the server to say something."""


@dataclass(frozen=True, slots=True)
class Read:
    """Wait for a message for so many seconds. The answer is redis-py's dict, or None."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Handle:
    """Call a handler. What it raises is logged, and goes no further."""

    handler: Handler
    data: Any
    channel: str


ListenStep = Open | Subscribe | Unsubscribe | Ping | Read | Handle | Pause
"""The answers to all but Read are ignored."""


class Subscriptions:
    """Channels and their handlers. Callers may be other threads than the one that listens: each change of a dict or set
    here is one operation of the interpreter."""

    def __init__(self, key_prefix: str, clock: Clock, changed: Callable[[], None]) -> None:
        """`changed` is called when `is_settled` may have changed."""
        self._prefix = checks.prefix(key_prefix)
        self._now = clock.monotonic
        self._changed = changed
        self._notices = outages.Notices()
        self._handlers: dict[str, tuple[str, Handler]] = {}
        """Channel as the server knows it → as callers do, and its handler."""
        self._asked: set[str] = set()
        self._confirmed: set[str] = set()
        self._is_down = False
        self.is_stopping = False

    def publish(self, channel: str, message: object) -> Steps[int]:
        name = message_names.channel(checks.text(channel, "channel"), self._prefix)
        answer = yield Call(("PUBLISH", name, checks.to_json(message, "message")))
        return int(answer)

    def add(self, channel: str, handler: Handler) -> str:
        """Returns the channel as the server knows it."""
        name = message_names.channel(checks.text(channel, "channel"), self._prefix)
        self._handlers[name] = (channel, checks.function(handler, "handler"))
        return name

    def remove(self, channel: str) -> None:
        self._handlers.pop(message_names.channel(checks.text(channel, "channel"), self._prefix), None)

    def warn_if_none(self) -> None:
        """Warns a caller that listens, and blocks, before anybody has subscribed."""
        if not self._handlers:
            logger.warning("run() hears nothing until subscribe(channel, handler) is called: no channel has a handler")

    def is_settled(self, *channels: str) -> bool:
        """Returns whether the server has confirmed these channels, or all that have a handler; or there is none to wait
        for."""
        return self._is_down or self._confirmed.issuperset(channels or set(self._handlers))

    # ------------------------------------------------------------ listening

    def listen(self) -> Generator[ListenStep, Any, None]:
        """Listens until `is_stopping`, whatever happens to the server. Raises StoreRefuses only if the server has
        refused us from the beginning."""
        pause, was_up, down_since = _FIRST_PAUSE_SECONDS, False, self._now()
        self._is_down = False
        try:
            while not self.is_stopping:
                try:
                    yield from self._listen_once()
                except FAILURES as error:
                    refused = outages.refused(error)
                    if self._confirmed:
                        pause, was_up, down_since = _FIRST_PAUSE_SECONDS, True, self._now()
                    elif refused and not was_up:
                        raise refused from error
                    self._note_failure(refused or error, down_since)
                    yield Pause(pause * random.uniform(0.5, 1))
                    pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
        finally:
            self._asked, self._confirmed = set(), set()

    def _listen_once(self) -> Generator[ListenStep, Any, None]:
        """Listens on one connection, until it breaks."""
        self._asked, self._confirmed = set(), set()
        yield Open()
        heard_at = pinged_at = self._now()
        while not self.is_stopping:
            wanted = set(self._handlers)
            if added := wanted - self._asked:
                yield Subscribe(tuple(added))
            if dropped := self._asked - wanted:
                self._confirmed -= dropped
                yield Unsubscribe(tuple(dropped))
            self._asked = wanted
            if not wanted:
                yield Pause(POLL_SECONDS)
                heard_at = pinged_at = self._now()  # nobody listened
                continue
            if message := (yield Read(POLL_SECONDS)):
                yield from self._received(message)
                heard_at = pinged_at = self._now()  # after the handler, which may have taken its time
            elif self._now() - heard_at > SILENT_SECONDS:
                raise redis.exceptions.ConnectionError(f"the server was silent for {SILENT_SECONDS:.0f} s")
            elif self._now() - pinged_at > PING_SECONDS:
                pinged_at = self._now()
                yield Ping()

    def _received(self, message: Mapping[str, Any]) -> Generator[ListenStep, Any, None]:
        kind, name = message["type"], message["channel"]
        if kind == "subscribe":
            self._confirmed.add(name)
            self._is_down = False
            self._changed()
        elif kind == "unsubscribe":
            self._confirmed.discard(name)
        elif kind == "message" and (found := self._handlers.get(name)):
            channel, handler = found
            yield Handle(handler, checks.from_json_or_text(message["data"]), channel)

    def _note_failure(self, error: BaseException, down_since: float) -> None:
        now = self._now()
        self._notices.log(StoreUnavailable(str(error)), now - down_since, now)
        self._is_down = True
        self._changed()
