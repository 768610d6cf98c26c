"""The limits of a crew's agents and models, as the store's scripts read them, and as people do. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from watchbill.api import CrewSpec
from watchbill.api.limits import ModelLimit, RateLimit
from watchbill.names import ROLE
from watchbill.plan.whereabouts import AgentLimit
from watchbill.records import AgentDefinition
from watchbill.terminal import span

_MICROS: Final = 1_000_000
_FIELD: Final = "\x1f"
_ITEM: Final = "\x1e"


@dataclass(frozen=True, slots=True)
class ModelRate:
    """The limit of a model, for spend.lua."""

    limit: ModelLimit
    every_us: int | None
    """Microseconds between two requests; None: they are not limited."""
    token_us: float | None
    """Microseconds for each token; None: they are not limited."""

    @property
    def said(self) -> str:
        """The limit in words."""
        asked = f"{self.limit.requests:,} requests" if self.limit.requests else ""
        tokens = f"{self.limit.tokens:,} tokens" if self.limit.tokens else ""
        return f"{' and '.join(part for part in (asked, tokens) if part)} in {self.limit.period_seconds} s"


def pack(agents: Sequence[AgentDefinition]) -> str:
    """Returns the agents that have limits or roles, and the roles with the places of their agents in this list, as
    lib_limits.lua takes them apart; empty: none has any."""
    listed = [one for one in agents if one.max_concurrent or one.rate_limit or one.roles]
    of_agents = [(one.agent_id, str(one.max_concurrent or ""), *_rate(one.rate_limit)) for one in listed]
    places: dict[str, list[str]] = {}
    for place, one in enumerate(listed, 1):
        for role in one.roles:
            places.setdefault(role, []).append(str(place))
    of_roles = [(ROLE + role, "", "", "", ",".join(found)) for role, found in places.items()]
    return _ITEM.join(map(_FIELD.join, (*of_agents, *of_roles)))


def at_once(crew: CrewSpec) -> int | None:
    """Returns how many tasks of the crew may run at once; None: any number, as an agent has no `maxConcurrent`."""
    most = [agent.max_concurrent for agent in crew.agents]
    return None if crew.synthesis is not None else sum(filter(None, most)) if all(most) else None


def told(agent: str, limit: AgentLimit) -> tuple[str, float | None, str]:
    """Returns why a task waits for the limits of its agent, or of all agents of its role, the seconds until it is
    likely to start (None: unknown), and a text about these."""
    behind = f"; {limit.before} of its tasks come first" if limit.before else ""
    if limit.role:
        busy = f"no agent of role {limit.role!r} has room by its maxConcurrent and its rateLimit; they run"
        away = f", and {limit.away} of them wait for a budget or a model" if limit.away else ""
        message = f"{busy} {limit.running} tasks{away}{behind.replace('of its tasks', 'tasks of the role')}"
        return message, None, "unknown: when a task of one of them ends, or its rate lets one start"
    full = f"{limit.running} tasks of its agent {agent!r} run, and maxConcurrent allows {limit.most}"
    at_end = "unknown: when a task of the agent ends"
    is_full = limit.most is not None and limit.running >= limit.most
    if limit.every_seconds is None:
        return f"{full}{behind}", None, at_end if is_full or limit.before else "at the next claim of a worker"
    burst = f", or {limit.burst} at once" if limit.burst > 1 else ""
    rate = f"rateLimit of its agent {agent!r} lets one task start every {span(limit.every_seconds)}{burst}"
    if is_full:
        return f"{full}; {rate}{behind}", None, at_end
    seconds = limit.next_seconds + limit.before * limit.every_seconds
    return f"{rate}{behind}", seconds, f"not before {span(seconds)} from now, if a slot is free then"


def of_model(limits: Sequence[ModelLimit], model: str) -> ModelRate | None:
    """Returns the limit of a model, by the name that agents have for it; None: it has none."""
    for limit in limits:
        if limit.model == model:
            period_us = limit.period_seconds * _MICROS
            every_us = None if limit.requests is None else _every_us(limit.period_seconds, limit.requests)
            return ModelRate(limit, every_us, None if limit.tokens is None else period_us / limit.tokens)
    return None


def _rate(limit: RateLimit | None) -> tuple[str, str]:
    if limit is None:
        return "", ""
    return str(_every_us(limit.period_seconds, limit.requests)), str(limit.burst)


def _every_us(period_seconds: int, requests: int) -> int:
    """Microseconds between two of so many in a period."""
    return -(-period_seconds * _MICROS // requests)
