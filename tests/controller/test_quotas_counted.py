"""Crews are counted as the cache takes them over, and exactly those are woken for which the outcome is another."""

from __future__ import annotations

import random
from typing import Any

import pytest

from watchbill.controller.cache import Cache, Key, entries
from watchbill.errors import InvalidInput
from watchbill.plan import quotas as plan
from watchbill.plan.quotas import Hard, Tally
from watchbill.settings import Quotas as Setting
from watchbill.settings import Settings, read

pytestmark = pytest.mark.pure


class Town:
    """A cache whose namespace `team` has a quota."""

    def __init__(self, hard: Hard) -> None:
        self.hard = hard
        self.woken: list[str] = []
        self.cache = Cache(lambda namespace: hard if namespace == "team" else Hard(), self.wake)
        self.version = 0

    def wake(self, key: Key) -> None:
        self.woken.append(key[1])

    def crew(self, name: str, second: int = 0, queued: int | None = 10, **metadata: Any) -> dict[str, Any]:
        self.version += 1
        return {
            "metadata": {
                "namespace": "team",
                "name": name,
                "uid": f"u-{name}",
                "resourceVersion": str(self.version),
                "creationTimestamp": f"2026-03-01T12:00:{second:02}Z",
                **metadata,
            },
            "spec": {"tasks": {"maxQueued": queued}} if queued is not None else {},
        }

    def put(self, name: str, second: int = 0, queued: int | None = 10, **metadata: Any) -> None:
        self.cache.take("crews", "MODIFIED", self.crew(name, second, queued, **metadata))

    def drop(self, name: str) -> None:
        self.cache.take("crews", "DELETED", self.crew(name))

    def pods(self, crew: str, replicas: int) -> None:
        labels = {"watchbill.dev/crew": crew, "app.kubernetes.io/component": "worker"}
        made = {**self.crew(f"{crew}-1", labels=labels), "spec": {"replicas": replicas}}
        self.cache.take("deployments", "MODIFIED", made)

    def held(self) -> dict[str, str]:
        found = {key[1]: self.cache.quotas.hold(key) for key, _ in self.cache.crews.items()}
        return {name: hold.resource for name, hold in found.items() if hold is not None}

    def given(self, name: str, wish: int, limit: int = 20) -> int:
        """What the crew gets that wants so many, as its reconciliation has it."""
        share = self.cache.quotas.share(("team", name), limit)
        got = wish if share is None else min(wish, share.most)
        self.cache.quotas.wants(("team", name), wish, got)
        return got

    def most(self, name: str) -> int | None:
        share = self.cache.quotas.share(("team", name), 20)
        return share.most if share is not None else None

    def wakes(self) -> set[str]:
        found, self.woken = set(self.woken), []
        return found

    def figures(self) -> dict[str, tuple[int, ...]]:
        rows: dict[str, tuple[int, ...]] = {}
        for _, resource, _, number in self.cache.quotas.figures():
            rows[resource] = (*rows.get(resource, ()), number)
        return rows


def test_the_youngest_has_no_room_until_an_older_one_goes() -> None:
    town = Town(Hard(crews=2))
    for second, name in enumerate(["b", "a", "c", "d"]):
        town.put(name, second)
    assert town.held() == {"c": "crews", "d": "crews"}
    town.wakes()
    town.put("a", 1, labels={"x": "y"})
    assert town.wakes() == set()
    town.drop("a")
    assert (town.held(), town.wakes()) == ({"d": "crews"}, {"c"})
    town.put("b", 0, deletionTimestamp="2026-03-01T12:01:00Z")
    assert (town.held(), town.wakes()) == ({}, {"d"}), "one that is being deleted is gone"
    assert town.figures() == {"crews": (2, 2, 2)}


def test_equally_old_crews_count_by_uid_and_a_listing_in_another_order_changes_nothing() -> None:
    town = Town(Hard(crews=1))
    town.cache.replace("crews", None, 9, entries("crews", [town.crew("b"), town.crew("a"), town.crew("c")]))
    assert town.held() == {"b": "crews", "c": "crews"}
    town.wakes()
    town.cache.replace("crews", None, 19, entries("crews", [town.crew("c"), town.crew("b"), town.crew("a")]))
    assert town.wakes() == set()


def test_a_share_of_the_queue_that_changes_wakes_those_that_fit_now_or_no_longer() -> None:
    town = Town(Hard(queued=100_030))
    town.put("a", 0, 20)
    town.put("b", 1, None)  # the default, which is 100,000
    town.put("c", 2, 20)
    assert town.held() == {"c": "queued"}
    town.wakes()
    town.put("a", 0, 10)
    assert (town.held(), town.wakes()) == ({}, {"c"})
    town.put("a", 0, 40)
    assert (town.held(), town.wakes()) == ({"b": "queued"}, {"b"})
    assert town.figures() == {"queued": (100_030, 60, 100_060)}


def test_workers_are_shared_once_crews_want_more_than_there_are() -> None:
    town = Town(Hard(workers=10))
    for second, name in enumerate("abc"):
        town.put(name, second)
    town.wakes()
    assert [town.given("a", 6), town.given("b", 4), town.given("c", 0)] == [6, 4, 0]
    assert town.wakes() == set(), "all get what they want"
    assert town.given("c", 5) == 3
    assert town.wakes() == {"a", "b"}
    assert [town.given("a", 6), town.given("b", 4)] == [4, 3], "what can't be divided goes to the oldest"
    assert town.wakes() == set()
    assert town.figures() == {"workers": (10, 10, 15)}
    town.given("b", 2)
    assert town.wakes() == {"c"}
    town.drop("a")
    assert town.wakes() == {"c"}
    assert town.given("c", 5) == 5


def test_a_crew_that_is_made_anew_has_the_share_of_its_own_age() -> None:
    town = Town(Hard(workers=3))
    town.put("a", 1)
    town.put("b", 2)
    assert (town.given("b", 9), town.given("a", 0)) == (3, 0)
    assert town.most("a") == 2, "what can't be divided goes to the oldest"
    town.drop("a")
    town.put("a", 3)
    assert town.most("a") == 1


def test_a_crew_that_was_given_more_than_its_share_by_now_comes_again() -> None:
    town = Town(Hard(workers=10))
    town.put("a", 0)
    town.put("b", 1)
    town.given("b", 9)
    town.wakes()
    town.cache.quotas.wants(("team", "a"), 8, 8)  # it was planned before the other asked
    assert town.wakes() == {"a", "b"}


def test_after_a_failover_nobody_is_given_what_another_crew_has() -> None:
    town = Town(Hard(workers=10))
    for second, name in enumerate("ab"):
        town.put(name, second)
        town.pods(name, 5)
    town.cache.quotas.forget()
    assert [town.given("a", 10), town.given("b", 10)] == [5, 5]
    assert town.wakes() == set()


def test_a_crew_without_room_wants_no_workers() -> None:
    town = Town(Hard(crews=1, workers=4))
    town.put("b", 1)
    town.pods("b", 4)
    town.cache.quotas.forget()
    town.put("a", 0)
    assert town.held() == {"b": "crews"}
    assert town.given("a", 4) == 4
    town.drop("a")
    town.put("c", 2)
    assert town.held() == {"c": "crews"}


def test_a_namespace_without_quota_costs_nothing_and_is_not_shown() -> None:
    town = Town(Hard())
    town.put("a", 0)
    assert (town.held(), town.wakes(), town.figures()) == ({}, set(), {})
    assert town.cache.quotas.share(("team", "a"), 100) is None


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_the_counts_are_those_of_counting_anew(seed: int) -> None:
    chance = random.Random(seed)
    hard = Hard(crews=chance.choice([None, 3]), queued=chance.choice([None, 40]), workers=chance.choice([None, 9]))
    town = Town(hard)
    there: dict[str, tuple[int, int]] = {}
    """Crew → when it was made, and its maxQueued."""
    wishes: dict[str, int] = {}
    given: dict[str, int] = {}
    for _ in range(150):
        name, before = chance.choice("abcdefgh"), town.held()
        town.wakes()
        match chance.randrange(4):
            case 0:
                there.pop(name, None)
                town.drop(name)
            case 1 if name in there and name not in before:
                wishes[name] = chance.randrange(8)
                given[name] = town.given(name, wishes[name])
            case _:
                there[name] = (there.get(name, (chance.randrange(9), 0))[0], chance.randrange(25))
                town.put(name, *there[name])
        tally = Tally()
        held: dict[str, str] = {}
        for _, one in sorted((second, one) for one, (second, _) in there.items()):
            tally, hold = plan.count(hard, "team", tally, there[one][1])
            held |= {one: hold.resource} if hold is not None else {}
        assert town.held() == held
        wishes = {one: wish for one, wish in wishes.items() if one in there and one not in held}
        ranked = sorted(wishes, key=lambda one: (there[one][0], one))
        wanted = [wishes[one] for one in ranked]
        shares = plan.shares(sum(wanted) if hard.workers is None else hard.workers, wanted)
        changed = {one for one, share in zip(ranked, shares, strict=True) if given[one] != share}
        changed |= {one for one in there if held.get(one) != before.get(one)} - {name}
        woken = town.wakes()
        assert changed <= woken
        for one in changed & wishes.keys():
            given[one] = town.given(one, wishes[one])
        assert {one: given[one] for one in ranked} == dict(zip(ranked, shares, strict=True))


def test_a_namespace_that_is_named_has_its_own_bounds_and_none_of_the_default() -> None:
    given = Setting.model_validate_json(
        '{"default": {"hard": {"crews": 3, "workers": 9}}, '
        '"namespaces": {"team": {"hard": {"workers": 1}}, "free": {}}}'
    )
    assert given.of("else")[0].model_dump() == {"crews": 3, "workers": 9, "queued": None}
    bounds, place = given.of("team")
    assert (bounds.model_dump(), place) == (
        {"crews": None, "workers": 1, "queued": None},
        "quotas.namespaces.team.hard",
    )
    assert given.of("free")[0].model_dump() == {"crews": None, "workers": None, "queued": None}


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{"default": {"hard": {"pods": 3}}}', "WATCHBILL_QUOTAS.default.hard.pods"),
        ('{"namespaces": {"team": {"hard": {"crews": -1}}}}', "WATCHBILL_QUOTAS.namespaces.team.hard.crews"),
        ('{"default": {"hard": {"workers": "many"}}}', "WATCHBILL_QUOTAS.default.hard.workers"),
        ("{", "WATCHBILL_QUOTAS"),
    ],
)
def test_a_setting_that_is_no_quota_is_refused_by_its_place(
    text: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHBILL_QUOTAS", text)
    with pytest.raises(InvalidInput) as refused:
        read(Settings)
    assert [problem.path for problem in refused.value.problems] == [place]
