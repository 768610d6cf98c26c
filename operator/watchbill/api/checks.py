"""Checks that a schema and its rules can't make: circles in a flow, schemas of outputs, tools that are cited, members
of a hierarchy, the number of roles, cron expressions, names of time zones. Pure but for reading the time zone database.

These are not errors of the models, because a resource that breaks them can get onto a cluster, where it has to be read
in order to be told that it is Stalled.
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime

from watchbill.api import approvals, output_schema, tool_sources
from watchbill.api.crew import CREW_ROLES_MAX, Crew, CrewSpec
from watchbill.api.heartbeat import CRON_MACROS, Heartbeat, HeartbeatSpec
from watchbill.api.problems import Finding, nearest, quote
from watchbill.api.relations import edges, find_cycle
from watchbill.errors import Problem

_CRON_FIELDS = 5
_CRON_FIX = "Write five fields: minute, hour, day of month, month, day of week, as in '0 9 * * 1-5'."


def check(resource: Crew | Heartbeat) -> list[Problem]:
    """Problems of a valid resource for which it can't run, each with its path; empty when it can."""
    return [Problem(f.reason, f.fix, path=f.path) for f in findings(resource)]


def findings(resource: Crew | Heartbeat) -> list[Finding]:
    """Problems as `check` finds them, with places instead of paths, for callers that map places to lines of a file."""
    found = _timing(resource.spec) if isinstance(resource, Heartbeat) else _of_crew(resource.spec)
    return [Finding(("spec", *f.loc), f.reason, f.fix) for f in found]


def _of_crew(spec: CrewSpec) -> Iterator[Finding]:
    yield from _cycle(spec)
    yield from _schemas(spec)
    yield from _zones(spec)
    yield from _delegated(spec)
    yield from _roles(spec)
    cited: dict[tuple[str | int, ...], str] = {("sharedTools", j): tool for j, tool in enumerate(spec.shared_tools)}
    for i, agent in enumerate(spec.agents):
        cited |= {("agents", i, "tools", j): tool for j, tool in enumerate(agent.tools)}
    yield from tool_sources.findings(spec.tool_servers, spec.http_tools, cited)
    tools = {agent.name: agent.tools for agent in spec.agents}
    yield from approvals.unknown_tools(spec.requires_approval, tools, spec.shared_tools)


def _cycle(spec: CrewSpec) -> Iterator[Finding]:
    joined = edges((relation.source, relation.target) for relation in spec.flow_relations)
    cycle = find_cycle([agent.name for agent in spec.agents], joined)
    if cycle:
        reason = f"flowRelations go in a circle, so none of these could start: {' -> '.join(cycle)}"
        yield Finding(("flowRelations",), reason, "Remove one of these relations.")


def _schemas(spec: CrewSpec) -> Iterator[Finding]:
    for i, agent in enumerate(spec.agents):
        for found in output_schema.findings(agent.output_schema) if agent.output_schema else ():
            yield found._replace(loc=("agents", i, "outputSchema", *found.loc))


def _zones(spec: CrewSpec) -> Iterator[Finding]:
    for i, budget in enumerate(spec.budgets):
        if (zone := _zone_fault(budget.time_zone)) is not None:
            yield zone._replace(loc=("budgets", i, *zone.loc))


def _delegated(spec: CrewSpec) -> Iterator[Finding]:
    for i, agent in enumerate(spec.agents if spec.hierarchy else ()):
        for field, written in (("when", agent.when), ("forEach", agent.for_each)):
            if written is not None and spec.hierarchy and agent.name != spec.hierarchy.manager:
                reason = f"agent {agent.name!r} works whenever it is asked to, and can't have {field}"
                yield Finding(("agents", i, field), reason, "Remove it: its manager decides.")


def _roles(spec: CrewSpec) -> Iterator[Finding]:
    known: set[str] = set()
    for i, agent in enumerate(spec.agents):
        for j, role in enumerate(agent.roles):
            known.add(role)
            if len(known) > CREW_ROLES_MAX:
                reason = f"a crew has {CREW_ROLES_MAX} different roles at most, and {role!r} is one more"
                yield Finding(("agents", i, "roles", j), reason, "Give it a role that another agent has, or remove it.")
                return


def _timing(spec: HeartbeatSpec) -> Iterator[Finding]:
    if spec.schedule is not None and (fault := _cron_fault(spec.schedule)):
        yield Finding(("schedule",), f"{spec.schedule!r} {fault}", _CRON_FIX)
    if (zone := _zone_fault(spec.time_zone)) is not None:
        yield zone


def _cron_fault(expression: str) -> str | None:
    from cronsim import CronSim, CronSimError

    if expression.startswith("@") and expression.lower() not in CRON_MACROS:
        return f"is not the name of a schedule; there are {', '.join(CRON_MACROS)}"
    expression = CRON_MACROS.get(expression.lower(), expression)
    fields = expression.split()
    if len(fields) != _CRON_FIELDS:
        return f"is not a cron expression of five fields, but has {len(fields)}"
    try:
        # any fixed moment: whether an expression ever comes doesn't depend on it
        next(CronSim(expression, datetime(2000, 1, 1, tzinfo=UTC)))
    except CronSimError as error:
        return f"is not a cron expression: {str(error).lower()}"
    except StopIteration:
        return "is a time that never comes"
    return None


def _zone_fault(name: str) -> Finding | None:
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        meant = nearest(name, zoneinfo.available_timezones())
        fix = f"Write {meant!r}." if meant else "Use a name such as Europe/Berlin, or UTC."
        return Finding(("timeZone",), f"{quote(name)} is not a known time zone", fix)
    return None
