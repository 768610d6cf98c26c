"""The alerts, as data: what is wrong, since when, and how bad. Each has a runbook in docs/runbooks of its name.

`<name>` in an expression stands for a threshold, which the chart's values can change. `render` makes the plain file of
rules with the thresholds as they are here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from monitoring.queries import CREW, figure, new

RUNBOOKS: Final = "docs/runbooks"
"""The folder of the runbooks, where no URL is given."""
SLO: Final[Mapping[str, float]] = {"objective": 0.99, "seconds": 60}
"""The objective that the chart's values can change: this part of all tasks find a worker within so many seconds."""

_AWAKE: Final = f"unless on ({CREW}) {figure('watchbill_queue_suspended')} > 0"
"""A suspended crew waits because somebody wants it so."""


@dataclass(frozen=True)
class Alert:
    """One alert. `summary` and `description` may name its labels, as `{{ $labels.crew }}`, and `{{ $value }}`."""

    name: str
    expr: str
    summary: str
    description: str
    severity: Literal["critical", "warning"] = "warning"
    seconds: int = 0
    """Seconds for which `expr` must hold before it fires."""
    thresholds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """A recording rule."""

    name: str
    expr: str


@dataclass(frozen=True)
class Group:
    name: str
    rules: Sequence[Alert | Record]


_PRIORITIES: Final = ("critical", "high", "normal", "low", "background")
_WAITING: Final = 'watchbill_queue_depth{state="waiting"}'
_DEAD: Final = 'watchbill_queue_depth{state="dead"}'
_BUCKET: Final = r'watchbill_task_wait_seconds_bucket{le=~"<seconds>(\\.0)?"}'
"""Older versions of Prometheus keep a bucket's bound as it was written: 60.0."""
_IN_TIME: Final = r'bucket{le=~"<lateSeconds>(\\.0)?"}'


_NOT_DELIVERED: Final = '{outcome!="delivered"}'


def _deliveries(selector: str = "") -> str:
    return new("watchbill_deliveries_total" + selector, "15m", f"{CREW}, channel")


def _lateness(series: str) -> str:
    return f"sum by (namespace) (increase(watchbill_heartbeat_lateness_seconds_{series}[15m]))"


def _oldest(priority: str) -> str:
    return figure(f'watchbill_queue_class_oldest_seconds{{priority="{priority}"}}', f"{CREW}, priority")


_OF: Final = "Crew {{ $labels.namespace }}/{{ $labels.crew }}"

_WORK: Final = Group(
    "watchbill-work",
    [
        Alert(
            "WatchbillWorkWaits",
            "(" + " or ".join(f"{_oldest(name)} > <{name}>" for name in _PRIORITIES) + f") {_AWAKE}",
            _OF + " has a task of priority {{ $labels.priority }} that waits too long",
            "Its oldest task of this priority has waited for {{ $value | humanizeDuration }}.",
            seconds=60,
            thresholds={"critical": 60, "high": 300, "normal": 900, "low": 3600, "background": 14400},
        ),
        Alert(
            "WatchbillNobodyWorks",
            f"({figure(_WAITING)} > 0 and {figure('watchbill_workers - watchbill_workers_draining')} == 0) {_AWAKE}",
            _OF + " has work, and no worker",
            "{{ $value }} tasks wait, and no worker claims any.",
            severity="critical",
            seconds=300,
        ),
        Alert(
            "WatchbillAgentMissing",
            figure('watchbill_queue_parked{reason="agent"}') + " > 0",
            _OF + " has tasks for an agent that no worker has",
            "{{ $value }} tasks are set aside until a worker comes that can load their agent.",
            seconds=120,
        ),
        Alert(
            "WatchbillSubmissionsRefused",
            "max by (namespace, crew) (increase(watchbill_submissions_refused_total[5m])) > <refused>",
            _OF + " refuses work",
            "About {{ $value | humanize }} submissions within five minutes found a full queue.",
            severity="critical",
            thresholds={"refused": 0},
        ),
        Alert(
            "WatchbillDeadLettersArrive",
            f"{figure(_DEAD)} - ({figure(_DEAD + ' offset 15m')} or {figure(_DEAD)} * 0) > <letters>",
            _OF + " has new dead letters",
            "{{ $value }} tasks have failed for good within 15 minutes.",
            thresholds={"letters": 0},
        ),
        Alert(
            "WatchbillDeadLettersTrimmed",
            "max by (namespace, crew) (increase(watchbill_dead_letters_trimmed_total[1h])) > 0",
            _OF + " has lost dead letters",
            "About {{ $value | humanize }} dead letters were deleted within an hour: too many, or too old.",
        ),
    ],
)

_SPENDING: Final = Group(
    "watchbill-spending",
    [
        Alert(
            "WatchbillBudgetNearlySpent",
            f"{figure('watchbill_budget_used_ratio', f'{CREW}, budget')} > <share>",
            _OF + " has nearly spent its budget '{{ $labels.budget }}'",
            "{{ $value | humanizePercentage }} are spent, with what requests under way may cost.",
            thresholds={"share": 0.8},
        ),
        Alert(
            "WatchbillBudgetExhausted",
            f"{figure('watchbill_budget_exhausted', f'{CREW}, budget')} == 1",
            _OF + " has exhausted its budget '{{ $labels.budget }}'",
            "The last request to a model found no room in it, and was not made.",
            severity="critical",
        ),
    ],
)

_WORKERS: Final = Group(
    "watchbill-workers",
    [
        Alert(
            "WatchbillLeaseRenewalsLate",
            f"{new('watchbill_lease_renewals_late_total', '10m')} > <late>",
            _OF + " has workers near the end of their lease",
            "{{ $value | humanize }} renewals within ten minutes came more than half a lease after the one before.",
            thresholds={"late": 2},
        ),
        Alert(
            "WatchbillTakeovers",
            f"{new('watchbill_takeovers_total', '15m')} > <tasks>",
            _OF + " loses workers while they work",
            "{{ $value | humanize }} tasks within 15 minutes came from workers that died or handed them back.",
            thresholds={"tasks": 10},
        ),
        Alert(
            "WatchbillEventLoopBlocked",
            f"{new('watchbill_worker_loop_blocked_total', '15m', 'namespace, crew, agent')} > 0",
            _OF + " has an agent that blocks its worker",
            "Agent '{{ $labels.agent }}' has blocked the event loop for seconds, "
            "{{ $value | humanize }} times within 15 minutes.",
        ),
        Alert(
            "WatchbillAgentsAbandoned",
            "sum by (namespace, crew) (watchbill_worker_abandoned) > <agents>",
            _OF + " has agents that do not stop",
            "{{ $value }} agents still run although they were told to stop. Each holds a slot.",
            seconds=300,
            thresholds={"agents": 0},
        ),
    ],
)

_TIMES: Final = Group(
    "watchbill-heartbeats-and-deliveries",
    [
        Alert(
            "WatchbillHeartbeatMissed",
            f"{new('watchbill_heartbeats_missed_total', '1h', 'namespace, crew, heartbeat')} > <missed>",
            "Heartbeat {{ $labels.namespace }}/{{ $labels.heartbeat }} was missed",
            "{{ $value | humanize }} of its times within an hour were skipped.",
            thresholds={"missed": 0},
        ),
        Alert(
            "WatchbillHeartbeatsLate",
            f"{_lateness('count')} - {_lateness(_IN_TIME)} > <times>",
            "Heartbeats fire late",
            "About {{ $value | humanize }} times within 15 minutes were fired more than <lateSeconds> s late.",
            thresholds={"times": 0, "lateSeconds": 30},
        ),
        Alert(
            "WatchbillDeliveriesFail",
            f"{_deliveries(_NOT_DELIVERED)} / {_deliveries()} > <share>",
            _OF + " can't deliver results by {{ $labels.channel }}",
            "{{ $value | humanizePercentage }} of all attempts within 15 minutes failed or were put off.",
            seconds=300,
            thresholds={"share": 0.5},
        ),
    ],
)

_PLATFORM: Final = Group(
    "watchbill-platform",
    [
        Alert(
            "WatchbillStoreAway",
            "max by (namespace) (watchbill_operator_store_up and watchbill_operator_leader == 1) == 0",
            "The store does not answer",
            "The operator in {{ $labels.namespace }} can't reach Redis: no work is taken, and none begins.",
            severity="critical",
            seconds=60,
        ),
        Alert(
            "WatchbillStoreEvicts",
            "max by (namespace) (watchbill_operator_store_evicts) == 1",
            "The store may delete work",
            "Its maxmemory-policy is another than noeviction.",
        ),
        Alert(
            "WatchbillStoreNearlyFull",
            "max by (namespace) (watchbill_operator_store_memory_ratio) > <ratio>",
            "The store's memory is nearly full",
            "{{ $value | humanizePercentage }} of maxmemory are used. Beyond it new work is refused.",
            severity="critical",
            seconds=60,
            thresholds={"ratio": 0.9},
        ),
        Alert(
            "WatchbillOperatorLeaderless",
            "sum by (namespace) (watchbill_operator_leader) == 0 or absent(watchbill_operator_leader)",
            "No replica of the operator leads",
            "Nothing is scaled, and no change of a crew is put into effect.",
            severity="critical",
            seconds=60,
        ),
        Alert(
            "WatchbillReconcilesFail",
            f"{new('watchbill_operator_reconcile_errors_total', '10m', 'namespace, reason')} > <failures>",
            "Reconciliations fail: {{ $labels.reason }}",
            "{{ $value | humanize }} within ten minutes ended with this error. The operator tries again.",
            seconds=600,
            thresholds={"failures": 5},
        ),
        Alert(
            "WatchbillStalled",
            "max by (namespace, kind) (watchbill_operator_stalled) > 0",
            "Some {{ $labels.kind }} are stalled",
            "{{ $value }} of them wait for somebody to change something: their condition Stalled says what.",
            seconds=300,
        ),
    ],
)

# ---------------------------------------------------------------- an objective for how long tasks wait

_WINDOWS: Final = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")


def _ratio(window: str) -> str:
    return f"watchbill:task_wait:missed_ratio_rate{window}"


def _burns(
    name: str, severity: Literal["critical", "warning"], pairs: Sequence[tuple[str, str, float]], said: str
) -> Alert:
    """Fires while both a long window and a short one miss the objective so many times over: the short one ends the
    alert soon after the cause has ended."""
    over = " or ".join(
        f"({_ratio(long)} > {factor:g} * (1 - <objective>) and {_ratio(short)} > {factor:g} * (1 - <objective>))"
        for long, short, factor in pairs
    )
    longest = pairs[0][0]
    return Alert(
        name,
        f"({over}) and sum by (namespace, crew) (increase(watchbill_task_wait_seconds_count[{longest}])) > <tasks>",
        _OF + " makes tasks wait longer than agreed",
        "{{ $value | humanizePercentage }} of its tasks waited longer than <seconds> s for a worker. " + said,
        severity=severity,
        thresholds={"tasks": 20},
    )


_OBJECTIVE: Final = Group(
    "watchbill-objective",
    [
        *(
            Record(
                _ratio(window),
                f"1 - sum by ({CREW}) (rate({_BUCKET}[{window}])) / "
                f"sum by ({CREW}) (rate(watchbill_task_wait_seconds_count[{window}]))",
            )
            for window in _WINDOWS
        ),
        _burns(
            "WatchbillWaitBudgetBurnsFast",
            "critical",
            (("1h", "5m", 14.4), ("6h", "30m", 6)),
            "At this rate the month's budget is gone within days.",
        ),
        _burns(
            "WatchbillWaitBudgetBurnsSlowly",
            "warning",
            (("1d", "2h", 3), ("3d", "6h", 1)),
            "At this rate the month's budget does not last.",
        ),
    ],
)

GROUPS: Final = (_WORK, _SPENDING, _WORKERS, _TIMES, _PLATFORM, _OBJECTIVE)


def alerts() -> Iterator[Alert]:
    """Returns all alerts, in order."""
    for group in GROUPS:
        yield from (rule for rule in group.rules if isinstance(rule, Alert))


def data() -> list[dict[str, Any]]:
    """Returns what the chart makes a PrometheusRule of: thresholds beside expressions."""
    return [{"name": group.name, "rules": [_data(rule) for rule in group.rules]} for group in GROUPS]


def _data(rule: Alert | Record) -> dict[str, Any]:
    if isinstance(rule, Record):
        return {"record": rule.name, "expr": rule.expr}
    return {
        "alert": rule.name,
        "expr": rule.expr,
        "for": f"{rule.seconds}s",
        "severity": rule.severity,
        "summary": rule.summary,
        "description": rule.description,
        "thresholds": dict(rule.thresholds),
    }


def render() -> dict[str, Any]:
    """Returns the file of rules, as Prometheus loads it."""
    return {"groups": [{"name": group.name, "rules": [_plain(rule) for rule in group.rules]} for group in GROUPS]}


def _plain(rule: Alert | Record) -> dict[str, Any]:
    if isinstance(rule, Record):
        return {"record": rule.name, "expr": filled(rule.expr, SLO)}
    thresholds = {**SLO, **rule.thresholds}
    return {
        "alert": rule.name,
        "expr": filled(rule.expr, thresholds),
        "for": f"{rule.seconds}s",
        "labels": {"severity": rule.severity},
        "annotations": {
            "summary": rule.summary,
            "description": filled(rule.description, thresholds),
            "runbook_url": f"{RUNBOOKS}/{rule.name}.md",
        },
    }


def filled(text: str, thresholds: Mapping[str, float]) -> str:
    """Returns the text with each `<name>` replaced by its threshold."""
    for name, value in thresholds.items():
        text = text.replace(f"<{name}>", f"{value:g}")
    return text
