"""One task from claim to result: definition, prompt, agent, timeout, and what is made of its end.

Knows nothing of leases and slots: the worker decides what is run, and cancels it.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import redis.asyncio
from pydantic_core import PydanticSerializationError

from watchbill import metrics
from watchbill.agents.context import Context
from watchbill.agents.loading import AgentLoader, Runner
from watchbill.agents.tools import Tool
from watchbill.connection import persist
from watchbill.errors import AgentNotLoadable, NotFound
from watchbill.names import CrewKeys
from watchbill.plan import flow, prompts
from watchbill.records import AgentDefinition, CrewDefinition, TaskPolicy
from watchbill.store import definitions, runs
from watchbill.store.queue import Claimed, Finished, Outcome, Started
from watchbill.tasks import AgentTask, TaskResult, Usage
from watchbill.worker.redact import Redactor
from watchbill.worker.threads import run_in_thread

logger = logging.getLogger("watchbill.agent")

RESULT_MAX_BYTES: Final = 16 * 1024 * 1024
ERROR_MAX: Final = 16_000
MESSAGE_MAX: Final = 4000
CLEAN_UP_SECONDS: Final = 1.0
"""How long a cancelled agent may take to clean up when its worker ends."""
_DEFINITIONS_KEPT: Final = 16

Say = Callable[[str], Awaitable[None]]


class _TimedOut(Exception):
    """The agent took longer than it may."""


@dataclass(frozen=True, slots=True)
class _Role:
    """What is the same for every task of one agent under one definition."""

    crew: CrewDefinition
    agent: AgentDefinition
    runner: Runner
    tools: Mapping[str, Tool]
    reads: tuple[str, ...]
    """Steps whose outputs it is given."""
    timeout: float


class Executor:
    """Runs tasks of one crew."""

    def __init__(self, client: redis.asyncio.Redis, keys: CrewKeys, loader: AgentLoader, redact: Redactor) -> None:
        self._client = client
        self._keys = keys
        self._loader = loader
        self._redact = redact
        self._definitions: dict[str, CrewDefinition] = {}
        self._roles: dict[tuple[str, str], _Role] = {}
        self._loading = asyncio.Lock()
        self._cancelled: set[asyncio.Task[Any]] = set()
        self._wait = metrics.TASK_WAIT.labels(keys.crew)

    async def run(self, task: Claimed, started: Started, say: Say) -> Finished:
        """The task's end, whatever happens to the agent.

        Raises AgentNotLoadable when this worker doesn't have the agent, CancelledError when cancelled.
        """
        try:
            crew = await self._definition(started.definition)
        except NotFound as failure:
            return self._finished(task, started, "failed", TaskPolicy(), error=str(failure))
        policy = crew.tasks
        if task.attempt > policy.max_attempts:
            why = f"given up: its worker died {task.attempt - 1} times while it ran (maxAttempts {policy.max_attempts})"
            return self._finished(task, started, "dead", policy, error=why)
        role = self._roles.get((started.definition, task.agent)) or self._learn(started.definition, crew, task.agent)
        if role is None:
            why = f"agent {task.agent!r} is not in crew {self._keys.crew!r}"
            return self._finished(task, started, "failed", policy, error=why)
        self._wait.observe(max(time.time() - task.queued_ms / 1000, 0))  # noqa: TID251 - shell
        try:
            context = await self._context(task, started, role, say)
        except (KeyError, ValueError) as failure:
            return self._finished(task, started, "failed", policy, error=f"no prompt for {task.agent!r}: {failure}")
        begin = time.perf_counter()
        outcome: Outcome = "failed"
        output: Any = None
        error: str | None = None
        try:
            output = await self._limited(role, context)
            outcome = "completed"
        except _TimedOut:
            error = f"timed out after {role.timeout:g} s"
        except Exception as failure:
            logger.info("task %s of %s failed", task.id, self._keys.crew, exc_info=True)
            error = _describe(failure)
        usage = context.usage or Usage()
        took = time.perf_counter() - begin
        self._count(task, usage, took)
        return self._finished(task, started, outcome, policy, output=output, error=error, usage=usage, ms=took * 1000)

    async def _limited(self, role: _Role, context: Context) -> Any:
        """What the agent returns. Raises _TimedOut, and whatever the agent raises, as an Exception.

        The agent is a task of its own: one that swallows its cancellation must hold up neither its slot nor our end.
        """
        call = asyncio.create_task(_call(role, context))
        try:
            done, _ = await asyncio.wait({call}, timeout=role.timeout)
        except asyncio.CancelledError:
            call.cancel()
            self._leave(call)
            raise
        if not done:
            call.cancel()
            self._leave(call)
            raise _TimedOut
        return call.result()

    def _leave(self, call: asyncio.Task[Any]) -> None:
        self._cancelled.add(call)
        call.add_done_callback(self._cancelled.discard)
        call.add_done_callback(lambda done: done.cancelled() or done.exception())  # told already

    async def close(self) -> None:
        """Gives cancelled agents a moment to clean up; then those that swallowed it are ended where they stand."""
        if not self._cancelled:
            return
        _, stubborn = await asyncio.wait(self._cancelled, timeout=CLEAN_UP_SECONDS)
        for call in stubborn:
            logger.warning("an agent swallows its cancellation: let CancelledError pass, after cleaning up")
            with suppress(RuntimeError, ValueError):  # it swallows even this, or is just running
                call.get_coro().close()
            call.cancel()

    def _learn(self, digest: str, crew: CrewDefinition, name: str) -> _Role | None:
        """Raises AgentNotLoadable; None when the crew has no such agent."""
        agent = crew.agent(name)
        if agent is None:
            return None
        known = crew.agent_ids()
        cited = [known[cited] for cited in prompts.references(agent.prompt or "")[1] if cited in known]
        role = _Role(
            crew=crew,
            agent=agent,
            runner=self._loader.load(crew, agent),
            tools=self._loader.tools(crew, agent),
            reads=tuple(flow.reads(crew, agent, flow.steps(crew), cited)),
            timeout=agent.timeout_seconds or crew.tasks.timeout_seconds,
        )
        self._roles[digest, name] = role
        return role

    async def _context(self, task: Claimed, started: Started, role: _Role, say: Say) -> Context:
        payload = AgentTask.model_validate_json(started.payload)
        inputs: dict[str, str] = {}
        outputs: dict[str, Any] = {}
        if started.inputs:
            inputs = await persist(lambda: runs.inputs(self._client, self._keys, task.id, started.inputs))
        if task.run_id is not None and role.reads:
            run_id = task.run_id
            outputs = await persist(lambda: runs.outputs(self._client, self._keys, run_id, role.reads))
        named = outputs
        if role.agent.prompt:  # templates may cite effective names too
            named = outputs | {a.effective_name: outputs[a.agent_id] for a in role.crew.agents if a.agent_id in outputs}
        return Context(
            crew=self._keys.crew,
            agent=role.agent,
            task=payload.model_copy(update={"task_id": task.id, "agent_name": task.agent}),
            run_id=task.run_id,
            prompt=prompts.compose(role.agent.prompt, payload.prompt, inputs, named),
            inputs=inputs,
            outputs=outputs,
            tools=role.tools,
            logger=logging.LoggerAdapter(logger, {"crew": self._keys.crew, "agent": task.agent, "task": task.id}),
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
                loaded = await persist(lambda: definitions.load(self._client, self._keys, digest))
                self._definitions[digest] = loaded
                if len(self._definitions) > _DEFINITIONS_KEPT:
                    oldest = next(iter(self._definitions))
                    del self._definitions[oldest]
                    self._roles = {key: role for key, role in self._roles.items() if key[0] != oldest}
            return self._definitions[digest]

    def _finished(
        self,
        task: Claimed,
        started: Started,
        outcome: Outcome,
        policy: TaskPolicy,
        *,
        output: Any = None,
        error: str | None = None,
        usage: Usage | None = None,
        ms: float = 0.0,
    ) -> Finished:
        error = self._presentable(error) if error else None
        try:
            text = self._result(task, outcome, output, error, usage, ms)
            if len(text) * 4 > RESULT_MAX_BYTES and (size := len(text.encode())) > RESULT_MAX_BYTES:
                raise ValueError(f"{size} bytes are more than {RESULT_MAX_BYTES}: return a reference instead")
        except (PydanticSerializationError, ValueError, RecursionError) as failure:
            outcome = "failed"
            why = self._presentable(_describe(failure))
            error = f"what agent {task.agent!r} returned can't be stored as JSON: {why}"
            text = self._result(task, outcome, None, error, usage, ms)
        return Finished(
            task,
            outcome,
            text,
            message=(error or "")[:MESSAGE_MAX],
            tokens=usage.total_tokens if usage else 0,
            ttl_ms=policy.result_ttl_seconds * 1000,
            definition=started.definition,
        )

    def _result(
        self, task: Claimed, outcome: Outcome, output: Any, error: str | None, usage: Usage | None, ms: float
    ) -> str:
        result = TaskResult(
            task_id=task.id,
            agent_name=task.agent,
            success=outcome == "completed",
            output=output,
            error=error,
            execution_time_ms=round(ms, 3),
            usage=usage if usage and (usage.requests or usage.total_tokens) else None,
            attempt=task.attempt,
            completed_at=datetime.now(UTC),  # noqa: TID251 - shell
        )
        return result.model_dump_json()

    def _presentable(self, error: str) -> str:
        """Without secrets, of bounded length, and as UTF-8 can say it."""
        return self._redact(error)[:ERROR_MAX].encode("utf-8", "replace").decode()

    def _count(self, task: Claimed, usage: Usage, seconds: float) -> None:
        metrics.TASK_RUN.labels(self._keys.crew, task.agent).observe(seconds)
        if usage.total_tokens:
            metrics.TOKENS.labels(self._keys.crew, task.agent, "input").inc(usage.input_tokens)
            metrics.TOKENS.labels(self._keys.crew, task.agent, "output").inc(usage.output_tokens)


async def _call(role: _Role, context: Context) -> Any:
    try:
        if role.runner.is_async:
            return await role.runner.run(context)
        output = await run_in_thread(role.runner.run, context)
        return await output if inspect.isawaitable(output) else output  # a decorator may hide that it is async
    except Exception:
        raise
    except BaseException as failure:
        me = asyncio.current_task()
        if isinstance(failure, asyncio.CancelledError) and me is not None and me.cancelling():
            raise
        # SystemExit and the like, and a CancelledError of the agent's own, end the task, not the worker.
        raise RuntimeError(_describe(failure)) from failure


def missing(task: Claimed) -> Finished:
    """The end of a task whose record isn't there: nothing says what it should do."""
    error = "it has no record, so nothing says what to do"
    result = TaskResult(task_id=task.id, agent_name=task.agent, success=False, error=error, attempt=task.attempt)
    return Finished(task, "dead", result.model_dump_json(), message=error)


def unloadable(task: Claimed, error: AgentNotLoadable) -> str:
    """What the feed says of a parked task."""
    return f"AgentUnavailable: {error}. Task {task.id!r} waits for a worker that has it"


def _describe(failure: BaseException) -> str:
    text = str(failure)
    return f"{type(failure).__name__}: {text}" if text else type(failure).__name__


def broken(task: Claimed, started: Started, error: str) -> Finished:
    """The end of a task that we ourselves couldn't run."""
    result = TaskResult(task_id=task.id, agent_name=task.agent, success=False, error=error, attempt=task.attempt)
    return Finished(
        task, "failed", result.model_dump_json(), message=error[:MESSAGE_MAX], definition=started.definition
    )


def refused(finished: Finished) -> Finished:
    """In place of a result that the store refuses."""
    error = "the store refused its result"
    task = finished.task
    result = TaskResult(task_id=task.id, agent_name=task.agent, success=False, error=error, attempt=task.attempt)
    return replace(finished, outcome="dead", result=result.model_dump_json(), message=error)
