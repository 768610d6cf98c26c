"""Sessions: the prompts and answers of an agent under one `session_id`, as turns that follow each other.

A session belongs to one agent of a crew. It goes some time after its last turn, with the crew, or when somebody deletes
it. Beyond TURNS_MAX its oldest turns go.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import redis.asyncio
from pydantic_core import from_json, to_json

from watchbill.connection import outages, scripts
from watchbill.errors import InvalidInput, NotFound, Problem
from watchbill.names import CrewKeys
from watchbill.store import attempts, packed
from watchbill.store.queue import Claimed, Queue

TURNS_MAX: Final = 1000
"""Turns that a session keeps."""
BODY_MAX: Final = 1024 * 1024
"""The most bytes of what is asked and answered in one turn."""
_PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class Turn:
    """A prompt and its answer."""

    task_id: str
    prompt: str
    answer: str
    at: datetime
    """By the server's clock."""


@dataclass(frozen=True, slots=True)
class Session:
    """A session, without its turns."""

    agent: str
    session_id: str
    turns: int
    """Number of turns that it keeps, those that were replaced by others too."""
    expires_at: datetime
    """By the server's clock, if nothing more is said in it."""


async def add(
    queue: Queue,
    incarnation: str,
    task: Claimed,
    session_id: str,
    said: tuple[str, str],
    *,
    follows: str = "",
    ttl_ms: int,
) -> None:
    """Adds a task's turn: `said` is what was asked and answered. A repeat of the same changes nothing; another answer
    of the same task takes the place of the first. Raises InvalidInput, CrewGone, and Fenced where the task is no longer
    its worker's."""
    body = to_json(said).decode()
    if (size := len(body.encode())) > BODY_MAX:
        reason = f"a turn of session {session_id!r} has {size} bytes, and may have {BODY_MAX}"
        raise InvalidInput(Problem(reason, "Remember less of it, such as a summary.", path="answer"))
    keys, name = queue.keys, packed.session_name(task.agent, session_id)
    names = [*keys.fixed, keys.session(name), keys.sessions]
    args = [name, follows, ttl_ms, TURNS_MAX, body]
    await attempts.call(queue, incarnation, task, "session_add", names, args)


async def before(
    client: redis.asyncio.Redis,
    keys: CrewKeys,
    agent: str,
    session_id: str,
    *,
    task_id: str = "",
    follows: str = "",
    most: int = TURNS_MAX,
    most_bytes: int = TURNS_MAX * BODY_MAX,
) -> list[Turn]:
    """The turns before a task's, oldest first: the last ones that are within both bounds, each whole. Without a task:
    before the next one. Raises InvalidInput where there is no turn of the task that it is to follow."""
    names = [*keys.fixed, keys.session(packed.session_name(agent, session_id))]
    with outages.translated():
        status, *found = await scripts.run(client, "session_read", names, [task_id, follows, most, most_bytes])
    if status == "missing":
        reason = f"session {session_id!r} of agent {agent!r} has no turn of task {follows!r}"
        fix = "Name a task of that session, or leave `follows` out to go on behind the newest turn."
        raise InvalidInput(Problem(reason, fix, path="metadata.follows"))
    return [_turn(text) for text in reversed(found)]


async def listed(client: redis.asyncio.Redis, keys: CrewKeys) -> list[Session]:
    """All sessions of the crew, those first whose last turn is the newest as far as their times to live tell."""
    with outages.translated():
        now, _ = await client.time()
        found: Any = await client.zrange(keys.sessions, int(now) * 1000, "+inf", byscore=True, withscores=True)
        sessions = []
        for start in range(0, len(found), _PAGE):
            page = found[start : start + _PAGE]
            async with client.pipeline(transaction=False) as pipe:
                for name, _ in page:
                    pipe.hlen(keys.session(str(name)))
                lengths = await pipe.execute()
            for (name, score), length in zip(page, lengths, strict=True):
                agent, session_id = packed.session_of(str(name))
                turns = max(int(length) - 2, 0) // 2  # each has two fields, beside `head` and `last`
                sessions.append(Session(agent, session_id, turns, datetime.fromtimestamp(score / 1000, UTC)))
    return [session for session in reversed(sessions) if session.turns]


async def delete(client: redis.asyncio.Redis, keys: CrewKeys, agent: str, session_id: str) -> None:
    """Deletes a session. Raises NotFound."""
    name = packed.session_name(agent, session_id)
    with outages.translated():
        gone = await client.unlink(keys.session(name))
        await client.zrem(keys.sessions, name)
    if not gone:
        raise NotFound(f"agent {agent!r} of crew {keys.crew!r} has no session {session_id!r} (or it has expired)")


def _turn(text: str) -> Turn:
    turn = packed.Turn.unpack(text)
    prompt, answer = from_json(turn.said)
    return Turn(turn.task_id, prompt, answer, datetime.fromtimestamp(turn.at_ms / 1000, UTC))
