"""Counts the crews of each namespace against its quota, and shares out its workers.

The cache calls `put` and `drop` for each crew that changes, and `settle` after them; the reconciler tells how many
workers a crew wants. Each call costs the same however many crews there are, unless something changes for others: then
these are counted anew, and exactly the crews for which the outcome is another are woken.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from watchbill import settings
from watchbill.plan import quotas as plan
from watchbill.plan.quotas import Hard, Hold, Share, Tally
from watchbill.records import TaskPolicy

Key = tuple[str, str]
"""(namespace, name)"""
_Place = tuple[str, str, Key]
"""(creation time, uid, crew): the order of crews by age."""


@dataclass(slots=True)
class _Crew:
    place: _Place
    queued: int
    """Its tasks.maxQueued."""
    hold: Hold | None = None
    wish: int = 0
    """The number of workers that it wants; until it has said so, the number that it has. 0 while it is held."""


@dataclass(slots=True)
class _Namespace:
    hard: Hard
    crews: dict[Key, _Crew] = field(default_factory=dict)
    order: list[_Place] = field(default_factory=list)
    """The crews, oldest first."""
    tally: Tally = field(default_factory=Tally)
    """The tally of all crews, unless they are to be counted anew."""
    is_counted: bool = True
    wishes: dict[Key, int] = field(default_factory=dict)
    """Crew → number of workers that it wants, where it wants any."""
    wanted: int = 0
    """The sum of that."""
    limited: dict[Key, int] = field(default_factory=dict)
    """Crew → its share, where that is less than its wish."""
    most: dict[Key, int] = field(default_factory=dict)
    """Crew → the answer of `most`, while no wish changes."""

    def ranked(self) -> list[Key]:
        """The crews that want workers, oldest first."""
        return sorted(self.wishes, key=lambda key: self.crews[key].place)


class Quotas:
    """The quotas of all namespaces. `hard(namespace)` has its bounds, `pods(crew)` the number of a crew's workers;
    `wake(crew)` has a crew reconciled."""

    def __init__(
        self,
        hard: Callable[[str], Hard] = lambda _: Hard(),
        pods: Callable[[Key], int] = lambda _: 0,
        wake: Callable[[Key], object] = lambda _: None,
    ) -> None:
        self._hard = hard
        self._pods = pods
        self._wake = wake
        self._namespaces: dict[str, _Namespace] = {}
        self._changed: set[str] = set()
        """Namespaces whose crews are to be counted anew."""

    def put(self, key: Key, seen: Mapping[str, Any]) -> None:
        """A crew is new, or has changed. Call `settle` after a number of calls. `seen`: as the API server has it."""
        hard = self._hard(key[0])
        if not hard.bounds_any:
            return
        metadata = seen["metadata"]
        if metadata.get("deletionTimestamp"):
            self.drop(key)
            return
        of = self._namespaces.setdefault(key[0], _Namespace(hard))
        place = (str(metadata["creationTimestamp"]), str(metadata["uid"]), key)
        queued, known = max_queued(seen), of.crews.get(key)
        if known is not None and (known.place, known.queued) == (place, queued):
            return
        wish = known.wish if known is not None else self._pods(key)
        if known is not None:
            self._remove(of, key)
        crew = of.crews[key] = _Crew(place, queued)
        is_youngest = not of.order or of.order[-1] < place
        bisect.insort(of.order, place)
        if known is None and is_youngest and of.is_counted:
            of.tally, crew.hold = plan.count(of.hard, key[0], of.tally, queued)
        else:
            self._count_anew(key[0], of)
        if crew.hold is None:
            self._wish(of, key, wish)

    def drop(self, key: Key) -> None:
        """A crew is gone. Call `settle` after a number of calls."""
        of = self._namespaces.get(key[0])
        if of is not None and key in of.crews:
            self._remove(of, key)
            self._count_anew(key[0], of)

    def settle(self) -> None:
        """Counts anew where crews have changed, and wakes those that have room now, or no longer, or for another
        reason."""
        woken: list[Key] = []
        for namespace in self._changed:
            of = self._namespaces[namespace]
            if not of.crews:
                del self._namespaces[namespace]
                continue
            of.tally = Tally()
            for place in of.order:
                crew = of.crews[place[2]]
                before = crew.hold
                of.tally, crew.hold = plan.count(of.hard, namespace, of.tally, crew.queued)
                if crew.hold != before:
                    woken.append(place[2])
                if (crew.hold is None) != (before is None):
                    self._wish(of, place[2], self._pods(place[2]) if crew.hold is None else 0)
            of.is_counted = True
            woken += self._share(of)
        self._changed.clear()
        for key in woken:
            self._wake(key)

    def forget(self) -> None:
        """Another replica has led: the crews are supposed to want the workers that they have, until they say more."""
        for of in self._namespaces.values():
            for key, crew in of.crews.items():
                self._wish(of, key, self._pods(key) if crew.hold is None else 0)
            self._share(of)

    def hold(self, key: Key) -> Hold | None:
        """Returns why there is no room for the crew; None: there is."""
        of = self._namespaces.get(key[0])
        crew = of.crews.get(key) if of is not None else None
        return crew.hold if crew is not None else None

    def share(self, key: Key, limit: int) -> Share | None:
        """Returns what the quota leaves to the crew; None: it has no part in a quota, or it may have `limit` workers,
        of which it never wants more."""
        of = self._namespaces.get(key[0])
        if of is None or of.hard.workers is None or key not in of.crews:
            return None
        others = of.wanted - of.wishes.get(key, 0)
        if others + limit <= of.hard.workers:
            return None
        if key not in of.most:
            ranked = sorted({*of.wishes, key}, key=lambda one: of.crews[one].place)
            wishes = [of.wishes.get(one, 0) for one in ranked]
            of.most[key] = plan.most(of.hard.workers, wishes, ranked.index(key))
        return Share(of.most[key], of.hard.workers, others, of.hard.setting)

    def wants(self, key: Key, wish: int, given: int) -> None:
        """The crew wants so many workers, and was given so many. Wakes the crews whose share is another now."""
        of = self._namespaces.get(key[0])
        crew = of.crews.get(key) if of is not None else None
        if of is None or crew is None or crew.hold is not None:
            return
        woken = set()
        if wish != crew.wish:
            self._wish(of, key, wish)
            woken = self._share(of) - {key}
        if of.limited.get(key, wish) != given:  # the others' wishes have changed meanwhile
            woken.add(key)
        for one in woken:
            self._wake(one)

    def figures(self) -> Iterator[tuple[str, str, str, int]]:
        """Yields namespace, resource, one of `hard`, `used` and `wanted`, and the number. `used`: by crews that have
        room, with the workers that the quota leaves them; `wanted`: by all crews."""
        for namespace, of in self._namespaces.items():
            given = sum(of.limited.get(key, wish) for key, wish in of.wishes.items())
            asked = sum(crew.queued for crew in of.crews.values())
            rows = {
                "crews": (of.tally.admitted, len(of.crews)),
                "workers": (given, of.wanted),
                "queued": (of.tally.queued, asked),
            }
            for resource, (used, wanted) in rows.items():
                if (bound := getattr(of.hard, resource)) is not None:
                    yield namespace, resource, "hard", bound
                    yield namespace, resource, "used", used
                    yield namespace, resource, "wanted", wanted

    # ------------------------------------------------------------ within

    def _remove(self, of: _Namespace, key: Key) -> None:
        crew = of.crews[key]
        self._wish(of, key, 0)
        of.most.pop(key, None)
        of.order.pop(bisect.bisect_left(of.order, crew.place))
        del of.crews[key]

    def _count_anew(self, namespace: str, of: _Namespace) -> None:
        of.is_counted = False
        self._changed.add(namespace)

    def _wish(self, of: _Namespace, key: Key, wish: int) -> None:
        crew = of.crews[key]
        if wish == crew.wish:
            return
        of.wanted += wish - crew.wish
        crew.wish = wish
        of.most.clear()
        if wish:
            of.wishes[key] = wish
        else:
            del of.wishes[key]

    def _share(self, of: _Namespace) -> set[Key]:
        """Shares the workers out anew. Returns the crews that get another number than before, but for those that get
        what they want now and then."""
        before, of.limited = of.limited, {}
        if of.hard.workers is not None and of.wanted > of.hard.workers:
            ranked = of.ranked()
            given = plan.shares(of.hard.workers, [of.wishes[key] for key in ranked])
            of.limited = {key: n for key, n in zip(ranked, given, strict=True) if n < of.wishes[key]}
        both = (before.keys() | of.limited.keys()) & of.crews.keys()
        return {key for key in both if before.get(key) != of.limited.get(key)}


def hard_of(given: settings.Quotas, namespace: str) -> Hard:
    """Returns the bounds of a namespace, as the setting has them."""
    bounds, place = given.of(namespace)
    return Hard(bounds.crews, bounds.workers, bounds.queued, place)


def max_queued(seen: Mapping[str, Any]) -> int:
    """The tasks.maxQueued of a Crew as the API server has it, as far as its spec can be read."""
    tasks = (seen.get("spec") or {}).get("tasks")
    found = tasks.get("maxQueued") if isinstance(tasks, dict) else None
    return found if isinstance(found, int) else TaskPolicy().max_queued
