"""Reads what a claimed task needs, and begins an attempt of it.

Knows no slots and no claims: the worker decides what is run, and when it stops. `attempt` is the agent at work,
`results` makes its result.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import redis
from pydantic_core import from_json

from watchbill import logs
from watchbill.agents.context import Context, Tell
from watchbill.agents.loading import AgentLoader
from watchbill.clock import SYSTEM, Clock
from watchbill.connection import Store, outages
from watchbill.errors import InvalidInput, Problem
from watchbill.event_types import Telling
from watchbill.names import CrewKeys
from watchbill.plan import flow, prompts
from watchbill.records import CrewDefinition, TaskPolicy
from watchbill.store import definitions, runs
from watchbill.store.queue import Claimed, Finished
from watchbill.tasks import AgentTask
from watchbill.worker.execution.abandoned import Abandoned
from watchbill.worker.execution.attempt import Attempt, End, Role
from watchbill.worker.execution.processes import Processes
from watchbill.worker.execution.results import Results
from watchbill.worker.execution.shared_lease import SharedLease

if TYPE_CHECKING:
    from watchbill.agents.crew_messaging import CrewMessaging

_DEFINITIONS_KEPT: Final = 16
_ROLES_KEPT: Final = 10_000
_NOTHING: Final[Mapping[str, Any]] = {}


class Executor:
    """Begins attempts of one crew's tasks."""

    def __init__(
        self,
        store: Store,
        keys: CrewKeys,
        loader: AgentLoader,
        lease: SharedLease,
        *,
        on_abandoned: Callable[[int, int], None],
        store_time: Callable[[], datetime],
        clock: Clock = SYSTEM,
    ) -> None:
        """No agent begins while the lease isn't valid. `on_abandoned` gets the number of abandoned agents and how many
        of them are overdue, whenever one of the two has changed. `store_time` is the time by the store's clock."""
        self._store = store
        self._client = store.client
        self._blocking: redis.Redis | None = None
        self._connecting = threading.Lock()
        self._keys = keys
        self._loader = loader
        self._results = Results(keys.crew, store_time)
        self._definitions: dict[str, CrewDefinition] = {}
        self._roles: dict[tuple[str, str], Role] = {}
        self._loading = asyncio.Lock()
        self._abandoned = Abandoned(keys.crew, on_abandoned, clock)
        self._lease = lease
        self._clock = clock
        self._processes = Processes(loader.sources, lease)

    def must_read(self, task: Claimed) -> bool:
        """Returns whether something must be read before the task can begin."""
        if task.inputs:
            return True
        role = self._roles.get((task.definition, task.agent))
        return role is None or (bool(role.reads) and task.run_id is not None)

    async def read(self, task: Claimed) -> tuple[Mapping[str, str], Mapping[str, Any]]:
        """Returns the task's inputs, and the outputs of earlier steps. Raises NotFound and NewerRecord for its
        definition, AgentNotLoadable."""
        inputs: Mapping[str, str] = {}
        outputs: Mapping[str, Any] = {}
        crew = await self._definition(task.definition)
        if task.attempt > crew.tasks.max_attempts:
            return inputs, outputs
        role = self._role(task, crew)
        if task.inputs:
            inputs = await outages.persist(lambda: runs.inputs(self._client, self._keys, task.id, task.inputs))
        if role is not None and role.reads and (run_id := task.run_id) is not None:
            outputs = await outages.persist(lambda: runs.outputs(self._client, self._keys, run_id, role.reads))
        if task.definition not in self._definitions:  # put away meanwhile, for those of others
            await self._definition(task.definition)
        return inputs, outputs

    def begin(
        self,
        task: Claimed,
        tell: Tell,
        end: End,
        inputs: Mapping[str, str] = _NOTHING,
        outputs: Mapping[str, Any] = _NOTHING,
    ) -> Attempt | None:
        """Begins a task for which all is read. Calls `end` once, whatever happens to the agent. Returns None where the
        task has ended already. Raises AgentNotLoadable when this worker doesn't have the agent."""
        crew = self._definitions[task.definition]
        policy = crew.tasks
        if task.attempt > policy.max_attempts:
            who = f"worker {task.previous_holder}" if task.previous_holder else "its worker"
            why = f"given up: {who} died while attempt {task.attempt - 1} of {policy.max_attempts} ran (maxAttempts)"
            end(self._results.not_begun(replace(task, attempt=task.attempt - 1), policy, why))
            return None
        role = self._role(task, crew)
        if role is None:
            why = f"agent {task.agent!r} is not in crew {self._keys.crew!r}"
            end(self._results.not_begun(task, policy, why))
            return None
        try:
            context = self._context(task, role, tell, inputs, outputs)
        except (KeyError, TypeError, ValueError) as failure:
            end(self._results.not_begun(task, policy, f"no prompt for {task.agent!r}: {failure}"))
            return None
        return Attempt(
            task, role, context, end, self._results, self._abandoned, self._processes, self._lease, self._clock
        )

    def failed(self, task: Claimed, error: Exception) -> Finished:
        """Returns the end of a task that could not begin."""
        return self._results.not_begun(task, TaskPolicy(), str(error))

    def broken(self, task: Claimed, failure: BaseException) -> Finished:
        """Returns the end of a task that couldn't be run by a fault of Watchbill's own."""
        return self._results.broken(task, failure)

    async def close(self) -> None:
        """Ends what was left running, and the agents' processes."""
        await self._abandoned.close()
        await self._processes.close()
        if self._blocking is not None:
            self._blocking.close()

    def _connect_messaging(self) -> CrewMessaging:
        from watchbill.agents.crew_messaging import CrewMessaging  # 40 ms, and most workers need none

        return CrewMessaging(self._keys.prefix, self._client, self._connect_sync)

    def _connect_sync(self) -> redis.Redis:
        """Returns a client that all threads of agents share. Made at the first call: most agents need none."""
        with self._connecting:
            if self._blocking is None:
                self._blocking = self._store.connect_sync()
            return self._blocking

    def _role(self, task: Claimed, crew: CrewDefinition) -> Role | None:
        """Returns the agent of this task; None when the crew has no such agent. Raises AgentNotLoadable."""
        digest, name = task.definition, task.agent
        if role := self._roles.get((digest, name)):
            return role
        agent = crew.agent(name)
        if agent is None:
            return None
        known = crew.agent_ids()
        cited = [known[cited] for cited in prompts.references(agent.prompt or "")[1] if cited in known]
        role = Role(
            crew=crew,
            agent=agent,
            runner=self._loader.load(crew, agent),
            tools=self._loader.tools(crew, agent),
            reads=tuple(flow.reads(crew, agent, flow.steps(crew), cited)),
            timeout=agent.timeout_seconds or crew.tasks.timeout_seconds,
        )
        if len(self._roles) >= _ROLES_KEPT:  # a crew may have agents of any name
            self._roles.clear()
        self._roles[digest, name] = role
        return role

    def _context(
        self, task: Claimed, role: Role, tell: Tell, inputs: Mapping[str, str], outputs: Mapping[str, Any]
    ) -> Context:
        stored = from_json(task.payload)
        payload = AgentTask.model_validate({**stored, "task_id": task.id, "agent_name": task.agent})
        run_id = task.run_id
        named = outputs
        if role.agent.prompt:  # templates may cite effective names too
            effective = {a.effective_name: outputs[a.agent_id] for a in role.crew.agents if a.agent_id in outputs}
            named = {**outputs, **effective}
        return Context(
            crew=self._keys.crew,
            agent=role.runner.agent,
            task=payload,
            run_id=run_id,
            prompt=prompts.compose(role.agent.prompt, payload.prompt, inputs, named),
            inputs=dict(inputs),
            outputs=dict(outputs),
            tools=role.tools,
            logger=logs.of_agent(self._keys.crew, task.agent, run_id, task.id),
            deadline=self._clock.now() + timedelta(seconds=role.timeout),
            attempt=task.attempt,
            fence=int(task.fence),
            tell=partial(_tell_of_crew, role.crew, tell),
            loop=asyncio.get_running_loop(),
            connect_messaging=self._connect_messaging,
        )

    async def _definition(self, digest: str) -> CrewDefinition:
        if digest in self._definitions:
            return self._definitions[digest]
        async with self._loading:  # a hundred tasks of one claim ask at once
            if digest not in self._definitions:
                loaded = await outages.persist(lambda: definitions.load(self._client, self._keys, digest))
                self._definitions[digest] = loaded
                if len(self._definitions) > _DEFINITIONS_KEPT:
                    oldest = next(iter(self._definitions))
                    del self._definitions[oldest]
                    self._roles = {key: role for key, role in self._roles.items() if key[0] != oldest}
            return self._definitions[digest]


async def _tell_of_crew(crew: CrewDefinition, tell: Tell, told: Telling) -> None:
    """Tells what names agents of the crew only, by their ids. Raises InvalidInput for another."""
    found: dict[str, str] = {}
    for role, name in (("parent", told.parent), ("child", told.child)):
        if name is None:
            continue
        agent = crew.agent(name)
        if agent is None:
            fix = f"Name one of its agents: {', '.join(crew.agent_ids())}."
            raise InvalidInput(Problem(f"crew {crew.name!r} has no agent {name!r}", fix, path="agent"))
        found[role] = agent.agent_id
    await tell(replace(told, **found) if found else told)  # type: ignore[arg-type]  # both are names
