"""Heartbeats that an annotation has fired: once for each value, as concurrencyPolicy says. A real store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from watchbill import connection
from watchbill.api import CrewRef, Heartbeat, HeartbeatSpec, ObjectMeta
from watchbill.api.conditions import Reason
from watchbill.controller import beats_now
from watchbill.controller.memory import CrewMemory
from watchbill.names import CrewKeys
from watchbill.plan import heartbeat as beat
from watchbill.records import AgentDefinition, CrewDefinition, TaskPolicy
from watchbill.store import definitions, heartbeats

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


class Room:
    """A crew with a heartbeat in a store, and what the operator remembers of it."""

    def __init__(self, client: Any, keys: CrewKeys) -> None:
        self.client, self.keys, self.memory = client, keys, CrewMemory(verdicts={"hb": (Reason.AVAILABLE, "it fires")})
        self.status: dict[str, Any] = {}
        self.uid = ""

    async def store(self, max_queued: int = 10, whose: dict[str, str] | None = None) -> None:
        agents = [AgentDefinition(agent_id="a")]
        crew = CrewDefinition(crew_id="i", name="c", agents=agents, tasks=TaskPolicy(max_queued=max_queued))
        self.uid = uid = await definitions.apply(self.client, self.keys, crew)
        said: dict[str, Any] = {"intervalSeconds": 3600, "concurrencyPolicy": "Forbid", **(whose or {"agent": "a"})}
        spec = HeartbeatSpec(crewRef=CrewRef(name="c"), **said)
        heartbeat = Heartbeat(metadata=ObjectMeta(name="hb"), spec=spec)
        self.memory.verdicts["hb"] = beat.fires(heartbeat, None, crew)
        await heartbeats.apply(self.client, self.keys, uid, heartbeat, now=NOON)

    async def annotate(self, token: str) -> bool:
        """Reconciles with this annotation, and writes the status. Returns whether it is to be tried again."""
        metadata = {"name": "hb", "generation": 1, "annotations": {"watchbill.dev/run-now": token}}
        seen = {"metadata": metadata, "status": self.status}
        wanted = beats_now.asked([seen], self.memory)
        is_left = await beats_now.fire(
            self.client, self.keys, self.uid, wanted, self.memory, check=lambda: None, now=NOON
        )
        observed = (await beats_now.observed(self.client, self.keys, suspended=False))["hb"]
        handled = self.memory.run_now.get("hb")
        self.status = beat.status(seen, self.memory.verdicts["hb"], observed, now=NOON, handled=handled)
        return is_left

    async def queued(self) -> list[str]:
        return [f["id"] for stream in self.keys.streams for _, f in await self.client.xrange(stream)]


@pytest.fixture
async def room(redis_url: str, crew_name: str) -> AsyncIterator[Room]:
    async with connection.connected(redis_url) as client:
        yield Room(client, CrewKeys("team", crew_name))


async def test_each_value_fires_once_and_not_again_after_a_restart_and_a_flush(room: Room) -> None:
    await room.store()
    assert not await room.annotate("t1")
    await room.annotate("t1")
    assert await room.queued() == ["hb-hb-now-t1"]
    assert (room.status["lastHandledRunNow"], room.status["runNowMessage"]) == ("t1", "fired hb-hb-now-t1")
    assert (room.status["lastWork"], room.status["lastResult"]) == ("hb-hb-now-t1", "waiting")

    async for key in room.client.scan_iter(match=f"{room.keys.prefix}*".replace("{", "\\{")):
        await room.client.delete(key)
    room.memory = CrewMemory(verdicts=room.memory.verdicts)
    await room.store()
    await room.annotate("t1")
    assert await room.queued() == []
    assert room.status["lastHandledRunNow"] == "t1"
    await room.annotate("t2")
    assert await room.queued() == ["hb-hb-now-t2"]


async def test_what_is_refused_is_handled_and_told(room: Room) -> None:
    await room.store()
    await room.annotate("t1")
    assert not await room.annotate("t2")
    assert "'hb-hb-now-t1' has not ended" in room.status["runNowMessage"]
    await room.annotate("not a token")
    assert room.status["lastHandledRunNow"] == "not a token"
    assert "can't be a token" in room.status["runNowMessage"]
    assert await room.queued() == ["hb-hb-now-t1"]


@pytest.mark.parametrize(
    ("whose", "told", "queued"),
    [
        ({"agent": "b"}, "fired hb-hb-now-t1", ["hb-hb-now-t1"]),
        ({"role": "r"}, "crew 'c' has no agent of role 'r'", []),
    ],
)
async def test_one_whose_agent_or_role_is_missing_is_handled_and_told(
    room: Room, whose: dict[str, str], told: str, queued: list[str]
) -> None:
    await room.store(whose=whose)
    assert room.memory.verdicts["hb"][0] is Reason.AGENT_UNAVAILABLE
    assert not await room.annotate("t1")
    assert room.status["lastHandledRunNow"] == "t1"
    assert told in room.status["runNowMessage"]
    assert await room.queued() == queued


async def test_a_full_queue_has_it_tried_again(room: Room) -> None:
    await room.store(max_queued=1)
    await room.annotate("t1")
    await room.client.hdel(room.keys.heartbeat("hb"), "work")
    assert await room.annotate("t2"), "it is to be tried again"
    assert room.status["lastHandledRunNow"] == "t1"
    await room.store(max_queued=2)
    assert not await room.annotate("t2")
    assert room.status["lastHandledRunNow"] == "t2"


async def test_a_stalled_heartbeat_waits_until_it_is_mended(room: Room) -> None:
    await room.store()
    room.memory.verdicts["hb"] = (Reason.INVALID_SCHEDULE, "61")
    await room.annotate("t1")
    assert "lastHandledRunNow" not in room.status
    room.memory.verdicts["hb"] = (Reason.AVAILABLE, "it fires")
    await room.annotate("t1")
    assert room.status["lastHandledRunNow"] == "t1"
