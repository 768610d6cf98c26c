"""Clocks: the machine's, and one that a test moves."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable

import pytest
import uvloop

from watchbill import clock
from watchbill.testing import FakeClock

pytestmark = pytest.mark.pure


async def turns(number: int = 5) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_the_machines_clock_is_aware_and_goes_forward() -> None:
    before = clock.SYSTEM.monotonic()
    assert clock.SYSTEM.now().utcoffset() is not None
    await clock.SYSTEM.sleep(0.001)
    assert clock.SYSTEM.monotonic() - before >= 0.001


async def test_who_sleeps_by_a_fake_clock_is_woken_when_it_was_moved_far_enough() -> None:
    fake, woken = FakeClock(), []

    async def sleep(seconds: float) -> None:
        await fake.sleep(seconds)
        woken.append(seconds)

    async with asyncio.TaskGroup() as group:
        for seconds in (0.3, 2.0, 0.0):
            group.create_task(sleep(seconds))
        await turns()
        assert (woken, fake.sleepers) == ([0.0], [0.3, 2.0])
        fake.advance(0.1)
        fake.advance(0.1)
        await turns()
        assert woken == [0.0]
        fake.advance(0.1)
        await turns()
        assert woken == [0.0, 0.3]
        fake.advance(60)
    assert (woken, fake.sleepers) == ([0.0, 0.3, 2.0], [])
    assert fake.monotonic() == pytest.approx(60.3)


async def test_who_gave_up_sleeping_is_forgotten() -> None:
    fake = FakeClock()
    task = asyncio.create_task(fake.sleep(1))
    await turns()
    task.cancel()
    await asyncio.wait([task])
    assert fake.sleepers == []
    fake.advance(1)


@pytest.mark.parametrize("is_set", [True, False])
async def test_an_event_is_waited_for_until_it_is_set_or_the_time_is_over(is_set: bool) -> None:
    fake, event = FakeClock(), asyncio.Event()
    waiting = asyncio.create_task(clock.wait_for_event(event, 10, fake))
    await turns()
    assert not waiting.done()
    if is_set:
        event.set()
    else:
        fake.advance(10)
    assert await waiting is is_set
    await turns()
    assert fake.sleepers == []


def test_timers_are_called_in_their_order_when_their_time_has_come() -> None:
    clock = FakeClock()
    called: list[str] = []
    clock.call_later(3, called.append, "third")
    clock.call_later(1, called.append, "first")
    cancelled = clock.call_later(2, called.append, "cancelled")
    clock.call_later(2, lambda: clock.call_later(0, called.append, "second's own"))
    assert clock.sleepers == [1, 2, 2, 3]
    clock.advance(0.9)
    assert called == []
    cancelled.cancel()
    clock.advance(1.1)
    assert called == ["first", "second's own"]
    cancelled.cancel()
    clock.advance(10)
    assert called == ["first", "second's own", "third"]
    assert clock.sleepers == []


LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


@pytest.mark.parametrize("loop", LOOPS)
def test_patience_reads_an_answer_that_came_while_this_process_stood_still(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    ours, theirs = socket.socketpair()

    def stand_still() -> None:
        theirs.send(b"answer\n")
        time.sleep(1)

    async def read() -> bytes:
        with theirs:
            reader, writer = await asyncio.open_connection(sock=ours)
            try:
                async with clock.Patience(0.1):
                    asyncio.get_running_loop().call_later(0.01, stand_still)
                    return await reader.readline()
            finally:
                writer.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(read()) == b"answer\n"


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("seconds", [-1, 0, 0.1])
def test_patience_ends_where_no_answer_comes(seconds: float, loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def wait() -> None:
        async with clock.Patience(seconds):
            await asyncio.Event().wait()

    with asyncio.Runner(loop_factory=loop) as runner:
        began = clock.SYSTEM.monotonic()
        with pytest.raises(TimeoutError):
            runner.run(asyncio.wait_for(wait(), 60))
        assert seconds / 2 <= clock.SYSTEM.monotonic() - began < 60


@pytest.mark.parametrize("loop", LOOPS)
def test_patience_ends_though_something_blocks_the_loop_again_and_again(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    blocks = 0

    async def block() -> None:
        nonlocal blocks
        while True:
            time.sleep(2 * 0.02 + 1.5 * clock.LATE_SECONDS)
            blocks += 1
            await asyncio.sleep(0)

    async def wait() -> None:
        blocking = asyncio.create_task(block())
        try:
            async with clock.Patience(clock.PARTS * 0.02):
                while blocks < 500:
                    await asyncio.sleep(0)
        finally:
            blocking.cancel()

    with asyncio.Runner(loop_factory=loop) as runner, pytest.raises(TimeoutError):
        runner.run(wait())
    assert clock.PARTS < blocks < 500


def test_a_patient_timer_that_is_late_gives_others_time_before_it_calls() -> None:
    fake, called = FakeClock(), list[str]()
    clock.PatientTimer(fake, 1.0, called.append, "in time")
    clock.PatientTimer(fake, 2.0, called.append, "late")
    cancelled = clock.PatientTimer(fake, 2.0, called.append, "cancelled")
    fake.advance(1.0)
    assert called == ["in time"]
    fake.advance(1.0 + clock.STOOD_STILL_SECONDS + 0.1)
    assert called == ["in time"]
    cancelled.cancel()
    fake.advance(clock.AFTER_THAT_SECONDS)
    assert called == ["in time", "late"]
    assert fake.sleepers == []


def test_a_patient_timer_that_is_late_again_and_again_calls() -> None:
    fake, called = FakeClock(), list[str]()
    clock.PatientTimer(fake, 1.0, called.append, "called")
    fake.advance(3.0)
    assert called == []
    fake.advance(clock.AFTER_THAT_SECONDS + 3.0)
    assert called == ["called"]
