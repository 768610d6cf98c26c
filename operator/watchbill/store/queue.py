"""The task queue of one crew: typed stubs over store/scripts. The protocol is docs/design/queue.md.

Every call is safe to send twice. Every call that writes raises CrewGone when the crew was deleted or replaced,
Fenced when the incarnation was taken for dead, WorkerForgotten when the store has lost it; all wrote nothing.
StoreUnavailable: nothing is known, send again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

import redis
import redis.asyncio

from watchbill.connection import outages, scripts
from watchbill.errors import CrewGone, Fenced, WorkerForgotten
from watchbill.event_types import EventType, Telling
from watchbill.names import RETURNED, CrewKeys, split_step_id
from watchbill.store import packed
from watchbill.store.incarnations import parts
from watchbill.store.role_feeds import RoleFeeds
from watchbill.tasks import Usage

BATCH: Final = 500
"""Items of one call: a script blocks the server while it runs."""
BATCH_BYTES: Final = 8 * 1024 * 1024
"""With so much no more goes into a call: it would be on its way for longer than an answer is waited for."""

Wish = Literal["cancel", "interrupt"]
Aside = Literal["retry", "later", "interrupted", "approval", "members"]
Outcome = Literal["completed", "failed", "dead", "cancelled", "skipped", Aside]
"""`skipped`: a step's own condition doesn't hold. `later`, `approval`, `members` (it waits for these) don't count."""
WISHES: Final = frozenset(get_args(Wish))
Transition = Literal["applied", "returned", "stopped", "repeated", "stale"]


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
    """Usage of the attempts before this one, as far as they could tell; None: nothing. Known once `start` gave it."""
    previous_holder: str = field(default="", compare=False)
    """The incarnation that was taken for dead while it held it, where that is known."""
    given: str = field(default="", compare=False)
    """The outputs and the item that a step is given, where they are small enough to travel along (packed.given)."""

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
        """The time at which it was put on the stream, by the server's clock (ms since 1970)."""
        return int(self.entry.partition("-")[0])


@dataclass(frozen=True, slots=True)
class Claim:
    """The answer to a claim."""

    tasks: tuple[Claimed, ...]
    again_ms: int
    """Look again after this long, unless the bell rings before."""
    now_ms: int  # of the server
    draining: bool = False
    """This worker is to claim no more, until that is taken back."""


@dataclass(frozen=True, slots=True)
class Started:
    """The work of a claimed task; `state` says whether it may begin."""

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
    """Task → what somebody wants of it; only tasks of this incarnation."""


@dataclass(slots=True, unsafe_hash=True)  # not frozen: that triples what making one costs, and each task has one
class Finished:
    """The end of a claimed task, or of an attempt at it."""

    task: Claimed
    outcome: Outcome
    result: str
    """The TaskResult as JSON; nothing where another attempt follows, or somebody else made it stop."""
    message: str = ""
    usage: Usage | None = None
    ttl_ms: int = 3_600_000
    """Milliseconds for which its record is kept; with `approval`, the longest wait; with `retry` and `later`, until the
    next attempt, or the time of that by the server's clock (ms since 1970), negated."""
    definition: str = ""
    detail: str = ""
    """The traceback, for the dead letter; with `approval` and `members`, these; `completed`: whose work it approves."""
    is_of_agent: bool = False
    """With `dead` and `later`: its agent may do nothing, and spent nothing now. The role gets it if another may."""


def crew_gone(keys: CrewKeys) -> CrewGone:
    """Returns the error for a script's answer `gone`."""
    return CrewGone(f"crew {keys.crew!r} was deleted, or replaced by another of that name")


class Queue:
    """One crew's queue, for one uid of it."""

    def __init__(self, client: redis.asyncio.Redis, keys: CrewKeys, uid: str) -> None:
        self.client = client
        self.keys = keys
        self.uid = uid
        self.role_feeds = RoleFeeds(keys)
        self._has_agents = keys.prefix == keys.root  # a delivery queue has none, and the crew's `meta`
        self._fence = 0
        """The highest that we were given: a store that went back in time may not know it any more."""
        self.ended_runs: list[tuple[str, str, float]] = []
        """(id, outcome, seconds since submission) of runs that our steps ended. The worker takes them off."""

    async def enter(self, incarnation: str, agents: Sequence[str], *, lease_ms: int, since_ms: int = 0) -> Claim:
        """Makes the store know the incarnation, by its first claim, which is of nothing; the next has number 2. The
        feeds say that these agents are there, which are one of their `parts`, where no other worker has brought them.
        A call for another one gives the time of the first one's answer."""
        agents = agents if self._has_agents else ()
        args = [self.uid, incarnation, 1, 0, 0, lease_ms, 0, self._fence, since_ms or "", *agents]
        return self._claim(await self._call("enter", self.keys.of_agents(agents), args))

    async def claim(
        self, incarnation: str, number: int, slots: int, *, lease_ms: int, take_over: bool, begin: int = 0
    ) -> Claim:
        """Renews the lease and takes at most `slots` tasks, of which the first `begin` are begun with that, where
        their payload comes along. `number` grows by one with each claim of an incarnation; a claim sent again under
        its number gets the same tasks."""
        args = [self.uid, incarnation, number, slots, begin, lease_ms, int(take_over), self._fence]
        feeds = self.role_feeds
        return self._claim(await self._call("claim", feeds.claim_keys, [*args, *feeds.agents]))

    async def claim_at_bell(
        self, incarnation: str, number: int, slots: int, *, lease_ms: int, take_over: bool, timeout_seconds: float
    ) -> tuple[Claim, redis.exceptions.RedisError | None]:
        """Waits for the bell, or for so long; then claims, and begins what it gets. In one trip: the claim stands
        behind the bell on its connection. Also returns the error of a bell that couldn't be heard."""
        feeds = self.role_feeds
        args = [self.uid, incarnation, number, slots, slots, lease_ms, int(take_over), self._fence, *feeds.agents]
        with outages.translated():
            wait = ("BLPOP", self.keys.bell, timeout_seconds)
            heard, reply = await scripts.wait_and_run(self.client, wait, "claim", feeds.claim_keys, args)
            if isinstance(reply, Exception):
                raise reply
        return self._claim(reply), heard if isinstance(heard, redis.exceptions.RedisError) else None

    async def start(self, incarnation: str, tasks: Sequence[Claimed]) -> list[Started]:
        """Tells that these tasks begin, and gives what they are to do. Needless where the payload came along."""
        keys, args = list(self.keys.fixed), [self.uid, incarnation, len(tasks)]
        for task in tasks:
            keys += self.keys.of_item(task.id, task.agent)
            args += (task.id, task.fence)
        return [
            Started("ok", item[1], item[2], tuple(item[3].split()), packed.usage(item[4]))
            if item[0] == "ok"
            else Started(item[0])
            for item in (await self._call("start", keys, args))[1:]
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
        and (with slots ≥ 0) claims, all in one call. A task that ends unannounced is announced now, with its end.

        `applied`: stored; `repeated`: it was stored before, by us; `stale`: the task is no longer ours, nothing stored;
        `returned`: nothing stored, it is its role's again; `stopped`: as somebody wants, not as `is_of_agent` says.
        `sent` is called when the call is on its way: what is to begin may begin.
        """
        keys = list(self.keys.fixed)
        args: list[Any] = [self.uid, incarnation, number, slots, begin, lease_ms, int(take_over), self._fence]
        args += (len(begun), len(announced), len(finished))
        for task in begun:
            args += (task.id, task.fence)
        for task in announced:
            keys += self.keys.of_item(task.id, task.agent)
            args += (task.id, task.fence)
        for f in finished:
            task = f.task
            keys += self.keys.of_ending(task.id, task.agent, f.definition)
            keys += (self.keys.agent_events(f.detail),) if f.detail and f.outcome == "completed" else ()
            spent = "" if f.usage is None else packed.pack_usage(f.usage)
            message, detail = f.message and _text(f.message), f.detail and _text(f.detail)
            outcome = {"dead": "exhausted", "later": "put_off"}[f.outcome] if f.is_of_agent else f.outcome
            args += (task.id, task.fence, outcome, f.ttl_ms, spent, f.result, message, detail)
        feeds = self.role_feeds
        keys += (*feeds.keys, *self.keys.crew_feed)
        args += feeds.agents
        reply = await self._call("finish", keys, args, sent)
        self.ended_runs += [(run, state, int(ms) / 1000) for run, state, ms in packed.rows(reply[3], 3)]
        return list(reply[1]), self._claim(reply[2]) if slots >= 0 else None

    async def recover(self, finished: Sequence[Finished], born: str) -> list[Transition]:
        """Writes results of tasks that the store has lost, once it has the crew back. `born`: since when the store knew
        the crew when they were claimed. `stale`: it isn't lost, or has been submitted again since, so the task will be
        done again."""
        outcomes: list[Transition] = []
        for start in range(0, len(finished), BATCH):
            batch = finished[start : start + BATCH]
            keys, args = list(self.keys.fixed), [self.uid, born, len(batch)]
            for f in batch:
                keys += (self.keys.task(f.task.id), self.keys.agent_events(f.task.agent))
                args += (f.task.id, f.task.agent, f.outcome, f.ttl_ms, f.task.attempt, f.result)
            outcomes += (await self._call("recover", keys, args))[1:]
        return outcomes

    async def hand_back(self, incarnation: str, tasks: Sequence[Claimed]) -> list[Transition]:
        """Returns claimed tasks in order, their attempts unchanged."""
        keys, args = list(self.keys.fixed), [self.uid, incarnation, len(tasks)]
        for task in tasks:
            keys += self.keys.of_item(task.id, task.agent)
            args += (task.id, task.fence)
        return list((await self._call("hand_back", keys, args))[1:])

    async def park(
        self, incarnation: str, tasks: Sequence[Claimed], reason: str, waits: str = "", *, lacks_all: bool = False
    ) -> list[Transition]:
        """Sets tasks aside whose agent this worker doesn't have (AgentUnavailable), and says why on the feed: `reason`,
        and `waits` behind it. `returned`: it is its role's again, of which this worker can run another agent.
        `lacks_all`: it can run none."""
        keys, args = list(self.keys.fixed), [self.uid, incarnation, _text(reason), _text(waits), len(tasks)]
        for task in tasks:
            keys += self.keys.of_item(task.id, task.agent)
            args += (task.id, task.fence, packed.Member(task.agent, task.priority, task.attempt, task.id).pack())
            self.role_feeds.can_run(task.agent, able=False)
        if not lacks_all:
            keys, args = [*keys, *self.role_feeds.keys], [*args, *self.role_feeds.agents]
        return list((await self._call("park", keys, args))[1:])

    async def parked_agents(self) -> dict[str, list[packed.Member]]:
        """Agent → its parked tasks, oldest first; at most 500 of each."""
        found: dict[str, list[packed.Member]] = {}
        start = 0
        with outages.translated():
            while page := await self.client.zrange(self.keys.parked_agent, start, start + 10 * BATCH - 1):
                for text in map(str, page):
                    with suppress(ValueError):  # a stranger's
                        member = packed.Member.unpack(text)
                        of_agent = found.setdefault(member.agent, [])
                        if len(of_agent) < BATCH:
                            of_agent.append(member)
                start += len(page)
        return found

    async def unpark(self, members: Sequence[packed.Member]) -> int:
        """Puts parked tasks back onto the stream. Returns how many there still were."""
        keys = [*self.keys.fixed, *(key for one in members for key in self.keys.of_item(one.task_id, one.agent))]
        return int((await self._call("unpark", keys, [self.uid, *(member.pack() for member in members)]))[1])

    def renew(self, client: redis.Redis, incarnation: str, lease_ms: int, description: str) -> Renewed:
        """Keeps the incarnation alive for another `lease_ms`. Blocking: it runs in the lease keeper's thread."""
        with outages.translated():
            reply = scripts.run_sync(client, "renew", self.keys.fixed, [self.uid, incarnation, lease_ms, description])
        self.check(reply[0], incarnation)
        return Renewed(reply[1] == 1, dict(packed.rows(reply[2:], 2)))

    async def leave(self, incarnation: str) -> None:
        """Ends the incarnation; what it still holds may be taken at once. With the last one all agents are stopped."""
        for agents in await self._spawned():
            await self._call("leave", self.keys.of_agents(agents), [self.uid, incarnation, *agents])

    async def _spawned(self) -> list[Sequence[str]]:
        """The agents of which the feeds say that they are there, in parts."""
        with outages.translated():
            fields = map(str, await self.client.hkeys(self.keys.meta) if self._has_agents else ())
        return parts(sorted(name.removeprefix("spawned:") for name in fields if name.startswith("spawned:")))

    async def say(self, incarnation: str, task: Claimed, told: Telling | str, number: int) -> bool:
        """Puts what an agent tells on the feeds, if the task is still its. `number` counts from 1."""
        told = Telling(EventType.MISSION_EVENT, told) if isinstance(told, str) else told
        others = (told.parent or task.agent, told.child or task.agent)
        keys = [*self.keys.fixed, *self.keys.of_item(task.id, task.agent), *map(self.keys.agent_events, others)]
        args = [self.uid, incarnation, task.id, task.fence, number, told.event_type.value, _text(told.message)]
        args += (told.parent or "", told.child or "", _text(told.scope or ""), told.spawn_mode or "")
        return bool(await self._call("say", keys, args) == "ok")

    async def declare_dead(self, incarnations: Sequence[str]) -> None:
        """For whoever knows that these processes have ended: their work may be taken at once."""
        for dead in (incarnations[start : start + BATCH] for start in range(0, len(incarnations), BATCH)):
            await self._call("declare_dead", self.keys.fixed, [self.uid, len(dead), *dead])
        for agents in await self._spawned() if incarnations else ():
            await self._call("declare_dead", self.keys.of_agents(agents), [self.uid, 0, *agents])

    async def incarnations(self) -> list[str]:
        """Names of incarnations that have a lease, expired or not."""
        with outages.translated():
            return [str(name) for name in await self.client.zrange(self.keys.leases, 0, -1) if name != RETURNED]

    async def move_due(self) -> int | None:
        """Puts onto the streams what is due; claims do the same, so this is for crews without workers. Returns when to
        call again, in ms since 1970 by the server's clock; None: when the channel `wake`, or something else, says that
        there is delayed work."""
        while True:
            _, moved, due = await self._call("move_due", self.keys.fixed, [self.uid, self.keys.crew, BATCH])
            if int(moved) < BATCH:
                return int(due) if due else None

    # ------------------------------------------------------------ within

    def _claim(self, reply: Sequence[Any]) -> Claim:
        self.check(reply[0], "")
        _, again_ms, now_ms, current, rows, draining = reply
        self.role_feeds.heard(current)
        if rows:
            self._fence = max(self._fence, int(rows[1]))  # all of one claim have the same
        tasks = tuple(
            Claimed(
                task_id,
                fence,
                int(attempt),
                agent,
                entry,
                int(priority),
                previous != "",
                state == "begun",
                payload,
                digest or current,
                tuple(inputs.split()) if inputs else (),
                state if state in WISHES else None,
                None,
                "" if previous == RETURNED else previous,
                given,
            )
            for task_id, fence, attempt, agent, entry, priority, previous, state, payload, digest, inputs, given in (
                packed.rows(rows, 12)
            )
        )
        return Claim(tasks, int(again_ms), int(now_ms), draining == 1)

    async def _call(
        self, name: str, keys: Sequence[str], args: Sequence[Any], sent: Callable[[], None] | None = None
    ) -> Any:
        with outages.translated():
            reply = await scripts.run(self.client, name, keys, args, sent)
        self.check(reply if isinstance(reply, str) else reply[0], "")
        return reply

    def check(self, status: str, incarnation: str) -> None:
        """Raises CrewGone, Fenced or WorkerForgotten for the answers of a script that mean them."""
        if status == "gone":
            raise crew_gone(self.keys)
        if status in ("unknown", "fenced"):
            who = f"{f'worker {incarnation}' if incarnation else 'a worker'} of crew {self.keys.crew!r}"
            if status == "unknown":
                raise WorkerForgotten(f"the store has lost what it knew of {who}")
            raise Fenced(f"{who} was taken for dead; its work was given to others")


def _text(message: str) -> str:
    """The message as UTF-8 can say it: bytes that were no text, and lone surrogates, become question marks."""
    return message if message.isascii() else message.encode("utf-8", "replace").decode()
