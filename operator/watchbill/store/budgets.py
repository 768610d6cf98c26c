"""Counts what requests to models have spent, and may cost at most while they are under way, and lets them go as the
limits of models say: stubs over store/scripts/spend.lua.

A reservation is spending that settling lowers. So whatever becomes of the one who made it, no budget is exceeded.
Every call is safe to send twice: a request is reserved once by its id, and settled once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import redis.asyncio

from watchbill import connection
from watchbill.connection import outages, scripts
from watchbill.names import CrewKeys
from watchbill.plan.budget import FIELDS, Amount, Counter, Limit, Spent, bounds, window_name
from watchbill.plan.limits import ModelRate
from watchbill.store import packed
from watchbill.store.queue import BATCH, crew_gone

SETTLED_AT_ONCE: Final = 100
"""Settlements that one call takes."""
_FIELD: Final = "\x1f"
_UNPRICED: Final = "unpriced:"
_NONE: Final[Mapping[str, int]] = {}


@dataclass(frozen=True, slots=True)
class Request:
    """A request to a model that is to be made."""

    id: str
    """An id that no other request has."""
    model: str
    record: str
    """The key of the task's record, or of its run's."""
    most: Amount
    """The most that it may cost."""
    limits: Sequence[Limit]
    reserved: str
    """The key under which it is kept until it has ended."""
    is_unpriced: bool = False
    """The price of its model is not known, and a budget counts money."""
    rate: ModelRate | None = None
    """The limit of its model."""
    turn: str = ""
    """The field of the record that keeps when it has its turn."""
    patience_ms: int = 0
    """Milliseconds for which it may wait once it has that."""
    agent: str = ""
    """The agent that makes it, if it has roles: it gets no work of these while it may not ask."""
    first: str = ""
    """The model that the agent asks before this one, which stands in for it; empty: there is none."""
    in_batch: bool = False
    """It goes by a batch of the model's provider."""

    @property
    def is_counted(self) -> bool:
        """The store keeps it until it is settled."""
        return bool(self.limits) or self.rate is not None


@dataclass(frozen=True, slots=True)
class Settlement:
    """A reserved request that has ended, and what it did cost."""

    request: Request
    cost: Amount


@dataclass(frozen=True, slots=True)
class Moved:
    """The store's clock is in another window than the caller's."""

    now_ms: int


@dataclass(frozen=True, slots=True)
class Paused:
    """The provider of the model has asked for a pause, which lasts for so long."""

    ms: int


@dataclass(frozen=True, slots=True)
class Later:
    """The limit of the model gives the request a turn, after so long."""

    ms: int
    limit: str
    """In words."""


@dataclass(frozen=True, slots=True)
class Reserved:
    """The request may be made, after so long."""

    wait_ms: int


@dataclass(frozen=True, slots=True)
class Full:
    """Some budgets have no room for the request. Nothing was reserved."""

    found: Sequence[Spent]


@dataclass(frozen=True, slots=True)
class Counted:
    """All that the budgets of a crew have counted, but for those of runs."""

    now_ms: int
    counters: Mapping[str, Counter]
    """By `plan.budget.field_of`."""
    unpriced: Sequence[str]
    """Models that were asked and whose price is not known."""


async def reserve(
    client: redis.asyncio.Redis,
    keys: CrewKeys,
    uid: str,
    definition: str,
    request: Request,
    settled: Sequence[Settlement] = (),
    pauses: Mapping[str, int] = _NONE,
) -> Full | Later | Moved | Paused | Reserved | str:
    """Reserves for a request in all of its limits, or in none; settles others, and has all workers of the crew leave
    models alone, each for so many ms (`pauses`). In one trip.

    `definition`: the digest of the one that the limits are from. Returns `redefined`: it is another by now;
    `lost`: the task or run has no record any more. Raises CrewGone.
    """
    asked: list[Any] = [definition, *_settled(settled), *_paused(pauses)]
    asked += [request.id, request.model, *request.most, int(request.is_unpriced), *_rated(request)]
    for limit in request.limits:
        where = {"Run": "record", "Heartbeat": "beat"}.get(limit.budget.scope, "crew")
        most = ("" if bound is None else bound for bound in bounds(limit.budget))
        asked += [where, limit.field, window_name(limit.budget), *limit.span, *most]
    reply = await _call(client, keys, uid, request, settled, asked)
    match reply[0]:
        case "ok":
            return Reserved(int(reply[1]))
        case "moved":
            return Moved(int(reply[1]))
        case "later":
            return Later(int(reply[1]), request.rate.said if request.rate is not None else "")
        case "pause":
            return Paused(int(reply[1]))
        case "full":
            rows = zip(*[iter(reply[1:])] * 4, strict=True)
            return Full(
                [Spent(request.limits[n - 1], bool(is_out), Amount(int(t), int(m))) for n, is_out, t, m in rows]
            )
    return str(reply[0])


async def settle(
    client: redis.asyncio.Redis,
    keys: CrewKeys,
    uid: str,
    settled: Sequence[Settlement],
    pauses: Mapping[str, int] = _NONE,
) -> None:
    """Lowers what was reserved for requests that have ended to what they did cost. `pauses`: as for `reserve`. Raises
    CrewGone."""
    await _call(client, keys, uid, None, settled, ["", *_settled(settled), *_paused(pauses)])


def _rated(request: Request) -> list[Any]:
    rate = request.rate
    of = (rate.every_us, rate.limit.burst, rate.token_us, rate.limit.tokens) if rate is not None else (None,) * 4
    asks = (request.turn, request.patience_ms, request.agent, request.first, int(request.in_batch))
    return [*("" if value is None else value for value in of), *asks]


def _settled(settled: Sequence[Settlement]) -> list[Any]:
    return [len(settled), *(value for one in settled for value in (one.request.id, *one.cost))]


def _paused(pauses: Mapping[str, int]) -> list[Any]:
    return [len(pauses), *(value for pause in pauses.items() for value in pause)]


async def _call(
    client: redis.asyncio.Redis,
    keys: CrewKeys,
    uid: str,
    request: Request | None,
    settled: Sequence[Settlement],
    args: Sequence[Any],
) -> Any:
    own = (request.reserved, request.record) if request else (keys.reserved(0), keys.meta)
    names = [*keys.fixed, keys.spending, *own]
    names += [key for one in settled for key in (one.request.reserved, one.request.record)]
    with outages.translated():
        reply = await scripts.run(client, "spend", names, [uid, *args])
    if reply[0] == "gone":
        raise crew_gone(keys)
    return reply


def _counter(text: str) -> Counter:
    window, _, end, tokens, nano, held_tokens, held_nano, _, refused, allowed = text.split(_FIELD)
    spent, held = Amount(int(tokens), int(nano)), Amount(int(held_tokens), int(held_nano))
    return Counter(window, int(end), spent, held, int(refused), allowed)


async def counted(client: redis.asyncio.Redis, keys: CrewKeys) -> Counted:
    """Reads all that the crew's budgets have counted, but for those of runs."""
    with outages.translated():
        found = await client.hgetall(keys.spending)
        now_ms = await connection.now_ms(client, keys.meta)
    fields = {str(field): str(value) for field, value in found.items()}
    return Counted(
        now_ms,
        {field: _counter(text) for field, text in fields.items() if field.startswith(FIELDS)},
        sorted(field.removeprefix(_UNPRICED) for field in fields if field.startswith(_UNPRICED)),
    )


async def release(client: redis.asyncio.Redis, keys: CrewKeys, uid: str) -> int:
    """Makes all tasks due now that were postponed, for the budgets have changed. Returns how many these were. Raises
    CrewGone."""
    released, skip = 0, 0
    with outages.translated():
        behind = f"({await connection.now_ms(client, keys.meta)}"
    while True:
        with outages.translated():
            found = await client.zrangebyscore(keys.delayed, behind, "+inf", start=skip, num=BATCH)
        page = [str(member) for member in found]
        if not page:
            return released
        names = list(keys.fixed)
        for member in map(packed.Member.unpack, page):
            names += keys.of_item(member.task_id, member.agent)
        with outages.translated():
            reply = await scripts.run(client, "unpostpone", names, [uid, keys.crew, *page])
        if reply[0] == "gone":
            raise crew_gone(keys)
        released, skip = released + int(reply[1]), skip + len(page) - int(reply[1])
