"""Delivery: a result is sent to a destination, by the channel that the destination names.

`Sender.send` is one attempt. It keeps nothing and repeats nothing: the queue of deliveries counts attempts, waits
between them and knows which destinations are disabled.
"""

from __future__ import annotations

from watchbill.delivery.message import Delivered, Message
from watchbill.delivery.secrets import MOUNTED, LocalSecrets, Secrets
from watchbill.delivery.sender import Sender

__all__ = ["MOUNTED", "Delivered", "LocalSecrets", "Message", "Secrets", "Sender"]
