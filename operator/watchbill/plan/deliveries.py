"""The destinations of results, the content of a delivery, and its pauses. Pure: what is random is an argument."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from watchbill.api.delivery import DESTINATIONS_MAX, Destination
from watchbill.errors import InvalidInput, Problem
from watchbill.plan.retry import ASKED_MAX_SECONDS
from watchbill.records import CrewDefinition
from watchbill.tasks import RunResult, TaskResult

SCHEDULE_SECONDS: Final = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 36_000.0, 36_000.0, 36_000.0)
"""Pauses between the attempts of a delivery: ten attempts in about two days."""
SPREAD: Final = 0.2
"""A pause is longer by up to this share, so that deliveries that failed together don't come back together."""

SLOTS: Final = 64
"""Messages that one worker sends at once: they wait for receivers, and cost next to nothing meanwhile."""

OUTPUT_MAX_BYTES: Final = 32 * 1024
"""A longer output is cut: a delivery tells of a result, and the result itself is in the store."""
ERROR_MAX_CHARS: Final = 2000
METADATA_MAX_BYTES: Final = 8 * 1024

CIRCUIT_FAILURES: Final = 5
"""After so many failures in a row nothing is sent to a destination for a while."""
CIRCUIT_SECONDS: Final = 30.0
"""Seconds the first time. Each time that the trial fails it is twice as long."""
CIRCUIT_MAX_SECONDS: Final = 600.0


def pause(attempt: int, asked: float | None, *, schedule: Sequence[float], chance: float) -> float | None:
    """Seconds until the next attempt; None: there is none. `attempt` is the one that failed, from 1; `asked` what the
    destination asks for, in seconds; `chance` is random in [0, 1)."""
    if attempt > len(schedule):
        return None
    seconds = schedule[attempt - 1]
    if asked is not None:
        seconds = max(seconds, min(asked, ASKED_MAX_SECONDS))
    return seconds * (1 + SPREAD * chance)


def chosen(crew: CrewDefinition, asked: Sequence[str | Destination] | None) -> list[Destination | str]:
    """The destinations of one submission: all of the crew's, unless some are `asked` for, by name or themselves. The
    crew's are named, so that they are used as the crew has them when it is delivered. Raises InvalidInput."""
    known = {destination.name for destination in crew.delivery}
    if asked is None:
        return [destination.name for destination in crew.delivery]
    if isinstance(asked, str) or not all(isinstance(one, str | Destination) for one in asked):
        reason = f"{repr(asked)[:80]} is no list of destinations"
        raise InvalidInput(Problem(reason, "Give a list of names, or of Destinations.", path="deliver"))
    problems: list[Problem] = []
    if len(asked) > DESTINATIONS_MAX:
        reason = f"there are {len(asked)} destinations"
        problems.append(Problem(reason, f"Give {DESTINATIONS_MAX} at most.", path="deliver"))
    named: set[str] = set()
    for i, one in enumerate(asked):
        name = one if isinstance(one, str) else one.name
        if isinstance(one, str) and one not in known:
            listed = f"Use one of: {', '.join(sorted(known))}" if known else "Add it to the crew's spec.delivery"
            problems.append(Problem(f"crew {crew.name!r} has no destination {one!r}", f"{listed}.", f"deliver[{i}]"))
        elif name in named:
            problems.append(Problem(f"destination {name!r} is given twice", "Remove one of the two.", f"deliver[{i}]"))
        named.add(name)
    if problems:
        raise InvalidInput(problems)
    return list(asked)


def as_json(destination: Destination) -> str:
    """The destination as it is stored: what is not set is left out, so that equal ones are equal texts."""
    return destination.model_dump_json(by_alias=True, exclude_none=True, exclude_unset=True)


def content(result: TaskResult | RunResult, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a result that a delivery carries: the seven values that receivers get. `metadata` is the task's own.
    So that it is no larger than a dead letter may be, what is too long is cut, and metadata says so."""
    if isinstance(result, RunResult):
        task_id, agent, own = result.run_id, result.crew, {"status": result.status.value}
    else:
        task_id, agent, own = result.task_id, result.agent_name, result.metadata
    told = {**metadata, **own}
    if (size := _size(told)) > METADATA_MAX_BYTES:
        told = {"metadata_bytes": size}
    output = result.output
    if (size := _size(output)) > OUTPUT_MAX_BYTES:
        text = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
        output = f"{_shortened(text)}…"
        told = {**told, "output_bytes": size}
    return {
        "task_id": task_id,
        "agent_name": agent,
        "success": result.success,
        "output": output,
        "error": result.error and result.error[:ERROR_MAX_CHARS],
        "execution_time_ms": result.execution_time_ms,
        "metadata": told,
    }


def _shortened(text: str) -> str:
    """The longest beginning that has at most OUTPUT_MAX_BYTES as JSON, which writes some characters as six."""
    text = text[:OUTPUT_MAX_BYTES].encode("utf-8", "replace").decode()
    fits, too_long = 0, len(text) + 1
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        fits, too_long = (middle, too_long) if _size(text[:middle]) <= OUTPUT_MAX_BYTES else (fits, middle)
    return text[:fits]


def _size(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
