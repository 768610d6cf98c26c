"""The quota of a namespace: the crews that it has room for, and the workers that each of them may have. Pure.

Crews are counted oldest first, so that one that comes never stops another. Workers are shared by max-min fairness: a
crew gets what it wants, or no less than any that gets more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from watchbill.errors import sentence

RESOURCES: Final = ("crews", "workers", "queued")
"""The resources that a quota may bound: crews, workers of all crews together, the sum of their `tasks.maxQueued`."""


@dataclass(frozen=True, slots=True)
class Hard:
    """The bounds of one namespace. None: there is none."""

    crews: int | None = None
    workers: int | None = None
    queued: int | None = None
    setting: str = ""
    """The place of these bounds in the chart's values, as in `quotas.default.hard`."""

    @property
    def bounds_any(self) -> bool:
        """True if there is a bound at all."""
        return (self.crews, self.workers, self.queued) != (None, None, None)


@dataclass(frozen=True, slots=True)
class Hold:
    """The reason why there is no room for a crew. It is the same for as long as the crew and the older ones are."""

    namespace: str
    resource: Literal["crews", "queued"]
    hard: int
    used: int
    """The part of that which older crews have."""
    asked: int
    """The part that this crew would need."""
    setting: str

    @property
    def why(self) -> str:
        """The reason as part of a sentence, for whoever submits to the crew."""
        where = f"{self.setting}.{self.resource}"
        if self.resource == "crews":
            return (
                f"the quota of namespace {self.namespace!r} allows {self.hard} crews ({where}), and as many are older"
            )
        return (
            f"the quota of namespace {self.namespace!r} allows {self.hard} queued tasks in all ({where}); older crews "
            f"may queue {self.used} of them, and this one has tasks.maxQueued = {self.asked}"
        )

    @property
    def message(self) -> str:
        """The reason for the crew's status, with the remedy."""
        remedy = "Delete another crew" if self.resource == "crews" else "Lower tasks.maxQueued of this or an older crew"
        return (
            f"{sentence(self.why)} The crew takes no work and has no workers; what was queued is kept. {remedy}, or "
            f"raise {self.setting}.{self.resource} in the values of the operator's chart"
        )


@dataclass(frozen=True, slots=True)
class Tally:
    """The older crews: their number, and what those with room may queue."""

    crews: int = 0
    admitted: int = 0
    queued: int = 0


def count(hard: Hard, namespace: str, older: Tally, queued: int) -> tuple[Tally, Hold | None]:
    """Counts the next younger crew, which may queue so many tasks. Returns the tally with it, and why it has no room;
    None: it has. A crew without room leaves its share of `queued` to younger ones."""
    hold: Hold | None = None
    if hard.crews is not None and older.crews >= hard.crews:
        hold = Hold(namespace, "crews", hard.crews, hard.crews, 1, hard.setting)
    elif hard.queued is not None and older.queued + queued > hard.queued:
        hold = Hold(namespace, "queued", hard.queued, older.queued, queued, hard.setting)
    has_room = hold is None
    return Tally(older.crews + 1, older.admitted + has_room, older.queued + queued * has_room), hold


@dataclass(frozen=True, slots=True)
class Share:
    """The part of a namespace's workers that one crew may have, whatever it wants."""

    most: int
    hard: int
    """The bound of all crews together."""
    others: int
    """The number that the other crews want together."""
    setting: str


def shares(hard: int, wishes: Sequence[int]) -> list[int]:
    """Returns how many workers each crew gets, the oldest crew first. Together they get `hard` or all that they wish.
    What can't be divided goes to the oldest of those that get less than they wish."""
    left, level = hard, 0
    for number, wish in enumerate(sorted(wishes)):
        level = left // (len(wishes) - number)
        if wish > level:
            break
        left -= wish
    else:
        return list(wishes)
    spare = left - level * sum(wish > level for wish in wishes)
    given = []
    for wish in wishes:
        more = wish > level and spare > 0
        spare -= more
        given.append(min(wish, level) + more)
    return given


def most(hard: int, wishes: Sequence[int], index: int) -> int:
    """Returns the number of workers that this crew would get if it wished for all of them. With any smaller wish it
    gets that wish, or this number, if the wishes of the others stay."""
    return shares(hard, [*wishes[:index], hard, *wishes[index + 1 :]])[index]
