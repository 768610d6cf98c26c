"""The work that a Heartbeat submits when it fires, and its status. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from watchbill.api import Heartbeat
from watchbill.api.conditions import ConditionType, Reason, Said, stamp, stated
from watchbill.api.delivery import Destination
from watchbill.errors import InvalidInput, Problem
from watchbill.plan import deliveries, prompts, submission
from watchbill.records import CrewDefinition

Verdict = tuple[Reason, str]
"""The state of a Heartbeat and its message: Available, or the reason why it is stalled."""

TIMES = ("lastFireTime", "nextFireTime")
"""Fields of the status that change with every firing."""


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

    An agent that the crew doesn't have is no problem here: each task says so, and the agent may be added.
    """
    spec = heartbeat.spec
    if crew is None or (spec.agent and crew.agent(spec.agent) is None):
        return []
    asked = crew if not spec.agent else submission.alone(crew, spec.agent)
    found = [problem(found) for found in prompts.check_inputs(asked, spec.inputs)[0]]
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


def fires(heartbeat: Heartbeat) -> Verdict:
    """The verdict on a stored heartbeat."""
    return (
        Reason.AVAILABLE,
        "suspended: it fires nothing until suspend is false" if heartbeat.spec.suspend else "it fires",
    )


def status(
    seen: Mapping[str, Any], verdict: Verdict, *, last: datetime | None, following: datetime | None, now: datetime
) -> dict[str, Any]:
    """The whole status. `seen`: the Heartbeat as the API server has it."""
    reason, message = verdict
    ready = reason is Reason.AVAILABLE
    said: list[Said] = [(ConditionType.READY, ready, reason, message)]
    if not ready:
        said.append((ConditionType.STALLED, True, reason, message))
    generation = int(seen["metadata"]["generation"])
    before = (seen.get("status") or {}).get("conditions", [])
    times = {name: stamp(at) for name, at in zip(TIMES, (last, following), strict=True) if at is not None}
    return {
        "observedGeneration": generation,
        "conditions": stated(said, before, generation=generation, now=now),
        **times,
    }
