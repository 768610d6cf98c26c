"""The timer of heartbeats: it wakes nobody before its time."""

from __future__ import annotations

from datetime import timedelta

from waiting import until
from watchbill.scheduler.alarm import Alarm
from watchbill.testing import FakeClock


async def test_an_alarm_sleeps_until_it_is_due_and_not_in_circles_until_then() -> None:
    clock, rung = FakeClock(), []
    alarm = Alarm(lambda: rung.append(clock.monotonic()), clock, timedelta(seconds=60))
    alarm.start()
    try:
        await until(lambda: clock.sleepers == [60.0])
        alarm.set(timedelta(seconds=2.5))
        await until(lambda: clock.sleepers == [2.5])
        clock.advance(2)
        alarm.set(timedelta(seconds=90))
        await until(lambda: clock.sleepers == [60.0])
        clock.advance(60)
        await until(lambda: rung == [0.0, 62.0])
        await until(lambda: clock.sleepers == [60.0])
    finally:
        alarm.stop()
