"""A server without memory (`maxmemory`): new work is refused, what is there can end, whoever asks gets an answer."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import servers
from workshop import Crew

from waiting import until
from watchbill.errors import StoreUnavailable
from watchbill.records import ExecutionMode
from watchbill.tasks import RunState, TaskState

LATER = timedelta(hours=1)


@pytest.mark.parametrize("binary", ["valkey", "redis7"])
async def test_a_store_without_memory_refuses_new_work_only(
    fresh_store: Callable[..., servers.Store], crew_in: Callable[..., Any], binary: str
) -> None:
    store = fresh_store(f"{binary}-standalone")
    agents = {"a": "Gate", "b": "Gate", "shaky": "Shaky"}
    crew: Crew = await crew_in(store, agents, mode=ExecutionMode.PARALLEL, tasks={"max_attempts": 1})
    client, name = crew.client, crew.name
    worker = await crew.worker(concurrency=5)
    await crew.submit("dead", "shaky")
    assert not (await crew.result("dead")).success
    await crew.submit("run", prompt="fine:0")
    for task in ("runs", "to stop", "to set aside"):
        await crew.submit(task.replace(" ", "-"), "a")
    await crew.started("run/a", "run/b", "runs", "to-stop", "to-set-aside")
    await crew.submit("waits", "a")
    await crew.submit("other-run")
    await crew.submit("later", "a", scheduled_at=datetime.now(UTC) + LATER)

    await crew.redis.config_set("maxmemory", "1")
    for refused in (crew.submit("new", "a"), crew.submit("new-run"), client.replay(name, "dead")):
        with pytest.raises(StoreUnavailable, match="memory"):
            await refused

    assert (await client.status(name, "run")).status is RunState.RUNNING
    assert await client.state(name, "run/a") == TaskState.RUNNING
    assert await client.state(name, "waits") == TaskState.WAITING
    assert await client.result(name, "run") is None
    with pytest.raises(TimeoutError):
        await client.wait(name, "run", timeout=0.01)
    assert [letter.task_id async for letter in client.dead_letters(name)] == ["dead"]
    assert (await client.figures(name)).running == 5
    assert await client.cancel(name, "other-run")
    assert await client.cancel(name, "later")
    assert await client.cancel(name, "waits")
    await client.cancel(name, "to-stop", reason="enough")
    assert (await crew.result("to-stop")).error == "cancelled: enough"
    await client.interrupt(name, "to-set-aside")
    await until(lambda: _is_aside(crew))
    assert await client.resume(name, "to-set-aside")
    crew.open()
    for task in ("run", "runs", "to-set-aside"):
        result = await crew.result(task)
        assert result.success, result.error
    assert (await client.status(name, "other-run")).status is RunState.CANCELLED
    assert await client.purge(name, "dead") == 1
    await worker.drain()
    assert await crew.is_idle()


async def _is_aside(crew: Crew) -> bool:
    return await crew.client.state(crew.name, "to-set-aside") == TaskState.INTERRUPTED
