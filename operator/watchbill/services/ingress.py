"""Takes tasks from a stream that other programs write to, and puts them on the queue of the service's crew.

At least once, and each once: an entry leaves the stream when its task is on the queue, and a task that is taken again
has the same id. What brings no task becomes a dead letter of the crew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from watchbill.api.problems import nearest
from watchbill.clock import SYSTEM, Clock
from watchbill.connection import outages
from watchbill.errors import Conflict, CrewGone, NotFound, QueueFull, sentence
from watchbill.loggers import Logger
from watchbill.redaction import is_secret, redact
from watchbill.services.client import AgentServiceClient
from watchbill.services.delivery import DeliveryConfig
from watchbill.services.known import problems
from watchbill.services.tasks import AgentTask
from watchbill.store.ingress import ENTRY_MAX_BYTES, SHOWN_BYTES, Entry, Source

logger = Logger("watchbill.services")

BATCH: Final = 100
BLOCK_MS: Final = 2000
IDLE_MS: Final = 5000
"""An entry that a consumer has had for so long is taken over. That consumer may live: both put the same task there."""
POLL_SECONDS: Final = 5.0
"""Seconds between two searches for entries that can be taken over."""
AGAIN_SECONDS: Final = 0.5
"""Seconds until it tries again to submit what the queue has no room for now."""

Refuse = Callable[[Entry, str], Awaitable[None]]
"""Takes an entry and why it brings no task."""

_NO_TASK: Final = (ValueError, TypeError, ArithmeticError, RecursionError, Conflict, NotFound)
"""An entry brings no task when the client says so (InvalidInput is a ValueError), and when it can't cope with it: that
would be so each time, and hold up all entries behind it."""

GONE_MS: Final = 3_600_000
"""A consumer that has asked for nothing for so long is gone for good."""

FIELDS_MAX: Final = 1000
"""Fields of an entry, and of its payload. Each that a task has not got is compared with those that it has."""
REASON_MAX: Final = 1000
"""Characters that a dead letter has of the reason, which may quote the entry."""

_JSON_FIELDS: Final = ("metadata", "delivery")
"""Fields of an entry without a payload that are JSON."""
_SECRETS: Final = ("delivery", "telegram_bot_token", "webhook_signing_key", "teams_webhook_url")
"""Fields of a destination that hold a secret, or have one within."""


class Malformed(Exception):
    """An entry brings no task. The message says why."""


class Listener:
    """Reads one stream, for one service."""

    def __init__(self, source: Source, client: AgentServiceClient, refuse: Refuse, clock: Clock = SYSTEM) -> None:
        """`client` takes the tasks; `refuse` makes a dead letter of an entry."""
        self._source = source
        self._client = client
        self._make_letter = refuse
        self._clock = clock
        self._poll_at = clock.monotonic()

    async def run(self) -> None:
        """Takes tasks until it is cancelled. Outlasts outages, and the loss of the stream."""
        while True:
            entries = await outages.persist(self._read)
            if entries:
                await outages.persist(lambda: self._take(entries))  # noqa: B023 - awaited here

    async def _read(self) -> list[Entry]:
        now = self._clock.monotonic()
        if now >= self._poll_at:
            if old := await self._source.take_over(IDLE_MS, BATCH):
                return old
            await self._source.remove_idle(GONE_MS)
            self._poll_at = now + POLL_SECONDS
        return await self._source.read(BATCH, BLOCK_MS)

    async def _take(self, entries: Sequence[Entry]) -> None:
        """Safe to be called twice for the same entries."""
        tasks: list[tuple[Entry, AgentTask]] = []
        for entry in entries:
            try:
                task = task_of(self._source.stream, entry)
                self._client.check(task.delivery)  # it may hold no secret, which is on a stream already
                tasks.append((entry, task))
            except (Malformed, *_NO_TASK) as error:
                await self._refuse(entry, error)
        try:
            await self._client.submit_tasks([task for _, task in tasks])
        except (*_NO_TASK, QueueFull):  # for some of them: one by one, then
            for entry, task in tasks:
                await self._take_one(entry, task)
        await self._source.remove(entries)

    async def _take_one(self, entry: Entry, task: AgentTask) -> None:
        """Waits while the queue is full. The entry goes at once: its task might end, and its record with it, while
        others wait."""
        while True:
            try:
                await self._client.submit_task(task)
            except _NO_TASK as error:
                await self._refuse(entry, error)
            except QueueFull:
                await self._clock.sleep(AGAIN_SECONDS)
                continue
            await self._source.remove([entry])
            return

    async def _refuse(self, entry: Entry, error: Exception) -> None:
        reason = redact(f"this entry of {self._source.stream} brings no task: {error}"[:SHOWN_BYTES])[:REASON_MAX]
        logger.warning("entry %s: %s", entry.id, reason)
        shown = replace(entry, fields=dict(_shown(*field) for field in islice(entry.fields.items(), FIELDS_MAX)))
        while True:
            try:
                await self._make_letter(shown, reason)
                return
            except CrewGone:  # the store has lost it, and the service makes it anew
                await self._clock.sleep(AGAIN_SECONDS)


def task_of(stream: str, entry: Entry) -> AgentTask:
    """The task that an entry brings. Raises Malformed.

    `payload` is a task as JSON; the fields `task_id` and `agent_name` beside it count where it has none. Without a
    payload, each field of the entry is one of the task. An entry without an id gets the same one whenever it is read.
    What a task has no field for is ignored, because other programs write more; but not a field that is misspelt.
    """
    if entry.size > ENTRY_MAX_BYTES:
        raise Malformed(
            f"it has {entry.size} bytes; the limit is {ENTRY_MAX_BYTES} (2 MiB). Put larger data into a store of its "
            "own and give a reference to it"
        )
    _check_number("it", entry.fields)
    fields = dict(entry.fields)
    found: dict[str, Any] = {name: value for name, value in fields.items() if value != ""}
    if "payload" in fields:
        payload = _json("payload", fields["payload"])
        if not isinstance(payload, dict):
            raise Malformed(f"payload is {type(payload).__name__}, not an object. Give the task's fields as JSON")
        _check_number("payload", payload)
        beside = {name: fields[name] for name in ("task_id", "agent_name") if fields.get(name)}
        found = beside | {name: value for name, value in payload.items() if value is not None}
    else:
        for name in _JSON_FIELDS:
            if name in found:
                found[name] = _json(name, found[name])
        with suppress(KeyError, ValueError):  # the model says what is wrong with it
            found["priority"] = int(found["priority"])
    found.setdefault("task_id", hashlib.sha256(f"{stream} {entry.id}".encode()).hexdigest()[:32])
    if isinstance(found.get("delivery"), dict):
        _check_number("delivery", found["delivery"])
        found["delivery"] = _known(DeliveryConfig, found["delivery"])
    try:
        return AgentTask.model_validate(_known(AgentTask, found))
    except ValidationError as error:
        raise Malformed(str(problems(error)[0])) from None


def _check_number(what: str, fields: Collection[str]) -> None:
    if len(fields) > FIELDS_MAX:
        raise Malformed(f"{what} has {len(fields)} fields; the limit is {FIELDS_MAX}. Leave out what no task has")


_NOT_TAKEN: Final = {"role"}
"""Bots have no roles, and other programs mean something else by it."""


def _known(model: type[BaseModel], found: dict[str, Any]) -> dict[str, Any]:
    """Drops null and fields that the model has not got. A misspelt one stays, and the model refuses it."""
    fields = model.model_fields.keys() - _NOT_TAKEN
    return {n: v for n, v in found.items() if v is not None and (n in fields or nearest(n, fields))}


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"{name} is no JSON: {sentence(error)} Correct {name}") from None


def _shown(name: str, value: str) -> tuple[str, str]:
    """Returns a field of an entry as it may be kept, without secrets."""
    if name == "delivery" or is_secret(name) or any(f'"{secret}"' in value for secret in _SECRETS):
        value = "(not shown: it may hold a secret)"
    return redact(name[:SHOWN_BYTES]), redact(value[:SHOWN_BYTES])
