"""Event streams on a real server: what is told, to whom, in which order, and how it is read back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support import Crew, finished, library

from watchbill.event_types import AGENT_STREAM_MAX, CREW_STREAM_MAX, RETENTION_SECONDS, RUN_STREAM_MAX
from watchbill.names import CrewKeys
from watchbill.records import ExecutionMode
from watchbill.store import events

SLACK = 110
"""What approximate trimming may leave: a node of a stream, of 100 entries by default."""


async def _raw(crew: Crew, key: str) -> list[dict[str, Any]]:
    return [{**json.loads(f["data"]), "type": f["event_type"]} for _, f in await crew.client.xrange(key)]


def _routes(keys: CrewKeys, *, agent: str | None, run: str | None) -> dict[str, int]:
    """The streams that an event goes to, with the bounds of their lengths: the crew's, the agent's and the run's."""
    streams = {keys.events: CREW_STREAM_MAX}
    if agent:
        streams[keys.agent_events(agent)] = AGENT_STREAM_MAX
    if run:
        streams[keys.run_events(run)] = RUN_STREAM_MAX
    return streams


# ---------------------------------------------------------------- what is told


async def test_a_task_is_told_from_its_start_to_its_end_in_order(crew: Crew) -> None:
    await crew.submit("t1", agent="b")
    (task,) = await crew.take("w")
    await crew.queue.say("w", task, "half way", 1)
    await crew.queue.finish("w", [finished(task, "failed", message="it broke")])
    assert await crew.events() == [
        {
            "event_type": "agent_state_changed",
            "agent_id": "b",
            "old_state": "idle",
            "new_state": "working",
            "message": "",
        },
        {"event_type": "task_assigned", "agent_id": "b", "task_id": "t1", "message": ""},
        {"event_type": "mission_event", "agent_id": "b", "task_id": "t1", "message": "half way"},
        {"event_type": "task_failed", "agent_id": "b", "task_id": "t1", "message": "it broke"},
        {
            "event_type": "agent_state_changed",
            "agent_id": "b",
            "old_state": "working",
            "new_state": "idle",
            "message": "",
        },
    ]


async def test_a_run_is_told_with_its_steps(crew: Crew) -> None:
    await crew.run("r1", library("a", "b", mode=ExecutionMode.SEQUENTIAL))
    for number in (1, 2):
        await crew.finish("w", await crew.take("w", number))
    told = [
        (e["event_type"], e.get("task_id") or e.get("new_state"))
        for e in await crew.events()
        if e["event_type"] != "agent_state_changed"
    ]
    assert told == [
        ("mission_state_changed", "running"),
        ("task_assigned", "r1/a"),
        ("mission_work_assigned", "r1/a"),
        ("task_completed", "r1/a"),
        ("agent_completed", "r1/a"),
        ("mission_work_completed", "r1/a"),
        ("mission_work_promoted", "r1/b"),
        ("task_assigned", "r1/b"),
        ("mission_work_assigned", "r1/b"),
        ("task_completed", "r1/b"),
        ("agent_completed", "r1/b"),
        ("mission_work_completed", "r1/b"),
        ("mission_state_changed", "completed"),
    ]
    assert {e["mission_id"] for e in await crew.events(crew.keys.run_events("r1"))} == {"r1"}


async def test_a_second_attempt_is_told_as_such(crew: Crew) -> None:
    await crew.submit("t1")
    await crew.take("w1")
    await crew.queue.declare_dead(["w1"])
    await crew.take("w2")
    assigned = [e["message"] for e in await crew.events() if e["event_type"] == "task_assigned"]
    assert assigned == ["", "attempt 2"]


async def test_the_type_beside_the_data_is_the_one_within_and_times_never_go_back(crew: Crew) -> None:
    before = await crew.client.time()
    await crew.run("r1")
    await crew.finish("w", await crew.take("w"))
    told = await _raw(crew, crew.keys.events)
    assert all(e["type"] == e["event_type"] for e in told)
    read = await events.recent(crew.client, crew.keys.events, 100)
    times = [event.timestamp for _, event in read]
    assert times == sorted(times)
    for entry_id, event in read:
        assert abs(event.timestamp.timestamp() * 1000 - int(entry_id.split("-")[0])) <= 5
    assert times[0].timestamp() >= before[0] - 1


TEXTS = ['"', "\\", "a\nb\t\x00\x1f\x7f", "ünï 船 \u2028 \U0001f600", "</script>", "{}[]:,'", "%s %d \\u0041"]


@pytest.mark.parametrize("text", TEXTS)
async def test_any_text_comes_back_as_it_was_said(crew: Crew, text: str) -> None:
    await crew.submit("t1")
    (task,) = await crew.take("w")
    await crew.queue.say("w", task, text, 1)
    await crew.queue.finish("w", [finished(task, "failed", message=text)])
    messages = [e["message"] for e in await crew.events() if e["event_type"] in ("mission_event", "task_failed")]
    assert messages == [text, text]


# Such text is what Python makes of file names and of output of programs, so exceptions contain it.
async def test_a_message_with_bytes_that_are_no_text_does_not_spoil_the_feed(crew: Crew) -> None:
    await crew.submit("t1")
    (task,) = await crew.take("w")
    await crew.queue.say("w", task, "cannot open 'caf\udce9'", 1)
    await crew.queue.finish("w", [finished(task, "failed", message="no such file: 'caf\udce9'")])
    assert [e["event_type"] for e in await crew.events()][-2:] == ["task_failed", "agent_state_changed"]


# A model's JSON may well contain one, and it can't be encoded.
async def test_a_message_with_a_lone_surrogate_can_be_told(crew: Crew) -> None:
    await crew.submit("t1")
    (task,) = await crew.take("w")
    await crew.queue.finish("w", [finished(task, "failed", message="it said \ud800")])
    assert await crew.state("t1") == "failed"


# ---------------------------------------------------------------- bounds


async def test_streams_are_bounded_and_expire_a_day_after_their_last_event(crew: Crew) -> None:
    await crew.run("r1", library("a"))
    (task,) = await crew.take("w")
    for number in range(1, CREW_STREAM_MAX + 300):
        await crew.queue.say("w", task, str(number), number)
    bounds = _routes(crew.keys, agent="a", run="r1")
    assert bounds == {
        crew.keys.events: CREW_STREAM_MAX,
        crew.keys.agent_events("a"): AGENT_STREAM_MAX,
        crew.keys.run_events("r1"): RUN_STREAM_MAX,
    }
    for stream, most in bounds.items():
        assert most <= await crew.client.xlen(stream) <= most + SLACK
        assert RETENTION_SECONDS - 60 <= await crew.client.ttl(stream) <= RETENTION_SECONDS
        newest = (await events.recent(crew.client, stream, 1))[0][1]
        assert newest.message == str(CREW_STREAM_MAX + 299)
