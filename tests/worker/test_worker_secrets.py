"""No secret of the environment gets into the store, its file, the feeds or the log, however an agent tries."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from workshop import Crew, Make, Process, agent, until

from watchbill.worker.redact import Redactor

SECRETS = {
    "OPENAI_API_KEY": "sk-proj-Zx81hKqPplain",
    "GITHUB_TOKEN": "ghp_0123456789abcdefLMNO",
    "DB_PASSWORD": "pass word+with/odd$chars",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCY",
    "GOOGLE_CREDENTIALS": '{"private_key": "-----BEGIN KEY-----\nMIIEvgIBADAN\n-----END KEY-----"}',
    "TLS_PRIVATE_KEY": "-----BEGIN PRIVATE KEY-----\nMIIBVgIBADANBgkq\nhkiG9w0BAQEFAASC\n-----END PRIVATE KEY-----\n",
}
IN_URLS = {
    "WATCHBILL_REDIS_URL": ("redis://worker:rEdIs-PaSs-1@redis.invalid:6379/0", "rEdIs-PaSs-1"),
    "DATABASE_URL": ("postgresql://app:pG_pAsS_22@db.invalid/app", "pG_pAsS_22"),
    "WATCHBILL_WEBHOOK_TOKEN": ("whsec_5551234567890", "whsec_5551234567890"),
}
ENVIRONMENT = SECRETS | {name: url for name, (url, _) in IN_URLS.items()}
FORBIDDEN = [
    *(SECRETS[name] for name in ("OPENAI_API_KEY", "GITHUB_TOKEN", "DB_PASSWORD", "AWS_SECRET_ACCESS_KEY")),
    "MIIEvgIBADAN",
    "MIIBVgIBADANBgkq",
    "hkiG9w0BAQEFAASC",
    *(secret for _, secret in IN_URLS.values()),
]


async def everything_in(client: redis.asyncio.Redis) -> AsyncIterator[str]:
    """Every key, field and value of the store, unpacked."""
    async for key in client.scan_iter():
        yield key
        match await client.type(key):
            case "string":
                yield str(await client.get(key))
            case "hash":
                yield repr(await client.hgetall(key))
            case "list":
                yield repr(await client.lrange(key, 0, -1))
            case "set":
                yield repr(await client.smembers(key))
            case "zset":
                yield repr(await client.zrange(key, 0, -1))
            case "stream":
                yield repr(await client.xrange(key))
            case other:
                raise AssertionError(f"{key} is a {other}")


async def assert_nothing_leaked(crew: Crew, worker: Process, data: Path) -> None:
    texts = {"the store": "\n".join([text async for text in everything_in(crew.redis)])}
    texts["stdout"], texts["stderr"] = worker.said, worker.log
    for file in data.rglob("*"):
        if file.is_file():
            texts[file.name] = file.read_bytes().decode(errors="replace")
    assert any(".aof" in name for name in texts), "what was in the store for a moment only is in its file"
    found = {(secret, where) for where, text in texts.items() for secret in FORBIDDEN if secret in text}
    assert found == set()


@pytest.mark.parametrize("kind", ["Leak", "leak_sync", "leak_repr"])
async def test_no_secret_gets_out(make_crew: Make, private_redis: Callable[[], Awaitable[Any]], kind: str) -> None:
    server = await private_redis()
    crew = await make_crew([agent("a", kind, notes=False)], url=server.url, tasks={"max_attempts": 1})
    worker = await crew.worker(environment=ENVIRONMENT | {"NAMES_OF_SECRETS": ",".join(ENVIRONMENT)})
    for name in ENVIRONMENT:
        await crew.submit(f"t-{name}", "a", name)
    await crew.submit("r", prompt="GITHUB_TOKEN")
    results = await crew.results([*(f"t-{name}" for name in ENVIRONMENT), "r"])
    assert not any(result.success for result in results)
    await worker.drain()

    # The rest must have got through, or this would prove nothing.
    said = [event.message for event in await crew.events() if event.event_type == "mission_event"]
    assert len(said) == len(ENVIRONMENT) * (len(ENVIRONMENT) + 1)
    assert any("says GITHUB_TOKEN is [redacted GITHUB_TOKEN]" in message for message in said)
    failed = [event.message for event in await crew.events() if event.event_type == "task_failed"]
    assert sum("failed with" in message for message in failed) == len(results)
    assert len(re.findall("logs ", worker.log)) >= len(said)
    assert "Traceback" in worker.log
    await assert_nothing_leaked(crew, worker, server.folder)


@pytest.mark.pure
def test_a_password_of_a_url_is_kept_back_as_a_driver_tells_it_too() -> None:
    """In the URL it is quoted; what connects unquotes it, and so does its error."""
    redact = Redactor({"DATABASE_URL": "postgresql://app:p%40ss%2Fw0rd@db.invalid/app"})
    told = "no password 'p@ss/w0rd' for app; url postgresql://app:p%40ss%2Fw0rd@db.invalid/app"
    assert redact(told) == (
        "no password '[redacted DATABASE_URL]' for app; url postgresql://app:[redacted DATABASE_URL]@db.invalid/app"
    )


async def test_an_agent_that_cannot_be_imported_tells_no_secret_either(
    make_crew: Make, private_redis: Callable[[], Awaitable[Any]], tmp_path: Path
) -> None:
    (tmp_path / "broken_agents.py").write_text(
        "import os\nraise RuntimeError('key is ' + os.environ['OPENAI_API_KEY'])\n"
    )
    server = await private_redis()
    broken = agent("a", "x", notes=False).model_copy(update={"agent_class": "broken_agents:Agent"})
    crew = await make_crew([broken], url=server.url)
    worker = await crew.worker(folders=(tmp_path,), environment=ENVIRONMENT)
    await crew.submit("t", "a")
    await until(lambda: "AgentUnavailable" in worker.log)
    await worker.drain()
    told = [event.message for event in await crew.events() if event.event_type == "mission_event"]
    assert "key is [redacted OPENAI_API_KEY]" in told[0]
    await assert_nothing_leaked(crew, worker, server.folder)
