"""One tree of exceptions, named by what the caller should do.

WatchbillError
├── UserActionRequired          somebody must change something; trying again as it is cannot help
│   ├── InvalidInput            a value is wrong; says where, why and how to put it right
│   ├── NotFound                no such crew, task, run or heartbeat
│   ├── Conflict                the id or name is already used for something else
│   │   └── NameTaken           the crew of that name is another's
│   ├── AgentNotFound           a service has no bot of the name that a task asks for
│   ├── AgentNotLoadable        the class of an agent, or a tool of it, cannot be used
│   ├── NewerRecord             the store holds what a newer version wrote, or what is damaged
│   ├── Closed                  a crew, service, client or stream was closed or stopped, or was never started
│   ├── MissingExtra            an optional dependency is not installed
│   ├── NoStore                 no store was given and none was found; says what was tried
│   ├── BudgetExhausted         a request to a model would exceed a budget of the crew
│   ├── QuotaExceeded           the quota of a namespace has no room for the crew
│   ├── StoreRefuses            the store refuses our user, password, certificate or rights
│   ├── DeliveryRefused         a destination will never take this message
│   │   └── DestinationGone     nor any other: it has said that it is gone for good
│   └── KubernetesRefuses       the API server refuses a request, and will refuse it again
│       └── KubernetesForbids   a right is missing for it, or a quota is used up
├── RetryLater                  nothing was lost or stored; the same call may succeed later
│   ├── StoreUnavailable        the store doesn't answer, or not well enough to be used
│   │   └── NotDurable          what was submitted may be stored, and is not as safe as asked
│   ├── QueueFull               the crew's maxQueued, or a stream's max_length, is reached
│   ├── DefinitionChanged       the crew took up another definition meanwhile
│   ├── KubernetesUnavailable   the API server can't be reached, or asks for a pause
│   │   └── ListingExpired      the moment that a listing is of is too long ago
│   ├── StaleObject             the object in Kubernetes has changed since it was read
│   ├── NotDelivered            a destination did not take a message, and may take it later
│   ├── Postponed               a task may not go on yet, and is set aside; its attempt doesn't count
│   └── RetryAfter              raised by agents: this attempt failed, and another may succeed after so long
├── ToolError                   a tool that an agent called failed; what caused it says what to do
└── GiveUp                      the work, or the right to do it, is no longer ours
    ├── CrewGone                the crew was deleted, or replaced by another of its name
    ├── NotLeader               another replica of the operator leads, or may lead by now
    ├── Fenced                  this worker was taken for dead, and its work given to others
    │   └── WorkerForgotten     the store has lost what it knew of this worker
    ├── LockLost                a lock ended while its holder still worked under it
    ├── NotWorthRetrying        raised by agents: another attempt would fail, too
    │   ├── ApprovalRejected    somebody has rejected what the task asked approval for
    │   ├── ApprovalTimedOut    nobody has approved of it in time
    │   └── DelegationFailed    work that an agent delegated has failed, or was rejected
    └── TaskFailed              the task ran and failed; carries the result
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from watchbill import installation


class WatchbillError(Exception):
    """The root of all errors that Watchbill raises on purpose."""

    stored: Sequence[str] = ()
    """Ids of those of many tasks that were stored before this was raised."""


class UserActionRequired(WatchbillError):
    """Somebody must change something; trying again as it is cannot help."""


def sentence(text: object) -> str:
    """Returns the text as a sentence that ends once, whether or not it has an end: another may follow it."""
    said = str(text).rstrip()
    return said if said.endswith((".", "!", "?", "…")) else f"{said}."


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with one value."""

    reason: str
    """The reason: what is wrong, with the offending value quoted."""
    fix: str
    """The fix: an imperative sentence."""
    path: str = ""
    """The field, as in `spec.agents[1].class`."""
    source: str = ""
    """The file, with the line where it is known: `crew.yaml:12`."""

    def __str__(self) -> str:
        where = ": ".join(part for part in (self.source, self.path) if part)
        return f"{where}: {self.said}" if where else self.said

    @property
    def said(self) -> str:
        """The reason and the fix, without the place."""
        return f"{sentence(self.reason)} {self.fix}"


class InvalidInput(UserActionRequired, ValueError):
    """One or more values are wrong. Nothing was stored or started.

    `problems` lists all of them, so that a user can mend everything in one go.
    """

    def __init__(self, problems: Sequence[Problem] | Problem) -> None:
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class NotFound(UserActionRequired, LookupError):
    """There is no such crew, task, run or heartbeat (or its record has expired)."""


class Conflict(UserActionRequired):
    """The id or name is already used for something else."""


class NameTaken(Conflict):
    """The name belongs to another crew, or to another owner. Nothing was written."""


class AgentNotFound(UserActionRequired, ValueError):
    """No bot has the name that a task asks for."""


class AgentNotLoadable(UserActionRequired):
    """The class of an agent, or one of its tools, can't be found, imported or configured."""


class NewerRecord(UserActionRequired):
    """A record in the store is a newer version's, or damaged: this version can't read it. It stays as it is."""


class QuotaExceeded(UserActionRequired):
    """The quota of a namespace has no room for the crew, so it takes no work. Nothing was stored."""


class BudgetExhausted(UserActionRequired):
    """A request to a model would exceed a budget of the crew, by which its task fails then. It was not made."""


class StoreRefuses(UserActionRequired):
    """The store refuses our user, password, certificate or rights, or is of another kind than its URL says."""


class DeliveryRefused(UserActionRequired):
    """A destination refuses a message, or can't be used as it is configured: the same message is refused again."""

    def __init__(self, message: str, status: int | None = None) -> None:
        self.status = status
        """The status that the destination answered with, of HTTP or SMTP."""
        super().__init__(message)


class DestinationGone(DeliveryRefused):
    """A destination asks for no further message at all (HTTP 410): it should be disabled."""


class KubernetesRefuses(UserActionRequired):
    """The API server refuses a request; it will refuse the same request again."""

    def __init__(self, message: str, status: int) -> None:
        self.status = status
        super().__init__(message)


class KubernetesForbids(KubernetesRefuses):
    """The API server forbids a request: a right is missing, or a quota is used up."""


class Closed(UserActionRequired, RuntimeError):
    """The object was closed or stopped, or has not been started; or the crew is closed to new work. Nothing was sent or
    stored. The message says how to go on."""


class MissingExtra(UserActionRequired, ModuleNotFoundError):
    """An optional dependency is not installed."""

    def __init__(self, what: str, extra: str, module: str | None = None) -> None:
        self.extra = extra
        missing = f" ({module} not found)" if module else ""
        super().__init__(f"{what}{missing} needs an optional part of Watchbill. {install(extra)}", name=module)


@contextlib.contextmanager
def needed(what: str, extra: str) -> Iterator[None]:
    """For imports of what only an optional part brings. Raises MissingExtra where that is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtra(what, extra, (error.name or "").partition(".")[0]) from None


def install(extra: str) -> str:
    """Returns how to install an optional part, from where this installation came from."""
    return f"Install it: {installation.command(extra)}"


class NoStore(UserActionRequired):
    """No store was given and none was found."""


class RetryLater(WatchbillError):
    """Nothing was lost; the same call may succeed later."""


class StoreUnavailable(RetryLater):
    """The store can't be reached, is loading, read-only, or out of memory."""


class NotDurable(StoreUnavailable):
    """The submitted work may be stored, but nobody confirmed that it is as safe as asked.

    Submitting it again under the same ids is safe: it asks again, and stores what isn't there.
    """

    def __init__(self, message: str, ids: Sequence[str]) -> None:
        self.ids = tuple(ids)
        super().__init__(message)


class QueueFull(RetryLater):
    """The crew's `tasks.maxQueued` or a stream's `max_length` is reached. Nothing was stored, but what `stored` names
    of many tasks."""


class KubernetesUnavailable(RetryLater):
    """The API server can't be reached, or asks for a pause."""


class ListingExpired(KubernetesUnavailable):
    """The API server no longer has the moment of which a listing is. `token` gives what is left of it as of now; empty:
    nothing does."""

    def __init__(self, message: str, token: str) -> None:
        self.token = token
        super().__init__(message)


class StaleObject(RetryLater):
    """The object in Kubernetes has changed since it was read: read it again."""


class DefinitionChanged(RetryLater):
    """The crew took up another definition since the caller read it. Nothing was stored, but what `stored` names."""


class NotDelivered(RetryLater):
    """A destination did not take a message, or its answer got lost. It may take the same message later."""

    def __init__(
        self,
        message: str,
        status: int | None = None,
        *,
        retry_after: float | None = None,
        remaining: Sequence[str] = (),
    ) -> None:
        self.status = status
        """The status that the destination answered with, of HTTP or SMTP; None: there was no answer."""
        self.retry_after = retry_after
        """Seconds that the destination asks to wait for, if it says so. All its messages should wait."""
        self.remaining = tuple(remaining)
        """Recipients that have not got the message, when others have; to be given as the next message's `remaining`."""
        super().__init__(message)


class Postponed(RetryLater):
    """A task may not go on yet. Its worker sets it aside, and the attempt doesn't count."""

    def __init__(
        self, message: str, *, seconds: float = 0.0, until_ms: int | None = None, of_model: bool = False
    ) -> None:
        """`seconds`: for so long; or until a time by the store's clock (ms since 1970). `of_model`: another model may
        be asked meanwhile."""
        self.of_model = of_model
        self.later_ms = -until_ms if until_ms is not None else int(seconds * 1000)
        """Milliseconds until it goes on, or the time of that by the store's clock, negated."""
        super().__init__(message)


class RetryAfter(RetryLater):
    """Raised by an agent whose attempt failed: another may succeed after `seconds`."""

    def __init__(self, message: str, seconds: float) -> None:
        self.retry_after = seconds
        super().__init__(message)


class ToolError(WatchbillError):
    """A tool that an agent called failed. Whether another attempt may help, what caused this says."""


class GiveUp(WatchbillError):
    """The work, or the right to do it, is no longer ours."""


class CrewGone(GiveUp):
    """The crew was deleted, or replaced by another of the same name. Nothing was written."""


class NotLeader(GiveUp):
    """Another replica of the operator leads, or may lead by now. Nothing was written."""


class Fenced(GiveUp):
    """The worker was silent past its lease, and other workers have its tasks. Nothing was written."""


class WorkerForgotten(Fenced):
    """The store doesn't know this worker, though it has claimed: it lost what it had. Nothing was written."""


class LockLost(GiveUp):
    """A lock expired, or was another's, before its holder released it: what was done under it may overlap with others'
    work. Only a resource that refuses an old `fence` is safe from that."""


class NotWorthRetrying(GiveUp):
    """Raised by an agent whose task would fail again: it has failed for good, however many attempts are left."""


class ApprovalRejected(NotWorthRetrying):
    """Somebody has rejected what the task asked approval for. The message says why."""


class ApprovalTimedOut(NotWorthRetrying):
    """Nobody has approved of what the task asked approval for, nor rejected it, in time."""


class DelegationFailed(NotWorthRetrying):
    """Work that an agent delegated has failed, or its reviewer rejected it in each round. The message says why."""


class TaskFailed(GiveUp):
    """The task or run ended without success; `result` says more."""

    def __init__(self, message: str, result: Any = None) -> None:
        self.result = result
        super().__init__(message)
