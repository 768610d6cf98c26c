"""Reads what a claimed task needs, and begins an attempt of it.

Knows no slots and no claims: the worker decides what is run, and when it stops. `attempt` is the agent at work,
`results` makes its result.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

import redis
from pydantic_core import from_json

from watchbill import logs, tracing
from watchbill.agents import team
from watchbill.agents.asking import Line
from watchbill.agents.context import Context, Tell
from watchbill.agents.loading import AgentLoader
from watchbill.clock import SYSTEM, Clock
from watchbill.connection import Store, outages
from watchbill.connection.gathering import GatheredReads
from watchbill.errors import AgentNotLoadable, InvalidInput, NotWorthRetrying, Problem
from watchbill.event_types import Telling
from watchbill.names import ROLE, CrewKeys
from watchbill.plan import demands, flow, given, prompts, values
from watchbill.plan.approvals import TO_BEGIN, as_details, granted, is_needed, request, to_begin
from watchbill.plan.retry import Failure
from watchbill.records import CrewDefinition, TaskPolicy
from watchbill.redaction import redact
from watchbill.store import approvals, definitions, packed
from watchbill.store.queue import Claimed, Finished
from watchbill.tasks import AgentTask
from watchbill.worker.execution import delegated, steps_before
from watchbill.worker.execution.abandoned import Abandoned
from watchbill.worker.execution.account import Account, TaskAccount
from watchbill.worker.execution.attempt import Attempt, End, Role
from watchbill.worker.execution.control_steps import ControlSteps
from watchbill.worker.execution.failures import Failed, describe
from watchbill.worker.execution.processes import Processes
from watchbill.worker.execution.protocols import ConnectCheckpoints
from watchbill.worker.execution.reading import NOTHING, Read
from watchbill.worker.execution.results import Extras, Results, Waiting
from watchbill.worker.execution.shared_lease import SharedLease

if TYPE_CHECKING:
    from watchbill.agents.crew_messaging import CrewMessaging

_DEFINITIONS_KEPT: Final = 16
_ROLES_KEPT: Final = 10_000


class Executor:
    """Begins attempts of one crew's tasks."""

    def __init__(
        self,
        store: Store,
        keys: CrewKeys,
        uid: str,
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
        self._reads = GatheredReads(store.client)
        self._blocking: redis.Redis | None = None
        self._connecting = threading.Lock()
        self._keys = keys
        self._loader = loader
        self._store_time = store_time
        self._results = Results(keys.crew, store_time)
        self._plans: dict[str, flow.Plan] = {}
        self._roles: dict[tuple[str, str, flow.Kind], Role] = {}
        self._control = ControlSteps(store.client, keys, uid, loader)
        self._account = Account(store.client, keys, store_time, clock)
        self._loading = asyncio.Lock()
        self._abandoned = Abandoned(keys.crew, on_abandoned, clock)
        self._lease = lease
        self._clock = clock
        self._processes = Processes(loader.sources, lease, store.target)

    def at_hand(self, task: Claimed) -> Read | None:
        """Returns what the task needs, if nothing must be read for that; None: something must."""
        plan = self._plans.get(task.definition)
        if plan is None:
            return None
        at = plan.place(task.agent, task.step)
        role = self._roles.get((task.definition, task.agent, at.kind))
        if role is None or role.needs_approval or role.crew.hierarchy is not None:
            return None
        return steps_before.at_hand(task, role, at)

    async def read(self, task: Claimed) -> Read:
        """Returns the task's inputs, the outputs of earlier steps, its item and its approvals. Raises NotFound and
        NewerRecord for its definition, AgentNotLoadable."""
        plan = await self._plan(task.definition)
        at = plan.place(task.agent, task.step)
        role = self._role(task, plan, at) if task.attempt <= plan.crew.tasks.max_attempts else None
        read = NOTHING
        if role is not None:
            known = steps_before.at_hand(task, role, at)
            read = known or await steps_before.read(self._reads, self._keys, task, role, at)
        if role is not None and plan.crew.hierarchy is not None:
            read = await delegated.read(self._reads, self._keys, plan.crew, task, read)
        if role is not None and role.needs_approval:
            asked = await outages.persist(lambda: approvals.read(self._client, self._keys, task.id))
            read = replace(read, approvals=asked)
        if task.definition not in self._plans:  # put away meanwhile, for those of others
            await self._plan(task.definition)
        return read

    def begin(
        self,
        task: Claimed,
        line: Line,
        end: End,
        read: Read = NOTHING,
        *,
        connect_checkpoints: ConnectCheckpoints | None = None,
    ) -> Attempt | None:
        """Begins a task for which all is read. Calls `end` once, whatever happens to the agent. Returns None where the
        task has ended already, or waits for approval. Raises AgentNotLoadable when this worker doesn't have the
        agent."""
        plan = self._plans[task.definition]
        policy = plan.crew.tasks
        if task.attempt > policy.max_attempts:
            who = f"worker {task.previous_holder}" if task.previous_holder else "its worker"
            why = f"given up: {who} died while attempt {task.attempt - 1} of {policy.max_attempts} ran (maxAttempts)"
            end(self._results.not_begun(replace(task, attempt=task.attempt - 1), policy, why))
            return None
        at = plan.place(task.agent, task.step)
        role = self._role(task, plan, at)
        if role is None:
            why = f"agent {task.agent!r} is not in crew {self._keys.crew!r}"
            end(self._results.not_begun(task, policy, why))
            return None
        try:
            if task.run_id is not None and (why := steps_before.passed_over(role, at, read)):
                end(self._results.passed_over(task, policy, why))
                return None
            context = self._context(task, role, at, line, read)
            if connect_checkpoints is not None:
                context.connect_checkpoints = partial(connect_checkpoints, self._lease, asyncio.get_running_loop())
        except values.Unusable as failure:
            end(self._results.not_begun(task, policy, f"step {task.step or task.id!r} can't begin: {failure}"))
            return None
        except (KeyError, TypeError, ValueError) as failure:
            end(self._results.not_begun(task, policy, f"no prompt for {task.agent!r}: {failure}"))
            return None
        if role.needs_approval and (finished := self._unapproved(task, role, context.prompt, read)) is not None:
            end(finished)
            return None
        span = self._traced(task, context)
        return Attempt(
            task, role, context, end, self._results, self._abandoned, self._processes, self._lease, self._clock, span
        )

    def _traced(self, task: Claimed, context: Context) -> tracing.Span | None:
        """Begins the span of the attempt, if tracing is on, and has its log lines name the trace."""
        metadata = context.task.metadata
        span: tracing.Span | None = None
        if tracing.active is not None:
            span = tracing.begin(context.crew, task, metadata, self._store_time)
        trace_id = span.trace_id if span is not None else None
        if metadata and trace_id is None:
            trace_id = tracing.trace_id(metadata.get(tracing.FIELD))
        if trace_id is not None:
            context.logger.extra = {**(context.logger.extra or {}), "trace_id": trace_id}
        return span

    def _unapproved(self, task: Claimed, role: Role, prompt: str, read: Read) -> Finished | None:
        """Returns the end of the attempt of a task that may not begin, or not yet; None: it was approved."""
        shown = redact(prompt)
        try:
            if granted(read.approvals, TO_BEGIN, self._store_time(), as_details(shown)):
                return None
        except NotWorthRetrying as error:
            refused = Failed(describe(error), Failure(worth_retrying=False, given_up=True))
            return self._results.failed(task, role.crew.tasks, refused, Extras(), 0.0)
        try:
            asked = packed.pack_asked(to_begin(shown))
        except InvalidInput as error:
            return self._results.not_begun(task, role.crew.tasks, f"{task.step or task.id!r} can't begin: {error}")
        waits = Waiting("approval", asked, request(TO_BEGIN, shown), role.crew.approval_timeout_seconds)
        return self._results.waiting(task, waits)

    def failed(self, task: Claimed, error: Exception) -> Finished:
        """Returns the end of a task that could not begin."""
        return self._results.not_begun(task, TaskPolicy(), str(error))

    def broken(self, task: Claimed, failure: BaseException) -> Finished:
        """Returns the end of a task that couldn't be run by a fault of Watchbill's own."""
        return self._results.broken(task, failure)

    def lost(self, finished: Finished) -> Finished | None:
        """Returns what is written of an end whose task the store has lost; None: nothing."""
        return self._results.lost(finished)

    async def close(self) -> None:
        """Ends what was left running, and the agents' processes."""
        await self._abandoned.close()
        await self._processes.close()
        await self._account.close()
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

    def _role(self, task: Claimed, plan: flow.Plan, at: flow.Place) -> Role | None:
        """Returns the agent of this task, or what runs such steps; None when the crew has no such agent. Raises
        AgentNotLoadable, also when it has no agent of the task's role."""
        digest, name, crew = task.definition, task.agent, plan.crew
        if role := self._roles.get((digest, name, at.kind)):
            return role
        control = self._control.runner(plan, name, at.kind)
        agent = control.agent if control else plan.member(name)
        if agent is None:
            if name.startswith(ROLE):
                raise AgentNotLoadable(f"no agent of crew {self._keys.crew!r} has role {name.removeprefix(ROLE)!r}")
            return None
        role = Role(
            crew=crew,
            agent=agent,
            runner=control or self._loader.load(crew, agent),
            tools={} if control else self._loader.tools(crew, agent, self._keys.crew),
            reads=tuple(given.reads(plan, agent, at.kind)),
            wanted=tuple(given.wanted(plan, agent, at.kind)),
            cites=tuple(prompts.cited(agent.prompt, plan.ids)),
            inputs=frozenset([*prompts.references(agent.prompt or "")[0], *agent.inputs]),
            when=agent.when if at.kind != "item" else None,
            timeout=agent.timeout_seconds or crew.tasks.timeout_seconds,
            plan=plan,
            needs_approval=control is None and is_needed(crew, agent),
        )
        if len(self._roles) >= _ROLES_KEPT:  # a crew may have agents of any name
            self._roles.clear()
        self._roles[digest, name, at.kind] = role
        return role

    def _context(self, task: Claimed, role: Role, at: flow.Place, line: Line, read: Read) -> Context:
        stored = from_json(task.payload)
        payload = AgentTask.model_validate({**stored, "task_id": task.id, "agent_name": task.agent})
        run_id = task.run_id
        outputs, prompt = read.outputs, payload.prompt
        if read.asked is not None:
            prompt = prompts.compose_asked(role.agent.prompt, read.asked.prompt, read.inputs, outputs)
        else:
            outputs = {name: output for name, output in outputs.items() if name in role.reads}
            if at.kind in ("agent", "item", "synthesis"):
                named = steps_before.named(role, run_id, outputs, read.kept) if role.agent.prompt else outputs
                prompt = prompts.compose(role.agent.prompt, prompt, read.inputs, named, read.item)
        context = Context(
            crew=self._keys.crew,
            agent=role.runner.agent,
            task=payload,
            run_id=run_id,
            prompt=prompt,
            inputs=dict(read.inputs),
            outputs=dict(outputs),
            item=None if read.item is values.MISSING else read.item,
            tools=role.tools,
            logger=logs.of_agent(self._keys.crew, task.agent, run_id, task.id, task.attempt),
            deadline=self._clock.now() + timedelta(seconds=role.timeout),
            attempt=task.attempt,
            fence=int(task.fence),
            tell=partial(_tell_of_crew, role.crew, line),
            loop=asyncio.get_running_loop(),
            connect_messaging=self._connect_messaging,
            to_worker=line,
            spending=self._spending(task, role, payload) if role.runner.agent.model else None,
            demands=demands.of(role.plan).get(task.agent) if run_id is not None and at.kind == "agent" else None,
        )
        if at.kind in ("agent", "item"):  # others delegate nothing
            team.join(context, role.crew, task.step, line, read.asked.reviews if read.asked else "")
        return context

    def _spending(self, task: Claimed, role: Role, payload: AgentTask) -> TaskAccount:
        fired_by = payload.metadata.get("heartbeat")
        heartbeat = fired_by if isinstance(fired_by, str) else ""
        return self._account.of(task.id, task.fence, role.agent.agent_id, heartbeat)

    async def _plan(self, digest: str) -> flow.Plan:
        """Returns the definition of this digest, with what it says of steps."""
        if digest in self._plans:
            return self._plans[digest]
        async with self._loading:  # a hundred tasks of one claim ask at once
            if digest not in self._plans:
                loaded = await outages.persist(lambda: definitions.load(self._client, self._keys, digest))
                self._plans[digest] = flow.Plan(loaded)
                if len(self._plans) > _DEFINITIONS_KEPT:
                    oldest = next(iter(self._plans))
                    del self._plans[oldest]
                    self._roles = {key: role for key, role in self._roles.items() if key[0] != oldest}
            return self._plans[digest]


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
