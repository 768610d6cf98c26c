"""What an agent returned, as the JSON that is stored. Also used in agents' own processes: imports no store."""

from __future__ import annotations

from typing import Final

from pydantic_core import PydanticSerializationError

from watchbill.tasks import TaskResult
from watchbill.worker import failures

RESULT_MAX_BYTES: Final = 16 * 1024 * 1024


class Unstorable(Exception):
    """What was returned is no JSON, or too much of it. Says whose, and why."""


def as_json(result: TaskResult) -> str:
    """The result as it is stored. Raises Unstorable."""
    try:
        text = result.model_dump_json()
        if len(text) * 4 > RESULT_MAX_BYTES and (size := len(text.encode())) > RESULT_MAX_BYTES:
            raise ValueError(f"{size} bytes are more than {RESULT_MAX_BYTES}: return a reference instead")
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        why = failures.describe(error)
        raise Unstorable(f"what agent {result.agent_name!r} returned can't be stored as JSON: {why}") from error
    return text
