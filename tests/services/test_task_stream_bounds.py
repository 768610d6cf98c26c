"""Entries of the task stream that are too long, and results that are: what is read, kept and published of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis.asyncio
from runtimes import Runtime, task

from waiting import until
from watchbill import connection
from watchbill.services import BotManager, TaskResult, ingress
from watchbill.services.results import Publisher
from watchbill.store import ingress as store_ingress
from watchbill.store.dead import DeadLetter
from watchbill.store.ingress import ENTRY_MAX_BYTES, SHOWN_BYTES, Entry, Source
from watchbill.tasks import METADATA_MAX_BYTES, PROMPT_MAX_BYTES

KEPT = 65_536
"""Bytes of an entry that its dead letter has."""
MIB = 1024 * 1024


async def letter_of(runtime: Runtime, service: Any) -> DeadLetter:
    [letter] = await until(lambda: runtime.letters(service), what="a dead letter")
    return letter


@pytest.mark.parametrize("there", ["before the service", "while it waits"])
async def test_of_forty_megabytes_a_dead_letter_keeps_the_beginning_the_size_and_the_reason(
    runtime: Runtime, there: str, caplog: pytest.LogCaptureFixture
) -> None:
    payload = '{"agent_name": "Bot", "prompt": "' + "x" * (40 * MIB) + '"}'
    size = len("payload" + "task_id" + "big") + len(payload)
    service = await runtime.service() if there == "while it waits" else None
    async with redis.asyncio.Redis.from_url(runtime.url, socket_timeout=None) as patient:  # on a busy machine, too
        await patient.xadd(runtime.tasks, {"task_id": "big", "payload": payload})
    await runtime.redis.xadd(runtime.tasks, {"task_id": "small", "agent_name": "Bot", "prompt": "small"})
    service = service or await runtime.service()
    await runtime.has_published("small")
    letter = await letter_of(runtime, service)
    assert letter.raw is not None
    assert letter.raw["task_id"] == "big"
    assert payload.startswith(letter.raw["payload"])
    assert (sum(len(text) for field in letter.raw.items() for text in field), letter.raw_bytes) == (KEPT, size)
    assert f"brings no task: it has {size} bytes; the limit is {ENTRY_MAX_BYTES} (2 MiB). Put larger" in letter.reason
    assert len(caplog.text) < 10_000
    assert runtime.bot.asked == ["small"]
    await until(lambda: _is_empty(runtime))


async def _is_empty(runtime: Runtime) -> bool:
    return int(await runtime.redis.xlen(runtime.tasks)) == 0


async def test_no_part_of_a_secret_is_left_where_a_long_entry_is_cut(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "A-key-that-nobody-may-see" * 10
    monkeypatch.setenv("SERVICE_KEY", secret)
    junk = "x" * (KEPT - len("junk") - 100) + secret + "y" * ENTRY_MAX_BYTES
    await runtime.redis.xadd(runtime.tasks, {"junk": junk})
    hidden = {"api_token": "hidden", "told": '{"telegram_bot_token": "hidden"}'}
    await runtime.redis.xadd(runtime.tasks, {"junk": junk[: KEPT + 200], **hidden})
    service = await runtime.service()
    letters = await until(lambda: _two(runtime, service))
    for letter in letters:
        assert "A-key" not in str(letter.raw)
        assert "hidden" not in str(letter.raw)
    assert letters[1].raw["junk"].endswith("x[redacted SERVICE_KEY]" + "y" * (100 - len("[redacted SERVICE_KEY]")))


async def _two(runtime: Runtime, service: Any) -> list[DeadLetter]:
    letters = await runtime.letters(service)
    return letters if len(letters) == 2 else []


async def test_the_longest_prompt_and_metadata_are_taken_however_json_writes_them(runtime: Runtime) -> None:
    service = await runtime.service()
    metadata = {"note": "\x01" * (METADATA_MAX_BYTES - len("note"))}
    given = task("\x01" * PROMPT_MAX_BYTES, metadata=metadata)
    payload = given.model_dump_json()
    assert 1.8 * MIB < len(payload) < ENTRY_MAX_BYTES
    await runtime.redis.xadd(runtime.tasks, {"payload": payload})
    await runtime.has_published(given.task_id)
    assert await runtime.letters(service) == []


MANY = {f"f{n}": "" for n in range(1001)}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (MANY, "it has 1001 fields; the limit is 1000"),
        ({"payload": json.dumps(MANY)}, "payload has 1001 fields"),
        ({"agent_name": "Bot", "prompt": "x", "delivery": json.dumps(MANY)}, "delivery has 1001 fields"),
    ],
    ids=["entry", "payload", "delivery"],
)
def test_too_many_fields_are_refused_before_they_are_compared(fields: dict[str, str], said: str) -> None:
    with pytest.raises(ingress.Malformed, match=said):
        ingress.task_of("s", Entry("1-0", fields))


async def test_a_call_reads_no_more_than_there_is_room_for(runtime: Runtime) -> None:
    async with connection.connected(runtime.url) as redis_client:
        one, other = (Source(redis_client, runtime.tasks, "group", name) for name in ("one", "other"))
        assert await one.read(10, 1) == []
        sizes = [3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]
        for n, size in enumerate(sizes):
            await runtime.redis.xadd(runtime.tasks, {"n": n, "text": "x" * (size * MIB - len("ntext") - len(str(n)))})
        first = await one.read(10, 1)
        assert [(entry.fields["n"], entry.size // MIB) for entry in first] == [(str(n), sizes[n]) for n in range(9)]
        assert sum(map(len, first[0].fields.values())) <= SHOWN_BYTES
        assert [entry.fields["n"] for entry in await one.read(2, 1)] == ["9", "10"]
        taken = await other.take_over("one", 0, 10)
        assert [(entry.fields["n"], entry.size // MIB) for entry in taken] == [(str(n), sizes[n]) for n in range(9)]
        assert sum(map(len, taken[0].fields.values())) <= SHOWN_BYTES


async def test_an_entry_of_very_many_fields_is_read_in_part(runtime: Runtime) -> None:
    async with connection.connected(runtime.url) as redis_client:
        source = Source(redis_client, runtime.tasks, "group", "one")
        assert await source.read(1, 1) == []
        await runtime.redis.xadd(runtime.tasks, {f"f{n}": "" for n in range(5000)})
        [entry] = await source.read(1, 1)
        assert len(entry.fields) == 2000
        assert entry.size == sum(len(f"f{n}") for n in range(5000))


async def test_large_results_are_published_in_parts(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """No call may take longer than its answer is waited for."""
    monkeypatch.setattr(store_ingress, "ROOM_BYTES", 256 * 1024, raising=False)
    publish, calls = store_ingress.publish, list[int]()

    async def never(_: Publisher) -> None:
        pass

    async def noted(client: Any, keys: Any, stream: str, found: Any, through: str, *, most: int) -> tuple[str, int]:
        calls.append(sum(len(one.payload) for one in found))
        return await publish(client, keys, stream, found, through, most=most)

    class Long:
        async def ask(self, prompt: str) -> str:
            return prompt * 100_000

    with monkeypatch.context() as patch:
        patch.setattr(Publisher, "run", never)
        patch.setattr(Publisher, "rest", never)
        service = await runtime.service(BotManager({"Long": Long()}))
        ids = [await service.submit_task(task(letter, "Long")) for letter in "abcdefgh"]
        assert all([await service.get_result(task_id) for task_id in ids])
        await service.stop()
    monkeypatch.setattr(store_ingress, "publish", noted)
    await runtime.service()
    assert set((await runtime.has_published(*ids)).values()) == {1}
    for task_id, payload in await runtime.published():
        assert TaskResult.model_validate_json(payload).output == "abcdefgh"[ids.index(task_id)] * 100_000
    assert sum(calls) > 800_000
    assert max(calls) < 400_000, "one result more than there is room for"
