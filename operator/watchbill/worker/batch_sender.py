"""Sends the requests of a crew that were gathered for batches of their providers, and fetches the answers. One worker
of a crew at a time does so.

What is about to be sent is stored before, and the provider's account of it after. A worker that dies between leaves a
batch of which nobody knows whether the provider has it: the next worker looks for it there before it sends again.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import redis
import redis.asyncio

from watchbill import metrics
from watchbill.clock import wait_for_event
from watchbill.errors import (
    CrewGone,
    LockLost,
    NewerRecord,
    NotFound,
    StoreUnavailable,
    UserActionRequired,
    WatchbillError,
)
from watchbill.loggers import Logger
from watchbill.names import CrewKeys
from watchbill.plan import batches as plan
from watchbill.plan import budget
from watchbill.plan.batches import Batch, Group
from watchbill.plan.budget import NANO, Amount
from watchbill.store import batches, budgets, definitions
from watchbill.store.batches import Sender
from watchbill.store.packed import Gathered
from watchbill.worker.state import WorkerState

if TYPE_CHECKING:
    from pydantic_ai.models import Model

logger = Logger("watchbill.worker")

HOLD_SECONDS: Final = 60.0
"""Seconds that the others wait before one takes the place of a worker that sent, and has died."""
SEND_SECONDS: Final = 45.0
"""The longest call that makes a batch: it ends before another worker may look whether it is there."""
FIRST_LOOK_SECONDS: Final = 30.0
"""The pause before a batch is looked at for the first time. It grows by half with each look."""
LOOK_SECONDS: Final = 10.0
"""The longest pause between two looks at the store while something is in the lane."""
TURN_SECONDS: Final = 2.0
"""Seconds between two questions of a worker whether it is its turn."""
UNUSED_SECONDS: Final = 30.0
"""Seconds, about, between two checks whether other workers have gathered something."""
UNREAD_SECONDS: Final = 2 * 86_400.0
"""Seconds, since it was sent, after which a batch is given up that can't be read and that nobody waits for. Its
provider needs a day at most."""
_SOON_SECONDS: Final = 0.2
_LEAVE_SECONDS: Final = 0.5


async def send(state: WorkerState, client: redis.asyncio.Redis, keys: CrewKeys, uid: str) -> None:
    """Runs until it is cancelled."""
    while True:
        state.may_send.clear()
        try:
            if await state.persist(lambda: batches.is_used(client, keys)):
                await asyncio.to_thread(_load)
                await _work(state, client, keys, uid)
        except (CrewGone, NotFound, StoreUnavailable) as error:  # the worker itself says so
            logger.debug("batches of %s are not sent now: %s", keys.crew, error)
        await wait_for_event(state.may_send, UNUSED_SECONDS * random.uniform(0.5, 1.5), state.clock)


def _load() -> None:
    """Imports what speaks with providers, in a thread: most workers never need it."""
    from watchbill.agents import batch_calls, batching  # noqa: F401


async def _work(state: WorkerState, client: redis.asyncio.Redis, keys: CrewKeys, uid: str) -> None:
    """Sends and fetches until nothing is left."""
    sender = Sender(client, keys, uid, state.incarnation.name, int(HOLD_SECONDS * 1000))
    try:
        while await state.persist(lambda: batches.is_used(client, keys)):
            state.may_send.clear()
            pause = TURN_SECONDS
            if await state.persist(lambda: batches.hold(sender)):
                with suppress(LockLost):
                    pause = await Round(state, sender).make()
            await wait_for_event(state.may_send, pause, state.clock)
    finally:
        with suppress(WatchbillError, redis.exceptions.RedisError, TimeoutError):
            async with asyncio.timeout(_LEAVE_SECONDS):
                await batches.release(sender)


@dataclass(frozen=True, slots=True)
class Spent:
    """The cost of an answer."""

    has_succeeded: bool
    input_tokens: int
    output_tokens: int
    nano: int
    """Nano-dollars; 0 where that is not known."""


class Round:
    """One look at all that is in the lane."""

    def __init__(self, state: WorkerState, sender: Sender) -> None:
        self._state = state
        self._sender = sender
        self._prices: Mapping[str, budget.TokenPrice] | None = None
        self._known: set[str] = set()
        self._ahead_ms = 0
        """The store's clock, less this process's: a worker that starts has not heard of it otherwise."""

    async def make(self) -> float:
        """Does what is due. Returns the seconds until the next look."""
        sender = self._sender
        seen = await self._state.persist(lambda: batches.look(sender.client, sender.keys))
        self._ahead_ms = seen.now_ms - int(self._state.clock.monotonic() * 1000)
        if not seen.queued and not seen.batches:  # the last request was withdrawn by its task
            await self._state.persist(lambda: batches.end(sender))
        found, soon = list(seen.batches), False
        self._known = {str(batch.handle["id"]) for batch in found if batch.handle}
        for queued in seen.queued:
            if queued.is_due(seen.now_ms):
                soon = True  # there may be more of them
                is_late = queued.seal_ms <= seen.now_ms
                found += [batch] if (batch := await self._sealed(queued.group, is_late=is_late)) is not None else []
        nexts = [queued.seal_ms for queued in seen.queued]
        for batch in found:
            if batch.next_ms > self._now_ms:
                nexts.append(batch.next_ms)
                continue
            await self._state.persist(lambda: batches.hold(sender))
            nexts.append(await self._tended(batch))
        pause = (min(nexts, default=0) - self._now_ms) / 1000
        return _SOON_SECONDS if soon else min(max(pause, _SOON_SECONDS), LOOK_SECONDS)

    @property
    def _now_ms(self) -> int:
        return self._ahead_ms + int(self._state.clock.monotonic() * 1000)

    async def _sealed(self, group: Group, *, is_late: bool) -> Batch | None:
        """Makes a batch of what is gathered; None: nothing of it can be sent yet. Unless it is late, it waits until all
        tasks are set aside: those that were left out would wait for others to gather."""
        sender, batch = self._sender, Batch(uuid.uuid4().hex, group)
        requests = await self._state.persist(lambda: batches.gathered(sender.client, sender.keys, group))
        size = 0
        chosen: dict[str, Gathered] = {}
        for one, request in requests.items():
            size += request.size
            if chosen and size > plan.BYTES_MAX:
                break
            chosen[one] = request
        if not is_late and await self._state.persist(lambda: batches.any_runs(sender.client, sender.keys, chosen)):
            return None
        await self._mark(batch)
        if "sealed" in (await self._seal(batch, chosen)).values():
            return batch
        await self._mark(batch, is_over=True)
        return None

    async def _seal(self, batch: Batch, requests: dict[str, Gathered]) -> dict[str, str]:
        """Puts requests into a batch that was not sent. Those that nobody waits for cost nothing."""
        said = await self._state.persist(lambda: batches.seal(self._sender, batch, requests))
        await self._settle({requests[one]: Amount() for one, what in said.items() if what == "over"})
        return said

    async def _mark(self, batch: Batch, *, is_over: bool = False) -> None:
        await self._state.persist(lambda: batches.mark(self._sender, batch, is_over=is_over))

    async def _tended(self, batch: Batch) -> int:
        """Does what is next for a batch. Returns the time of the next look at it."""
        sender = self._sender
        requests = await self._state.persist(lambda: batches.of_batch(sender.client, sender.keys, batch))
        if not requests:
            await self._mark(batch, is_over=True)
            return self._now_ms
        from watchbill.agents import providers

        try:
            model = providers.build(batch.group.model, batch.group.base_url)
        except UserActionRequired as error:
            return await self._given_up(batch, requests, error)
        if batch.handle is None:
            return await self._send(model, batch, requests)
        return await self._fetch(model, batch, requests)

    async def _later(self, batch: Batch, error: object = None) -> int:
        if error is not None:
            text = "the batch %s of model %r can't be %s now, and is tried again: %s"
            what = "sent" if batch.handle is None else "read"
            logger.warning(text, batch.id, batch.group.model, what, _brief(error))
        batch = batch.later(self._now_ms, FIRST_LOOK_SECONDS)
        await self._mark(batch)
        return batch.next_ms

    async def _given_up(self, batch: Batch, requests: dict[str, Gathered], error: object) -> int:
        """Has all requests of a batch made at once."""
        logger.warning(
            "%d requests to model %r can't go by a batch, and are made at once: %s",
            len(requests),
            batch.group.model,
            _brief(error),
        )
        if batch.handle is None and not batch.tried_ms:  # it was not made
            await self._settle(dict.fromkeys(requests.values(), Amount()))
        return await self._hand_out(batch, {}, requests)

    # ------------------------------------------------------------ to the provider

    async def _send(self, model: Model, batch: Batch, requests: dict[str, Gathered]) -> int:
        from pydantic_ai.models.batch import EncodedBatchRequest

        from watchbill.agents import batch_calls

        if batch.tried_ms:
            since = datetime.fromtimestamp(batch.tried_ms / 1000, UTC)
            try:
                found = await batch_calls.find(model, batch.group.shared, requests, since, self._known)
            except Exception as error:
                return await self._later(batch, error)
            if found == "unsure":
                return await self._later(batch)
            if found is not None:
                logger.info("batch %s was sent before, as %s", batch.id, found.id)
                return await self._sent(batch, batch_calls.HANDLE.dump_python(found, mode="json"), requests)
        said = await self._seal(batch, requests)
        requests = {one: request for one, request in requests.items() if said[one] != "over"}
        if not requests:
            await self._mark(batch, is_over=True)
            return self._now_ms
        ids, sender = list(requests), self._sender
        bodies = await self._state.persist(lambda: batches.bodies(sender.client, sender.keys, ids))
        shared = batch.group.shared
        lines = [EncodedBatchRequest(custom_id=i, group=shared, body=b) for i, b in zip(ids, bodies, strict=True)]
        # Nobody looks for it at the provider before this call has surely ended.
        next_ms = self._now_ms + int(HOLD_SECONDS * 1000)
        trying = replace(batch, tried_ms=batch.tried_ms or self._now_ms, next_ms=next_ms)
        await self._mark(trying)
        try:
            async with asyncio.timeout(SEND_SECONDS):
                handle = await model.batch_create(lines)
        except Exception as error:
            if batch_calls.is_refused(error):
                return await self._given_up(replace(batch, tried_ms=0), requests, error)
            return await self._later(batch if batch_calls.is_unsent(error) else trying, error)
        logger.info(
            "batch %s of %d requests to model %r was sent, as %s", batch.id, len(ids), batch.group.model, handle.id
        )
        return await self._sent(batch, batch_calls.HANDLE.dump_python(handle, mode="json"), requests)

    async def _sent(self, batch: Batch, handle: Mapping[str, Any], requests: dict[str, Gathered]) -> int:
        sent = replace(batch, handle=handle, sent_ms=self._now_ms, looks=0).later(self._now_ms, FIRST_LOOK_SECONDS)
        await self._mark(sent)
        await self._tell_sent(sent, requests)
        return sent.next_ms

    async def _tell_sent(self, batch: Batch, requests: dict[str, Gathered]) -> bool:
        """Has tasks say what they wait for. Returns whether any still waits."""
        at, which = budget.iso(batch.sent_ms), (batch.handle or {}).get("id")
        text = f"waits for batch {which} of the provider of model {batch.group.model!r}, sent at {at}"
        texts = dict.fromkeys(requests, text)
        said = await self._state.persist(lambda: batches.tell(self._sender, "sent", requests, texts))
        return any(what != "over" for what in said.values())

    # ------------------------------------------------------------ from the provider

    async def _fetch(self, model: Model, batch: Batch, requests: dict[str, Gathered]) -> int:
        from watchbill.agents import batch_calls

        handle = batch_calls.HANDLE.validate_python(batch.handle)
        is_awaited = await self._tell_sent(batch, requests)
        results: dict[str, Any] | None = None
        try:
            if not is_awaited and not batch.is_cancelled:
                batch = replace(batch, is_cancelled=True)
                await batch_calls.cancel(model, handle)
            handle = await model.batch_status(handle)
            batch = replace(batch, handle=batch_calls.HANDLE.dump_python(handle, mode="json"))
            if handle.status == "ended":
                results = {one.custom_id: one for one in await model.batch_results(handle)}
        except Exception as error:
            if batch_calls.is_lost(error):
                return await self._given_up(batch, requests, error)
            if batch.is_cancelled and self._now_ms - batch.sent_ms > UNREAD_SECONDS * 1000:
                text = "batch %s of model %r can't be read, and is given up, as nobody waits for it: %s"
                logger.warning(text, batch.id, batch.group.model, _brief(error))
                return await self._hand_out(batch, {}, requests)
            return await self._later(batch, error)
        if results is None:
            return await self._later(batch)
        answers, spent = await self._settled(model, batch, requests, results)
        return await self._hand_out(batch, answers, requests, spent)

    async def _settled(
        self, model: Model, batch: Batch, requests: dict[str, Gathered], results: Mapping[str, Any]
    ) -> tuple[dict[str, str], dict[str, Spent]]:
        """Settles what the answers did cost. Returns them as they are stored, and what is known of their cost."""
        from watchbill.agents import batch_calls, batching

        answers, costs, spent = {}, {}, {}
        own = await self._own_prices()
        for one in requests.keys() & results.keys():
            usage, nano = batch_calls.cost(model, batch.group.model, results[one], own)
            answers[one] = batching.packed_answer(results[one], nano)
            if usage is None:
                continue  # all that was reserved counts
            costs[requests[one]] = Amount(usage.total_tokens, nano or 0)
            spent[one] = Spent(results[one].status == "succeeded", usage.input_tokens, usage.output_tokens, nano or 0)
        await self._settle(costs)
        return answers, spent

    def _count(self, batch: Batch, answers: Iterable[Spent]) -> None:
        from watchbill.agents import model_requests

        labels = model_requests.labels(self._sender.keys.crew, batch.group.model)
        for one in answers:
            if one.has_succeeded:
                metrics.MODEL_REQUESTS.labels(*labels, "batched").inc()
            metrics.MODEL_TOKENS.labels(*labels, "input").inc(one.input_tokens)
            metrics.MODEL_TOKENS.labels(*labels, "output").inc(one.output_tokens)
            if one.nano:
                metrics.MODEL_COST.labels(*labels).inc(one.nano / NANO)

    async def _own_prices(self) -> Mapping[str, budget.TokenPrice]:
        if self._prices is None:
            sender = self._sender
            current = await self._state.persist(lambda: definitions.current(sender.client, sender.keys))
            try:
                self._prices = budget.prices(current.definition.prices)
            except NewerRecord:
                self._prices = {}
        return self._prices

    async def _settle(self, costs: Mapping[Gathered, Amount]) -> None:
        sender = self._sender
        settled = [batches.settlement(sender.keys, one.task_id, one.call, cost) for one, cost in costs.items()]
        for start in range(0, len(settled), budgets.SETTLED_AT_ONCE):
            page = settled[start : start + budgets.SETTLED_AT_ONCE]
            await self._state.persist(
                lambda p=page: budgets.settle(sender.client, sender.keys, sender.uid, p)  # type: ignore[misc]
            )

    async def _hand_out(
        self,
        batch: Batch,
        answers: dict[str, str],
        requests: dict[str, Gathered],
        spent: Mapping[str, Spent] = MappingProxyType({}),
    ) -> int:
        """Gives tasks the answers, and has requests without one made at once. Returns the time of the next look: soon,
        if a task could not be told, and then after pauses that grow."""
        answered = {one: request for one, request in requests.items() if one in answers}
        left = {one: request for one, request in requests.items() if one not in answers}
        said = await self._state.persist(lambda: batches.tell(self._sender, "answered", answered, answers))
        said |= await self._state.persist(lambda: batches.tell(self._sender, "left", left, {}))
        # A request whose task could not be told comes again, and counts then. One that nobody waits for was paid, too.
        self._count(batch, [one for name, one in spent.items() if said[name] != "held"])
        if "held" not in said.values():
            await self._mark(batch, is_over=True)
            return self._now_ms
        pause = min(_SOON_SECONDS * 1.5 ** min(batch.held, 32), LOOK_SECONDS)
        again = replace(batch, held=batch.held + 1, next_ms=self._now_ms + int(pause * 1000))
        await self._mark(again)
        return again.next_ms


def _brief(error: object) -> str:
    from watchbill.agents import model_errors

    return model_errors.brief(error) if isinstance(error, Exception) else str(error)
