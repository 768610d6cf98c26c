"""Checks and converts the arguments of the client's methods that submit work. Sends nothing."""

from __future__ import annotations

import contextlib
import math
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from pydantic import ValidationError

from watchbill.errors import InvalidInput, Problem
from watchbill.plan import submission
from watchbill.records import CrewDefinition
from watchbill.tasks import METADATA_MAX_ENTRIES, AgentTask, Durability, Priority

DEDUPE_MAX_SECONDS: Final = 10 * 365 * 86_400
COUNT_MAX: Final = 10**9
SECONDS_MAX: Final = 10**9


def mapping(value: Any, path: str) -> dict[str, Any]:
    """Returns the items of a mapping; none for None. Raises InvalidInput."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidInput(Problem(f"{repr(value)[:80]} is no mapping", "Give a dict.", path=path))
    return dict(value)


def listed(value: Any, path: str, of: str = "") -> list[Any]:
    """Returns the items of a list, a generator or the like. `of`: the items, for the error. Raises InvalidInput."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise InvalidInput(Problem(f"{repr(value)[:80]} is no list", f"Give a list{of and f' of {of}'}.", path=path))
    return list(value)


def count(value: Any, path: str, *, least: int = 1) -> int:
    """Returns a whole number, of `least` or more. Raises InvalidInput."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= COUNT_MAX:
        fix = f"Give a whole number from {least} to {COUNT_MAX:,}."
        raise InvalidInput(Problem(f"{repr(value)[:80]} is no such number", fix, path=path))
    return value


def timeout(value: Any) -> float | None:
    """Returns a time to wait in seconds; None: as long as it takes. Raises InvalidInput."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (is_number and 0 <= value <= SECONDS_MAX):
        fix = f"Give seconds, from 0 to {SECONDS_MAX:,}, or None to wait for as long as it takes."
        raise InvalidInput(Problem(f"{repr(value)[:80]} is no time to wait", fix, path="timeout"))
    return None if value is None else float(value)


def moment(value: Any, path: str) -> datetime | None:
    """Returns a time, with its zone, or None. Raises InvalidInput."""
    if value is not None and not isinstance(value, datetime):
        raise InvalidInput(Problem(f"{repr(value)[:80]} is no time", "Give an aware datetime.", path=path))
    if value is not None and value.tzinfo is None:
        raise InvalidInput(Problem(f"{value!r} has no time zone", "Give an aware datetime.", path=path))
    return value


def durability(value: Any) -> Durability | None:
    """Returns the safety that is asked for, which may be given by its name. Raises InvalidInput."""
    try:
        return None if value is None else Durability(value)
    except ValueError:
        fix = f"Give one of: {', '.join(Durability)}."
        raise InvalidInput(Problem(f"{repr(value)[:80]} is no durability", fix, path="durability")) from None


def check_each(tasks: Iterable[AgentTask]) -> None:
    """Checks each task by itself. Raises InvalidInput."""
    none: dict[str, str | None] = {}
    for i, task in enumerate(tasks):
        labels = none
        if task.user_id or task.session_id or task.crew_name or task.method_name:
            names = ("user_id", "session_id", "crew_name", "method_name")
            labels = {name: getattr(task, name) for name in names}
        if not submission.is_plain(task.prompt, task.task_id, task.metadata, labels):  # most are
            with naming(i):
                submission.check_own(task.prompt, task.task_id, task.metadata, labels)


def check_methods(crew: CrewDefinition, tasks: Iterable[AgentTask]) -> None:
    """Raises InvalidInput for a task that names a method where none is called: only bots of an AgentService, whose crew
    has an agent of any name, have methods of their own for tasks."""
    if crew.takes_any:
        return
    for i, task in enumerate(tasks):
        if task.method_name is not None:
            reason = (
                f"crew {crew.name!r} has agents, which run, and no bots whose method {task.method_name!r:.80} could be"
            )
            fix = "Remove it, and say in the prompt what is to be done, or name an agent for it."
            raise InvalidInput(Problem(f"{reason} called", fix, path=f"tasks[{i}].method_name"))


@contextlib.contextmanager
def naming(index: int) -> Iterator[None]:
    """Names the task, one of many, in the problems that the block raises."""
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput([replace(p, path=f"tasks[{index}].{p.path}") for p in error.problems]) from None


def task(given: object, agent: str | None, role: str | None, index: int) -> AgentTask:
    """The task with the agent, or the role, that it is for. Raises InvalidInput."""
    if not isinstance(given, str | AgentTask):
        fix = "Give AgentTasks, or prompts with agent= or role=."
        raise InvalidInput(Problem(f"a {type(given).__name__} is no task", fix, path=f"tasks[{index}]"))
    if isinstance(given, str):
        if agent is None and role is None:
            fix = "Say whose they are (agent=... or role=...), or give AgentTasks, which name their agents."
            raise InvalidInput(Problem("a prompt alone names no agent", fix, path=f"tasks[{index}]"))
        return AgentTask(task_id=uuid.uuid4().hex, agent_name=agent or "", prompt=given, role=role)
    named = {"agent_name": given.agent_name if agent is None else agent, "role": given.role if role is None else role}
    return given if named == {"agent_name": given.agent_name, "role": given.role} else given.model_copy(update=named)


def carrying(task: AgentTask, metadata: Mapping[str, Any]) -> AgentTask:
    """Returns the task with these metadata besides its own, which prevail, if it may have so many."""
    joined = {**metadata, **task.metadata}
    return task if len(joined) > METADATA_MAX_ENTRIES else task.model_copy(update={"metadata": joined})


def task_json(**fields: Any) -> tuple[str, Priority]:
    """The task as JSON, and its priority. Raises InvalidInput for a value of the wrong type."""
    try:
        made = AgentTask(**fields)
        return made.model_dump_json(exclude_defaults=True), made.priority
    except ValidationError as error:
        raise InvalidInput([_wrong(found) for found in error.errors()]) from None


def _wrong(found: Mapping[str, Any]) -> Problem:
    path = ".".join(map(str, found["loc"]))
    return Problem(f"{repr(found['input'])[:80]} can't be used: {found['msg']}", f"Correct {path}.", path=path)


def dedupe_ms(seconds: float) -> int:
    """The time of a dedupe key in milliseconds. Raises InvalidInput."""
    if not isinstance(seconds, int | float) or not 0.001 <= seconds <= DEDUPE_MAX_SECONDS:
        fix = f"Give 0.001 to {DEDUPE_MAX_SECONDS} seconds."
        raise InvalidInput(Problem(f"{seconds!r} is no window for a dedupe key", fix, path="dedupe_seconds"))
    return int(seconds * 1000)


def due(at: datetime | None, agent: str | None) -> int:
    """The time in milliseconds since 1970; 0: at once. Raises InvalidInput."""
    if moment(at, "scheduled_at") is None or at is None:
        return 0
    if agent is None:
        reason = "a run of a whole crew can't be scheduled for a time"
        raise InvalidInput(Problem(reason, "Schedule a task of one agent, or use a Heartbeat.", path="scheduled_at"))
    return max(math.ceil(at.timestamp() * 1000), 1)
