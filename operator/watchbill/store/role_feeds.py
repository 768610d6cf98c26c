"""The feeds of the agents that have roles: a claim gives them tasks of a role, and its script tells each of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from watchbill.names import CrewKeys
from watchbill.records import CrewDefinition


class RoleFeeds:
    """The claims of one worker name these beside the crew's fixed keys: none, in a crew without roles."""

    def __init__(self, keys: CrewKeys) -> None:
        self._keys = keys
        self._digest = ""
        self.agents: Sequence[str] = ()
        """The agents, as far as the worker knows: of others only the crew's feed tells that they were given a task."""
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
        self.agents = [agent.agent_id for agent in definition.agents if agent.roles]
        self.keys = [self._keys.agent_events(agent) for agent in self.agents]
        self.claim_keys = (*self._keys.fixed, *self.keys)
