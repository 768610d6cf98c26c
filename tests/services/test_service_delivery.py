"""Where results of a service's tasks are sent to, and where secrets of destinations are not."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from runtimes import Runtime, task

from waiting import until
from watchbill import connection
from watchbill.client import Client
from watchbill.errors import InvalidInput
from watchbill.services import AgentServiceClient, DeliveryChannel, DeliveryConfig, HeartbeatConfig
from watchbill.store.dead import DeadLetter

TOKEN = "123456:A-token-that-nobody-may-see-1234567"


@dataclass
class Receiver:
    """What came by HTTP: (path, body)."""

    port: int = 0
    got: list[tuple[str, Any]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        self.got.append((request.path, await request.json()))
        return web.json_response({"ok": True, "result": {"message_id": 1}})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver, app = Receiver(), web.Application()
    app.router.add_post("/{any:.*}", receiver.answer)
    runner = web.AppRunner(app, shutdown_timeout=0, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    try:
        yield receiver
    finally:
        await runner.cleanup()


@pytest.fixture
async def receiver(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Receiver]:
    async with receiving() as found:
        monkeypatch.setenv("WATCHBILL_DELIVERY_ALLOW", "127.0.0.0/8")
        monkeypatch.setenv("WATCHBILL_TELEGRAM_URL", found.url)
        yield found


async def test_a_webhook_gets_exactly_the_seven_values_of_its_task_and_heartbeat(
    runtime: Runtime, receiver: Receiver
) -> None:
    hook = DeliveryConfig(channel=DeliveryChannel.WEBHOOK, webhook_url=f"{receiver.url}/task")
    beat = HeartbeatConfig(
        agent_name="Bot",
        interval_seconds=1,
        prompt_template="beat",
        delivery=hook.model_copy(update={"webhook_url": f"{receiver.url}/beat"}),
    )
    service = await runtime.service(heartbeats=[beat])
    client = await runtime.client()
    given = task("hello", delivery=hook, metadata={"source": "cron_job"})
    await client.submit_tasks([given, task("not sent"), task("x", "Nobody", delivery=hook)])
    fields = {"agent_name": "Bot", "prompt": "streamed", "delivery": hook.model_dump_json()}
    await runtime.redis.xadd(runtime.tasks, fields)
    await until(lambda: len([path for path, _ in receiver.got if path == "/task"]) >= 3)
    await until(lambda: any(path == "/beat" for path, _ in receiver.got))
    await service.stop()
    bodies = {body["agent_name"] + str(body["output"]): body for path, body in receiver.got if path == "/task"}
    assert set(bodies) == {"Botdone: hello", "Botdone: streamed", "NobodyNone"}
    body = bodies["Botdone: hello"]
    assert body.pop("execution_time_ms") > 0
    assert body == {
        "task_id": given.task_id,
        "agent_name": "Bot",
        "success": True,
        "output": "done: hello",
        "error": None,
        "metadata": {"source": "cron_job"},
    }
    assert not bodies["NobodyNone"]["success"]


async def test_a_token_works_in_the_process_that_has_it_and_is_nowhere_else(
    private_redis: Callable[[], Awaitable[Any]],
    receiver: Receiver,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Redis writes each command that changes something into its append-only file."""
    caplog.set_level(logging.DEBUG)
    chat = DeliveryConfig(channel=DeliveryChannel.TELEGRAM, telegram_bot_token=TOKEN, telegram_chat_id=987654321)
    server = await private_redis()
    async with connection.connected(server.url) as redis_client:
        runtime = Runtime(server.url, redis_client)
        async with runtime.stack:
            beat = HeartbeatConfig(agent_name="Bot", cron_expression="0 8 * * 1", delivery=chat)
            service = await runtime.service(heartbeats=[beat])
            await service.submit_task(task("hello", delivery=chat))
            await until(lambda: receiver.got)
            ((path, body),) = receiver.got
            assert (path, body["chat_id"]) == (f"/bot{TOKEN}/sendMessage", "987654321")
            assert "done: hello" in body["text"]
            entry: Any = {"agent_name": "Bot", "prompt": "p", "delivery": json.dumps({"channel": "teams"})}
            await redis_client.xadd(runtime.tasks, entry)
            await until(lambda: _letters(runtime, service, 1))

            client = await runtime.client()
            with pytest.raises(InvalidInput, match="Give env:NAME, and set that variable") as refused:
                await client.submit_task(task("hello", delivery=chat))
            assert TOKEN not in str(refused.value)
            monkeypatch.setenv("CHAT_TOKEN", "654321:From-the-environment")
            named = chat.model_copy(update={"telegram_bot_token": "env:CHAT_TOKEN"})
            await client.submit_task(task("again", delivery=named))
            await until(lambda: len(receiver.got) == 2)
            assert receiver.got[1][0] == "/bot654321:From-the-environment/sendMessage"
    files = [path for path in server.folder.rglob("*") if path.is_file()]
    assert any(b"done: hello" in path.read_bytes() for path in files)
    assert not any(TOKEN.encode() in path.read_bytes() for path in files)
    assert TOKEN not in caplog.text
    assert TOKEN not in repr(chat)


async def _letters(runtime: Runtime, service: Any, number: int) -> bool:
    return len(await runtime.letters(service)) == number


async def test_an_entry_with_a_secret_is_refused_and_not_shown(runtime: Runtime) -> None:
    service = await runtime.service()
    delivery = {"channel": "telegram", "telegram_bot_token": TOKEN, "telegram_chat_id": 1}
    await runtime.redis.xadd(runtime.tasks, {"agent_name": "Bot", "prompt": "p", "delivery": json.dumps(delivery)})
    payload = json.dumps({"agent_name": "Bot", "prompt": "p", "delivery": delivery})
    await runtime.redis.xadd(runtime.tasks, {"payload": payload})
    await until(lambda: _letters(runtime, service, 2))
    for letter in await runtime.letters(service):
        assert "telegram_bot_token is written out" in letter.reason
        assert TOKEN not in str(letter)
    assert runtime.bot.asked == []


async def test_every_result_is_logged_which_is_the_default_channel(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "watchbill.delivery")
    service = await runtime.service()
    task_id = await service.submit_task(task("hello"))
    await runtime.has_published(task_id)

    def logged() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == "watchbill.delivery"]

    (line,) = await until(logged, what="its line, which follows the entry")
    assert line.startswith("Bot completed in ")
    assert line.endswith(f"task {task_id}: done: hello")


async def test_a_result_goes_to_another_stream_where_one_is_named(runtime: Runtime) -> None:
    service = await runtime.service()
    here = DeliveryConfig(channel=DeliveryChannel.REDIS_STREAM)
    there = DeliveryConfig(channel=DeliveryChannel.REDIS_STREAM, redis_stream=f"{runtime.results}:other")
    ids = [await service.submit_task(task(str(i), delivery=one)) for i, one in enumerate((here, there))]
    await runtime.has_published(*ids)
    (entry,) = await until(lambda: runtime.redis.xrange(f"{runtime.results}:other"))
    assert entry[1]["task_id"] == ids[1]
    assert json.loads(entry[1]["payload"])["output"] == "done: 1"


@pytest.mark.parametrize(("of", "fix"), [("results", "Leave redis_stream out"), ("tasks", "Name another stream")])
async def test_a_stream_of_the_service_is_refused_wherever_a_delivery_names_it(
    runtime: Runtime, of: str, fix: str
) -> None:
    """A result would be there twice, or be taken for a task."""
    named = getattr(runtime, of)
    given = task("x", delivery=DeliveryConfig(channel=DeliveryChannel.REDIS_STREAM, redis_stream=named))
    said = f"^delivery.redis_stream: '{named}' is the service's {of[:-1]}_stream, .*{fix}"
    beats = [HeartbeatConfig(agent_name="Bot", interval_seconds=1, delivery=given.delivery)]
    with pytest.raises(InvalidInput, match=said):
        await runtime.service(heartbeats=beats)
    service = await runtime.service()
    async with AgentServiceClient(runtime.url, task_stream=runtime.tasks, result_stream=runtime.results) as client:
        for submit in (service.submit_task, client.submit_task):
            with pytest.raises(InvalidInput, match=said):
                await submit(given)
    await runtime.redis.xadd(runtime.tasks, {"payload": given.model_dump_json()})
    await until(lambda: _letters(runtime, service, 1))
    assert "delivery.redis_stream: " in (await runtime.letters(service))[0].reason
    assert runtime.bot.asked == []


async def test_a_client_that_does_not_know_the_stream_of_results_gets_no_result_there_twice(runtime: Runtime) -> None:
    service = await runtime.service()
    client = await runtime.client()
    same = DeliveryConfig(channel=DeliveryChannel.REDIS_STREAM, redis_stream=runtime.results)
    task_id = await client.submit_task(task("hello", delivery=same))
    async with Client(runtime.url) as commands:

        async def dead() -> list[DeadLetter]:
            return [letter async for letter in commands.dead_letters(service.crew, deliveries=True)]

        (letter,) = await until(dead)
    assert f"stream '{runtime.results}' is the service's own" in letter.reason
    assert await runtime.has_published(task_id) == {task_id: 1}


async def test_a_webhook_to_an_address_inside_is_never_connected_to(runtime: Runtime) -> None:
    connections: list[Any] = []
    server = await asyncio.start_server(lambda *peer: connections.append(peer), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        service = await runtime.service()
        for url in (f"https://127.0.0.1:{port}/", f"http://localhost:{port}/", f"https://[::ffff:127.0.0.1]:{port}/"):
            hook = DeliveryConfig(channel=DeliveryChannel.WEBHOOK, webhook_url=url)
            await service.submit_task(task("hello", delivery=hook))
        async with Client(runtime.url) as commands:

            async def refused() -> list[DeadLetter]:
                found = [letter async for letter in commands.dead_letters(service.crew, deliveries=True)]
                return found if len(found) == 3 else []

            letters = await until(refused)
    assert all("WATCHBILL_DELIVERY_ALLOW" in letter.reason for letter in letters)
    assert connections == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"channel": "webhook"}, "channel webhook needs webhook_url"),
        ({"channel": "telegram", "telegram_bot_token": "x"}, "channel telegram needs telegram_chat_id"),
        ({"channel": "teams"}, "channel teams needs teams_webhook_url"),
        ({"channel": "email"}, "channel email needs email_recipients"),
        ({"channel": "pigeon"}, "channel"),
    ],
)
def test_a_channel_without_what_it_needs_is_refused_by_its_field(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DeliveryConfig(**given)


@pytest.mark.parametrize(
    "given",
    [
        {"channel": "email", "email_recipients": ["nobody"]},
        {"channel": "email", "email_recipients": ["a@b.example"], "email_subject": "two\nlines"},
        {"channel": "webhook", "webhook_url": "ftp://example.com"},
        {"channel": "redis_stream", "redis_stream": "wb:own"},
    ],
)
async def test_a_destination_that_can_not_be_is_refused_before_anything_is_stored(
    runtime: Runtime, given: dict[str, Any]
) -> None:
    async with AgentServiceClient(runtime.url, task_stream=runtime.tasks) as client:
        with pytest.raises(InvalidInput, match="delivery"):
            await client.submit_task(task("x", delivery=DeliveryConfig(**given)))
        beats = [HeartbeatConfig(agent_name="Bot", interval_seconds=1, delivery=DeliveryConfig(**given))]
        with pytest.raises(ValueError, match="delivery"):
            await runtime.service(heartbeats=beats)
    assert await runtime.redis.exists(runtime.tasks) == 0


def test_email_and_teams_say_what_they_are_given() -> None:
    kept: dict[str, str] = {}
    mail = DeliveryConfig(channel=DeliveryChannel.EMAIL, email_recipients=["a@b.example"], email_subject="Daily")
    (destination,) = mail.destinations(None, {})
    assert destination.email is not None
    assert (destination.email.to, destination.email.subject, destination.name) == (["a@b.example"], "Daily", "email")
    (teams,) = DeliveryConfig(channel=DeliveryChannel.TEAMS, teams_webhook_url="https://x.example/y").destinations(
        kept, {}
    )
    assert teams.teams is not None
    ((name, value),) = kept.items()
    assert (teams.teams.url, value) == (f"env:{name}", "https://x.example/y")
    signed = {"webhook_url": "https://u:p@x.example/", "webhook_signing_key": "env:KEY"}
    (hook,) = DeliveryConfig(channel=DeliveryChannel.WEBHOOK, **signed).destinations(kept, {})
    assert hook.webhook is not None
    assert (hook.webhook.url or "").startswith("env:WATCHBILL_KEPT_"), "it has a password"
    assert hook.webhook.signing_key == "env:KEY"
