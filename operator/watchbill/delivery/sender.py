"""One attempt to deliver one message: the channel is chosen, and no secret gets into an error."""

from __future__ import annotations

from watchbill.api.delivery import Destination, Log
from watchbill.clock import SYSTEM, Clock
from watchbill.delivery import log
from watchbill.delivery.message import Delivered, Message
from watchbill.delivery.secrets import LocalSecrets, Secrets
from watchbill.errors import DeliveryRefused
from watchbill.settings import Settings


class Sender:
    """Sends messages to destinations. It belongs to one event loop, and may serve any number of sends at once.

    Close it when nothing is being sent any more: it keeps connections to receivers open.
    """

    def __init__(self, settings: Settings, secrets: Secrets | None = None, *, clock: Clock = SYSTEM) -> None:
        """`secrets` default: this process's environment and the folder of mounted Secrets."""
        self._settings = settings
        self._secrets: Secrets = secrets or LocalSecrets()
        self._clock = clock

    async def send(self, message: Message, destination: Destination) -> Delivered:
        """Sends a message once, and returns when the destination has taken it.

        Raises DestinationGone when the destination asks for no further message, DeliveryRefused when it will never
        take this one, and NotDelivered when it may take it later; no other error but cancellation. No text of an error
        has a secret in it.
        """
        channel = destination.spec
        match channel:
            case Log():
                return log.send(message, channel)
        raise DeliveryRefused(f"the channel {destination.channel} is not in this version. Use log")

    async def aclose(self) -> None:
        """Closes the connections to receivers."""
