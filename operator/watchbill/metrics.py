"""Every Prometheus metric, declared once. Labels stay bounded: crews, agents, outcomes; never ids.

Process-wide (prometheus_client's default registry), because a process exposes one page.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram, Info

from watchbill import __version__

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)

BUILD: Final = Info("watchbill_build", "Version of this process")
BUILD.info({"version": __version__})

QUEUE_DEPTH: Final = Gauge("watchbill_queue_depth", "Tasks by where they stand", ["crew", "state"])
"""state: waiting, running, parked, delayed, dead."""
QUEUE_OLDEST: Final = Gauge(
    "watchbill_queue_oldest_seconds", "Age of the entry that has waited longest; 0 when none waits", ["crew"]
)
WORKERS: Final = Gauge("watchbill_workers", "Worker incarnations with a live lease", ["crew"])

TASKS: Final = Counter("watchbill_tasks", "Tasks ended by this process", ["crew", "agent", "outcome"])
"""outcome: completed, failed, dead, retry (an attempt that another follows), stale (ended here, but no longer ours:
nothing was stored)."""
TASKS_RUNNING: Final = Gauge("watchbill_worker_tasks_running", "Tasks running in this process", ["crew"])
TASK_WAIT: Final = Histogram("watchbill_task_wait_seconds", "From the stream to a worker", ["crew"], buckets=_SECONDS)
TASK_RUN: Final = Histogram("watchbill_task_run_seconds", "Run time of an agent", ["crew", "agent"], buckets=_SECONDS)
TOKENS: Final = Counter("watchbill_tokens", "Tokens charged by models", ["crew", "agent", "kind"])
"""kind: input, output."""
TAKEOVERS: Final = Counter(
    "watchbill_takeovers", "Tasks taken over from workers that were dead, or that handed them back", ["crew"]
)
FENCED: Final = Counter("watchbill_worker_fenced", "Times this process was taken for dead", ["crew"])
LOOP_BLOCKED: Final = Counter(
    "watchbill_worker_loop_blocked", "Times an agent blocked the event loop for seconds", ["crew"]
)

HEARTBEATS_FIRED: Final = Counter("watchbill_heartbeats_fired", "Slots fired by this process", ["crew", "heartbeat"])
HEARTBEATS_MISSED: Final = Counter(
    "watchbill_heartbeats_missed", "Slots skipped because nobody was there", ["crew", "heartbeat"]
)

# ---------------------------------------------------------------- the operator: of the whole process, none by crew

RECONCILES: Final = Counter("watchbill_operator_reconciles", "Looks at a crew", ["result"])
"""result: ok, again (something is expected to change by itself), failed (tried again with growing pauses)."""
RECONCILE_SECONDS: Final = Histogram("watchbill_operator_reconcile_seconds", "Time of one look", buckets=_SECONDS)
WORKQUEUE_DEPTH: Final = Gauge("watchbill_operator_workqueue_depth", "Crews that wait for a look")
SCALE_DECISIONS: Final = Counter("watchbill_operator_scale_decisions", "Changes of a crew's worker count", ["reason"])
"""reason: as in plan/replicas.py: scale-up, idle, bounds, external."""
STATUS_WRITES: Final = Counter("watchbill_operator_status_writes", "Statuses written to the API server", ["kind"])
"""kind: crews, heartbeats."""
STORE_UP: Final = Gauge("watchbill_operator_store_up", "1 while the store answers the operator, 0 while it doesn't")
WATCH_RESTARTS: Final = Counter("watchbill_operator_watch_restarts", "Times the watch of the API server ended")
