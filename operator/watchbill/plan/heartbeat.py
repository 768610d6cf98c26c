"""What the status of a Heartbeat says. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from watchbill.api import Heartbeat
from watchbill.api.conditions import ConditionType, Reason, Said, stamp, stated

Verdict = tuple[Reason, str]
"""Whether it fires, and if not why: Available, or the reason why it is stalled."""

TIMES = ("lastFireTime", "nextFireTime")
"""Fields of the status that change with every firing."""


def fires(heartbeat: Heartbeat) -> Verdict:
    """Of a heartbeat that is stored."""
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
