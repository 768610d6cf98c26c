"""The worker's side of a crew's budgets and of the limits of its models: reserves each request to a model in the store
before it is made.

One trip to the store per request: it also takes along what requests that have ended did cost. The limits are those of
the crew's definition of now, also for runs that began under another one.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import redis.asyncio

from watchbill.clock import Clock, Patience
from watchbill.connection import outages
from watchbill.errors import BudgetExhausted, CrewGone, NewerRecord, NotFound, Postponed, RetryLater
from watchbill.loggers import Logger
from watchbill.names import CrewKeys
from watchbill.plan import budget, limits
from watchbill.plan.budget import Amount
from watchbill.store import budgets, definitions

if TYPE_CHECKING:  # agents' part `llm` may not be installed
    from watchbill.agents.prices import Prices
    from watchbill.agents.spending import Estimate

logger = Logger("watchbill.worker")

SOON_SECONDS: Final = 5.0
"""The longest wait within an attempt, which keeps its slot, for requests under way to end."""
BEGIN_SECONDS: Final = 1.0
"""The longest wait of a task that has not asked its model yet, for the end of a pause that its provider wants."""
AGAIN_SECONDS: Final = 10.0
"""After so long, and up to twice as long, a task goes on for which requests under way have left no room."""
_POLL_SECONDS: Final = 0.05
_AWAY_SECONDS: Final = 1.0
_CLOSE_SECONDS: Final = 2.0
_SETTLE_SECONDS: Final = 0.1
"""The wait of a settlement for a request that could take it along."""
_DAY_MS: Final = 86_400_000


_Answer = budgets.Full | budgets.Later | budgets.Moved | budgets.Paused | budgets.Reserved | str


class Account:
    """The spending of the agents of one worker."""

    def __init__(
        self, client: redis.asyncio.Redis, keys: CrewKeys, store_time: Callable[[], datetime], clock: Clock
    ) -> None:
        """`store_time` returns the time by the store's clock."""
        self._client = client
        self._keys = keys
        self._store_time = store_time
        self.clock = clock
        self._current: definitions.Current | None = None
        self._reading = asyncio.Lock()
        self._settled: list[budgets.Settlement] = []
        self._pauses: dict[str, int] = {}
        """Model → ms for which its provider has asked not to be asked, until the store knows."""
        self._settling: asyncio.Task[None] | None = None
        self._unpriced: set[str] = set()

    def of(self, task_id: str, fence: str, agent: str, heartbeat: str) -> TaskAccount:
        """The account of one attempt of a task. `heartbeat`: the one that fired it, or its run; empty: none."""
        run_id, is_step, step = task_id.partition("/")
        record = self._keys.run(run_id) if is_step else self._keys.task(task_id)
        turn = f"turn:{step}:" if is_step else "turn:"
        return TaskAccount(self, f"{task_id}:{fence}", record, turn, agent, heartbeat)

    async def reserve(
        self, of: TaskAccount, number: int, model: str, estimate: Estimate, *, in_batch: bool = False
    ) -> Reservation | budgets.Later | budget.Refusal | budgets.Paused:
        """Reserves a request, or returns why it may not be made now."""
        at, lost = self._store_time(), False
        while True:
            try:
                current = await self._definition()
                request, own = self._request(current, of, number, model, estimate, at)
                if in_batch:  # a pause that the provider has asked for doesn't concern its batches, nor does a limit
                    reserved = self._keys.batch.reserved
                    request = replace(request, model=f"{model} (batch)", reserved=reserved, rate=None, in_batch=True)
                answer = await self._send(current, request)
            except (CrewGone, NotFound):  # the store may have lost it, and get it back; else somebody stops this task
                self._current = None
                await self.clock.sleep(_AWAY_SECONDS)
                continue
            except NewerRecord as error:
                raise Postponed(str(error), seconds=AGAIN_SECONDS) from error
            if isinstance(answer, budgets.Later | budgets.Paused):
                return answer
            if isinstance(answer, budgets.Full):
                return budget.refused(answer.found, request.most)
            if isinstance(answer, budgets.Moved):
                at = datetime.fromtimestamp(answer.now_ms / 1000, UTC)
            elif isinstance(answer, budgets.Reserved):
                return Reservation(self, request, own, answer.wait_ms / 1000)
            elif answer == "redefined":
                self._current = None
            elif lost:
                raise RetryLater(f"task {of.id!r} has no record any more, so that its budget can't be counted")
            else:
                lost = True  # its record may be on its way, after a failover

    def _request(
        self,
        current: definitions.Current,
        of: TaskAccount,
        number: int,
        model: str,
        estimate: Estimate,
        at: datetime,
    ) -> tuple[budgets.Request, Prices]:
        crew = current.definition
        own = budget.prices(crew.prices)
        bound = list(budget.binding(crew.budgets, of.agent, of.heartbeat, at))
        rate = limits.of_model(crew.model_limits, model)
        is_estimated = bool(bound) or (rate is not None and rate.token_us is not None)
        most, is_priced = estimate(own) if is_estimated else (Amount(), True)
        is_unpriced = not is_priced and any(limit.budget.usd for limit in bound)
        if is_unpriced and model not in self._unpriced:
            self._unpriced.add(model)
            logger.warning(
                "the price of model %r is not known, so budgets of %s count its tokens only: set it in spec.prices",
                model,
                self._keys.crew,
            )
        reserved = self._keys.reserved(int(at.timestamp() * 1000) // _DAY_MS)
        request = budgets.Request(
            id=f"{of.id}:{number}",
            model=model,
            record=of.record,
            most=most,
            limits=bound,
            reserved=reserved,
            is_unpriced=is_unpriced,
            rate=rate,
            turn=of.turn + model,
            patience_ms=int(patience(number) * 1000),
            agent=of.agent if any(one.roles for one in crew.agents if one.agent_id == of.agent) else "",
            first=of.first if of.first != model else "",
        )
        return request, own

    def settle(self, request: budgets.Request, cost: Amount) -> None:
        """Notes what a request did cost. The store hears of it with the next request, or soon."""
        self._settled.append(budgets.Settlement(request, cost))
        self._tell()

    def pause(self, model: str, seconds: float) -> None:
        """The model's provider asks not to be asked for so long. All workers of the crew hear of it by the store."""
        self._pauses[model] = max(int(seconds * 1000), self._pauses.get(model, 0))
        self._tell()

    def _tell(self) -> None:
        if self._settling is None:
            self._settling = asyncio.create_task(self._settle(), name="settlements")

    async def close(self) -> None:
        """Tells the store of what it has not heard yet, if it answers."""
        if self._settling is not None:
            self._settling.cancel()
            await asyncio.gather(self._settling, return_exceptions=True)
        with suppress(CrewGone, NotFound, TimeoutError):  # else what was reserved counts
            async with Patience(_CLOSE_SECONDS):
                while self._settled or self._pauses:
                    await self._send_settled()

    async def _definition(self) -> definitions.Current:
        async with self._reading:  # a hundred tasks may ask at once
            if self._current is None:
                self._current = await outages.persist(lambda: definitions.current(self._client, self._keys))
            return self._current

    async def _send(self, current: definitions.Current, request: budgets.Request) -> _Answer:
        along, pauses = self._taken()
        try:
            return await outages.persist(
                lambda: budgets.reserve(self._client, self._keys, current.uid, current.digest, request, along, pauses)
            )
        except BaseException as error:
            self._put_back(along, pauses)
            if isinstance(error, asyncio.CancelledError):  # the store may have reserved it, and it will not be made
                self.settle(request, Amount())
            raise

    async def _settle(self) -> None:
        try:
            await self.clock.sleep(_SETTLE_SECONDS)
            while self._settled or self._pauses:
                await self._send_settled()
        except (CrewGone, NotFound):  # nothing is left that it could lower
            self._settled.clear()
            self._pauses.clear()
        finally:
            self._settling = None

    async def _send_settled(self) -> None:
        uid = (await self._definition()).uid
        along, pauses = self._taken()
        try:
            await outages.persist(lambda: budgets.settle(self._client, self._keys, uid, along, pauses))
        except BaseException:
            self._put_back(along, pauses)
            raise

    def _taken(self) -> tuple[list[budgets.Settlement], dict[str, int]]:
        along, pauses = self._settled[: budgets.SETTLED_AT_ONCE], self._pauses
        del self._settled[: len(along)]
        self._pauses = {}
        return along, pauses

    def _put_back(self, along: list[budgets.Settlement], pauses: dict[str, int]) -> None:
        self._settled[:0] = along
        self._pauses = {**pauses, **self._pauses}


def patience(number: int) -> float:
    """Returns the seconds for which the request of this number, within its attempt, may wait in its slot."""
    return BEGIN_SECONDS if number == 1 else SOON_SECONDS


@dataclass(frozen=True, slots=True)
class Reservation:
    """A request that may be made (agents/spending.py: Reserved)."""

    account: Account
    request: budgets.Request
    prices: Prices
    wait_seconds: float = 0.0
    """Seconds until it may be made."""

    @property
    def call(self) -> str:
        return self.request.id

    @property
    def is_bounded(self) -> bool:
        return bool(self.request.limits)

    def settle(self, cost: Amount | None) -> None:
        if self.request.is_counted:
            self.account.settle(self.request, self.request.most if cost is None else cost)

    def pause(self, seconds: float) -> None:
        self.account.pause(self.request.model, seconds)


class TaskAccount:
    """The spending of one attempt of a task (agents/spending.py: Spending)."""

    __slots__ = ("_account", "_number", "agent", "first", "heartbeat", "id", "record", "turn")

    def __init__(self, account: Account, attempt: str, record: str, turn: str, agent: str, heartbeat: str) -> None:
        self._account = account
        self._number = 0
        self.id = attempt
        self.record = record
        self.turn = turn
        self.agent = agent
        self.heartbeat = heartbeat
        self.first = ""
        """The model that was asked first."""

    async def reserve(self, model: str, estimate: Estimate, *, in_batch: bool = False) -> Reservation:
        self._number += 1
        self.first = self.first or model
        number, clock = self._number, self._account.clock
        until, pause = clock.monotonic() + SOON_SECONDS, _POLL_SECONDS
        while True:
            answer = await self._account.reserve(self, number, model, estimate, in_batch=in_batch)
            if isinstance(answer, Reservation):
                return await self._gone(answer)
            if isinstance(answer, budgets.Later):
                seconds = answer.ms / 1000
                if seconds > patience(number):
                    why = f"the limit of model {model!r} ({answer.limit}, modelLimits) is reached; its turn comes then"
                    raise Postponed(why, seconds=seconds, of_model=True)
                await clock.sleep(seconds)
                continue
            if isinstance(answer, budgets.Paused):
                seconds = answer.ms / 1000
                if seconds > patience(number):
                    later = seconds + random.random() * min(seconds, AGAIN_SECONDS)
                    raise Postponed(
                        f"the provider of model {model!r} has asked for a pause, of another {seconds:.1f} s",
                        seconds=later,
                        of_model=True,
                    )
                await clock.sleep(seconds * (1 + random.random() / 4))  # not all at the same moment
                continue
            if answer.kind in ("fail", "never"):
                raise BudgetExhausted(answer.reason)
            if answer.kind == "wait":
                raise Postponed(answer.reason, until_ms=answer.until_ms)
            if clock.monotonic() >= until:
                raise Postponed(answer.reason, seconds=AGAIN_SECONDS * (1 + random.random()))
            await clock.sleep(pause * (0.5 + random.random()))
            pause = min(2 * pause, 1.0)

    async def _gone(self, reserved: Reservation) -> Reservation:
        """Returns when the request may be made."""
        if reserved.wait_seconds:
            try:
                await self._account.clock.sleep(reserved.wait_seconds)
            except BaseException:  # it will not be made
                reserved.settle(Amount())
                raise
        return reserved
