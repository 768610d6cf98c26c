"""Reads and deletes what agents remember."""

from __future__ import annotations

from watchbill.client.connected import Connected
from watchbill.errors import NotFound
from watchbill.store import sessions
from watchbill.store.sessions import Session, Turn


class Sessions(Connected):
    """The client's methods for sessions of agents (`session_id` of tasks)."""

    async def sessions(self, crew: str) -> list[Session]:
        """The sessions that the crew's agents remember. Raises NotFound when there is no such crew."""
        keys = self._door(crew)
        await self._current(keys)
        return await sessions.listed(self._redis, keys)

    async def session(self, crew: str, session_id: str, *, agent: str) -> list[Turn]:
        """The turns of a session up to the newest, oldest first. Raises NotFound."""
        keys = self._door(crew, session_id=session_id, agent=agent)
        await self._current(keys)
        found = await sessions.before(self._redis, keys, agent, session_id)
        if not found:
            raise NotFound(f"agent {agent!r} of crew {keys.crew!r} has no session {session_id!r} (or it has expired)")
        return found

    async def delete_session(self, crew: str, session_id: str, *, agent: str | None = None) -> list[str]:
        """Deletes a session, of one agent or of all that have it, and returns these agents. A task that is under way
        may still add its turn. Raises NotFound."""
        keys = self._door(crew, session_id=session_id, agent=agent)
        await self._current(keys)
        known = [one.agent for one in await sessions.listed(self._redis, keys) if one.session_id == session_id]
        chosen = known if agent is None else [agent]
        if not chosen:
            raise NotFound(f"crew {keys.crew!r} has no session {session_id!r} (or it has expired)")
        for name in chosen:
            await sessions.delete(self._redis, keys, name, session_id)
        return chosen
