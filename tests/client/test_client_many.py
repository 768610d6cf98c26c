"""Dead letters and many tasks, by the client."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from client_support import small_queue, tasks_named
from support import Crew, library

from watchbill.client import Client, Replay
from watchbill.connection import scripts
from watchbill.errors import Conflict, CrewGone, InvalidInput, NotFound, QueueFull
from watchbill.store import definitions
from watchbill.tasks import AgentTask, TaskState


async def die(crew: Crew, *ids: str, agent: str = "a") -> None:
    """These tasks end out of attempts."""
    await crew.submit(*ids, agent=agent)
    name = f"killer-{uuid.uuid4().hex}"
    await crew.finish(name, await crew.take(name, slots=len(ids)), "dead", message="it broke", detail="Traceback …")
    await crew.queue.leave(name)


# ---------------------------------------------------------------- dead letters


async def listed(client: Client, crew: Crew, **chosen: Any) -> list[str]:
    return [letter.task_id async for letter in client.dead_letters(crew.keys.crew, **chosen)]


async def test_letters_are_listed_newest_first_and_by_what_is_asked(crew: Crew, client: Client) -> None:
    await die(crew, "t1", "t2")
    await die(crew, "t3", agent="b")
    now = datetime.now(UTC)
    assert await listed(client, crew) == ["t3", "t2", "t1"]
    assert await listed(client, crew, agent="b") == ["t3"]
    assert await listed(client, crew, reason="BROKE", after=now - timedelta(hours=1)) == ["t3", "t2", "t1"]
    assert await listed(client, crew, before=now - timedelta(hours=1)) == []
    letter = await client.dead_letter(crew.keys.crew, "t1")
    assert (letter.prompt, letter.error) == ("t1", "Traceback …")
    assert await client.dead_letter(crew.keys.crew, letter.id) == letter
    with pytest.raises(InvalidInput, match=r"before: .* has no time zone"):
        await listed(client, crew, before=datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(NotFound):
        await listed(client, Crew(crew.client, type(crew.keys)("test", "no"), "", crew.definition, crew.queue))


async def test_letters_are_replayed_by_task_by_letter_by_filter_or_all(crew: Crew, client: Client) -> None:
    await die(crew, "t1", "t2", "t3")
    await die(crew, "t4", "t5", agent="b")
    letter = await client.dead_letter(crew.keys.crew, "t2")
    assert await client.replay(crew.keys.crew, ["t1", letter.id, "nobody"]) == [
        Replay("t1", "t1", "replayed", "current"),
        Replay(letter.id, "t2", "replayed", "current"),
        Replay("nobody", "", "missing"),
    ]
    assert await client.replay(crew.keys.crew, "t1") == [Replay("t1", "", "missing")]
    assert [r.task_id for r in await client.replay(crew.keys.crew, agent="b")] == ["t4", "t5"]
    assert [r.outcome for r in await client.replay(crew.keys.crew, everything=True)] == ["replayed"]
    assert await listed(client, crew) == []
    assert [t.id for t in await crew.claim("w")] == ["t1", "t2", "t4", "t5", "t3"]


async def test_of_several_letters_of_one_task_the_newest_is_replayed(crew: Crew, client: Client) -> None:
    await die(crew, "nightly")
    await crew.client.delete(crew.keys.task("nightly"))
    await crew.client.zrem(crew.keys.ids, "nightly")
    await die(crew, "nightly")
    older = [letter.id async for letter in client.dead_letters(crew.keys.crew)][1]
    assert await client.replay(crew.keys.crew, "nightly") == [Replay("nightly", "nightly", "replayed", "current")]
    assert [letter.id async for letter in client.dead_letters(crew.keys.crew)] == [older]
    assert await client.replay(crew.keys.crew, everything=True) == [Replay(older, "nightly", "taken")]


async def test_what_nobody_chose_is_neither_replayed_nor_purged(crew: Crew, client: Client) -> None:
    await die(crew, "t1")
    for ask in (client.replay, client.purge):
        with pytest.raises(InvalidInput, match="nothing says which"):
            await ask(crew.keys.crew)
        assert await ask(crew.keys.crew, []) in ([], 0)
        assert await ask(crew.keys.crew, ["t1"], agent="b") in ([Replay("t1", "", "missing")], 0)
    assert await listed(client, crew) == ["t1"]


async def test_letters_are_purged(crew: Crew, client: Client) -> None:
    await die(crew, "t1", "t2", "t3")
    await crew.client.xadd(crew.keys.streams[2], {b"what": b"\xff"})
    await crew.claim("w")
    assert await client.purge(crew.keys.crew, ["t1", "nobody"]) == 1
    assert await client.purge(crew.keys.crew, reason="malformed") == 1
    assert await client.purge(crew.keys.crew, everything=True) == 2
    assert await client.purge(crew.keys.crew, everything=True) == 0


async def test_a_full_queue_takes_no_letter_and_the_same_call_may_be_made_again(crew: Crew, client: Client) -> None:
    await die(crew, "t1", "t2")
    await definitions.apply(crew.client, crew.keys, small_queue(1))
    with pytest.raises(QueueFull):
        await client.replay(crew.keys.crew, everything=True)
    await definitions.apply(crew.client, crew.keys, small_queue(2))
    async with Client(crew.url, namespace="test") as other:
        assert len(await other.replay(crew.keys.crew, everything=True)) == 1, "one had found room"


# ---------------------------------------------------------------- many tasks


async def test_many_tasks_may_be_prompts_or_name_their_own_agents(crew: Crew, client: Client) -> None:
    ids = await client.submit_many(crew.keys.crew, "a", ["one", "two"])
    assert len(set(ids)) == 2
    own = [AgentTask(task_id=f"t{i}", agent_name=agent, prompt="x") for i, agent in enumerate("ab")]
    assert await client.submit_many(crew.keys.crew, None, own) == ["t0", "t1"]
    assert await client.submit_many(crew.keys.crew, "b", [own[0].model_copy(update={"task_id": "t2"})]) == ["t2"]
    tasks = await crew.take("w")
    assert [(t.id, t.agent) for t in tasks] == [(ids[0], "a"), (ids[1], "a"), ("t0", "a"), ("t1", "b"), ("t2", "b")]
    payloads = [AgentTask.model_validate_json(t.payload) for t in tasks]
    assert [p.prompt for p in payloads] == ["one", "two", "x", "x", "x"]
    later = AgentTask(agent_name="a", prompt="x", scheduled_at="2999-01-01T00:00")
    (due,) = await client.submit_many(crew.keys.crew, None, [later])
    assert (await client.state(crew.keys.crew, due), len(due)) == (TaskState.DELAYED, 32), "a naive time is UTC"
    assert [p.agent_name for p in payloads] == ["a", "a", "a", "b", "b"]
    assert await client.submit_many(crew.keys.crew, "a", []) == []


async def test_a_method_that_no_agent_of_the_crew_has_is_refused(crew: Crew, client: Client) -> None:
    tasks = [AgentTask(agent_name="a", prompt="x"), AgentTask(agent_name="a", prompt="x", method_name="shout")]
    with pytest.raises(InvalidInput, match=r"tasks\[1\].method_name: .* method 'shout'"):
        await client.submit_many(crew.keys.crew, None, tasks)
    assert not await crew.claim("w")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"priority": 2}, "priority: 2 can't be used: Input should be 1, 3, 5, 7 or 9"),
        ({"user_id": 7}, "user_id: 7 can't be used"),
        ({"metadata": {"n": {7}}}, "metadata.n: this can't be stored as JSON: Object of type set"),
        ({"metadata": {str(n): "" for n in range(65)}}, "metadata: there are 65 metadata entries. Give 64"),
        ({"metadata": {"n": "x" * 70_000}}, r"metadata: the metadata have 70001 bytes; the limit is 65536 \(64 KiB\)"),
        ({"inputs": {"n": 7}}, "inputs.n: input 'n' is no text: 7. Give it as a str."),
        ({"dedupe_key": "k", "dedupe_seconds": 0}, "dedupe_seconds: 0 is no window for a dedupe key. Give 0.001 to"),
        ({"dedupe_key": "k", "dedupe_seconds": float("inf")}, "dedupe_seconds: inf is no window"),
    ],
)
async def test_what_is_wrong_with_a_submission_is_named(
    crew: Crew, client: Client, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidInput, match=said):
        await client.submit(crew.keys.crew, "do it", agent="a", **options)
    assert await client.unfinished(crew.keys.crew) == []


async def test_a_priority_may_be_given_by_name(crew: Crew, client: Client) -> None:
    await client.submit(crew.keys.crew, "do it", agent="a", priority="high")  # type: ignore[arg-type]
    ((_, waiting),) = [(c.name, c.waiting) for c in (await client.figures(crew.keys.crew)).classes if c.name == "high"]
    assert waiting == 1


async def test_one_bad_task_of_many_is_named_and_nothing_is_stored(crew: Crew, client: Client) -> None:
    for agent, tasks, message in (
        (None, ["prompt"], r"tasks\[0\]: a prompt alone names no agent"),
        (
            "a",
            [AgentTask(task_id="ok", agent_name="a", prompt="x"), tasks_named("no good")],
            r"tasks\[1\]\.id: 'no good'",
        ),
        (None, [tasks_named("t1", agent="nobody")], r"tasks\[0\]\.agent: .*no agent 'nobody'"),
    ):
        with pytest.raises(InvalidInput, match=message):
            await client.submit_many(crew.keys.crew, agent, tasks)
    assert await crew.queued() == 0


WRONG: dict[str, dict[str, Any]] = {
    "prompt": {"prompt": "lone \ud800"},
    "prompt, escaped": {"prompt": "byte \udc80"},
    "metadata.n": {"metadata": {"n": float("nan")}},
    "metadata": {"metadata": {str(n): "" for n in range(65)}},
    "user_id": {"user_id": 5},
    "priority": {"priority": 4},
    "dedupe_seconds": {"dedupe_key": "k", "dedupe_seconds": float("inf")},
    "dedupe_seconds, too long": {"dedupe_key": "k", "dedupe_seconds": 1e18},
    "dedupe_seconds, none": {"dedupe_key": "k", "dedupe_seconds": -1},
}


@pytest.mark.parametrize("agent", ["a", None])
@pytest.mark.parametrize("what", WRONG)
async def test_a_value_that_is_wrong_is_told_as_such_and_nothing_is_stored(
    crew: Crew, client: Client, what: str, agent: str | None
) -> None:
    options: dict[str, Any] = {"prompt": "x", **WRONG[what]}
    with pytest.raises(InvalidInput) as caught:
        await client.submit(crew.keys.crew, options.pop("prompt"), agent=agent, **options)
    assert caught.value.problems[0].path in ("", what.partition(",")[0])
    assert await client.unfinished(crew.keys.crew) == []


async def test_a_prompt_among_many_that_is_no_text_is_named_before_any_is_stored(crew: Crew, client: Client) -> None:
    with pytest.raises(InvalidInput) as caught:
        await client.submit_many(crew.keys.crew, "a", [*["x"] * 600, "lone \ud800"])
    assert caught.value.problems[0].path == "tasks[600].prompt"
    assert await crew.queued() == 0


async def test_a_queue_that_fills_up_tells_which_of_many_tasks_are_stored(crew: Crew, client: Client) -> None:
    await definitions.apply(crew.client, crew.keys, small_queue(1200))
    tasks = [tasks_named(f"t{i}") for i in range(1600)]
    with pytest.raises(QueueFull) as caught:
        await client.submit_many(crew.keys.crew, "a", tasks)
    assert list(caught.value.stored) == [t.task_id for t in tasks[:1000]]
    assert await crew.queued() == 1000
    with pytest.raises(QueueFull) as again:  # what is there needs no room, and is stored once
        await client.submit_many(crew.keys.crew, "a", tasks)
    assert len(again.value.stored) == 1000
    await definitions.apply(crew.client, crew.keys, small_queue(1600))
    assert await client.submit_many(crew.keys.crew, "a", tasks) == [t.task_id for t in tasks]
    assert await crew.queued() == 1600


async def test_more_than_the_queue_could_ever_hold_goes_in_piece_by_piece(crew: Crew, client: Client) -> None:
    """Else it would be told to try again later, without end."""
    await definitions.apply(crew.client, crew.keys, small_queue(20))
    tasks = [tasks_named(f"t{i}") for i in range(30)]
    with pytest.raises(QueueFull, match=r"has no room for that: tasks\.maxQueued = 20") as caught:
        await client.submit_many(crew.keys.crew, "a", tasks)
    assert list(caught.value.stored) == [t.task_id for t in tasks[:20]]
    await crew.finish("w", await crew.take("w", slots=20), "dead")
    assert len(await client.submit_many(crew.keys.crew, "a", tasks)) == 30
    await crew.finish("w", await crew.take("w", 2, slots=20), "dead")
    with pytest.raises(QueueFull):
        await client.replay(crew.keys.crew, everything=True)
    await crew.finish("w", await crew.take("w", 3, slots=20))
    assert {one.outcome for one in await client.replay(crew.keys.crew, everything=True)} == {"replayed"}


async def test_a_run_with_more_steps_than_the_queue_may_hold_is_refused_for_good(crew: Crew, client: Client) -> None:
    await definitions.apply(crew.client, crew.keys, small_queue(1))
    with pytest.raises(InvalidInput, match=r"has 2 steps, and tasks\.maxQueued is 1\. Raise tasks\.maxQueued"):
        await client.submit(crew.keys.crew, "do it")
    await definitions.apply(crew.client, crew.keys, small_queue(2))
    await client.submit(crew.keys.crew, "do it", id="r1")
    with pytest.raises(QueueFull):
        await client.submit(crew.keys.crew, "do it")


async def test_the_id_of_a_run_among_many_tells_which_are_stored(crew: Crew, client: Client) -> None:
    await crew.run("taken")
    tasks = [tasks_named(task_id) for task_id in ("t1", "taken", "t2")]
    with pytest.raises(Conflict, match="'taken' is the id of a run") as caught:
        await client.submit_many(crew.keys.crew, "a", [*(tasks_named(f"s{i}") for i in range(500)), *tasks])
    assert list(caught.value.stored) == [f"s{i}" for i in range(500)]
    assert await crew.queued() == 502, "with the two steps of the run"


async def test_a_crew_that_goes_among_many_calls_is_told_with_what_was_stored(crew: Crew, client: Client) -> None:
    await client.submit(crew.keys.crew, "x", agent="a")
    await definitions.delete(crew.client, crew.keys, crew.uid)
    with pytest.raises(NotFound) as caught:
        await client.submit_many(crew.keys.crew, "a", ["x"])
    assert caught.value.stored == ()
    assert CrewGone("x").stored == ()


async def test_a_definition_that_changes_among_many_calls_hides_nothing_of_what_was_stored(
    crew: Crew, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent is taken out while its tasks are submitted: the rest is refused, and the others are named."""
    really = scripts.run
    calls = 0

    async def run(redis: Any, name: str, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            await definitions.apply(crew.client, crew.keys, library("another"))
        return await really(redis, name, *arguments)

    monkeypatch.setattr(scripts, "run", run)
    tasks = [tasks_named(f"t{i}") for i in range(700)]
    with pytest.raises(InvalidInput, match="has no agent 'a'") as caught:
        await client.submit_many(crew.keys.crew, "a", tasks)
    assert list(caught.value.stored) == [t.task_id for t in tasks[:500]]
    assert await crew.queued() == 500
