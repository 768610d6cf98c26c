"""Dead letters: looked at, tried again, removed, bounded."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support import MANY, Crew, flow_of, library, payload

from watchbill.errors import NotFound, QueueFull
from watchbill.records import AgentDefinition, CrewDefinition, ExecutionMode
from watchbill.store import dead, definitions, runs
from watchbill.store.dead import DeadLetter, Replayed
from watchbill.store.submissions import Submission
from watchbill.tasks import RunState


async def _letters(crew: Crew) -> list[DeadLetter]:
    return [letter async for letter in dead.letters(crew.client, crew.keys)]


async def _replay(crew: Crew, *chosen: DeadLetter, max_queued: int = MANY) -> list[str]:
    told = await dead.replay(crew.client, crew.keys, crew.uid, chosen, max_queued=max_queued)
    return [one.outcome for one in told]


async def _kill(crew: Crew, *ids: str, **options: Any) -> None:
    """These tasks end out of attempts."""
    await crew.submit(*ids, **options)
    name = f"killer-{ids[0]}"
    await crew.finish(name, await crew.take(name, slots=len(ids)), "dead", message="it broke", detail="Traceback …")
    await crew.queue.leave(name)


async def test_a_letter_says_all_of_the_task_and_its_end(crew: Crew) -> None:
    await _kill(crew, "t1", inputs={"log": "many lines"})
    (letter,) = await _letters(crew)
    assert letter == await dead.find(crew.client, crew.keys, "t1")
    assert letter == await dead.find(crew.client, crew.keys, letter.id)
    assert (letter.task_id, letter.reason, letter.agent, letter.attempts) == ("t1", "it broke", "a", 1)
    assert (letter.worker, letter.error, letter.prompt, letter.priority) == ("killer-t1", "Traceback …", "t1", 5)
    assert letter.replayable
    assert abs(datetime.now(UTC) - letter.at) < timedelta(minutes=1)
    with pytest.raises(NotFound, match="t2"):
        await dead.find(crew.client, crew.keys, "t2")


@pytest.mark.parametrize("record", ["there", "expired"])
@pytest.mark.parametrize("size", [10, 5000])
async def test_a_task_is_tried_again_with_all_that_it_had_and_all_its_attempts(
    crew: Crew, record: str, size: int
) -> None:
    text = "x" * size
    await crew.submit_all([Submission("t1", "a", payload(text), inputs={"log": "lines"})], max_queued=MANY)
    (task,) = await crew.take("w")
    await crew.queue.declare_dead(["w"])
    (task,) = await crew.take("w2")
    assert task.attempt == 2
    await crew.finish("w2", [task], "dead")
    if record == "expired":
        await crew.client.delete(crew.keys.task("t1"))
        await crew.client.zrem(crew.keys.ids, "t1")
    (letter,) = await _letters(crew)
    assert await _replay(crew, letter) == ["replayed"]
    assert await _replay(crew, letter) == ["missing"], "sent again, it changes nothing"
    assert await _letters(crew) == []
    assert await crew.state("t1") == "waiting"
    assert await crew.client.ttl(crew.keys.task("t1")) == -1
    assert await runs.result(crew.client, crew.keys, "t1") is None
    (task,) = await crew.take("w2", 2)
    assert (task.attempt, task.inputs if task.payload else ("log",)) == (1, ("log",))
    assert (await crew.queue.start("w2", [task]))[0].payload == payload(text)
    assert await runs.inputs(crew.client, crew.keys, "t1", ["log"]) == {"log": "lines"}
    assert await crew.finish("w2", [task]) == ["applied"]
    assert await crew.state("t1") == "completed"
    await crew.queue.leave("w2")
    await crew.assert_idle()


async def test_what_is_too_large_for_a_letter_can_be_tried_again_while_its_record_is_there(crew: Crew) -> None:
    await _kill(crew, "t1", "t2", inputs={"log": "x" * 70_000})
    letters = await _letters(crew)
    assert [letter.prompt for letter in letters] == [None, None]
    await crew.client.delete(crew.keys.task("t1"))
    await crew.client.zrem(crew.keys.ids, "t1")
    by_task = {letter.task_id: letter for letter in letters}
    assert await _replay(crew, by_task["t1"], by_task["t2"]) == ["expired", "replayed"]
    assert [letter.task_id for letter in await _letters(crew)] == ["t1"], "what couldn't be replayed stays"


@pytest.mark.parametrize("by", ["a task", "a run"])
async def test_a_letter_whose_id_has_other_work_by_now_is_not_replayed(crew: Crew, by: str) -> None:
    await _kill(crew, "t1")
    (letter,) = await _letters(crew)
    await crew.client.delete(crew.keys.task("t1"))
    await crew.client.zrem(crew.keys.ids, "t1")
    await (crew.submit("t1") if by == "a task" else crew.run("t1"))
    before = await crew.dump()
    assert await _replay(crew, letter) == ["taken"]
    assert await crew.dump() == before


async def test_a_full_queue_takes_no_letter(crew: Crew) -> None:
    await _kill(crew, "t1", "t2")
    await crew.submit("t3")
    before = await crew.dump()
    with pytest.raises(QueueFull):
        await _replay(crew, *await _letters(crew), max_queued=2)
    assert await crew.client.hget(crew.keys.meta, "refused") == "1"
    await crew.client.hdel(crew.keys.meta, "refused")
    assert await crew.dump() == before


async def test_a_queue_without_any_room_takes_no_letter_either(crew: Crew) -> None:
    await _kill(crew, "t1")
    with pytest.raises(QueueFull):
        async with asyncio.timeout(180):
            await dead.replay(crew.client, crew.keys, crew.uid, await _letters(crew), max_queued=0)


async def test_more_letters_than_fit_one_call_are_all_replayed(crew: Crew) -> None:
    ids = [f"t{i}" for i in range(1100)]
    for start in range(0, len(ids), 500):
        await _kill(crew, *ids[start : start + 500])
    letters = await _letters(crew)
    assert [letter.task_id for letter in reversed(letters)] == ids
    assert set(await _replay(crew, *letters)) == {"replayed"}
    assert await crew.queued() == 1100


async def test_a_dead_step_is_tried_again_and_its_run_goes_on(crew: Crew) -> None:
    await crew.run("r1", flow_of([("a", "b"), ("b", "c"), ("a", "d")], ["a", "b", "c", "d"]))
    await crew.finish("w", await crew.take("w"))
    for task in await crew.take("w", 2):
        await crew.finish("w", [task], "dead" if task.step == "b" else "completed")
    assert (await runs.status(crew.client, crew.keys, "r1")).status is RunState.PARTIAL
    assert await _replay(crew, *await _letters(crew)) == ["replayed"]
    status = await runs.status(crew.client, crew.keys, "r1")
    assert (status.status, status.finished_at) == (RunState.RUNNING, None)
    assert {s.name: s.status.value for s in status.steps} == {
        "a": "completed",
        "b": "waiting",
        "c": "waiting",
        "d": "completed",
    }
    assert await runs.result(crew.client, crew.keys, "r1") is None
    for number in (3, 4):
        await crew.finish("w", await crew.take("w", number))
    result: Any = await runs.result(crew.client, crew.keys, "r1")
    assert (result.status, set(result.steps)) == (RunState.COMPLETED, {"a", "b", "c", "d"})
    await crew.queue.leave("w")
    await crew.assert_idle()


@pytest.mark.parametrize("gone", ["run", "definition"])
async def test_a_step_whose_run_can_not_go_on_is_not_replayed(crew: Crew, gone: str) -> None:
    await crew.run("r1", flow_of([("a", "b")], ["a", "b"]))
    await crew.finish("w", await crew.take("w"), "dead")
    if gone == "run":
        await crew.client.delete(crew.keys.run("r1"))
    else:
        await definitions.apply(crew.client, crew.keys, flow_of([("b", "a")], ["a", "b"]))
    assert await _replay(crew, *await _letters(crew)) == ["expired"]


def _chain(*agents: str, **prompts: str) -> CrewDefinition:
    """These agents, one after another."""
    listed = [AgentDefinition(agent_id=a, prompt=prompts.get(a)) for a in agents]
    return CrewDefinition(name="test", execution_mode=ExecutionMode.SEQUENTIAL, agents=listed)


async def _dead_step(crew: Crew) -> DeadLetter:
    """Of the run r1, whose step `b` is dead."""
    await crew.run("r1", _chain("a", "b"))
    await crew.finish("w", await crew.take("w"))
    await crew.finish("w", await crew.take("w", 2), "dead")
    return (await _letters(crew))[0]


async def test_a_step_of_a_run_that_has_ended_is_tried_again_with_what_was_mended(crew: Crew) -> None:
    letter = await _dead_step(crew)
    old = crew.definition.digest()
    crew.definition = mended = _chain("a", "b", b="mended: {input}")
    await definitions.apply(crew.client, crew.keys, mended)
    (told,) = await dead.replay(crew.client, crew.keys, crew.uid, [letter], max_queued=MANY)
    assert told == Replayed("replayed", "current")
    later = _chain("a", "b", b="mended again: {input}")
    await definitions.apply(crew.client, crew.keys, later)
    (task,) = await crew.take("w", 3)
    assert (task.id, task.definition) == ("r1/b", mended.digest())
    kept = await definitions.load(crew.client, crew.keys, mended.digest())
    assert kept.digest() == mended.digest(), "while the run needs it"
    await crew.finish("w", [task])
    result: Any = await runs.result(crew.client, crew.keys, "r1")
    assert (result.status, set(result.steps)) == (RunState.COMPLETED, {"a", "b"})
    left = {later.digest()}
    assert {str(key).rpartition(":")[2] for key in await crew.client.keys(crew.keys.definition("*"))} == left
    assert old not in left
    await crew.queue.leave("w")
    await crew.assert_idle()


@pytest.mark.parametrize(
    ("now", "why"),
    [
        (_chain("a"), "the current one has no step 'b'"),
        (_chain("a", "b", "c"), "the current one has steps that the run has not: 'c'"),
        (_chain("b", "a"), "in the current one these wait for other steps: 'a', 'b'"),
        (_chain("a", "b", b="{inputs.log}"), "the prompt of agent 'b' cites {inputs.log}, but no such input was given"),
    ],
)
async def test_a_step_keeps_the_definition_of_its_run_where_the_current_one_does_not_fit(
    crew: Crew, now: CrewDefinition, why: str
) -> None:
    await crew.run("other", _chain("a", "b"))  # so that the old definition is still there
    await crew.take("w")
    await crew.run("r1", _chain("a", "b"))
    await crew.finish("w", await crew.take("w", 2))
    await crew.finish("w", await crew.take("w", 3), "dead")
    (letter,) = await _letters(crew)
    await definitions.apply(crew.client, crew.keys, now)
    (told,) = await dead.replay(crew.client, crew.keys, crew.uid, [letter], max_queued=MANY)
    assert told == Replayed("replayed", "submitted", why)
    (task,) = await crew.take("w", 4)
    assert (task.id, task.definition) == ("r1/b", _chain("a", "b").digest())


async def test_a_step_keeps_the_definition_of_its_run_where_that_goes_on_or_it_is_asked_for(crew: Crew) -> None:
    await crew.run("r1", library("a", "b"))
    old = crew.definition
    a, b = await crew.take("w")
    await crew.finish("w", [a], "dead")
    await definitions.apply(crew.client, crew.keys, library("a", "b", description="mended"))
    (letter,) = await _letters(crew)
    (told,) = await dead.replay(crew.client, crew.keys, crew.uid, [letter], max_queued=MANY)
    assert told == Replayed("replayed", "submitted", "its run still goes on with it")
    await crew.finish("w", await crew.take("w", 2), "dead")
    await crew.run("holds the old definition", old)
    await crew.finish("w", [b])
    await definitions.apply(crew.client, crew.keys, library("a", "b", description="mended"))
    (letter,) = await _letters(crew)
    (told,) = await dead.replay(crew.client, crew.keys, crew.uid, [letter], max_queued=MANY, as_submitted=True)
    assert told == Replayed("replayed", "submitted")


async def test_a_run_that_took_up_another_definition_leaves_the_one_that_it_had_before(crew: Crew) -> None:
    """Whoever looked before the replay names the key of the first definition, which is the crew's again."""
    letter = await _dead_step(crew)
    first = crew.definition
    await definitions.apply(crew.client, crew.keys, _chain("a", "b", b="mended: {input}"))
    assert await _replay(crew, letter) == ["replayed"]
    await definitions.apply(crew.client, crew.keys, first)
    await crew.finish("w", await crew.take("w", 3), definition=first.digest())
    assert (await runs.status(crew.client, crew.keys, "r1")).status is RunState.COMPLETED
    async with asyncio.timeout(180):
        assert (await definitions.current(crew.client, crew.keys)).definition.digest() == first.digest()


@pytest.mark.parametrize("as_submitted", [False, True])
async def test_where_nothing_was_changed_a_replay_says_so(crew: Crew, as_submitted: bool) -> None:
    letter = await _dead_step(crew)
    (told,) = await dead.replay(crew.client, crew.keys, crew.uid, [letter], max_queued=MANY, as_submitted=as_submitted)
    assert told == Replayed("replayed", "unchanged")


async def test_what_could_never_be_read_is_shown_and_not_replayed(crew: Crew) -> None:
    await crew.submit("t0")
    await crew.client.xadd(crew.keys.streams[2], {b"what": b"\xff\xfe"})
    await crew.claim("w")
    (letter,) = await _letters(crew)
    assert letter.raw == {"what": "base64://4="}
    assert not letter.replayable
    assert await _replay(crew, letter) == ["expired"]
    assert await dead.purge(crew.client, crew.keys, crew.uid, [letter.id]) == 1
    assert await dead.purge(crew.client, crew.keys, crew.uid, [letter.id]) == 0
    assert await _letters(crew) == []


async def test_letters_are_chosen_by_agent_text_and_time(crew: Crew) -> None:
    await _kill(crew, "t1")
    await _kill(crew, "t2", agent="b")
    letters = await _letters(crew)
    now = datetime.now(UTC)
    for chosen, tasks in [
        (dead.matching(), ["t2", "t1"]),
        (dead.matching(agent="b"), ["t2"]),
        (dead.matching(reason="BROKE"), ["t2", "t1"]),
        (dead.matching(reason="traceback"), ["t2", "t1"]),
        (dead.matching(reason="other"), []),
        (dead.matching(before=now - timedelta(hours=1)), []),
        (dead.matching(after=now - timedelta(hours=1)), ["t2", "t1"]),
    ]:
        assert [letter.task_id for letter in letters if chosen(letter)] == tasks


async def test_letters_are_bounded_by_age_and_number_and_what_is_trimmed_is_counted(crew: Crew) -> None:
    old = int((datetime.now(UTC) - timedelta(days=8)).timestamp() * 1000)
    async with crew.client.pipeline(transaction=False) as pipe:
        for i in range(10_010):
            pipe.xadd(crew.keys.dead, {"id": f"old{i}", "reason": "r"}, id=f"{old + i}-0" if i < 5 else "*")
        await pipe.execute()
    await _kill(crew, "t1")
    assert await crew.client.xlen(crew.keys.dead) == 10_000
    assert await crew.client.hget(crew.keys.meta, "trimmed") == "11"
    assert (await _letters(crew))[0].task_id == "t1"
    assert 0 < await crew.client.ttl(crew.keys.dead) <= 7 * 86_400
