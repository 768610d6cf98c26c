"""Stores a crew's heartbeats as its Heartbeats say, and has them fired."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol, TypeVar

import redis.asyncio
from pydantic import ValidationError

from watchbill import api
from watchbill.api import Heartbeat
from watchbill.api.conditions import Reason
from watchbill.clock import Patience
from watchbill.controller.memory import CrewMemory
from watchbill.errors import InvalidInput, NewerRecord
from watchbill.names import CrewKeys
from watchbill.plan import heartbeat as beat
from watchbill.records import CrewDefinition
from watchbill.store import heartbeats

logger = logging.getLogger("watchbill.operator")

T = TypeVar("T")
Object = Mapping[str, Any]

SCHEDULER_SECONDS: Final = 10.0
"""The scheduler waits for the store; we don't, because the statuses of other crews must say that it is away."""


class Heartbeats(Protocol):
    """Fires heartbeats (scheduler.Scheduler, which this layer may not import)."""

    async def add(self, keys: CrewKeys, uid: str, heartbeat: Heartbeat, *, fired: datetime | None = None) -> None: ...
    async def follow(
        self, keys: CrewKeys, state: heartbeats.HeartbeatState, *, fired: datetime | None = None
    ) -> None: ...
    def fires(self, keys: CrewKeys, uid: str, name: str, generation: str) -> bool: ...
    async def remove(self, keys: CrewKeys, uid: str, name: str) -> None: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...


class StoredHeartbeats:
    """The heartbeats of any number of crews in one store."""

    def __init__(
        self, client: redis.asyncio.Redis, scheduler: Heartbeats, check: Callable[[], object] = lambda: None
    ) -> None:
        """`check` is called before each write. It raises NotLeader when this process may no longer write."""
        self._client = client
        self._scheduler = scheduler
        self._check = check

    async def store(
        self,
        keys: CrewKeys,
        uid: str,
        definition: CrewDefinition | None,
        beats: Sequence[Object],
        memory: CrewMemory,
        at_rest: beat.Verdict | None,
        *,
        is_new: bool,
    ) -> None:
        """Stores these Heartbeats, removes all others of the crew, and remembers the verdict on each.

        `definition`: None where the crew's own can't run. `at_rest`: the verdict on those that would fire, while
        nothing of the crew begins. `is_new`: the crew was not in the store before, and has no others there.
        """
        before, memory.verdicts = memory.verdicts, {}
        knows_beats, memory.knows_beats = memory.knows_beats, False  # this may fail half way
        for seen in beats:
            name = str(seen["metadata"]["name"])
            memory.verdicts[name] = await self._store(keys, uid, definition, seen, at_rest)
        stored: set[str] = set()
        if not (is_new or knows_beats):
            stored = {state.name for state in await heartbeats.all_of(self._client, keys)}
        for name in (stored | set(before)) - set(memory.verdicts):
            await self.remove(keys, uid, name)
        memory.knows_beats = True

    async def follow(self, keys: CrewKeys, uid: str, beats: Sequence[Object]) -> bool:
        """Has the scheduler fire the heartbeats as they are stored; reads nothing where it does so already. Returns
        whether the store has these specs. Writes nothing. `uid`: the stored crew's."""
        if beats and all(self._scheduler.fires(keys, uid, str(s["metadata"]["name"]), _generation(s)) for s in beats):
            return True
        wanted = {str(seen["metadata"]["name"]): _generation(seen) for seen in beats}
        states = await heartbeats.all_of(self._client, keys)
        fired = {str(seen["metadata"]["name"]): beat.last_slot(seen) for seen in beats}
        for state in states:
            try:
                await self._scheduler.follow(keys, state, fired=fired.get(state.name))
            except NewerRecord as error:
                logger.warning("%s", error)
        return {state.name: state.generation for state in states} == wanted

    async def remove(self, keys: CrewKeys, uid: str, name: str) -> None:
        """The heartbeat fires no more. Raises NotLeader."""
        self._check()
        await _bounded(self._scheduler.remove(keys, uid, name))

    async def _store(
        self, keys: CrewKeys, uid: str, definition: CrewDefinition | None, seen: Object, at_rest: beat.Verdict | None
    ) -> beat.Verdict:
        try:
            heartbeat = _read(seen)
            if problems := api.check(heartbeat):
                raise InvalidInput(problems)
            if problems := beat.lacks(heartbeat, definition):
                await self.remove(keys, uid, heartbeat.name)
                return Reason.INVALID_SPEC, "\n".join(map(str, problems))
            self._check()
            await _bounded(self._scheduler.add(keys, uid, heartbeat, fired=beat.last_slot(seen)))
        except (ValidationError, InvalidInput) as error:
            await self.remove(keys, uid, str(seen["metadata"]["name"]))
            return Reason.INVALID_SCHEDULE, str(error)
        return beat.fires(heartbeat, at_rest, definition)


def _generation(seen: Object) -> str:
    """The generation under which the store keeps this Heartbeat; empty for one that can't be stored."""
    try:
        return heartbeats.generation(_read(seen).spec)
    except ValidationError:
        return ""


def _read(seen: Object) -> Heartbeat:
    """Reads a resource without the fields that a later version added, so that one can go back to this one. Raises
    ValidationError."""
    return Heartbeat.model_validate({k: v for k, v in seen.items() if k != "status"}, extra="ignore")


async def _bounded(work: Awaitable[T]) -> T:
    async with Patience(SCHEDULER_SECONDS):
        return await work
