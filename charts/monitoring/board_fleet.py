"""The board Fleet: all crews."""

from __future__ import annotations

from typing import Final

from monitoring.panels import Board, Panel, Query, Row, Variable
from monitoring.queries import CREW, figure, new, quantile, rate

_ALL: Final = '{namespace=~"$namespace"}'
_NAMED: Final = "{{namespace}}/{{crew}}"


def _all(*matchers: str) -> str:
    return "{" + ", ".join(['namespace=~"$namespace"', *matchers]) + "}"


def _state(state: str) -> str:
    """The tasks of each crew in that state."""
    return figure("watchbill_queue_depth" + _all(f'state="{state}"'))


def _by(expr: str, label: str) -> tuple[Query, ...]:
    """The ten series that have most of it, each named by crew and that label."""
    return (Query(f"topk(10, {expr} > 0)", f"{_NAMED}: {{{{{label}}}}}"),)


def _top(expr: str) -> tuple[Query, ...]:
    """The ten crews that have most of it, without those that have none."""
    return (Query(f"topk(10, {expr} > 0)", _NAMED),)


def _quota(kind: str) -> str:
    """The bound of each namespace with a quota (hard), or its use (used), by resource."""
    return figure("watchbill_operator_quota" + _all(f'type="{kind}"'), "namespace, resource")


FLEET: Final = Board(
    uid="watchbill-fleet",
    title="Watchbill / Fleet",
    about="All crews: who waits, who fails, who works.",
    variables=[Variable("namespace", "Namespace", "label_values(watchbill_workers, namespace)", many=True)],
    rows=[
        Row(
            "What is wrong?",
            [
                Panel(
                    "Which alerts are firing?",
                    [
                        Query(
                            "sum by (alertname, severity, namespace, crew, priority, agent, heartbeat, channel) "
                            '(ALERTS{alertname=~"Watchbill.*", alertstate="firing"})'
                        )
                    ],
                    unit="short",
                    kind="table",
                    width=12,
                    about="Empty when nothing is wrong, and where the alerts of the chart are not installed. "
                    "Each alert has a runbook of its name.",
                ),
                Panel(
                    "How many tasks wait?",
                    [Query(f"sum({_state('waiting')}) or vector(0)")],
                    unit="short",
                    kind="stat",
                    width=4,
                ),
                Panel(
                    "How many tasks run?",
                    [Query(f"sum({_state('running')}) or vector(0)")],
                    unit="short",
                    kind="stat",
                    width=4,
                ),
                Panel(
                    "How many dead letters are there?",
                    [Query(f"sum({_state('dead')}) or vector(0)")],
                    unit="short",
                    kind="stat",
                    width=4,
                    limits=(1, 100),
                    alerts=("WatchbillDeadLettersArrive",),
                ),
            ],
        ),
        Row(
            "Who waits?",
            [
                Panel(
                    "Whose tasks have waited longest?",
                    _top(figure("watchbill_queue_oldest_seconds" + _ALL)),
                    unit="s",
                    about="The age of the oldest task that waits, of the ten crews where it is oldest.",
                    alerts=("WatchbillWorkWaits", "WatchbillNobodyWorks"),
                    to_crew=True,
                ),
                Panel(
                    "Who has most tasks waiting?",
                    _top(_state("waiting")),
                    unit="short",
                    to_crew=True,
                ),
                Panel(
                    "Which tasks wait for something other than a worker?",
                    _by(figure("watchbill_queue_parked" + _ALL, f"{CREW}, reason"), "reason"),
                    unit="short",
                    about="concurrency: their run has enough steps at once. agent: no worker has their agent. "
                    "interrupt: somebody must resume them.",
                    alerts=("WatchbillAgentMissing",),
                    to_crew=True,
                ),
                Panel(
                    "How long do tasks wait for a worker?",
                    [
                        Query(
                            quantile(q, "watchbill_task_wait_seconds", "namespace", _ALL), f"{{{{namespace}}}} {name}"
                        )
                        for q, name in ((0.5, "median"), (0.99, "99%"))
                    ],
                    unit="s",
                    alerts=("WatchbillWaitBudgetBurnsFast", "WatchbillWaitBudgetBurnsSlowly"),
                ),
                Panel(
                    "Who is refused because a queue is full?",
                    _top(
                        f"max by (namespace, crew) (rate(watchbill_submissions_refused_total{_ALL}[$__rate_interval]))"
                    ),
                    unit="reqps",
                    alerts=("WatchbillSubmissionsRefused",),
                    to_crew=True,
                ),
                Panel(
                    "Which crews are suspended?",
                    [Query(f"{figure('watchbill_queue_suspended' + _ALL)} > 0", _NAMED)],
                    unit="short",
                    about="None of their tasks begins, because somebody wants it so.",
                    to_crew=True,
                ),
            ],
        ),
        Row(
            "Who fails?",
            [
                Panel(
                    "Which crews fail most often?",
                    _top(rate("watchbill_tasks_total" + _all('outcome=~"failed|dead|retry"'))),
                    unit="reqps",
                    about="Attempts that failed, whether another attempt follows or not.",
                    to_crew=True,
                ),
                Panel(
                    "Where do dead letters lie?",
                    _top(_state("dead")),
                    unit="short",
                    alerts=("WatchbillDeadLettersArrive", "WatchbillDeadLettersTrimmed"),
                    to_crew=True,
                ),
                Panel(
                    "Which results can't be delivered?",
                    _by(
                        rate("watchbill_deliveries_total" + _all('outcome!="delivered"'), f"{CREW}, channel"), "channel"
                    ),
                    unit="reqps",
                    alerts=("WatchbillDeliveriesFail",),
                    to_crew=True,
                ),
                Panel(
                    "Which heartbeats were missed in the last hour?",
                    _by(new("watchbill_heartbeats_missed_total" + _ALL, "1h", f"{CREW}, heartbeat"), "heartbeat"),
                    unit="short",
                    alerts=("WatchbillHeartbeatMissed",),
                    to_crew=True,
                ),
                Panel(
                    "Whose workers lose their leases, or nearly?",
                    [
                        Query(f"topk(10, {rate('watchbill_lease_renewals_late_total' + _ALL)} > 0)", _NAMED + ": late"),
                        Query(f"topk(10, {rate('watchbill_worker_fenced_total' + _ALL)} > 0)", _NAMED + ": fenced"),
                        Query(f"topk(10, {rate('watchbill_takeovers_total' + _ALL)} > 0)", _NAMED + ": taken over"),
                    ],
                    unit="reqps",
                    alerts=("WatchbillLeaseRenewalsLate", "WatchbillTakeovers"),
                    to_crew=True,
                ),
                Panel(
                    "Whose agents go on although they were told to stop?",
                    _top(f"sum by (namespace, crew) (watchbill_worker_abandoned{_ALL})"),
                    unit="short",
                    alerts=("WatchbillAgentsAbandoned",),
                    to_crew=True,
                ),
            ],
        ),
        Row(
            "Who works?",
            [
                Panel(
                    "How many attempts end, and how?",
                    [Query(rate("watchbill_tasks_total" + _ALL, "outcome"), "{{outcome}}")],
                    unit="reqps",
                    stacked=True,
                ),
                Panel(
                    "Which crews do most?",
                    _top(rate("watchbill_tasks_total" + _ALL)),
                    unit="reqps",
                    to_crew=True,
                ),
                Panel(
                    "How many workers are there, and how full are they?",
                    [
                        Query(f"sum({figure('watchbill_workers' + _ALL)})", "workers"),
                        Query(f"sum({figure('watchbill_worker_slots' + _ALL)})", "slots"),
                        Query(f"sum({_state('running')})", "tasks that run"),
                    ],
                    unit="short",
                    about="A slot is a place for one running task.",
                ),
                Panel(
                    "Who uses most tokens?",
                    _top(rate("watchbill_tokens_total" + _ALL)),
                    unit="short",
                    about="Tokens per second, of input and output.",
                    to_crew=True,
                ),
                Panel(
                    "How much of its quota does each namespace use?",
                    [Query(f"topk(10, {_quota('used')} / ({_quota('hard')} > 0))", "{{namespace}} {{resource}}")],
                    unit="percentunit",
                    about="Of the ten that use most. A crew that finds no room is stalled.",
                    limits=(0.8, 1),
                    alerts=("WatchbillStalled",),
                ),
            ],
        ),
    ],
)
