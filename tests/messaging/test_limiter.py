"""RedisRateLimiter and AsyncRedisRateLimiter on a real server: the limit holds in every window."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from twins import Twin, ask

from waiting import until
from watchbill import message_names, names
from watchbill.errors import InvalidInput, StoreUnavailable
from watchbill.messaging import RateDecision, RedisRateLimiter

MINUTE, HOUR = 60, 3600


@pytest.fixture
def prefix() -> str:
    return f"limiter-{uuid.uuid4().hex}"


@pytest.fixture
def make(twin: Twin, redis_url: str, prefix: str) -> Callable[..., Any]:
    """Makes a limiter of the test's own name."""
    return lambda *args, **options: twin("RedisRateLimiter", prefix, *args, url=redis_url, **options)


async def us(client: Any) -> int:
    """The server's time in microseconds."""
    seconds, micros = await client.time()
    return int(seconds) * 1_000_000 + int(micros)


async def test_as_many_as_the_rate_are_allowed(make: Callable[..., Any]) -> None:
    limiter = make(rate=3, period=MINUTE)

    assert await ask(limiter.remaining, "user-123") == 3
    assert await ask(limiter.retry_after, "user-123") == 0
    assert [await ask(limiter.is_allowed, "user-123") for _ in range(5)] == [True, True, True, False, False]
    assert await ask(limiter.remaining, "user-123") == 0
    assert 0 < await ask(limiter.retry_after, "user-123") <= MINUTE
    assert await ask(limiter.is_allowed, "user-124") is True


async def test_a_decision_says_how_many_remain_and_when_to_come_back(make: Callable[..., Any]) -> None:
    limiter = make(rate=2, period=MINUTE)
    first, second, third = [await ask(limiter.decide, "k") for _ in range(3)]

    assert first == RateDecision(allowed=True, remaining=1, retry_after=0)
    assert (second.allowed, second.remaining, third.allowed, third.remaining) == (True, 0, False, 0)
    assert 0 < third.retry_after < second.retry_after <= MINUTE


async def test_no_window_has_more_and_steady_traffic_gets_all(make: Callable[..., Any], redis_client: Any) -> None:
    rate, period = 5, 0.2
    allowed: list[tuple[int, int]] = []  # between which times of the server

    async def hammer() -> None:  # never pauses: a limiter that counts denied calls would let none through
        limiter = make(rate=rate, period=period)
        while len(allowed) < 4 * rate:
            before = await us(redis_client)
            if await ask(limiter.is_allowed, "k"):
                allowed.append((before, await us(redis_client)))

    async with asyncio.timeout(180):
        await asyncio.gather(*(hammer() for _ in range(3)))

    for start, _ in allowed:
        surely_within = [1 for before, after in allowed if start <= before and after < start + period * 1e6]
        assert len(surely_within) <= rate


async def test_a_clients_clock_counts_for_nothing(make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    limiter, now = make(rate=1, period=MINUTE), time.time()
    assert await ask(limiter.is_allowed, "k")
    for wrong in (now + 3600, now - 3600):
        with monkeypatch.context() as clock:
            clock.setattr(time, "time", lambda: wrong)  # noqa: B023 - called here
            clock.setattr(time, "time_ns", lambda: int(wrong * 1e9))  # noqa: B023
            said = await ask(limiter.decide, "k")
        assert not said.allowed
        assert 0 < said.retry_after <= MINUTE


async def test_denied_calls_cost_nothing(make: Callable[..., Any], redis_client: Any, prefix: str) -> None:
    limiter = make(rate=2, period=MINUTE)
    await ask(limiter.is_allowed, "k")
    await ask(limiter.is_allowed, "k")
    log = message_names.rate_log(prefix, "k")
    before = await redis_client.zrange(log, 0, -1, withscores=True)

    for _ in range(20):
        assert await ask(limiter.is_allowed, "k") is False
        await ask(limiter.remaining, "k")
        await ask(limiter.retry_after, "k")
    assert await redis_client.zrange(log, 0, -1, withscores=True) == before


async def test_a_call_is_allowed_when_retry_after_says_so(
    make: Callable[..., Any], redis_client: Any, prefix: str
) -> None:
    limiter = make(rate=2, period=HOUR)
    now, log = await us(redis_client), message_names.rate_log(prefix, "k")
    await redis_client.zadd(log, {"old": now - 3_000_000_000, "new": now - 1_000_000})

    denied = await ask(limiter.decide, "k")
    later = await us(redis_client)
    assert not denied.allowed
    assert 600 - (later - now) / 1e6 <= denied.retry_after <= 600
    await redis_client.zadd(log, {"old": now - 3_600_000_000})  # a period ago: out of the window
    assert await ask(limiter.remaining, "k") == 1
    assert [await ask(limiter.is_allowed, "k") for _ in range(2)] == [True, False]


async def test_where_others_allowed_more_it_waits_for_enough_to_leave(
    make: Callable[..., Any], redis_client: Any, prefix: str
) -> None:
    now = await us(redis_client)
    await redis_client.zadd(message_names.rate_log(prefix, "k"), {f"{n}": now - n * 600_000_000 for n in range(5)})

    said = await ask(make(rate=2, period=HOUR).decide, "k")  # 40, 30, 20 and 10 minutes ago must leave
    assert (said.allowed, said.remaining) == (False, 0)
    assert 2400 < said.retry_after <= 3000


async def test_a_clock_that_is_set_back_stops_nobody_for_longer_than_a_period(
    make: Callable[..., Any], redis_client: Any, prefix: str
) -> None:
    limiter = make(rate=2, period=MINUTE)
    future = await us(redis_client) + 3_600_000_000
    await redis_client.zadd(message_names.rate_log(prefix, "k"), {"a": future, "b": future + 5})

    said = await ask(limiter.decide, "k")
    assert not said.allowed, "they were allowed, and it may have been just now"
    assert 0 < said.retry_after <= MINUTE


async def test_a_lost_reply_costs_one_call_and_not_two(
    twin: Twin, proxy: Callable[..., Awaitable[Any]], redis_client: Any, prefix: str
) -> None:
    way = await proxy()
    limiter = twin("RedisRateLimiter", prefix, 3, MINUTE, url=way.url)
    way.drop_every_reply_once = True

    assert [await ask(limiter.is_allowed, "k") for _ in range(4)] == [True, True, True, False]
    assert way.dropped == 4
    assert await redis_client.zcard(message_names.rate_log(prefix, "k")) == 3


async def test_a_log_is_gone_once_nothing_in_it_counts(
    make: Callable[..., Any], redis_client: Any, prefix: str
) -> None:
    await ask(make(rate=2, period=0.05).is_allowed, "k")
    await ask(make(rate=2, period=MINUTE).is_allowed, "long")

    assert 0 < await redis_client.pttl(message_names.rate_log(prefix, "long")) <= 60_001
    await until(lambda: _is_gone(redis_client, message_names.rate_log(prefix, "k")))


async def _is_gone(client: Any, key: str) -> bool:
    return not await client.exists(key)


async def test_limits_of_other_names_and_crews_are_others(twin: Twin, redis_url: str, prefix: str) -> None:
    crew = names.CrewKeys("team", prefix).prefix
    for name, key, options in (
        (f"{prefix}:a", "b", {}),
        (prefix, "a:b", {}),
        (f"{prefix}%3Aa", "b", {}),
        (prefix, "a:b", {"key_prefix": crew}),
    ):
        limiter = twin("RedisRateLimiter", name, 1, MINUTE, url=redis_url, **options)
        assert await ask(limiter.is_allowed, key) is True
        assert await ask(limiter.is_allowed, key) is False


async def test_an_outage_is_no_decision(twin: Twin, private_redis: Callable[[], Awaitable[Any]]) -> None:
    server = await private_redis()
    limiter = twin("RedisRateLimiter", "x", 1, MINUTE, url=server.url)
    await server.kill()

    for method in (limiter.is_allowed, limiter.remaining):
        with pytest.raises(StoreUnavailable):
            await ask(method, "k")


@pytest.mark.pure
@pytest.mark.parametrize(
    ("args", "field"),
    [
        (("",), "prefix"),
        (("x", 0), "rate"),
        (("x", 1.5), "rate"),
        (("x", True), "rate"),
        (("x", 10**7), "rate"),
        (("x", 1, 0), "period"),
        (("x", 1, -1), "period"),
        (("x", 1, float("nan")), "period"),
    ],
)
def test_what_is_wrong_with_a_limit_is_said(args: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        RedisRateLimiter(*args)
    assert caught.value.problems[0].path == field


@pytest.mark.pure
def test_a_key_is_text() -> None:
    with pytest.raises(InvalidInput, match="key"):
        RedisRateLimiter("x").is_allowed(5)  # type: ignore[arg-type]
