"""Steps of runs that no agent of the crew runs: they judge a loop, make the steps of a list's items, and gather their
outputs.

They are tasks as all others, so that a worker that dies in one loses nothing. What they add to the run is added under
the task's fence, and a second attempt finds it there.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import redis.asyncio

from watchbill.agents.context import Context
from watchbill.agents.loading import AgentLoader, Runner
from watchbill.api.modes import ITEMS_MAX
from watchbill.connection import outages
from watchbill.errors import InvalidInput, Postponed, Problem, QueueFull
from watchbill.names import EACH, STEP_MARK, UNTIL, CrewKeys, split_step_id
from watchbill.plan import flow, prompts, values
from watchbill.records import AgentDefinition, CrewDefinition
from watchbill.store import run_steps
from watchbill.store.run_steps import Held
from watchbill.worker.execution.failures import describe
from watchbill.worker.execution.threads import run_in_thread

_REPLAY: Final = "Mend it, then replay this step from the dead letters: the run goes on from here."
AGAIN_SECONDS: Final = 10.0
"""Seconds, up to twice as many, until a step looks again whether the crew has room for the items of its list."""


class ControlSteps:
    """Makes the runners of one crew's control steps."""

    def __init__(self, client: redis.asyncio.Redis, keys: CrewKeys, uid: str, loader: AgentLoader) -> None:
        self._client = client
        self._keys = keys
        self._uid = uid
        self._loader = loader

    def runner(self, plan: flow.Plan, agent: str, kind: flow.Kind) -> Runner | None:
        """Returns what runs steps of this kind; None: an agent does. Raises AgentNotLoadable for a predicate."""
        crew, definition = plan.crew, plan.member(agent) or AgentDefinition(agent_id=agent)
        run: Callable[[Context], Awaitable[Any]]
        match kind:
            case "until":
                predicate = self._loader.load(crew, definition) if crew.loop and _predicate_of(crew) else None

                async def run(context: Context) -> bool:
                    return await self._judge(plan, predicate, context)
            case "each":

                async def run(context: Context) -> int:
                    return await self._make_items(plan, definition, context)
            case "list":

                async def run(context: Context) -> list[Any]:
                    return await self._gather(definition, context)
            case _:
                return None
        return Runner(is_async=True, agent=definition, _start=run)

    async def _judge(self, plan: flow.Plan, predicate: Runner | None, context: Context) -> bool:
        """Returns whether the loop is over. If it isn't, the next iteration is added to the run."""
        held, step = self._held(context)
        crew, number = plan.crew, plan.place(UNTIL, step).iteration
        is_decided = await outages.persist(lambda: run_steps.is_followed(self._client, self._keys, held.run_id, step))
        if is_decided:  # by an attempt whose end is not known: there is one decision for each iteration
            return False
        if await _is_over(crew, predicate, context.outputs):
            return True
        if number < flow.bounds(crew).max_iterations:
            following = flow.iteration(crew, number + 1)
            await outages.persist(lambda: run_steps.add_iteration(self._client, held, following))
        return False

    async def _make_items(self, plan: flow.Plan, agent: AgentDefinition, context: Context) -> int:
        """Adds a step for each item of the agent's list. Returns how many there are."""
        held, step = self._held(context)
        reference = agent.for_each or ""
        kind, name = prompts.list_of(reference)
        try:
            if kind == "inputs":
                value: Any = context.inputs.get(name, values.MISSING)
            else:
                source, path = prompts.resolve(name, plan.ids)
                output = context.outputs.get(plan.ids[source], values.MISSING)
                value = [] if output is values.MISSING else values.field(output, path, repr(source))
            items = values.items(value, reference, ITEMS_MAX)
        except values.Unusable as error:
            path = f"forEach of agent {agent.agent_id!r}"
            raise InvalidInput(Problem(str(error), _REPLAY, path=path)) from error
        place = plan.place(agent.agent_id, step)
        lenient, room = flow.is_lenient(plan.crew, agent), plan.crew.tasks.max_queued
        try:
            await outages.persist(
                lambda: run_steps.add_items(
                    self._client, held, place.name, agent.agent_id, items, lenient=lenient, room=room
                )
            )
        except QueueFull as error:
            why = f"there is no room for the {len(items)} items of {reference}: tasks.maxQueued = {room}"
            raise Postponed(why, seconds=AGAIN_SECONDS * (1 + random.random())) from error
        return len(items)

    async def _gather(self, agent: AgentDefinition, context: Context) -> list[Any]:
        """Returns the outputs of the items' steps, in the order of the items."""
        held, step = self._held(context)
        maker = f"{step}{STEP_MARK}{EACH}"
        number = await outages.persist(lambda: run_steps.made(self._client, self._keys, held.run_id, maker))
        if number is None:
            why = f"the items of {agent.for_each} could not be made: see step {maker!r}"
            raise InvalidInput(Problem(why, _REPLAY, path=f"forEach of agent {agent.agent_id!r}"))
        return await outages.persist(
            lambda: run_steps.outputs_of_items(self._client, self._keys, held.run_id, step, number)
        )

    def _held(self, context: Context) -> tuple[Held, str]:
        """The step of this attempt, for the store, and its name."""
        _, step = split_step_id(context.task.task_id) or ("", "")
        return Held(self._keys, self._uid, context.task.task_id, context.fence), step


def _predicate_of(crew: CrewDefinition) -> str | None:
    return crew.loop.until.predicate if crew.loop and crew.loop.until else None


async def _is_over(crew: CrewDefinition, predicate: Runner | None, outputs: Mapping[str, Any]) -> bool:
    """Judges an iteration by its outputs. Raises InvalidInput when the condition can't be judged."""
    until = crew.loop.until if crew.loop else None
    if until is None:
        return False
    if predicate is None:
        agent = crew.agent_ids()[until.agent or ""]
        try:
            return values.truth(outputs.get(agent, values.MISSING), until.field or "", repr(until.agent))
        except values.Unusable as error:
            raise InvalidInput(Problem(str(error), _REPLAY, path="loop.until")) from error
    name = f"the predicate {until.predicate!r}"
    try:
        verdict = predicate.call(dict(outputs)) if predicate.is_async else await run_in_thread(predicate.call, outputs)
        if inspect.isawaitable(verdict):
            verdict = await verdict
    except Exception as error:
        raise InvalidInput(Problem(f"{name} raised {describe(error)}", _REPLAY, path="loop.until")) from error
    if not isinstance(verdict, bool):
        reason = f"{name} returned {verdict!r:.200}, and neither True nor False"
        raise InvalidInput(Problem(reason, _REPLAY, path="loop.until"))
    return verdict
