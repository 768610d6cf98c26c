"""What an agent returned, as the JSON that is stored. Also used in agents' own processes: imports no store."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from pydantic_core import PydanticSerializationError, from_json, to_json

from watchbill.tasks import Usage
from watchbill.worker import failures

RESULT_MAX_BYTES: Final = 16 * 1024 * 1024
_SURELY_SHALLOW: Final = 150
"""With so few brackets it can be read: readers give up at 200, one within another."""


class Unstorable(Exception):
    """What was returned is no JSON, or too much of it. Says whose, and why."""


def as_json(
    task_id: str,
    agent_name: str,
    *,
    success: bool,
    output: Any = None,
    error: str | None = None,
    traceback: str | None = None,
    seconds: float = 0.0,
    usage: Usage | None = None,
    attempt: int = 1,
    completed_at: datetime | None = None,
) -> str:
    """A TaskResult as it is stored. Raises Unstorable."""
    # What TaskResult(...).model_dump_json() makes, at a third of the cost: each task has one.
    result = {
        "task_id": task_id,
        "agent_name": agent_name,
        "success": success,
        "output": output,
        "error": error,
        "execution_time_ms": round(seconds * 1000, 3),
        "metadata": {},
        "usage": usage,
        "attempt": attempt,
        "completed_at": completed_at,
    }
    if traceback:
        result["traceback"] = traceback
    try:
        text = to_json(result, inf_nan_mode="null")
        if len(text) > RESULT_MAX_BYTES:
            raise ValueError(f"{len(text)} bytes are more than {RESULT_MAX_BYTES}: return a reference instead")
        if text.count(b"[") + text.count(b"{") > _SURELY_SHALLOW:
            _read(text)
    except (PydanticSerializationError, ValueError, RecursionError) as error_:
        why = failures.describe(error_)
        raise Unstorable(f"what agent {agent_name!r} returned can't be stored as JSON: {why}") from error_
    return text.decode()


def _read(text: bytes) -> None:
    """Raises ValueError for what is written, and couldn't be read by those who wait for it."""
    try:
        from_json(text)
    except ValueError as error:
        raise ValueError(f"it is nested too deeply to be read: {error}") from error
