"""Helpers of the tests of crew records."""

from __future__ import annotations

import json
from typing import Any

import redis.asyncio
import redis.exceptions

from watchbill.records import AgentDefinition, CrewDefinition


def crew_of(name: str = "blog", **fields: Any) -> CrewDefinition:
    return CrewDefinition(name=name, agents=[AgentDefinition(agent_id="writer")], **fields)


def text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


async def raw(client: redis.asyncio.Redis, key: str) -> Any:
    value = await client.get(key)
    return None if value is None else json.loads(value)


async def keys_of(client: redis.asyncio.Redis, tenant: str) -> set[str]:
    """The tenant's keys without the scripts' short-lived answers, each of which must expire."""
    found = {text(key) async for key in client.scan_iter(match=f"crew:{{{tenant}}}:*", count=1000)}
    answers = {key for key in found if ":answer:" in key}
    for key in answers:
        assert 0 < await client.ttl(key) <= 120
    return found - answers
