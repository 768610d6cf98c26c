"""The boards Operator and Store: what all crews stand on."""

from __future__ import annotations

from typing import Final

from monitoring.panels import Board, Panel, Query, Row, Variable
from monitoring.queries import CREW, figure, mean, new, quantile, rate

_OPERATOR: Final = '{namespace=~"$namespace"}'
_FAILED: Final = new("watchbill_operator_reconcile_errors_total" + _OPERATOR, "5m", "reason")
"""Failures are rare: a rate does not see the first of a reason."""
_ITS_OWN: Final = "and on (instance) watchbill_operator_leader"
"""Figures of processes that export it: the operator's."""

OPERATOR: Final = Board(
    uid="watchbill-operator",
    title="Watchbill / Operator",
    about="The operator's replicas: who leads, what they do, and what holds them up.",
    variables=[
        Variable(
            "namespace", "Namespace of the operator", "label_values(watchbill_operator_leader, namespace)", many=True
        )
    ],
    rows=[
        Row(
            "Does it work?",
            [
                Panel(
                    "How many replicas lead?",
                    [Query(f"sum(watchbill_operator_leader{_OPERATOR})")],
                    unit="short",
                    kind="stat",
                    width=6,
                    about="One for each release; 0 for some seconds while another replica takes over.",
                    alerts=("WatchbillOperatorLeaderless",),
                ),
                Panel(
                    "How many crews wait to be reconciled?",
                    [Query(f"sum(watchbill_operator_workqueue_depth{_OPERATOR})")],
                    unit="short",
                    kind="stat",
                    width=6,
                    limits=(100, 1000),
                ),
                Panel(
                    "How many reconciliations fail?",
                    [Query(f"sum({_FAILED}) or vector(0)")],
                    unit="short",
                    kind="stat",
                    width=6,
                    about="Within five minutes.",
                    limits=(1, 10),
                    alerts=("WatchbillReconcilesFail",),
                ),
                Panel(
                    "How many crews and heartbeats are stalled?",
                    [Query(f"max by (kind) (watchbill_operator_stalled{_OPERATOR})", "{{kind}}")],
                    unit="short",
                    kind="stat",
                    width=6,
                    about="They go on only when somebody changes something: their condition Stalled says what.",
                    limits=(1,),
                    alerts=("WatchbillStalled",),
                ),
            ],
        ),
        Row(
            "What does it do?",
            [
                Panel(
                    "How do reconciliations end?",
                    [Query(rate("watchbill_operator_reconciles_total" + _OPERATOR, "result"), "{{result}}")],
                    unit="reqps",
                    about="again: something should change by itself. failed: tried again with growing pauses.",
                    alerts=("WatchbillReconcilesFail",),
                ),
                Panel(
                    "How long does a reconciliation take?",
                    [
                        *(
                            Query(quantile(q, "watchbill_operator_reconcile_seconds", "job", _OPERATOR), said)
                            for q, said in ((0.5, "median"), (0.99, "99%"))
                        ),
                        Query(mean("watchbill_operator_reconcile_seconds", "job", _OPERATOR), "mean"),
                    ],
                    unit="s",
                ),
                Panel(
                    "Why do reconciliations fail?",
                    [Query(_FAILED, "{{reason}}")],
                    unit="short",
                    about="Within five minutes.",
                    stacked=True,
                    alerts=("WatchbillReconcilesFail",),
                ),
                Panel(
                    "How long do crews wait to be reconciled?",
                    [
                        Query(
                            quantile(0.99, "watchbill_operator_workqueue_wait_seconds", "lane", _OPERATOR),
                            "99% {{lane}}",
                        ),
                        Query(f"max(watchbill_operator_workqueue_oldest_seconds{_OPERATOR})", "oldest"),
                    ],
                    unit="s",
                    about="change: of the crew, or new work. routine: of its objects. resync: none at all.",
                ),
                Panel(
                    "Who leads?",
                    [Query(f"watchbill_operator_leader{_OPERATOR}", "{{instance}}")],
                    unit="short",
                    stacked=True,
                    alerts=("WatchbillOperatorLeaderless",),
                ),
                Panel(
                    "Why are crews scaled?",
                    [Query(rate("watchbill_operator_scale_decisions_total" + _OPERATOR, "reason"), "{{reason}}")],
                    unit="reqps",
                    stacked=True,
                ),
                Panel(
                    "How many statuses are written?",
                    [Query(rate("watchbill_operator_status_writes_total" + _OPERATOR, "kind"), "{{kind}}")],
                    unit="reqps",
                    about="At most eighteen a second are figures.",
                ),
            ],
        ),
        Row(
            "What becomes of heartbeats and of workers that leave?",
            [
                Panel(
                    "How late do heartbeats fire?",
                    [
                        Query(quantile(q, "watchbill_heartbeat_lateness_seconds", "job"), said)
                        for q, said in ((0.5, "median"), (0.99, "99%"))
                    ],
                    unit="s",
                    alerts=("WatchbillHeartbeatsLate",),
                ),
                Panel(
                    "How many heartbeats fire, and how many are missed?",
                    [
                        Query("sum(rate(watchbill_heartbeats_fired_total[$__rate_interval]))", "fired"),
                        Query("sum(rate(watchbill_heartbeats_missed_total[$__rate_interval]))", "missed"),
                    ],
                    unit="reqps",
                    alerts=("WatchbillHeartbeatMissed",),
                ),
                Panel(
                    "How long do workers that leave take to end their tasks?",
                    [
                        Query(quantile(q, "watchbill_operator_drain_seconds", "job", _OPERATOR), said)
                        for q, said in ((0.5, "median"), (0.99, "99%"))
                    ],
                    unit="s",
                ),
            ],
        ),
        Row(
            "What holds it up?",
            [
                Panel(
                    "How does the API server answer?",
                    [
                        Query(
                            rate("watchbill_operator_api_requests_total" + _OPERATOR, "verb, code"), "{{verb}} {{code}}"
                        )
                    ],
                    unit="reqps",
                    stacked=True,
                    about="none: no answer came. Without the requests of the watch.",
                ),
                Panel(
                    "How long does the API server take?",
                    [
                        Query(
                            quantile(0.99, "watchbill_operator_api_request_seconds", "verb", _OPERATOR), "99% {{verb}}"
                        )
                    ],
                    unit="s",
                ),
                Panel(
                    "How old is the last event of each watch?",
                    [
                        Query(
                            f"time() - max by (kind) (watchbill_operator_watch_event_timestamp_seconds{_OPERATOR})",
                            "{{kind}}",
                        )
                    ],
                    unit="s",
                    about="A quiet cluster has few. An age that grows while crews change speaks of a dead watch.",
                ),
                Panel(
                    "How many reconciliations are tried again?",
                    [Query(rate("watchbill_operator_workqueue_retries_total" + _OPERATOR, "job"), "retries")],
                    unit="reqps",
                ),
                Panel(
                    "Does the API server ask for pauses, or end watches?",
                    [
                        Query(rate("watchbill_operator_api_server_busy_total" + _OPERATOR, "namespace"), "pauses"),
                        Query(
                            rate("watchbill_operator_watch_restarts_total" + _OPERATOR, "namespace"), "watches ended"
                        ),
                    ],
                    unit="reqps",
                ),
                Panel(
                    "Does background work fail?",
                    [Query(new("watchbill_background_restarts_total", "1h", "job, task"), "{{job}}: {{task}}")],
                    unit="short",
                    about="Times within an hour, of all processes. It began again, and the process logs why.",
                ),
                Panel(
                    "Which versions run?",
                    [Query("count by (version) (watchbill_build_info)", "{{version}}")],
                    unit="short",
                    about="Processes of each version: the operator's replicas and all workers.",
                ),
                Panel(
                    "How much processor time does it take?",
                    [Query(f"rate(process_cpu_seconds_total{_OPERATOR}[$__rate_interval]) {_ITS_OWN}", "{{instance}}")],
                    unit="percentunit",
                    about="1 is a whole processor; more than that it can't use.",
                ),
                Panel(
                    "How much memory does it take?",
                    [Query(f"process_resident_memory_bytes{_OPERATOR} {_ITS_OWN}", "{{instance}}")],
                    unit="bytes",
                ),
            ],
        ),
    ],
)

STORE: Final = Board(
    uid="watchbill-store",
    title="Watchbill / Store",
    about="Redis or Valkey: whether it answers, whether it is full, and what it holds.",
    rows=[
        Row(
            "Is it well?",
            [
                Panel(
                    "Does the store answer the operator?",
                    [Query("min(watchbill_operator_store_up)")],
                    unit="short",
                    kind="stat",
                    width=6,
                    about="1: it does. While it is away the other figures stay as they were.",
                    alerts=("WatchbillStoreAway",),
                ),
                Panel(
                    "May the store delete work?",
                    [Query("max(watchbill_operator_store_evicts)")],
                    unit="short",
                    kind="stat",
                    width=6,
                    about="1: its maxmemory-policy is another than noeviction.",
                    limits=(1,),
                    alerts=("WatchbillStoreEvicts",),
                ),
                Panel(
                    "How full is its memory?",
                    [Query("max(watchbill_operator_store_memory_ratio)")],
                    unit="percentunit",
                    kind="stat",
                    width=6,
                    about="Of the fullest server, as a part of its maxmemory; 0 where it has none.",
                    limits=(0.8, 0.9),
                    alerts=("WatchbillStoreNearlyFull",),
                ),
                Panel(
                    "How many tasks does it hold?",
                    [Query(f"sum({figure('watchbill_queue_depth')})")],
                    unit="short",
                    kind="stat",
                    width=6,
                ),
            ],
        ),
        Row(
            "What happened to it?",
            [
                Panel(
                    "When was it away?",
                    [
                        Query("min(watchbill_operator_store_up)", "answers"),
                        Query("max(watchbill_operator_store_evicts)", "may delete work"),
                    ],
                    unit="short",
                    alerts=("WatchbillStoreAway", "WatchbillStoreEvicts"),
                ),
                Panel(
                    "How did its memory fill?",
                    [Query("max(watchbill_operator_store_memory_ratio)", "used")],
                    unit="percentunit",
                    limits=(0.8, 0.9),
                    alerts=("WatchbillStoreNearlyFull",),
                ),
                Panel(
                    "Did workers reach it in time?",
                    [
                        Query(
                            "sum(rate(watchbill_lease_renewals_late_total[$__rate_interval]))",
                            "late renewals of leases",
                        ),
                        Query("sum(rate(watchbill_worker_fenced_total[$__rate_interval]))", "workers fenced"),
                    ],
                    unit="reqps",
                    about="Renewals that come late in many crews at once speak of the store or the network.",
                    alerts=("WatchbillLeaseRenewalsLate",),
                ),
            ],
        ),
        Row(
            "What does it hold?",
            [
                Panel(
                    "What state are the tasks of all crews in?",
                    [
                        Query(
                            f"sum by (state) ({figure('watchbill_queue_depth', 'namespace, crew, state')})", "{{state}}"
                        )
                    ],
                    unit="short",
                    stacked=True,
                ),
                Panel(
                    "Which crews hold most?",
                    [
                        Query(
                            f"topk(10, sum by ({CREW}) ({figure('watchbill_queue_depth', f'{CREW}, state')}) > 0)",
                            "{{namespace}}/{{crew}}",
                        )
                    ],
                    unit="short",
                    to_crew=True,
                ),
                Panel(
                    "How many deliveries does it hold?",
                    [
                        Query(
                            f"sum by (state) ({figure('watchbill_delivery_depth', 'namespace, crew, state')})",
                            "{{state}}",
                        )
                    ],
                    unit="short",
                    stacked=True,
                ),
                Panel(
                    "How much work passes through it?",
                    [
                        Query("sum(rate(watchbill_tasks_claimed_total[$__rate_interval]))", "attempts begun"),
                        Query("sum(rate(watchbill_tasks_total[$__rate_interval]))", "attempts ended"),
                        Query("sum(rate(watchbill_deliveries_total[$__rate_interval]))", "deliveries"),
                    ],
                    unit="reqps",
                ),
            ],
        ),
    ],
)
