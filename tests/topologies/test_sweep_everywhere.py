"""Crews on every kind of store, read by one call for each of its servers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import servers

from watchbill import connection
from watchbill.connection import scripts
from watchbill.store import sweep


async def test_crews_are_read_wherever_they_are(store: servers.Store, crew_in: Callable[..., Any]) -> None:
    crews = [await crew_in(store, {"a": "Brief"}) for _ in range(6)]
    client = crews[0].redis
    for number, crew in enumerate(crews):
        for task in range(number):
            await crew.submit(f"t{task}", "a")
    keys = [crew.keys for crew in crews]
    masters = await connection.masters(client)
    for node in masters.values():
        await node.config_resetstat()
    found = {name: how async for name, how in sweep.read(client, keys[1:], keys[:1])}
    calls = [
        (await node.info("commandstats")).get("cmdstat_evalsha", {"calls": 0})["calls"] for node in masters.values()
    ]
    assert found.pop(keys[0].crew) == sweep.NOTHING
    assert {name: how.figures.waiting for name, how in found.items() if isinstance(how, sweep.Whole)} == {
        crew.crew: number for number, crew in enumerate(keys) if number
    }
    assert max(calls) <= 2, "one for those that are read whole, one for the rest"
    elsewhere = [node for node in masters.values() if node is not await connection.home(client, keys[1].meta)]
    for node in elsewhere[:1]:  # as while a slot moves
        asked = [1, *sweep._NAMES, keys[1].root]
        assert await scripts.run(node, "sweep", [], asked) == [""]
