"""EventStream on a real server: where an event is written, how often, and how it is read back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio
from support import Crew

from watchbill import connection
from watchbill.errors import InvalidInput, NotFound
from watchbill.events import (
    AGENT_STREAM_MAX,
    CREW_STREAM_MAX,
    EVENT_MAX,
    RETENTION_SECONDS,
    RUN_STREAM_MAX,
    EventStream,
    EventType,
    TownEvent,
)
from watchbill.redaction import redact
from watchbill.testing import FakeClock

SLACK = 110
"""What approximate trimming may leave: a node of a stream, of 100 entries by default."""


@pytest.fixture
async def town(redis_client: Any, crew_name: str) -> AsyncIterator[str]:
    """A town of the test's own, whose keys are removed in the end."""
    yield crew_name
    if left := await redis_client.keys(f"tt:{crew_name}:*"):
        await redis_client.delete(*left)


def full(message: str = "all of it", kind: str = "task_delegated") -> TownEvent:
    """An event that goes to five streams."""
    event = TownEvent.new(kind, message).with_agent("a").with_parent_agent("p").with_child_agent("c")
    return event.with_mission("m").with_task("t").with_scope("the sources").with_spawn_mode("fresh")


async def test_an_event_is_on_all_its_streams_in_the_form_of_the_seed(redis_client: Any, town: str) -> None:
    event = full()
    ids = await EventStream(redis_client, town).emit(event)
    prefix = f"tt:{town}:events"
    assert list(ids) == [prefix, *(f"{prefix}:agent:{a}" for a in "apc"), f"{prefix}:mission:m"]
    for stream, entry in ids.items():
        ((entry_id, fields),) = await redis_client.xrange(stream)
        assert entry_id == entry
        assert list(fields) == ["event_type", "data"]
        assert fields["event_type"] == "task_delegated"
        assert json.loads(fields["data"]) == json.loads(event.model_dump_json(exclude_none=True))


async def test_every_type_comes_back_from_every_stream_as_it_was(redis_client: Any, town: str) -> None:
    stream, emitted = EventStream(redis_client, town), [full(kind=kind) for kind in EventType]
    ids = [list((await stream.emit(event)).values()) for event in emitted]
    for number, read in enumerate(
        [
            await stream.read_town_events(),
            *[await stream.read_agent_events(agent) for agent in ("a", "p", "c")],
            await stream.read_mission_events("m"),
        ]
    ):
        assert read == [(entries[number], event) for entries, event in zip(ids, emitted, strict=True)]


async def test_an_event_is_emitted_in_one_command(private_redis: Any) -> None:
    server = await private_redis()
    async with connection.connected(server.url) as client:
        stream = EventStream(client, "town")
        await stream.emit(full())
        await client.config_resetstat()
        await stream.emit(full())
        calls = await client.info("commandstats")
    within = {name.removeprefix("cmdstat_"): of["calls"] for name, of in calls.items()}
    assert within == {"config|resetstat": 1, "evalsha": 1, "get": 1, "xlen": 5, "xadd": 5, "set": 1}


async def test_an_event_whose_reply_is_lost_is_written_once(redis_url: str, town: str, proxy: Any) -> None:
    between = await proxy(redis_url)
    between.drop_every_reply_once = True
    async with connection.connected(between.url) as client:
        stream = EventStream(client, town)
        ids = [await stream.emit(full(str(number))) for number in range(3)]
        read = await stream.read_town_events()
    assert between.dropped > 0
    assert [(entry, event.message) for entry, event in read] == [
        (written[f"tt:{town}:events"], str(number)) for number, written in enumerate(ids)
    ]


async def test_the_same_event_emitted_twice_is_there_twice(redis_client: Any, town: str) -> None:
    stream, event = EventStream(redis_client, town), TownEvent.new("mission_event", "again")
    await stream.emit(event)
    await stream.emit(event)
    assert [e.message for _, e in await stream.read_town_events()] == ["again", "again"]


async def test_reading_begins_at_the_id_given_and_ends_with_the_count(redis_client: Any, town: str) -> None:
    stream = EventStream(redis_client, town)
    for number in range(5):
        await stream.emit(TownEvent.new("mission_event", str(number)))
    everything = await stream.read_town_events("0-0", 10)
    assert [event.message for _, event in everything] == list("01234")
    assert await stream.read_town_events(everything[2][0], 2) == everything[2:4]
    assert await stream.read_town_events("0-0", 0) == []
    assert await stream.read_recent_town_events(2) == everything[-2:]
    assert await stream.read_recent_town_events(100) == everything
    assert await stream.read_recent_town_events(0) == []
    assert await stream.read_agent_events("nobody") == []


async def test_what_can_not_be_read_is_skipped_and_counted(
    redis_client: Any, town: str, caplog: pytest.LogCaptureFixture
) -> None:
    stream = EventStream(redis_client, town)
    await stream.emit(TownEvent.new("mission_event", "one"))
    for fields in ({"data": '{"event_type":"of_a_newer_version"}'}, {"somebody": "else's"}, {"data": "no JSON"}):
        await redis_client.xadd(f"tt:{town}:events", fields)
    await stream.emit(TownEvent.new("mission_event", "two"))
    assert [e.message for _, e in await stream.read_town_events()] == ["one", "two"]
    assert stream.skipped == 3
    assert [e.message for _, e in await stream.read_recent_town_events(2)] == ["two"]
    assert stream.skipped == 4
    assert "can't be read, and is left out" in caplog.text


async def test_of_a_long_entry_that_can_not_be_read_the_log_has_a_line(
    redis_client: Any, town: str, caplog: pytest.LogCaptureFixture
) -> None:
    stream = EventStream(redis_client, town)
    await redis_client.xadd(f"tt:{town}:events", {"data": "x" * 1_000_000, "other": "y" * 1_000_000})
    assert await stream.read_town_events() == []
    assert "can't be read, and is left out" in caplog.text
    assert len(caplog.text) < 2000


async def test_a_client_that_gives_bytes_will_do(redis_url: str, town: str) -> None:
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        stream, event = EventStream(client, town), full("船")
        ids = await stream.emit(event)
        assert await stream.read_town_events() == [(ids[f"tt:{town}:events"], event)]


async def test_a_towns_streams_are_bounded_and_stay_until_a_mission_is_archived(redis_client: Any, town: str) -> None:
    stream = EventStream(redis_client, town)
    event = TownEvent.new("mission_event", "x").with_agent("a").with_mission("m")
    for _ in range(CREW_STREAM_MAX + 2 * SLACK):
        ids = await stream.emit(event)
    bounds = dict(zip(ids, (CREW_STREAM_MAX, AGENT_STREAM_MAX, RUN_STREAM_MAX), strict=True))
    for key, most in bounds.items():
        assert most <= await redis_client.xlen(key) <= most + SLACK
        assert await redis_client.ttl(key) == -1
    assert await stream.archive_mission("m")
    assert await stream.read_mission_events("m") == []
    assert not await stream.archive_mission("m")
    assert len(await stream.read_agent_events("a")) == AGENT_STREAM_MAX


async def test_a_crews_event_joins_those_of_its_queue_and_expires_with_them(crew: Crew) -> None:
    stream, keys = EventStream.of_crew(crew.client, crew.keys.crew), crew.keys
    await crew.run("r1")
    event = TownEvent.new("mission_watch_triggered", "a file has changed").with_agent("a").with_mission("r1")
    ids = await stream.emit(event)
    assert list(ids) == [keys.events, keys.agent_events("a"), keys.run_events("r1")]
    for key in ids:
        assert RETENTION_SECONDS - 60 <= await crew.client.ttl(key) <= RETENTION_SECONDS
    told = [e.event_type for _, e in await stream.read_mission_events("r1")]
    assert told[0] is EventType.MISSION_STATE_CHANGED
    assert told[-1] is EventType.MISSION_WATCH_TRIGGERED
    assert await stream.read_agent_events("another") == []


async def test_a_crew_that_is_not_there_is_not_found(redis_client: Any, crew_name: str) -> None:
    stream = EventStream.of_crew(redis_client, f"nowhere/{crew_name}")
    for call in (
        stream.emit(TownEvent.new("mission_event", "hello?")),
        stream.read_town_events(),
        stream.read_agent_events("a"),
        stream.read_mission_events("m"),
        stream.read_recent_town_events(1),
        stream.archive_mission("m"),
    ):
        with pytest.raises(NotFound, match=f"no crew 'nowhere/{crew_name}'"):
            await call
    assert await redis_client.keys(f"wb:{{nowhere/{crew_name}}}:*") == []


async def test_secrets_of_the_environment_are_taken_out(
    redis_client: Any, town: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPLOY_TOKEN", "hunter2-hunter2")
    stream = EventStream(redis_client, town)
    await stream.emit(TownEvent.new("mission_event", "with hunter2-hunter2").with_scope("as hunter2-hunter2"))
    ((_, event),) = await stream.read_town_events()
    assert event.message == "with [redacted DEPLOY_TOKEN]"
    assert event.scope == redact("as hunter2-hunter2") == "as [redacted DEPLOY_TOKEN]"


async def test_bad_input_is_refused_by_its_name(redis_client: Any, town: str) -> None:
    stream = EventStream(redis_client, town)
    huge = TownEvent.new("mission_event", "x" * EVENT_MAX, clock=FakeClock())
    for call, path in (
        (stream.emit(huge), "event"),
        (stream.emit(TownEvent.new("mission_event", "half a pair: \ud83d")), "event"),
        (stream.read_town_events("x"), "last_id"),
        (stream.read_town_events(None), "last_id"),  # type: ignore[arg-type]
        (stream.read_town_events("0-0", 10**10), "count"),
        (stream.read_agent_events("a", "0-0", -1), "count"),
        (stream.read_recent_town_events(True), "count"),
        (stream.emit({}), "event"),  # type: ignore[arg-type]
        (stream.read_agent_events(""), "agent_id"),
        (stream.read_agent_events("half a pair: \ud83d"), "agent_id"),
        (stream.read_mission_events(None), "mission_id"),  # type: ignore[arg-type]
        (stream.archive_mission(7), "mission_id"),  # type: ignore[arg-type]
    ):
        with pytest.raises(InvalidInput) as refused:
            await call
        assert [problem.path for problem in refused.value.problems] == [path]
    makers: list[tuple[Any, Any, Any, str]] = [
        *((EventStream, redis_client, name, "town_name") for name in ("", "half a pair: \ud83d")),
        *((EventStream.of_crew, redis_client, name, "crew") for name in ("crew", "a/b/c", None, 7)),
        *((EventStream, client, "town", "client") for client in (None, "redis://localhost", redis.Redis())),
    ]
    for make, client, name, path in makers:
        with pytest.raises(InvalidInput) as refused:
            make(client, name)
        assert [problem.path for problem in refused.value.problems] == [path]
    assert await redis_client.keys(f"tt:{town}:*") == []


async def test_nothing_is_written_where_a_stream_is_another_programs_key(redis_client: Any, town: str) -> None:
    await redis_client.set(f"tt:{town}:events:mission:m", "foreign")
    with pytest.raises(redis.exceptions.ResponseError, match="WRONGTYPE"):
        await EventStream(redis_client, town).emit(full())
    assert await redis_client.keys(f"tt:{town}:*") == [f"tt:{town}:events:mission:m"]
