"""Cancels, interrupts and resumes work, replays dead letters, and drains workers.

It may not decide what is possible: the store's scripts do.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from watchbill.client import arguments
from watchbill.client.connected import Connected
from watchbill.errors import Conflict, InvalidInput, NotFound, Problem
from watchbill.names import CrewKeys
from watchbill.plan import texts
from watchbill.store import approvals, control, dead, definitions, suspension
from watchbill.store.approvals import Verdict
from watchbill.store.control import CancelledAll
from watchbill.store.dead import DeadLetter, Kept, Outcome, Replayed
from watchbill.store.deliveries import MANY
from watchbill.store.figures import WorkerInfo, incarnations
from watchbill.tasks import Approval


@dataclass(frozen=True, slots=True)
class Replay:
    """The outcome of the replay of one dead letter."""

    id: str
    """The id that was given; else the letter's own."""
    task_id: str
    """The task's id; empty if there is no such letter, or it names no task."""
    outcome: Outcome
    definition: Kept = ""
    """The definition that the task runs with: the crew's `current` one, or the one that its run was `submitted` with;
    if these are the same: `unchanged`."""
    why: str = ""
    """The reason why it isn't the definition that was asked for."""


class Control(Connected):
    """The client's methods for submitted work and for workers."""

    # ------------------------------------------------------------ stopping and going on

    async def cancel(self, crew: str, task_id: str, *, reason: str = "") -> bool:
        """Cancels a run, a task, or a step (`run/step`). False: its worker was asked to stop it; True: it has ended.

        Work that waits ends at once, and so does work of a dead worker. Running work is stopped by its worker; if it
        ends before that, it keeps its result (see `wait`). If that worker dies, `cancelling` ends the work. The
        result's error is `cancelled: reason`, and its property `cancelled` is true. A second call changes nothing.
        Raises NotFound, and Conflict when the work has ended otherwise.
        """
        keys = self._door(crew, task_id=task_id, reason=reason)

        async def ask(current: definitions.Current) -> bool:
            ttl_ms = current.definition.tasks.result_ttl_seconds * 1000
            return await control.cancel(self._redis, keys, current.uid, task_id, reason, ttl_ms)

        return await self._with_current(keys, ask)

    async def cancel_all(self, crew: str, *, agent: str | None = None, reason: str = "") -> CancelledAll:
        """Cancels, as `cancel` does, every run and task of the crew that hasn't ended when this is called; with `agent`
        only tasks of their own of that agent. Says how many have ended, and how many a worker was asked to stop.

        Work that is submitted meanwhile is not cancelled. Raises NotFound when there is no such crew, or it has
        neither such an agent nor tasks of it. After an error some work may be cancelled; repeat the call.
        """
        keys = self._door(crew, agent=agent, reason=reason)
        # Looked up anew, and asked once: a crew that is made anew under this name meanwhile isn't meant.
        current = await self._current(keys)
        ttl_ms = current.definition.tasks.result_ttl_seconds * 1000
        known = current.definition.agent_ids()
        agent_id = agent if agent is None else known.get(agent, agent)  # tasks may be left of one that the crew had
        done = await control.cancel_all(self._redis, keys, current.uid, agent_id, reason, ttl_ms)
        if agent is not None and agent not in known and done == CancelledAll(0, 0):
            listed = ", ".join(one.agent_id for one in current.definition.agents)
            raise NotFound(f"crew {keys.crew!r} has no agent {agent!r}, nor tasks of one; it has: {listed}")
        return done

    async def cancelling(self, crew: str) -> int:
        """The number of cancelled tasks and steps that their workers have yet to stop.

        Ends those whose worker's lease is over. Raises NotFound when there is no such crew.
        """
        keys = self.keys(crew)
        current = await self._current(keys)
        return await control.cancelling(self._redis, keys, current.uid)

    async def interrupt(self, crew: str, task_id: str, *, reason: str = "") -> bool:
        """Sets a task, or a step of a run, aside until `resume`. False: its worker was asked to stop it first.

        The task keeps its prompt and inputs, and the attempt doesn't count. Callers of `wait` go on waiting. Raises
        NotFound; Conflict for a whole run, for a step that waits for others, and when the task has ended; RetryLater
        while the task moves between two places (due, and not claimed yet).
        """
        keys = self._door(crew, task_id=task_id, reason=reason)
        return await self._with_current(
            keys, lambda current: control.interrupt(self._redis, keys, current.uid, task_id, reason)
        )

    async def approve(
        self, crew: str, task_id: str, *, what: str | None = None, mark: str | None = None, reason: str = ""
    ) -> bool:
        """Approves of what a task, or a step of a run, waits for: it goes on. Returns False if that was done before.

        `what`: the approval that is meant (`Approval.what`), which it must be where several calls of tools wait.
        `mark`: of what you have been shown (`Approval.mark`); without it, whatever is asked now is approved. The
        reason is kept with the task (see `approvals`). Raises NotFound; Conflict when it waits for no such approval, or
        for several and none is named, has asked anew since, has ended, was rejected, or its time for that is over.
        """
        return await self._decide(crew, task_id, "approved", what, mark, reason)

    async def reject(
        self, crew: str, task_id: str, *, what: str | None = None, mark: str | None = None, reason: str = ""
    ) -> bool:
        """Rejects what a task, or a step of a run, waits for: it fails, unless its agent goes on without. A model gets
        the reason in place of a tool's result. Takes, returns and raises what `approve` does."""
        return await self._decide(crew, task_id, "rejected", what, mark, reason)

    async def _decide(
        self, crew: str, task_id: str, verdict: Verdict, what: str | None, mark: str | None, reason: str
    ) -> bool:
        keys = self._door(crew, task_id=task_id, what=what, mark=mark, reason=reason)
        decide = partial(approvals.decide, what=what, mark=mark)
        return await self._with_current(
            keys, lambda current: decide(self._redis, keys, current.uid, task_id, verdict, reason)
        )

    async def approvals(self, crew: str, task_id: str) -> Mapping[str, list[Approval]]:
        """Returns the approvals that a task, a step or the steps of a run wait for, or were given: id of the task or
        step (`run/step`) → its approvals, in the order in which they were asked for. Raises NotFound."""
        keys = self._door(crew, task_id=task_id)
        return await self._of_crew(keys, approvals.of_work(self._redis, keys, task_id))

    async def suspend(self, crew: str) -> bool:
        """Suspends the crew: when this returns, no task of it begins until `resume(crew)`.

        What runs goes on, what is submitted waits, heartbeats don't fire, and results are delivered. Returns whether
        that changed anything. Raises NotFound, and Conflict when an operator manages the crew: its Crew has
        `spec.suspend`.
        """
        return await self._suspend(crew, on=True)

    async def resume(self, crew: str, task_id: str | None = None) -> bool:
        """Puts an interrupted task back into the queue; it begins anew. Without an id: takes back `suspend`.

        Returns False if it was not interrupted (or suspended). Raises NotFound; Conflict when the task has ended, or,
        without an id, when an operator manages the crew.
        """
        if task_id is None:
            return await self._suspend(crew, on=False)
        keys = self._door(crew, task_id=task_id)
        return await self._with_current(keys, lambda current: control.resume(self._redis, keys, current.uid, task_id))

    async def _suspend(self, crew: str, *, on: bool) -> bool:
        keys = self.keys(crew)
        current = await self._current(keys)  # anew: a crew that is made anew under this name is not meant
        if owner := (await definitions.identity(self._redis, keys)).owner:
            raise Conflict(
                f"the operator {owner!r} keeps crew {keys.crew!r}, as its Crew in Kubernetes says. "
                f"Use: {suspension.by_kubectl(keys, on=on)}"
            )
        return await suspension.suspend(self._redis, keys, current.uid, on=on)

    async def close_crew(self, crew: str) -> bool:
        """Closes the crew to new work, before it is deleted: when this returns, it takes none until `open_crew`.

        Whoever submits, replays a dead letter or fires a heartbeat gets Closed, and no slot of a heartbeat fires. All
        that the crew has goes on, as do the steps of its runs. Returns whether that changed anything. Raises NotFound.
        """
        return await self._close(crew, on=True)

    async def open_crew(self, crew: str) -> bool:
        """Takes back `close_crew`. Returns whether that changed anything. Raises NotFound."""
        return await self._close(crew, on=False)

    async def _close(self, crew: str, *, on: bool) -> bool:
        keys = self.keys(crew)
        return await suspension.close(self._redis, keys, (await self._current(keys)).uid, on=on)

    # ------------------------------------------------------------ workers

    async def workers(self, crew: str) -> list[WorkerInfo]:
        """The workers of the crew, the busiest first. Raises NotFound when there is no such crew."""
        keys = self.keys(crew)
        await self._current(keys)
        return await incarnations(self._redis, keys)

    async def drain(self, crew: str, worker: str) -> bool:
        """Stops a worker (`HOST-PID`, or one of its incarnations) from claiming tasks. Its running tasks go on.

        Returns whether that changed anything. Raises NotFound when the crew has no such worker.
        """
        return await self._drain(crew, worker, on=True)

    async def undrain(self, crew: str, worker: str) -> bool:
        """Lets a worker claim tasks again. Returns whether that changed anything. Raises NotFound as `drain` does."""
        return await self._drain(crew, worker, on=False)

    async def _drain(self, crew: str, worker: str, *, on: bool) -> bool:
        keys = self._door(crew, worker=worker)

        async def ask(current: definitions.Current) -> bool:
            known = {one.name.rpartition(".")[0] or one.name for one in await incarnations(self._redis, keys)}
            name = worker if worker in known else worker.rpartition(".")[0]
            if name not in known:
                listed = ", ".join(sorted(known)) or "none"
                raise NotFound(f"crew {keys.crew!r} has no worker {worker!r}; it has: {listed}")
            return await control.drain(self._redis, keys, current.uid, name, on=on)

        return await self._with_current(keys, ask)

    # ------------------------------------------------------------ dead letters

    async def dead_letters(
        self,
        crew: str,
        *,
        agent: str | None = None,
        reason: str | None = None,
        before: datetime | None = None,
        after: datetime | None = None,
        deliveries: bool = False,
    ) -> AsyncIterator[DeadLetter]:
        """Yields dead letters, newest first: of this agent, with this text in reason or error, that died before or
        after this time (aware). `deliveries`: those of deliveries, whose agents are `to:` and the destination's name.
        Raises NotFound when there is no such crew."""
        matches = _matching(agent, reason, before, after)
        keys = self._letters(self._door(crew, agent=agent, reason=reason), deliveries)
        await self._current(keys)
        async for letter in dead.letters(self._redis, keys):
            if matches(letter):
                yield letter

    async def dead_letter(self, crew: str, letter_or_task: str, *, deliveries: bool = False) -> DeadLetter:
        """The letter of this id, or the newest one of this task (`deliveries`: of this delivery). Raises NotFound."""
        keys = self._letters(self._door(crew, letter_or_task=letter_or_task), deliveries)
        await self._current(keys)
        return await dead.find(self._redis, keys, letter_or_task)

    async def replay(
        self,
        crew: str,
        ids: str | Iterable[str] | None = None,
        *,
        agent: str | None = None,
        reason: str | None = None,
        before: datetime | None = None,
        after: datetime | None = None,
        everything: bool = False,
        as_submitted: bool = False,
        deliveries: bool = False,
    ) -> list[Replay]:
        """Replays dead letters with all their attempts, oldest first: those of these ids (of tasks, or letters) that
        match the filter of `dead_letters`; of several letters of one task the newest. `everything`: all.

        A task of its own runs with the crew's current definition. A step goes on within its run, and the run with it:
        with the current definition if the run has ended and its plan is the same (steps, and their order), else, or
        with `as_submitted`, with the one that it began with. Returns the outcome and the definition of each; an id
        that has no letter is `missing`. Raises NotFound, InvalidInput when neither ids nor a filter nor `everything`
        are given, and QueueFull: then some letters may be replayed, and the call may be repeated. `deliveries`: letters
        of deliveries, to the destinations as the crew has them now.
        """
        keys = self._letters(self._door(crew, agent=agent, reason=reason), deliveries)
        chosen, missing = await self._chosen(keys, ids, _matching(agent, reason, before, after), everything)
        newest: dict[str, tuple[str, DeadLetter]] = {}
        for wanted, letter in chosen:
            newest.setdefault(letter.task_id or letter.id, (wanted, letter))
        oldest_first = list(newest.values())[::-1]

        async def give(current: definitions.Current) -> list[Replayed]:
            letters = [letter for _, letter in oldest_first]
            most = MANY if deliveries else current.definition.tasks.max_queued
            return await dead.replay(
                self._redis, keys, current.uid, letters, max_queued=most, as_submitted=as_submitted
            )

        outcomes = await self._with_current(keys, give)
        told = [
            Replay(wanted, letter.task_id, one.outcome, one.definition, one.why)
            for (wanted, letter), one in zip(oldest_first, outcomes, strict=True)
        ]
        return [*told, *(Replay(wanted, "", "missing") for wanted in missing)]

    async def purge(
        self,
        crew: str,
        ids: str | Iterable[str] | None = None,
        *,
        agent: str | None = None,
        reason: str | None = None,
        before: datetime | None = None,
        after: datetime | None = None,
        everything: bool = False,
        deliveries: bool = False,
    ) -> int:
        """Removes dead letters for good, chosen as in `replay`, but all letters of a task. Returns their number.

        `deliveries`: letters of deliveries. Raises NotFound when there is no such crew, and InvalidInput as `replay`
        does.
        """
        keys = self._letters(self._door(crew, agent=agent, reason=reason), deliveries)
        chosen, _ = await self._chosen(keys, ids, _matching(agent, reason, before, after), everything)
        doomed = [letter.id for _, letter in chosen]
        return await self._with_current(keys, lambda current: dead.purge(self._redis, keys, current.uid, doomed))

    def _letters(self, keys: CrewKeys, deliveries: bool) -> CrewKeys:
        return keys.deliveries() if deliveries else keys

    async def _chosen(
        self,
        keys: CrewKeys,
        ids: str | Iterable[str] | None,
        matches: Callable[[DeadLetter], bool],
        everything: bool,
    ) -> tuple[list[tuple[str, DeadLetter]], list[str]]:
        """The chosen letters as (given id, letter), newest first, without long fields; and the ids without a letter."""
        if ids is None and not everything and matches is _any:
            fix = "Give ids, a filter (agent, reason, before, after), or everything=True."
            raise InvalidInput(Problem("nothing says which dead letters are meant", fix, path="ids"))
        wanted = None if ids is None else [ids] if isinstance(ids, str) else arguments.listed(ids, "ids")
        for one in wanted or ():
            texts.check(("ids",), ids=one)
        wanted = wanted if wanted is None else list(dict.fromkeys(wanted))
        await self._current(keys)
        chosen: list[tuple[str, DeadLetter]] = []
        found: set[str] = set()
        async for letter in dead.letters(self._redis, keys):
            name = letter.id
            if wanted is not None:
                name = letter.id if letter.id in wanted else letter.task_id
                if not name or name not in wanted:
                    continue
            if matches(letter):
                found.add(name)
                raw: dict[str, str] | None = None if letter.raw is None else {}
                chosen.append((name, replace(letter, error="", prompt=None, raw=raw)))
        return chosen, [name for name in wanted or () if name not in found]


def _any(_: DeadLetter) -> bool:
    return True


def _matching(
    agent: str | None, reason: str | None, before: datetime | None, after: datetime | None
) -> Callable[[DeadLetter], bool]:
    """Checks the filter. Raises InvalidInput for what is no time with a zone."""
    for name, time in (("before", before), ("after", after)):
        arguments.moment(time, name)
    if agent is None and reason is None and before is None and after is None:
        return _any
    return dead.matching(agent=agent, reason=reason, before=before, after=after)
