"""The line from an agent at work to its worker: what an agent asks for while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Final, Literal, NoReturn, Protocol, TypeVar

from watchbill.event_types import Telling
from watchbill.plan.hierarchy import Delegated
from watchbill.tasks import Approval, TaskResult

T = TypeVar("T")
Ends = Literal["at once", "soon", "later"]
"""The end of an attempt that waits for members. `soon`: when nothing else is asked at the same time; `later`: not
before the same is asked again."""

_CANCELLED_SECONDS: Final = 30.0
"""Seconds within which an agent that waits has been cancelled, unless it has forgotten the asyncio task that asks."""


class Waits(Exception):
    """The task waits for somebody: this run of its agent ends here, and the agent begins anew then."""


class Line(Protocol):
    """The line of one attempt. Its answers are the store's, as long as the task is this worker's."""

    async def __call__(self, told: Telling, /) -> None:
        """Puts an event on the feeds."""
        ...

    async def approved(self, what: str, /) -> Approval | None:
        """Returns the approval for `what`; None: nobody has decided yet, or been asked. Raises ApprovalRejected,
        ApprovalTimedOut, and InvalidInput for one more than a task may have."""
        ...

    async def wait_for_approval(self, asked: Mapping[str, str], /) -> NoReturn:
        """Ends the attempt, which begins anew when somebody has decided one of these: `Approval.what` → its details.
        Raises Waits."""
        ...

    async def delegate(self, work: Delegated, /, *, ends: Ends) -> TaskResult:
        """Returns the result of a step that works for this one, which is begun unless it is there. Raises Waits if it
        has not ended, and DelegationFailed if the same step was asked something else. `ends`: when the attempt ends
        then."""
        ...


async def approval(line: Line | None, what: str, details: str = "") -> Approval:
    """Returns the approval for `what`. Raises Waits, and what `Line.approved` raises; RuntimeError without a line."""
    found = await (line := connected(line)).approved(what)
    return found if found is not None else await line.wait_for_approval({what: details})


def connected(line: Line | None) -> Line:
    """Returns the line. Raises RuntimeError if there is none."""
    if line is None:
        raise RuntimeError("this context has no line to a worker, as in a test: nobody can be asked for approval")
    return line


async def waiting(work: Awaitable[T]) -> T:
    """Returns what `work` returns. In place of Waits, it waits until its attempt, which ends, cancels it."""
    try:
        return await work
    except Waits:
        await asyncio.sleep(_CANCELLED_SECONDS)
        raise asyncio.CancelledError from None
