"""The board Crew: one crew, from its queue to its agents."""

from __future__ import annotations

from typing import Final

from monitoring.panels import Board, Panel, Query, Row, Variable
from monitoring.queries import figure, new, quantile, rate

_ONE: Final = '{namespace="$namespace", crew="$crew"}'


def _one(*matchers: str) -> str:
    return "{" + ", ".join(['namespace="$namespace"', 'crew="$crew"', *matchers]) + "}"


def _spread(histogram: str, by: str = "", name: str = "") -> list[Query]:
    """The median and the 99th percentile of one crew's histogram."""
    labels = by or "crew"
    return [
        Query(quantile(q, histogram, labels, _ONE), f"{name} {said}".strip())
        for q, said in ((0.5, "median"), (0.99, "99%"))
    ]


_QUEUE: Final = Row(
    "Who waits?",
    [
        Panel(
            "How many tasks wait, by priority?",
            [Query(figure("watchbill_queue_class_waiting" + _ONE, "priority"), "{{priority}}")],
            unit="short",
            stacked=True,
        ),
        Panel(
            "How long has the oldest task waited, by priority?",
            [Query(figure("watchbill_queue_class_oldest_seconds" + _ONE, "priority"), "{{priority}}")],
            unit="s",
            about="0 when none of that priority waits.",
            alerts=("WatchbillWorkWaits", "WatchbillNobodyWorks"),
        ),
        Panel(
            "What state are the tasks in?",
            [Query(figure("watchbill_queue_depth" + _ONE, "state"), "{{state}}")],
            unit="short",
            about="dead: dead letters, until somebody replays or purges them.",
            alerts=("WatchbillDeadLettersArrive",),
        ),
        Panel(
            "How long do tasks wait for a worker?",
            _spread("watchbill_task_wait_seconds"),
            unit="s",
            alerts=("WatchbillWaitBudgetBurnsFast", "WatchbillWaitBudgetBurnsSlowly"),
        ),
        Panel(
            "What do parked tasks wait for?",
            [Query(figure("watchbill_queue_parked" + _ONE, "reason"), "{{reason}}")],
            unit="short",
            about="concurrency: their run has enough steps at once. agent: no worker has their agent. "
            "interrupt: somebody must resume them.",
            alerts=("WatchbillAgentMissing",),
        ),
        Panel(
            "Was work refused, or deleted unseen?",
            [
                Query(f"max(increase(watchbill_submissions_refused_total{_ONE}[$__rate_interval]))", "refused"),
                Query(
                    f"max(increase(watchbill_dead_letters_trimmed_total{_ONE}[$__rate_interval]))",
                    "dead letters deleted",
                ),
                Query(f"max(watchbill_queue_suspended{_ONE})", "suspended"),
            ],
            unit="short",
            about="Submissions that found a full queue, and dead letters that fell off the end of their list. "
            "suspended is 1 while no task begins because somebody wants it so.",
            alerts=("WatchbillSubmissionsRefused", "WatchbillDeadLettersTrimmed"),
        ),
    ],
)

_WORKERS: Final = Row(
    "Who works?",
    [
        Panel(
            "How many workers are there, and how full are they?",
            [
                Query(f"max(watchbill_workers{_ONE})", "workers"),
                Query(f"max(watchbill_workers_draining{_ONE})", "draining"),
                Query(f"max(watchbill_worker_slots{_ONE})", "slots"),
                Query(f"sum(watchbill_worker_tasks_running{_ONE})", "tasks that run"),
            ],
            unit="short",
            about="A slot is a place for one running task. Draining workers claim no more.",
            alerts=("WatchbillNobodyWorks",),
        ),
        Panel(
            "How many attempts begin, by priority?",
            [Query(rate("watchbill_tasks_claimed_total" + _ONE, "priority"), "{{priority}}")],
            unit="reqps",
            stacked=True,
        ),
        Panel(
            "How long is it from the claim of a task to its begin?",
            _spread("watchbill_task_begin_delay_seconds"),
            unit="s",
            about="Only of tasks that could not begin with their claim.",
        ),
        Panel(
            "Do workers lose their leases, or nearly?",
            [
                Query(rate("watchbill_lease_renewals_late_total" + _ONE), "late renewals"),
                Query(rate("watchbill_worker_fenced_total" + _ONE), "fenced"),
                Query(rate("watchbill_takeovers_total" + _ONE), "tasks taken over"),
            ],
            unit="reqps",
            alerts=("WatchbillLeaseRenewalsLate", "WatchbillTakeovers"),
        ),
        Panel(
            "Which agents block the event loop?",
            [Query(new("watchbill_worker_loop_blocked_total" + _ONE, "5m", "agent"), "{{agent}}")],
            unit="short",
            about="Within five minutes. Without a name: the agent could not be found.",
            alerts=("WatchbillEventLoopBlocked",),
        ),
        Panel(
            "How many agents go on although they were told to stop?",
            [Query(f"sum(watchbill_worker_abandoned{_ONE})", "abandoned")],
            unit="short",
            about="Each of them holds a slot.",
            limits=(1,),
            alerts=("WatchbillAgentsAbandoned",),
        ),
    ],
)

_AGENTS: Final = Row(
    "What do the agents do?",
    [
        Panel(
            "How do attempts end?",
            [Query(rate("watchbill_tasks_total" + _ONE, "outcome"), "{{outcome}}")],
            unit="reqps",
            stacked=True,
        ),
        Panel(
            "Which agents fail?",
            [Query(rate("watchbill_tasks_total" + _one('outcome=~"failed|dead|retry"'), "agent"), "{{agent}}")],
            unit="reqps",
            about="Attempts that failed, whether another one follows or not.",
        ),
        Panel(
            "How long do agents run?",
            _spread("watchbill_task_run_seconds", "agent", "{{agent}}"),
            unit="s",
        ),
        Panel(
            "How many tokens do agents use?",
            [Query(rate("watchbill_tokens_total" + _ONE, "agent, kind"), "{{agent}} {{kind}}")],
            unit="short",
            about="Tokens per second.",
            stacked=True,
        ),
    ],
)

_RUNS: Final = Row(
    "How do runs and their steps go?",
    [
        Panel(
            "How many runs end, and how?",
            [Query(rate("watchbill_run_seconds_count" + _ONE, "outcome"), "{{outcome}}")],
            unit="reqps",
            stacked=True,
            about="partial: some of its steps failed.",
        ),
        Panel("How long do runs take?", _spread("watchbill_run_seconds"), unit="s"),
        Panel(
            "How do steps end?",
            [Query(rate("watchbill_steps_total" + _ONE, "outcome"), "{{outcome}}")],
            unit="reqps",
            stacked=True,
        ),
    ],
)

_MODELS: Final = Row(
    "How do the models answer?",
    [
        Panel(
            "How many requests do models get, and how do these end?",
            [Query(rate("watchbill_model_requests_total" + _ONE, "model, outcome"), "{{model}}: {{outcome}}")],
            unit="reqps",
            stacked=True,
        ),
        Panel(
            "How long do models take for an answer?",
            _spread("watchbill_model_request_seconds", "provider, model", "{{model}}"),
            unit="s",
        ),
        Panel(
            "How long is it to the first part of a streamed answer?",
            _spread("watchbill_model_first_token_seconds", "provider, model", "{{model}}"),
            unit="s",
            about="Of agents with stream: true.",
        ),
        Panel(
            "How many tokens do models read and write?",
            [Query(rate("watchbill_model_tokens_total" + _ONE, "model, kind"), "{{model}} {{kind}}")],
            unit="short",
            about="Tokens per second.",
            stacked=True,
        ),
        Panel(
            "What do the models cost in an hour?",
            [Query(new("watchbill_model_cost_usd_total" + _ONE, "1h", "model"), "{{model}}")],
            unit="short",
            stacked=True,
            about="US dollars, of models whose price is known.",
        ),
        Panel(
            "How much of the budgets is spent?",
            [
                Query(figure("watchbill_budget_used_ratio" + _ONE, "budget"), "{{budget}}"),
                Query(figure("watchbill_budget_exhausted" + _ONE, "budget") + " == 1", "{{budget}} exhausted"),
            ],
            unit="percentunit",
            about="With what requests under way may cost. Exhausted: the last request found no room.",
            limits=(0.8, 1),
            alerts=("WatchbillBudgetNearlySpent", "WatchbillBudgetExhausted"),
        ),
    ],
)

_TIMES: Final = Row(
    "What begins by itself, and what is sent?",
    [
        Panel(
            "Which heartbeats fire?",
            [Query(new("watchbill_heartbeats_fired_total" + _ONE, "1h", "heartbeat"), "{{heartbeat}}")],
            unit="short",
            about="Times within an hour.",
        ),
        Panel(
            "Which heartbeats were missed?",
            [Query(new("watchbill_heartbeats_missed_total" + _ONE, "1h", "heartbeat"), "{{heartbeat}}")],
            unit="short",
            about="Times within an hour.",
            limits=(1,),
            alerts=("WatchbillHeartbeatMissed",),
        ),
        Panel(
            "How do deliveries end?",
            [Query(rate("watchbill_deliveries_total" + _ONE, "channel, outcome"), "{{channel}}: {{outcome}}")],
            unit="reqps",
            about="retry: another attempt follows. put off: not tried, because the destination fails.",
            alerts=("WatchbillDeliveriesFail",),
        ),
        Panel(
            "How many deliveries wait?",
            [Query(figure("watchbill_delivery_depth" + _ONE, "state"), "{{state}}")],
            unit="short",
        ),
        Panel(
            "How long has the oldest delivery waited?",
            [Query(f"max(watchbill_delivery_oldest_seconds{_ONE})", "oldest")],
            unit="s",
        ),
    ],
)

CREW: Final = Board(
    uid="watchbill-crew",
    title="Watchbill / Crew",
    about="One crew: its queue by priority, its workers, its agents, its heartbeats and deliveries.",
    variables=[
        Variable("namespace", "Namespace", "label_values(watchbill_workers, namespace)"),
        Variable("crew", "Crew", 'label_values(watchbill_workers{namespace="$namespace"}, crew)'),
    ],
    rows=[_QUEUE, _WORKERS, _AGENTS, _RUNS, _MODELS, _TIMES],
)
