"""The agents that have roles, as one worker knows them, and their feeds: a claim gives them tasks of a role, and its
script tells each of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from watchbill.names import CrewKeys
from watchbill.records import CrewDefinition

_UNABLE: Final = "\x1f"


class RoleFeeds:
    """The claims of one worker name these beside the crew's fixed keys: none, in a crew without roles."""

    def __init__(self, keys: CrewKeys) -> None:
        self._keys = keys
        self._digest = ""
        self._names: Sequence[str] = ()
        self.agents: Sequence[str] = ()
        """The agents, as far as the worker knows: of others only the crew's feed tells that they were given a task.
        Those that it can't run are marked."""
        self.unable: set[str] = set()
        """The names of those that this worker can't load. It is given none of their role's tasks for them while it can
        run another one of the role: they would only come back, and their agent would always have the fewest."""
        self.keys: Sequence[str] = ()
        """The feeds of these agents, in the same order."""
        self.claim_keys: Sequence[str] = keys.fixed
        """The KEYS of a claim."""
        self.redefined = asyncio.Event()
        """Set when a claim has told of another definition than the last one."""

    def heard(self, digest: str) -> None:
        """Takes the digest of the crew's current definition, as each claim tells it."""
        if digest != self._digest:
            self._digest = digest
            self.redefined.set()

    def take_up(self, definition: CrewDefinition, digest: str) -> None:
        """Takes up the crew's definition. A delivery queue has no roles."""
        self._digest = digest
        if self._keys.prefix != self._keys.root:
            return
        self.unable.clear()
        self._names = [agent.agent_id for agent in definition.agents if agent.roles]
        self._mark()
        self.keys = [self._keys.agent_events(agent) for agent in self._names]
        self.claim_keys = (*self._keys.fixed, *self.keys)

    def can_run(self, agent: str, able: bool) -> None:
        """Takes up whether the worker can load that agent."""
        if not able and agent in self._names:
            self.unable.add(agent)
        else:
            self.unable.discard(agent)
        self._mark()

    def _mark(self) -> None:
        self.agents = [_UNABLE + name if name in self.unable else name for name in self._names]
