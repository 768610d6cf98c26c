"""The conditions of a Crew's status, from what its plan was made of. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from watchbill import cluster_names
from watchbill.api.conditions import ConditionType, Reason, Said, stated
from watchbill.names import ROLE
from watchbill.plan import budget, manifests, references, revisions
from watchbill.plan.children import Child

if TYPE_CHECKING:
    from watchbill.plan.crew import Fault, Observed

_SUSPENDED: Final = "tasks are taken, and none begins while spec.suspend is true"


def trouble_of(serving: Child | None, now: datetime) -> tuple[str, float | None]:
    """Returns why no worker starts, and in how many seconds that may have to be reported."""
    if serving is None or serving.replicas == 0:
        return "", None
    if serving.trouble:
        return serving.trouble, None
    if serving.ready > 0 or serving.unavailable_since is None:
        return "", None
    left = (serving.unavailable_since + timedelta(seconds=manifests.START_SECONDS) - now).total_seconds()
    if left > 0:
        return "", left
    since = f"{serving.unavailable_since:%Y-%m-%dT%H:%M:%SZ}"
    return f"Deployment {serving.name!r} wants {serving.replicas} workers, and none has been ready since {since}", None


def conditions_of(
    seen: Observed, wanted: revisions.Wanted, serving: Child | None, blocked: Fault | None, trouble: str, now: datetime
) -> list[dict[str, Any]]:
    """Returns the conditions. `blocked`: why the desired Deployment can't be made; `trouble`: why no worker starts."""
    held = (Reason.QUOTA_EXCEEDED, seen.hold.message) if seen.hold is not None else None
    stalled = seen.fault or held or blocked or _stalled(seen, wanted, trouble)
    said: list[Said]
    if stalled is not None:
        said = [(ConditionType.READY, False, *stalled), (ConditionType.STALLED, True, *stalled)]
    elif seen.load is None:
        message = f"the store doesn't answer; workers are held as they are: {seen.store_error}"
        said = [(ConditionType.READY, False, Reason.STORE_UNAVAILABLE, message)]
    elif serving is None:
        message = "the workers' Deployment is being made"
        said = [
            (ConditionType.READY, False, Reason.PROGRESSING, message),
            (ConditionType.RECONCILING, True, Reason.PROGRESSING, message),
        ]
    elif seen.crew.spec.suspend:
        said = [(ConditionType.READY, True, Reason.SUSPENDED, _SUSPENDED)]
    elif seen.evicts:
        said = [(ConditionType.READY, True, Reason.STORE_EVICTS, f"the crew takes work, but {seen.evicts}")]
    elif wanted.outdated:
        said = [(ConditionType.READY, True, Reason.CONFIG_OUTDATED, _outdated(wanted))]
    elif not seen.agents_loaded:
        message = (
            "the crew takes work; no worker has loaded all of its agents yet. One that tried in vain has logged why"
        )
        said = [(ConditionType.READY, True, Reason.AGENTS_UNCHECKED, message + _unread(wanted))]
    else:
        # At zero replicas there is nothing to wait for: work that comes starts workers.
        said = [(ConditionType.READY, True, Reason.AVAILABLE, "the crew takes work" + _unread(wanted))]
    before = seen.status.get("conditions", [])
    was_suspended = any(c["type"] == ConditionType.SUSPENDED for c in before)
    if seen.crew.spec.suspend and (seen.load is not None or was_suspended):
        said.append((ConditionType.SUSPENDED, True, Reason.SUSPENDED, _SUSPENDED))
    spent = budget.exhausted(seen.budgets)
    if seen.load is None:  # the store can't say
        spent = next((str(c["message"]) for c in before if c["type"] == ConditionType.BUDGET_EXHAUSTED), "")
    if spent:
        said.append((ConditionType.BUDGET_EXHAUSTED, True, Reason.BUDGET_EXHAUSTED, spent))
    return stated(said, before, generation=seen.generation, now=now)


def _outdated(wanted: revisions.Wanted) -> str:
    return (
        f"the crew takes work; its workers run with an older {references.described(wanted.outdated)}, because "
        "workers.rolloutOnChange is false. To replace them, set or change an annotation in workers.template.metadata"
    )


def _unread(wanted: revisions.Wanted) -> str:
    if not wanted.unread:
        return ""
    return (
        f"; a change of {references.described(wanted.unread)} replaces no workers, because the operator lacks the "
        "right to get it (rbac.readSecrets and rbac.readConfigMaps of its chart)"
    )


def _stalled(seen: Observed, wanted: revisions.Wanted, trouble: str) -> Fault | None:
    if seen.no_user is not None:
        return seen.no_user
    if not seen.has_redis_secret:
        name = seen.crew.spec.workers.redis_secret_ref.name
        return (
            Reason.REDIS_SECRET_MISSING,
            f"there is no Secret {name!r} in namespace {seen.namespace!r}. Create it with the store's URL as its key "
            f"{cluster_names.REDIS_SECRET_KEY!r}, or name another in workers.redisSecretRef",
        )
    if roles := [agent.removeprefix(ROLE) for agent in seen.unavailable if agent.startswith(ROLE)]:
        return (
            Reason.AGENT_UNAVAILABLE,
            f"tasks wait for the roles {', '.join(map(repr, roles[:10]))}, which no agent has. Give them to agents "
            "(agents[].roles), or cancel these tasks",
        )
    if seen.unavailable:
        agents = ", ".join(repr(agent) for agent in seen.unavailable[:10])
        more = f" and {len(seen.unavailable) - 10} more" if len(seen.unavailable) > 10 else ""
        return (
            Reason.AGENT_UNAVAILABLE,
            f"tasks wait for a worker that can load the agents {agents}{more}. The crew's events say why "
            f"(watchbill events {seen.namespace}/{seen.crew.name}); build them into workers.image, or mend their class",
        )
    if wanted.missing:
        return (
            Reason.REFERENCE_MISSING,
            f"namespace {seen.namespace!r} lacks {references.described(wanted.missing)}, without which no worker can "
            "start. Create it, or mend its name in spec.workers; those that run go on",
        )
    if trouble:
        return Reason.WORKERS_UNAVAILABLE, f"workers don't start: {trouble}"
    return None
