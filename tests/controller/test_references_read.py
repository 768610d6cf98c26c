"""When Secrets and ConfigMaps are looked at, and which crews hear of a change. An API server in memory; time is
turned."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from barriers import settle

from watchbill import background
from watchbill.controller.references import FRESH_SECONDS, MISSING_SECONDS, References
from watchbill.errors import KubernetesForbids, KubernetesUnavailable
from watchbill.kubernetes_api import KubernetesApi
from watchbill.plan.references import MISSING
from watchbill.testing import FakeClock

pytestmark = pytest.mark.pure

A, B, ELSEWHERE = ("team", "a"), ("team", "b"), ("other", "a")
KEYS, CONF = "Secret/keys", "ConfigMap/conf"


class ApiServer:
    """Metadata in memory."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], int] = {}
        """(plural, namespace, name) → version"""
        self.asked: list[tuple[str, str, str]] = []
        self.errors: dict[str, Exception] = {}
        """Plural → what is raised."""

    async def metadata(self, plural: str, namespace: str, name: str) -> dict[str, Any] | None:
        self.asked.append((plural, namespace, name))
        await asyncio.sleep(0)
        if error := self.errors.get(plural):
            raise error
        version = self.objects.get((plural, namespace, name))
        return None if version is None else {"uid": plural, "resourceVersion": str(version)}


class Room:
    """The references of one operator."""

    def __init__(self) -> None:
        self.clock, self.server = FakeClock(), ApiServer()
        self.woken: list[tuple[str, str]] = []
        self.references = References(cast(KubernetesApi, self.server), self.woken.append, 300, self.clock)
        for plural, name in (("secrets", "keys"), ("configmaps", "conf")):
            self.server.objects[plural, "team", name] = 1

    async def states(self, crew: tuple[str, str] = A, *needed: str, changed: bool = False) -> dict[str, str]:
        return await self.references.states(crew, needed or (KEYS, CONF), changed=changed)

    async def pass_(self, seconds: float) -> list[tuple[str, str, str]]:
        """What is asked of the API server in so many seconds in which nobody asks for a state."""
        self.server.asked.clear()
        running = asyncio.create_task(self.references.run())
        for _ in range(int(seconds)):
            await settle()
            self.clock.advance(1)
        await settle()
        await background.end(running)
        return self.server.asked


async def test_an_object_is_read_once_for_all_crews_of_its_namespace() -> None:
    room = Room()
    states = await asyncio.gather(*(room.states(("team", str(n)), changed=True) for n in range(100)))
    assert all(found == states[0] and len(set(found.values())) == 2 for found in states)
    assert sorted(room.server.asked) == [("configmaps", "team", "conf"), ("secrets", "team", "keys")]
    assert (await room.states(ELSEWHERE))[KEYS] == MISSING
    assert room.server.asked[2:] == [("secrets", "other", "keys"), ("configmaps", "other", "conf")]
    assert room.woken == []


async def test_an_object_is_read_again_within_the_pause_and_a_change_wakes_its_crews() -> None:
    room = Room()
    before = await room.states(A)
    await room.states(B, CONF)
    asked = await room.pass_(224)
    assert asked == [], "read again too soon"
    room.server.objects["secrets", "team", "keys"] = 2
    asked = await room.pass_(77)
    assert sorted(asked) == [("configmaps", "team", "conf"), ("secrets", "team", "keys")]
    assert room.woken == [A]
    after = await room.states(A)
    assert after[CONF] == before[CONF]
    assert after[KEYS] != before[KEYS]


async def test_a_crew_that_changes_has_its_objects_read_anew() -> None:
    room = Room()
    before = await room.states(A)
    await room.states(B)
    room.server.objects["secrets", "team", "keys"] = 2
    assert await room.states(A, changed=True) == before, "it was read a moment ago"
    room.clock.advance(FRESH_SECONDS)
    assert await room.states(A) == before
    after = await room.states(A, changed=True)
    assert after[KEYS] != before[KEYS]
    assert B in room.woken, "which refers to it, too"


async def test_what_is_missing_is_looked_for_sooner_and_less_and_less() -> None:
    room = Room()
    assert await room.states(ELSEWHERE, KEYS) == {KEYS: MISSING}
    assert 2 <= len(await room.pass_(10)) <= 10 / MISSING_SECONDS
    assert len(await room.pass_(2000)) < 40
    room.server.objects["secrets", "other", "keys"] = 1
    await room.pass_(300)
    assert room.woken == [ELSEWHERE]
    assert (await room.states(ELSEWHERE, KEYS))[KEYS] != MISSING


async def test_what_nobody_refers_to_is_not_read_any_longer() -> None:
    room = Room()
    await room.states(A)
    await room.states(B, CONF)
    await room.states(A, KEYS)
    room.references.forget(B)
    assert {plural for plural, _, _ in await room.pass_(301)} == {"secrets"}


async def test_what_may_not_be_read_is_said_once_and_has_no_state(caplog: pytest.LogCaptureFixture) -> None:
    room = Room()
    room.server.errors["configmaps"] = KubernetesForbids("no right", 403)
    assert list(await room.states(A)) == [KEYS]
    assert list(await room.states(ELSEWHERE)) == [KEYS]
    await room.pass_(301)
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1
    del room.server.errors["configmaps"]
    await room.pass_(301)
    assert list(await room.states(A)) == [KEYS, CONF]
    assert A in room.woken


async def test_an_api_server_that_is_away_changes_no_state_and_is_asked_again() -> None:
    room = Room()
    room.server.errors["secrets"] = KubernetesUnavailable("away")
    with pytest.raises(KubernetesUnavailable):
        await room.states(A)
    del room.server.errors["secrets"]
    before = await room.states(A)
    room.server.errors["secrets"] = room.server.errors["configmaps"] = KubernetesUnavailable("away")
    await room.pass_(400)
    assert await room.states(A) == before
    assert room.woken == []
    room.server.errors.clear()
    room.server.objects["secrets", "team", "keys"] = 2
    await room.pass_(1)
    assert room.woken == [A]
