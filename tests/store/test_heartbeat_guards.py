"""A slot fires once, also when all but one of the things that say so are gone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from support import Crew

from waiting import until
from watchbill.api import CrewRef, Heartbeat, HeartbeatSpec, ObjectMeta
from watchbill.store import definitions, firing, heartbeats

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
SLOT = NOON + timedelta(minutes=1)


async def apply(crew: Crew, agent: str | None, prompt: str) -> heartbeats.HeartbeatState:
    """Store the heartbeat by a clock that says noon, so that a changed one is due at SLOT again."""
    spec = HeartbeatSpec(crewRef=CrewRef(name="test"), schedule="* * * * *", agent=agent, prompt=prompt)
    heartbeat = Heartbeat(metadata=ObjectMeta(name="hb"), spec=spec)
    return await heartbeats.apply(crew.client, crew.keys, crew.uid, heartbeat, now=NOON)


async def fire(crew: Crew, state: heartbeats.HeartbeatState) -> str:
    current = await definitions.current(crew.client, crew.keys)
    following = SLOT + timedelta(minutes=1)
    now = SLOT + timedelta(seconds=2)
    call = firing.prepare(crew.keys, state, current, slot=SLOT, following=following, now=now)
    return (await firing.fire(crew.client, call)).outcome


async def test_a_slot_stays_fired_when_the_record_of_its_task_has_expired(crew: Crew) -> None:
    assert await fire(crew, await apply(crew, "a", "look")) == "fired"
    await crew.finish("w", await crew.take("w"), ttl_ms=1)

    async def expired() -> bool:
        return not await crew.client.exists(crew.keys.task(heartbeats.task_id("hb", SLOT)))

    await until(expired)
    assert await fire(crew, await apply(crew, "a", "look again")) == "already"
    assert await crew.queued() == 0


@pytest.mark.parametrize(("agent", "entries"), [("a", 1), (None, 2)], ids=["task", "run"])
async def test_a_slot_stays_fired_when_its_guard_has_expired(crew: Crew, agent: str | None, entries: int) -> None:
    assert await fire(crew, await apply(crew, agent, "look")) == "fired"
    assert await crew.client.delete(crew.keys.fire("hb", str(int(SLOT.timestamp())))) == 1

    assert await fire(crew, await apply(crew, agent, "look again")) == "already"
    assert await crew.queued() == entries
