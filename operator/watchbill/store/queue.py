"""The task queue of one crew: typed stubs over store/scripts. The protocol is docs/design/queue.md.

Every call is safe to send twice. Every call that writes raises CrewGone when the crew was deleted or replaced,
Fenced when the incarnation was taken for dead, WorkerForgotten when the store has lost it; all wrote nothing.
StoreUnavailable: nothing is known, send again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal

import redis
import redis.asyncio

from watchbill.connection import outages, scripts
from watchbill.errors import (
    Conflict,
    CrewGone,
    DefinitionChanged,
    Fenced,
    QueueFull,
    WatchbillError,
    WorkerForgotten,
)
from watchbill.names import STEP_SEPARATOR, CrewKeys, split_step_id
from watchbill.store import durability as durable
from watchbill.tasks import Durability, Priority, Usage

BATCH: Final = 500
"""Items of one call: a script blocks the server while it runs."""
BATCH_BYTES: Final = 8 * 1024 * 1024
"""With so much no more goes into a call: it would be on its way for longer than an answer is waited for."""

Outcome = Literal["completed", "failed", "dead", "retry", "cancelled", "interrupted"]
Wish = Literal["cancel", "interrupt"]
Transition = Literal["applied", "repeated", "stale"]


@dataclass(frozen=True, slots=True)
class Submission:
    """One task to be put on the queue."""

    id: str
    agent: str
    payload: str
    """The AgentTask as JSON."""
    priority: Priority = Priority.NORMAL
    inputs: Mapping[str, str] = field(default_factory=dict)
    dedupe_key: str = ""
    dedupe_ms: int = 0
    work: str = ""
    """A digest of what is to be done: an id that is there stands for the same work only if this agrees."""
    due_ms: int = 0
    """When it may begin, by the server's clock (ms since 1970); 0: at once."""


@dataclass(slots=True, unsafe_hash=True)  # not frozen: that triples what making one costs, and each task has one
class Claimed:
    """One task that an incarnation holds, under a fence."""

    id: str
    fence: str
    attempt: int
    agent: str
    entry: str
    priority: int
    taken_over: bool
    begun: bool = False
    """The store counts it as begun: it is to be run at once, or handed back."""
    payload: str = field(default="", compare=False)
    """The AgentTask as JSON, where it is small enough to travel along; else `start` gives it."""
    definition: str = field(default="", compare=False)
    inputs: tuple[str, ...] = field(default=(), compare=False)
    wish: Wish | None = None
    """Somebody wants it to stop: it isn't to run, and whoever holds it says how it ended."""
    usage: Usage | None = field(default=None, compare=False)
    """What the attempts before this one spent, as far as they could tell; None: nothing. Known once `start` gave it."""
    former: str = field(default="", compare=False)
    """The incarnation that was taken for dead while it held it, where that is known."""

    @property
    def run_id(self) -> str | None:
        step = split_step_id(self.id)
        return step[0] if step else None

    @property
    def step(self) -> str | None:
        step = split_step_id(self.id)
        return step[1] if step else None

    @property
    def queued_ms(self) -> int:
        """When it was put on the stream, by the server's clock."""
        return int(self.entry.partition("-")[0])


@dataclass(frozen=True, slots=True)
class Claim:
    """The answer to a claim."""

    tasks: tuple[Claimed, ...]
    again_ms: int
    """Look again after this long, unless the bell rings before."""
    now_ms: int
    """The server's clock."""
    draining: bool = False
    """This worker is to claim no more, until that is taken back."""


@dataclass(frozen=True, slots=True)
class Started:
    """What a claimed task is to do; `state` says whether it may."""

    state: Literal["ok", "stale", "missing"]
    payload: str = ""
    definition: str = ""
    inputs: tuple[str, ...] = ()
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Renewed:
    """The answer to a renewal: what this incarnation may have missed."""

    draining: bool
    wishes: Mapping[str, Wish]
    """Of its tasks those that somebody wants to stop."""


@dataclass(slots=True, unsafe_hash=True)  # not frozen: that triples what making one costs, and each task has one
class Finished:
    """The end of a claimed task, or of an attempt at it."""

    task: Claimed
    outcome: Outcome
    result: str
    """The TaskResult as JSON; nothing where another attempt follows, or somebody else made it stop."""
    message: str = ""
    usage: Usage | None = None
    """What all its attempts spent."""
    ttl_ms: int = 3_600_000
    """How long its record is kept; with outcome `retry`, after how long it is tried again."""
    definition: str = ""
    detail: str = ""
    """The traceback, for the dead letter."""


def packed(usage: Usage) -> str:
    """As the store keeps it: empty where nothing was spent."""
    if not (usage.requests or usage.total_tokens):
        return ""
    return f"{usage.input_tokens} {usage.output_tokens} {usage.requests}"


def unpacked(spent: str) -> Usage | None:
    """What `packed` made."""
    if not spent:
        return None
    input_tokens, output_tokens, requests = map(int, spent.split(" "))
    return Usage(input_tokens=input_tokens, output_tokens=output_tokens, requests=requests)


def crew_gone(keys: CrewKeys) -> CrewGone:
    """What a script's `gone` means."""
    return CrewGone(f"crew {keys.crew!r} was deleted, or replaced by another of that name")


def queue_full(keys: CrewKeys, max_queued: int) -> QueueFull:
    """What a script's `full` means."""
    return QueueFull(f"crew {keys.crew!r} has no room for that: tasks.maxQueued = {max_queued}; try again later")


def other_work(keys: CrewKeys, task_id: str) -> Conflict:
    """What a script's `other` means."""
    return Conflict(
        f"{task_id!r} is the id of other work of crew {keys.crew!r}: its prompt, its agent or its inputs differ. "
        "Choose another id, or leave it out"
    )


class Queue:
    """One crew's queue, for one uid of it."""

    def __init__(self, client: redis.asyncio.Redis, keys: CrewKeys, uid: str) -> None:
        self.client = client
        self.keys = keys
        self.uid = uid
        self._fence = 0
        """The highest that we were given: a store that went back in time may not know it any more."""

    # ------------------------------------------------------------ submitting

    async def submit(
        self,
        submissions: Iterable[Submission],
        *,
        max_queued: int,
        reply_to: str = "",
        digest: str = "",
        durability: Durability | None = None,
    ) -> list[str]:
        """Puts tasks on the queue, in batches. Returns their ids: another's where a dedupe key was already used.

        An id that is already there, with the same `work`, is the same task: nothing is added. `digest`: the definition
        they were checked against. Raises QueueFull (of that batch nothing was stored), DefinitionChanged when the crew
        has another definition, Conflict when an id belongs to a run or to other work (of that batch nothing was stored
        either), NotDurable; the error's `stored` has the ids of the batches before.
        """
        ids: list[str] = []
        try:
            await self._submit(ids, submissions, max_queued, reply_to, digest, durability)
        except WatchbillError as error:
            error.stored = tuple(ids)
            raise
        return ids

    async def _submit(
        self,
        ids: list[str],
        submissions: Iterable[Submission],
        max_queued: int,
        reply_to: str,
        digest: str,
        durability: Durability | None,
    ) -> None:
        source, size = iter(submissions), min(BATCH, max_queued)  # more than the bound would never find room
        batch: list[Submission] = []
        _fill(batch, source, size)
        while batch:
            keys = list(self.keys.fixed)
            args: list[Any] = [self.uid, self.keys.crew, digest, max_queued, reply_to, len(batch)]
            for s in batch:
                keys.append(self.keys.task(s.id))
                window = 0
                if s.dedupe_key and s.dedupe_ms > 0:
                    keys.append(self.keys.dedupe(s.dedupe_key))
                    window = s.dedupe_ms
                args += (s.id, int(s.priority), s.agent, s.payload, s.work, s.due_ms, window)
                args += (" ".join(s.inputs), len(s.inputs))
                if s.inputs:
                    args += (part for item in s.inputs.items() for part in item)
            # the next batch is made while the server works on this one
            following: list[Submission] = []
            if durability is None:
                reply = await self._call("submit", keys, args, partial(_fill, following, source, size))
            else:
                sent = [s.id for s in batch]
                reply = await durable.run_script(self.client, "submit", keys, args, durability, sent)
                self._raise(reply[0], "")
            if reply[0] == "changed":
                raise DefinitionChanged(f"crew {self.keys.crew!r} has another definition than {digest!r} by now")
            if reply[0] == "full":
                raise queue_full(self.keys, max_queued)
            if reply[0] == "conflict":
                raise Conflict(f"{reply[1]!r} is the id of a run of crew {self.keys.crew!r}; choose another")
            if reply[0] == "other":
                raise other_work(self.keys, reply[1])
            for submission, outcome in zip(batch, reply[1:], strict=True):
                ids.append(outcome.removeprefix("duplicate:") if outcome.startswith("duplicate:") else submission.id)
            _fill(following, source, size)
            batch = following

    # ------------------------------------------------------------ working

    async def claim(
        self, incarnation: str, number: int, slots: int, *, lease_ms: int, take_over: bool, begin: int = 0
    ) -> Claim:
        """Renews the lease and takes at most `slots` tasks, of which the first `begin` are begun with that, where
        their payload comes along. `number` grows by one with each claim of an incarnation; a claim sent again under
        its number gets the same tasks."""
        args = [self.uid, incarnation, number, slots, begin, lease_ms, int(take_over), self._fence]
        return self._claim(await self._call("claim", self.keys.fixed, args))

    async def claim_at_bell(
        self, incarnation: str, number: int, slots: int, *, lease_ms: int, take_over: bool, timeout_seconds: float
    ) -> tuple[Claim, redis.exceptions.RedisError | None]:
        """Waits for the bell, or for so long; then claims, and begins what it gets. In one trip: the claim stands
        behind the bell on its connection. Also returns the error of a bell that couldn't be heard."""
        args: list[Any] = [self.uid, incarnation, number, slots, slots, lease_ms, int(take_over), self._fence]
        with outages.translated():
            wait = ("BLPOP", self.keys.bell, timeout_seconds)
            heard, reply = await scripts.wait_and_run(self.client, wait, "claim", self.keys.fixed, args)
            if isinstance(reply, Exception):
                raise reply
        return self._claim(reply), heard if isinstance(heard, redis.exceptions.RedisError) else None

    async def start(self, incarnation: str, tasks: Sequence[Claimed]) -> list[Started]:
        """Tells that these tasks begin, and gives what they are to do. Needless where the payload came along."""
        keys = list(self.keys.fixed)
        args: list[Any] = [self.uid, incarnation, len(tasks)]
        for task in tasks:
            events = self.keys.agent_events(task.agent)
            if task.run_id is None:
                keys += [self.keys.task(task.id), events]
            else:
                run = task.run_id
                keys += [self.keys.run(run), self.keys.run_steps(run), events, self.keys.run_events(run)]
            args += (task.id, task.fence)
        reply = await self._call("start", keys, args)
        return [
            Started(item[0], item[1], item[2], tuple(item[3].split()), unpacked(item[4]))
            if item[0] == "ok"
            else Started(item[0])
            for item in reply[1:]
        ]

    async def finish(
        self,
        incarnation: str,
        finished: Sequence[Finished],
        *,
        begun: Sequence[Claimed] = (),
        announced: Sequence[Claimed] = (),
        number: int = 0,
        slots: int = -1,
        begin: int = 0,
        lease_ms: int = 0,
        take_over: bool = False,
        sent: Callable[[], None] | None = None,
    ) -> tuple[list[Transition], Claim | None]:
        """Begins `begun`, tells the feeds that `announced` have begun, stores results, advances runs,
        and (with slots ≥ 0) claims.

        All in one call. A task that ends unannounced has its beginning and its end announced now.

        `applied`: stored; `repeated`: it was stored before, by us; `stale`: the task is no longer ours, nothing stored.
        `sent` is called when the call is on its way: what is to begin may begin.
        """
        of = self.keys
        keys = list(of.fixed)
        args: list[Any] = [self.uid, incarnation, number, slots, begin, lease_ms, int(take_over), self._fence]
        args += (len(begun), len(announced), len(finished))
        for task in begun:
            args += (task.id, task.fence)
        for task in announced:
            run, separator, _ = task.id.partition(STEP_SEPARATOR)
            if separator:
                keys += (of.run_steps(run), of.agent_events(task.agent), of.run_events(run))
            else:
                keys += (of.task(run), of.agent_events(task.agent))
            args += (task.id, task.fence)
        for f in finished:
            task = f.task
            run, separator, _ = task.id.partition(STEP_SEPARATOR)
            if separator:
                keys += (of.run(run), of.run_steps(run), of.run_results(run), of.definition(f.definition))
                keys += (of.agent_events(task.agent), of.run_events(run))
            else:
                keys += (of.task(run), of.agent_events(task.agent))
            spent = "" if f.usage is None else packed(f.usage)
            args += (task.id, task.fence, f.outcome, f.ttl_ms, spent, f.result, _text(f.message), _text(f.detail))
        reply = await self._call("finish", keys, args, sent)
        return list(reply[1]), self._claim(reply[2]) if slots >= 0 else None

    async def recover(self, finished: Sequence[Finished], born: str) -> list[Transition]:
        """Writes results of tasks that the store has lost, once it has the crew back. `born`: since when the store knew
        the crew when they were claimed. `stale`: it isn't lost, or has been submitted again since, so the task will be
        done again."""
        outcomes: list[Transition] = []
        for start in range(0, len(finished), BATCH):
            batch = finished[start : start + BATCH]
            keys = list(self.keys.fixed)
            args: list[Any] = [self.uid, born, len(batch)]
            for f in batch:
                keys += (self.keys.task(f.task.id), self.keys.agent_events(f.task.agent))
                args += (f.task.id, f.task.agent, f.outcome, f.ttl_ms, f.task.attempt, f.result)
            outcomes += (await self._call("recover", keys, args))[1:]
        return outcomes

    async def hand_back(self, incarnation: str, tasks: Sequence[Claimed]) -> list[Transition]:
        """Returns claimed tasks in order, their attempts unchanged."""
        keys, args = self._items(tasks)
        return list((await self._call("hand_back", keys, [self.uid, incarnation, len(tasks), *args]))[1:])

    async def park(self, incarnation: str, tasks: Sequence[Claimed], reason: str) -> list[Transition]:
        """Sets tasks aside whose agent this worker doesn't have (AgentUnavailable), and says why on the feed."""
        keys, _ = self._items(tasks)
        args: list[str] = []
        for task in tasks:
            member = "\x1f".join((task.agent, str(task.priority), task.id, str(task.attempt)))
            args += [*self._item(task), member]
        return list((await self._call("park", keys, [self.uid, incarnation, _text(reason), len(tasks), *args]))[1:])

    async def parked_agents(self) -> dict[str, list[str]]:
        """Agent → what its parked tasks are parked as, oldest first; at most 500 of each."""
        found: dict[str, list[str]] = {}
        start = 0
        with outages.translated():
            while page := await self.client.zrange(self.keys.parked_agent, start, start + 10 * BATCH - 1):
                for member in map(str, page):
                    if member.count("\x1f") != 3:
                        continue  # a stranger's
                    of_agent = found.setdefault(member.split("\x1f")[0], [])
                    if len(of_agent) < BATCH:
                        of_agent.append(member)
                start += len(page)
        return found

    async def unpark(self, members: Sequence[str]) -> int:
        """Puts parked tasks back onto the stream. Returns how many there still were."""
        keys = list(self.keys.fixed)
        args: list[Any] = [self.uid, len(members)]
        for member in members:
            agent, priority, task_id, attempt = member.split("\x1f")
            step = split_step_id(task_id)
            keys.append(self.keys.run_steps(step[0]) if step else self.keys.task(task_id))
            args += ["s" if step else "t", member, task_id, step[1] if step else "", agent, priority, attempt]
        return int((await self._call("unpark", keys, args))[1])

    def renew(self, client: redis.Redis, incarnation: str, lease_ms: int, description: str) -> Renewed:
        """Keeps the incarnation alive for another `lease_ms`. Blocking: it runs in the lease keeper's thread."""
        with outages.translated():
            reply = scripts.run_sync(client, "renew", self.keys.fixed, [self.uid, incarnation, lease_ms, description])
        self._raise(reply[0], incarnation)
        return Renewed(reply[1] == 1, dict(zip(reply[2::2], reply[3::2], strict=True)))

    async def leave(self, incarnation: str) -> None:
        """Ends the incarnation; what it still holds may be taken at once."""
        await self._call("leave", self.keys.fixed, [self.uid, incarnation])

    async def say(self, incarnation: str, task: Claimed, message: str, number: int) -> bool:
        """Puts an agent's message on the feed, if the task is still this incarnation's. `number` counts from 1."""
        keys = [*self.keys.fixed, self.keys.agent_events(task.agent)]
        keys.append(self.keys.run_events(task.run_id) if task.run_id else keys[-1])
        reply = await self._call("say", keys, [self.uid, incarnation, task.id, task.fence, _text(message), number])
        return bool(reply == "ok")

    async def declare_dead(self, incarnations: Sequence[str]) -> None:
        """For whoever knows that these processes have ended: their work may be taken at once."""
        for start in range(0, len(incarnations), BATCH):
            await self._call("declare_dead", self.keys.fixed, [self.uid, *incarnations[start : start + BATCH]])

    async def incarnations(self) -> list[str]:
        """Those that have a lease, expired or not."""
        with outages.translated():
            return [str(name) for name in await self.client.zrange(self.keys.leases, 0, -1) if name != "returned"]

    async def move_due(self) -> int | None:
        """Puts onto the streams what is due; claims do the same, so this is for crews without workers. Returns when to
        call again, in ms since 1970 by the server's clock; None: when `wb:wake` names the crew, or something else says
        that there is delayed work."""
        while True:
            _, moved, due = await self._call("move_due", self.keys.fixed, [self.uid, self.keys.crew, BATCH])
            if int(moved) < BATCH:
                return int(due) if due else None

    # ------------------------------------------------------------ within

    @staticmethod
    def _item(task: Claimed) -> list[str]:
        return (
            ["s", task.id, task.fence, task.step or ""] if STEP_SEPARATOR in task.id else ["t", task.id, task.fence, ""]
        )

    def _items(self, tasks: Sequence[Claimed]) -> tuple[list[str], list[str]]:
        """KEYS and ARGV of calls that move claimed tasks and their visible state."""
        keys = list(self.keys.fixed)
        args: list[str] = []
        for task in tasks:
            record = self.keys.task(task.id) if task.run_id is None else self.keys.run_steps(task.run_id)
            events = self.keys.agent_events(task.agent)
            keys += [events, record, self.keys.run_events(task.run_id) if task.run_id else events]
            args += self._item(task)
        return keys, args

    def _claim(self, reply: Sequence[Any]) -> Claim:
        self._raise(reply[0], "")
        current, flat = reply[3], iter(reply[4])
        if reply[4]:
            self._fence = max(self._fence, int(reply[4][1]))  # all of one claim have the same
        tasks = tuple(
            Claimed(
                task_id,
                fence,
                int(attempt),
                agent,
                entry,
                int(priority),
                taken_over != "0",
                begun == "1",
                payload,
                definition or current,
                tuple(inputs.split()) if inputs else (),
                begun if len(begun) > 1 else None,
                None,
                taken_over if len(taken_over) > 1 else "",
            )
            for task_id, fence, attempt, agent, entry, priority, taken_over, begun, payload, definition, inputs in zip(
                *[flat] * 11, strict=True
            )
        )
        return Claim(tasks, int(reply[1]), int(reply[2]), reply[5] == 1)

    async def _call(
        self, name: str, keys: Sequence[str], args: Sequence[Any], sent: Callable[[], None] | None = None
    ) -> Any:
        with outages.translated():
            reply = await scripts.run(self.client, name, keys, args, sent)
        self._raise(reply if isinstance(reply, str) else reply[0], "")
        return reply

    def _raise(self, status: str, incarnation: str) -> None:
        if status == "gone":
            raise crew_gone(self.keys)
        if status == "unknown":
            raise WorkerForgotten(f"the store has lost what it knew of worker {incarnation} of crew {self.keys.crew!r}")
        if status == "fenced":
            raise Fenced(
                f"worker {incarnation} of crew {self.keys.crew!r} was taken for dead; its work was given to others"
            )


def _fill(batch: list[Submission], source: Iterator[Submission], size: int) -> None:
    """Unless it is full, which it may be of little."""
    room = BATCH_BYTES - sum(map(_length, batch))
    while room > 0 and len(batch) < size and (submission := next(source, None)) is not None:
        batch.append(submission)
        room -= _length(submission)


def _length(submission: Submission) -> int:
    length = len(submission.payload)
    return length + sum(map(len, submission.inputs.values())) if submission.inputs else length


def _text(message: str) -> str:
    """The message as UTF-8 can say it: bytes that were no text, and lone surrogates, become question marks."""
    return message if message.isascii() else message.encode("utf-8", "replace").decode()
