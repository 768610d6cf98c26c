"""A crew's watches in the store: what they have read of its feed, and the work that an event begins. Stubs over
store/scripts.

Every call is safe to send twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal, cast

import redis.asyncio

from watchbill.api.watches import Watch
from watchbill.connection import outages, scripts
from watchbill.errors import InvalidInput
from watchbill.event_types import TownEvent
from watchbill.names import CrewKeys
from watchbill.plan import submission
from watchbill.plan import watches as plan
from watchbill.store import definitions, deliveries, events, refusals, runs, submissions
from watchbill.tasks import AgentTask, Priority

Seen = Literal["ok", "gone", "changed", "rest", "early"]
Outcome = Literal["fired", "told", "taken", "already", "full", "rest", "changed", "gone"]
"""`fired`: the work is on the queue, by this call. `told`: nothing begins, and the feed says why. `taken`: the same,
because the id is another's. `already`: the watch has dealt with that event. `full`: try again. `rest`: the crew is
suspended, or takes no work. `changed`: it has another definition by now. `gone`: it was deleted or replaced."""
PAUSE_MS: Final = 700
"""Least time between two looks at a crew's feed, by whichever of its workers."""


@dataclass(frozen=True)
class Looked:
    """The answer to a look at the feed."""

    outcome: Seen
    upto: str = ""
    """The id up to which these are all events that any watch may be for."""
    has_gap: bool = False
    """Events have left the feed before anybody read them. The feed says so."""
    has_expired: bool = False
    """The feed has expired since somebody read it, and nobody knows what it had then. The feed says so."""
    is_more: bool = False
    """The feed may have more already than was looked at."""
    entries: tuple[tuple[str, str], ...] = ()
    """Id and JSON of each."""

    @cached_property
    def events(self) -> list[tuple[str, TownEvent]]:
        return events.parsed([(entry_id, {"data": data}) for entry_id, data in self.entries])


async def look(client: redis.asyncio.Redis, keys: CrewKeys, current: definitions.Current, seen: str = "") -> Looked:
    """The next events that the crew's watches may be for; it must have some. `seen`: the caller has dealt with all
    events up to this id. Raises NewerRecord."""
    watches = current.definition.watches
    types = dict.fromkeys(kind for watch in watches for kind in watch.events)
    args = [current.uid, current.digest, PAUSE_MS, seen, len(types), *types, *(watch.name for watch in watches)]
    with outages.translated():
        reply: Any = await scripts.run(client, "watch_look", keys.fixed, args)
    outcome, *rest = map(str, reply)
    if outcome != "ok":
        return Looked(cast(Seen, outcome))
    upto, gap, more, *entries = rest
    found = tuple(zip(entries[::2], entries[1::2], strict=True))
    return Looked("ok", upto, gap == "1", gap == "2", more == "1", found)


async def is_defined_anew(client: redis.asyncio.Redis, keys: CrewKeys, digest: str) -> bool:
    """Returns whether the crew has another definition than this."""
    with outages.translated():
        return bool(await client.hget(keys.meta, "def") != digest)


async def payload(client: redis.asyncio.Redis, keys: CrewKeys, event: TownEvent) -> str | None:
    """The payload of the run or task that the event is about; None: its record is gone."""
    record = keys.run(event.mission_id) if event.mission_id else keys.record(event.task_id or "")
    with outages.translated():
        found = await client.hget(record, "payload")
    return None if found is None else str(found)


async def tell(
    client: redis.asyncio.Redis, keys: CrewKeys, current: definitions.Current, watch: Watch, event_id: str, why: str
) -> Outcome:
    """Has the feed say why the watch begins nothing on this event."""
    made = plan.work_id(watch.name, event_id)
    return await _call(client, keys, current, made, "", [watch.name, event_id, why, "tell", made, ""])


async def fire(
    client: redis.asyncio.Redis,
    keys: CrewKeys,
    current: definitions.Current,
    watch: Watch,
    event_id: str,
    event: TownEvent,
    before: Sequence[str],
) -> Outcome:
    """Begins the work of the watch on this event. `before`: the watches that have led to it.

    Raises InvalidInput when the work would be too long, or the crew has more agents than one script may start, or than
    its queue can ever take.
    """
    crew, made = current.definition, plan.work_id(watch.name, event_id)
    prompt = plan.asked(watch.prompt, event)
    inputs = {name: plan.asked(text, event) for name, text in watch.inputs.items()}
    submission.check_own(prompt, made, {}, {})
    if too_long := list(submission.sizes(inputs)):
        raise InvalidInput(too_long)
    whose = submission.addressee(crew, watch.agent, watch.role)
    priority = Priority[watch.priority]
    metadata = {plan.CHAIN: [*before, watch.name], plan.EVENT: event_id}
    task = AgentTask(
        task_id=made,
        agent_name="" if watch.role else whose,
        prompt=prompt,
        crew_name=crew.name,
        priority=priority,
        metadata=metadata,
        role=watch.role,
    )
    work, deliver = submission.work(whose, prompt, inputs), deliveries.of_submission(crew, None)
    args: list[Any] = [watch.name, event_id, plan.said(watch, event), "task" if whose else "run", made, whose]
    if whose:
        one = submissions.Submission(made, whose, task.model_dump_json(), priority, inputs, work=work, deliver=deliver)
        args += submissions.script_args(one)
    else:
        # It would hold up all events.
        refusals.too_large(keys, current.number, crew.tasks.max_queued, "a watch", "spec.watches")
        run = runs.RunSubmission(
            made,
            task.model_dump_json(),
            current.digest,
            crew.execution_mode,
            current.steps,
            crew.max_parallel_tasks,
            priority,
            inputs,
            work=work,
            deliver=deliver,
        )
        args += runs.script_args(run, 0, "")
    return await _call(client, keys, current, made, whose, args)


async def _call(
    client: redis.asyncio.Redis,
    keys: CrewKeys,
    current: definitions.Current,
    made: str,
    agent: str,
    args: Sequence[Any],
) -> Outcome:
    names = [*keys.fixed, keys.run(made), keys.run_steps(made), keys.task(made), keys.run_events(made)]
    names.append(keys.agent_events(agent))
    known = [current.uid, keys.crew, current.digest, current.definition.tasks.max_queued]
    with outages.translated():
        reply: Any = await scripts.run(client, "watch_fire", names, [*known, *args])
    return cast(Outcome, str(reply[0]))
