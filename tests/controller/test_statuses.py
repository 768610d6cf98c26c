"""How soon a status is written."""

from __future__ import annotations

import asyncio
from typing import Any, cast
from unittest.mock import AsyncMock

import pytest
from barriers import settle

from watchbill.controller.cache import Cache, Key
from watchbill.controller.events import Events
from watchbill.controller.memory import CrewMemory
from watchbill.controller.statuses import Statuses, urgency
from watchbill.controller.store_gate import StoreGate
from watchbill.errors import KubernetesUnavailable, NotFound
from watchbill.kubernetes_api import KubernetesApi
from watchbill.testing import FakeClock

pytestmark = pytest.mark.pure

TURN = 1 / 18


def status(reason: str = "Available", **more: Any) -> dict[str, Any]:
    ready = {
        "type": "Ready",
        "status": "True" if reason in ("Available", "StoreEvicts") else "False",
        "reason": reason,
        "message": "m",
    }
    return {"observedGeneration": 1, "conditions": [ready], "replicas": 1, "waiting": 3, "running": 0, **more}


@pytest.mark.parametrize(
    ("after", "soon"),
    [
        (status(waiting=4), "figures"),
        (status(waiting=0), "now"),
        (status(running=1), "now"),
        (status(replicas=2), "now"),
        (status("FlowCycle"), "now"),
        (status("StoreUnavailable"), "shared"),
        (status("StoreUnavailable", observedGeneration=2), "now"),
        (status("StoreEvicts"), "shared"),
        (status("StoreEvicts", observedGeneration=2), "now"),
        (status(lastFireTime="2026-03-01T12:00:00Z"), "figures"),
        (status(conditions=[{**status()["conditions"][0], "message": "other"}]), "figures"),
    ],
    ids=str,
)
def test_what_concerns_one_is_written_at_once_and_what_many_share_in_turns(after: dict[str, Any], soon: str) -> None:
    assert urgency(status(), after) == soon


def test_the_way_back_is_shared_too() -> None:
    assert urgency(status("StoreUnavailable"), status()) == "shared"
    assert urgency(status("StoreEvicts"), status()) == "shared"


def test_with_a_store_that_evicts_too_what_concerns_one_is_written_at_once() -> None:
    assert urgency(status("StoreEvicts"), status("StoreEvicts", waiting=0)) == "now"
    assert urgency(status("StoreEvicts"), status("FlowCycle")) == "now"
    assert urgency(status("Progressing"), status("StoreEvicts")) == "now"


# ------------------------------------------------------------------ writing


class ApiServer:
    """Keeps the statuses that it is sent, as the API server does."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.is_gone = False
        self.changed: dict[str, Any] = {}  # the metadata that somebody else has changed

    async def get(self, kind: str, namespace: str, name: str) -> None:
        assert self.is_gone

    async def apply_status(self, kind: str, manifest: dict[str, Any]) -> dict[str, Any]:
        if self.is_gone:
            raise NotFound("gone")
        self.sent.append(manifest)
        metadata = {
            **manifest["metadata"],
            "resourceVersion": str(100 + len(self.sent)),
            "generation": 1,
            **self.changed,
        }
        return {**manifest, "metadata": metadata, "spec": {"crewRef": {"name": "echo"}}}


class Writing:
    """A crew `team/echo` whose status is written."""

    def __init__(self) -> None:
        self.server, self.clock, self.cache = ApiServer(), FakeClock(), Cache()
        self.gate = StoreGate(lambda: None, self.clock)
        self.woken: list[Key] = []
        kubernetes = cast(KubernetesApi, self.server)
        events = Events(kubernetes, "operator-0", self.clock)
        self.statuses = Statuses(kubernetes, self.cache, self.gate, self.woken.append, events, self.clock)
        self.memory = CrewMemory()

    async def write(self, before: dict[str, Any] | None, after: dict[str, Any] | None, name: str = "echo") -> Any:
        """Returns in how many seconds to come again."""
        metadata = {
            "namespace": "team",
            "name": name,
            "uid": "u",
            "labels": {},
            "resourceVersion": "1",
            "generation": 1,
        }
        seen = {"metadata": metadata, **({"status": before} if before else {})}
        return await self.statuses.write("crews", seen, after, ("team", name), self.memory)

    async def has_written(
        self, before: dict[str, Any] | None, after: dict[str, Any] | None, name: str = "echo"
    ) -> bool:
        count = len(self.server.sent)
        assert await self.write(before, after, name) is None
        return len(self.server.sent) > count


async def test_a_status_goes_out_whole_and_what_the_api_server_answers_is_known_at_once() -> None:
    writing = Writing()
    assert await writing.has_written(None, status())
    assert writing.server.sent == [
        {
            "apiVersion": "watchbill.dev/v1alpha1",
            "kind": "Crew",
            "metadata": {"name": "echo", "namespace": "team", "uid": "u"},
            "status": status(),
        }
    ]
    seen = writing.cache.crews.get(("team", "echo"))
    assert seen is not None
    assert seen["metadata"]["resourceVersion"] == "101"


async def test_a_heartbeat_is_written_as_one() -> None:
    writing = Writing()
    seen = {"metadata": {"namespace": "team", "name": "beat", "uid": "u"}}
    await writing.statuses.write("heartbeats", seen, status(), ("team", "echo"), writing.memory)
    assert writing.server.sent[0]["kind"] == "Heartbeat"
    assert len(writing.cache.heartbeats.of(("team", "echo"))) == 1


async def test_a_status_that_says_it_already_is_not_written() -> None:
    writing = Writing()
    assert not await writing.has_written(status(), status())
    assert not await writing.has_written(status(), None)


async def test_what_concerns_one_resource_waits_for_nothing() -> None:
    writing = Writing()
    for number in range(50):
        assert await writing.has_written(status(), status("FlowCycle"), f"c{number}")
    assert await writing.has_written(status("FlowCycle"), status(), "c0")


async def test_figures_of_one_resource_are_written_every_ten_seconds() -> None:
    writing = Writing()
    assert await writing.has_written(status(), status(waiting=4))
    writing.clock.advance(4)
    assert await writing.write(status(waiting=4), status(waiting=5)) == 6
    assert await writing.has_written(status(), status(waiting=5), "other"), "each resource for itself"
    writing.clock.advance(6)
    assert await writing.has_written(status(waiting=4), status(waiting=5))


async def test_figures_wait_for_ten_seconds_after_any_write() -> None:
    writing = Writing()
    assert await writing.has_written(status("FlowCycle"), status())
    writing.clock.advance(1)
    assert await writing.write(status(), status(waiting=4)) == 9


async def test_figures_that_could_not_be_written_do_not_count_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    writing = Writing()
    with monkeypatch.context() as patch:
        patch.setattr(writing.server, "apply_status", AsyncMock(side_effect=KubernetesUnavailable("timed out")))
        with pytest.raises(KubernetesUnavailable):
            await writing.write(status(), status(waiting=4))
    writing.clock.advance(TURN)
    assert await writing.has_written(status(), status(waiting=4)), "at once, and not after the pause between two writes"


async def test_figures_that_wait_for_their_turn_do_not_count_as_written() -> None:
    writing = Writing()
    turns = asyncio.create_task(writing.statuses.turns.run())
    assert await writing.has_written(status(), status(waiting=4), "a")
    assert not await writing.has_written(status(), status(waiting=4), "b")
    writing.clock.advance(TURN)
    await settle()
    assert writing.woken == [("team", "b")]
    assert await writing.has_written(status(), status(waiting=4), "b")
    turns.cancel()


async def test_a_store_that_is_away_for_less_than_ten_seconds_is_not_written() -> None:
    writing = Writing()
    writing.gate.failed(OSError("away"))
    writing.clock.advance(4)
    assert await writing.write(status(), status("StoreUnavailable")) == 6
    writing.clock.advance(6)
    assert await writing.has_written(status(), status("StoreUnavailable"))


async def test_a_store_that_is_back_is_written_in_turns_before_figures() -> None:
    writing = Writing()
    turns = asyncio.create_task(writing.statuses.turns.run())
    assert await writing.has_written(status("StoreUnavailable"), status(), "a")
    assert not await writing.has_written(status(), status(waiting=4), "figures")
    assert not await writing.has_written(status("StoreUnavailable"), status(), "b")
    for _ in range(2):
        writing.clock.advance(TURN)
        await settle()
    assert writing.woken == [("team", "b"), ("team", "figures")]
    turns.cancel()


@pytest.mark.parametrize("is_down_again", [False, True])
async def test_a_change_that_is_taken_back_gives_up_its_turn(is_down_again: bool) -> None:
    writing = Writing()
    turns = asyncio.create_task(writing.statuses.turns.run())
    assert await writing.has_written(status("StoreUnavailable"), status(), "a")
    assert not await writing.has_written(status("StoreUnavailable"), status(), "b")
    if is_down_again:
        writing.gate.failed(OSError("away"))
        assert await writing.write(status("StoreUnavailable"), status(), "b") == 10
    else:
        assert not await writing.has_written(status("StoreUnavailable"), status("StoreUnavailable"), "b")
    writing.clock.advance(TURN)
    await settle()
    assert writing.woken == []
    turns.cancel()


async def test_a_resource_that_was_deleted_meanwhile_is_no_error() -> None:
    writing = Writing()
    writing.server.is_gone = True
    assert await writing.write(None, status()) is None
    assert ("team", "echo") not in writing.cache.crews


async def test_only_recent_writes_are_remembered() -> None:
    writing = Writing()
    await writing.write(None, status(), "old")
    writing.clock.advance(59)
    await writing.write(None, status(), "recent")
    writing.clock.advance(1)
    await writing.write(None, status())
    assert {name for _, _, name in writing.memory.written} == {"recent", "echo"}
