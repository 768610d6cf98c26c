"""Takes tasks from a stream that other programs write to, and puts them on the queue of the service's crew.

At least once, and each once: an entry leaves the stream when its task is on the queue, and a task that is taken again
has the same id. What brings no task becomes a dead letter of the crew. A task may name another crew. Where that one
takes no work now, its entries are put aside, in their order, and hold up no others; while the service's own crew takes
none, nothing more is read. Nothing that waits is in this process alone.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import Any, Final

import redis
from pydantic import BaseModel, ValidationError

from watchbill.api.problems import nearest
from watchbill.clock import SYSTEM, Clock
from watchbill.connection import outages
from watchbill.errors import (
    Closed,
    Conflict,
    CrewGone,
    DefinitionChanged,
    NameTaken,
    NewerRecord,
    NotFound,
    QueueFull,
    QuotaExceeded,
    StoreRefuses,
    StoreUnavailable,
    sentence,
)
from watchbill.loggers import Logger
from watchbill.redaction import is_secret, redact
from watchbill.services.client import AgentServiceClient
from watchbill.services.config import full_name, keys_of
from watchbill.services.delivery import DeliveryConfig
from watchbill.services.known import problems
from watchbill.services.tasks import AgentTask
from watchbill.store.ingress import ENTRY_MAX_BYTES, SHOWN_BYTES, Entry, Source, waits_for

logger = Logger("watchbill.services")

BATCH: Final = 100
BLOCK_MS: Final = 2000
IDLE_MS: Final = 5000
"""An entry that a consumer has had for so long is taken over. That consumer may live: both put the same task there.
What waits for another crew is tried again by each search: where one service gives new entries to a crew that is open
again while another still puts them aside, they would wait for each other."""
POLL_SECONDS: Final = 5.0
"""Seconds between two searches for entries that can be taken over."""
AGAIN_SECONDS: Final = 0.5
"""Seconds until it tries again to submit what the service's crew does not take now."""
LOG_SECONDS: Final = 60.0
"""The log says at most once in so long that entries wait for the same crew."""

Refuse = Callable[[Entry, str], Awaitable[None]]
"""Takes an entry and why it brings no task."""

_NO_TASK: Final = (ValueError, TypeError, ArithmeticError, RecursionError, Conflict, NotFound)
"""An entry brings no task when the client says so (InvalidInput is a ValueError), and when it can't cope with it: that
would be so each time, and hold up all entries behind it."""

_LATER: Final = (
    *(QueueFull, Closed, QuotaExceeded, NewerRecord, NameTaken, CrewGone, DefinitionChanged),
    *(StoreUnavailable, StoreRefuses, redis.exceptions.RedisError),
)
"""The crew takes no work now, or its part of the store does not: this says nothing against the entry."""

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


_Taken = tuple[Entry, AgentTask]


class Listener:
    """Reads one stream, for one service."""

    def __init__(self, source: Source, client: AgentServiceClient, refuse: Refuse, clock: Clock = SYSTEM) -> None:
        """`client` takes the tasks; `refuse` makes a dead letter of an entry."""
        self._source = source
        self._client = client
        self._make_letter = refuse
        self._clock = clock
        self._poll_at = clock.monotonic()
        self._crew = keys_of(source.stream).crew
        self._own: deque[_Taken] = deque()
        """Tasks for the service's crew that are not on its queue yet. While there are any, no more are read."""
        self._is_shut = False
        """The service's crew took no work when it was last asked."""
        self._aside: set[str] = set()
        """Other crews for which entries are put aside. New ones go behind them."""
        self._places: deque[tuple[str, int]] = deque()
        """Consumers from which entries may be taken over now, and how long they must have had them (ms)."""
        self._told: dict[str, float] = {}
        """Crew → when the log has told last that entries wait for it."""
        self._faults = 0
        """Entries that were put aside because of a fault."""

    async def run(self) -> None:
        """Takes tasks until it is cancelled. Outlasts outages, and the loss of the stream."""
        while True:
            await outages.persist(self._look)
            if self._places:
                await self._take_over(*self._places.popleft())
            if not self._own:
                block_ms = 0 if self._places else BLOCK_MS
                await self._take(await outages.persist(lambda: self._source.read(BATCH, block_ms)))  # noqa: B023
            if self._own:
                await outages.persist(self._give_own)

    async def _look(self) -> None:
        """Notes where entries may be taken over, when that is due."""
        now = self._clock.monotonic()
        if now < self._poll_at:
            return
        self._poll_at = now + POLL_SECONDS
        holders = await self._source.holders()
        self._places = deque((holder, 0 if waits_for(holder) else IDLE_MS) for holder in holders)
        self._aside = {crew for holder in holders if (crew := waits_for(holder)) and crew != self._crew}
        self._told = {crew: at for crew, at in self._told.items() if now - at < LOG_SECONDS}
        await self._source.remove_idle(GONE_MS)

    async def _take_over(self, holder: str, idle_ms: int) -> None:
        """Takes entries from one consumer. All of them, in several turns, so that others get theirs."""
        crew = waits_for(holder)
        if self._own and crew in ("", self._crew):
            return  # they may be for the service's crew, too
        entries = await outages.persist(lambda: self._source.take_over(holder, idle_ms, BATCH))
        if crew in self._aside and not entries and not idle_ms:
            self._aside.discard(crew)
        faults = self._faults
        is_taken = await self._take(entries, trying=crew) and self._faults == faults
        if is_taken and entries and crew != self._crew:
            self._places.append((holder, 0 if crew else idle_ms))

    async def _take(self, entries: Sequence[Entry], trying: str = "") -> bool:
        """Puts their tasks on their crews' queues; those of the service's crew into `_own`. `trying`: the other crew
        for which they have waited. Returns False when that one takes none."""
        if not entries:
            return True
        own, others = await outages.persist(lambda: self._sorted(entries))
        self._own.extend(own)
        for crew, some in others.items():
            if crew == trying or crew not in self._aside:
                error = await outages.persist(lambda: self._give(crew, some))  # noqa: B023 - awaited here
                if error is not None:
                    self._tell(crew, error)
            if some:
                self._aside.add(crew)
                await outages.persist(lambda: self._source.put_aside(crew, [entry for entry, _ in some]))  # noqa: B023
        return not others.get(trying)

    async def _sorted(self, entries: Sequence[Entry]) -> tuple[list[_Taken], dict[str, deque[_Taken]]]:
        """Returns the tasks of the service's crew, and those of others by crew. Entries that bring none are removed."""
        own: list[_Taken] = []
        others: defaultdict[str, deque[_Taken]] = defaultdict(deque)
        refused: list[Entry] = []
        for entry in entries:
            try:
                task = task_of(self._source.stream, entry)
                self._client.check(task.delivery)  # it may hold no secret, which is on a stream already
            except (Malformed, *_NO_TASK) as error:
                await self._refuse(entry, error)
                refused.append(entry)
                continue
            crew = full_name(task.crew_name) if task.crew_name else self._crew
            (own if crew == self._crew else others[crew]).append((entry, task))
        if refused:
            await self._source.remove(refused)
        return own, others

    async def _give_own(self) -> None:
        """Puts tasks on the queue of the service's crew, in order. Waits for a moment when that takes none."""
        if self._is_shut:  # another service may have taken these over, when this one was held up
            kept = await self._source.keep([entry for entry, _ in self._own])
            self._own = deque(one for one in self._own if one[0].id in kept)
        error = await self._give(self._crew, self._own, together=not self._is_shut)
        self._is_shut = error is not None
        if error is None:
            return
        if isinstance(error, StoreUnavailable):
            raise error
        self._tell(self._crew, error)
        await self._clock.sleep(AGAIN_SECONDS)

    async def _give(self, crew: str, some: deque[_Taken], *, together: bool = True) -> Exception | None:
        """Puts tasks on the crew's queue, in order, and removes their entries. Returns why the crew takes none now:
        then `some` has those that are left. Safe to be called twice. `together`: it probably takes all."""
        if together and len(some) > 1:
            with suppress(Exception):  # of some of them: one by one, then
                await self._client.submit_tasks([task for _, task in some])
                await self._source.remove([entry for entry, _ in some])
                some.clear()
        while some:  # an entry goes at once: its task might end, and its record with it, while others wait
            entry, task = some[0]
            try:
                await self._client.submit_task(task)
            except _LATER as error:
                return error
            except _NO_TASK as error:
                await self._refuse(entry, error)
            except Exception as error:  # a fault of ours, most likely, which holds up no others
                logger.error("entry %s is tried again: %s", entry.id, error, exc_info=error)
                await self._source.put_aside(crew, [entry])
                self._faults += 1
                some.popleft()
                continue
            await self._source.remove([entry])
            some.popleft()
        return None

    def _tell(self, crew: str, error: Exception) -> None:
        now = self._clock.monotonic()
        if now - self._told.get(crew, -LOG_SECONDS) >= LOG_SECONDS:
            self._told[crew] = now
            logger.warning("entries of %s wait for crew %s: %s", self._source.stream, crew, error)

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
