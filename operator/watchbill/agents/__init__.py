"""Agents and tools: the context of a run, the loader of agents and tools, and the agents that come with Watchbill.

Light to import: `LLMAgent` and the library behind it are loaded only when a crew uses it.
"""

from __future__ import annotations

import sys

from watchbill.agents.context import Context
from watchbill.agents.loading import AgentLoader, Runner
from watchbill.agents.tools import Tool

__all__ = ["AgentLoader", "Context", "Runner", "Tool", "aclose_clients"]


async def aclose_clients() -> None:
    """Close the HTTP clients and tool servers that agents of this event loop share. A worker calls it once nothing runs
    any more."""
    for module in ("watchbill.agents.tool_servers", "watchbill.agents.outgoing", "watchbill.agents.providers"):
        if (loaded := sys.modules.get(module)) is not None:
            await loaded.aclose()
