"""Every Prometheus metric, declared once. Labels stay bounded: crews, agents, outcomes; never ids.

A crew is named by two labels, `namespace` and `crew`, as in kubectl.

Process-wide (prometheus_client's default registry), because a process exposes one page (page.py). docs/metrics.md
explains them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from prometheus_client import Counter, Gauge, Histogram, Info, disable_created_metrics

from watchbill import __version__
from watchbill.metrics.budgets import BudgetFigures
from watchbill.metrics.labels import OF_CREW, Names, of_crew
from watchbill.metrics.queues import SHOWN_IDLE_SECONDS, Queues
from watchbill.metrics.times import Times

__all__ = ["OF_CREW", "SHOWN_IDLE_SECONDS", "Names", "Queues", "Times", "of_crew"]

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
_BRIEF_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)

_WAIT_SECONDS: Final = (0.001, 0.01, 0.05, 0.1, 0.5, 1, 5, 30, 60, 300)
_LONG_SECONDS: Final = (1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400)

BUILD: Final = Info("watchbill_build", "Version of Watchbill that this process runs")
BUILD.info({"version": __version__})

# ---------------------------------------------------------------- queues, as the store has them

QUEUES: Final = Queues()
"""Beside prometheus_client's registry: metrics/page.py puts them together."""

BUDGET_USED: Final = Gauge(
    "watchbill_budget_used_ratio",
    "Tokens or money, whichever part is greater, that a budget has spent in its window, as a part of it",
    [*OF_CREW, "budget"],
)
BUDGET_EXHAUSTED: Final = Gauge(
    "watchbill_budget_exhausted",
    "1 while a budget had no room for the last request to a model, else 0",
    [*OF_CREW, "budget"],
)
"""Both tell of the agent or heartbeat that has spent most, where each has the budget by itself."""
BUDGETS: Final = BudgetFigures(BUDGET_USED, BUDGET_EXHAUSTED)
"""Shown by the replica of the operator that leads."""

# ---------------------------------------------------------------- what a worker process does

TASKS_CLAIMED: Final = Counter("watchbill_tasks_claimed", "Attempts begun by this process", [*OF_CREW, "priority"])
TASKS: Final = Counter("watchbill_tasks", "Attempts ended by this process", [*OF_CREW, "agent", "outcome"])
"""outcome: completed, failed, dead, retry (another attempt follows), postponed (a request to a model has to wait: not
counted), cancelled, interrupted, skipped (a step whose condition did not hold), approval (the task waits for
somebody's), members (it waits for those it delegated to), stale (another worker had taken the task over: nothing was
stored)."""
TASKS_RUNNING: Final = Gauge("watchbill_worker_tasks_running", "Tasks that run in this process", OF_CREW)
AGENTS: Final = Names()
"""The agents of each crew that this process names in its metrics."""

STEPS: Final = Counter("watchbill_steps", "Steps of runs ended by this process", [*OF_CREW, "outcome"])
"""outcome: completed, failed, dead, cancelled."""
RUN_TIME: Final = Times(
    "watchbill_run_seconds",
    "Time from the submission of a run to its end, of runs whose last step this process ended",
    [*OF_CREW, "outcome"],
    buckets=_LONG_SECONDS,
)
"""outcome: completed, partial, failed, cancelled."""

DELIVERIES: Final = Counter(
    "watchbill_deliveries", "Attempts of this process to deliver a result", [*OF_CREW, "channel", "outcome"]
)
"""outcome: delivered, retry (another attempt follows), put off (not tried: the destination fails), dead. channel: none
where a delivery died because its crew has no such destination any more."""

TASK_WAIT: Final = Times(
    "watchbill_task_wait_seconds",
    "Time that a task waits for its first worker, by the store's clock",
    OF_CREW,
    buckets=_SECONDS,
)
TASK_BEGIN_DELAY: Final = Times(
    "watchbill_task_begin_delay_seconds",
    "Time from claim to begin of a task that could not begin with its claim",
    OF_CREW,
    buckets=_BRIEF_SECONDS,
)
TASK_RUN: Final = Times(
    "watchbill_task_run_seconds", "Time that an agent runs for one attempt", [*OF_CREW, "agent"], buckets=_SECONDS
)
TOKENS: Final = Counter("watchbill_tokens", "Tokens that models charged", [*OF_CREW, "agent", "kind"])
"""kind: input, output."""

MODEL_REQUESTS: Final = Counter(
    "watchbill_model_requests", "Requests to models of LLMAgent", [*OF_CREW, "provider", "model", "outcome"]
)
"""outcome: completed, or the way in which it failed (agents/model_requests.py)."""
MODEL_TOKENS: Final = Counter(
    "watchbill_model_tokens", "Tokens of LLMAgent's requests to models", [*OF_CREW, "provider", "model", "kind"]
)
"""kind: input, output."""
MODEL_COST: Final = Counter(
    "watchbill_model_cost_usd",
    "Requests to models of LLMAgent, by their cost in US dollars, where the price is known",
    [*OF_CREW, "provider", "model"],
)
MODEL_TIME: Final = Histogram(
    "watchbill_model_request_seconds",
    "Time from a request to a model to its whole answer",
    [*OF_CREW, "provider", "model"],
    buckets=_SECONDS,
)
MODEL_FIRST_TIME: Final = Histogram(
    "watchbill_model_first_token_seconds",
    "Time from a request to a model to the first part of its answer, of answers that are streamed",
    [*OF_CREW, "provider", "model"],
    buckets=_SECONDS,
)
WATCH_EVENTS: Final = Counter(
    "watchbill_watch_events",
    "Times that this process has dealt with an event that a watch of the crew is for",
    [*OF_CREW, "watch", "outcome"],
)
"""outcome: begun, refused, waits."""
WATCH_GAPS: Final = Counter(
    "watchbill_watch_gaps",
    "Times that events had left the crew's feed before its watches had read them",
    OF_CREW,
)
CHECKPOINTS: Final = Counter(
    "watchbill_checkpoints",
    "Steps within tasks whose result this process has stored, or found stored by an earlier attempt",
    [*OF_CREW, "outcome"],
)
"""outcome: stored, replayed."""
TOOL_SERVER_UP: Final = Gauge(
    "watchbill_tool_server_up", "1 while this process has a connection to a tool server, else 0", [*OF_CREW, "server"]
)
MODELS: Final = Names()
"""The models of each crew that this process names in its metrics."""

TAKEOVERS: Final = Counter(
    "watchbill_takeovers", "Tasks taken over from workers that died or handed them back", OF_CREW
)
FENCED: Final = Counter(
    "watchbill_worker_fenced", "Times that this process was fenced because its lease had ended", OF_CREW
)
RENEWALS_LATE: Final = Counter(
    "watchbill_lease_renewals_late", "Lease renewals that came more than half a lease after the one before", OF_CREW
)
LOOP_BLOCKED: Final = Counter(
    "watchbill_worker_loop_blocked", "Times that an agent blocked the event loop for seconds", [*OF_CREW, "agent"]
)
"""agent: empty when it is unknown, for example when an asyncio task that the agent started blocks the loop."""
ABANDONED: Final = Gauge(
    "watchbill_worker_abandoned", "Agents that still run although they were asked to stop; each holds a slot", OF_CREW
)

BACKGROUND_RESTARTS: Final = Counter(
    "watchbill_background_restarts", "Times that a background task of this process failed and was restarted", ["task"]
)

HEARTBEATS_FIRED: Final = Counter(
    "watchbill_heartbeats_fired", "Heartbeat slots that this process fired", [*OF_CREW, "heartbeat"]
)
HEARTBEATS_MISSED: Final = Counter(
    "watchbill_heartbeats_missed",
    "Heartbeat slots skipped because no scheduler ran, the queue was full or the last work had not ended",
    [*OF_CREW, "heartbeat"],
)

HEARTBEAT_LATENESS: Final = Histogram(
    "watchbill_heartbeat_lateness_seconds",
    "Time from a heartbeat's slot to the moment in which this process fired it",
    buckets=_WAIT_SECONDS,
)

# ---------------------------------------------------------------- the operator: of the whole process, none by crew

OF_OPERATOR: Final = "watchbill_operator_"
"""The beginning of their names. No other process exports them (page.py)."""
LEADER: Final = Gauge("watchbill_operator_leader", "1 while this replica of the operator leads, else 0")
RECONCILE_ERRORS: Final = Counter(
    "watchbill_operator_reconcile_errors", "Reconciliations of a crew that met an error, by reason", ["reason"]
)
"""reason: as in controller/faults.py."""
RECONCILES: Final = Counter("watchbill_operator_reconciles", "Reconciliations of a crew", ["result"])
"""result: ok, again (something is expected to change by itself), failed (tried again with growing pauses)."""
RECONCILE_SECONDS: Final = Histogram(
    "watchbill_operator_reconcile_seconds", "Duration of a reconciliation", buckets=_SECONDS
)
WORKQUEUE_DEPTH: Final = Gauge("watchbill_operator_workqueue_depth", "Crews that wait to be reconciled")
WORKQUEUE_WAIT: Final = Histogram(
    "watchbill_operator_workqueue_wait_seconds",
    "Time that a crew waits in a lane of the work queue to be reconciled",
    ["lane"],
    buckets=_WAIT_SECONDS,
)
"""lane: change, routine, resync."""
WORKQUEUE_OLDEST: Final = Gauge(
    "watchbill_operator_workqueue_oldest_seconds", "Age of the longest wait in the work queue"
)
WORKQUEUE_RETRIES: Final = Counter(
    "watchbill_operator_workqueue_retries", "Times that a crew was put on the work queue again after a failure"
)
SCALE_DECISIONS: Final = Counter("watchbill_operator_scale_decisions", "Changes of a crew's worker count", ["reason"])
"""reason: as in plan/replicas.py: scale-up, scale-down, idle, bounds, external, suspended, quota."""
DRAIN_TIME: Final = Histogram(
    "watchbill_operator_drain_seconds",
    "Time from the drain of a worker that is to leave until it has ended all that it ran",
    buckets=_LONG_SECONDS,
)
STATUS_WRITES: Final = Counter("watchbill_operator_status_writes", "Statuses written to the API server", ["kind"])
"""kind: crews, heartbeats."""
QUOTA: Final = Gauge(
    "watchbill_operator_quota",
    "Crews, workers and queued tasks of a namespace that has a quota: its bound, what is used, what is wanted",
    ["namespace", "resource", "type"],
)
"""resource: crews, workers, queued. type: hard (the bound), used (by crews that have room, with the workers that the
quota leaves them), wanted (by all crews)."""
STORE_UP: Final = Gauge("watchbill_operator_store_up", "1 while the store answers the operator, else 0")
STORE_EVICTS: Final = Gauge(
    "watchbill_operator_store_evicts", "1 while the store's maxmemory-policy allows it to delete work, else 0"
)
STORE_MEMORY: Final = Gauge(
    "watchbill_operator_store_memory_ratio",
    "Memory that the fullest server of the store uses, as a part of its maxmemory; 0 where it has none",
)
STALLED: Final = Gauge(
    "watchbill_operator_stalled", "Crews and heartbeats that only go on when somebody changes something", ["kind"]
)
"""kind: crews, heartbeats. Each has the condition Stalled."""
API_REQUESTS: Final = Counter(
    "watchbill_operator_api_requests", "Requests to the API server, without those of the watch", ["verb", "code"]
)
"""verb: get, list, create, patch, update, delete. code: the HTTP status; none where no answer came."""
API_TIME: Final = Histogram(
    "watchbill_operator_api_request_seconds",
    "Time of a request to the API server that was answered",
    ["verb"],
    buckets=_BRIEF_SECONDS,
)
API_SERVER_BUSY: Final = Counter(
    "watchbill_operator_api_server_busy", "Times that the API server asked for a pause (429 or 503)"
)
WATCH_RESTARTS: Final = Counter("watchbill_operator_watch_restarts", "Times that a watch of the API server ended")
WATCH_EVENT: Final = Gauge(
    "watchbill_operator_watch_event_timestamp_seconds", "Time of the last event of the watch, since 1970", ["kind"]
)
"""kind: crews, heartbeats, deployments."""

_VERBS: Final = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


def count_api_request(method: str, query: Mapping[str, str] | None, status: int = 0, seconds: float = 0.0) -> None:
    """Counts a request to the API server. `status`: 0 where no answer came. `seconds`: until the answer."""
    verb = "list" if query and "limit" in query else _VERBS[method]
    API_REQUESTS.labels(verb, status or "none").inc()
    if status:
        API_TIME.labels(verb).observe(seconds)


def leave_out_created() -> None:
    """Has this process export no `_created` series. Watchbill's own processes call it; other programs that it is a part
    of decide for themselves."""
    disable_created_metrics()  # type: ignore[no-untyped-call]
