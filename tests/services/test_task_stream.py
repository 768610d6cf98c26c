"""The two streams of a service: tasks that any program puts on one, results that go back on the other."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from runtimes import Runtime, task

from waiting import until
from watchbill import connection
from watchbill.client import Client
from watchbill.names import CrewKeys
from watchbill.services import AgentServiceClient, AgentTask, TaskResult, ingress
from watchbill.services.ingress import Malformed
from watchbill.services.results import Publisher
from watchbill.store.ingress import Entry, Source

FULL = AgentTask(task_id="t1", agent_name="Bot", prompt="hello", priority=3, user_id="u", metadata={"k": [1]})

# As the client of the original writes a task: each field that it knows, null where it has no value.
ORIGINAL = """{"task_id": "t1", "agent_name": "Bot", "prompt": "hello", "priority": 3, "status": "pending",
"user_id": "u", "session_id": null, "method_name": null, "delivery": {"channel": "log", "webhook_url": null,
"telegram_bot_token": null, "telegram_chat_id": null, "teams_webhook_url": null, "email_recipients": null,
"email_subject": null, "response_stream": null, "extra": {}}, "metadata": {"k": [1]},
"created_at": "2026-01-01T00:00:00", "scheduled_at": null, "crew_name": null, "execution_mode": null}"""


@pytest.mark.parametrize(
    ("fields", "task"),
    [
        ({"task_id": "t1", "agent_name": "Bot", "payload": FULL.model_dump_json()}, FULL),
        ({"task_id": "t1", "agent_name": "Bot", "payload": ORIGINAL}, FULL),
        ({"task_id": "t1", "agent_name": "Bot", "payload": '{"prompt": "hello"}'}, {"prompt": "hello"}),
        ({"payload": '{"task_id": "t1", "agent_name": "Bot", "prompt": "x", "created_at": "?"}'}, {"prompt": "x"}),
        ({"task_id": "t1", "agent_name": "Bot", "prompt": "x", "priority": "high"}, {"prompt": "x", "priority": 3}),
        (
            {
                "task_id": "t1",
                "agent_name": "Bot",
                "prompt": "x",
                "priority": "9",
                "metadata": '{"a": 1}',
                "user_id": "",
            },
            {"prompt": "x", "priority": 9, "metadata": {"a": 1}},
        ),
        (
            {"task_id": "t1", "agent_name": "Bot", "prompt": "x", "scheduled_at": "2030-01-01T00:00:00"},
            {"prompt": "x", "scheduled_at": "2030-01-01T00:00:00Z"},
        ),
        ({"task_id": "t1", "agent_name": "Bot", "prompt": "x", "role": "user", "roles": "?"}, {"prompt": "x"}),
    ],
)
def test_an_entry_is_read_in_each_form(fields: dict[str, str], task: Any) -> None:
    wanted = task if isinstance(task, AgentTask) else AgentTask(task_id="t1", agent_name="Bot", **task)
    assert ingress.task_of("s", Entry("1-0", fields)) == wanted


def test_an_entry_without_an_id_gets_the_same_whenever_it_is_read_and_no_others() -> None:
    fields = {"agent_name": "Bot", "prompt": "x"}
    places = [("s", "1-0"), ("s", "1-0"), ("s", "1-1"), ("t", "1-0")]
    ids = [ingress.task_of(stream, Entry(entry, fields)).task_id for stream, entry in places]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"what": "junk"}, "agent_name: 'agent_name' is missing. Give agent_name"),
        ({"agent_name": "Bot", "payload": "Do it"}, "payload is no JSON"),
        ({"agent_name": "Bot", "payload": "[" * 100_000}, "payload is no JSON"),
        ({"agent_name": "Bot", "payload": '["x"]'}, "payload is list, not an object"),
        ({"agent_name": "Bot", "prompt": "x", "priority": "2"}, "priority: "),
        ({"agent_name": "Bot", "prompt": "x", "priority": "²"}, "priority: "),  # a digit, and no number
        ({"agent_name": "Bot", "prompt": "x", "metadata": "{"}, "metadata is no JSON"),
        ({"agent_name": "Bot", "prompt": "x", "scheduled_at": "soon"}, "scheduled_at: "),
        ({"agent_name": "Bot", "prompt": "x", "delivery": '{"chanel": "log"}'}, "delivery.chanel: "),
    ],
)
def test_what_brings_no_task_is_told_by_its_field(fields: dict[str, str], said: str) -> None:
    with pytest.raises(Malformed, match=said):
        ingress.task_of("s", Entry("1-0", fields))


async def test_tasks_of_other_programs_are_done_and_what_is_none_is_a_dead_letter(runtime: Runtime) -> None:
    """Those before the first start of a service, too. The stream holds what nobody has taken."""
    client = await runtime.client()
    taken = await client.submit_task(AgentTask(task_id="taken", agent_name="Bot", prompt="first"))
    good = {"task_id": "t1", "agent_name": "Bot", "payload": FULL.model_dump_json()}
    bad: list[dict[Any, Any]] = [
        {"agent_name": "Bot", "payload": "no JSON"},
        {"agent_name": "Bot", "prompt": "other work", "task_id": taken},
        {"agent_name": "Bot", "prompt": "x", "task_id": "no id"},
        {"agent_name": "Bot", "prompt": "x", "crew_name": "not-there"},
        {"agent_name": "Bot", b"prompt": b"\xff\xfe"},
        {"payload": '{"agent_name": "Bot", "prompt": "x", "method_name": "\\ud800"}'},
    ]
    for fields in (*bad[:2], good, *bad[2:], {"agent_name": "Bot", "prompt": "flat", "task_id": "t2"}):
        await runtime.redis.xadd(runtime.tasks, fields)
    service = await runtime.service()
    assert [(await client.get_result(i, 180)).output for i in ("t1", "t2")] == ["done: hello", "done: flat"]  # type: ignore[union-attr]
    await until(lambda: _has_letters(runtime, service, len(bad)))
    parts = [
        "payload",
        "'taken'",
        "id: 'no id'",
        "not-there",
        "prompt: this is no text",
        "method_name: this is no text",
    ]
    found = await runtime.letters(service)
    letters = [letter for part in parts for letter in found if part in letter.reason]
    assert [letter.raw for letter in letters][:2] == bad[:2]
    assert not any(letter.replayable for letter in letters)
    reasons = [letter.reason.removeprefix(f"this entry of {runtime.tasks} brings no task: ") for letter in letters]
    for reason, part in zip(reasons, parts, strict=True):
        assert part in reason
    await until(lambda: _is_empty(runtime))
    assert set(runtime.bot.asked) == {"first", "hello", "flat"}


async def test_an_entry_that_nobody_can_cope_with_holds_up_no_other(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = AgentServiceClient._submit

    async def fails(client: AgentServiceClient, crew: str, tasks: Any, deliver: Any) -> None:
        if any(one.prompt == "odd" for one in tasks):
            raise OverflowError("too odd")
        await submit(client, crew, tasks, deliver)

    monkeypatch.setattr(AgentServiceClient, "_submit", fails)
    for prompt in ("one", "odd", "two"):
        await runtime.redis.xadd(runtime.tasks, {"task_id": prompt, "agent_name": "Bot", "prompt": prompt})
    service = await runtime.service()
    await runtime.has_published("one", "two")
    await until(lambda: _is_empty(runtime))
    (letter,) = await runtime.letters(service)
    assert letter.reason == f"this entry of {runtime.tasks} brings no task: too odd"


async def _has_letters(runtime: Runtime, service: Any, number: int) -> bool:
    return len(await runtime.letters(service)) == number


async def _is_empty(runtime: Runtime) -> bool:
    return int(await runtime.redis.xlen(runtime.tasks)) == 0


async def test_entries_of_a_consumer_that_died_are_taken_over_and_done_once(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingress, "IDLE_MS", 1)
    monkeypatch.setattr(ingress, "POLL_SECONDS", 0.05)
    async with connection.connected(runtime.url) as redis_client:
        dead = Source(redis_client, runtime.tasks, "agent_service", "dead")
        assert await dead.read(10, 1) == [], "it makes the group"
        await runtime.redis.xadd(runtime.tasks, {"task_id": "before", "agent_name": "Bot", "prompt": "before"})
        await runtime.redis.xadd(runtime.tasks, {"agent_name": "Bot", "prompt": "without id"})
        await runtime.redis.xadd(runtime.tasks, {"nothing": "x"})
        taken = await dead.read(10, 1)
        assert len(taken) == 3
        # it died between putting them on the queue and removing them
        client = await runtime.client()
        await client.submit_tasks([ingress.task_of(runtime.tasks, entry) for entry in taken[:2]])
        service = await runtime.service()
        await until(lambda: _is_empty(runtime))
        assert not await dead.leave() or await redis_client.xlen(runtime.tasks) == 0
    await runtime.has_published("before")
    await until(lambda: Counter(runtime.bot.asked) == {"before": 1, "without id": 1})
    (letter,) = await runtime.letters(service)
    assert letter.raw == {"nothing": "x"}


async def test_a_full_queue_holds_up_the_stream_and_loses_nothing(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingress, "AGAIN_SECONDS", 0.02)
    config = runtime.config(max_workers=1)
    small = config.crew().model_copy(update={"tasks": config.crew().tasks.model_copy(update={"max_queued": 2})})
    monkeypatch.setattr(type(config), "crew", lambda _: small)
    await runtime.service(max_workers=1)
    ids = [f"t{i}" for i in range(8)]
    for i, name in enumerate(ids):
        prompt = "wait" if i == 0 else name
        await runtime.redis.xadd(runtime.tasks, {"task_id": name, "agent_name": "Bot", "prompt": prompt})
    await until(lambda: runtime.bot.asked == ["wait"])
    assert await runtime.redis.xlen(runtime.tasks) >= 6
    runtime.bot.let("wait")
    assert await runtime.has_published(*ids) == dict.fromkeys(ids, 1)
    assert await runtime.letters(await runtime.service()) == []


# ---------------------------------------------------------------- results


async def test_each_result_is_published_once_and_in_order_however_many_do_it(runtime: Runtime) -> None:
    services = [await runtime.service(max_workers=3) for _ in range(2)]
    client = await runtime.client()
    tasks = [task(f"{i}" if i % 7 else "x" * 5000, metadata={"n": i}) for i in range(60)]
    await client.submit_tasks(tasks)
    waits = await client.submit_task(task("wait", "Nobody else", scheduled_at="2999-01-01", metadata={"n": -1}))
    async with Client(runtime.url) as other:
        assert await other.cancel(services[0].crew, waits)
    counted = await runtime.has_published(*(one.task_id for one in tasks), waits)
    assert set(counted.values()) == {1}
    crews = await runtime.redis.xrange(CrewKeys(*services[0].crew.split("/")).results)
    published = await runtime.published()
    assert [task_id for task_id, _ in published] == [fields["id"] for _, fields in crews]
    results = {task_id: TaskResult.model_validate_json(payload) for task_id, payload in published}
    assert [results[one.task_id].output for one in tasks] == [f"done: {one.prompt}" for one in tasks]
    assert [results[one.task_id].metadata for one in tasks] == [one.metadata for one in tasks]
    assert (results[waits].cancelled, results[waits].metadata) == (True, {"n": -1})


async def test_results_of_a_service_that_died_before_publishing_are_published_by_the_next(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_: Publisher) -> None:
        pass

    with monkeypatch.context() as patch:
        patch.setattr(Publisher, "run", never)
        patch.setattr(Publisher, "rest", never)
        service = await runtime.service()
        done = await service.submit_task(task("x"))
        assert await service.get_result(done, 180)
        await service.stop()
    assert await runtime.published() == []
    await runtime.service()
    assert await runtime.has_published(done) == {done: 1}


async def test_the_stream_of_results_is_bounded_and_results_are_found_without_it(runtime: Runtime) -> None:
    service = await runtime.service(results_kept=100, max_workers=50)
    ids = await (await runtime.client()).submit_tasks([task(str(i)) for i in range(400)])
    await runtime.has_published(ids[-1])
    assert await runtime.redis.xlen(runtime.results) <= 200
    assert ids[0] not in dict(await runtime.published())
    result = await service.get_result(ids[0], 0)
    assert result is not None
    assert json.loads(result.model_dump_json())["output"] == "done: 0"


async def test_a_result_is_found_without_reading_a_stream(private_redis: Callable[[], Awaitable[Any]]) -> None:
    server = await private_redis()
    async with connection.connected(server.url) as redis_client:
        runtime = Runtime(server.url, redis_client)
        async with runtime.stack:
            client, service = await runtime.client(), await runtime.service()
            ids = await client.submit_tasks([task(str(n)) for n in range(20)])
            await runtime.has_published(*ids)
            await service.stop()
            await redis_client.config_resetstat()
            result = await client.get_result(ids[0], 180)
            called = {name.removeprefix("cmdstat_") for name in await redis_client.info("commandstats")}
    assert result is not None
    assert result.output == "done: 0"
    assert {name for name in called if name.startswith("x")} == set()


async def test_a_consumer_that_holds_entries_does_not_leave_its_group(runtime: Runtime) -> None:
    async with connection.connected(runtime.url) as redis_client:
        source = Source(redis_client, runtime.tasks, "group", "me")
        assert not await source.leave(), "there is no group"
        await source.read(1, 1)
        await runtime.redis.xadd(runtime.tasks, {"a": "b"})
        (entry,) = await source.read(1, 1)
        assert not await source.leave()
        await source.remove([entry])
        assert await source.leave()
        assert await redis_client.xinfo_consumers(runtime.tasks, "group") == []


async def test_consumers_that_died_are_removed_once_they_hold_nothing(runtime: Runtime) -> None:
    async with connection.connected(runtime.url) as redis_client:
        gone, holds, lives = (Source(redis_client, runtime.tasks, "group", name) for name in ("gone", "holds", "lives"))
        await gone.read(1, 1)  # it makes the group
        await runtime.redis.xadd(runtime.tasks, {"a": "b"})
        assert len(await holds.read(1, 1)) == 1
        for source in (gone, lives):
            await source.read(1, 1)
        await lives.remove_idle(3_600_000)
        assert await _consumers(redis_client, runtime) == {"gone", "holds", "lives"}
        await lives.remove_idle(0)
        assert await _consumers(redis_client, runtime) == {"holds", "lives"}


async def _consumers(redis_client: Any, runtime: Runtime) -> set[str]:
    return {one["name"] for one in await redis_client.xinfo_consumers(runtime.tasks, "group")}
