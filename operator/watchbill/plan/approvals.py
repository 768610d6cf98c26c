"""Decides what an approval means for the task that asked for it, and how it is told. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from watchbill.errors import ApprovalRejected, ApprovalTimedOut, InvalidInput, Problem
from watchbill.records import AgentDefinition, CrewDefinition
from watchbill.tasks import Approval

TO_BEGIN: Final = ""
"""The approval for the beginning of a task, by its `what`."""
WHAT_MAX: Final = 500
"""Characters of what an agent asks approval for."""
MOST: Final = 100
"""Approvals that one task may ask for."""
PROMPT_MAX: Final = 1024 * 1024
"""Characters of a prompt whose task waits for approval to begin. Whoever decides must see all of them."""
_PROMPT_MAX: Final = 300


def is_needed(crew: CrewDefinition, agent: AgentDefinition) -> bool:
    """Returns whether somebody must approve of each task of this agent before it begins."""
    return not {agent.agent_id, agent.effective_name}.isdisjoint(crew.requires_approval)


def granted(known: Sequence[Approval], what: str, now: datetime, details: str = "") -> Approval | None:
    """Returns the approval for `what`; None: nobody has decided yet, or been asked. `details`: what whoever decides
    must have been shown; one that shows nothing was asked for by an older Watchbill, and counts. Raises
    ApprovalRejected, and ApprovalTimedOut if the time for it is over."""
    found = next((one for one in known if one.what == what), None)
    if found is None or (details and found.details not in ("", details)):
        return None
    if found.state == "approved":
        return found
    if found.state == "rejected":
        raise ApprovalRejected(f"rejected: {found.reason or 'without a reason'} ({_named(what)})")
    if found.until <= now:
        seconds = (found.until - found.asked_at).total_seconds()
        raise ApprovalTimedOut(f"nobody approved within {seconds:g} s ({_named(what)})")
    return None


def checked(what: object) -> str:
    """Returns what an agent asks approval for as one line. Raises InvalidInput if it can't be that."""
    said = " ".join(what.split()) if isinstance(what, str) else ""
    if not said or len(said) > WHAT_MAX or not said.isprintable():
        fix = f"Say in 1 to {WHAT_MAX} printable characters what is to be approved."
        raise InvalidInput(Problem(f"{str(what)[:80]!r} can't be asked approval for", fix, path="what"))
    return said


def to_begin(prompt: str) -> dict[str, str]:
    """Returns what a task asks approval for before it begins: `Approval.what` → its details. Raises InvalidInput for a
    prompt that is too long to be shown."""
    if len(prompt) > PROMPT_MAX:
        reason = f"its prompt has {len(prompt):,} characters, and whoever approves must see all of them"
        fix = f"Give its agent a prompt that cites less: {PROMPT_MAX:,} are possible."
        raise InvalidInput(Problem(reason, fix, path="prompt"))
    return {TO_BEGIN: as_details(prompt)}


def as_details(prompt: str) -> str:
    """Returns what whoever decides about the beginning of a task is shown, as `Approval.details`."""
    return json.dumps(prompt, ensure_ascii=False)


def request(what: str, prompt: str = "") -> str:
    """Returns the message by which people hear that a task waits. `prompt`: the task's, where its beginning waits."""
    if what != TO_BEGIN:
        return f"waits for approval: {what}"
    return f"waits for approval to begin: {_short(' '.join(prompt.split()))}"


def requests(asked: Mapping[str, str]) -> str:
    """Returns the message by which people hear what a task waits for: `Approval.what` → its details."""
    return "; ".join(f"{request(what)} {_short(details)}".rstrip() for what, details in asked.items())


def _short(text: str) -> str:
    return text if len(text) <= _PROMPT_MAX else f"{text[:_PROMPT_MAX]}…"


def _named(what: str) -> str:
    return f"what it asked for: {what}" if what else "it asked to begin"
