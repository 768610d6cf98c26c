"""The bus, streams, locks and limits of its crew for an agent in a process of its own, by connections of that process.

Nothing of the store is imported before an agent asks for one of them: most ask for none. Used at both ends of the line.
"""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from watchbill.clock import Patience
from watchbill.loggers import Logger
from watchbill.names import CrewKeys

if TYPE_CHECKING:
    import redis

    from watchbill.agents.crew_messaging import CrewMessaging
    from watchbill.connection.url import Target

logger = Logger("watchbill.worker")

_CLOSE_SECONDS: Final = 2.0


def told(target: Target) -> dict[str, Any]:
    """Returns the way to the store as JSON can hold it. It has the password, so it goes over the line and not among the
    arguments of the process, which everybody on the machine may read."""
    return dataclasses.asdict(target)


class Connections:
    """The connections of one run of an agent."""

    def __init__(self, told: Mapping[str, Any], crew: str) -> None:
        self._told = told
        self._keys = CrewKeys(*crew.split("/"))
        self._messaging: CrewMessaging | None = None
        self._client: redis.asyncio.Redis | None = None
        self._blocking: redis.Redis | None = None
        self._connecting = threading.Lock()

    def messaging(self) -> CrewMessaging:
        """Connects at the first command."""
        from watchbill import connection
        from watchbill.agents.crew_messaging import CrewMessaging

        with self._connecting:  # threads of an agent may meet here
            if self._messaging is None:
                self._client = connection.connect(self._target())
                self._messaging = CrewMessaging(self._keys.prefix, self._client, self._connect_sync)
            return self._messaging

    async def aclose(self) -> None:
        """Ends what the agent has left listening, and its connections: on the loop of its run, if it has one."""
        messaging, self._messaging = self._messaging, None
        if messaging is None:
            return
        try:
            async with Patience(_CLOSE_SECONDS):
                await messaging.close()
                if self._client is not None:
                    await self._client.aclose()
        except Exception as error:
            logger.warning("the bus of an agent's process could not be closed: %r", error)
        finally:
            if self._blocking is not None:
                self._blocking.close()

    def close(self) -> None:
        """Does what `aclose` does, for a run without a loop."""
        if self._messaging is not None:
            asyncio.run(self.aclose())

    def _connect_sync(self) -> redis.Redis:
        from watchbill import connection

        with self._connecting:
            if self._blocking is None:
                self._blocking = connection.connect_sync(self._target())
            return self._blocking

    def _target(self) -> Target:
        from watchbill.connection.url import Target

        nodes = tuple((host, port) for host, port in self._told["nodes"])
        return Target(**{**self._told, "nodes": nodes})
