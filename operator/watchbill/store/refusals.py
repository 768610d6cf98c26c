"""The errors for answers of scripts that take no work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from watchbill.errors import (
    Closed,
    Conflict,
    DefinitionChanged,
    InvalidInput,
    Problem,
    QueueFull,
    QuotaExceeded,
    sentence,
)
from watchbill.names import CrewKeys
from watchbill.store.queue import BATCH, crew_gone


def check(keys: CrewKeys, reply: Sequence[Any], *, digest: str, max_queued: int) -> None:
    """Raises CrewGone, QuotaExceeded, Closed, DefinitionChanged or QueueFull if the answer to a submission is one.
    `digest`: the definition that the work was checked against."""
    match reply[0]:
        case "gone":
            raise crew_gone(keys)
        case "held":
            raise no_room(keys, reply[1])
        case "closed":
            raise closed(keys, reply[1])
        case "changed":
            raise DefinitionChanged(f"crew {keys.crew!r} has another definition than {digest!r} by now")
        case "full":
            raise queue_full(keys, max_queued)


def too_large(keys: CrewKeys, number: int, max_queued: int, what: str, path: str) -> None:
    """Raises InvalidInput for a run of so many steps that no call may begin, or that the queue could never take.
    `what` begins it."""
    most = min(BATCH, max_queued)
    if number > most:
        by_queue = most < BATCH
        why = "its maxQueued allows" if by_queue else f"{what} can start at once"
        reason = f"a run of crew {keys.crew!r} has {number} steps, and {why} {most} at most"
        fix = "Raise its tasks.maxQueued, or name one of its agents." if by_queue else "Name one agent of the crew."
        raise InvalidInput(Problem(reason, fix, path=path))


def queue_full(keys: CrewKeys, max_queued: int) -> QueueFull:
    """Returns the error for a script's answer `full`."""
    return QueueFull(f"crew {keys.crew!r} has no room for that: tasks.maxQueued = {max_queued}; try again later")


def other_work(keys: CrewKeys, task_id: str) -> Conflict:
    """Returns the error for a script's answer `other`."""
    return Conflict(
        f"{task_id!r} is the id of other work of crew {keys.crew!r}: its prompt, its agent or its inputs differ. "
        "Choose another id, or leave it out"
    )


def no_room(keys: CrewKeys, why: str) -> QuotaExceeded:
    """Returns the error for a crew for which its namespace has no room."""
    return QuotaExceeded(f"crew {keys.crew!r} takes no work: {why}")


def closed(keys: CrewKeys, why: str) -> Closed:
    """Returns the error for a crew that somebody has closed to new work."""
    again = f"To open it again: watchbill resume {keys.crew}"
    return Closed(f"crew {keys.crew!r} is closed, and takes no work: {sentence(why)} {again}")
