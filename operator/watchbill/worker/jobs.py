"""Sets claimed tasks to work, and takes their ends. Knows nothing of leases and claims."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Final

from watchbill.connection import outages
from watchbill.errors import AgentNotLoadable, CrewGone, Fenced, NewerRecord, NotFound
from watchbill.loggers import Logger
from watchbill.store import definitions
from watchbill.store.queue import Claimed, Finished, Queue, Wish, crew_gone
from watchbill.worker.agent_line import AgentLine
from watchbill.worker.checkpoints import JobCheckpoints
from watchbill.worker.counts import Counts
from watchbill.worker.execution import results
from watchbill.worker.execution.protocols import Executes
from watchbill.worker.execution.reading import NOTHING, Read
from watchbill.worker.incarnation import Incarnation, Job
from watchbill.worker.reports import Reports
from watchbill.worker.slots import Slots
from watchbill.worker.state import WorkerState

logger = Logger("watchbill.worker")

BRIEF_SECONDS: Final = 0.005
"""While tasks take less than this on average, a batch is held beside those that run; and for no longer than this."""

ALONE_SECONDS: Final = 0.01
"""While agents take less than this on average, a worker goes on with a run's steps by itself: to share them would cost
more than it brings."""

STOP_SECONDS: Final = 5.0
"""Seconds that an agent that is cancelled or interrupted may take to clean up; then nobody waits for it any more."""

WORTH_A_CALL: Final = 5
"""This many results, if they are at least half of the slots', get a call of their own while another is on its way."""


class Jobs:
    """The tasks that run, of all incarnations of one worker."""

    def __init__(
        self, state: WorkerState, queue: Queue, executor: Executes, slots: Slots, counts: Counts, reports: Reports
    ) -> None:
        self._state = state
        self._now = state.clock.monotonic
        self._queue = queue
        self._executor = executor
        self._slots = slots
        self._counts = counts
        self._reports = reports
        self._mean = 2 * BRIEF_SECONDS
        """Seconds that a task has its slot, on average; the last ones count most."""
        self._mean_run = 2 * BRIEF_SECONDS
        """Seconds from when all that it needs is read to its end, likewise."""
        self.fresh = False
        """Tasks were begun, and have not had a turn of the event loop yet."""

    @property
    def are_brief(self) -> bool:
        """True if tasks take so little time that more should be at hand."""
        return self._mean < BRIEF_SECONDS

    @property
    def go_on_alone(self) -> bool:
        """True if agents take so little time that it doesn't matter which worker has them. What their tasks need any
        worker has to read."""
        return self._mean_run < ALONE_SECONDS

    def assume_long(self) -> None:
        """Takes tasks for long ones, however brief the last ones were."""
        self._mean = self._mean_run = 10 * BRIEF_SECONDS

    def begin(self, incarnation: Incarnation, task: Claimed) -> None:
        """Sets the task's agent to work, once what it needs is read from the store."""
        now = self._now()
        job = incarnation.jobs[task.id] = Job(task, now, incarnation.claimed.pop(task.id, now))
        self._counts.claimed(task)
        self.fresh = True
        if (known := self._executor.at_hand(task)) is None:
            job.reading = asyncio.create_task(self._read(incarnation, job))
        else:
            self._run(incarnation, job, known)

    async def _read(self, incarnation: Incarnation, job: Job) -> None:
        """Reads what the task needs, then runs it."""
        try:
            read = await self._executor.read(job.task)
        except (AgentNotLoadable, NewerRecord) as error:
            self._set_aside(incarnation, job, error)
        except NotFound as error:
            if await self._is_lost(incarnation):
                self._remove(incarnation, job)
                self._state.end_incarnation(incarnation.name, crew_gone(self._queue.keys))
            else:
                self._end(incarnation, job, self._executor.failed(job.task, error))
        except (Fenced, CrewGone) as error:
            self._remove(incarnation, job)
            self._state.end_incarnation(incarnation.name, error)
        except (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # our own fault, or of what was loaded: still the task's end
            logger.exception("task %s could not be run", job.task.id)
            self._end(incarnation, job, self._executor.broken(job.task, error))
        else:
            job.read = self._now()
            self._run(incarnation, job, read)
            self.fresh = True
            # Not before the agents of all that was read together have had their turn: their ends go in one call.
            asyncio.get_running_loop().call_soon(self._state.wake.set)

    async def _is_lost(self, incarnation: Incarnation) -> bool:
        """Returns whether the store has lost the crew since this incarnation began. A task that had not begun is lost
        with it, and has not failed."""
        queue = self._queue
        return await outages.persist(lambda: definitions.born(queue.client, queue.keys)) != incarnation.born

    def _run(self, incarnation: Incarnation, job: Job, read: Read = NOTHING) -> None:
        try:
            line, end = AgentLine(self._state, self._queue, incarnation, job), partial(self._end, incarnation, job)
            connect = partial(JobCheckpoints, self._state, self._queue, incarnation, job)
            job.attempt = self._executor.begin(job.task, line, end, read, connect_checkpoints=connect)
            if job.reading is not None or job.claimed != job.begun:
                self._counts.begin_delay(self._now() - job.claimed)
        except AgentNotLoadable as error:
            self._set_aside(incarnation, job, error)
        except (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # likewise
            logger.exception("task %s could not be run", job.task.id)
            self._end(incarnation, job, self._executor.broken(job.task, error))

    def _end(self, incarnation: Incarnation, job: Job, finished: Finished, ran_seconds: float | None = None) -> None:
        now = self._now()
        self._mean += (now - job.begun - self._mean) / 8
        self._mean_run += (now - max(job.begun, job.read) - self._mean_run) / 8
        if ran_seconds is not None:
            self._counts.ran(finished.task.agent, ran_seconds)
        incarnation.finished.append(finished)
        self._remove(incarnation, job)
        if incarnation.sent and len(incarnation.finished) >= max(WORTH_A_CALL, self._slots.capacity / 2):
            self._reports.send_beside(incarnation)

    def _set_aside(self, incarnation: Incarnation, job: Job, error: AgentNotLoadable | NewerRecord) -> None:
        incarnation.unloadable.append((job.task, error))
        self._remove(incarnation, job)

    def stop(self, incarnation: Incarnation, wishes: Mapping[str, Wish]) -> None:
        """Stops the tasks that somebody wants to stop. Ignores ids that are not this incarnation's."""
        for task_id, wish in wishes.items():
            job = incarnation.jobs.get(task_id)
            if job is None:
                incarnation.unhold(task_id, wish)
            elif job.wish is None or (wish == "cancel" and job.wish == "interrupt"):
                job.wish = wish
                logger.info("task %s is to be stopped: somebody wants to %s it", task_id, wish)
                if job.attempt is not None:
                    job.attempt.stop(results.STOPPED[wish], STOP_SECONDS)
                else:
                    job.cancel()
                    incarnation.unwanted.append(replace(job.task, wish=wish))
                    self._remove(incarnation, job)
        self._state.wake.set()

    def drop(self, incarnation: Incarnation) -> None:
        """Stops all tasks of an incarnation, and forgets them: their ends are not reported."""
        for job in list(incarnation.jobs.values()):
            job.cancel()
            self._remove(incarnation, job)

    def _remove(self, incarnation: Incarnation, job: Job) -> None:
        incarnation.jobs.pop(job.task.id, None)
        incarnation.unannounced.pop(job.task.id, None)
        job.attempt = None  # whose context knows the job: a circle would keep both until Python looks for such
        self._state.wake.set()
