"""Destinations that fail: what the store knows of them, so that all workers of a crew leave them in peace together.

A destination that works has no entry. Every call is safe to send twice, but for the count of failures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import redis.asyncio

from watchbill.api.delivery import Destination
from watchbill.connection import outages, scripts
from watchbill.names import RECEIVER, CrewKeys
from watchbill.plan import deliveries as plan
from watchbill.store import packed
from watchbill.store.queue import BATCH, crew_gone
from watchbill.tasks import Priority

_TRIAL_SECONDS: Final = 120
"""Seconds within which a trial is made and has ended, if anything waits for it."""


@dataclass(frozen=True, slots=True)
class Circuit:
    """The store's knowledge of a destination that failed (packed in circuit.lua)."""

    failures: int = 0
    """In a row."""
    until_ms: int = 0
    """Nothing is sent to it before, by the server's clock."""
    is_gone: bool = False
    """It has asked for no further message."""


def key(destination: Destination) -> str:
    """Under which it is known whether a destination fails: one that is defined anew is another."""
    digest = hashlib.blake2b(plan.as_json(destination).encode(), digest_size=8).hexdigest()
    return f"{destination.name}@{digest}"


async def read(client: redis.asyncio.Redis, keys: CrewKeys, of: Sequence[str]) -> list[Circuit]:
    """Returns the store's knowledge of these destinations."""
    with outages.translated():
        found = await client.hmget(keys.circuits, list(of))
    return [_circuit(str(text)) if text else Circuit() for text in found]


async def is_redefined(client: redis.asyncio.Redis, keys: CrewKeys, agent: str, of: str) -> bool:
    """Returns whether the crew has another destination of this name by now (lib_destinations.lua). `agent`: its name on
    the delivery queue; `of`: its `key`."""
    with outages.translated():
        known = await client.hget(keys.meta, agent)
    return known is not None and str(known).strip() != of


async def failing(client: redis.asyncio.Redis, crews: Sequence[CrewKeys], now_ms: int) -> list[list[str]]:
    """Returns, for each crew, the names of destinations to which nothing is sent now, but for a trial."""
    with outages.translated():
        async with client.pipeline(transaction=False) as pipe:
            for keys in crews:
                pipe.hgetall(keys.circuits)
            replies: list[Any] = await pipe.execute() if crews else []
    since_ms = now_ms - _TRIAL_SECONDS * 1000  # one that nobody tries any more was defined anew, or gets no messages
    found = []
    for reply in replies:
        known = {str(name): _circuit(str(text)) for name, text in reply.items()}
        shown = {name.partition("@")[0] for name, one in known.items() if not one.is_gone and one.until_ms > since_ms}
        found.append(sorted(shown))
    return found


def _circuit(text: str) -> Circuit:
    failures, until_ms, gone, *_ = text.split(" ")
    return Circuit(int(failures), int(until_ms), gone == "1")


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that failed."""

    delivery: str
    attempt: int
    error: str
    status: int | None = None
    counts: bool = False
    """It says that the destination doesn't work: after some in a row others wait."""
    is_gone: bool = False
    """The destination asks for no further message."""
    asked_ms: int = 0
    """For so long it asks to wait, with all messages."""
    remaining: str = ""
    """Recipients that have not got the message, where others have, as JSON."""
    agent: str = ""
    """The destination's name on the delivery queue; empty: it makes no difference whether it was defined anew."""


NO_FAILURE: Final = Failure("", 0, "")


async def enter(
    client: redis.asyncio.Redis, keys: CrewKeys, uid: str, destination: Destination, trial_ms: int
) -> tuple[Circuit, int]:
    """Asks whether a message may be sent to a destination that failed. Returns what is known of it, and in how many ms
    to ask again; 0: it may be sent. Where it failed often that is the trial, and nobody else sends for `trial_ms`."""
    return (await _run(client, keys, uid, destination, "enter", shortest_ms=trial_ms))[:2]


async def record_success(client: redis.asyncio.Redis, keys: CrewKeys, uid: str, destination: Destination) -> Circuit:
    """A destination that failed took a message. Returns what is known of it now: of one to which nothing may be sent,
    the same as before, because that message was on its way by then."""
    return (await _run(client, keys, uid, destination, "success"))[0]


async def record_failure(
    client: redis.asyncio.Redis, keys: CrewKeys, uid: str, destination: Destination, failure: Failure
) -> tuple[Circuit, bool]:
    """Notes a failed attempt, in the delivery's record and for its destination. Returns what is known of that now, and
    whether the crew has another destination of this name by now (`failure.agent`)."""
    circuit, _, is_redefined = await _run(client, keys, uid, destination, "failure", failure)
    return circuit, is_redefined


async def defer(
    client: redis.asyncio.Redis,
    keys: CrewKeys,
    uid: str,
    agent: str,
    *,
    due_ms: int,
    before_ms: int = 0,
    of: str = "",
) -> int | None:
    """Delays all messages for a destination that wait, and those that are due before `before_ms`, until `due_ms`.
    Returns their number. `agent`: its name on the delivery queue. `of`: its `key`; None is returned, and nothing more
    delayed, once the crew has another destination of this name.

    This is much cheaper than to claim and to put off each of them.
    """
    behind, delayed = "0-0", 0
    while behind:
        reply = await _call(client, keys, "defer", uid, agent, due_ms, int(Priority.NORMAL), behind, BATCH, of)
        if reply is None:
            return None
        behind, delayed = str(reply[1]), delayed + int(reply[2])
    if not before_ms:
        return delayed
    rest = await _reschedule(client, keys, [uid, agent, "-inf", f"({before_ms}", due_ms], of=of)
    return None if rest is None else delayed + rest


async def bring_forward(
    client: redis.asyncio.Redis,
    keys: CrewKeys,
    uid: str,
    agent: str,
    *,
    due_ms: int,
    to_ms: int = 0,
    most: int | None = None,
) -> int:
    """The messages for a destination that are due at exactly `due_ms`, at most `most` of them, are due at `to_ms`; 0:
    now. Returns their number."""
    return await _reschedule(client, keys, [uid, agent, due_ms, due_ms, to_ms or ""], most=most) or 0


async def release(client: redis.asyncio.Redis, keys: CrewKeys, uid: str, destination: Destination) -> None:
    """Makes everything due now that is delayed for a destination that was defined anew, and forgets its failures.
    Does nothing where that was done."""
    queue, skip = keys.deliveries(), "0"
    args = [uid, keys.crew, RECEIVER + destination.name, key(destination)]
    while skip:
        with outages.translated():
            reply = await scripts.run(client, "release", [*queue.fixed, keys.circuits], [*args, skip, BATCH])
        if reply[0] == "gone":
            raise crew_gone(keys)
        skip = str(reply[1])


async def _reschedule(
    client: redis.asyncio.Redis, keys: CrewKeys, which: Sequence[str | int], *, most: int | None = None, of: str = ""
) -> int | None:
    """`which`: uid, agent, low, high, due of reschedule.lua. None: the destination was defined anew."""
    total, skip = 0, 0
    while True:
        wanted = BATCH if most is None else min(BATCH, most - total)
        reply = await _call(client, keys, "reschedule", *which, skip, BATCH, wanted, of)
        if reply is None:
            return None
        looked, changed = int(reply[1]), int(reply[2])
        total, skip = total + changed, skip + looked - changed
        if looked < BATCH or total == most:
            return total


async def _call(client: redis.asyncio.Redis, keys: CrewKeys, script: str, *args: str | int) -> Any:
    """Returns None when the destination was defined anew."""
    with outages.translated():
        reply = await scripts.run(client, script, keys.deliveries().fixed, list(args))
    if reply[0] == "gone":
        raise crew_gone(keys)
    return None if reply[0] == "redefined" else reply


async def _run(
    client: redis.asyncio.Redis,
    keys: CrewKeys,
    uid: str,
    destination: Destination,
    what: str,
    failure: Failure = NO_FAILURE,
    *,
    shortest_ms: int | None = None,
) -> tuple[Circuit, int, bool]:
    names = [*keys.fixed, keys.circuits, keys.deliveries().task(failure.delivery)]
    args: list[Any] = [uid, key(destination), what]
    shortest_ms = int(plan.CIRCUIT_SECONDS * 1000) if shortest_ms is None else shortest_ms
    args += [plan.CIRCUIT_FAILURES, shortest_ms, int(plan.CIRCUIT_MAX_SECONDS * 1000)]
    args += [int(failure.counts), int(failure.is_gone), failure.asked_ms]
    line = packed.pack_attempt(failure.attempt, failure.status, " ".join(failure.error.split()))
    args += [line, destination.name, failure.remaining, failure.agent]
    with outages.translated():
        reply = await scripts.run(client, "circuit", names, args)
    if reply[0] == "gone":
        raise crew_gone(keys)
    _, failures, until_ms, is_gone, again_ms, is_redefined = reply
    return Circuit(int(failures), int(until_ms), is_gone == 1), int(again_ms), is_redefined == 1
