"""Runs of a whole crew, and reading what became of runs and tasks.

A run is a graph of steps, one hash field each; the script that ends a step advances it (store/scripts/lib_runs.lua).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import redis.asyncio
from pydantic import ValidationError
from pydantic_core import from_json

from watchbill.connection import outages, scripts
from watchbill.connection.gathering import Reads
from watchbill.errors import Conflict, InvalidInput, NewerRecord, NotFound, Problem
from watchbill.names import CrewKeys, split_step_id
from watchbill.plan import flow, values
from watchbill.records import ExecutionMode
from watchbill.store import durability as durable
from watchbill.store import packed, refusals
from watchbill.store.queue import BATCH
from watchbill.tasks import (
    RUN_TERMINAL,
    TERMINAL,
    AgentTask,
    Durability,
    Priority,
    RunResult,
    RunState,
    RunStatus,
    StepStatus,
    TaskResult,
    TaskState,
    Usage,
)

_CANCELLED: Final = (RunState.CANCELLING, RunState.CANCELLED)
_KEPT: Final = "a finished one is kept for tasks.resultTTLSeconds, within tasks.maxResults"


@dataclass(frozen=True, slots=True)
class RunSubmission:
    """A run to be started."""

    id: str
    payload: str
    """An AgentTask without an agent, as JSON: prompt, user, session, metadata."""
    digest: str
    """The definition that the run keeps."""
    mode: ExecutionMode
    steps: Sequence[flow.Step]
    parallel: int
    priority: Priority = Priority.NORMAL
    inputs: Mapping[str, str] = field(default_factory=dict)
    dedupe_key: str = ""
    dedupe_ms: int = 0
    work: str = ""
    """A digest of what is to be done: an id that is there stands for the same work only if this agrees."""
    deliver: str = ""  # the destinations of its result (packed.pack_deliver)


def script_call(
    keys: CrewKeys, uid: str, run: RunSubmission, max_queued: int, reply_to: str
) -> list[tuple[list[str], list[Any]]]:
    """(KEYS, ARGV) of the calls that create this run: one for each 500 steps, the last of which starts it."""
    task = keys.task(run.id)
    names = [*keys.fixed, keys.run(run.id), keys.run_steps(run.id), task, keys.run_events(run.id)]
    names.append(keys.dedupe(run.dedupe_key) if run.dedupe_key else task)
    window = run.dedupe_ms if run.dedupe_key else 0
    calls: list[tuple[list[str], list[Any]]] = []
    for start in range(0, len(run.steps), BATCH):
        is_last = start + BATCH >= len(run.steps)
        own = [uid, keys.crew, max_queued, window, int(is_last), len(run.steps)]
        calls.append((names, [*own, *script_args(run, start, reply_to)]))
    return calls


def script_args(run: RunSubmission, start: int, reply_to: str) -> list[Any]:
    """The run and up to 500 of its steps, as read_run in store/scripts/lib_new_runs.lua reads them."""
    inputs = run.inputs if start == 0 else {}
    args = [run.id, int(run.priority), run.payload, run.digest, run.work, run.mode.value, run.parallel, reply_to]
    args += [run.deliver, " ".join(inputs), len(inputs), *(text for item in inputs.items() for text in item)]
    part = run.steps[start : start + BATCH]
    args.append(len(part))
    for index, step in enumerate(part, start):
        left = len(step.after) + (step.kind == "synthesis")  # which begins when all else has ended
        marks = packed.pack_marks(lenient=step.lenient, kind=step.kind)
        args += [step.name, step.agent, index, left, packed.pack_ids(step.successors), marks]
        args.append(packed.pack_ids(step.reads))
    return args


async def submit(
    client: redis.asyncio.Redis,
    keys: CrewKeys,
    uid: str,
    run: RunSubmission,
    *,
    max_queued: int,
    reply_to: str = "",
    durability: Durability | None = None,
) -> str:
    """Starts a run; returns its id (another's where the dedupe key was already used).

    An id that is already there, with the same `work`, is the same run: nothing is added; one whose creation was
    interrupted is completed. Raises QueueFull, InvalidInput when it could never find room, Conflict when the id belongs
    to a task or to other work, CrewGone, QuotaExceeded, Closed, DefinitionChanged, NotDurable.
    """
    calls = script_call(keys, uid, run, max_queued, reply_to)
    done = 0
    while done < len(calls):
        names, args = calls[done]
        if durability is None:
            with outages.translated():
                reply = await scripts.run(client, "submit_run", names, args)
        else:
            reply = await durable.run_script(client, "submit_run", names, args, durability, [run.id])
        if reply[0] == "full" and len(run.steps) > max_queued:
            reason = f"a run of crew {keys.crew!r} has {len(run.steps)} steps, and tasks.maxQueued is {max_queued}"
            raise InvalidInput(Problem(reason, "Raise tasks.maxQueued of the crew.", path="tasks.maxQueued"))
        refusals.check(keys, reply, digest=run.digest, max_queued=max_queued)
        if reply[1] == "conflict":
            raise Conflict(f"{run.id!r} is the id of a task of crew {keys.crew!r}; choose another")
        if reply[1] == "other":
            raise refusals.other_work(keys, run.id)
        if reply[1].startswith("duplicate:"):
            return str(reply[1].removeprefix("duplicate:"))
        if reply[1] == "exists":
            break
        done = 0 if reply[1] == "torn" else done + 1  # torn: a failover lost some of what was stored before
    return run.id


async def status(client: redis.asyncio.Redis, keys: CrewKeys, run_id: str) -> RunStatus:
    """The run and its steps as they are now. Raises NotFound, NewerRecord."""
    with outages.translated():
        names = [*keys.fixed, keys.run(run_id), keys.run_steps(run_id)]
        state, submitted, finished, flat = await scripts.run(client, "run", names, [])
    if state is None:
        raise NotFound(f"crew {keys.crew!r} has no run {run_id!r} ({_KEPT})")
    with readable(keys, run_id):
        return RunStatus(
            run_id=run_id,
            crew=keys.crew,
            status=RunState(state),
            submitted_at=time_of(submitted) or datetime.fromtimestamp(0, UTC),
            finished_at=time_of(finished),
            steps=steps_of(dict(packed.rows(flat, 2)), over=RunState(state) in RUN_TERMINAL),
        )


async def state(client: redis.asyncio.Redis, keys: CrewKeys, task_id: str) -> RunState | TaskState:
    """Returns the state of the run, the step (`run/step`) or the task of this id. Raises NotFound, NewerRecord."""
    if step := split_step_id(task_id):
        for known in (await status(client, keys, step[0])).steps:
            if known.name == step[1]:
                return known.status
        raise not_found(keys, task_id)
    with outages.translated():
        async with client.pipeline(transaction=False) as pipe:
            pipe.hget(keys.run(task_id), "state")
            pipe.hget(keys.task(task_id), "state")
            run_state, task_state = await pipe.execute()
    if run_state is None and task_state is None:
        raise not_found(keys, task_id)
    with readable(keys, task_id):
        return TaskState(task_state) if run_state is None else RunState(run_state)


async def subscribe(client: redis.asyncio.Redis, keys: CrewKeys, task_id: str, channel: str) -> bool:
    """Has whoever ends this run or task say so on `channel`. False: it has ended, or isn't there."""
    names = [*keys.fixed, keys.task(task_id), keys.run(task_id)]
    with outages.translated():
        return bool(await scripts.run(client, "subscribe", names, [channel]) == "ok")


async def result(client: redis.asyncio.Redis, keys: CrewKeys, task_id: str) -> RunResult | TaskResult | None:
    """Returns the result of the run, the step (`run/step`) or the task of this id; None before its end. One that can't
    be read is a result without success that says so. Raises NotFound."""
    if step := split_step_id(task_id):
        with outages.translated():
            stored = await client.hget(keys.run_results(step[0]), step[1])
        if stored:
            return _result(stored, task_id)
        try:
            run = await status(client, keys, step[0])
        except NotFound:
            raise not_found(keys, task_id) from None
        now = {s.name: s for s in run.steps}
        if step[1] not in now:
            raise not_found(keys, task_id)
        if now[step[1]].status is not TaskState.SKIPPED:
            return None
        why = "the run was cancelled" if run.status in _CANCELLED else "something before it failed"
        error = f"skipped: {'its condition (when) does not hold' if now[step[1]].is_passed_over else why}"
        return TaskResult(task_id=task_id, agent_name=now[step[1]].agent, success=False, error=error, attempt=0)
    with outages.translated():
        task_state, stored = await client.hmget(keys.task(task_id), ["state", "result"])
        if task_state is not None:
            return await _task_result(client, keys, stored, task_id) if task_state in TERMINAL else None
        known: Any = await client.hmget(keys.run(task_id), ["state", "submitted", "finished", "why"])
    run_state, submitted, finished, why = known
    if run_state is None:
        raise not_found(keys, task_id)
    if run_state not in RUN_TERMINAL:
        return None
    state = RunState(run_state)
    try:
        with readable(keys, task_id):
            times = time_of(submitted), time_of(finished)
        return await _run_result(client, keys, task_id, state, *times, why or "")
    except NewerRecord as error:
        return RunResult(run_id=task_id, crew=keys.crew, status=state, error=str(error))


async def _task_result(client: redis.asyncio.Redis, keys: CrewKeys, stored: Any, task_id: str) -> TaskResult:
    ended = _result(stored, task_id)
    if ended.cancelled:  # by a script, which could not read the task's metadata
        payload = await client.hget(keys.task(task_id), "payload")
        with suppress(ValueError):
            return ended.model_copy(update={"metadata": AgentTask.model_validate_json(payload or "").metadata})
    return ended


async def _run_result(
    client: redis.asyncio.Redis,
    keys: CrewKeys,
    run_id: str,
    state: RunState,
    submitted: datetime | None,
    finished: datetime | None,
    why: str,
) -> RunResult:
    with outages.translated():
        async with client.pipeline(transaction=False) as pipe:  # it has ended, and a replay alone changes that
            pipe.hgetall(keys.run_steps(run_id))
            pipe.hgetall(keys.run_results(run_id))
            graph, stored = await pipe.execute()
    with readable(keys, run_id):
        steps = steps_of(graph, over=True)
    results = {s.name: _result(stored[s.name], f"{run_id}/{s.name}", s.agent) for s in steps if s.name in stored}
    outputs = {name: r.output for name, r in results.items() if r.success}
    delegated = {s.name for s in steps if s.kind == "delegated"}  # whose failures are those of who delegated
    errors = [f"{name}: {r.error}" for name, r in results.items() if not r.success and name not in delegated]
    if state is RunState.CANCELLED and not errors:
        errors = [f"cancelled: {why}" if why else "cancelled"]
    return RunResult(
        run_id=run_id,
        crew=keys.crew,
        status=state,
        output=flow.output(steps, outputs),
        error="\n".join(errors) or None,
        steps=results,
        skipped=tuple(s.name for s in steps if s.status is TaskState.SKIPPED),
        passed_over=tuple(s.name for s in steps if s.is_passed_over),
        usage=sum((r.usage for r in results.values() if r.usage), Usage()),
        # the store's clock may have gone back meanwhile
        execution_time_ms=max((finished - submitted).total_seconds(), 0) * 1000 if submitted and finished else 0.0,
        finished_at=finished,
    )


async def outputs(client: Reads, keys: CrewKeys, run_id: str, steps: Sequence[str]) -> dict[str, Any]:
    """Returns the outputs of these steps of a run, in the order asked; of one that failed, an error value
    (`plan/values.py:error`). Steps without a result are left out.

    Raises NotFound when one can't be read.
    """
    if not steps:
        return {}
    with outages.translated():
        stored = await client.hmget(keys.run_results(run_id), list(steps))
    found = {}
    for name, text in zip(steps, stored, strict=True):
        if text is None:
            continue
        with suppress(ValueError, TypeError):
            found[name] = completed(text)
            continue
        result = _result(text, f"{run_id}/{name}")
        if isinstance(result, _Unreadable):
            raise NotFound(f"step {name!r} of run {run_id!r} has no output that can be read: {result.error}")
        found[name] = result.output if result.success else values.error(name, result)
    return found


def completed(stored: str | bytes) -> Any:
    """Returns the output of a result as it is stored. Raises ValueError and TypeError for one without success, and for
    what is none."""
    whole = from_json(stored)  # takes a twentieth of the model's time, which only an error needs
    if not isinstance(whole, dict) or whole.get("success") is not True:
        raise ValueError("it is no result of a step that has completed")
    return whole.get("output")


async def inputs(client: Reads, keys: CrewKeys, task_id: str, names: Sequence[str]) -> dict[str, str]:
    """The inputs of a run or task."""
    if not names:
        return {}
    step = split_step_id(task_id)
    fields = [f"input:{name}" for name in names]
    with outages.translated():
        values = await client.hmget(keys.run(step[0] if step else task_id), fields)
        if step is None and not any(values):
            values = await client.hmget(keys.task(task_id), fields)
    return {name: str(value) for name, value in zip(names, values, strict=True) if value is not None}


async def prompt_of(client: redis.asyncio.Redis, keys: CrewKeys, task_id: str) -> str | None:
    """Returns the prompt of a run or task; None where there is no such record, or none that can be read."""
    with outages.translated():
        payload = await client.hget(keys.run(task_id), "payload") or await client.hget(keys.task(task_id), "payload")
    try:
        return AgentTask.model_validate_json(payload).prompt if payload else None
    except ValueError:
        return None


class _Unreadable(TaskResult):
    """Stands for a result that can't be read."""


def _result(stored: str | bytes | None, task_id: str, agent: str = "") -> TaskResult:
    """A result as it is stored. One that can't be read is one without success that says so."""
    if stored is None:
        why = "there is none beside the record"
    else:
        try:
            return TaskResult.model_validate_json(stored)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            why = f"{place}: {first['msg']}" if place else first["msg"]
        except ValueError as error:  # no text
            why = str(error)[:200]
    reason = f"its result in the store can't be read ({why}): another version wrote it, or it is damaged"
    return _Unreadable(task_id=task_id, agent_name=agent, success=False, error=reason)


@contextmanager
def readable(keys: CrewKeys, task_id: str) -> Iterator[None]:
    """Raises NewerRecord for what can't be read within the block."""
    try:
        yield
    except (ValueError, LookupError, TypeError, OverflowError) as error:
        raise NewerRecord(
            f"the record of {task_id!r} of crew {keys.crew!r} can't be read ({str(error)[:200]}): a newer version of "
            "Watchbill wrote it, or it is damaged"
        ) from error


async def definition_of(client: redis.asyncio.Redis, keys: CrewKeys, run_id: str) -> str:
    """The digest of the definition that the run goes by; empty where there is no such run."""
    with outages.translated():
        return str(await client.hget(keys.run(run_id), "def") or "")


def steps_of(graph: Mapping[str, str], *, over: bool) -> tuple[StepStatus, ...]:
    steps = {name: packed.Step.unpack(text) for name, text in graph.items()}
    after: dict[str, list[str]] = {name: [] for name in steps}
    for name, step in sorted(steps.items(), key=lambda item: item[1].index):
        for successor in step.successors:
            if successor in after:  # else the run is being created, and its part isn't here yet
                after[successor].append(name)
    found = []
    for name, step in steps.items():
        now = TaskState(step.state)
        if over and now not in TERMINAL:
            now = TaskState.SKIPPED  # behind a failed step: never reached, so never visited
        found.append(
            StepStatus(
                name=name,
                agent=step.agent,
                status=now,
                index=step.index,
                after=tuple(after[name]),
                attempt=step.attempt,
                started_at=time_of(step.started_ms),
                finished_at=time_of(step.finished_ms),
                tokens=step.usage.total_tokens if step.usage else 0,
                kind=step.kind,
            )
        )
    return tuple(sorted(found, key=lambda s: s.index))


def time_of(ms: str | int | None) -> datetime | None:
    return datetime.fromtimestamp(int(ms) / 1000, UTC) if ms and int(ms) else None


def not_found(keys: CrewKeys, task_id: str) -> NotFound:
    """There is neither a run nor a task of this id."""
    return NotFound(f"crew {keys.crew!r} has no run or task {task_id!r} ({_KEPT})")
