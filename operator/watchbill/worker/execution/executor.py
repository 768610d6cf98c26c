"""What a worker does with a claimed task: reads what it needs, and sets its agent to work.

Knows nothing of leases and slots: the worker decides what is run, and stops it. `running` is the agent at work,
`results` what is made of its end.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

import redis.asyncio

from watchbill import logs
from watchbill.agents.context import Context, Say
from watchbill.agents.loading import AgentLoader
from watchbill.connection import outages
from watchbill.names import CrewKeys
from watchbill.plan import flow, prompts
from watchbill.records import CrewDefinition, TaskPolicy
from watchbill.store import definitions, runs
from watchbill.store.queue import Claimed, Finished
from watchbill.tasks import AgentTask
from watchbill.worker.execution.abandoned import Abandoned
from watchbill.worker.execution.attempt import Attempt, Role
from watchbill.worker.execution.processes import Processes
from watchbill.worker.execution.results import Results
from watchbill.worker.execution.shared_lease import SharedLease

_DEFINITIONS_KEPT: Final = 16
_NOTHING: Final[Mapping[str, Any]] = {}


class Executor:
    """Runs tasks of one crew."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        keys: CrewKeys,
        loader: AgentLoader,
        on_abandoned: Callable[[], None] = lambda: None,
        lease: SharedLease | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),  # noqa: TID251 - shell
        ran: Callable[[str, float], None] = lambda agent, seconds: None,
    ) -> None:
        """`on_abandoned` is called when an agent didn't stop in time, and when one that didn't has ended at last.
        `lease`: no agent begins while it isn't surely the worker's; default: for ever. `now` is by the
        store's clock. `ran` is told how long an agent ran, in seconds."""
        self._client = client
        self._keys = keys
        self._loader = loader
        self._results = Results(keys.crew, now)
        self._definitions: dict[str, CrewDefinition] = {}
        self._roles: dict[tuple[str, str], Role] = {}
        self._loading = asyncio.Lock()
        self._abandoned = Abandoned(keys.crew, on_abandoned)
        self._lease = lease or SharedLease()
        if lease is None:
            self._lease.extend(math.inf)
        self._processes = Processes(loader.sources, self._lease)
        self._ran = ran

    @property
    def abandoned(self) -> int:
        """Agents that still run though their tasks have ended here: each holds a slot."""
        return len(self._abandoned)

    @property
    def overdue(self) -> int:
        """Those of them that were asked to stop long enough ago."""
        return self._abandoned.overdue

    def must_read(self, task: Claimed) -> bool:
        """Whether something must be read before the task can begin."""
        if task.inputs:
            return True
        role = self._roles.get((task.definition, task.agent))
        return role is None or (bool(role.reads) and task.run_id is not None)

    async def read(self, task: Claimed) -> tuple[Mapping[str, str], Mapping[str, Any]]:
        """Inputs and earlier outputs. Raises NotFound and NewerRecord for its definition,
        AgentNotLoadable."""
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
        say: Say,
        over: Callable[[Finished], None],
        inputs: Mapping[str, str] = _NOTHING,
        outputs: Mapping[str, Any] = _NOTHING,
    ) -> Attempt | None:
        """Begins a task for which all is read. `over` is told its end, once, whatever happens to the agent.

        Raises AgentNotLoadable when this worker doesn't have the agent. None: it is over already.
        """
        crew = self._definitions[task.definition]
        policy = crew.tasks
        if task.attempt > policy.max_attempts:
            who = f"worker {task.former}" if task.former else "its worker"
            why = f"given up: {who} died while attempt {task.attempt - 1} of {policy.max_attempts} ran (maxAttempts)"
            over(self._results.not_begun(replace(task, attempt=task.attempt - 1), policy, why))
            return None
        role = self._role(task, crew)
        if role is None:
            why = f"agent {task.agent!r} is not in crew {self._keys.crew!r}"
            over(self._results.not_begun(task, policy, why))
            return None
        try:
            context = self._context(task, role, say, inputs, outputs)
        except (KeyError, ValueError) as failure:
            over(self._results.not_begun(task, policy, f"no prompt for {task.agent!r}: {failure}"))
            return None
        return Attempt(task, role, context, over, self._results, self._abandoned, self._processes, self._lease)

    def failed(self, task: Claimed, error: Exception) -> Finished:
        """The end of a task that could not begin."""
        return self._results.not_begun(task, TaskPolicy(), str(error))

    def broken(self, task: Claimed, failure: BaseException) -> Finished:
        """The end of a task that we ourselves couldn't run."""
        return self._results.broken(task, failure)

    async def close(self) -> None:
        """Ends what was left running, and the agents' processes."""
        await self._abandoned.close()
        await self._processes.close()

    def _role(self, task: Claimed, crew: CrewDefinition) -> Role | None:
        """Raises AgentNotLoadable; None when the crew has no such agent."""
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
            ran=partial(self._ran, name),
        )
        self._roles[digest, name] = role
        return role

    def _context(
        self, task: Claimed, role: Role, say: Say, inputs: Mapping[str, str], outputs: Mapping[str, Any]
    ) -> Context:
        payload = AgentTask.model_validate_json(task.payload)
        prompt = payload.prompt
        if payload.task_id != task.id or payload.agent_name != task.agent:
            payload = payload.model_copy(update={"task_id": task.id, "agent_name": task.agent})
        named = outputs
        if role.agent.prompt:  # templates may cite effective names too
            effective = {a.effective_name: outputs[a.agent_id] for a in role.crew.agents if a.agent_id in outputs}
            named = {**outputs, **effective}
        return Context(
            crew=self._keys.crew,
            agent=role.runner.agent,
            task=payload,
            run_id=task.run_id,
            prompt=prompts.compose(role.agent.prompt, prompt, inputs, named),
            inputs=dict(inputs),
            outputs=dict(outputs),
            tools=role.tools,
            logger=logs.of_agent(self._keys.crew, task.agent, task.run_id, task.id),
            deadline=datetime.now(UTC) + timedelta(seconds=role.timeout),  # noqa: TID251 - shell
            attempt=task.attempt,
            fence=int(task.fence),
            emit=say,
            loop=asyncio.get_running_loop(),
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
