"""What the reconciler remembers, and when it comes again. An API server and a store in memory; time is turned."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest
from prometheus_client import REGISTRY

from watchbill.controller import faults
from watchbill.controller.cache import Cache, Key
from watchbill.controller.events import Events
from watchbill.controller.eviction import Eviction
from watchbill.controller.memory import CrewMemory, Memory
from watchbill.controller.reconcile import Reconciler
from watchbill.controller.references import FRESH_SECONDS, References
from watchbill.controller.statuses import Statuses
from watchbill.controller.store_gate import StoreGate
from watchbill.controller.stored import Stored, StoreState
from watchbill.errors import (
    KubernetesForbids,
    KubernetesUnavailable,
    NameTaken,
    NotLeader,
    StaleObject,
    StoreUnavailable,
)
from watchbill.kubernetes_api import KubernetesApi
from watchbill.plan import manifests
from watchbill.plan.replicas import Load
from watchbill.testing import FakeClock

pytestmark = pytest.mark.pure

ECHO = ("team", "echo")
IDLE = Load(0, 0, None)


def counted(reason: str) -> float:
    """The errors of this reason so far."""
    return REGISTRY.get_sample_value("watchbill_operator_reconcile_errors_total", {"reason": reason}) or 0.0


class ApiServer:
    """Objects in memory, with versions; and what it was asked for."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.version = 0
        self.has_secret = True
        self.error: Exception | None = None
        """The answer to each apply."""
        self.asked: list[str] = []
        self.on_apply: Callable[[dict[str, Any]], object] = lambda _: None

    def store(self, kind: str, manifest: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        obj = copy.deepcopy(manifest)
        obj["metadata"] |= {"resourceVersion": str(self.version), "uid": obj["metadata"].get("uid", "u")}
        self.objects[kind, obj["metadata"]["name"]] = obj
        return obj

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        return self.objects.get((kind, name))

    async def metadata(self, plural: str, namespace: str, name: str) -> dict[str, Any] | None:
        self.asked.append(plural)
        return {"uid": "s", "resourceVersion": "1"} if self.has_secret else None

    async def apply(self, kind: str, manifest: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(f"apply {kind}")
        if self.error is not None:
            raise self.error
        self.on_apply(copy.deepcopy(manifest))
        return self.store(kind, manifest)

    async def apply_status(self, kind: str, manifest: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(f"status of {kind}")
        name = manifest["metadata"]["name"]
        return self.store(kind, {**self.objects[kind, name], "status": manifest["status"]})

    async def delete(self, kind: str, namespace: str, name: str, *, uid: str, resource_version: str) -> None:
        assert self.objects[kind, name]["metadata"]["resourceVersion"] == resource_version
        del self.objects[kind, name]


class Store:
    """A store that holds one crew."""

    def __init__(self) -> None:
        self.load = IDLE
        self.error: Exception | None = None
        self.asked = 0
        self.swept = 0
        """So many readings are the autoscaler's."""
        self.explained = 0
        self.removed: list[Key] = []
        self.followed = 0

    async def sync(self, *_: Any) -> StoreState:
        self.asked += 1
        if self.error is not None:
            raise self.error
        self.swept -= 1
        return StoreState(self.load, (), True, {}, {}, is_swept=self.swept >= 0)

    async def explain(self, *_: Any) -> None:
        self.explained += 1

    async def follow(self, key: Key, beats: Any) -> bool:
        self.followed += 1
        if self.error is not None:
            raise self.error
        return True

    async def drain(self, *_: Any, **__: Any) -> None: ...

    async def remove(self, key: Key, uid: str | None, memory: CrewMemory) -> None:
        self.removed.append(key)


class Room:
    """A reconciler and all around it."""

    def __init__(self) -> None:
        self.clock, self.cache, self.memory = FakeClock(), Cache(), Memory()
        self.server, self.store = ApiServer(), Store()
        kubernetes = cast(KubernetesApi, self.server)
        gate = StoreGate(lambda: None, self.clock)
        self.events = Events(kubernetes, "operator-0", self.clock)
        self.statuses = Statuses(kubernetes, self.cache, gate, lambda _: None, self.events, self.clock)
        self.reconciler = Reconciler(
            kubernetes,
            self.cache,
            cast(Stored, self.store),
            self.statuses,
            gate,
            cast(Eviction, SimpleNamespace(message="")),
            self.memory,
            self.events,
            References(kubernetes, lambda _: None, 300, self.clock),
            workers=manifests.Defaults(image="worker"),
            clock=self.clock,
        )
        self.change("crews", generation=1)

    def change(self, plural: str, name: str = "echo", *, generation: int, **status: Any) -> None:
        spec: dict[str, Any] = {"agents": [{"name": "a", "class": "EchoAgent"}], "workers": {"idleSeconds": 300}}
        if plural == "heartbeats":
            spec = {"crewRef": {"name": "echo"}, "intervalSeconds": 60, "agent": "a", "prompt": "look"}
        obj = {
            "apiVersion": "watchbill.dev/v1alpha1",
            "kind": "Crew" if plural == "crews" else "Heartbeat",
            "metadata": {"name": name, "namespace": "team", "generation": generation},
            "spec": spec,
            **({"status": status} if status else {}),
        }
        self.cache.take(plural, "MODIFIED", self.server.store(plural, obj))

    def condition(self, kind: str = "Ready", plural: str = "crews", name: str = "echo") -> tuple[str, str]:
        for found in self.server.objects[plural, name]["status"]["conditions"]:
            if found["type"] == kind:
                return found["status"], found["reason"]
        return "", ""

    async def reconcile(self) -> float | None:
        return await self.reconciler.reconcile(ECHO)

    async def asks(self) -> list[str]:
        """What is asked of the API server by one reconciliation."""
        self.server.asked.clear()
        await self.reconcile()
        return self.server.asked

    def workers(self) -> int:
        (child,) = self.cache.deployments.of(ECHO)
        return child.replicas


async def test_workers_go_after_the_idle_seconds_and_what_came_meanwhile_counts() -> None:
    room = Room()
    room.store.load = Load(1, 0, None)
    assert await room.reconcile() == 60, "then its task has waited for long"
    assert room.memory.of(ECHO).watch == "closely"
    assert room.workers() == 1
    room.store.load = IDLE
    await room.reconcile()
    room.clock.advance(200)
    await room.reconcile()
    room.memory.on_work(ECHO)  # work that was done before anybody saw it
    await room.reconcile()
    room.clock.advance(299)
    await room.reconcile()
    assert room.workers() == 1
    room.clock.advance(1)
    await room.reconcile()
    assert room.workers() == 0
    assert await room.reconcile() is None, "nothing is to be expected of an idle crew without workers"


async def test_no_pod_goes_before_the_store_itself_was_asked() -> None:
    room = Room()
    room.store.load = Load(1, 0, None)
    await room.reconcile()
    room.store.load = IDLE
    await room.reconcile()
    room.clock.advance(300)
    asked, room.store.swept = room.store.asked, 1
    await room.reconcile()
    assert (room.workers(), room.store.asked - asked) == (0, 2)
    room.store.load, room.store.swept = Load(1, 0, None), 1
    await room.reconcile()
    assert (room.workers(), room.store.asked - asked) == (1, 3), "more workers do no harm"


async def test_what_fails_is_not_looked_at_again_before_its_pause_is_over() -> None:
    room = Room()
    room.store.load = Load(1, 0, None)
    await room.reconcile()
    room.store.error = KubernetesUnavailable("down")
    with pytest.raises(KubernetesUnavailable):
        await room.reconcile()
    assert room.memory.of(ECHO).watch == ""


async def test_seconds_in_which_the_store_was_away_are_not_idle() -> None:
    room = Room()
    room.store.load = Load(1, 0, None)
    await room.reconcile()
    room.store.load = IDLE
    await room.reconcile()
    room.clock.advance(299)
    room.store.error = StoreUnavailable("away")
    assert await room.reconcile() == 5
    room.clock.advance(10)
    room.store.error = None
    await room.reconcile()
    assert room.workers() == 1


async def test_a_crew_without_its_secret_says_so_until_it_comes() -> None:
    room = Room()
    room.server.has_secret = False
    assert "secrets" in await room.asks()
    assert room.condition("Stalled") == ("True", "RedisSecretMissing")
    assert "secrets" not in await room.asks()
    room.server.has_secret = True
    room.change("crews", generation=2)
    room.clock.advance(FRESH_SECONDS)
    assert "secrets" in await room.asks()
    assert room.condition("Stalled") == ("", "")


async def test_what_is_forbidden_is_tried_again_after_growing_pauses() -> None:
    room = Room()
    room.server.error = KubernetesForbids("no right", 403)
    for pause in (5, 10, 20, 40, 60, 60):
        assert "apply serviceaccounts" in await room.asks()
        assert room.condition() == ("False", "Forbidden")
        room.clock.advance(pause - 1)
        assert await room.reconcile() == 1, "then it is tried again"
        assert "apply serviceaccounts" not in await room.asks()
        room.clock.advance(1)
    room.server.error = None
    assert "apply deployments" in await room.asks()
    assert room.condition("Stalled") == ("", "")
    room.server.error = KubernetesForbids("no right", 403)
    [account] = [key for key in room.server.objects if key[0] == "serviceaccounts"]
    del room.server.objects[account]
    room.memory.invalidate()
    assert await room.reconcile() == 5, "a success was between"


async def test_a_crew_of_another_operator_says_so_once_for_each_generation() -> None:
    room = Room()
    room.store.error = NameTaken("another's")
    assert await room.reconcile() == 5
    assert room.condition("Stalled") == ("True", "OwnerConflict")
    room.change("crews", generation=1, conditions=[], observedGeneration=1)  # as the other operator sees it
    assert await room.asks() == []
    assert await room.reconcile() == 5
    room.change("crews", generation=2)
    assert "status of crews" in await room.asks()
    room.store.error = None
    await room.reconcile()
    assert room.condition("Stalled") == ("", "")
    room.store.error = NameTaken("another's again")
    assert "status of crews" in await room.asks()


async def test_while_the_store_is_away_one_reconciliation_a_second_asks_it() -> None:
    room = Room()
    room.store.error = StoreUnavailable("away")
    assert await room.reconcile() == 5
    await room.reconcile()
    assert room.store.asked == 1
    room.clock.advance(1)
    await room.reconcile()
    await room.reconcile()
    assert room.store.asked == 2
    room.clock.advance(9)
    await room.reconcile()
    assert room.condition() == ("False", "StoreUnavailable")


@pytest.mark.parametrize("error", [StaleObject("older"), KubernetesUnavailable("down"), NotLeader("another leads")])
async def test_what_is_no_fault_of_the_store_is_not_taken_for_one(error: Exception) -> None:
    reason = faults.reason(error)
    room, before = Room(), counted(reason)
    room.store.error = error
    with pytest.raises(type(error)):
        await room.reconcile()
    assert counted(reason) - before == 1
    room.store.error = None
    await room.reconcile()
    assert room.condition() == ("True", "Available")
    assert counted(reason) - before == 1


async def test_a_crew_that_is_only_missing_from_the_cache_is_not_removed() -> None:
    room = Room()
    room.cache.take("crews", "DELETED", room.server.objects["crews", "echo"])
    await room.reconcile()
    assert room.store.removed == []
    assert ECHO in room.cache.crews


async def test_a_crew_that_is_gone_is_removed_and_forgotten_and_its_heartbeats_say_so() -> None:
    room = Room()
    room.change("heartbeats", "beat", generation=1)
    await room.reconcile()
    room.cache.take("crews", "DELETED", room.server.objects.pop(("crews", "echo")))
    room.memory.of(ECHO).idle_since = 0
    assert await room.reconcile() is None
    assert room.store.removed == [ECHO]
    assert room.condition("Stalled", "heartbeats", "beat") == ("True", "CrewNotFound")
    assert room.memory.of(ECHO) == CrewMemory()


async def test_a_new_crew_costs_a_write_for_each_child_and_one_for_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Mock(wraps=manifests.pod_template)
    monkeypatch.setattr(manifests, "pod_template", made)
    room = Room()
    assert [a for a in await room.asks() if a != "secrets"] == [
        "apply serviceaccounts",
        "apply deployments",
        "status of crews",
    ]
    assert room.condition() == ("True", "Available")
    assert made.call_count == 1
    assert await room.asks() == []
    assert made.call_count == 2


async def test_a_paused_crew_is_left_alone_and_says_so_until_it_is_no_longer() -> None:
    room = Room()
    await room.reconcile()
    before = room.server.objects["crews", "echo"]["status"]
    room.change("crews", generation=2, **before)
    crew = room.server.objects["crews", "echo"]

    def annotate(**annotations: str) -> None:
        crew["metadata"]["annotations"] = annotations
        room.cache.take(
            "crews", "MODIFIED", room.server.store("crews", {**room.server.objects["crews", "echo"], **crew})
        )

    annotate(**{"watchbill.dev/paused": "true"})
    room.store.load = Load(100, 0, None)
    asked = room.store.asked
    assert await room.asks() == ["status of crews"]
    assert room.store.asked == asked
    assert room.store.followed == 1
    assert room.workers() == 0
    assert room.condition("Paused") == ("True", "Annotated")
    assert room.condition() == ("True", "Available")
    assert room.server.objects["crews", "echo"]["status"]["observedGeneration"] == 1
    assert await room.asks() == []
    room.store.error = StoreUnavailable("away")
    assert await room.reconcile() == 60, "its heartbeats are read again"
    room.store.error = None

    crew["status"] = room.server.objects["crews", "echo"]["status"]
    annotate(**{"watchbill.dev/paused": "false"})
    await room.reconcile()
    assert room.workers() == 10
    assert room.condition("Paused") == ("", "")
    assert room.server.objects["crews", "echo"]["status"]["observedGeneration"] == 2


async def test_drains_are_remembered_until_they_end_so_that_they_can_be_timed() -> None:
    room, memory = Room(), CrewMemory()
    await room.reconciler._actor._drain(ECHO, "u", ["a", "b"], memory, on=True)
    assert memory.drained_at == dict.fromkeys("ab", room.clock.monotonic())
    await room.reconciler._actor._drain(ECHO, "u", ["a"], memory, on=False)
    assert list(memory.drained_at) == ["b"]
