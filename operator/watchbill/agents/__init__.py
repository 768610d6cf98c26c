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
    """Close the HTTP clients that agents of this event loop share. A worker calls it once nothing runs any more."""
    if (llm := sys.modules.get("watchbill.agents.llm")) is not None:
        await llm.aclose_clients()
