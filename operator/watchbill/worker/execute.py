"""One task from claim to result: definition, prompt, agent, timeout, and what is made of its end.

Knows nothing of leases and slots: the worker decides what is run, and cancels it.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import random
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

import redis.asyncio
from prometheus_client import Histogram
from pydantic_core import PydanticSerializationError

from watchbill import metrics
from watchbill.agents.context import Context
from watchbill.agents.loading import AgentLoader, Runner
from watchbill.agents.tools import Tool
from watchbill.connection import persist
from watchbill.errors import AgentNotLoadable
from watchbill.names import CrewKeys
from watchbill.plan import flow, prompts, retry
from watchbill.records import AgentDefinition, CrewDefinition, TaskPolicy
from watchbill.store import definitions, runs
from watchbill.store.queue import Claimed, Finished, Outcome, Wish
from watchbill.tasks import AgentTask, TaskResult, Usage
from watchbill.worker import failures
from watchbill.worker.redact import Redactor
from watchbill.worker.threads import run_in_thread

logger = logging.getLogger("watchbill.agent")

RESULT_MAX_BYTES: Final = 16 * 1024 * 1024
ERROR_MAX: Final = 16_000
MESSAGE_MAX: Final = 4000
CLEAN_UP_SECONDS: Final = 1.0
"""How long a cancelled agent may take to clean up when its worker ends."""
_DEFINITIONS_KEPT: Final = 16
_NOTHING: Final[Mapping[str, Any]] = {}

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
    run_time: Histogram


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
        self._cancelled: set[asyncio.Task[None]] = set()

    def must_read(self, task: Claimed) -> bool:
        """Whether something must be read before the task can begin."""
        if task.inputs:
            return True
        role = self._roles.get((task.definition, task.agent))
        return role is None or (bool(role.reads) and task.run_id is not None)

    async def read(self, task: Claimed) -> tuple[Mapping[str, str], Mapping[str, Any]]:
        """Inputs and earlier outputs. Raises NotFound for its definition, AgentNotLoadable."""
        inputs: Mapping[str, str] = {}
        outputs: Mapping[str, Any] = {}
        crew = await self._definition(task.definition)
        if task.attempt > crew.tasks.max_attempts:
            return inputs, outputs
        role = self._role(task, crew)
        if task.inputs:
            inputs = await persist(lambda: runs.inputs(self._client, self._keys, task.id, task.inputs))
        if role is not None and role.reads and (run_id := task.run_id) is not None:
            outputs = await persist(lambda: runs.outputs(self._client, self._keys, run_id, role.reads))
        return inputs, outputs

    def begin(
        self,
        task: Claimed,
        say: Say,
        over: Callable[[Finished], None],
        inputs: Mapping[str, str] = _NOTHING,
        outputs: Mapping[str, Any] = _NOTHING,
    ) -> Running | None:
        """Begins a task for which all is read. `over` is told its end, once, whatever happens to the agent.

        Raises AgentNotLoadable when this worker doesn't have the agent. None: it is over already.
        """
        crew = self._definitions[task.definition]
        policy = crew.tasks
        if task.attempt > policy.max_attempts:
            why = f"given up: its worker died {task.attempt - 1} times while it ran (maxAttempts {policy.max_attempts})"
            over(self._finished(task, "dead", policy, error=why))
            return None
        role = self._role(task, crew)
        if role is None:
            why = f"agent {task.agent!r} is not in crew {self._keys.crew!r}"
            over(self._finished(task, "failed", policy, error=why))
            return None
        try:
            context = self._context(task, role, say, inputs, outputs)
        except (KeyError, ValueError) as failure:
            over(self._finished(task, "failed", policy, error=f"no prompt for {task.agent!r}: {failure}"))
            return None
        return Running(self, task, role, context, over)

    def failed(self, task: Claimed, error: Exception) -> Finished:
        """The end of a task that could not begin."""
        return self._finished(task, "failed", TaskPolicy(), error=str(error))

    def leave(self, call: asyncio.Task[None]) -> None:
        """Nobody waits for this call of an agent any more."""
        self._cancelled.add(call)
        call.add_done_callback(self._cancelled.discard)

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

    def _role(self, task: Claimed, crew: CrewDefinition) -> _Role | None:
        """Raises AgentNotLoadable; None when the crew has no such agent."""
        digest, name = task.definition, task.agent
        if role := self._roles.get((digest, name)):
            return role
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
            run_time=metrics.TASK_RUN.labels(self._keys.crew, name),
        )
        self._roles[digest, name] = role
        return role

    def _context(
        self, task: Claimed, role: _Role, say: Say, inputs: Mapping[str, str], outputs: Mapping[str, Any]
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
            definition=task.definition,
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

    def broken(self, task: Claimed, failure: Exception) -> Finished:
        """The end of a task that we ourselves couldn't run."""
        error = self._presentable(_describe(failure))
        result = TaskResult(task_id=task.id, agent_name=task.agent, success=False, error=error, attempt=task.attempt)
        return Finished(
            task, "failed", result.model_dump_json(), message=error[:MESSAGE_MAX], definition=task.definition
        )

    def _presentable(self, error: str) -> str:
        """Without secrets, of bounded length, and as UTF-8 can say it."""
        return self._redact(error)[:ERROR_MAX].encode("utf-8", "replace").decode()

    def end(self, running: Running, failure: Exception | None, output: Any, seconds: float) -> Finished:
        """The end of a task whose agent has run, and raised `failure` or returned `output`."""
        role, usage = running.role, running.context.usage
        error: str | None = None
        if isinstance(failure, _TimedOut):
            error = str(failure)
        elif failure is not None:
            logger.info("task %s of %s failed", running.task.id, self._keys.crew, exc_info=failure)
            error = _describe(failure)
        outcome: Outcome = "completed"
        policy = role.crew.tasks
        if failure is not None:
            judged = failures.judge(failure, datetime.now(UTC))  # noqa: TID251 - shell
            wait = retry.pause(
                judged,
                running.task.attempt,
                max_attempts=policy.max_attempts,
                base_seconds=policy.backoff_seconds,
                chance=random.random(),
            )
            if wait is not None:
                return self._again(running.task, error or "", wait)
            outcome = "dead" if judged.worth_retrying and policy.max_attempts > 1 else "failed"
        role.run_time.observe(seconds)
        if usage is not None and usage.total_tokens:
            metrics.TOKENS.labels(self._keys.crew, role.agent.agent_id, "input").inc(usage.input_tokens)
            metrics.TOKENS.labels(self._keys.crew, role.agent.agent_id, "output").inc(usage.output_tokens)
        finished = self._finished(
            running.task, outcome, policy, output=output, error=error, usage=usage, ms=seconds * 1000
        )
        if outcome == "dead" and failure is not None:
            return replace(finished, detail=self._presentable(_traceback(failure)))
        return finished

    def _again(self, task: Claimed, error: str, seconds: float) -> Finished:
        """The end of an attempt that another follows."""
        told = f"attempt {task.attempt} failed: {self._presentable(error)}; the next is in {seconds:.1f} s"
        return Finished(
            task, "retry", "", told[:MESSAGE_MAX], ttl_ms=math.ceil(seconds * 1000), definition=task.definition
        )


def _traceback(failure: BaseException) -> str:
    """The last frames, as a person reads them."""
    text = "".join(traceback.format_exception(failure))
    return text if len(text) <= ERROR_MAX else "…" + text[-ERROR_MAX + 1 :]


class Running:
    """A task whose agent runs, in an asyncio task of its own."""

    __slots__ = ("_begun", "_executor", "_handle", "_over", "_timer", "context", "role", "task")

    def __init__(
        self,
        executor: Executor,
        task: Claimed,
        role: _Role,
        context: Context,
        over: Callable[[Finished], None],
    ) -> None:
        self._executor = executor
        self.task = task
        self.role = role
        self.context = context
        self._over: Callable[[Finished], None] | None = over
        loop = asyncio.get_running_loop()
        self._begun = time.perf_counter()
        self._timer = loop.call_later(role.timeout, self._time_out)
        self._handle = loop.create_task(self._run(), name=f"task {task.id}")

    def cancel(self) -> None:
        """Its end is nobody's concern any more. The agent may take its time: it holds up neither slot nor exit."""
        self._over = None
        self._timer.cancel()
        if not self._handle.done():
            self._handle.cancel()
            self._executor.leave(self._handle)

    def stop(self, outcome: Literal["cancelled", "interrupted"], seconds: float) -> None:
        """Asks the agent to stop; tells its end once it has, or after `seconds`. What it returns before that counts."""
        if self._over is None:
            return
        self._timer.cancel()
        over = self._over

        def end(_: object = None) -> None:
            if self._over is over:
                self.cancel()
                ttl_ms = self.role.crew.tasks.result_ttl_seconds * 1000
                over(Finished(self.task, outcome, "", ttl_ms=ttl_ms, definition=self.task.definition))

        self._timer = asyncio.get_running_loop().call_later(seconds, end)
        self._handle.cancel()
        self._handle.add_done_callback(end)

    async def _run(self) -> None:
        try:
            output = await _call(self.role, self.context)
        except Exception as failure:
            self._end(failure)
        else:
            self._end(None, output)

    def _time_out(self) -> None:
        over = self._over
        self.cancel()
        self._over = over
        self._end(_TimedOut(f"timed out after {self.role.timeout:g} s"))

    def _end(self, failure: Exception | None, output: Any = None) -> None:
        over, self._over = self._over, None
        if over is None:  # cancelled, or timed out before
            return
        self._timer.cancel()
        seconds = time.perf_counter() - self._begun
        try:
            finished = self._executor.end(self, failure, output, seconds)
        except Exception as fault:  # our own: still the task's end, and told in full
            logger.exception("the end of task %s could not be told", self.task.id)
            finished = self._executor.broken(self.task, fault)
        over(finished)


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


STOPPED: Final[Mapping[Wish, Literal["cancelled", "interrupted"]]] = {"cancel": "cancelled", "interrupt": "interrupted"}
"""What a task is that was stopped because somebody wished so."""


def stopped(task: Claimed, wish: Wish, ttl_ms: int) -> Finished:
    """The end of a task that somebody wanted to stop before it began."""
    return Finished(task, STOPPED[wish], "", ttl_ms=ttl_ms, definition=task.definition)


def unloadable(task: Claimed, error: AgentNotLoadable) -> str:
    """What the feed says of a parked task."""
    return f"AgentUnavailable: {error}. Task {task.id!r} waits for a worker that has it"


def _describe(failure: BaseException) -> str:
    text = str(failure)
    return f"{type(failure).__name__}: {text}" if text else type(failure).__name__


def refused(finished: Finished) -> Finished:
    """In place of a result that the store refuses."""
    error = "the store refused its result"
    task = finished.task
    result = TaskResult(task_id=task.id, agent_name=task.agent, success=False, error=error, attempt=task.attempt)
    return replace(finished, outcome="dead", result=result.model_dump_json(), message=error)
