"""What nobody can read in the store (an older version's, damaged, forged) is told as such, and breaks no reader."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support import Crew, flow_of, library, stopped

from waiting import until
from watchbill.client import Client
from watchbill.errors import NewerRecord, WatchbillError
from watchbill.store import definitions, runs
from watchbill.tasks import TaskState

DAMAGED: dict[str, bytes | None] = {
    "a number of 5,000 digits": b'{"task_id":"t1","agent_name":"a","success":true,"output":' + b"7" * 5000 + b"}",
    "cut off": b'{"task_id":"t1","agent_name":"a","succ',
    "another shape": b'["completed"]',
    "no text": b"\xff\xfe\xed\xa0\x80",
    "nothing": None,
}


async def _put(crew: Crew, key: str, field: str, value: bytes | None) -> None:
    if value is None:
        await crew.client.hdel(key, field)
    else:
        await crew.client.hset(key, field, value)


@pytest.mark.parametrize("what", DAMAGED)
async def test_a_result_that_cannot_be_read_is_a_result_that_says_so(crew: Crew, client: Client, what: str) -> None:
    await crew.submit("t1")
    await crew.finish("w", await crew.take("w"))
    await _put(crew, crew.keys.task("t1"), "result", DAMAGED[what])
    for result in (await client.result(crew.keys.crew, "t1"), await client.wait(crew.keys.crew, "t1", timeout=180)):
        assert result is not None
        assert not result.success
        assert not result.cancelled
        assert "its result in the store can't be read" in str(result.error)
        assert result.output is None
    assert await client.state(crew.keys.crew, "t1") is TaskState.COMPLETED


@pytest.mark.parametrize("what", [name for name, value in DAMAGED.items() if value is not None])
async def test_a_run_with_a_step_that_cannot_be_read_has_no_success(crew: Crew, client: Client, what: str) -> None:
    await crew.run("r1", flow_of([("a", "b")]))
    for number in (1, 2):
        await crew.finish("w", await crew.take("w", number), output="fine")
    await _put(crew, crew.keys.run_results("r1"), "b", DAMAGED[what])
    run: Any = await client.wait(crew.keys.crew, "r1", timeout=180)
    assert (run.success, run.output, run.steps["a"].output) == (False, None, "fine")
    assert "b: its result in the store can't be read" in run.error
    step: Any = await client.result(crew.keys.crew, "r1/b")
    assert (step.success, step.error) == (False, run.steps["b"].error)
    with pytest.raises(WatchbillError, match=r"step 'b' of run 'r1' has no output that can be read"):
        await runs.outputs(crew.client, crew.keys, "r1", ["a", "b"])


@pytest.mark.parametrize("ask", ["status", "state", "cancel", "result", "wait"])
async def test_a_step_whose_record_is_damaged_is_told_as_such(crew: Crew, client: Client, ask: str) -> None:
    await crew.run("r1", flow_of([("a", "b")]))
    for number in (1, 2):
        await crew.finish("w", await crew.take("w", number))
    await _put(crew, crew.keys.run_steps("r1"), "b", b"\xff what")
    if ask in ("result", "wait"):
        run: Any = await getattr(client, ask)(crew.keys.crew, "r1")
        assert not run.success
        assert "the record of 'r1'" in run.error
    else:
        with pytest.raises(NewerRecord, match="can't be read"):
            await getattr(client, ask)(crew.keys.crew, "r1" if ask == "status" else "r1/b")


async def test_a_state_of_a_newer_version_is_told_as_such(crew: Crew, client: Client) -> None:
    await crew.submit("t1")
    await crew.run("r1", flow_of([("a", "b")]))
    for key, task_id in ((crew.keys.task("t1"), "t1"), (crew.keys.run("r1"), "r1")):
        await crew.client.hset(key, "state", "hibernating")
        assert await client.result(crew.keys.crew, task_id) is None
        with pytest.raises(NewerRecord, match="hibernating"):
            await client.state(crew.keys.crew, task_id)


async def test_a_definition_that_the_store_has_lost_is_told_and_can_be_given_again(crew: Crew, client: Client) -> None:
    await client.submit(crew.keys.crew, "x", id="t0", agent="a")
    await crew.run("r1")
    await crew.finish("w", [task for task in await crew.take("w") if task.run_id], "dead")
    later = library("a", "b", description="mended")
    await definitions.apply(crew.client, crew.keys, later)
    await crew.client.delete(crew.keys.definition(later.digest()))
    async with asyncio.timeout(180):
        with pytest.raises(NewerRecord, match="has lost the definition of crew"):
            await client.replay(crew.keys.crew, everything=True)
        with pytest.raises(NewerRecord, match="has lost the definition of crew"):
            await client.submit(crew.keys.crew, "x", id="t1", agent="a")
    await definitions.apply(crew.client, crew.keys, later)
    assert await client.submit(crew.keys.crew, "x", id="t1", agent="a") == "t1"


async def test_a_damaged_dead_letter_hides_none_of_the_others(crew: Crew, client: Client) -> None:
    await crew.submit("t1")
    await crew.finish("w", await crew.take("w"), "dead", message="it broke")
    for payload in (b"[1", b"[]", b'{"prompt": 7}', b"\xff", b"9" * 5000, b"[" * 100_000):
        fields = {
            "id": "odd",
            "reason": b"\xff",
            "agent": b"\xff",
            "class": "x",
            "attempt": "9" * 30,
            "payload": payload,
        }
        await crew.client.xadd(crew.keys.dead, fields)
    letters = [letter async for letter in client.dead_letters(crew.keys.crew)]
    assert [letter.task_id for letter in letters] == ["odd"] * 6 + ["t1"]
    assert [letter.prompt for letter in letters] == [None] * 6 + ["t1"]
    assert (await client.dead_letter(crew.keys.crew, "odd")).reason == "base64:/w=="


async def test_who_waits_believes_the_store_and_no_message(crew: Crew, client: Client) -> None:
    """Forged results and rubbish on the channel of a client that waits are a reason to look, and nothing else."""
    await crew.submit("t1")
    waiting = asyncio.create_task(client.wait(crew.keys.crew, "t1", timeout=180))
    channel: str = await until(lambda: crew.client.hget(crew.keys.task("t1"), "reply"))
    forged = b'{"task_id":"t1","agent_name":"a","success":true,"output":"FORGED"}'
    looks = int((await crew.client.info("commandstats"))["cmdstat_hmget"]["calls"])
    for message in (b"t1\x1f" + forged, b"t1", b"t1\x1fgarbage", b"\xff\xfe\x1e\x1e", b"", b"\x1e" * 10_000):
        await crew.client.publish(channel, message)

    async def has_looked() -> bool:
        return int((await crew.client.info("commandstats"))["cmdstat_hmget"]["calls"]) > looks

    await until(has_looked)
    assert not waiting.done()
    await crew.finish("w", await crew.take("w"), output="true")
    assert (await waiting).output == "true"
    await stopped(waiting)
