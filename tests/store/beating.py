"""A crew with a heartbeat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from watchbill.api import CrewRef, Heartbeat, HeartbeatSpec, ObjectMeta
from watchbill.names import CrewKeys
from watchbill.plan.schedule import next_slot
from watchbill.records import AgentDefinition, CrewDefinition, ExecutionMode, TaskPolicy
from watchbill.store import definitions, events, firing, heartbeats
from watchbill.tasks import AgentTask

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)

SLOT = NOON + timedelta(minutes=1)

FOLLOWING = SLOT + timedelta(minutes=1)


def beat(name: str = "hb", **spec: Any) -> Heartbeat:
    spec = {"schedule": "* * * * *", "agent": "a", "prompt": "look", **spec}
    if "intervalSeconds" in spec:
        del spec["schedule"]
    return Heartbeat(metadata=ObjectMeta(name=name), spec=HeartbeatSpec(crewRef=CrewRef(name="crew"), **spec))


def crew_of(*agents: str, mode: ExecutionMode = ExecutionMode.SEQUENTIAL, max_queued: int = 1000) -> CrewDefinition:
    return CrewDefinition(
        crew_id="crew-id",
        name="crew",
        execution_mode=mode,
        agents=[AgentDefinition(agent_id=agent) for agent in agents],
        max_parallel_tasks=1000,
        tasks=TaskPolicy(max_queued=max_queued),
    )


@dataclass
class Crew:
    client: Any  # redis-py types each answer as bytes or str, whatever the connection decodes
    keys: CrewKeys
    uid: str

    async def apply(self, heartbeat: Heartbeat, now: datetime = NOON) -> heartbeats.HeartbeatState:
        return await heartbeats.apply(self.client, self.keys, self.uid, heartbeat, now=now)

    async def define(self, definition: CrewDefinition) -> None:
        await definitions.apply(self.client, self.keys, definition)

    async def fire(
        self, state: heartbeats.HeartbeatState, slot: datetime = SLOT, current: definitions.Current | None = None
    ) -> str:
        current = current or await definitions.current(self.client, self.keys)
        following = next_slot(state.schedule, slot)
        now = slot + timedelta(seconds=2)
        call = firing.prepare(self.keys, state, current, slot=slot, following=following, now=now)
        return (await firing.fire(self.client, call)).outcome

    async def run_now(self, token: str, name: str = "hb") -> tuple[str, bool]:
        return await firing.run_now(self.client, self.keys, name, token, now=NOON)

    async def get(self, name: str = "hb") -> heartbeats.HeartbeatState:
        state = await heartbeats.get(self.client, self.keys, name)
        assert state is not None
        return state

    async def queued(self) -> list[str]:
        """The ids on all task streams."""
        entries = [e for stream in self.keys.streams for e in await self.client.xrange(stream)]
        return [fields["id"] for _, fields in entries]

    async def told(self) -> list[str]:
        feed = await events.recent(self.client, self.keys.events, 100)
        return [event.message for _, event in feed if event.event_type == "mission_event"]

    async def payload(self, key: str) -> AgentTask:
        return AgentTask.model_validate_json(str(await self.client.hget(key, "payload")))

    async def dump(self) -> dict[str, Any]:
        """All that the store has of this crew but when it expires."""
        found = {}
        async for key in self.client.scan_iter(match=f"{self.keys.prefix}*".replace("{", "\\{"), count=1000):
            kind = await self.client.type(key)
            read: dict[str, Callable[[str], Any]] = {
                "hash": self.client.hgetall,
                "string": self.client.get,
                "stream": self.client.xrange,
                "list": lambda key: self.client.lrange(key, 0, -1),
                "zset": lambda key: self.client.zrange(key, 0, -1, withscores=True),
                "set": self.client.smembers,
            }
            found[key] = await read[kind](key)
        return found
