"""Crews that the operator is told to leave alone, by an annotation. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from watchbill import cluster_names
from watchbill.api.conditions import ConditionType, Reason, stated

ANNOTATION: Final = f"{cluster_names.API_GROUP}/paused"
_MESSAGE: Final = (
    f"the annotation {ANNOTATION} keeps the operator from changing or scaling anything of this crew. Work "
    "and heartbeats go on as they were stored. Remove the annotation to have the operator go on"
)


def is_paused(seen: Mapping[str, Any]) -> bool:
    """Returns whether the Crew's annotations tell the operator to leave it alone."""
    return bool((seen["metadata"].get("annotations") or {}).get(ANNOTATION) == "true")


def told(seen: Mapping[str, Any]) -> str:
    """A sentence for people about a paused Crew, with the remedy; empty for another."""
    if not is_paused(seen):
        return ""
    namespace, name = seen["metadata"]["namespace"], seen["metadata"]["name"]
    return (
        f"crew {namespace}/{name} is paused: the operator neither scales it nor takes up changes of it and its "
        f"heartbeats, until: kubectl annotate crew {name} -n {namespace} {ANNOTATION}-"
    )


def status(before: Mapping[str, Any], *, now: datetime) -> dict[str, Any]:
    """The status of a paused crew: as it was, with the condition Paused."""
    known = before.get("conditions", [])
    others = [c for c in known if c["type"] in set(ConditionType) and c["type"] != ConditionType.PAUSED]
    generation = max(int(before.get("observedGeneration", 0)), 0)
    said = stated([(ConditionType.PAUSED, True, Reason.ANNOTATED, _MESSAGE)], known, generation=generation, now=now)
    return {**before, "conditions": [*others, *said]}
