"""What the operator's metrics say of all crews together, and of the store's memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from prometheus_client import REGISTRY

from watchbill import connection, metrics
from watchbill.controller import observed
from watchbill.controller.cache import Cache


def resource(name: str, *conditions: tuple[str, str], version: str = "1") -> dict[str, Any]:
    return {
        "metadata": {"namespace": "team", "name": name, "uid": name, "generation": 1, "resourceVersion": version},
        "spec": {"crewRef": {"name": "a"}},
        "status": {"conditions": [{"type": kind, "status": status, "reason": "X"} for kind, status in conditions]},
    }


def stalled(kind: str) -> float | None:
    return REGISTRY.get_sample_value("watchbill_operator_stalled", {"kind": kind})


@pytest.mark.pure
def test_what_is_stalled_is_counted_by_kind_and_until_it_is_no_longer() -> None:
    cache = Cache()
    cache.take("crews", "ADDED", resource("a", ("Ready", "False"), ("Stalled", "True")))
    cache.take("crews", "ADDED", resource("b", ("Ready", "True"), ("Stalled", "False")))
    cache.take("crews", "ADDED", {**resource("new"), "status": None})
    cache.take("heartbeats", "ADDED", resource("h", ("Stalled", "True")))
    cache.take("heartbeats", "ADDED", resource("i", ("Stalled", "True")))
    observed.show_stalled(cache)
    assert (stalled("crews"), stalled("heartbeats")) == (1, 2)
    cache.take("heartbeats", "DELETED", resource("h", version="2"))
    cache.take("crews", "MODIFIED", resource("a", ("Ready", "True"), version="2"))
    observed.show_stalled(cache)
    assert (stalled("crews"), stalled("heartbeats")) == (0, 1)


async def test_the_memory_is_a_part_of_the_bound_that_the_store_has(
    private_redis: Callable[[], Awaitable[Any]],
) -> None:
    server = await private_redis()
    async with connection.connected(server.url) as client:
        await observed.show_memory(client)
        assert metrics.STORE_MEMORY._value.get() == 0, "it has no bound"
        await client.setrange("ballast", 8 << 20, "x")
        used = (await client.info("memory"))["used_memory"]
        await client.config_set("maxmemory", 2 * used)
        await observed.show_memory(client)
        assert metrics.STORE_MEMORY._value.get() == pytest.approx(0.5, abs=0.02)
