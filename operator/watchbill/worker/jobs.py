"""Sets claimed tasks to work, and hears of their ends. Knows nothing of slots, leases and claims."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

from watchbill.agents.context import spoken
from watchbill.connection.outages import Persist
from watchbill.errors import AgentNotLoadable, CrewGone, Fenced, NewerRecord, NotFound
from watchbill.loggers import Logger
from watchbill.redaction import redact
from watchbill.store.queue import Claimed, Finished, Queue, Wish
from watchbill.worker.counts import Counts
from watchbill.worker.execution import results
from watchbill.worker.execution.executor import Executor
from watchbill.worker.incarnation import Incarnation, Job

logger = Logger("watchbill.worker")

BRIEF_SECONDS: Final = 0.005
"""While tasks take less than this on average, a batch is held beside those that run; and for no longer than this."""

STOP_SECONDS: Final = 5.0
"""How long an agent that is cancelled or interrupted may take to clean up; then nobody waits for it any more."""


class Jobs:
    """What runs of a worker's lives."""

    def __init__(
        self,
        queue: Queue,
        executor: Executor,
        counts: Counts,
        persist: Persist,
        *,
        on_change: Callable[[], None],
        on_over: Callable[[Incarnation], None],
        on_lost: Callable[[str, Exception], None],
    ) -> None:
        """`on_change` is called when one runs no more, `on_over` when one has come to a result, `on_lost` with the
        incarnation that is no more."""
        self._queue = queue
        self._executor = executor
        self._counts = counts
        self._persist = persist
        self._on_change = on_change
        self._on_over = on_over
        self._on_lost = on_lost
        self._mean = 2 * BRIEF_SECONDS
        """Seconds that a task takes, on average; the last ones count most."""
        self.fresh = False
        """Tasks were begun, and have not had a turn of the event loop yet."""

    @property
    def are_brief(self) -> bool:
        """Whether tasks take so little time that more should be at hand."""
        return self._mean < BRIEF_SECONDS

    def take_long(self) -> None:
        """They do, whatever those before took."""
        self._mean = 10 * BRIEF_SECONDS

    def begin(self, me: Incarnation, task: Claimed) -> None:
        """Sets its agent to work, once what that needs to know is read."""
        now = time.monotonic()
        job = me.jobs[task.id] = Job(task, now, me.claimed.pop(task.id, now))
        self._counts.claimed(task)
        self.fresh = True
        if self._executor.must_read(task):
            job.reading = asyncio.create_task(self._read(me, job))
        else:
            self._run(me, job)

    async def _read(self, me: Incarnation, job: Job) -> None:
        """What the task needs to know; then begins it."""
        try:
            inputs, outputs = await self._executor.read(job.task)
        except (AgentNotLoadable, NewerRecord) as error:
            self._park_later(me, job, error)
        except NotFound as error:
            self._over(me, job, self._executor.failed(job.task, error))
        except (Fenced, CrewGone) as error:
            self.gone(me, job)
            self._on_lost(me.name, error)
        except (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # our own fault, or of what was loaded: still the task's end, and told in full
            logger.exception("task %s could not be run", job.task.id)
            self._over(me, job, self._executor.broken(job.task, error))
        else:
            self._run(me, job, inputs, outputs)

    def _run(self, me: Incarnation, job: Job, *read: Mapping[str, Any]) -> None:
        try:
            job.attempt = self._executor.begin(
                job.task, partial(self._emit, me, job), partial(self._over, me, job), *read
            )
            if job.reading is not None or job.claimed != job.begun:
                self._counts.begin_delay(time.monotonic() - job.claimed)
        except AgentNotLoadable as error:
            self._park_later(me, job, error)
        except (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # likewise
            logger.exception("task %s could not be run", job.task.id)
            self._over(me, job, self._executor.broken(job.task, error))

    async def _emit(self, me: Incarnation, job: Job, message: str) -> None:
        if me.jobs.get(job.task.id) is not job:
            return  # a thread that outlived its task, or even us: nobody would close what it opened
        if job.task.id in me.unannounced:  # that it began is told before what it says
            await self._persist(lambda: self._queue.finish(me.name, [], announced=[job.task]))
            me.unannounced.pop(job.task.id, None)
        job.emitted += 1
        number, text = job.emitted, redact(spoken(message))[: results.MESSAGE_MAX]
        await self._persist(lambda: self._queue.say(me.name, job.task, text, number))

    def _over(self, me: Incarnation, job: Job, finished: Finished) -> None:
        self._mean += (time.monotonic() - job.begun - self._mean) / 8
        me.finished.append(finished)
        self.gone(me, job)
        self._on_over(me)

    def _park_later(self, me: Incarnation, job: Job, error: AgentNotLoadable | NewerRecord) -> None:
        me.unloadable.append((job.task, results.unloadable(job.task, error)))
        self.gone(me, job)

    def stop(self, me: Incarnation, wishes: Mapping[str, Wish]) -> None:
        """Somebody wants these tasks to stop; whatever else there is among them is nothing of ours."""
        for task_id, wish in wishes.items():
            job = me.jobs.get(task_id)
            if job is None:
                me.unhold(task_id, wish)
            elif job.wish is None or (wish == "cancel" and job.wish == "interrupt"):
                job.wish = wish
                logger.info("task %s is to be stopped: somebody wants to %s it", task_id, wish)
                if job.attempt is not None:
                    job.attempt.stop(results.STOPPED[wish], STOP_SECONDS)
                else:
                    job.cancel()
                    me.unwanted.append(replace(job.task, wish=wish))
                    self.gone(me, job)
        self._on_change()

    def gone(self, me: Incarnation, job: Job) -> None:
        """It is over, or no longer ours."""
        me.jobs.pop(job.task.id, None)
        me.unannounced.pop(job.task.id, None)
        job.attempt = None  # whose context knows the job: a circle would keep both until Python looks for such
        self._on_change()

    def drop(self, me: Incarnation) -> None:
        """Stops all that runs; its ends are nobody's concern any more."""
        for job in list(me.jobs.values()):
            job.cancel()
            self.gone(me, job)
