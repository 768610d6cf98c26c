"""Tasks of their own that come in. A run of a whole crew comes in by store/runs.py.

Safe to send twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import redis.asyncio

from watchbill.connection import outages, scripts
from watchbill.errors import Conflict, WatchbillError
from watchbill.names import CrewKeys
from watchbill.store import durability as durable
from watchbill.store import refusals
from watchbill.store.queue import BATCH, BATCH_BYTES
from watchbill.tasks import Durability, Priority


@dataclass(frozen=True, slots=True)
class Submission:
    """One task to be put on the queue."""

    id: str
    agent: str
    payload: str
    """The AgentTask as JSON."""
    priority: Priority = Priority.NORMAL
    inputs: Mapping[str, str] = field(default_factory=dict)
    dedupe_key: str = ""
    dedupe_ms: int = 0
    work: str = ""
    """A digest of what is to be done: an id that is there stands for the same work only if this agrees."""
    due_ms: int = 0
    """The time at which it may begin, by the server's clock (ms since 1970); 0: at once."""
    deliver: str = ""
    """The destinations of its result (packed.pack_deliver); empty: none."""


async def submit(
    client: redis.asyncio.Redis,
    keys: CrewKeys,
    uid: str,
    submissions: Iterable[Submission],
    *,
    max_queued: int,
    reply_to: str = "",
    digest: str = "",
    durability: Durability | None = None,
) -> list[str]:
    """Puts tasks on the queue, in batches. Returns their ids: another's where a dedupe key was already used.

    An id that is already there, with the same `work`, is the same task: nothing is added. `digest`: the definition
    they were checked against. Raises CrewGone, NotDurable, and, where nothing of that batch was stored, QueueFull,
    QuotaExceeded, Closed, DefinitionChanged when the crew has another definition, Conflict when an id belongs to a run
    or to other work. The error's `stored` has the ids of the batches before.
    """
    call = _Call(client, keys, uid, max_queued, reply_to, digest, durability)
    source, size = iter(submissions), min(BATCH, max_queued)  # more than the bound would never find room
    ids: list[str] = []
    batch: list[Submission] = []
    _fill(batch, source, size)
    try:
        while batch:
            following: list[Submission] = []  # made while the server works on this one
            ids += await call.send(batch, partial(_fill, following, source, size))
            _fill(following, source, size)
            batch = following
    except WatchbillError as error:
        error.stored = tuple(ids)
        raise
    return ids


@dataclass(frozen=True, slots=True)
class _Call:
    """The arguments that all batches of a submission have in common."""

    client: redis.asyncio.Redis
    keys: CrewKeys
    uid: str
    max_queued: int
    reply_to: str
    digest: str
    durability: Durability | None

    async def send(self, batch: Sequence[Submission], sent: Callable[[], None]) -> list[str]:
        """Puts one batch on the queue, and returns the ids. `sent` is called when it is on its way."""
        names = list(self.keys.fixed)
        args: list[Any] = [self.uid, self.keys.crew, self.digest, self.max_queued, self.reply_to, len(batch)]
        for submission in batch:
            names.append(self.keys.task(submission.id))
            if submission.dedupe_key and submission.dedupe_ms > 0:
                names.append(self.keys.dedupe(submission.dedupe_key))
            args += script_args(submission)
        if self.durability is None:
            with outages.translated():
                reply = await scripts.run(self.client, "submit", names, args, sent)
        else:
            ids = [submission.id for submission in batch]
            reply = await durable.run_script(self.client, "submit", names, args, self.durability, ids)
        refusals.check(self.keys, reply, digest=self.digest, max_queued=self.max_queued)
        match reply[0]:
            case "conflict":
                raise Conflict(f"{reply[1]!r} is the id of a run of crew {self.keys.crew!r}; choose another")
            case "other":
                raise refusals.other_work(self.keys, reply[1])
        outcomes = zip(batch, reply[1:], strict=True)
        return [told.removeprefix("duplicate:") if told.startswith("duplicate:") else s.id for s, told in outcomes]


def script_args(s: Submission) -> tuple[Any, ...]:
    """A task as submit.lua and heartbeat_fire.lua read it."""
    window = s.dedupe_ms if s.dedupe_key and s.dedupe_ms > 0 else 0
    args = (
        s.id,
        int(s.priority),
        s.agent,
        s.payload,
        s.work,
        s.due_ms,
        window,
        s.deliver,
        " ".join(s.inputs),
        len(s.inputs),
    )
    return (*args, *(text for item in s.inputs.items() for text in item)) if s.inputs else args


def _fill(batch: list[Submission], source: Iterator[Submission], size: int) -> None:
    """Adds submissions until the batch is full, by their number or their bytes."""
    room = BATCH_BYTES - sum(map(_length, batch))
    while room > 0 and len(batch) < size and (submission := next(source, None)) is not None:
        batch.append(submission)
        room -= _length(submission)


def _length(submission: Submission) -> int:
    length = len(submission.payload)
    return length + sum(map(len, submission.inputs.values())) if submission.inputs else length
