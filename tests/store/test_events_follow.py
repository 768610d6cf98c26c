"""Reading and following the feeds of events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from support import Crew, made, next_millisecond, opened, server_ms, stopped

from waiting import until
from watchbill.errors import InvalidInput
from watchbill.event_types import CREW_STREAM_MAX, RETENTION_SECONDS, EventType, Gap, TownEvent
from watchbill.names import CrewKeys
from watchbill.store import definitions, events

SLACK = 110
"""What approximate trimming may leave: a node of a stream, of 100 entries by default."""


@asynccontextmanager
async def _following(crew: Crew, after: str = events.BEGINNING) -> AsyncIterator[list[tuple[str, TownEvent | Gap]]]:
    """A list that grows with what a follower is told."""
    told: list[tuple[str, TownEvent | Gap]] = []

    async def follow() -> None:
        async for entry_id, event in events.follow(crew.client, crew.keys.events, after):
            told.append((entry_id, event))

    task = asyncio.create_task(follow())
    try:
        yield told
    finally:
        await stopped(task)


async def _say(crew: Crew, count: int, start: int = 1) -> None:
    """Puts this many messages on the feed."""
    task = (await crew.take("speaker", start, 1) or [None])[0]
    if task is None:
        await crew.submit(f"speech{start}")
        (task,) = await crew.take("speaker", start + 1, 1)
    for number in range(1, count + 1):
        assert await crew.queue.say("speaker", task, f"message {number}", number)
    await crew.finish("speaker", [task])


# ---------------------------------------------------------------- reading


async def test_reading_begins_behind_the_id_given(crew: Crew) -> None:
    await _say(crew, 5)
    everything = await events.read(crew.client, crew.keys.events, count=100)
    ids = [entry_id for entry_id, _ in everything]
    assert await events.read(crew.client, crew.keys.events, ids[1], count=2) == everything[2:4]
    assert await events.read(crew.client, crew.keys.events, ids[-1]) == []
    assert await events.recent(crew.client, crew.keys.events, 3) == everything[-3:]
    assert await events.recent(crew.client, crew.keys.events, 1000) == everything
    assert await events.last_id(crew.client, crew.keys.events) == ids[-1]


async def test_a_stream_of_nothing_is_empty(crew: Crew) -> None:
    nothing = crew.keys.agent_events("nobody")
    assert await events.read(crew.client, nothing) == []
    assert await events.recent(crew.client, nothing) == []
    assert await events.last_id(crew.client, nothing) == events.BEGINNING


@pytest.mark.pure
def test_a_stream_is_the_runs_else_the_agents_else_the_crews() -> None:
    keys = CrewKeys("n", "c")
    assert events.stream(keys) == keys.events
    assert events.stream(keys, agent="a") == keys.agent_events("a")
    assert events.stream(keys, agent="a", run="r") == keys.run_events("r")


async def test_a_follower_gets_what_is_there_and_then_what_comes(crew: Crew) -> None:
    await _say(crew, 3)
    async with _following(crew) as told:
        await until(lambda: _has(told, "message 3"))
        await _say(crew, 4, start=10)
        await until(lambda: _has(told, "message 4"))
        before = await events.last_id(crew.client, crew.keys.events)
        await until(lambda: _is_last(told, before))
    assert [entry_id for entry_id, _ in told] == [i for i, _ in await events.read(crew.client, crew.keys.events)]


async def _has(told: list[tuple[str, TownEvent | Gap]], message: str) -> bool:
    return any(isinstance(e, TownEvent) and e.message == message for _, e in told)


async def _is_last(told: list[tuple[str, TownEvent | Gap]], entry_id: str) -> bool:
    return bool(told) and told[-1][0] == entry_id


async def test_a_follower_resumes_behind_what_it_has_seen(crew: Crew) -> None:
    await _say(crew, 5)
    everything = await events.read(crew.client, crew.keys.events)
    async with _following(crew, everything[2][0]) as told:
        await until(lambda: _is_last(told, everything[-1][0]))
    assert told == everything[3:]


async def test_a_follower_that_was_outrun_is_told_of_the_gap_and_goes_on(crew: Crew) -> None:
    await _say(crew, 5)
    seen = await events.last_id(crew.client, crew.keys.events)
    await _say(crew, CREW_STREAM_MAX + 2 * SLACK, start=10)
    last = await events.last_id(crew.client, crew.keys.events)
    async with _following(crew, seen) as told:
        await until(lambda: _is_last(told, last))
    assert told[0] == (seen, Gap(after_id=seen))
    assert [e for _, e in told if isinstance(e, Gap)] == [told[0][1]]
    assert told[1:] == await events.read(crew.client, crew.keys.events, count=10_000)


async def test_a_follower_that_keeps_up_is_never_told_of_a_gap(crew: Crew) -> None:
    async with _following(crew) as told:
        await _say(crew, CREW_STREAM_MAX + 2 * SLACK)
        last = await events.last_id(crew.client, crew.keys.events)
        await until(lambda: _is_last(told, last))
    messages = [e.message for _, e in told if isinstance(e, TownEvent) and e.event_type is EventType.MISSION_EVENT]
    assert messages == [f"message {i}" for i in range(1, CREW_STREAM_MAX + 2 * SLACK + 1)]


async def _put(crew: Crew, *messages: str, at_ms: int | None = None) -> None:
    """Events of another time than now, or without any work."""
    for number, message in enumerate(messages):
        data = f'{{"event_type":"mission_event","timestamp":"2026-01-01T00:00:00Z","message":"{message}"}}'
        entry = "*" if at_ms is None else f"{at_ms}-{number + 1}"
        await crew.client.xadd(crew.keys.events, {"event_type": "mission_event", "data": data}, id=entry)


def _messages(told: list[tuple[str, TownEvent | Gap]]) -> list[str]:
    return ["GAP" if isinstance(e, Gap) else e.message for _, e in told]


async def _expect(told: list[tuple[str, TownEvent | Gap]], *messages: str) -> None:
    async def are_told() -> bool:
        return len(told) >= len(messages)

    await until(are_told)
    assert _messages(told) == list(messages)


@pytest.mark.parametrize("after", ["0", "0-0", events.BEGINNING])
async def test_the_beginning_may_be_written_as_one_likes_and_is_no_gap(crew: Crew, after: str) -> None:
    await _put(crew, "one")
    async with _following(crew, after) as told:
        await _expect(told, "one")


async def test_an_id_without_its_number_is_the_first_of_its_millisecond(crew: Crew) -> None:
    await _put(crew, "one", "two", at_ms=1000)
    async with _following(crew, "1000") as told:
        await _expect(told, "GAP", "one", "two")


@pytest.mark.parametrize("after", ["", "x", "1-x", "$", "+", "-1", "1" * 20, "1-" + "1" * 20])
async def test_what_is_no_id_is_refused(crew: Crew, after: str) -> None:
    with pytest.raises(InvalidInput, match="is not the id of an event"):
        await anext(events.follow(crew.client, crew.keys.events, after))


class Polls:
    """Counts how often followers have polled whether the feed is still there, which they do when nothing comes."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._count = 0
        real = events.last_id

        async def counted(client: Any, key: str) -> str:
            found = await real(client, key)
            self._count += 1
            return found

        patch.setattr(events, "last_id", counted)
        patch.setattr(events, "BLOCK_MS", 50)

    async def again(self) -> None:
        """Waits until a poll has ended that began after this call."""
        before = self._count

        async def has() -> bool:
            return self._count >= before + 2

        await until(has)


@pytest.fixture
def polls(monkeypatch: pytest.MonkeyPatch) -> Polls:
    return Polls(monkeypatch)


async def test_a_quiet_feed_that_expired_is_no_gap(crew: Crew, polls: Polls) -> None:
    long_ago = await server_ms(crew.client) - RETENTION_SECONDS * 1000 - 5000
    await _put(crew, "one", at_ms=long_ago)
    async with _following(crew) as told:
        await _expect(told, "one")
        await polls.again()
        await crew.client.delete(crew.keys.events)
        await polls.again()
        await _put(crew, "two")
        await _expect(told, "one", "two")


async def test_a_feed_that_expired_before_the_follower_came_may_have_had_more(crew: Crew) -> None:
    long_ago = await server_ms(crew.client) - RETENTION_SECONDS * 1000 - 5000
    async with _following(crew, f"{long_ago}-0") as told:
        await _expect(told, "GAP")
        await _put(crew, "two")
        await _expect(told, "GAP", "two")


async def test_a_feed_that_was_lost_is_a_gap_and_what_comes_then_is_told(crew: Crew, polls: Polls) -> None:
    await _put(crew, "one")
    async with _following(crew) as told:
        await _expect(told, "one")
        await polls.again()
        await crew.client.delete(crew.keys.events)
        await _expect(told, "one", "GAP")
        await _put(crew, "two")
        await _expect(told, "one", "GAP", "two")


async def test_a_feed_that_was_replaced_between_two_looks_is_a_gap(crew: Crew) -> None:
    await _put(crew, "one")
    seen = await events.last_id(crew.client, crew.keys.events)
    await crew.client.delete(crew.keys.events)
    await next_millisecond(crew)  # else its ids begin as the former's ended
    await _put(crew, "two", "three")
    async with _following(crew, seen) as told:
        await _expect(told, "GAP", "two", "three")


@pytest.mark.parametrize("there", [True, False])
async def test_an_id_of_the_future_does_not_hide_what_comes(crew: Crew, there: bool) -> None:
    if there:
        await _put(crew, "one")
    async with _following(crew, f"{await server_ms(crew.client) + 3_600_000}-0") as told:
        await _expect(told, "GAP")
        await _put(crew, "two")
        await _expect(told, "GAP", "two")


async def test_a_crew_made_anew_under_its_name_is_a_gap(crew: Crew) -> None:
    await _put(crew, "of the former")
    async with _following(crew) as told:
        await _expect(told, "of the former")
        await definitions.delete(crew.client, crew.keys, crew.uid)
        again = await made(crew.client, crew.keys.crew.partition("/")[2])
        await _put(again, "of the latter")
        await _expect(told, "of the former", "GAP", "of the latter")


async def test_a_follower_outlasts_a_restart_of_the_store_without_a_gap(private_redis: Any) -> None:
    server = await private_redis()
    async with opened(server.url, "x") as crew, _following(crew) as told:
        await _put(crew, "one", "two")
        await crew.client.config_set("appendfsync", "always")
        await _put(crew, "three")
        await _expect(told, "one", "two", "three")
        await server.restart()
        await _put(crew, "four", "five")
        await _expect(told, "one", "two", "three", "four", "five")


async def test_a_store_that_comes_back_empty_is_a_gap(private_redis: Any) -> None:
    server = await private_redis()
    async with opened(server.url, "x") as crew, _following(crew) as told:
        await _put(crew, "one")
        await _expect(told, "one")
        await crew.client.flushall()
        await server.restart()
        await _expect(told, "one", "GAP")
        await _put(crew, "two")
        await _expect(told, "one", "GAP", "two")


async def test_a_follower_whose_replies_are_lost_is_told_each_event_once(crew: Crew, proxy: Any) -> None:
    between = await proxy(crew.url)
    between.drop_every_reply_once = True
    async with opened(between.url, "through-" + crew.keys.crew.partition("/")[2]) as through:
        through.keys = crew.keys
        async with _following(through) as told:
            await _put(crew, *"abcdef")
            await _expect(told, *"abcdef")
            await _put(crew, *"ghi")
            await _expect(told, *"abcdefghi")
    assert between.dropped > 0


async def test_an_event_that_can_not_be_read_hides_no_other(crew: Crew, caplog: pytest.LogCaptureFixture) -> None:
    await _put(crew, "one")
    await crew.client.xadd(crew.keys.events, {"data": '{"event_type":"of_a_newer_version"}'})
    await crew.client.xadd(crew.keys.events, {"somebody": "else's"})
    await _put(crew, "two")
    async with _following(crew) as told:
        await _expect(told, "one", "two")
    assert [e.message for _, e in await events.recent(crew.client, crew.keys.events)] == ["one", "two"]
    assert "can't be read, and is left out" in caplog.text
