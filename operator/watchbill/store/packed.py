"""Values that the store keeps, or sends, as one text. Python takes them apart and puts them together only here.

Each names its twin in store/scripts. What can't be taken apart raises ValueError. Pure: no I/O.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from watchbill.tasks import Approval, StepKind, Usage

_FIELD: Final = "\x1f"
"""Between the fields of a value (FS in lib.lua). Names are printable, so none contains it."""
_ITEM: Final = "\x1e"
"""Between the items of a list (LS in lib.lua)."""
_NONE: Final = "\x1d"
"""A list without items, within a value (NONE in lib_steps.lua)."""


class Holder(NamedTuple):
    """A value of `holders`: who holds a task, and how (pack_holder in lib_holders.lua)."""

    incarnation: str
    fence: str
    priority: int
    entry: str
    attempt: int
    started_ms: int
    """0: the task is claimed and has not begun."""
    known: int
    """0: nobody knows that it has begun; 1: it is counted among its agent's tasks; 2: the feeds say it, too."""
    agent: str
    said: int
    """The number of the last message that its agent put on the feed."""

    @classmethod
    def unpack(cls, text: str) -> Holder:
        incarnation, fence, priority, entry, attempt, started, known, agent, said = text.split(_FIELD)
        return cls(incarnation, fence, int(priority), entry, int(attempt), int(started), int(known), agent, int(said))


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a run (write_step in lib_steps.lua)."""

    state: str
    left: int
    """Dependencies that have not ended."""
    index: int
    agent: str
    successors: tuple[str, ...]
    attempt: int
    """The last one that began."""
    fence: str
    started_ms: int
    finished_ms: int
    usage: Usage | None
    """Usage of its attempts; None: nothing."""
    entry: str
    """While it waits on a stream; empty where it doesn't, or was put there when it was due."""
    marks: str = ""
    """Letters (lib_steps.lua). `c`: its successors begin even if it fails; `r`: it has failed, and they were let begin;
    `s`: it is the run's synthesis, and counts for nothing else; `u`: it judges a loop."""

    @property
    def kind(self) -> StepKind:
        if "d" in self.marks:
            return "delegated"
        return "synthesis" if "s" in self.marks else "until" if "u" in self.marks else "agent"

    @classmethod
    def unpack(cls, text: str) -> Step:
        state, left, index, agent, after, attempt, fence, started, finished, spent, entry, *marks = text.split(_FIELD)
        successors = () if after == _NONE else tuple(ids(after))
        times = int(started), int(finished)
        return cls(
            state, int(left), int(index), agent, successors, int(attempt), fence, *times, usage(spent), entry, *marks
        )


def pack_marks(*, lenient: bool, kind: StepKind) -> str:
    """The marks of a step that has not begun (`Step.marks`)."""
    return ("c" if lenient else "") + {"agent": "", "until": "u", "synthesis": "s", "delegated": "d"}[kind]


class Member(NamedTuple):
    """A member of `delayed` or `parked:agent`: what the entry of a task will need (pack_member in lib_streams.lua)."""

    agent: str
    priority: int
    attempt: int
    task_id: str

    def pack(self) -> str:
        return _FIELD.join(map(str, self))

    @classmethod
    def unpack(cls, text: str) -> Member:
        agent, priority, attempt, task_id = text.split(_FIELD)
        return cls(agent, int(priority), int(attempt), task_id)


class StopRequest(NamedTuple):
    """A value of `wishes`: somebody wants a task to stop (wish_of in lib_holders.lua)."""

    what: str
    """`cancel` or `interrupt`."""
    ttl_ms: int
    """For how long the record is kept once the task has ended."""
    why: str

    @classmethod
    def unpack(cls, text: str) -> StopRequest:
        what, ttl, why = text.split(" ", 2)
        return cls(what, int(ttl), why)


class Order(NamedTuple):
    """A message to a crew's workers (settle_stops in lib_stops.lua, lib_outbox.lua, delete.lua, drain.lua)."""

    what: str
    ids: tuple[str, ...]

    @classmethod
    def unpack(cls, text: str) -> Order:
        what, *of_tasks = text.split(_FIELD)
        return cls(what, tuple(of_tasks))


class Wanted(NamedTuple):
    """One destination of a task or run (an item of `deliver` in its record)."""

    name: str
    outcomes: str
    """`s` (success), `f` (failure), or both."""
    destination: str = ""
    """The destination itself as JSON; empty: the crew's of that name."""


def pack_deliver(wanted: Sequence[Wanted]) -> str:
    """A `deliver` field, which begins with all outcomes that are wanted (post in lib_outbox.lua). Empty: nothing is."""
    if not wanted:
        return ""
    outcomes = "".join(sorted(set().union(*(one.outcomes for one in wanted))))
    return f"{outcomes} {json.dumps(wanted, ensure_ascii=False)}"


def deliver(text: str) -> list[Wanted]:
    """The destinations of a `deliver` field."""
    found = json.loads(text.partition(" ")[2])
    return [Wanted(str(name), str(outcomes), str(destination)) for name, outcomes, destination in found]


class Attempt(NamedTuple):
    """An attempt of a delivery that failed (an item of `log` in its record, written by circuit.lua)."""

    at_ms: int
    """The time of its failure, by the server's clock."""
    number: int
    status: int | None
    """The HTTP or SMTP status that the destination answered; None: no answer, or a channel without one."""
    error: str

    @property
    def at(self) -> datetime:
        return datetime.fromtimestamp(self.at_ms / 1000, UTC)


def pack_attempt(number: int, status: int | None, error: str) -> str:
    """An attempt without its time, which the script adds."""
    return _FIELD.join((str(number), "" if status is None else str(status), error))


def attempts(text: str) -> list[Attempt]:
    """The attempts of a `log` field, in order."""
    found = []
    for item in ids(text) if text else []:
        at, number, status, error = item.split(_FIELD, 3)
        found.append(Attempt(int(at), int(number), int(status) if status else None, error))
    return found


def approvals(text: str) -> list[Approval]:
    """The approvals of an `approvals` field, in the order in which they were asked for (lib_approvals.lua)."""
    found = []
    for item in ids(text) if text else []:
        what, state, since, until, decided, reason, *rest = item.split(_FIELD)
        details = "".join(rest)
        told = f"{since}{_FIELD}{what}{_FIELD}{details}".encode("utf-8", "surrogateescape")
        mark = hashlib.blake2b(told, digest_size=6).hexdigest()
        times = [datetime.fromtimestamp(int(ms) / 1000, UTC) for ms in (since, until, decided)]
        known: Any = state
        decided_at = times[2] if int(decided) else None
        found.append(Approval(what, known, times[0], times[1], decided_at, reason, details, mark))
    return found


def pack_asked(asked: Mapping[str, str]) -> str:
    """Packs what a task asks approval for: `Approval.what` → its details (`await` in lib_approvals.lua)."""
    return _ITEM.join(f"{what}{_FIELD}{details}" if details else what for what, details in asked.items())


class Tried(NamedTuple):
    """An attempt of a task or step that failed and was followed by another (keep_failure in finish.lua)."""

    number: int
    started_ms: int
    ended_ms: int
    worker: str
    """The incarnation that made it."""
    message: str

    @classmethod
    def unpack(cls, text: str) -> Tried:
        number, started, ended, worker, message = text.split(_FIELD)
        return cls(int(number), int(started), int(ended), worker, message)


def tried(text: str) -> list[Tried]:
    """The attempts of a `tried` field, in order."""
    return [Tried.unpack(item) for item in ids(text)] if text else []


class Checkpoint(NamedTuple):
    """The result of a step within a task, as its record has it (checkpoint.lua)."""

    name: str
    size: int
    """Bytes of the JSON."""
    value: str
    """The JSON; empty where it is so large that it has a field of its own."""

    def pack(self) -> str:
        return _FIELD.join((self.name, str(self.size), self.value))

    @classmethod
    def unpack(cls, text: str) -> Checkpoint:
        name, size, value = text.split(_FIELD, 2)
        return cls(name, int(size), value)


class Turn(NamedTuple):
    """A turn of a session (session_add.lua)."""

    before: str
    """The number of the turn that it follows; empty: none."""
    task_id: str
    at_ms: int
    said: str
    """The prompt and its answer, as JSON."""

    @classmethod
    def unpack(cls, text: str) -> Turn:
        before, task_id, at, said = text.split(_FIELD, 3)
        return cls(before, task_id, int(at), said)


class Batched(NamedTuple):
    """The request to a model that a task last made by a batch, as its record tells (OWN in lib_batches.lua)."""

    state: str
    """`waiting`, `answered`, or `left`: it is made at once."""
    request: str
    turn: str
    """The turn of its conversation."""
    model: str
    """As the crew has it."""
    until_ms: int
    """The time, by the store's clock, after which the task waits for no batch any more."""

    def pack(self) -> str:
        return _FIELD.join(map(str, self))

    @classmethod
    def unpack(cls, text: str) -> Batched:
        state, request, turn, model, until, *_ = text.split(_FIELD)
        return cls(state, request, turn, model, int(until))


class Gathered(NamedTuple):
    """A request to a model that goes by a batch (REQUEST in lib_batches.lua)."""

    task_id: str
    agent: str
    call: str
    """The id of its reservation."""
    size: int
    """Bytes that its provider gets."""
    place: str
    """In the lane."""

    def pack(self) -> str:
        return _FIELD.join(map(str, self))

    @classmethod
    def unpack(cls, text: str) -> Gathered:
        task_id, agent, call, size, place = text.split(_FIELD)
        return cls(task_id, agent, call, int(size), place)


def given(text: str) -> dict[str, str]:
    """The parts that the entry of a step carries of what it is given (given in lib_runs.lua): results of steps by their
    names, and its item, both as JSON; the item has no name."""
    parts = text.split(_FIELD)
    return dict(zip(parts[::2], parts[1::2], strict=True)) if text else {}


def session_name(agent: str, session_id: str) -> str:
    """The name of an agent's session among those of its crew. The agent's is escaped: a bot's may be any text."""
    return f"{agent.replace('%', '%25').replace(':', '%3A')}:{session_id}"


def session_of(name: str) -> tuple[str, str]:
    """(agent, session_id) of a session's name."""
    agent, _, session_id = name.partition(":")
    return agent.replace("%3A", ":").replace("%25", "%"), session_id


def ids(text: str) -> list[str]:
    """A list of ids or names, as in a message to clients that wait (send_answers in lib_answers.lua)."""
    return text.split(_ITEM) if text else []


def pack_ids(names: Iterable[str]) -> str:
    """The list as one text; empty where there are none."""
    return _ITEM.join(names)


def usage(text: str) -> Usage | None:
    """Unpacks the usage of attempts (cancelled_result in lib_ends.lua); None: nothing."""
    if not text:
        return None
    input_tokens, output_tokens, requests = map(int, text.split(" "))
    return Usage(input_tokens=input_tokens, output_tokens=output_tokens, requests=requests)


def pack_usage(spent: Usage) -> str:
    """Packs the usage of attempts into one text; empty where it is nothing."""
    if not (spent.requests or spent.total_tokens):
        return ""
    return f"{spent.input_tokens} {spent.output_tokens} {spent.requests}"


def rows(flat: Sequence[Any], width: int) -> Iterator[tuple[Any, ...]]:
    """The rows of a reply that holds them one behind the other. Raises ValueError where the last one isn't whole."""
    values = iter(flat)
    return zip(*[values] * width, strict=True)


def items(names: Iterable[str]) -> str:
    """Names as one list (`split` in lib.lua takes it apart)."""
    return _ITEM.join(names)


def postponed(text: str, due_ms: int) -> str:
    """The reason why a task was postponed that is due at this time (end_item in finish.lua); empty: it was delayed for
    another reason."""
    until, _, reason = text.partition(_FIELD)
    return reason if until == str(due_ms) else ""
