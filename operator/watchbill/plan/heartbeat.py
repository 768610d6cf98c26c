"""The work that a Heartbeat submits when it fires, and its status. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from watchbill import cluster_names
from watchbill.api import Heartbeat
from watchbill.api.conditions import ConditionType, Reason, Said, stamp, stated
from watchbill.api.delivery import Destination
from watchbill.errors import InvalidInput, Problem
from watchbill.plan import deliveries, prompts, submission
from watchbill.records import CrewDefinition

Verdict = tuple[Reason, str]
"""The state of a Heartbeat and its message: Available, or the reason why it is stalled."""

FIGURES: Final = ("lastFireTime", "nextFireTime", "lastSlot", "lastWork", "lastResult", "missedSlots")
"""Fields of the status that change with every firing."""
RUN_NOW_ANNOTATION: Final = f"{cluster_names.API_GROUP}/run-now"
"""Annotation of a Heartbeat: each new value has it fired once, beside its schedule."""
RUN_NOW: Final = ("lastHandledRunNow", "runNowMessage")


@dataclass(frozen=True, slots=True)
class Observed:
    """A heartbeat as the store has it."""

    last: datetime | None
    following: datetime | None
    slot: datetime | None
    work: str
    result: str
    """The state of `work`; empty: it is no longer known."""
    missed: int


_TIME: Final = re.compile(r"\{(\{)?(slot|now)\}(?(1)\})")


def asked(text: str, *, slot: datetime, now: datetime, zone: str) -> str:
    """The text with `{slot}` and `{now}` replaced by these times in their zone, as in 2026-11-28T09:00:00+01:00.
    `{{slot}}` is the text `{slot}`."""
    times = {"slot": slot, "now": now}

    def value(match: re.Match[str]) -> str:
        escaped, name = match.groups()
        return f"{{{name}}}" if escaped else times[name].astimezone(ZoneInfo(zone)).isoformat(timespec="seconds")

    return _TIME.sub(value, text)


def problem(found: Problem) -> Problem:
    """A problem of a submission, as one of the heartbeat that would make it."""
    if found.path.startswith("inputs."):
        return replace(found, path=f"spec.{found.path}", fix=f"Give it in spec.{found.path}.")
    return replace(found, path=f"spec.{found.path}")


def lacks(heartbeat: Heartbeat, crew: CrewDefinition | None) -> list[Problem]:
    """Inputs that the crew's prompts cite, and the heartbeat doesn't give.

    An agent that the crew doesn't have, or a role that none has, is no problem here: `fires` says so, and the agent may
    be added.
    """
    spec = heartbeat.spec
    if crew is None or (spec.agent and crew.agent(spec.agent) is None):
        return []
    names = [spec.agent] if spec.agent else submission.agents_of(crew, spec.role) if spec.role else []
    asked = [submission.alone(crew, name) for name in names] or ([] if spec.role else [crew])
    found = [problem(found) for one in asked for found in prompts.check_inputs(one, spec.inputs)[0]]
    try:
        deliveries.chosen(crew, spec.deliver)
    except InvalidInput as error:
        found += [problem(wrong) for wrong in error.problems]
    return found


def destinations(
    deliver: Sequence[str] | None, own: Sequence[Destination], crew: CrewDefinition
) -> list[Destination | str]:
    """Returns the destinations of its results. A name that the crew no longer has is left out: the work matters
    more."""
    known = {destination.name for destination in crew.delivery}
    if deliver is None and not own:
        return [destination.name for destination in crew.delivery]
    return [*(name for name in deliver or () if name in known), *own]


def at_rest(*, suspended: bool, hold: str = "") -> Verdict | None:
    """The verdict on heartbeats of a crew none of whose tasks begins; None: they do. `hold`: why there is no room for
    the crew."""
    if hold:
        return Reason.QUOTA_EXCEEDED, f"its crew is stalled, and it fires nothing until there is room: {hold}"
    if suspended:
        return Reason.AVAILABLE, "its crew is suspended: it fires nothing until the crew is resumed"
    return None


def fires(heartbeat: Heartbeat, at_rest: Verdict | None = None, crew: CrewDefinition | None = None) -> Verdict:
    """The verdict on a stored heartbeat. `at_rest`: that of its crew. `crew`: None where it can't run."""
    if heartbeat.spec.suspend:
        return Reason.AVAILABLE, "suspended: it fires nothing until suspend is false"
    astray = _astray(heartbeat, crew) if crew is not None else None
    return at_rest or astray or (Reason.AVAILABLE, "it fires")


def _astray(heartbeat: Heartbeat, crew: CrewDefinition) -> Verdict | None:
    """The verdict on one whose agent is not in the crew, or whose role no agent of it has; None: somebody works."""
    agent, role = heartbeat.spec.agent, heartbeat.spec.role
    if agent is not None and crew.agent(agent) is None:
        return Reason.AGENT_UNAVAILABLE, f"its crew has no agent {agent!r}: each task that it fires fails"
    if role is not None and not submission.agents_of(crew, role):
        return Reason.AGENT_UNAVAILABLE, f"no agent of its crew has role {role!r}: its slots are missed until one has"
    return None


def run_now(seen: Mapping[str, Any]) -> str:
    """The value of the annotation that has it fired now, which was not handled yet; empty: there is none."""
    token = str((seen["metadata"].get("annotations") or {}).get(RUN_NOW_ANNOTATION) or "")
    return "" if token == (seen.get("status") or {}).get(RUN_NOW[0]) else token


def last_slot(seen: Mapping[str, Any]) -> datetime | None:
    """The newest slot that was fired, as the status says."""
    said = (seen.get("status") or {}).get("lastSlot")
    return datetime.fromisoformat(said) if said else None


def status(
    seen: Mapping[str, Any],
    verdict: Verdict,
    observed: Observed | None,
    *,
    now: datetime,
    handled: tuple[str, str] | None = None,
) -> dict[str, Any]:
    """The whole status.

    `seen`: the Heartbeat as the API server has it. `observed`: None where the store has none. `handled`: the value of
    the run-now annotation that was handled, and what became of it; None: none since what the status says.
    """
    reason, message = verdict
    ready = reason is Reason.AVAILABLE
    said: list[Said] = [(ConditionType.READY, ready, reason, message)]
    if not ready:
        said.append((ConditionType.STALLED, True, reason, message))
    generation = int(seen["metadata"]["generation"])
    before = seen.get("status") or {}
    figures: dict[str, Any] = {}
    if observed is not None:
        slots = [slot for slot in (observed.slot, last_slot(seen)) if slot is not None]
        moments = (observed.last, observed.following, max(slots, default=None))
        figures = {name: stamp(at) for name, at in zip(FIGURES, moments, strict=False) if at is not None}
        if observed.work:
            is_same = before.get("lastWork") == observed.work
            result = observed.result or (before.get("lastResult", "") if is_same else "")
            figures |= {"lastWork": observed.work, **({"lastResult": result} if result else {})}
        figures |= {"missedSlots": observed.missed} if observed.missed else {}
    elif "lastSlot" in before:
        figures = {"lastSlot": before["lastSlot"]}
    told = dict(zip(RUN_NOW, handled, strict=True)) if handled else {k: before[k] for k in RUN_NOW if k in before}
    return {
        "observedGeneration": generation,
        "conditions": stated(said, before.get("conditions", []), generation=generation, now=now),
        **figures,
        **told,
    }
