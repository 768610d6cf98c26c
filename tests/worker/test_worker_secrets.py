"""No secret of the environment gets into the store, its file, the feeds or the log, however an agent tries."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from workshop import Crew, Make, Process, agent

from waiting import until

SECRETS = {
    "OPENAI_API_KEY": "sk-proj-Zx81hKqPplain",
    "GITHUB_TOKEN": "ghp_0123456789abcdefLMNO",
    "DB_PASSWORD": "pass word+with/odd$chars",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCY",
    "GOOGLE_CREDENTIALS": '{"private_key": "-----BEGIN KEY-----\nMIIEvgIBADAN\n-----END KEY-----"}',
    "SMTP_PASS": "7-cHars",
    "MYSQL_PWD": "mYsQl-pWd-1",
    "GITHUB_PAT": "github_pat_11ABCDEFG",
    "SESSION_COOKIE": "sid=c00k1e-c00k1e",
    "SLACK_WEBHOOK_URL": "https://hooks.invalid/services/T0/B0/wEbHoOk1",
    "TLS_PRIVATE_KEY": "-----BEGIN PRIVATE KEY-----\nMIIBVgIBADANBgkq\nhkiG9w0BAQEFAASC\n-----END PRIVATE KEY-----\n",
}
IN_URLS = {
    "WATCHBILL_REDIS_URL": ("redis://worker:rEdIs-PaSs-1@redis.invalid:6379/0", "rEdIs-PaSs-1"),
    "DATABASE_URL": ("postgresql://app:pG_p@s/S_22@db.invalid/app", "pG_p@s/S_22"),
    "CACHE_URL": ("redis://cache.invalid/0?sentinel_password=cAcHe-PaSs", "cAcHe-PaSs"),
    "STORAGE": ("AccountName=me;AccountKey=AzUrE0123456789==;X=1", "AzUrE0123456789=="),
    "WATCHBILL_WEBHOOK_TOKEN": ("whsec_5551234567890", "whsec_5551234567890"),
}
ENVIRONMENT = SECRETS | {name: url for name, (url, _) in IN_URLS.items()}
FORBIDDEN = [
    *(secret for secret in SECRETS.values() if "\n" not in secret),
    "MIIEvgIBADAN",
    "MIIBVgIBADANBgkq",
    "hkiG9w0BAQEFAASC",
    *(secret for _, secret in IN_URLS.values()),
]


async def everything_in(client: Any) -> AsyncIterator[str]:
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


async def assert_nothing_leaked(crew: Crew, worker: Process, data: Path, secrets: Sequence[str] = FORBIDDEN) -> None:
    texts = {"the store": "\n".join([text async for text in everything_in(crew.redis)])}
    texts["stdout"], texts["stderr"] = worker.said, worker.log
    for file in data.rglob("*"):
        if file.is_file():
            texts[file.name] = file.read_bytes().decode(errors="replace")
    assert any(".aof" in name for name in texts), "what was in the store for a moment only is in its file"
    found = {(secret, where) for where, text in texts.items() for secret in secrets if secret in text}
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
    if kind != "leak_repr":
        assert {f"says {name} is [redacted {name}]" for name in SECRETS} <= set(said)
    failed = [event.message for event in await crew.events() if event.event_type == "task_failed"]
    assert sum("failed with" in message for message in failed) == len(results)
    assert len(re.findall("logs ", worker.log)) >= len(said)
    assert "Traceback" in worker.log
    await assert_nothing_leaked(crew, worker, server.folder)


DOTENV = """
import os

os.environ["ANTHROPIC_API_KEY"] = "sk-ant-FROMDOTENV-0123456789"  # as load_dotenv() does


def tell(context):
    key = os.environ["ANTHROPIC_API_KEY"]
    context.emit_sync(f"says {key}")
    context.logger.warning("logs %s", key)
    context.logger.warning("logs %d, which is none", key)
    raise RuntimeError(f"401 Incorrect API key provided: {key}")


class Apart:
    runs_in = "process"

    def run(self, context):
        tell(context)


class OnLoop:
    async def run(self, context):
        await context.emit("says " + os.environ["ANTHROPIC_API_KEY"])
        raise RuntimeError("401 Incorrect API key provided: " + os.environ["ANTHROPIC_API_KEY"])
"""


@pytest.mark.parametrize("kind", ["tell", "OnLoop", "Apart"])
async def test_a_secret_that_an_agents_module_puts_into_the_environment_is_one(
    make_crew: Make, private_redis: Callable[[], Awaitable[Any]], tmp_path: Path, kind: str
) -> None:
    (tmp_path / "dotenv_agents.py").write_text(DOTENV)
    server = await private_redis()
    leaky = agent("a", "x", notes=False).model_copy(update={"agent_class": f"dotenv_agents:{kind}"})
    crew = await make_crew([leaky], url=server.url, tasks={"max_attempts": 1})
    worker = await crew.worker(folders=(tmp_path,))
    await crew.submit("t", "a")
    (result,) = await crew.results(["t"])
    await worker.drain()
    said, _, place = str(result.error).partition(" (")
    assert said == "RuntimeError: 401 Incorrect API key provided: [redacted ANTHROPIC_API_KEY]"
    assert "dotenv_agents.py:" in place
    assert "says [redacted ANTHROPIC_API_KEY]" in [event.message for event in await crew.events()]
    await assert_nothing_leaked(crew, worker, server.folder, ["sk-ant-FROMDOTENV-0123456789"])


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
