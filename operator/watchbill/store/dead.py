"""A crew's dead letters: tasks that failed for good or killed their workers, and entries that can't be read.

They are bounded by number and age (lib_running.lua says by which); what is trimmed is counted in `meta`. Every call is
safe to send twice, and raises CrewGone when the crew was deleted or replaced.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

import redis.asyncio

from watchbill.connection import translated
from watchbill.errors import NotFound
from watchbill.names import CrewKeys, split_step_id
from watchbill.store.control import Item, call
from watchbill.store.queue import BATCH, queue_full

Replayed = Literal["replayed", "missing", "taken", "expired"]
"""What became of a letter. `missing`: it was replayed, purged or trimmed before; `taken`: its id has other work by now;
`expired`: nothing says any more what it was to do."""

_PAGE: Final = 100


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One of them."""

    id: str
    """The letter's own: when it was written (ms since 1970), and a number."""
    task_id: str
    """Empty for an entry that names none."""
    reason: str
    agent: str = ""
    attempts: int = 0
    worker: str = ""
    """The incarnation that had it last."""
    error: str = ""
    """The last failure with its traceback."""
    entry: str = ""
    """Of the stream's entry."""
    priority: int = 0
    prompt: str | None = None
    """What a task was to do, where the letter carries it."""
    raw: dict[str, str] | None = None
    """The fields of an entry that couldn't be read; what is no text, as base64:…"""

    @property
    def at(self) -> datetime:
        """When it died, by the server's clock."""
        return datetime.fromtimestamp(int(self.id.partition("-")[0]) / 1000, UTC)

    @property
    def replayable(self) -> bool:
        """False for what was never readable."""
        return bool(self.task_id) and self.raw is None


async def letters(client: redis.asyncio.Redis, keys: CrewKeys) -> AsyncIterator[DeadLetter]:
    """All of them, newest first."""
    before = "+"
    while True:
        with translated():
            page: list[Any] = await client.xrevrange(keys.dead, before, "-", count=_PAGE) or []
        for entry, fields in page:
            yield _letter(entry, fields)
        if len(page) < _PAGE:
            return
        before = f"({page[-1][0]}"


async def find(client: redis.asyncio.Redis, keys: CrewKeys, wanted: str) -> DeadLetter:
    """The newest letter of this task, or the one of this id. Raises NotFound."""
    async for letter in letters(client, keys):
        if wanted in (letter.id, letter.task_id):
            return letter
    raise NotFound(f"crew {keys.crew!r} has no dead letter of {wanted!r} (they are kept for seven days)")


async def replay(
    client: redis.asyncio.Redis, keys: CrewKeys, uid: str, chosen: Sequence[DeadLetter], *, max_queued: int
) -> list[Replayed]:
    """Tries these tasks again, with all their attempts. A step goes on within its run, and the run with it.

    Raises QueueFull: of those before some may be replayed; the same call may be made again.
    """
    outcomes: dict[str, Replayed] = {}
    able = [letter for letter in chosen if letter.replayable]
    size = min(BATCH, max_queued)  # more than the bound would never find room
    for start in range(0, len(able), size):
        part = able[start : start + size]
        names = list(keys.fixed)
        args: list[Any] = [uid, keys.crew, max_queued, len(part)]
        digests = await _digests(client, keys, part)
        for letter, digest in zip(part, digests, strict=True):
            names += Item(letter.task_id, letter.agent, digest).keys(keys)
            args += (letter.id, letter.task_id)
        reply = await call(client, keys, "replay", names, args)
        if reply[0] == "full":
            raise queue_full(keys, max_queued)
        outcomes.update(zip((letter.id for letter in part), reply[1:], strict=True))
    return [outcomes.get(letter.id, "expired") for letter in chosen]


async def purge(client: redis.asyncio.Redis, keys: CrewKeys, uid: str, ids: Iterable[str]) -> int:
    """Removes letters for good. Returns how many there were."""
    wanted = list(ids)
    gone = 0
    for start in range(0, len(wanted), BATCH):
        gone += int((await call(client, keys, "purge", keys.fixed, [uid, *wanted[start : start + BATCH]]))[1])
    return gone


def matching(
    *,
    agent: str | None = None,
    reason: str | None = None,
    before: datetime | None = None,
    after: datetime | None = None,
) -> Callable[[DeadLetter], bool]:
    """A filter: of this agent, with this text in reason or error, that died before or after this time."""

    def matches(letter: DeadLetter) -> bool:
        return (
            (agent is None or letter.agent == agent)
            and (reason is None or reason.lower() in f"{letter.reason}\n{letter.error}".lower())
            and (before is None or letter.at < before)
            and (after is None or letter.at > after)
        )

    return matches


async def _digests(client: redis.asyncio.Redis, keys: CrewKeys, part: Sequence[DeadLetter]) -> list[str]:
    """The definitions of the runs of steps."""
    with translated():
        async with client.pipeline(transaction=False) as pipe:
            for letter in part:
                step = split_step_id(letter.task_id)
                pipe.hget(keys.run(step[0] if step else letter.task_id), "def")
            return [str(digest or "") for digest in await pipe.execute()]


def _letter(entry: str, fields: dict[str, str]) -> DeadLetter:
    raw = {name.removeprefix("raw:"): _shown(value) for name, value in fields.items() if name.startswith("raw:")}
    attempts = fields.get("attempt", "")
    return DeadLetter(
        id=str(entry),
        task_id=_shown(fields.get("id", "")),
        reason=_shown(fields.get("reason", "")),
        agent=fields.get("agent", ""),
        attempts=int(attempts) if attempts.isdigit() else 0,
        worker=fields.get("worker", ""),
        error=_shown(fields.get("error", "")),
        entry=fields.get("entry", ""),
        priority=int(fields.get("class", "0")),
        prompt=json.loads(fields["payload"]).get("prompt") if "payload" in fields else None,
        raw=raw or None,
    )


def _shown(value: str) -> str:
    """Text as it is; bytes that are none, as base64."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return "base64:" + base64.b64encode(value.encode("utf-8", "surrogateescape")).decode()
    return value
