"""How soon a status is written, and in which turn."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
from barriers import settle

from watchbill.controller.cache import Cache, Key
from watchbill.controller.events import Events
from watchbill.controller.memory import CrewMemory, Resource
from watchbill.controller.statuses import Statuses, Turns, urgency
from watchbill.controller.store_gate import StoreGate
from watchbill.errors import NotFound
from watchbill.kubernetes_api import KubernetesApi
from watchbill.testing import FakeClock

pytestmark = pytest.mark.pure

TURN = 1 / 20


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


# ------------------------------------------------------------------ turns


class CountingClock(FakeClock):
    sleeps = 0

    async def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        await super().sleep(seconds)


class Asking:
    """Resources that ask for a turn, and again when they are woken."""

    def __init__(self) -> None:
        self.clock = CountingClock()
        self.turns = Turns(self.ask, self.clock)
        self.wrote: list[str] = []
        self.woken: list[Key] = []

    def ask(self, key: Key) -> None:
        """The namespace says whether it goes first."""
        self.woken.append(key)
        if self.turns.take(("crews", *key), key, first=key[0] == "first"):
            self.wrote.append("/".join(key))

    @contextmanager
    def running(self) -> Iterator[None]:
        task = asyncio.create_task(self.turns.run())
        try:
            yield
        finally:
            task.cancel()

    async def advance(self, seconds: float) -> list[str]:
        """What was written within these seconds."""
        before = len(self.wrote)
        self.clock.advance(seconds)
        await settle()
        return self.wrote[before:]


async def test_turns_come_twenty_a_second_and_shared_changes_come_first() -> None:
    asking = Asking()
    with asking.running():
        for key in [("later", "a"), ("later", "b"), ("later", "c"), ("first", "d"), ("first", "e")]:
            asking.ask(key)
        assert asking.wrote == ["later/a"], "the first to ask has nobody before it"
        assert await asking.advance(0.99 * TURN) == []
        assert await asking.advance(0.01 * TURN) == ["first/d"]
        assert await asking.advance(0.99 * TURN) == []
        assert await asking.advance(0.01 * TURN) == ["first/e"]
        assert await asking.advance(TURN) == ["later/b"]
        assert await asking.advance(TURN) == ["later/c"]


async def test_after_a_rest_a_turn_comes_at_once_and_only_one() -> None:
    asking = Asking()
    with asking.running():
        for name in "abc":
            asking.ask(("first", name))
        await asking.advance(TURN)
        await asking.advance(TURN)
        assert asking.wrote == ["first/a", "first/b", "first/c"]
        asking.ask(("first", "d"))
        assert len(asking.wrote) == 3, "a turn was given just now"
        assert await asking.advance(TURN) == ["first/d"]
        await asking.advance(60)
        asking.ask(("first", "e"))
        asking.ask(("first", "f"))
        assert asking.wrote[4:] == ["first/e"]
        assert await asking.advance(TURN) == ["first/f"]


def test_a_turn_comes_at_once_when_the_one_before_it_is_over() -> None:
    asking = Asking()
    asking.ask(("first", "a"))
    asking.clock.advance(TURN)
    asking.ask(("first", "b"))
    assert asking.wrote == ["first/a", "first/b"]


async def test_a_resource_that_waits_keeps_its_place_before_one_that_asks_when_a_turn_is_due() -> None:
    asking = Asking()
    asking.ask(("first", "a"))
    asking.ask(("first", "b"))
    asking.clock.advance(60)  # nobody gives turns yet
    asking.ask(("first", "c"))
    assert asking.wrote == ["first/a"]
    with asking.running():
        await settle()
        assert asking.wrote == ["first/a", "first/b"]
        assert await asking.advance(TURN) == ["first/c"]


async def test_a_resource_with_nothing_to_write_any_more_takes_no_turn() -> None:
    asking = Asking()
    with asking.running():
        for name in "abc":
            asking.ask(("later", name))
        asking.turns.drop(("crews", "later", "b"))
        assert await asking.advance(TURN) == ["later/c"]
        assert asking.woken[3:] == [("later", "c")]


async def test_a_resource_whose_change_became_a_shared_one_moves_forward_and_is_woken_once() -> None:
    asking = Asking()
    resource: Resource = ("crews", "later", "c")
    crew = ("later", "c")
    with asking.running():
        for name in "abc":
            asking.ask(("later", name))
        assert not asking.turns.take(resource, crew, first=True)
        assert await asking.advance(TURN) == ["later/c"]
        assert await asking.advance(TURN) == ["later/b"]
        assert await asking.advance(TURN) == []
        assert asking.woken[3:] == [("later", "c"), ("later", "b")]


async def test_with_nothing_to_write_no_turns_are_given() -> None:
    asking = Asking()
    with asking.running():
        asking.ask(("first", "a"))
        asking.ask(("first", "b"))
        await asking.advance(TURN)
        await asking.advance(TURN)
        sleeps = asking.clock.sleeps
        await asking.advance(60)
        assert asking.clock.sleeps == sleeps, "it would be a busy loop"


async def test_a_turn_that_was_given_is_lost_with_the_change_that_it_was_for() -> None:
    clock = FakeClock()
    woken: list[Key] = []
    turns = Turns(woken.append, clock)
    a: Resource = ("crews", "t", "a")
    b: Resource = ("crews", "t", "b")
    task = asyncio.create_task(turns.run())
    assert turns.take(a, ("t", "a"), first=True)
    assert not turns.take(b, ("t", "b"), first=True)
    clock.advance(TURN)
    await settle()
    assert woken == [("t", "b")]
    turns.drop(b)
    assert not turns.take(b, ("t", "b"), first=True), "it is another change"
    clock.advance(TURN)
    await settle()
    assert turns.take(b, ("t", "b"), first=True)
    assert not turns.take(b, ("t", "b"), first=True), "a turn is for one write"
    task.cancel()


# ------------------------------------------------------------------ writing


class ApiServer:
    """Keeps the statuses that it is sent, as the API server does."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.is_gone = False

    async def apply_status(self, kind: str, manifest: dict[str, Any]) -> dict[str, Any]:
        if self.is_gone:
            raise NotFound("gone")
        self.sent.append(manifest)
        metadata = {**manifest["metadata"], "resourceVersion": str(100 + len(self.sent)), "generation": 1}
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
        metadata = {"namespace": "team", "name": name, "uid": "u", "labels": {}, "resourceVersion": "1"}
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
