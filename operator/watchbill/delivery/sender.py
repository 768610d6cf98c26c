"""One attempt to deliver one message: the channel is chosen, and no secret gets into an error."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

import redis.asyncio

from watchbill.api.delivery import Apprise, Destination, Email, Log, RedisStream, Secret, Teams, Telegram, Webhook
from watchbill.clock import SYSTEM, Clock
from watchbill.delivery import http, log, redis_stream, teams, telegram, webhook
from watchbill.delivery.message import Delivered, Message
from watchbill.delivery.secrets import LocalSecrets, Secrets
from watchbill.errors import DeliveryRefused, MissingExtra, NotDelivered
from watchbill.redaction import Redactor, redact
from watchbill.settings import Settings

_NO_APPRISE: Final = (
    "the channel apprise is not allowed here, because apprise connects by itself, to addresses inside, too. If whoever "
    "names its URL may do that, add the word apprise to WATCHBILL_DELIVERY_ALLOW where results are delivered"
)

_OWN_STREAM: Final = (
    "stream {!r} is the service's own: its task_stream takes no results, and its result_stream has each of them "
    "anyway. Name another stream"
)


class Sender:
    """Sends messages to destinations. It belongs to one event loop, and may serve any number of sends at once.

    Close it when nothing is being sent any more: it keeps connections to receivers open.
    """

    def __init__(
        self,
        settings: Settings,
        secrets: Secrets | None = None,
        *,
        store: redis.asyncio.Redis | None = None,
        own_streams: Collection[str] = (),
        clock: Clock = SYSTEM,
    ) -> None:
        """`secrets` default: this process's environment and the folder of mounted Secrets. `store`: a client of the
        crew's store, which the channel redisStream writes to; it is not closed. `own_streams`: streams of that store
        that are refused, because this process reads or writes them by itself."""
        self._settings = settings
        self._secrets: Secrets = secrets or LocalSecrets()
        self._store = store
        self._own_streams = own_streams
        self._clock = clock
        self._http: http.Http | None = None

    async def send(self, message: Message, destination: Destination) -> Delivered:
        """Sends a message once, and returns when the destination has taken it.

        Raises DestinationGone when the destination asks for no further message, DeliveryRefused when it will never
        take this one, and NotDelivered when it may take it later; no other error but cancellation. No text of an error
        has a secret in it.
        """
        secrets = _Seen(self._secrets)
        try:
            return await self._send(message, destination, secrets)
        except (DeliveryRefused, NotDelivered) as error:
            error.args = (secrets.redact(str(error)),)
            error.__suppress_context__ = True
            raise
        except MissingExtra as error:  # another worker may have it
            raise NotDelivered(str(error)) from None
        except Exception as error:
            text = secrets.redact(f"{destination.channel} failed: {type(error).__name__}: {error}")
            raise NotDelivered(text) from None

    async def _send(self, message: Message, destination: Destination, secrets: Secrets) -> Delivered:
        settings, clock = self._settings, self._clock
        match destination.spec:
            case Log() as channel:
                return log.send(message, channel)
            case Webhook() as channel:
                return await webhook.send(message, channel, secrets, self._client(), clock)
            case Telegram() as channel:
                return await telegram.send(message, channel, secrets, self._client(), clock, settings.telegram_url)
            case Teams() as channel:
                return await teams.send(message, channel, secrets, self._client(), clock)
            case RedisStream() as channel:
                if self._store is None:
                    raise NotDelivered("there is no store here that has streams")
                if channel.stream in self._own_streams:
                    raise DeliveryRefused(_OWN_STREAM.format(channel.stream))
                return await redis_stream.send(message, channel, self._store)
            case Email() as channel:
                from watchbill.delivery import mail  # an optional part

                return await mail.send(message, channel, settings, clock)
            case Apprise() as channel:
                if not settings.delivers_by_apprise:
                    raise DeliveryRefused(_NO_APPRISE)
                from watchbill.delivery import notify  # an optional part, and slow to import

                return await notify.send(message, channel, secrets, settings.delivery_timeout_seconds)

    def _client(self) -> http.Http:
        if self._http is None:
            self._http = http.Http(self._settings.delivery_networks, self._settings.delivery_timeout_seconds)
        return self._http

    async def aclose(self) -> None:
        """Closes the connections to receivers."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None


class _Seen:
    """Reads secrets, and knows for the time of one attempt which values must not be shown."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets
        self._values: dict[str, str] = {}

    def read(self, secret: Secret) -> str:
        value = self._secrets.read(secret)
        try:
            parts = urlsplit(value) if "://" in value else None
        except ValueError:  # whose text quotes a part of it
            raise DeliveryRefused(f"{secret} is no URL that can be used. Correct it") from None
        for form in (value, parts and parts.path, parts and parts.query):
            if form:
                self._values[f"secret {len(self._values) + 1}"] = form
        return value

    def redact(self, text: str) -> str:
        """The text without these values, and without the secrets of the environment."""
        return redact(Redactor(self._values)(text))
