"""RedisLock and AsyncRedisLock on a real server: one holder, fences, renewal, and what a holder hears of a loss."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import pytest
from twins import Twin, ask, entered

from waiting import until
from watchbill import message_names, names
from watchbill.errors import InvalidInput, LockLost, StoreUnavailable
from watchbill.messaging import AsyncRedisLock, RedisLock
from watchbill.messaging.lock import LockCore
from watchbill.messaging.steps import Pause, Script
from watchbill.testing import FakeClock

LONG = 60.0
"""An expiry that no test outlives."""


@pytest.fixture
def name() -> str:
    return f"lock-{uuid.uuid4().hex}"


@pytest.fixture
def make(twin: Twin, redis_url: str, name: str) -> Callable[..., Any]:
    """Makes another holder of the test's lock."""
    return lambda expire=LONG, **options: twin("RedisLock", name, expire, url=redis_url, **options)


@pytest.fixture
def renews_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LockCore, "pause", lambda *_: 0.01)


async def test_one_holder_at_a_time_has_it(make: Callable[..., Any]) -> None:
    one, two = make(), make()

    assert await ask(one.acquire) is True
    assert (one.held, two.held, two.fence) == (True, False, None)
    assert await ask(two.acquire, retry=0) is False
    assert await ask(two.release) is False
    assert await ask(one.release) is True
    assert (one.held, one.fence) == (False, None)
    assert await ask(one.release) is False
    assert await ask(two.acquire, retry=0) is True


async def test_a_failed_second_acquire_spoils_nothing(make: Callable[..., Any]) -> None:
    lock = make()
    await ask(lock.acquire)
    fence = lock.fence

    assert await ask(lock.acquire, retry=0) is False
    assert (lock.held, lock.fence) == (True, fence)
    assert await ask(lock.renew) is True
    assert await ask(lock.release) is True


async def test_it_keeps_out_all_others_while_one_reads_and_writes(
    make: Callable[..., Any], redis_client: Any, name: str
) -> None:
    async def count() -> None:
        lock = make()
        for _ in range(10):
            assert await ask(lock.acquire, retry=100_000, retry_delay=0.002)
            seen = int(await redis_client.get(name + "-count") or 0)
            await redis_client.set(name + "-count", seen + 1, ex=60)
            assert await ask(lock.release)

    await asyncio.gather(*(count() for _ in range(4)))

    assert await redis_client.get(name + "-count") == "40"


async def test_each_acquisition_has_a_greater_fence(make: Callable[..., Any], redis_client: Any, name: str) -> None:
    fences = []

    async def take() -> None:
        lock = make()
        await ask(lock.acquire, retry=0)
        fences.append(lock.fence)
        await ask(lock.release)

    for _ in range(3):
        await take()
    await redis_client.delete(message_names.lock(name))  # the server has lost its data
    await take()
    await redis_client.hset(message_names.lock(name), "fence", 9 * 10**15)  # the server's clock was an hour or so ahead
    await take()

    assert all(isinstance(fence, int) for fence in fences)
    assert sorted(set(fences)) == fences
    assert fences[-1] == 9 * 10**15 + 1


async def test_the_server_ends_it(make: Callable[..., Any]) -> None:
    one, two = make(0.05), make()
    await ask(one.acquire)

    await until(lambda: ask(two.acquire, retry=0))
    assert not one.held
    assert await ask(one.renew) is False
    assert await ask(one.release) is False
    assert await ask(two.release) is True


async def test_nobody_else_needs_to_come_for_it_to_be_over(
    make: Callable[..., Any], redis_client: Any, name: str
) -> None:
    async def is_over() -> bool:
        seconds, micros = await redis_client.time()
        return int(await redis_client.hget(message_names.lock(name), "until")) <= int(seconds) * 1_000_000 + int(micros)

    lock = make(0.02)
    await ask(lock.acquire)

    await until(lambda: not lock.held)
    assert await ask(lock.renew) is False
    await until(is_over)  # a moment later: the holder counts from before it asked
    assert await ask(lock.release) is False


async def test_renewing_makes_it_end_later(make: Callable[..., Any], redis_client: Any, name: str) -> None:
    async def ends() -> int:
        return int(await redis_client.hget(message_names.lock(name), "until"))

    lock = make()
    await ask(lock.acquire)
    first, fence = await ends(), lock.fence

    assert await ask(lock.renew) is True
    second = await ends()
    assert await ask(lock.renew, expire=2 * LONG) is True
    assert first < second <= await ends() - int(LONG * 1e6)
    assert lock.fence == fence


async def test_whoever_waits_gets_it_when_it_is_released(make: Callable[..., Any]) -> None:
    one, two = make(), make()
    await ask(one.acquire)
    waiting = asyncio.create_task(ask(two.acquire, retry=100_000, retry_delay=0.01))

    await ask(one.release)
    assert await waiting is True


async def test_a_lost_reply_changes_nothing(
    twin: Twin, proxy: Callable[..., Awaitable[Any]], redis_client: Any, name: str
) -> None:
    way = await proxy()
    lock = twin("RedisLock", name, LONG, url=way.url)
    way.drop_every_reply_once = True

    assert await ask(lock.acquire, retry=0) is True
    assert str(lock.fence) == await redis_client.hget(message_names.lock(name), "fence")
    assert await ask(lock.renew) is True
    assert await ask(lock.release) is True
    assert way.dropped == 3


async def test_the_context_releases_it_at_the_end(make: Callable[..., Any]) -> None:
    one, two = make(), make()
    async with entered(one.acquire_context()) as acquired:
        assert acquired is True
        assert one.held
        async with entered(two.acquire_context(retry=0)) as also:
            assert also is False
        assert await ask(two.acquire, retry=0) is False

    assert not one.held
    assert await ask(two.acquire, retry=0) is True


@pytest.mark.parametrize("error", [ValueError, TimeoutError, KeyboardInterrupt])
async def test_what_its_block_raises_comes_out_and_it_is_released(
    make: Callable[..., Any], error: type[BaseException]
) -> None:
    async def work() -> None:
        async with entered(make().acquire_context()):
            raise error("mine")

    with pytest.raises(error, match="mine"):
        await work()
    assert await ask(make().acquire, retry=0) is True


@pytest.mark.usefixtures("renews_at_once")
async def test_the_context_renews_it(make: Callable[..., Any], redis_client: Any, name: str) -> None:
    async with entered(make().acquire_context()) as acquired:
        assert acquired
        seen: set[str] = set()

        async def moved() -> bool:
            seen.add(await redis_client.hget(message_names.lock(name), "until"))
            return len(seen) > 3

        await until(moved)


@pytest.mark.usefixtures("renews_at_once")
@pytest.mark.parametrize("lost", [{}, {"token": "another's"}, {"until": 1}], ids=["deleted", "taken", "expired"])
async def test_a_lock_that_is_lost_is_told_of(
    make: Callable[..., Any], twin: Twin, redis_client: Any, name: str, lost: dict[str, Any]
) -> None:
    lock = make()
    ended = asyncio.Event()

    async def lose() -> None:
        key = message_names.lock(name)
        await (redis_client.hset(key, mapping=lost) if lost else redis_client.delete(key))

    async def work() -> None:
        async with entered(lock.acquire_context()):
            await lose()
            if twin.is_async:
                await asyncio.sleep(600)  # is cancelled
            await until(lambda: not lock.held)
            ended.set()

    with pytest.raises(LockLost, match=name):
        await work()
    assert ended.is_set() is not twin.is_async
    assert (lock.held, lock.fence) == (False, None)


async def test_an_outage_loses_it_when_it_expires_and_not_before(
    twin: Twin, private_redis: Callable[[], Awaitable[Any]]
) -> None:
    server = await private_redis()
    lock = twin("RedisLock", "x", 1.0, url=server.url)

    async def work() -> None:
        async with entered(lock.acquire_context()):
            await server.kill()
            if twin.is_async:
                await asyncio.sleep(600)  # is cancelled
            await until(lambda: not lock.held)

    began = asyncio.get_running_loop().time()
    with pytest.raises(LockLost):
        await work()
    assert asyncio.get_running_loop().time() - began >= 0.99


@pytest.mark.usefixtures("renews_at_once")
async def test_a_lock_that_can_not_be_released_ends_by_itself(
    twin: Twin, private_redis: Callable[[], Awaitable[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    server = await private_redis()
    lock = twin("RedisLock", "x", LONG, url=server.url)

    async with entered(lock.acquire_context()):
        await server.kill()  # the work is done, under the lock
        await until(lambda: "can't renew the lock 'x'" in caplog.text)

    assert caplog.text.count("can't renew") == 1
    assert "can't release the lock 'x', which ends by itself" in caplog.text
    assert not lock.held
    with pytest.raises(StoreUnavailable):
        await ask(lock.acquire)


async def test_a_task_that_is_cancelled_within_the_context_releases_it(redis_url: str, name: str) -> None:
    twin = Twin(is_async=True)
    one, two = (twin("RedisLock", name, LONG, url=redis_url) for _ in range(2))
    entered_it = asyncio.Event()

    async def work() -> None:
        async with one.acquire_context():
            entered_it.set()
            await asyncio.sleep(600)

    working = asyncio.create_task(work())
    await entered_it.wait()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert await two.acquire(retry=0) is True
    await twin.close()


@pytest.mark.parametrize("way", ["acquire", "context"])
async def test_a_task_that_is_cancelled_at_any_moment_leaves_no_lock(redis_url: str, name: str, way: str) -> None:
    twin = Twin(is_async=True)
    client = twin("RedisClient", redis_url)

    async def work(lock: AsyncRedisLock) -> None:
        if way == "acquire":
            await lock.acquire(retry=0)
            await lock.release()
        else:
            async with lock.acquire_context(retry=0):
                await asyncio.sleep(0)

    cancelled = 0
    for turns in range(60):
        one, two = (AsyncRedisLock(f"{name}-{turns}", LONG, client) for _ in range(2))
        working = asyncio.create_task(work(one))
        for _ in range(turns // 2):
            await asyncio.sleep(0)
        working.cancel()
        await asyncio.wait([working])
        cancelled += working.cancelled()
        assert await two.acquire(retry=0), turns
    assert cancelled > 3
    await twin.close()


async def test_a_key_prefix_keeps_two_locks_of_a_name_apart(
    make: Callable[..., Any], redis_client: Any, name: str
) -> None:
    crew = names.CrewKeys("team", name).prefix
    one, two = make(), make(key_prefix=crew)

    assert await ask(one.acquire, retry=0) is True
    assert await ask(two.acquire, retry=0) is True
    assert await redis_client.exists(f"wb:lock:{name}", f"wb:{{team/{name}}}:lock:{name}") == 2


@pytest.mark.pure
@pytest.mark.parametrize(
    ("args", "field"),
    [(("",), "name"), ((7,), "name"), (("x", 0), "expire"), (("x", "10"), "expire"), (("x", 1e12), "expire")],
)
def test_what_is_wrong_with_a_lock_is_said(args: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        RedisLock(*args)
    assert caught.value.problems[0].path == field


# ---------------------------------------------------------------- the core alone


def finished(steps: Generator[Any, Any, Any], *answers: Any) -> tuple[list[Any], Any]:
    """The steps that a core takes when it gets these answers, and its result."""
    taken = [next(steps)]
    for answer in answers:
        try:
            taken.append(steps.send(answer))
        except StopIteration as end:
            return taken, end.value
    raise AssertionError("it wants more answers")


@pytest.mark.pure
def test_retries_are_as_many_and_as_long_as_asked() -> None:
    taken, holding = finished(LockCore("x", 10, "wb:", FakeClock()).acquire(2, 0.4), "0", None, "0", None, "5")
    assert [type(step) for step in taken] == [Script, Pause, Script, Pause, Script]
    assert all(0.2 <= step.seconds <= 0.4 for step in taken if isinstance(step, Pause))
    assert len({step.args[0] for step in taken if isinstance(step, Script)}) == 3, "a token was used twice"
    assert holding.fence == 5

    taken, holding = finished(LockCore("x", 10, "wb:", FakeClock()).acquire(1, 0.4), "0", None, "0")
    assert (len(taken), holding) == (3, None)


@pytest.mark.pure
def test_it_is_held_for_as_long_as_it_surely_is() -> None:
    clock = FakeClock()
    core = LockCore("x", 10, "wb:", clock)
    steps = core.acquire(0, 0)
    next(steps)
    clock._passed += 4  # the answer takes its time: it counts from when it was asked for
    with pytest.raises(StopIteration) as end:
        steps.send("5")
    holding = end.value.value

    assert core.left(holding) == 6
    assert core.pause(holding, is_renewed=True) == pytest.approx(10 / 3)
    assert core.pause(holding, is_renewed=False) == 1
    clock._passed += 5.5
    assert core.is_held(holding)
    assert core.pause(holding, is_renewed=False) == pytest.approx(0.25)
    finished(core.renew(holding), 1)
    assert core.left(holding) == 10
    clock._passed += 10
    assert not core.is_held(holding)
    with pytest.raises(StopIteration) as end:
        next(core.renew(holding))  # nobody is asked
    assert end.value.value is False
