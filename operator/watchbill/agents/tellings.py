"""Makes the events that agents tell, and checks what they are given. Does no I/O."""

from __future__ import annotations

from typing import Final

from watchbill.errors import InvalidInput, Problem
from watchbill.event_types import EventType, SpawnMode, Telling

_SPOKEN_MAX: Final = 100_000
"""Maximum length of one message. Far less is kept, but a secret must not be cut in two before it is redacted, which
happens on the worker's event loop."""


def spoken(message: object, by: str = "emit") -> str:
    """The message, cut to the length that is processed. Raises TypeError if it is not text."""
    if not isinstance(message, str):
        raise TypeError(f"{by} takes a text, not {type(message).__name__}: {repr(message)[:80]}. Give it as text")
    return message[:_SPOKEN_MAX]


def emission(message: str) -> Telling:
    """Returns the event that `emit` tells. Raises TypeError if the message is not text."""
    return Telling(EventType.MISSION_EVENT, spoken(message))


def delegation(agent: str, message: str, scope: str | None, spawn_mode: SpawnMode | str) -> Telling:
    """Returns the event that `delegate` tells. Raises InvalidInput, and TypeError for what is no text."""
    mode = next((mode for mode in SpawnMode if mode == spawn_mode), None)
    if mode is None:
        fix = f"Use one of {', '.join(SpawnMode)}."
        raise InvalidInput(Problem(f"{spawn_mode!r} is no spawn mode", fix, path="spawn_mode"))
    child = _named(agent, "agent")
    return Telling(
        EventType.TASK_DELEGATED, spoken(message, "delegate"), child=child, scope=scope_of(scope), spawn_mode=mode
    )


def handoff(reviewer: str, message: str, scope: str | None) -> Telling:
    """Returns the event that `hand_off_for_review` tells. Raises as `delegation` does."""
    child, text = _named(reviewer, "reviewer"), spoken(message, "hand_off_for_review")
    return Telling(EventType.REVIEWER_HANDOFF, text, child=child, scope=scope_of(scope))


def approval(agent: str, message: str) -> Telling:
    """Returns the event that `approve` tells. Raises as `delegation` does."""
    return Telling(EventType.REVIEWER_APPROVAL, spoken(message, "approve"), parent=_named(agent, "agent"))


def escalation(message: str, to: str | None) -> Telling:
    """Returns the event that `escalate` tells. Raises as `delegation` does."""
    parent = None if to is None else _named(to, "to")
    return Telling(EventType.CONDUCTOR_ESCALATION, spoken(message, "escalate"), parent=parent)


def _named(agent: object, path: str) -> str:
    if not isinstance(agent, str) or not agent:
        raise InvalidInput(Problem(f"{agent!r} is no name of an agent", "Name an agent of the crew.", path=path))
    return agent


def scope_of(scope: str | None) -> str | None:
    """Returns the text of a scope, or None. Raises TypeError for what is no text."""
    return None if scope is None else spoken(scope, "scope")
