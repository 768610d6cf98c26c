"""The lease keeper: a thread that keeps one incarnation alive, and watches whether its event loop still turns.

A thread, because an agent that blocks the loop (a CPU-bound one, or blocking I/O in an `async def`) must not
make the worker look dead: its work would be run twice. A loop that is stuck for good must: past
`stuck_seconds` the keeper renews no longer.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

from watchbill import metrics
from watchbill.connection import Store
from watchbill.errors import CrewGone, Fenced, StoreUnavailable
from watchbill.loggers import Logger
from watchbill.store.queue import Queue, Renewed
from watchbill.worker.execution import attempt
from watchbill.worker.execution.shared_lease import SharedLease
from watchbill.worker.probes import Known
from watchbill.worker.state import WorkerState

logger = Logger("watchbill.worker")

T = TypeVar("T")

BLOCKED_SECONDS: Final = 5.0
"""An event loop that hasn't turned for this long is logged, with the line where it stands and the agent."""
STUCK_SECONDS: Final = 600.0
"""An event loop that stood still for this long is given up: its lease ends, and others take its tasks over."""
POLL_SECONDS: Final = 0.25
"""Seconds between two checks of the thread. Each takes the interpreter from the event loop for a moment."""
_END_POLL_SECONDS: Final = 0.005
_END_POLLS: Final = 400


class LeaseKeeper:
    """Renews the lease every third of it, in a thread of its own. What comes of it happens on the event loop: the
    answer goes to `on_renewed`, and the end of the incarnation to the worker's state."""

    def __init__(
        self,
        store: Store,
        queue: Queue,
        state: WorkerState,
        *,
        lease: SharedLease,
        lease_ms: int,
        describe: Callable[[], str],
        on_renewed: Callable[[str, Renewed], None],
        poll_seconds: float = POLL_SECONDS,
        stuck_seconds: float = STUCK_SECONDS,
    ) -> None:
        """`describe` returns what the store shows of this worker; the thread calls it, and checks every
        `poll_seconds` whether there is something to do."""
        self._client = store.connect_sync()
        self._queue = queue
        self._state = state
        self._now = state.clock.monotonic
        self._lease = lease
        self.lease_ms = lease_ms
        self._poll_seconds = poll_seconds
        self._stuck_seconds = stuck_seconds
        self._describe = describe
        self._on_renewed = on_renewed
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._incarnation: str | None = None
        self._changing = threading.Lock()
        self._stop = threading.Event()
        self._renewed_at = self._turned_at = self._now()
        self._take_over_from = 0.0
        self._due = 0.0
        self._told: Known | None = None
        """The readiness that the last renewal told."""
        self._watched_at = self._now()
        self._seen_turn = 0.0
        self._blocked = 0.0
        self._thread = threading.Thread(target=self._keep, name="watchbill-lease", daemon=True)

    def start(self) -> None:
        self._lease.begin(self.lease_ms / 1000)
        self._tick()
        self._thread.start()

    def guard(self, incarnation: str) -> None:
        """Keeps this incarnation alive from now on. It must have claimed once."""
        with self._changing:
            self._renewed_at = self._now()
            self._lease.extend(self._renewed_at + self.lease_ms / 1000)
            self._incarnation = incarnation
            self._due = 0.0  # soon: a renewal also tells what `watchbill workers` shows

    async def stop(self) -> None:
        self._incarnation = None
        self._stop.set()
        # Polled, not awaited in the loop's thread pool: agents may have filled that with calls that never end. A number
        # of polls, not a time: while the machine gives this process none, the thread has none either.
        for _ in range(_END_POLLS):
            if not self._thread.is_alive():
                break
            await asyncio.sleep(_END_POLL_SECONDS)
        self._client.close()

    def wait_before_take_over(self, seconds: float) -> None:
        """Takes nothing over for that long: after an outage, other workers need time to renew."""
        self._take_over_from = max(self._take_over_from, self._now() + seconds)

    def store_answered(self) -> None:
        """Notes, on the event loop, that a claim was answered: an outage is over."""
        if self._state.cut_off:
            self._state.cut_off = False
            self.wait_before_take_over(self.lease_ms / 3000)

    @property
    def may_take_over(self) -> bool:
        """False during an outage of the store, and until other workers have had time to renew after it."""
        now = self._now()
        is_fresh = now - self._renewed_at < self.lease_ms / 1000 * 2 / 3
        return is_fresh and now >= self._take_over_from and not self._state.cut_off

    def _tick(self) -> None:
        self._turned_at = self._now()
        self._lease.tick()
        if not self._stop.is_set():
            self._state.clock.call_later(2 * self._poll_seconds, self._tick)

    def _keep(self) -> None:
        interval = self.lease_ms / 3000
        poll_seconds = min(self._poll_seconds, interval / 4)
        while not self._stop.wait(poll_seconds):
            self._watch()
            if not self._is_stuck:
                self._lease.tick()
            now, known = self._now(), self._state.known
            if (now < self._due and known == self._told) or self._incarnation is None:
                continue
            self._due, self._told = now + interval, known
            if not self._renew(self._incarnation, interval):
                self._due = now + poll_seconds

    def _renew(self, incarnation: str, interval: float) -> bool:
        if self._is_stuck:
            return False
        asked = self._now()
        try:
            renewed = self._queue.renew(self._client, incarnation, self.lease_ms, self._describe())
        except StoreUnavailable as error:
            logger.warning("can't renew the lease: %s", error)
            return False
        except (Fenced, CrewGone) as error:
            with self._changing:
                if self._incarnation == incarnation:  # else the loop learnt it first, and goes on as another
                    self._incarnation = None
            self._notify(self._state.end_incarnation, incarnation, error)
            return True
        except Exception:
            logger.exception("can't renew the lease")
            return False
        now = self._now()
        if now - self._renewed_at > interval * 1.5:
            metrics.RENEWALS_LATE.labels(*metrics.of_crew(self._queue.keys.crew)).inc()
        if now - self._renewed_at > interval * 2:
            self.wait_before_take_over(interval)
        self._renewed_at = now
        with self._changing:
            if self._incarnation == incarnation:
                self._lease.extend(asked + self.lease_ms / 1000)
        self._notify(self._on_renewed, incarnation, renewed)
        return True

    @property
    def _is_stuck(self) -> bool:
        return self._now() - self._turned_at > self._stuck_seconds

    def _notify(self, what: Callable[[str, T], None], incarnation: str, about: T) -> None:
        try:
            self._loop.call_soon_threadsafe(what, incarnation, about)
        except RuntimeError:  # the loop is closed: the worker has ended
            return

    def _watch(self) -> None:
        """Counts only time that this thread has seen pass, poll by poll: after a stop of the whole process (SIGSTOP, a
        frozen machine), and after a renewal that took long, nobody can say what the loop has done meanwhile."""
        now = self._now()
        passed, self._watched_at = now - self._watched_at, now
        if self._turned_at != self._seen_turn:
            self._seen_turn, self._blocked = self._turned_at, 0.0
            return
        before = self._blocked
        self._blocked += min(passed, 2 * self._poll_seconds)
        if before < BLOCKED_SECONDS <= self._blocked:
            self._blame()

    def _blame(self) -> None:
        with suppress(Exception):  # the lease is worth more: a stranger's module says what its lines are
            self._log_block()

    def _log_block(self) -> None:
        frame = sys._current_frames().get(self._loop_thread)
        found = attempt.on_stack(frame)
        agent = found.role.agent.agent_id if found else ""
        of_crew = metrics.of_crew(self._queue.keys.crew)
        metrics.LOOP_BLOCKED.labels(*of_crew, metrics.AGENTS.shown(of_crew, agent)).inc()
        logger.warning(
            "the event loop has been blocked for %.0f s%s. Make the agent's `run` a plain `def` (it then runs in a "
            'thread), ask for a process (runs_in = "process"), or await what it waits for. It stands at:\n%s',
            self._blocked,
            f" by agent {agent!r} with task {found.task.id}" if found else "",
            "".join(traceback.format_stack(frame)[-8:]) if frame else "",
        )
