"""What has ended is kept within `tasks.maxResults` and `tasks.resultTTLSeconds`, and nothing else goes."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace

import pytest
from support import MANY, Crew, library, run_submission

from waiting import until
from watchbill.connection import scripts
from watchbill.errors import CrewGone, DefinitionChanged, NotFound
from watchbill.records import ExecutionMode, TaskPolicy
from watchbill.store import control, dead, definitions, retention, runs
from watchbill.store.queue import BATCH, Claimed
from watchbill.tasks import RunResult, RunState

TTL_SECONDS = 3600
AGES_MS = 1000
"""An id of the stream that says 1970."""


async def trim(crew: Crew, most: int, ttl_seconds: int = TTL_SECONDS) -> int:
    return await retention.trim(crew.client, crew.keys, crew.uid, await bounds(crew, most, ttl_seconds))


async def bounds(crew: Crew, most: int, ttl_seconds: int = TTL_SECONDS) -> definitions.Current:
    """The crew's definition, as if it said so."""
    current = await definitions.current(crew.client, crew.keys)
    policy = TaskPolicy(max_results=most, result_ttl_seconds=ttl_seconds)
    return replace(current, content=current.definition.model_copy(update={"tasks": policy}).content())


async def ended(crew: Crew, *ids: str, ttl_ms: int = TTL_SECONDS * 1000) -> None:
    """Tasks of these names that have ended, the first one first."""
    for number, task_id in enumerate(ids):
        await crew.submit(task_id)
        worker = f"worker-{uuid.uuid4()}"
        await crew.finish(worker, await crew.take(worker), ttl_ms=ttl_ms + number)
        await crew.queue.leave(worker)


async def ended_at_once(crew: Crew, count: int) -> list[str]:
    ids = [f"t{i:04}" for i in range(count)]
    await crew.submit(*ids)
    for number in range(1, count // 500 + 2):
        await crew.finish("w", await crew.take("w", number, 500), ttl_ms=TTL_SECONDS * 1000)
    return ids


async def records(crew: Crew) -> set[str]:
    prefix = crew.keys.task("")
    return {str(key).removeprefix(prefix) for key in await crew.client.keys(prefix + "*")}


async def index(crew: Crew) -> list[str]:
    return [str(i) for i in await crew.client.zrange(crew.keys.ids, 0, -1)]


async def test_beyond_the_bound_the_oldest_go_and_what_is_unfinished_stays(crew: Crew) -> None:
    await crew.submit("runs", "waits")
    await crew.take("w", slots=1)
    waits, *tasks = await crew.take("other", slots=1) + await _more(crew, "t1", "t2", "t3", "t4")
    for number, task in enumerate(tasks):
        await crew.finish("other", [task], ttl_ms=TTL_SECONDS * 1000 + number)
    await crew.queue.hand_back("other", [waits])

    await trim(crew, 2)

    assert await records(crew) == {"t3", "t4", "runs", "waits"}
    assert set(await index(crew)) == {"t3", "t4", "runs", "waits"}
    assert (await crew.state("runs"), await crew.state("waits")) == ("running", "waiting")
    with pytest.raises(NotFound, match="'t1'"):
        await runs.result(crew.client, crew.keys, "t1")
    assert (await runs.result(crew.client, crew.keys, "t3")) is not None


async def _more(crew: Crew, *ids: str) -> tuple[Claimed, ...]:
    await crew.submit(*ids)
    return await crew.take("other", 2)


async def test_within_the_bound_nothing_goes(crew: Crew) -> None:
    await ended(crew, "t1", "t2", "t3")
    assert await trim(crew, 3) == 0
    assert await records(crew) == {"t1", "t2", "t3"}
    assert len(await crew.results()) == 3


async def test_more_than_a_call_can_take_goes_in_several(crew: Crew) -> None:
    ids = await ended_at_once(crew, 3 * retention.PAGE + 7)
    await trim(crew, 5)
    assert len(await index(crew)) == len(await records(crew)) == 5
    assert await records(crew) == set(await index(crew)) <= set(ids)
    assert await crew.client.xlen(crew.keys.results) == 5
    await crew.assert_idle()


async def test_several_at_once_take_no_more_than_one_would(crew: Crew) -> None:
    await ended_at_once(crew, 5 * retention.PAGE)
    await asyncio.gather(*(trim(crew, 150) for _ in range(6)))
    await trim(crew, 150)  # whoever found others at it stopped
    assert len(await records(crew)) == len(await index(crew)) == 150


async def test_who_looked_before_others_did_it_takes_nothing_more(crew: Crew) -> None:
    await ended(crew, "t1", "t2", "t3", "t4")
    seen = await crew.client.zrange(crew.keys.ids, 2, 3, withscores=True)  # the oldest, once t1 and t2 are gone
    await trim(crew, 2)
    before = await crew.dump()
    told = await retention._trim_page(crew.client, crew.keys, crew.uid, await bounds(crew, 2), seen)
    assert told == (0, 0, "", [])
    assert await _but_for_expiry(crew) == {name: data for name, (data, _) in before.items()}


async def _but_for_expiry(crew: Crew) -> dict[str, str]:
    return {name: data for name, (data, _) in (await crew.dump()).items()}


@pytest.mark.parametrize("what", ["replayed", "submitted anew", "ended anew"])
async def test_an_id_that_means_other_work_by_now_is_left_alone(crew: Crew, what: str) -> None:
    await crew.submit("t1")
    await crew.finish("w", await crew.take("w"), "dead", ttl_ms=TTL_SECONDS * 1000)
    seen = await crew.client.zrange(crew.keys.ids, 0, 0, withscores=True)
    if what == "replayed":
        letters = [letter async for letter in dead.letters(crew.client, crew.keys)]
        await dead.replay(crew.client, crew.keys, crew.uid, letters, max_queued=MANY)
    else:
        await crew.client.delete(crew.keys.task("t1"))
        await crew.client.zrem(crew.keys.ids, "t1")
        await crew.submit("t1")
    if what == "ended anew":
        await crew.finish("w", await crew.take("w", 2), ttl_ms=2 * TTL_SECONDS * 1000)

    await retention._trim_page(crew.client, crew.keys, crew.uid, await bounds(crew, 0), seen)

    assert await crew.state("t1") == ("completed" if what == "ended anew" else "waiting")
    assert await index(crew) == ["t1"]


async def test_an_id_that_went_may_be_used_again(crew: Crew) -> None:
    await ended(crew, "t1")
    await trim(crew, 0)
    assert await index(crew) == []
    await ended(crew, "t1")
    assert await crew.state("t1") == "completed"
    assert await crew.run("t2") == "t2"


async def test_of_a_run_that_goes_the_same_is_left_as_of_one_that_expires(crew: Crew) -> None:
    async def end(ttl_ms: int) -> None:
        first = library("a", "b", mode=ExecutionMode.SEQUENTIAL)
        await crew.run("r1", first)
        await definitions.apply(crew.client, crew.keys, library("a", "b", "c"))
        await crew.finish("w", await crew.take("w", 1), ttl_ms=ttl_ms, definition=first.digest())
        await crew.finish("w", await crew.take("w", 2), ttl_ms=ttl_ms, definition=first.digest())

    async def left() -> set[str]:
        return {str(key) for key in await crew.client.keys(crew.keys.prefix + "*")}

    await end(TTL_SECONDS * 1000)
    meta = await crew.client.hgetall(crew.keys.meta)
    assert await trim(crew, 0) > 0
    trimmed = await left()
    assert await crew.client.hgetall(crew.keys.meta) == meta
    await crew.assert_idle()
    with pytest.raises(NotFound):
        await runs.status(crew.client, crew.keys, "r1")

    assert await crew.client.delete(*trimmed)
    crew.uid = await definitions.apply(crew.client, crew.keys, crew.definition)
    crew.queue.uid = crew.uid
    await end(1)

    async def expired() -> bool:
        return not await crew.client.exists(crew.keys.run("r1"), crew.keys.run_results("r1"))

    await until(expired)
    await trim(crew, 100)  # what is expired leaves the index
    assert await left() - {crew.keys.results} == trimmed - {crew.keys.results}


async def test_tasks_and_runs_go_together_in_the_order_of_their_ends(crew: Crew) -> None:
    await ended(crew, "t1")
    await crew.run("r1", library("a"))
    await crew.finish("w", await crew.take("w"), ttl_ms=TTL_SECONDS * 1000 + 500)
    await ended(crew, "t2", ttl_ms=TTL_SECONDS * 1000 + 1000)
    await trim(crew, 2)
    assert await index(crew) == ["r1", "t2"]
    await trim(crew, 1)
    assert await index(crew) == ["t2"]
    names = (crew.keys.run("r1"), crew.keys.run_steps("r1"), crew.keys.run_results("r1"))
    assert await crew.client.exists(*names) == 0


# Else a crew that has nothing to do keeps the ids of all that it had to do last.
async def test_what_has_expired_leaves_the_index_though_nothing_ends(crew: Crew) -> None:
    await crew.submit(*(f"t{i}" for i in range(250)))
    await crew.finish("w", await crew.take("w", slots=300), ttl_ms=1)

    async def expired() -> bool:
        return not await records(crew)

    await until(expired)
    await trim(crew, 1000)
    assert await index(crew) == []


@pytest.mark.parametrize("what", ["changed", "gone"])
async def test_nothing_is_written_by_bounds_of_another_definition_or_crew(crew: Crew, what: str) -> None:
    await ended(crew, "t1", "t2")
    current = await bounds(crew, 1)
    if what == "changed":
        await definitions.apply(crew.client, crew.keys, library("a", "b", "c"))
    before = await crew.dump()
    with pytest.raises(DefinitionChanged if what == "changed" else CrewGone):
        await retention.trim(crew.client, crew.keys, crew.uid if what == "changed" else "another", current)
    assert await crew.dump() == before


# ---------------------------------------------------------------- the stream of results


async def old_results(crew: Crew, count: int) -> None:
    """As if they had been written long ago."""
    async with crew.client.pipeline(transaction=False) as pipe:
        for i in range(count):
            pipe.xadd(crew.keys.results, {"kind": "task", "id": f"old{i}", "state": "completed"}, id=f"{AGES_MS}-{i}")
        await pipe.execute()


async def test_the_results_are_no_more_than_the_records_may_be(crew: Crew) -> None:
    await crew.run("r1", library("a", "b"))
    await crew.finish("w", await crew.take("w"), ttl_ms=TTL_SECONDS * 1000)
    await ended(crew, "t1", "t2")
    await trim(crew, 2)
    assert [row["id"] for row in await crew.results()] == ["t1", "t2"]


async def test_results_older_than_their_time_go_while_younger_ones_come(crew: Crew) -> None:
    await old_results(crew, 4000)
    await ended(crew, "t1")
    await trim(crew, MANY)
    left = [row["id"] for row in await crew.results()]
    assert left[-1] == "t1"
    assert len(left) <= 101, "but for those that share a node with a younger one"


async def test_the_stream_goes_when_its_last_result_is_older_than_its_time(crew: Crew) -> None:
    await old_results(crew, 5)
    await trim(crew, MANY)
    assert not await crew.client.exists(crew.keys.results)


async def test_the_stream_goes_by_itself_where_no_worker_is_left_and_not_before_its_results_time_is_over(
    crew: Crew,
) -> None:
    await ended(crew, "t1")
    await trim(crew, 100, ttl_seconds=500)
    assert 600_000 < await crew.client.pttl(crew.keys.results) <= 900_000
    assert len(await crew.results()) == 1


# There may be no worker that would look after the stream.
@pytest.mark.parametrize("what", ["task", "run"])
async def test_what_is_cancelled_without_workers_keeps_the_results_to_their_time(crew: Crew, what: str) -> None:
    await old_results(crew, 1000)
    if what == "task":
        await crew.submit("x")
    else:
        await crew.run("x", library("a", mode=ExecutionMode.SEQUENTIAL))
    assert await control.cancel(crew.client, crew.keys, crew.uid, "x", "", 500_000)
    rows = await crew.results()
    assert rows[-1]["id"] == "x"
    assert len(rows) <= 102
    assert 600_000 < await crew.client.pttl(crew.keys.results) <= 900_000


async def test_a_run_whose_creator_died_is_cancelled_and_keeps_the_results_to_their_time(crew: Crew) -> None:
    await old_results(crew, 1000)
    crew.definition = library(*(f"n{i}" for i in range(501)))
    await definitions.apply(crew.client, crew.keys, crew.definition)
    creation = runs.script_call(crew.keys, crew.uid, run_submission("x", crew.definition), MANY, "")
    assert await scripts.run(crew.client, "submit_run", *creation[0]) == ["ok", "submitted"]
    while not await control.cancel(crew.client, crew.keys, crew.uid, "x", "", 500_000):
        pass
    rows = await crew.results()
    assert [(row["kind"], row["id"]) for row in rows][-1] == ("run", "x")
    assert len(rows) <= 101
    assert 600_000 < await crew.client.pttl(crew.keys.results) <= 900_000


async def _unnamed(crew: Crew) -> definitions.Current:
    """A run has ended by a step that never began: its worker takes the crew's definition, which is another by now, for
    the run's, and can't name that. Returns the run's."""
    await crew.run("r1", library("a"))
    before = await definitions.current(crew.client, crew.keys)
    await crew.finish("w", await crew.take("w"), "retry", ttl_ms=0)
    await definitions.apply(crew.client, crew.keys, library("a", "b"))
    (task,) = await crew.claim("w", 2)
    assert task.definition == library("a", "b").digest()
    await crew.finish("w", [task], "cancelled", definition=task.definition)
    return before


async def _definitions(crew: Crew) -> set[str]:
    return {str(key).rpartition(":")[2] for key in await crew.client.keys(crew.keys.definition("*"))}


@pytest.mark.parametrize("is_back", [False, True])
async def test_a_definition_that_whoever_ended_its_last_run_could_not_name_goes_with_the_next_trim(
    crew: Crew, is_back: bool
) -> None:
    before = await _unnamed(crew)
    if is_back:
        await definitions.apply(crew.client, crew.keys, before.definition)
    assert await trim(crew, 10) == 0
    assert await _definitions(crew) == {before.digest if is_back else library("a", "b").digest()}
    assert not await crew.client.hexists(crew.keys.meta, "unused")
    await crew.queue.leave("w")
    await crew.assert_idle()


async def test_a_definition_that_waits_for_a_trim_goes_with_its_crew(crew: Crew) -> None:
    await _unnamed(crew)
    assert await definitions.delete(crew.client, crew.keys, crew.uid)
    assert await crew.client.keys(crew.keys.prefix + "*") == []


async def test_a_definition_that_another_run_took_up_before_the_trim_stays(crew: Crew) -> None:
    before = await _unnamed(crew)
    await crew.run("r2", before.definition)
    await definitions.apply(crew.client, crew.keys, library("a", "b"))
    assert await trim(crew, 10) == 0
    assert await _definitions(crew) == {before.digest, library("a", "b").digest()}
    await crew.finish("w", await crew.take("w", 3))
    assert await _definitions(crew) == {library("a", "b").digest()}


async def begun(crew: Crew, run_id: str, seconds_ago: int) -> runs.RunSubmission:
    """A run whose client has sent the first of its two parts."""
    definition = library(*(f"s{i}" for i in range(BATCH + 1)), mode=ExecutionMode.PARALLEL)
    await definitions.apply(crew.client, crew.keys, definition)
    submission = run_submission(run_id, definition)
    first, _ = runs.script_call(crew.keys, crew.uid, submission, MANY, "")
    assert await scripts.run(crew.client, "submit_run", *first) == ["ok", "submitted"]
    await crew.client.zincrby(crew.keys.ids, -seconds_ago, run_id)
    return submission


async def test_a_run_whose_client_has_gone_before_it_was_whole_is_cancelled_after_an_hour(crew: Crew) -> None:
    submission = await begun(crew, "r", 3500)
    await begun(crew, "old", 3700)
    await trim(crew, 100)
    assert (await runs.status(crew.client, crew.keys, "r")).status is RunState.CREATING
    old = await runs.result(crew.client, crew.keys, "old")
    assert isinstance(old, RunResult)
    assert (old.status, old.error) == (RunState.CANCELLED, f"cancelled: {control._UNMADE}")
    assert await runs.submit(crew.client, crew.keys, crew.uid, replace(submission, id="old"), max_queued=MANY) == "old"
    assert await runs.submit(crew.client, crew.keys, crew.uid, submission, max_queued=MANY) == "r"
    await trim(crew, 100)
    assert (await runs.status(crew.client, crew.keys, "r")).status is RunState.RUNNING
    assert await crew.client.zcard(crew.keys.parked_concurrency) == BATCH + 1 - await crew.queued()
    assert await crew.client.hget(crew.keys.meta, "ref:" + submission.digest) == "1"


async def test_a_call_for_a_run_that_is_not_whole_gives_it_another_hour(crew: Crew) -> None:
    submission = await begun(crew, "r", 3700)
    first, _ = runs.script_call(crew.keys, crew.uid, submission, MANY, "")
    await scripts.run(crew.client, "submit_run", *first)
    await trim(crew, 100)
    assert (await runs.status(crew.client, crew.keys, "r")).status is RunState.CREATING


async def test_a_run_that_was_made_whole_meanwhile_goes_on(crew: Crew) -> None:
    submission = await begun(crew, "r", 3700)
    await runs.submit(crew.client, crew.keys, crew.uid, submission, max_queued=MANY)
    await control.cancel_unmade(crew.client, crew.keys, crew.uid, "r", AGES_MS)
    assert (await runs.status(crew.client, crew.keys, "r")).status is RunState.RUNNING
    assert await crew.client.zscore(crew.keys.ids, "r") > 1e13 + 1e12


async def test_nobody_goes_on_with_a_run_whose_cancelling_has_begun(crew: Crew) -> None:
    submission = await begun(crew, "r", 3700)
    of_run = [crew.keys.run("r"), crew.keys.run_steps("r"), crew.keys.run_results("r")]
    names = [*crew.keys.fixed, *of_run, crew.keys.definition(submission.digest), crew.keys.run_events("r")]
    args = [crew.uid, crew.keys.crew, "r", "enough", AGES_MS, crew.keys.control, ""]
    assert await scripts.run(crew.client, "cancel_run", names, args) == ["again"]
    assert await runs.submit(crew.client, crew.keys, crew.uid, submission, max_queued=MANY) == "r"
    await trim(crew, 100)
    assert (await runs.status(crew.client, crew.keys, "r")).status is RunState.CANCELLED
    await crew.assert_idle()
