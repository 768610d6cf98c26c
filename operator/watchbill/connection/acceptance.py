"""Remembers which credentials the store has accepted, so that a refusal of them is waited out for a while.

A server that restarts may have lost its users, until whoever manages them has made them anew. Credentials that were
never accepted are wrong, and waiting for them would only hide that.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import redis
from redis.asyncio.connection import AbstractConnection

from watchbill.clock import SYSTEM, Clock

PATIENCE_SECONDS: Final = 60.0
"""Credentials that were accepted before may be refused for so long until that is an error."""

Credentials = tuple[Any, Any]
"""(user, password)"""


class Acceptance:
    """Keeps which credentials of this process the store accepts."""

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._refused_since: dict[Credentials, float | None] = {}
        """Credentials that were accepted → since when they are refused; None: they are not."""

    def accept(self, credentials: Credentials) -> None:
        """The store has accepted them."""
        self._refused_since[credentials] = None

    def refuse(self, credentials: Credentials, error: redis.exceptions.AuthenticationError) -> Exception:
        """The store has refused them with this error. Returns the error to raise: one that says to wait, or the same
        one."""
        if credentials not in self._refused_since:
            return error
        now = self._clock.monotonic()
        since = self._refused_since[credentials]
        if since is None:
            since = self._refused_since[credentials] = now
        if now - since >= PATIENCE_SECONDS:
            return error
        return redis.exceptions.ConnectionError(
            f"the store no longer knows our user, and may be given it anew: {error}"
        )


_ACCEPTANCE: Final = Acceptance()


@contextmanager
def introducing(connection: AbstractConnection | redis.Connection) -> Iterator[None]:
    """Takes note of what the store says when the connection gives it its credentials, within the context."""
    credentials = (connection.username, connection.password)
    try:
        yield
    except redis.exceptions.AuthenticationError as error:
        if not connection.password:  # it has no user that could have been forgotten
            raise
        raise _ACCEPTANCE.refuse(credentials, error) from None
    _ACCEPTANCE.accept(credentials)


def connect_sync(connection: redis.Connection) -> None:
    """Introduces this process on a new connection of a blocking client, as redis-py's `redis_connect_func`."""
    with introducing(connection):
        connection.on_connect()
