"""Destinations that fail while workers die or disagree, or beside others: nothing is lost, doubled or forgotten."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from receiver import Receiver, receiving
from workshop import Crew, Make

from waiting import until
from watchbill import metrics
from watchbill.api.delivery import Destination
from watchbill.clock import SYSTEM
from watchbill.names import RECEIVER
from watchbill.plan import deliveries as plan
from watchbill.settings import Settings
from watchbill.store import circuits, deliveries
from watchbill.store.circuits import Circuit, Failure
from watchbill.worker.delivering.circuits import Circuits
from watchbill.worker.delivering.options import Delivering
from watchbill.worker.state import WorkerState

HOW = Delivering(schedule=(0.02,) * 9, slots=8, settings=Settings(delivery_allow="127.0.0.0/8"))
OPS = Destination.model_validate({"name": "ops", "webhook": {"url": "https://example.com"}})
TO_OPS = RECEIVER + "ops"
LONG_SECONDS = 3600.0


async def waiting(crew: Crew, n: int) -> None:
    """Puts so many deliveries for each destination of the crew on its delivery queue."""
    await crew.client.submit_many(crew.name, "a", ["x"] * n)
    await crew.client.cancel_all(crew.name)
    while await deliveries.move(crew.redis, crew.keys, crew.uid):
        pass


async def all_delivered(crew: Crew) -> bool:
    return {one.state for one in await deliveries.listed(crew.redis, crew.keys, 1000)} == {"completed"}


async def knowledge(crew: Crew, trial_seconds: float = 60.0) -> Circuits:
    """One worker's."""
    state, (seconds, _) = WorkerState(0.0, SYSTEM), await crew.redis.time()
    state.set_store_time(seconds * 1000)
    return Circuits(crew.redis, crew.keys, crew.uid, state, trial_seconds)


async def read(crew: Crew, destination: Destination = OPS) -> Circuit:
    return (await circuits.read(crew.redis, crew.keys, [circuits.key(destination)]))[0]


async def test_a_message_taken_after_a_pause_was_asked_for_lets_no_worker_send_before_its_end(make_crew: Make) -> None:
    crew = await make_crew({"a": "Gate"}, delivery=[OPS])
    one, other = await knowledge(crew), await knowledge(crew)
    await one.failed(OPS, Failure("d", 1, "busy", counts=True, agent=TO_OPS))
    await other.wait(OPS)
    asked_ms = int(LONG_SECONDS * 1000)
    await one.failed(OPS, Failure("d", 2, "busy", counts=True, asked_ms=asked_ms, agent=TO_OPS))
    await other.succeeded(OPS, TO_OPS)  # it was on its way when the pause began
    for each in (other, one):
        seconds = await each.wait(OPS)
        assert seconds is not None
        assert LONG_SECONDS - 60 < seconds < LONG_SECONDS + 61, "no later than what was delayed together"


async def test_a_trial_that_is_refused_for_good_shows_that_the_destination_answers_again(
    make_crew: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    crew = await make_crew({"a": "Gate"}, delivery=[OPS])
    await waiting(crew, 3)
    worker = await knowledge(crew, LONG_SECONDS)
    monkeypatch.setattr(plan, "CIRCUIT_SECONDS", 0.05)
    for i in range(plan.CIRCUIT_FAILURES):
        await worker.failed(OPS, Failure("d", i, "broken", counts=True, agent=TO_OPS))
    assert await crew.redis.zcard(crew.keys.deliveries().delayed) == 3

    async def is_trial() -> bool:
        return await worker.wait(OPS) == 0

    await until(is_trial)
    assert await worker.failed(OPS, Failure("d", 1, "400: too long", agent=TO_OPS)) == 0
    assert await read(crew) == Circuit()
    seconds, _ = await crew.redis.time()
    delayed = await crew.redis.zrange(crew.keys.deliveries().delayed, 0, -1, withscores=True)
    assert all(due_ms / 1000 < seconds + 60 for _, due_ms in delayed), "the others come at once"


async def test_a_worker_that_hears_late_that_a_trial_succeeded_delays_nothing(
    make_crew: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "CIRCUIT_SECONDS", 0.05)
    crew = await make_crew({"a": "Gate"}, delivery=[OPS])
    late, other = await knowledge(crew, LONG_SECONDS), await knowledge(crew, LONG_SECONDS)
    await after_the_failure(crew, OPS)

    async def is_trial() -> bool:
        return await other.wait(OPS) == 0

    await until(is_trial)
    assert await late.wait(OPS)  # the other makes the trial
    await other.succeeded(OPS, TO_OPS)
    await waiting(crew, 3)
    await late.defer(OPS, TO_OPS)
    seconds, _ = await crew.redis.time()
    delayed = await crew.redis.zrange(crew.keys.deliveries().delayed, 0, -1, withscores=True)
    assert [one for one, due_ms in delayed if due_ms / 1000 > seconds + 60] == []


async def test_a_delivery_whose_destination_is_no_longer_defined_is_told_and_counted(make_crew: Make) -> None:
    crew = await make_crew({"a": "Gate"}, delivery=[OPS])
    crew.open()
    await waiting(crew, 1)
    await crew.define(delivery=[])
    counted = metrics.DELIVERIES.labels(*metrics.of_crew(crew.name), "none", "dead")
    async with crew.in_process(delivering=HOW):
        await until(lambda: counted._value.get() == 1)
    (delivery,) = await deliveries.listed(crew.redis, crew.keys, 10)
    assert (delivery.state, delivery.log) == ("dead", ())
    told = f"delivery {delivery.id} is dead: the crew has no destination 'ops' any more"
    assert [event.message for event in await crew.events() if "is dead" in event.message] == [told]


# ---------------------------------------------------------------- workers that die

Leave = Callable[[Crew, Destination], Awaitable[object]]
"""Leaves the store as a worker does that is killed at one point."""


async def after_the_failure(crew: Crew, to: Destination) -> None:
    for i in range(plan.CIRCUIT_FAILURES):
        await circuits.record_failure(crew.redis, crew.keys, crew.uid, to, Failure("d", i, "broken", counts=True))


async def in_the_sweep(crew: Crew, to: Destination) -> None:
    await after_the_failure(crew, to)
    due_ms = (await read(crew, to)).until_ms + 300
    await circuits.defer(crew.redis, crew.keys, crew.uid, TO_OPS, due_ms=due_ms)


async def after_the_sweep(crew: Crew, to: Destination) -> None:
    await after_the_failure(crew, to)
    until_ms = (await read(crew, to)).until_ms
    of, due_ms = (crew.redis, crew.keys, crew.uid, TO_OPS), until_ms + 300
    await circuits.defer(*of, due_ms=due_ms, before_ms=due_ms)
    await circuits.bring_forward(*of, due_ms=due_ms, to_ms=until_ms, most=1)


async def in_the_trial(crew: Crew, to: Destination) -> None:
    await after_the_sweep(crew, to)

    async def is_trial() -> bool:
        return (await circuits.enter(crew.redis, crew.keys, crew.uid, to, 300))[1] == 0

    await until(is_trial)


async def after_the_trial(crew: Crew, to: Destination) -> None:
    await in_the_trial(crew, to)
    await circuits.record_success(crew.redis, crew.keys, crew.uid, to)


@pytest.mark.parametrize(
    "leave", [after_the_failure, in_the_sweep, after_the_sweep, in_the_trial, after_the_trial], ids=lambda f: f.__name__
)
async def test_what_a_worker_left_that_died_is_delivered_once(
    make_crew: Make, monkeypatch: pytest.MonkeyPatch, leave: Leave
) -> None:
    monkeypatch.setattr(plan, "CIRCUIT_SECONDS", 0.1)
    monkeypatch.setattr("watchbill.worker.delivering.circuits.TRIAL_POLL_SECONDS", 0.2)
    async with receiving() as receiver:
        crew = await make_crew({"a": "Gate"}, delivery=[receiver.destination()])
        crew.open()
        await waiting(crew, 20)
        await leave(crew, receiver.destination())
        async with crew.in_process(delivering=HOW):
            await until(lambda: all_delivered(crew))
        assert len(receiver.ids) == len(set(receiver.ids)) == 20
        assert await crew.redis.exists(crew.keys.circuits) == 0


async def test_after_a_kill_with_an_open_circuit_another_worker_makes_the_trial(make_crew: Make) -> None:
    async with receiving(always=500) as receiver:
        crew = await make_crew({"a": "Gate"}, delivery=[receiver.destination()])
        crew.open()
        await waiting(crew, 100)
        first = await crew.worker(environment={"WATCHBILL_DELIVERY_ALLOW": "127.0.0.0/8"})
        await until(lambda: _is_delayed(crew, 100))
        first.kill()
        failed = len(receiver.got)
        assert plan.CIRCUIT_FAILURES <= failed < 100
        receiver.always = 204
        await _let_pass(crew, receiver, 300)
        async with crew.in_process(delivering=HOW):
            await until(lambda: all_delivered(crew))
        assert len(receiver.got) - failed == len(set(receiver.ids)) == 100


async def _is_delayed(crew: Crew, n: int) -> bool:
    return int(await crew.redis.zcard(crew.keys.deliveries().delayed)) == n


async def _let_pass(crew: Crew, receiver: Receiver, seconds: int) -> None:
    """Makes all times in the store earlier at which something for the receiver is due."""
    delayed = crew.keys.deliveries().delayed
    for member, due_ms in await crew.redis.zrange(delayed, 0, -1, withscores=True):
        await crew.redis.zadd(delayed, {member: due_ms - seconds * 1000})
    key = circuits.key(receiver.destination())
    failures, until_ms, *rest = str(await crew.redis.hget(crew.keys.circuits, key)).split(" ")
    await crew.redis.hset(crew.keys.circuits, key, " ".join([failures, str(int(until_ms) - seconds * 1000), *rest]))


# ---------------------------------------------------------------- others


async def test_a_dead_and_a_slow_destination_hold_up_no_other(make_crew: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("watchbill.worker.delivering.shares.LATE_SECONDS", 0.01)
    async with receiving(always=500) as dead, receiving(hangs=True) as slow, receiving() as healthy:
        others = [dead.destination("dead"), slow.destination("slow")]
        crew = await make_crew({"a": "Gate"}, delivery=others)
        crew.open()
        await waiting(crew, 40)
        await crew.define(delivery=[*others, healthy.destination("healthy")])
        await crew.submit("t", "a", deliver=["healthy"])
        async with crew.in_process(delivering=HOW):
            await until(lambda: healthy.tasks == ["t"])
            assert len(dead.got) < 40
