"""The heartbeats of a crew are stored one after another."""

from __future__ import annotations

from typing import Any, cast

import pytest
import redis.asyncio

from watchbill.api import Heartbeat
from watchbill.controller.beats_stored import Heartbeats, StoredHeartbeats
from watchbill.controller.memory import CrewMemory
from watchbill.errors import NotLeader
from watchbill.names import CrewKeys

pytestmark = pytest.mark.pure

KEYS = CrewKeys("team", "echo")


class Firing:
    """Notes what it is to fire, and what no more."""

    def __init__(self) -> None:
        self.told: list[str] = []

    async def add(self, keys: CrewKeys, uid: str, heartbeat: Heartbeat, **_: Any) -> None:
        self.told.append(f"add {heartbeat.name}")

    async def remove(self, keys: CrewKeys, uid: str, name: str) -> None:
        self.told.append(f"remove {name}")


def beat(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "watchbill.dev/v1alpha1",
        "kind": "Heartbeat",
        "metadata": {"name": name, "namespace": "team", "uid": "u", "generation": 1},
        "spec": {"crewRef": {"name": "echo"}, "intervalSeconds": 60, "prompt": "look"},
    }


@pytest.mark.parametrize(("may", "told"), [(0, []), (1, ["add a"]), (2, ["add a", "add b"])])
async def test_a_process_that_leads_no_more_stores_not_one_more_heartbeat(may: int, told: list[str]) -> None:
    """A crew may have many, and the store may answer late."""
    firing, left = Firing(), may

    def check() -> None:
        nonlocal left
        if not left:
            raise NotLeader("another leads")
        left -= 1

    memory = CrewMemory(knows_beats=True, verdicts={"gone": ("", "")})  # type: ignore[dict-item]
    stored = StoredHeartbeats(cast(redis.asyncio.Redis, None), cast(Heartbeats, firing), check)
    with pytest.raises(NotLeader):
        await stored.store(KEYS, "u", None, [beat("a"), beat("b")], memory, None, is_new=False)
    assert firing.told == told
