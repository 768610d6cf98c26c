"""The line from an agent at work to the store: what it tells, and what it asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Final, NoReturn

from watchbill.agents.asking import Ends, Waits
from watchbill.clock import Timer
from watchbill.errors import DelegationFailed, InvalidInput, Problem
from watchbill.event_types import Telling
from watchbill.plan.approvals import MOST, granted, requests
from watchbill.plan.hierarchy import Delegated
from watchbill.redaction import redact
from watchbill.store import approvals, delegations, packed
from watchbill.store.queue import Queue
from watchbill.tasks import Approval, TaskResult
from watchbill.worker.execution import results
from watchbill.worker.execution.attempt import Attempt
from watchbill.worker.execution.results import Waiting
from watchbill.worker.incarnation import Incarnation, Job
from watchbill.worker.state import WorkerState

_ASKING_SECONDS: Final = 0.02
"""Seconds after the last call by which an agent delegates, within which it may delegate more beside it."""
_TOLD_MAX: Final = 300
"""Characters of what is delegated that the feeds tell."""


class AgentLine:
    """The line of one attempt (agents.asking.Line)."""

    __slots__ = ("_asking", "_awaited", "_incarnation", "_is_ending", "_job", "_parking", "_queue", "_state")

    def __init__(self, state: WorkerState, queue: Queue, incarnation: Incarnation, job: Job) -> None:
        self._state = state
        self._queue = queue
        self._incarnation = incarnation
        self._job = job
        self._asking = 0
        """Calls of `delegate` that are under way."""
        self._awaited: dict[str, None] = {}
        """Steps that work for this one and have not ended, in the order in which they were asked for."""
        self._is_ending = False
        """The attempt ends as soon as nothing more is asked."""
        self._parking: Timer | None = None

    async def __call__(self, told: Telling) -> None:
        incarnation, job = self._incarnation, self._job
        if job.telling is None:
            job.telling = asyncio.Lock()
        async with job.telling:  # in order: the store takes a smaller number than the last for a repeat
            if incarnation.jobs.get(job.task.id) is not job:
                return  # a thread that outlived its task, or even its incarnation: nobody would close what it opened
            if job.task.id in incarnation.unannounced:  # the feed has the beginning before all that is told
                announce = partial(self._queue.finish, incarnation.name, [], announced=[job.task])
                if await self._state.persist_for_agent(announce, None) is None:
                    return  # the feeds are lost, too
                incarnation.unannounced.pop(job.task.id, None)
            job.told += 1
            number, scope = job.told, told.scope and redact(told.scope)[: results.MESSAGE_MAX]
            clean = replace(told, message=redact(told.message)[: results.MESSAGE_MAX], scope=scope)
            say = partial(self._queue.say, incarnation.name, job.task, clean, number)
            await self._state.persist_for_agent(say, False)

    async def approved(self, what: str) -> Approval | None:
        queue, task_id, what = self._queue, self._job.task.id, redact(what)
        known = await self._state.persist(lambda: approvals.read(queue.client, queue.keys, task_id))
        if (found := granted(known, what, self._state.store_time())) is not None:
            return found
        if len(known) >= MOST and what not in {one.what for one in known}:
            fix = "Ask for one approval of several things together."
            raise InvalidInput(Problem(f"a task may ask for {MOST} approvals, and has", fix, path="what"))
        return None

    async def wait_for_approval(self, asked: Mapping[str, str]) -> NoReturn:
        if (attempt := self._attempt) is not None:
            clean = {redact(what): redact(details) for what, details in asked.items()}
            seconds = attempt.role.crew.approval_timeout_seconds
            attempt.park(Waiting("approval", packed.pack_asked(clean), requests(clean), seconds))
        raise Waits

    async def delegate(self, work: Delegated, *, ends: Ends) -> TaskResult:
        if self._parking is not None:  # others are asked at the same time
            self._parking.cancel()
        self._asking += 1
        try:
            result = await self._result_of(work)
            if result is not None:
                return result
            self._is_ending = self._is_ending or ends != "later"
            if ends == "at once":
                self._park()
            raise Waits
        finally:
            self._asking -= 1
            if self._is_ending:
                self._park_soon()

    async def _result_of(self, work: Delegated) -> TaskResult | None:
        """Returns the result of the step, which is begun unless it is there; None: it has not ended."""
        queue, incarnation, task = self._queue, self._incarnation.name, self._job.task
        message = redact(work.asked.prompt)[:_TOLD_MAX]
        found = await self._state.persist(lambda: delegations.delegate(queue, incarnation, task, work, message))
        if found is None:  # it is being stopped
            raise Waits
        asked, result = found
        if asked != work.asked.pack():
            reason = f"step {work.name} was asked something else before: an agent that begins anew must delegate the "
            raise DelegationFailed(f"{reason}same work in the same order")
        if result is None:
            self._awaited[work.name] = None
        else:
            self._awaited.pop(work.name, None)
        return result

    def _park_soon(self) -> None:
        """Ends the attempt when nothing more is asked, if it waits for something."""
        if self._parking is not None:
            self._parking.cancel()
        if self._awaited and not self._asking:
            self._parking = self._state.clock.call_later(_ASKING_SECONDS, self._park)

    def _park(self) -> None:
        if (attempt := self._attempt) is not None:
            message = f"waits for {', '.join(self._awaited)}"
            seconds = attempt.role.crew.tasks.result_ttl_seconds
            attempt.park(Waiting("members", packed.pack_ids([*self._awaited]), message, seconds))

    @property
    def _attempt(self) -> Attempt | None:
        """The attempt; None: it has ended."""
        return self._job.attempt if isinstance(self._job.attempt, Attempt) else None
