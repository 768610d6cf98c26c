"""The election of a leader by a Lease. The Lease is in memory, as the API server keeps it; time is turned."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from barriers import settle

from watchbill.controller.leader import Elector
from watchbill.errors import Conflict, KubernetesUnavailable, NotLeader
from watchbill.kubernetes_api import KubernetesApi
from watchbill.testing import FakeClock

pytestmark = pytest.mark.pure

SECONDS = 15.0


class Leases:
    """One Lease with a resourceVersion. A replica that is cut off gets no answer, and its requests time out."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.lease_: dict[str, Any] | None = None
        self.version = 0
        self.cut_off = False
        self.late = 0.0
        """Seconds until an answer comes."""
        self.loses_answers = False
        self.writes: list[str] = []

    async def lease(self, namespace: str, name: str, *, timeout: float) -> dict[str, Any] | None:
        assert (namespace, name) == ("ops", "watchbill")
        await self._delay(timeout)
        return copy.deepcopy(self.lease_)

    async def write_lease(self, metadata: dict[str, Any], spec: dict[str, Any], *, timeout: float) -> dict[str, Any]:
        await self._delay(timeout)
        current = self.lease_["metadata"]["resourceVersion"] if self.lease_ else None
        if metadata.get("resourceVersion") != current:
            raise Conflict("the object has been modified")
        self.version += 1
        self.lease_ = {"metadata": {**metadata, "resourceVersion": str(self.version)}, "spec": copy.deepcopy(spec)}
        self.writes.append(spec["holderIdentity"])
        if self.loses_answers:
            await self.clock.sleep(timeout)
            raise KubernetesUnavailable("timed out")
        return copy.deepcopy(self.lease_)

    async def _delay(self, timeout: float) -> None:
        late = timeout if self.cut_off else self.late
        if late:
            await self.clock.sleep(min(late, timeout))
        if late >= timeout:
            raise KubernetesUnavailable("timed out")

    @property
    def spec(self) -> dict[str, Any]:
        assert self.lease_ is not None
        return cast(dict[str, Any], self.lease_["spec"])


class Replica:
    """A candidate, and what it was told."""

    def __init__(self, name: str, leases: Leases, clock: FakeClock) -> None:
        self.told: list[bool] = []
        self.elector = Elector(cast(KubernetesApi, leases), "ops/watchbill", name, self._tell, clock=clock)

    def _tell(self) -> None:
        self.told.append(self.elector.is_leader)


@asynccontextmanager
async def running(*replicas: Replica) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(one.elector.run()) for one in replicas]
    await settle()
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def turn(clock: FakeClock, seconds: float, always: Callable[[], object] = lambda: None) -> None:
    """Turns the clock in small steps, with `always()` after each."""
    for _ in range(round(seconds / 0.2)):
        clock.advance(0.2)
        await settle()
        always()


def pair() -> tuple[FakeClock, Leases, Replica, Replica]:
    clock = FakeClock()
    leases = Leases(clock)
    return clock, leases, Replica("a", leases, clock), Replica("b", leases, clock)


async def test_one_leads_and_keeps_the_lease_while_it_renews_it() -> None:
    clock, leases, a, b = pair()
    async with running(a), running(b):
        await turn(clock, 120)
        assert (a.told, b.told) == ([True], [])
        assert leases.spec["holderIdentity"] == "a"
        assert leases.spec["leaseDurationSeconds"] == 15
        assert leases.spec["leaseTransitions"] == 1
        assert 120 / 2.2 - 1 <= len(leases.writes) <= 120 / 1.8 + 1, "one write each two seconds"


async def test_a_lease_is_released_though_the_api_server_takes_its_time() -> None:
    clock, leases, a, _ = pair()
    async with running(a):
        await turn(clock, 1)
        assert a.elector.is_leader
    leases.late = 4
    releasing = asyncio.create_task(a.elector.release())
    await turn(clock, 9)
    assert releasing.done()
    assert leases.spec["holderIdentity"] == ""


async def test_a_lease_that_is_released_is_taken_at_the_next_look() -> None:
    clock, leases, a, b = pair()
    await b.elector.release()  # it holds nothing yet
    async with running(a):
        await turn(clock, 1)
        assert a.elector.is_leader
    async with running(b):
        await turn(clock, 5)
        assert not b.elector.is_leader
        await a.elector.release()
        assert not a.elector.is_leader
        assert leases.spec["holderIdentity"] == ""
        await turn(clock, 2.3)
        assert b.elector.is_leader
    await a.elector.release()
    assert leases.spec["holderIdentity"] == "b", "a release of what is another's changes nothing"


async def test_the_lease_of_one_that_died_is_taken_when_it_has_not_changed_for_its_whole_time() -> None:
    clock, leases, a, b = pair()
    async with running(a), running(b):
        await turn(clock, 3)
    renewed = clock.monotonic()  # at most
    async with running(b):
        await turn(clock, 11)
        assert not b.elector.is_leader
        await turn(clock, 7)
        assert b.elector.is_leader
        assert clock.monotonic() - renewed < 20
        assert leases.spec["leaseTransitions"] == 2


async def test_a_candidate_compares_no_clocks_and_waits_from_when_it_saw_the_last_change() -> None:
    """Whatever times the record names: the holder's clock may be years off."""
    clock, leases, _, b = pair()
    spec = {"holderIdentity": "other", "leaseDurationSeconds": 30, "renewTime": "2001-01-01T00:00:00.000000Z"}
    leases.lease_ = {"metadata": {"namespace": "ops", "name": "watchbill", "resourceVersion": "0"}, "spec": spec}
    async with running(b):
        await turn(clock, 25)
        assert not b.elector.is_leader
        leases.lease_["spec"] = {**spec, "renewTime": "2001-01-01T00:00:02.000000Z"}
        await turn(clock, 29)
        assert not b.elector.is_leader
        await turn(clock, 6)  # it looks each 2.2 s at most: it may see the change, and then its age, so much later
        assert b.elector.is_leader


async def test_a_leader_that_is_cut_off_stops_before_another_starts_and_its_writes_end_by_then() -> None:
    clock, _, a, b = pair()
    both: list[float] = []
    latest_end = 0.0

    def look() -> None:
        nonlocal latest_end
        if a.elector.is_leader and b.elector.is_leader:
            both.append(clock.monotonic())
        if a.elector.is_leader:
            latest_end = clock.monotonic() + a.elector.seconds_to_write()

    async with running(a):
        await turn(clock, 5)
        assert a.elector.is_leader
        split = Leases(clock)
        split.cut_off = True
        a.elector._kubernetes = cast(KubernetesApi, split)
        async with running(b):
            began = clock.monotonic()
            while not b.elector.is_leader:
                await turn(clock, 0.2, look)
                assert clock.monotonic() - began < 20
            assert not both
            assert latest_end <= clock.monotonic()
            assert a.told == [True, False]
            with pytest.raises(NotLeader):
                a.elector.seconds_to_write()


async def test_a_leader_that_was_stopped_for_a_while_may_not_write_when_it_goes_on() -> None:
    clock, _, a, _ = pair()
    async with running(a):
        await turn(clock, 4)
        a.elector.check()
        clock._passed += 11  # no timer has been called yet
        with pytest.raises(NotLeader):
            a.elector.check()


async def test_a_renewal_whose_answer_is_lost_does_not_end_a_term() -> None:
    clock, leases, a, b = pair()
    async with running(a), running(b):
        await turn(clock, 3)
        leases.loses_answers = True
        await turn(clock, 4)
        leases.loses_answers = False
        await turn(clock, 30)
        assert (a.told, b.told) == ([True], [])


async def test_of_two_that_take_a_free_lease_at_once_one_leads() -> None:
    clock, leases, a, b = pair()
    async with running(a, b):
        await turn(clock, 4)
        assert a.elector.is_leader != b.elector.is_leader
        assert len(set(leases.writes)) == 1


async def test_a_leader_whose_lease_somebody_took_by_hand_stops_at_its_next_renewal() -> None:
    clock, leases, a, _ = pair()
    async with running(a):
        await turn(clock, 3)
        assert leases.lease_ is not None
        leases.version += 1
        leases.lease_["metadata"]["resourceVersion"] = str(leases.version)
        leases.lease_["spec"]["holderIdentity"] = "hand"
        await turn(clock, 5)
        assert a.told == [True, False]


async def test_a_lease_that_somebody_deletes_is_made_anew_by_its_holder_and_no_other_leads_meanwhile() -> None:
    clock, leases, a, b = pair()
    async with running(a), running(b):
        await turn(clock, 3)
        leases.lease_ = None
        await turn(clock, 40)
        assert (a.told, b.told) == ([True], [])
        assert leases.spec["holderIdentity"] == "a"
    async with running(b):
        leases.lease_ = None
        await turn(clock, 11)
        assert not b.elector.is_leader
        await turn(clock, 9)  # 2 looks of at most 2.2 s each, and the lease
        assert b.elector.is_leader, "its holder is gone, too"
