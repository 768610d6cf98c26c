"""Results that are to be delivered: which ends put one into the outbox, and what the figures say of it."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest
from support import MANY, Crew, opened, server_ms

from watchbill.api import Heartbeat, HeartbeatSpec, ObjectMeta
from watchbill.api.delivery import Destination
from watchbill.connection import scripts
from watchbill.controller import load
from watchbill.delivery import Message
from watchbill.names import RECEIVER, ROLE
from watchbill.plan import deliveries as plan
from watchbill.plan.replicas import Load
from watchbill.store import circuits, control, definitions, deliveries, firing, heartbeats, packed, runs, submissions
from watchbill.store.deliveries import Content
from watchbill.store.figures import figures
from watchbill.store.queue import Claimed, Finished, Outcome, Queue
from watchbill.store.submissions import Submission
from watchbill.tasks import Priority, TaskResult, TaskState


def to(*outcomes: str, name: str = "ops") -> str:
    """The `deliver` field of a task whose own destination wants these outcomes."""
    destination = Destination.model_validate({"name": name, "outcomes": list(outcomes) or ["Success"], "log": {}})
    return deliveries.wanted([destination], [])


BOTH = to("Success", "Failure")


def ended(task: Claimed, outcome: Outcome, result: str = "", ttl_ms: int = 60_000) -> Finished:
    return Finished(task, outcome, result, ttl_ms=ttl_ms)


async def outbox(crew: Crew) -> list[tuple[str, str, str]]:
    return [(f["kind"], f["id"], f["state"]) for _, f in await crew.client.xrange(crew.keys.outbox)]


@pytest.mark.parametrize(
    ("outcome", "success", "failure"),
    [
        ("completed", True, False),
        ("failed", False, True),
        ("dead", False, True),
        ("cancelled", False, True),
        ("retry", False, False),
        ("later", False, False),
        ("interrupted", False, False),
    ],
)
async def test_an_end_that_somebody_wants_is_in_the_outbox_and_no_other(
    crew: Crew, outcome: Outcome, success: bool, failure: bool
) -> None:
    await crew.submit("good", deliver=to("Success"))
    await crew.submit("bad", deliver=to("Failure"))
    await crew.submit("none")
    await crew.finish("w", await crew.take("w"), outcome)
    expected = [("task", "good", outcome)] * success + [("task", "bad", outcome)] * failure
    assert await outbox(crew) == expected


async def test_a_result_travels_along_up_to_64_kib(crew: Crew) -> None:
    for task, size in (("small", 65_536), ("large", 65_537)):
        await crew.submit(task, deliver=BOTH)
        (taken,) = await crew.take(f"w-{task}")
        await crew.queue.finish(f"w-{task}", [ended(taken, "completed", "x" * size)])
    found = await crew.client.xrange(crew.keys.outbox)
    assert [len(fields["result"]) for _, fields in found] == [65_536, 0]


async def test_a_repeated_report_puts_nothing_there_twice(crew: Crew) -> None:
    await crew.submit("t", deliver=BOTH)
    tasks = await crew.take("w")
    assert await crew.finish("w", tasks) == ["applied"]
    assert await crew.finish("w", tasks) == ["repeated"]
    assert await outbox(crew) == [("task", "t", "completed")]


async def test_what_is_cancelled_is_there_and_wakes_whoever_starts_workers(crew: Crew) -> None:
    await crew.submit("t", deliver=BOTH)
    await crew.run("r", deliver=BOTH)
    async with crew.client.pubsub(ignore_subscribe_messages=True) as listening:
        await listening.subscribe(crew.keys.wake)
        await crew.client.hdel(crew.keys.meta, "woken")
        for work in ("t", "r"):
            await control.cancel(crew.client, crew.keys, crew.uid, work, "", 60_000)
        heard = None
        while heard is None or heard["data"] != crew.keys.crew:
            heard = await listening.get_message(timeout=180)
    assert await outbox(crew) == [("task", "t", "cancelled"), ("run", "r", "cancelled")]


async def test_a_run_is_there_at_its_end_and_its_steps_are_not(crew: Crew) -> None:
    await crew.run("r", deliver=to("Success"))
    number = 0
    while tasks := await crew.take("w", number := number + 1):
        await crew.finish("w", tasks)
    assert (await runs.status(crew.client, crew.keys, "r")).status == "completed"
    assert await outbox(crew) == [("run", "r", "completed")]


async def test_an_entry_becomes_one_delivery_whose_id_says_whose_it_is(crew: Crew) -> None:
    await crew.submit("t", deliver=BOTH)
    await crew.finish("w", await crew.take("w"))
    ((entry, fields),) = await crew.client.xrange(crew.keys.outbox)
    assert await deliveries.move(crew.client, crew.keys, crew.uid) == 1
    assert await deliveries.move(crew.client, crew.keys, crew.uid) == 0
    await crew.client.delete(crew.keys.outbox)  # as if whoever moved it had died before it was removed
    await crew.client.xadd(crew.keys.outbox, fields, id=entry)
    assert await deliveries.move(crew.client, crew.keys, crew.uid) == 1
    queue = Queue(crew.client, crew.keys.deliveries(), crew.uid)
    claim = await queue.claim("d", 1, 10, lease_ms=60_000, take_over=False)
    (task,) = claim.tasks
    content = Content.unpack(task.payload)
    assert content.message["task_id"] == "t"
    own = Destination.model_validate_json(content.inline)
    assert re.fullmatch(rf"t\.ops\.{entry}-[0-9a-f]{{8}}", task.id)
    assert task.agent == RECEIVER + circuits.key(own)


async def test_equal_tasks_of_two_crews_that_end_in_the_same_ms_are_two_deliveries(
    crew: Crew, redis_url: str, crew_name: str
) -> None:
    """As those of one heartbeat in two namespaces: their receiver tells repetitions by the id alone."""
    task = "t" * 128
    async with opened(redis_url, f"{crew_name}-2") as other:
        found = []
        for each in (crew, other):
            deliver = to("Success", name="d" * 52)
            await each.client.xadd(
                each.keys.outbox,
                {"kind": "task", "id": task, "state": "completed", "deliver": deliver, "result": ""},
                id="1795874259015-4294967295",
            )
            await deliveries.move(each.client, each.keys, each.uid)
            found += await deliveries.listed(each.client, each.keys, 10)
    first, second = found
    assert first.id != second.id
    assert Message(delivery_id=first.id, **first.message)  # the longest id that there can be


async def test_a_destination_of_a_newer_version_holds_up_no_other(crew: Crew) -> None:
    newer = packed.pack_deliver([packed.Wanted("pager", "s", '{"name": "pager", "channelOfTomorrow": {}}')])
    await crew.submit("newer", deliver=newer)
    await crew.submit("t", deliver=BOTH)
    await crew.finish("w", await crew.take("w"))
    assert await deliveries.move(crew.client, crew.keys, crew.uid) == 2
    found = await deliveries.listed(crew.client, crew.keys, 10)
    assert {(one.task_id, one.destination) for one in found} == {("newer", "pager"), ("t", "ops")}


@pytest.mark.parametrize("output", ["é" * 40_000, "\x01" * 30_000, "x" * 20_000 + "\x01" * 9_000])
def test_a_long_result_fits_a_dead_letter_whatever_its_characters_are(output: str) -> None:
    sent = plan.content(TaskResult(task_id="t", agent_name="a", success=True, output=output), {})["output"]
    assert output.startswith(sent.removesuffix("…"))
    assert 0 <= plan.OUTPUT_MAX_BYTES + len("…".encode()) - len(json.dumps(sent, ensure_ascii=False).encode()) < 6


async def test_a_result_that_has_gone_is_delivered_without_its_output(crew: Crew) -> None:
    await crew.submit("t", deliver=BOTH)
    (taken,) = await crew.take("w")
    await crew.queue.finish("w", [ended(taken, "failed", "x" * 70_000)])
    await crew.client.delete(crew.keys.task("t"))
    await deliveries.move(crew.client, crew.keys, crew.uid)
    (found,) = await deliveries.listed(crew.client, crew.keys, 10)
    assert found.message["success"] is False
    assert found.message["error"] == "it is failed; its result is no longer kept"


async def test_what_no_agent_of_its_role_had_is_delivered_in_nobodys_name(crew: Crew) -> None:
    await crew.submit("t", deliver=BOTH, agent=ROLE + "writer")
    (taken,) = await crew.take("w")
    await crew.queue.finish("w", [ended(taken, "failed", "x" * 70_000)])
    await crew.client.hset(crew.keys.task("t"), "state", "waiting")  # it was replayed meanwhile
    await deliveries.move(crew.client, crew.keys, crew.uid)
    (found,) = await deliveries.listed(crew.client, crew.keys, 10)
    assert found.message["agent_name"] == ""


async def test_figures_tell_what_is_to_be_delivered_and_only_of_crews_that_deliver(crew: Crew) -> None:
    assert (await figures(crew.client, crew.keys)).deliveries is None
    await crew.submit("t", "u", deliver=BOTH)
    await crew.finish("w", await crew.take("w"))
    found = (await figures(crew.client, crew.keys)).deliveries
    assert found is not None
    assert (found.waiting, found.running, found.delayed, found.due_in_ms) == (2, 0, 0, None)
    assert found.oldest_ms is not None
    await deliveries.move(crew.client, crew.keys, crew.uid)
    queue = Queue(crew.client, crew.keys.deliveries(), crew.uid)
    claim = await queue.claim("d", 1, 1, lease_ms=60_000, take_over=False, begin=1)
    found = (await figures(crew.client, crew.keys)).deliveries
    assert found is not None
    assert (found.waiting, found.running) == (1, 1)
    await queue.finish("d", [ended(claim.tasks[0], "retry", ttl_ms=30_000)])
    now = await figures(crew.client, crew.keys)
    assert now.deliveries is not None
    assert (now.deliveries.waiting, now.deliveries.running, now.deliveries.delayed) == (1, 0, 1)
    assert now.deliveries.due_in_ms is not None
    assert 0 < now.deliveries.due_in_ms <= 30_000
    assert load.of(now) == Load(0, 0, now.deliveries.due_in_ms / 1000, deliveries=1)


async def test_what_is_put_off_keeps_its_attempts_and_what_is_tried_again_does_not(crew: Crew) -> None:
    await crew.submit("t")
    numbers = itertools.count(1)
    expected: list[tuple[Outcome, int]] = [("later", 1), ("later", 1), ("retry", 1), ("later", 2)]
    for outcome, attempt in expected:
        tasks: tuple[Claimed, ...] = ()
        while not tasks:
            tasks = await crew.claim("w", next(numbers))
        await crew.queue.start("w", tasks)
        assert tasks[0].attempt == attempt
        await crew.queue.finish("w", [ended(tasks[0], outcome, ttl_ms=1)])
    assert await runs.state(crew.client, crew.keys, "t") is TaskState.DELAYED


async def test_deliveries_and_tasks_mind_the_clock_apart(crew: Crew) -> None:
    """Whoever renews first must not hide from the others that the server's clock went back."""
    clocks = []
    for keys in (crew.keys, crew.keys.deliveries()):
        await Queue(crew.client, keys, crew.uid).move_due()
        clocks.append({name for name in await crew.client.hkeys(crew.keys.meta) if name.endswith("clock")})
    assert clocks == [{"clock"}, {"clock", "delivery:clock"}]


@pytest.mark.parametrize(
    ("spec", "to_whom"),
    [
        ({}, ["ops", "log"]),
        ({"deliver": []}, []),
        ({"deliver": ["log", "gone"]}, ["log"]),
        ({"delivery": [{"name": "own", "log": {}}]}, ["own"]),
        ({"deliver": ["ops"], "delivery": [{"name": "own", "log": {}}]}, ["ops", "own"]),
    ],
)
@pytest.mark.parametrize("agent", ["a", None])
async def test_a_heartbeats_work_goes_where_it_says_else_where_its_crew_does(
    crew: Crew, spec: dict[str, Any], to_whom: list[str], agent: str | None
) -> None:
    of_crew = [Destination.model_validate({"name": name, "log": {}}) for name in ("ops", "log")]
    definition = crew.definition.model_copy(update={"delivery": of_crew})
    await definitions.apply(crew.client, crew.keys, definition)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    made = HeartbeatSpec.model_validate({"crewRef": {"name": "c"}, "intervalSeconds": 60, "agent": agent, **spec})
    beat = Heartbeat(metadata=ObjectMeta(name="hb"), spec=made)
    await heartbeats.apply(crew.client, crew.keys, crew.uid, beat, now=now)
    work, _ = await firing.run_now(crew.client, crew.keys, "hb", "once", now=now)
    record = crew.keys.task(work) if agent else crew.keys.run(work)
    text = await crew.client.hget(record, "deliver")
    found = packed.deliver(text) if text else []
    assert [one.name for one in found] == to_whom
    assert [one.name for one in found if one.destination] == [name for name in to_whom if name == "own"]


def test_a_deliver_field_begins_with_all_outcomes_and_reads_back() -> None:
    wanted = [packed.Wanted("a", "s"), packed.Wanted("b", "f", json.dumps({"name": "b"}))]
    text = packed.pack_deliver(wanted)
    assert text.startswith("fs [")
    assert packed.deliver(text) == wanted
    assert packed.pack_deliver([]) == ""


async def test_what_waits_for_one_destination_is_delayed_together_and_nothing_else(crew: Crew) -> None:
    keys = crew.keys.deliveries()
    queue = Queue(crew.client, keys, crew.uid)
    of = crew.client, crew.keys, crew.uid
    now_ms = await server_ms(crew.client)
    until, later = now_ms + 600_000, now_ms + 660_000
    for due_ms in (0, now_ms + 300_000):  # those of the second call come due while nothing may be sent
        waits = [
            Submission(f"{who}-{due_ms}-{i}", f"to:{who}", "{}", due_ms=due_ms)
            for i in range(600)
            for who in ("bad", "good")
        ]
        await submissions.submit(crew.client, keys, crew.uid, waits, max_queued=MANY)
    much_later = Submission("bad-retry", "to:bad", "{}", due_ms=now_ms + 7_200_000)
    await submissions.submit(crew.client, keys, crew.uid, [much_later], max_queued=MANY)
    taken = (await queue.claim("d", 1, 2, lease_ms=60_000, take_over=False)).tasks
    assert [task.agent for task in taken] == ["to:bad", "to:good"]

    assert await circuits.defer(*of, "to:bad", due_ms=later, before_ms=later) == 599 + 600
    assert await circuits.bring_forward(*of, "to:bad", due_ms=later, to_ms=until, most=1) == 1
    assert Counter(await _due(crew, "to:bad")) == {until: 1, later: 599 + 600 - 1, now_ms + 7_200_000: 1}
    assert set(await _due(crew, "to:good")) == {now_ms + 300_000}
    assert await crew.client.xlen(keys.streams[2]) == 601
    assert await circuits.defer(*of, "to:bad", due_ms=1) == 0, "nothing waits any more"

    assert await circuits.bring_forward(*of, "to:bad", due_ms=later) == 599 + 600 - 1
    assert sorted(await _due(crew, "to:bad"))[-2:] == [until, now_ms + 7_200_000]
    assert sorted(await _due(crew, "to:bad"))[-3] <= await server_ms(crew.client)
    assert set(await _due(crew, "to:good")) == {now_ms + 300_000}


async def test_what_others_claim_while_the_rest_is_delayed_is_not_delayed_as_well(crew: Crew) -> None:
    keys = crew.keys.deliveries()
    waits = [Submission(f"bad-{i}", "to:bad", "{}") for i in range(6)]
    await submissions.submit(crew.client, keys, crew.uid, waits, max_queued=MANY)
    due_ms = await server_ms(crew.client) + 600_000
    of = crew.client, "defer", keys.fixed
    _, last, _ = await scripts.run(*of, [crew.uid, "to:bad", due_ms, int(Priority.NORMAL), "0-0", 2, ""])
    claimed = (await Queue(crew.client, keys, crew.uid).claim("d", 1, 2, lease_ms=60_000, take_over=False)).tasks
    assert [task.id for task in claimed] == ["bad-2", "bad-3"]
    _, _, n = await scripts.run(*of, [crew.uid, "to:bad", due_ms, int(Priority.NORMAL), last, 9, ""])
    assert n == 2
    assert len(await _due(crew, "to:bad")) == await crew.client.xlen(keys.streams[2]) + 2 == 4


async def test_destinations_that_fail_are_named_while_they_are_left_in_peace(crew: Crew) -> None:
    failing = [Destination.model_validate({"name": name, "log": {}}) for name in ("ops", "gone", "shaky")]
    now_ms = await server_ms(crew.client)
    of = crew.client, crew.keys, crew.uid
    for _ in range(plan.CIRCUIT_FAILURES):
        await circuits.record_failure(*of, failing[0], circuits.Failure("d", 1, "no", counts=True))
    await circuits.record_failure(*of, failing[1], circuits.Failure("d", 1, "no", is_gone=True))
    await circuits.record_failure(*of, failing[2], circuits.Failure("d", 1, "no", counts=True))
    assert await circuits.failing(crew.client, [crew.keys], now_ms) == [["ops"]]
    assert await circuits.failing(crew.client, [crew.keys], now_ms + 600_000) == [[]], "nobody tries it any more"


async def _due(crew: Crew, destination: str) -> list[int]:
    """The times at which its delayed deliveries are due, in ms."""
    delayed = await crew.client.zrange(crew.keys.deliveries().delayed, 0, -1, withscores=True)
    return [int(at) for member, at in delayed if packed.Member.unpack(str(member)).agent == destination]
