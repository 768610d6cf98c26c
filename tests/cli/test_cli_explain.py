"""`explain crew`: the operator's last plan in words, and for programs."""

from __future__ import annotations

import asyncio
import json

from shell import Shell

from watchbill import connection
from watchbill.names import CrewKeys
from watchbill.plan.scaling import Pods, Scaling, sentences
from watchbill.store import definitions, scaling


def test_explain_tells_the_last_plan_in_sentences_and_as_json(shell: Shell, alone: str) -> None:
    missing = shell.run("explain", "crew", alone)
    assert missing.returncode == 2
    assert "no operator has told yet" in missing.stderr
    told = Scaling(
        at="2026-03-01T12:00:00Z",
        mode="Auto",
        why="hold",
        wanted=1,
        replicas=2,
        held="window",
        until="2026-03-01T12:05:00Z",
        waiting=0,
        running=4,
        deliveries=0,
        max_replicas=20,
        concurrency=10,
        down_window_seconds=300,
        pods=(Pods("blog-1234", 2, 2, True),),
    )

    async def keep(uid: str = "") -> None:
        async with connection.connected(shell.env["WATCHBILL_REDIS_URL"]) as client:
            keys = CrewKeys("default", alone)
            await scaling.keep(client, keys, uid or (await definitions.identity(client, keys)).uid, told)

    asyncio.run(keep("another"))
    assert shell.run("explain", "crew", alone).returncode == 2, "it is another crew's"
    asyncio.run(keep())
    assert shell.run("explain", "crew", alone).stdout.splitlines() == [*sentences(told), f"As of {told.at}."]
    data = json.loads(shell.run("explain", "crew", alone, "-o", "json").stdout)
    assert (data["held"], data["wanted"], data["pods"][0]["ready"]) == ("window", 1, 2)
    assert data["sentences"] == sentences(told)
