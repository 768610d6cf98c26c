"""A town's event streams on a Redis Cluster, where keys of one script must share a slot."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
import servers

from watchbill import connection
from watchbill.errors import InvalidInput
from watchbill.events import EventStream, TownEvent


async def test_a_town_on_a_cluster_needs_braces_around_its_name(store_named: Callable[[str], servers.Store]) -> None:
    event = TownEvent.new("agent_spawned", "at work").with_agent("a").with_mission("m")
    town = uuid.uuid4().hex
    async with connection.connected(store_named("valkey-cluster").url) as client:
        with pytest.raises(InvalidInput, match=rf"town_name: .* Name the town {{{town}}}, with braces"):
            await EventStream(client, town).emit(event)
        stream = EventStream(client, f"{{{town}}}")
        assert len(await stream.emit(event)) == 3
        assert [told for _, told in await stream.read_mission_events("m")] == [event]
        assert await stream.archive_mission("m")
