"""The work that an event of a crew's feed begins, by the crew's watches. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from watchbill.api.watches import Watch
from watchbill.errors import InvalidInput, Problem
from watchbill.event_types import EventType, TownEvent
from watchbill.names import STEP_SEPARATOR
from watchbill.plan import submission
from watchbill.records import CrewDefinition

CHAIN: Final = "watches"
"""Field of a task's metadata: the watches that have led to it, the last of them begins it."""
EVENT: Final = "event"
"""Field of a task's metadata: the id of the event that has begun it."""
CHAIN_MAX: Final = 5
"""No more watches than these follow each other."""
_ID: Final = "watch-"
_EVENT: Final = re.compile(r"\{(\{)?event\.([A-Za-z_]*)\}(?(1)\})")
_FIELDS: Final = tuple(TownEvent.model_fields)


def work_id(watch: str, event_id: str) -> str:
    """The id of the task or run that this event begins."""
    return f"{_ID}{watch}-{event_id}"


def matches(watch: Watch, event: TownEvent, crew: CrewDefinition) -> bool:
    """Returns whether the watch is for this event, if it is one of the work that the watch means (`is_of`)."""
    if event.event_type not in watch.events or not (event.task_id or event.mission_id):
        return False
    if event.event_type is EventType.MISSION_STATE_CHANGED and watch.states and event.new_state not in watch.states:
        return False
    return watch.of_agent is None or event.agent_id == crew.agent_ids()[watch.of_agent]


def is_of(watch: Watch, payload: str | None) -> bool:
    """Returns whether the watch means the work of this payload; None: its record is gone."""
    return watch.of_heartbeat is None or _metadata(payload).get("heartbeat") == watch.of_heartbeat


def chain(event: TownEvent, payload: str | None) -> tuple[str, ...] | None:
    """The watches that have led to the event's task or run, whose payload this is; None: a watch has begun it, and it
    is no longer known which others came before. What people call `watches` in the metadata of their own work is
    none of that."""
    work = (event.mission_id or event.task_id or "").partition(STEP_SEPARATOR)[0]
    if payload is None:
        return None if work.startswith(_ID) else ()
    metadata = _metadata(payload)
    found = metadata.get(CHAIN)
    if not isinstance(found, list) or not found or work != work_id(str(found[-1]), str(metadata.get(EVENT))):
        return ()
    return tuple(map(str, found[-CHAIN_MAX:]))


def _metadata(payload: str | None) -> dict[str, Any]:
    """The metadata of a payload; empty, too, where it is not one of ours."""
    try:
        found = json.loads(payload or "{}")
    except ValueError:
        return {}
    metadata = found.get("metadata") if isinstance(found, dict) else None
    return metadata if isinstance(metadata, dict) else {}


def is_own(watch: Watch, before: tuple[str, ...] | None) -> bool:
    """Returns whether the event is of what this watch has begun itself."""
    return before is not None and before[-1:] == (watch.name,)


def refusal(watch: Watch, event: TownEvent, before: tuple[str, ...] | None) -> str:
    """The reason why the watch begins nothing; empty: it does. `before`: the watches that have led to the event."""
    if before is None:
        return f"{said(watch, event)} begins nothing: the record is gone that says which watches have led to it"
    way = " → ".join(before)
    if watch.name in before:
        return f"{said(watch, event)} begins nothing: it would go round in a circle ({way} → {watch.name})"
    if len(before) >= CHAIN_MAX:
        return f"{said(watch, event)} begins nothing: {CHAIN_MAX} watches have led to it already ({way})"
    return ""


def said(watch: Watch, event: TownEvent) -> str:
    """The watch and its event, as the feed says it."""
    return f"watch {watch.name}: {event.event_type} of {event.task_id or event.mission_id}"


def asked(text: str, event: TownEvent) -> str:
    """The text, a prompt's or an input's, with what it cites of the event. `{{event.message}}` is the text
    `{event.message}`."""
    known: dict[str, Any] = event.model_dump(mode="json", exclude_none=True)

    def value(match: re.Match[str]) -> str:
        escaped, name = match.groups()
        return f"{{event.{name}}}" if escaped else str(known.get(name, ""))

    return _EVENT.sub(value, text)


def check(crew: CrewDefinition) -> list[Problem]:
    """Texts of watches that cite what no event has, and work that the crew could not do."""
    found: list[Problem] = []
    for i, watch in enumerate(crew.watches):
        path = f"spec.watches[{i}]"
        found += _cited(watch, "the prompt", watch.prompt, f"{path}.prompt")
        for name, text in watch.inputs.items():
            found += _cited(watch, f"input {name!r}", text, f"{path}.inputs.{name}")
        found += _impossible(crew, watch, path)
    return found


def _cited(watch: Watch, what: str, text: str, path: str) -> Iterator[Problem]:
    for escaped, name in _EVENT.findall(text):
        if not escaped and name not in _FIELDS:
            fix = f"Cite one of {', '.join(f'{{event.{known}}}' for known in _FIELDS)}."
            reason = f"{what} of watch {watch.name!r} cites {{event.{name}}}, which no event has"
            yield Problem(reason, fix, path=path)


def _impossible(crew: CrewDefinition, watch: Watch, path: str) -> Iterator[Problem]:
    try:
        submission.check(crew, watch.prompt, agent=watch.agent, role=watch.role, inputs=watch.inputs)
    except InvalidInput as error:
        for problem in error.problems:
            at = f"{path}.{problem.path}"
            yield replace(problem, path=at, fix=f"Give it in {at}." if ".inputs." in at else problem.fix)
