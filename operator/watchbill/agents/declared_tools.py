"""Finds the tools that a crew declares itself, by what its agents cite. Asks no server, and makes no request."""

from __future__ import annotations

from watchbill.agents import tool_servers
from watchbill.agents.importing import Unusable, suggest
from watchbill.agents.sources import Sources
from watchbill.agents.tools import Tool
from watchbill.api.tool_sources import REFERENCE
from watchbill.errors import MissingExtra, install
from watchbill.records import CrewDefinition


def find(crew: CrewDefinition, reference: str, sources: Sources, place: str = "") -> Tool | None:
    """The tool; None for one that is code. `place`: the crew's `namespace/name`. Raises Unusable."""
    if (declared := next((each for each in crew.http_tools if each.name == reference), None)) is not None:
        try:
            from watchbill.agents import http_tools  # aiohttp and jsonschema: most crews have no such tool
        except MissingExtra as error:
            raise Unusable(f"tool {reference!r} needs an optional part of Watchbill", install(error.extra)) from None
        return http_tools.tool(declared)
    if (match := REFERENCE.fullmatch(reference)) is None:
        return None
    server = next((each for each in crew.tool_servers if each.name == match[1]), None)
    if server is None:
        near = suggest(match[1], [each.name for each in crew.tool_servers])
        raise Unusable(f"there is no tool server {match[1]!r}{near}", "Add it to spec.toolServers.")
    for problem in tool_servers.check(server, sources):
        raise Unusable(problem.reason, problem.fix)
    return tool_servers.tool(place or f"default/{crew.name}", server, reference, crew.requires_approval)
