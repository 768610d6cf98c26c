"""Results that are delivered to a real receiver: each end once, whatever fails between."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest
from receiver import Receiver, receiving
from workshop import Crew, Make

from waiting import until
from watchbill.api.delivery import Destination
from watchbill.errors import InvalidInput
from watchbill.plan import deliveries as plan
from watchbill.settings import Settings
from watchbill.store import circuits, control, dead, definitions, deliveries, packed
from watchbill.worker.delivering.options import Delivering

LOOPBACK = Settings(delivery_allow="127.0.0.0/8")
QUICK = Delivering(schedule=(0.02,) * 9, settings=LOOPBACK)
ENVIRONMENT = {"WATCHBILL_DELIVERY_ALLOW": "127.0.0.0/8"}
AGENTS = {"a": "Gate", "shaky": "Shaky"}
SLACK = 60
"""Seconds that a busy machine may take on top."""


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as found:
        yield found


async def delivering(make_crew: Make, *destinations: Destination, **options: object) -> Crew:
    crew = await make_crew(AGENTS, delivery=list(destinations), **options)
    crew.open()
    return crew


async def states(crew: Crew) -> dict[str, str]:
    """Delivery → its state, by the task and the destination that its id begins with."""
    listed = await deliveries.listed(crew.redis, crew.keys, 1000)
    return {found.id.rpartition(".")[0]: found.state.value for found in listed}


async def wait_for(crew: Crew, **wanted: str) -> None:
    await until(lambda: _are(crew, wanted), what=f"{wanted}")


async def _are(crew: Crew, wanted: dict[str, str]) -> bool:
    found = await states(crew)
    return {name.partition(".")[0]: state for name, state in found.items()} == wanted


async def attempts(crew: Crew, task: str) -> list[packed.Attempt]:
    keys = crew.keys.deliveries()
    (delivery,) = [str(i) for i in await crew.redis.zrange(keys.ids, 0, -1) if str(i).startswith(f"{task}.")]
    return packed.attempts(str(await crew.redis.hget(keys.task(delivery), "log") or ""))


# ---------------------------------------------------------------- what is delivered, and where


async def test_the_end_of_a_task_is_delivered_once_as_the_seven_values(make_crew: Make, receiver: Receiver) -> None:
    crew = await delivering(make_crew, receiver.destination())
    async with crew.in_process(delivering=QUICK):
        await crew.submit("t", "a", "ask", metadata={"why": "test"})
        await wait_for(crew, t="completed")
    ((webhook_id, body),) = receiver.got
    assert webhook_id.startswith("t.ops.")
    assert body.pop("execution_time_ms") > 0
    assert body == {
        "task_id": "t",
        "agent_name": "a",
        "success": True,
        "output": "a: ask",
        "error": None,
        "metadata": {"why": "test"},
    }


async def test_a_run_is_delivered_and_its_steps_are_not(make_crew: Make, receiver: Receiver) -> None:
    crew = await make_crew({"a": "Gate", "b": "Gate"}, delivery=[receiver.destination()])
    crew.open()
    async with crew.in_process(delivering=QUICK):
        await crew.submit("r", prompt="go")
        await wait_for(crew, r="completed")
    ((_, body),) = receiver.got
    assert (body["task_id"], body["agent_name"], body["success"]) == ("r", crew.name, True)
    assert body["output"].startswith("b: ")


async def test_each_destination_gets_the_outcomes_that_it_wants(make_crew: Make, receiver: Receiver) -> None:
    wanted = {"all": ["Success", "Failure"], "bad": ["Failure"], "good": ["Success"]}
    crew = await delivering(make_crew, *(receiver.destination(name, outcomes=only) for name, only in wanted.items()))
    async with crew.in_process(delivering=QUICK):
        await crew.submit("fine", "a")
        await crew.submit("fails", "shaky", "hopeless")
        await until(lambda: len(receiver.got) == 4)
        await until(lambda: states_are(crew, "completed"))
    sent = Counter(webhook_id.rpartition(".")[0] for webhook_id in receiver.ids)
    assert sent == Counter(["fine.all", "fine.good", "fails.all", "fails.bad"])


async def states_are(crew: Crew, state: str) -> bool:
    return set((await states(crew)).values()) == {state}


async def test_what_is_cancelled_before_any_worker_saw_it_is_delivered_as_a_failure(
    make_crew: Make, receiver: Receiver
) -> None:
    crew = await delivering(make_crew, receiver.destination())
    await crew.submit("t", "a")
    await crew.submit("r")
    for work in ("t", "r"):
        assert await control.cancel(crew.redis, crew.keys, crew.uid, work, "not needed", 60_000)
    async with crew.in_process(delivering=QUICK):
        await wait_for(crew, t="completed", r="completed")
    bodies = {body["task_id"]: body for _, body in receiver.got}
    assert not bodies["t"]["success"]
    assert bodies["t"]["error"] == "cancelled: not needed"
    assert bodies["r"]["metadata"] == {"status": "cancelled"}


async def test_a_submission_names_destinations_or_brings_its_own(make_crew: Make, receiver: Receiver) -> None:
    crew = await delivering(make_crew, receiver.destination("ops"), receiver.destination("audit"))
    own = receiver.destination("own")
    async with crew.in_process(delivering=QUICK):
        await crew.submit("one", "a", deliver=["audit"])
        await crew.submit("none", "a", deliver=[])
        await crew.submit("mine", deliver=[own, "ops"])
        await crew.client.submit_many(crew.name, "a", ["x"], deliver=[own])
        await crew.result("none")
        await until(lambda: len(receiver.got) == 4)
    sent = sorted(".".join(webhook_id.split(".")[:2]) for webhook_id in receiver.ids)
    assert sent[1:] == ["mine.ops", "mine.own", "one.audit"]
    assert sent[0].endswith(".own")


@pytest.mark.parametrize(
    ("deliver", "problem"),
    [
        (["opps"], "deliver[0]: crew 'crew-…' has no destination 'opps'. Use one of: ops."),
        (["ops", "ops"], "deliver[1]: destination 'ops' is given twice. Remove one of the two."),
        ("ops", "deliver: 'ops' is no list. Give a list of names or Destinations."),
    ],
)
async def test_a_destination_that_is_none_is_refused_before_anything_is_stored(
    make_crew: Make, receiver: Receiver, deliver: Sequence[str], problem: str
) -> None:
    crew = await delivering(make_crew, receiver.destination())
    before = await crew.stored()
    for submit in (crew.submit("t", "a", deliver=deliver), crew.submit("r", deliver=deliver)):
        with pytest.raises(InvalidInput) as refused:
            await submit
        assert str(refused.value).replace(crew.name.partition("/")[2], "crew-…") == problem
    assert await crew.stored() == before


async def test_a_task_that_nobody_wants_delivered_leaves_nothing(make_crew: Make) -> None:
    crew = await make_crew({"a": "Gate"})
    crew.open()
    async with crew.in_process(delivering=QUICK):
        await crew.submit("t", "a")
        await crew.result("t")
    assert not [key for key in await crew.stored() if "deliver" in key]


# ---------------------------------------------------------------- attempts


async def test_a_receiver_that_is_down_for_a_while_gets_the_same_delivery_later(
    make_crew: Make, receiver: Receiver
) -> None:
    crew = await delivering(make_crew, receiver.destination())
    await receiver.close()
    async with crew.in_process(delivering=replace(QUICK, schedule=(0.05,) * 9)):
        await crew.submit("t", "a")
        await until(lambda: _failed(crew, "t", 2))
        await receiver.open()
        await wait_for(crew, t="completed")
    assert len(receiver.got) == 1
    found = await attempts(crew, "t")
    assert [(attempt.number, attempt.status) for attempt in found] == [(i + 1, None) for i in range(len(found))]
    assert found[0].at_ms <= found[1].at_ms
    assert "can't be reached" in found[0].error


async def _failed(crew: Crew, task: str, times: int) -> bool:
    return bool(await states(crew)) and len(await attempts(crew, task)) >= times


async def test_pauses_between_attempts_follow_the_schedule_and_what_is_asked_for(
    make_crew: Make, receiver: Receiver
) -> None:
    crew = await delivering(make_crew, receiver.destination("ops"), receiver.destination("busy"))
    receiver.always = 500
    schedule = plan.SCHEDULE_SECONDS[1:]  # five minutes first: it must not be tried again meanwhile
    async with crew.in_process(delivering=replace(QUICK, schedule=schedule)):
        receiver.answers = [(429, {"retry-after": "1200"})]
        await crew.submit("u", "a", deliver=["busy"])
        await wait_for(crew, u="delayed")
        await crew.submit("t", "a", deliver=["ops"])
        await wait_for(crew, t="delayed", u="delayed")
    due = dict(await crew.redis.zrange(crew.keys.deliveries().delayed, 0, -1, withscores=True))
    at = {packed.Member.unpack(member).task_id[0]: at_ms for member, at_ms in due.items()}
    failed = {name: await attempts(crew, name) for name in "tu"}
    pauses = {name: (at[name] - found[-1].at_ms) / 1000 for name, found in failed.items()}
    assert 0 < pauses["t"] < 1.4 * schedule[len(failed["t"]) - 1] + SLACK
    assert 1000 < pauses["u"] < 1450 + SLACK


async def test_after_the_last_attempt_there_is_a_dead_letter_that_can_be_replayed(
    make_crew: Make, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "CIRCUIT_FAILURES", 100)
    crew = await delivering(make_crew, receiver.destination())
    receiver.always = 500
    keys = crew.keys.deliveries()
    async with crew.in_process(delivering=QUICK):
        await crew.submit("t", "a", "ask")
        await wait_for(crew, t="dead")
        (letter,) = [letter async for letter in dead.letters(crew.redis, keys)]
        assert (letter.attempts, letter.agent) == (10, "to:ops")
        assert "500" in letter.reason
        assert (len(set(receiver.ids)), len(receiver.ids)) == (1, 10)
        told = f"delivery {letter.task_id} is dead: {letter.reason}"
        assert [event.message for event in await crew.events() if "is dead" in event.message] == [told]
        receiver.always = 204
        await dead.replay(crew.redis, keys, crew.uid, [letter], max_queued=deliveries.MANY)
        await wait_for(crew, t="completed")
    assert receiver.got[-1] == receiver.got[0]
    assert len(receiver.got) == 11


async def test_a_task_that_is_replayed_is_delivered_again_with_another_id(make_crew: Make, receiver: Receiver) -> None:
    crew = await delivering(make_crew, receiver.destination(), tasks={"max_attempts": 1})
    async with crew.in_process(delivering=QUICK):
        await crew.submit("t", "shaky", "bug:1")
        await until(lambda: len(receiver.got) == 1)
        (letter,) = [letter async for letter in dead.letters(crew.redis, crew.keys)]
        await dead.replay(crew.redis, crew.keys, crew.uid, [letter], max_queued=10)
        await until(lambda: len(receiver.got) == 2)
    assert len(set(receiver.ids)) == 2


# ---------------------------------------------------------------- destinations that fail


async def test_a_destination_that_fails_often_is_left_in_peace_then_tried_by_one(
    make_crew: Make, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "CIRCUIT_SECONDS", 0.5)
    crew = await delivering(make_crew, receiver.destination(), receiver.destination("other"))
    receiver.always = 500
    ids = [f"t{i}" for i in range(20)]
    async with crew.in_process(delivering=replace(QUICK, slots=1)):
        for task in ids:
            await crew.submit(task, "a", deliver=["ops"])
        await until(lambda: _are(crew, dict.fromkeys(ids, "delayed")))
        known = await circuits.read(crew.redis, crew.keys, [circuits.key(receiver.destination())])
        # A slow machine sees trials, too: after 0.5 s, 1 s, 2 s and so on. Without a circuit all would have been sent.
        assert plan.CIRCUIT_FAILURES <= known[0].failures <= len(receiver.got) < len(ids)
        told = [event.message for event in await crew.events() if "destination ops" in event.message]
        assert told == ["destination ops fails: what waits for it is tried again later"]
        receiver.always = 204
        refused = len(receiver.got)
        await crew.submit("other", "a", deliver=["other"])
        await until(lambda: "other" in receiver.tasks)
        await until(lambda: _are(crew, {**dict.fromkeys(ids, "completed"), "other": "completed"}))
        assert await crew.redis.exists(crew.keys.circuits) == 0
    made = [[attempt.number for attempt in await attempts(crew, task)] for task in ids]
    assert sum(map(len, made)) == refused
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in made), "to put it off is no attempt"


async def test_a_destination_that_is_gone_gets_nothing_until_it_is_defined_anew(
    make_crew: Make, receiver: Receiver
) -> None:
    crew = await delivering(make_crew, receiver.destination())
    receiver.always = 410
    async with crew.in_process(delivering=QUICK):
        await crew.submit("t", "a")
        await wait_for(crew, t="dead")
        await crew.submit("u", "a")
        await wait_for(crew, t="dead", u="dead")
        assert receiver.tasks == ["t"]
        receiver.always = 204
        anew = receiver.destination().model_copy(update={"outcomes": ["Success"]})
        await crew.define(delivery=[anew])
        await crew.submit("v", "a")
        await wait_for(crew, t="dead", u="dead", v="completed")
    assert receiver.tasks == ["t", "v"]


async def test_while_a_receiver_hangs_work_goes_on_and_so_do_other_deliveries(
    make_crew: Make, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("watchbill.worker.delivering.shares.LATE_SECONDS", 0.01)
    async with receiving(hangs=True) as hanging:
        crew = await delivering(make_crew, hanging.destination("stuck"), receiver.destination("ops"))
        async with crew.in_process(delivering=replace(QUICK, slots=8), concurrency=1) as worker:
            ids = [f"s{i}" for i in range(12)]
            for task in ids:
                await crew.submit(task, "a", deliver=["stuck"])
            await crew.results(ids)
            await until(lambda: len(hanging.got) >= 2)
            await crew.submit("t", "a", deliver=["ops"])
            await until(lambda: receiver.tasks == ["t"])
            assert worker.running == 0
            hanging.let_go.set()


# ---------------------------------------------------------------- processes that die


async def test_a_worker_killed_while_the_receiver_has_it_is_followed_by_one_that_sends_it_again(
    make_crew: Make, receiver: Receiver
) -> None:
    crew = await delivering(make_crew, receiver.destination())
    receiver.hangs = True
    first = await crew.worker(environment=ENVIRONMENT)
    await crew.submit("t", "a")
    await until(lambda: receiver.got)
    first.kill()
    receiver.hangs = False
    receiver.let_go.set()
    await crew.worker(environment=ENVIRONMENT)
    await wait_for(crew, t="completed")
    assert len(receiver.got) == 2
    assert receiver.got[0] == receiver.got[1]


async def test_a_worker_killed_before_it_sent_is_followed_by_one_that_does(make_crew: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and reads nothing
        port = silent.getsockname()[1]
        destination = Receiver(port=port).destination()
        crew = await delivering(make_crew, destination)
        first = await crew.worker(environment=ENVIRONMENT)
        await crew.submit("t", "a")
        await until(lambda: crew.redis.hlen(crew.keys.deliveries().holders))
        first.kill()
    async with receiving(port=port) as receiver:
        await crew.worker(environment=ENVIRONMENT)
        await wait_for(crew, t="completed")
        assert len(receiver.got) == 1


async def test_entries_that_were_moved_and_not_removed_make_no_second_delivery(
    make_crew: Make, receiver: Receiver
) -> None:
    """A worker may die between the two."""
    crew = await delivering(make_crew, receiver.destination())
    await crew.submit("t", "a")
    await control.cancel(crew.redis, crew.keys, crew.uid, "t", "", 60_000)
    ((entry, fields),) = await crew.redis.xrange(crew.keys.outbox)
    assert await deliveries.move(crew.redis, crew.keys, crew.uid) == 1
    await crew.redis.xadd(crew.keys.outbox, fields, id=f"{entry.partition('-')[0]}-1")
    await crew.redis.delete(crew.keys.outbox)
    await crew.redis.xadd(crew.keys.outbox, fields, id=entry)
    async with crew.in_process(delivering=QUICK):
        await wait_for(crew, t="completed")
        await until(lambda: _is_empty(crew))
    assert len(receiver.got) == 1


async def _is_empty(crew: Crew) -> bool:
    return await crew.redis.xlen(crew.keys.outbox) == 0


async def test_a_crew_that_is_deleted_leaves_no_delivery(make_crew: Make, receiver: Receiver) -> None:
    crew = await delivering(make_crew, receiver.destination())
    receiver.always = 500
    async with crew.in_process(delivering=QUICK):
        await crew.submit("t", "a")
        await until(lambda: _failed(crew, "t", 1))
    await crew.submit("u", "a")
    await control.cancel(crew.redis, crew.keys, crew.uid, "u", "", 60_000)
    assert await definitions.delete(crew.redis, crew.keys, crew.uid)
    assert await crew.stored() == {}
