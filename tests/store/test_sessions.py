"""Sessions: each task has one turn, in a line that a rerun or an edit forks, within bounds, for some time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from queue_calls import expired
from support import Crew

from watchbill.errors import Fenced, InvalidInput, NotFound
from watchbill.store import definitions, sessions
from watchbill.store.queue import Claimed

DAY_MS = 86_400_000


async def add(crew: Crew, task: Claimed, answer: str, *, worker: str = "w", session: str = "s", **options: Any) -> None:
    options.setdefault("ttl_ms", DAY_MS)
    await sessions.add(crew.queue, worker, task, session, (f"ask {task.id}", answer), **options)


async def told(crew: Crew, session: str = "s", **options: Any) -> list[str]:
    """The answers before a task, or all."""
    return [turn.answer for turn in await sessions.before(crew.client, crew.keys, "a", session, **options)]


async def test_a_task_has_one_turn_and_a_rerun_forks(crew: Crew) -> None:
    await crew.submit("t1", "t2", "t3", "t4")
    t1, t2, t3, t4 = await crew.take("w")
    for task in (t1, t2, t3):
        await add(crew, task, f"{task.id} é")
        await add(crew, task, f"{task.id} é")  # another attempt, or the same call again
    assert await told(crew) == ["t1 é", "t2 é", "t3 é"]
    assert await told(crew, task_id="t3") == ["t1 é", "t2 é"], "what a later attempt of it remembers"
    assert await told(crew, most=2) == ["t2 é", "t3 é"]
    assert await told(crew, most_bytes=50) == ["t2 é", "t3 é"], "only whole turns"
    (first, *_) = await sessions.before(crew.client, crew.keys, "a", "s")
    assert (first.task_id, first.prompt) == ("t1", "ask t1")

    await add(crew, t2, "t2 again")
    assert await told(crew) == ["t1 é", "t2 again"], "it follows what it followed, and t3 is of the other line"
    assert await told(crew, task_id="t4", follows="t3") == ["t1 é", "t2 é", "t3 é"]
    await add(crew, t4, "t4", follows="t3")
    assert await told(crew) == ["t1 é", "t2 é", "t3 é", "t4"]
    with pytest.raises(InvalidInput, match=r"metadata\.follows: session 's' of agent 'a' has no turn of task 't9'"):
        await told(crew, task_id="t5", follows="t9")


async def test_only_the_attempt_that_holds_a_task_adds_its_turn(crew: Crew) -> None:
    await crew.submit("t1")
    (old,) = await crew.take("zombie")
    await crew.queue.declare_dead(["zombie"])
    (new,) = await crew.take("heir")
    before = await crew.dump()
    with pytest.raises(Fenced):
        await add(crew, old, "late", worker="zombie")
    with pytest.raises(Fenced, match="no longer this attempt's"):
        await add(crew, old, "late", worker="heir")
    with pytest.raises(InvalidInput, match="answer: a turn of session 's' has 1048"):
        await add(crew, new, "x" * sessions.BODY_MAX, worker="heir")
    assert await crew.dump() == before


async def test_sessions_are_bounded_listed_deleted_and_go_with_their_time_and_their_crew(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "TURNS_MAX", 3)
    names = [f"t{number}" for number in range(6)]
    await crew.submit(*names)
    tasks = await crew.take("w")
    for task in tasks:
        await add(crew, task, task.id, session="full")
    assert await told(crew, "full") == names[-3:]
    assert await crew.client.hlen(crew.keys.session("a:full")) == 2 + 2 * 3
    await add(crew, tasks[0], "brief", session="brief", ttl_ms=1)
    await expired(crew, crew.keys.session("a:brief"))
    bots = replace(tasks[0], agent="50%:b")
    await add(crew, bots, "other", session="x:y", ttl_ms=2 * DAY_MS)
    found = await sessions.listed(crew.client, crew.keys)
    assert [(one.agent, one.session_id, one.turns) for one in found] == [("50%:b", "x:y", 1), ("a", "full", 3)]
    await sessions.delete(crew.client, crew.keys, "a", "full")
    with pytest.raises(NotFound, match="no session 'full'"):
        await sessions.delete(crew.client, crew.keys, "a", "full")
    assert await told(crew, "full") == []
    await definitions.delete(crew.client, crew.keys, crew.uid)
    assert await crew.client.keys(crew.keys.prefix + "*") == []
