"""The memory of an agent: the turns of a session before its task, each a prompt and its answer.

A session is named by the task's `session_id`, and belongs to one agent of a crew. A task without one has nothing to
remember. For agents on the event loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json

from watchbill.agents.context import Context
from watchbill.errors import InvalidInput, Problem
from watchbill.names import STEP_SEPARATOR, TASK_ID

BYTES_PER_TOKEN: Final = 4
"""A token counts as so many bytes of UTF-8: the tokenizers of models are not at hand."""
FOLLOWS: Final = "follows"
"""The entry of a task's metadata that names the task whose turn it follows, where that is not the newest."""


class HistoryConfig(BaseModel):
    """The bounds of what an agent remembers of a session, and its time to live."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    turns: int = Field(default=20, ge=1, le=1000, description="The last turns that the model is told, at most.")
    tokens: int = Field(
        default=8000, ge=1, le=10_000_000, description="Of these turns together, counted as 4 bytes for a token."
    )
    days: float = Field(default=30.0, gt=0, le=3650, description="For which the session is kept after its last turn.")


class Turn(NamedTuple):
    """A prompt and its answer."""

    prompt: str
    answer: str


class Memory(Protocol):
    """The session of one attempt's task."""

    async def turns(self, session_id: str, follows: str, most: int, most_bytes: int) -> Sequence[Turn]:
        """Returns the turns before the task's, oldest first, each whole."""
        ...

    async def remember(self, session_id: str, follows: str, turn: Turn, seconds: float) -> None:
        """Adds the task's turn, or puts it in the place of the one that the task has already."""
        ...


async def recall(context: Context, config: HistoryConfig) -> list[Turn]:
    """Returns the last turns of the session, oldest first: as many as are within both bounds, each whole.

    All attempts of a task get the same. Raises InvalidInput where the task's `follows` names no task of the session.
    """
    session_id, follows = context.task.session_id, _follows(context)
    if not session_id:
        return []
    memory = context.checkpoints.memory

    async def read() -> Any:
        return await memory.turns(session_id, follows, config.turns, config.tokens * BYTES_PER_TOKEN)

    return [Turn(prompt, answer) for prompt, answer in await context.step("history", read)]


async def remember(context: Context, prompt: str, answer: Any, config: HistoryConfig) -> None:
    """Adds the task's turn to the session, once: a later attempt changes nothing, or takes its place. An answer that is
    no text is remembered as its JSON.

    Raises InvalidInput where the turn is too large.
    """
    if session_id := context.task.session_id:
        turn = Turn(prompt, answer if isinstance(answer, str) else to_json(answer).decode())
        await context.checkpoints.memory.remember(session_id, _follows(context), turn, config.days * 86_400)


def _follows(context: Context) -> str:
    """The task whose turn this one follows; empty: the newest."""
    named = context.task.metadata.get(FOLLOWS)
    if named is None:
        return ""
    if not isinstance(named, str) or not TASK_ID.fullmatch(named):
        fix = "Give the id of the task or run whose turn it follows."
        raise InvalidInput(Problem(f"{str(named)[:80]!r} is no id of a task", fix, path=f"metadata.{FOLLOWS}"))
    _, separator, step = context.task.task_id.partition(STEP_SEPARATOR)
    return f"{named}{separator}{step}"
