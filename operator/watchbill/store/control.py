"""Control of work that is under way (cancel, interrupt, resume), and of workers (drain).

The scripts decide what is possible (docs/design/queue.md); workers hear of it at once by a message, and at the latest
with their next renewal. Every call is safe to send twice, and raises CrewGone when the crew was deleted or replaced.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, cast

import redis.asyncio

from watchbill import connection
from watchbill.connection import outages, scripts
from watchbill.errors import Conflict, NewerRecord, NotFound, RetryLater
from watchbill.names import STEP_SEPARATOR, CrewKeys, split_step_id
from watchbill.store import incarnations, packed, run_steps, runs, unfinished
from watchbill.store.queue import BATCH, WISHES, Queue, Wish, crew_gone
from watchbill.tasks import TERMINAL

_UNMADE: Final = "its client has gone before it had sent all steps"
_LISTEN_SECONDS: Final = 30.0
_AT_ONCE: Final = 100
"""Tasks that one call cancels, where there may be very many: it takes the server 40 µs for each."""
_RUNS_AT_ONCE: Final = 16
"""Each run that is cancelled costs several trips."""


@dataclass(frozen=True, slots=True)
class CancelledAll:
    """The numbers of tasks and runs that were cancelled."""

    cancelled: int
    """Number of tasks and runs that have ended."""
    cancelling: int
    """Number of tasks that workers were asked to stop."""


@dataclass(frozen=True, slots=True)
class Item:
    """A task, or a step of a run (`run/step`), and what the scripts must know of it beforehand."""

    id: str
    agent: str
    digest: str = ""
    """The definition of a step's run; empty for a task."""

    def keys(self, keys: CrewKeys) -> tuple[str, ...]:
        """The keys of its record, as stop.lua and replay.lua want them."""
        return keys.of_ending(self.id, self.agent, self.digest)


async def cancel(client: redis.asyncio.Redis, keys: CrewKeys, uid: str, task_id: str, why: str, ttl_ms: int) -> bool:
    """Cancels a task, a step or a whole run. Its record is kept for `ttl_ms` after its end. True: it has ended; False:
    a worker was asked to stop it.

    Raises NotFound, and Conflict when it has ended otherwise.
    """
    ended = await _cancel(client, keys, uid, task_id, why, ttl_ms)
    if not ended and await declare_dead(client, keys, uid):
        ended = await _cancel(client, keys, uid, task_id, why, ttl_ms)
    return ended


async def _cancel(client: redis.asyncio.Redis, keys: CrewKeys, uid: str, task_id: str, why: str, ttl_ms: int) -> bool:
    if STEP_SEPARATOR in task_id or await _is_task(client, keys, task_id):
        outcome = (await _stop(client, keys, uid, "cancel", [await _item(client, keys, task_id)], why, ttl_ms))[0]
        return accepted(keys, task_id, outcome, "cancelled") != "asked"
    with outages.translated():
        digest = str(await client.hget(keys.run(task_id), "def") or "")
    if not digest:
        raise runs.not_found(keys, task_id)
    return await _cancel_run(client, keys, uid, task_id, digest, why, ttl_ms)


async def cancel_unmade(client: redis.asyncio.Redis, keys: CrewKeys, uid: str, run_id: str, ttl_ms: int) -> None:
    """Cancels a run that its client has not made whole, if that is still so, and its record can be read."""
    with suppress(NotFound, Conflict, NewerRecord):
        digest = await runs.definition_of(client, keys, run_id)
        await _cancel_run(client, keys, uid, run_id, digest, _UNMADE, ttl_ms, only="creating")


async def cancel_all(
    client: redis.asyncio.Redis, keys: CrewKeys, uid: str, agent: str | None, why: str, ttl_ms: int
) -> CancelledAll:
    """Cancels every task and run that hasn't ended now; with `agent` only tasks of their own of that agent.

    What comes meanwhile is left alone. What ends by itself meanwhile isn't counted.
    """
    cancelled = cancelling = 0
    await declare_dead(client, keys, uid)
    async for ids in unfinished.pages(client, keys):
        tasks, digests = await _kinds(client, keys, ids)
        if agent is not None:
            tasks, digests = [task for task in tasks if task.agent == agent], {}
        for start in range(0, len(tasks), _AT_ONCE):
            outcomes = await _stop(client, keys, uid, "cancel", tasks[start : start + _AT_ONCE], why, ttl_ms)
            cancelled += outcomes.count("cancelled")
            cancelling += outcomes.count("asked")
        of_runs = await _cancel_runs(client, keys, uid, digests, why, ttl_ms)
        cancelled += of_runs.count(True)
        cancelling += of_runs.count(False)
    return CancelledAll(cancelled, cancelling)


async def cancelling(client: redis.asyncio.Redis, keys: CrewKeys, uid: str) -> int:
    """Counts cancelled tasks that a worker has yet to stop. Those whose worker has died since, by its lease, are
    cancelled first: there may be nobody else who ever looks."""
    with outages.translated():
        found: Any = await client.hgetall(keys.wishes)
        wishes = {task_id: packed.StopRequest.unpack(text) for task_id, text in found.items()}
        wishes = {task_id: wish for task_id, wish in wishes.items() if wish.what == "cancel"}
        if not wishes:
            return 0
        held = await client.hmget(keys.holders, list(wishes))
        now_ms = await connection.now_ms(client, keys.meta)
        alive = set(await client.zrangebyscore(keys.leases, now_ms, "+inf"))
    left = [
        task_id
        for task_id, text in zip(wishes, held, strict=True)
        if text is None or packed.Holder.unpack(str(text)).incarnation not in alive
    ]
    for task_id in left:
        wish = wishes[task_id]
        with suppress(NotFound):
            await _stop(client, keys, uid, "cancel", [await _item(client, keys, task_id)], wish.why, wish.ttl_ms)
    return len(wishes) - len(left)


async def declare_dead(client: redis.asyncio.Redis, keys: CrewKeys, uid: str) -> bool:
    """Lets go of what processes of this host hold that have ended, instead of when their leases end. Whether there
    were any."""
    queue = Queue(client, keys, uid)
    dead = [name for name in await queue.incarnations() if incarnations.ended_here(name)]
    await queue.declare_dead(dead)
    return bool(dead)


async def _kinds(client: redis.asyncio.Redis, keys: CrewKeys, ids: Sequence[str]) -> tuple[list[Item], dict[str, str]]:
    """Returns the ids that are tasks, and those that are runs, with their definitions. An id without a record is in
    neither."""
    with outages.translated():
        async with client.pipeline(transaction=False) as pipe:
            for task_id in ids:
                pipe.hget(keys.task(task_id), "agent")
                pipe.hget(keys.run(task_id), "def")
            found = await pipe.execute()
    agents = zip(ids, found[::2], strict=True)
    digests = zip(ids, found[1::2], strict=True)
    tasks = [Item(task_id, str(agent)) for task_id, agent in agents if agent is not None]
    return tasks, {run_id: str(digest) for run_id, digest in digests if digest}


async def _cancel_runs(
    client: redis.asyncio.Redis, keys: CrewKeys, uid: str, digests: Mapping[str, str], why: str, ttl_ms: int
) -> list[bool]:
    """As `_cancel_run`, without those that have ended otherwise."""
    outcomes: list[bool] = []
    found = list(digests.items())
    for start in range(0, len(found), _RUNS_AT_ONCE):
        part = found[start : start + _RUNS_AT_ONCE]
        work = (_cancel_run(client, keys, uid, run_id, digest, why, ttl_ms) for run_id, digest in part)
        for outcome in await asyncio.gather(*work, return_exceptions=True):
            if isinstance(outcome, bool):
                outcomes.append(outcome)
            elif not isinstance(outcome, NotFound | Conflict):
                raise outcome
    return outcomes


async def _cancel_run(
    client: redis.asyncio.Redis,
    keys: CrewKeys,
    uid: str,
    run_id: str,
    digest: str,
    why: str,
    ttl_ms: int,
    *,
    only: str = "",
) -> bool:
    """Cancels a run; with `only` one in that state. Its ready steps are stopped in the same script: else a run whose
    canceller dies behind the first call goes on, or with an interrupted step stays as it is. What came to be ready
    meanwhile is stopped then."""
    of_run = [keys.run(run_id), keys.run_steps(run_id), keys.run_results(run_id)]
    of_run += [keys.definition(digest), keys.run_events(run_id)]
    ready = await _ready(client, keys, run_id, digest)
    while True:
        part = ready[:BATCH]
        names = [*keys.fixed, *of_run, *(keys.agent_events(item.agent) for item in part)]
        steps = [item.id.partition(STEP_SEPARATOR)[2] for item in part]
        args = [uid, keys.crew, run_id, one_line(why), ttl_ms, keys.control, only, *steps]
        reply = await call(client, keys, "cancel_run", names, args)
        if reply[0] != "again":
            break
    if reply[0] == "missing":
        raise runs.not_found(keys, run_id)
    if reply[0] == "over" and reply[1] != "cancelled":
        raise Conflict(f"run {run_id!r} of crew {keys.crew!r} can't be cancelled: it is {reply[1]}")
    if reply[1] != "cancelling":
        return True
    ready = await _ready(client, keys, run_id, digest)
    for start in range(0, len(ready), BATCH):
        await _stop(client, keys, uid, "cancel", ready[start : start + BATCH], why, ttl_ms)
    with outages.translated():
        return await client.hget(keys.run(run_id), "state") != "cancelling"


async def _ready(client: redis.asyncio.Redis, keys: CrewKeys, run_id: str, digest: str) -> list[Item]:
    """Returns the steps of a run that are on a stream, run, or wait for another attempt or to be resumed: those that
    wait for no other step, however those before them have ended."""
    with outages.translated():
        stored: Any = await client.hgetall(keys.run_steps(run_id))
    with runs.readable(keys, run_id):
        steps = {str(name): packed.Step.unpack(str(text)) for name, text in stored.items()}
    ready = [name for name, step in steps.items() if step.left <= 0 and step.state not in TERMINAL]
    ready.sort(key=lambda name: steps[name].index)
    return [Item(f"{run_id}/{name}", steps[name].agent, digest) for name in ready]


async def interrupt(client: redis.asyncio.Redis, keys: CrewKeys, uid: str, task_id: str, why: str) -> bool:
    """Sets a task or step aside until it is resumed; where it runs, its agent is stopped. True: it is; False: its
    worker was asked to. The attempt doesn't count.

    Raises NotFound; Conflict for a run, and when it has ended; RetryLater when it can't be done just now.
    """
    if STEP_SEPARATOR not in task_id and not await _is_task(client, keys, task_id):
        with outages.translated():
            if await client.exists(keys.run(task_id)):
                raise Conflict(
                    f"{task_id!r} is a whole run: interrupt one of its steps, {task_id}/STEP, or cancel the run"
                )
    item = await _item(client, keys, task_id)
    outcome = (await _stop(client, keys, uid, "interrupt", [item], why, 0))[0]
    if outcome == "asked" and await declare_dead(client, keys, uid):
        outcome = (await _stop(client, keys, uid, "interrupt", [item], why, 0))[0]
    return accepted(keys, task_id, outcome, "interrupted") != "asked"


async def resume(client: redis.asyncio.Redis, keys: CrewKeys, uid: str, task_id: str) -> bool:
    """Puts what was interrupted back onto its stream, with its prompt and inputs. False: it waits or runs already.

    Raises NotFound, and Conflict when it has ended.
    """
    item = await _item(client, keys, task_id)
    names = keys.of_item(task_id, item.agent)
    outcome = (await call(client, keys, "resume", [*keys.fixed, *names], [uid, keys.crew, task_id]))[1]
    return accepted(keys, task_id, outcome, "resumed") == "resumed"


async def drain(client: redis.asyncio.Redis, keys: CrewKeys, uid: str, worker: str, *, on: bool) -> bool:
    """From now on this worker (an incarnation's name, without what follows the last dot) claims nothing, in all its
    lives, until that is taken back. What it runs goes on. Whether that changed anything."""
    reply = await call(client, keys, "drain", keys.fixed, [uid, int(on), "person", keys.control, worker])
    return bool(reply[1])


async def drain_for_scaling(
    client: redis.asyncio.Redis, keys: CrewKeys, uid: str, workers: Sequence[str], *, on: bool
) -> int:
    """As `drain`, for workers that are to leave. Takes back only what was asked for in this way: a worker that a person
    drained stays so. Returns for how many that changed anything."""
    reply = await call(client, keys, "drain", keys.fixed, [uid, int(on), "scaling", keys.control, *workers])
    return int(reply[1])


async def is_draining(client: redis.asyncio.Redis, keys: CrewKeys, worker: str) -> bool:
    """Returns whether this worker drains."""
    with outages.translated():
        return bool(await client.hexists(keys.meta, f"drain:{worker}"))


async def wishes(client: redis.asyncio.Redis, keys: CrewKeys, ids: Sequence[str]) -> dict[str, Wish]:
    """Task → what somebody wants of it; only tasks among `ids` that are to stop."""
    with outages.translated():
        found = await client.hmget(keys.wishes, list(ids))
    wanted = ((task_id, packed.StopRequest.unpack(str(text))) for task_id, text in zip(ids, found, strict=True) if text)
    return {task_id: cast(Wish, wish.what) for task_id, wish in wanted if wish.what in WISHES}


async def is_gone(client: redis.asyncio.Redis, keys: CrewKeys, uid: str) -> bool:
    """Returns whether the store has no crew of this uid."""
    with outages.translated():
        return bool(await client.hget(keys.meta, "uid") != uid)


async def heard(client: redis.asyncio.Redis, keys: CrewKeys) -> AsyncIterator[packed.Order]:
    """Yields the orders to the crew's workers, without end: to stop these tasks, if they have them; `drain`: to read
    whether they are to drain; `gone`: the crew of this uid is deleted; `deliver`: it has something to deliver. What is
    said while the store is away is lost; `listening` says that nothing is from now on.

    It proves nothing, since anybody may have said it: a reason to ask the store (`wishes`, `is_draining`, `is_gone`).
    """
    async with client.pubsub() as listening:
        await outages.persist(lambda: listening.subscribe(keys.control))
        while True:
            # redis-py subscribes again by itself when it connects again
            if message := await outages.persist(lambda: listening.get_message(timeout=_LISTEN_SECONDS)):
                heard = message["type"] == "message"
                yield packed.Order.unpack(message["data"]) if heard else packed.Order("listening", ())


async def _stop(
    client: redis.asyncio.Redis, keys: CrewKeys, uid: str, what: Wish, items: Sequence[Item], why: str, ttl_ms: int
) -> list[str]:
    names = [*keys.fixed, *(name for item in items for name in item.keys(keys))]
    args: list[Any] = [uid, keys.crew, what, one_line(why), keys.control, ttl_ms, len(items)]
    args += (item.id for item in items)
    return list((await call(client, keys, "stop", names, args))[1:])


def one_line(why: str) -> str:
    """Returns a reason as the scripts keep it."""
    return " ".join(why.split())[:1000]


async def _item(client: redis.asyncio.Redis, keys: CrewKeys, task_id: str) -> Item:
    step = split_step_id(task_id)
    with outages.translated():
        if step is None:
            agent = await client.hget(keys.task(task_id), "agent")
            digest: Any = ""
        else:
            agent = await run_steps.agent_of(client, keys, *step)
            digest = await client.hget(keys.run(step[0]), "def")
    if agent is None:
        raise runs.not_found(keys, task_id)
    return Item(task_id, str(agent), str(digest or ""))


async def agent_of(client: redis.asyncio.Redis, keys: CrewKeys, task_id: str) -> str:
    """Returns the agent of a task or step. Raises NotFound."""
    return (await _item(client, keys, task_id)).agent


async def _is_task(client: redis.asyncio.Redis, keys: CrewKeys, task_id: str) -> bool:
    with outages.translated():
        return bool(await client.exists(keys.task(task_id)))


def accepted(keys: CrewKeys, task_id: str, outcome: str, wanted: str) -> str:
    """Returns the outcome. Raises NotFound, RetryLater or Conflict where it is a refusal."""
    if outcome == "missing":
        raise runs.not_found(keys, task_id)
    if outcome == "busy":
        raise RetryLater(f"task {task_id!r} of crew {keys.crew!r} can't be {wanted} just now; try again in a moment")
    if outcome == "unready":
        raise Conflict(f"step {task_id!r} of crew {keys.crew!r} waits for other steps: interrupt those, or cancel it")
    if outcome.startswith("over:"):
        state = outcome.removeprefix("over:")
        raise Conflict(f"task {task_id!r} of crew {keys.crew!r} can't be {wanted}: it is {state}")
    return outcome


async def call(
    client: redis.asyncio.Redis, keys: CrewKeys, name: str, names: Sequence[str], args: Sequence[Any]
) -> list[Any]:
    """Runs one of these scripts."""
    with outages.translated():
        reply = await scripts.run(client, name, names, args)
    if reply[0] == "gone":
        raise crew_gone(keys)
    return list(reply)
