"""The tool servers of the crews that this process works for: one connection per server, begun when it is first needed.

A connection belongs to the event loop that opened it. It stays until `aclose`, or until the server ends; then the next
call begins another. Nothing of MCP is imported before that.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from watchbill.agents.importing import suggest
from watchbill.agents.sources import Sources
from watchbill.agents.tools import Tool
from watchbill.api.approvals import needs
from watchbill.api.tool_sources import ALL, REFERENCE, ToolServer
from watchbill.errors import Problem, UserActionRequired, install

if TYPE_CHECKING:
    from watchbill.agents.mcp_client import Connection

SETTING: Final = "WATCHBILL_ALLOW_COMMANDS"
CHOSEN: Final = "command:"
"""Begins a command line among the references that the person who starts this process has written."""
_NAME: Final = re.compile(r"[^A-Za-z0-9_-]")
_NAME_MAX: Final = 64

_connections: dict[asyncio.AbstractEventLoop, dict[str, Connection]] = {}


def chosen(server: ToolServer) -> str:
    """The reference that allows exactly this server's command line."""
    return CHOSEN + shlex.join(server.command or ())


def check(server: ToolServer, sources: Sources) -> list[Problem]:
    """Problems for which this process may not, or can't, use a server. Starts nothing."""
    if importlib.util.find_spec("mcp") is None:
        return [Problem(f"tool server {server.name!r} needs an optional part of Watchbill", install("mcp"))]
    if server.command is not None and not _allowed(server, sources):
        line = shlex.join(server.command)
        reason = f"tool server {server.name!r} runs {line!r}, which this worker may not start"
        fix = f"Set {SETTING}={line} in the worker's environment, or the beginning of it."
        return [Problem(reason, fix)]
    return []


def _allowed(server: ToolServer, sources: Sources) -> bool:
    command = list(server.command or ())
    beginnings = [shlex.split(each) for each in os.environ.get(SETTING, "").split(",")]
    return chosen(server) in sources.chosen or any(each and command[: len(each)] == each for each in beginnings)


def tool(crew: str, server: ToolServer, reference: str, approved: Sequence[str] = ()) -> Tool:
    """The tool, or all tools, of a server that a reference names. Asks nothing of the server. `approved`: references to
    tools whose calls need approval."""
    match = REFERENCE.fullmatch(reference)
    wanted = match[2] if match else ALL

    async def call(**arguments: Any) -> Any:
        if wanted == ALL:
            raise UserActionRequired(f"{reference!r} is no tool: name one, as in {server.name}/NAME")
        connection = _connection(crew, server)
        _find(server, await offered_by(connection), wanted)
        return await connection.call(wanted, arguments)

    async def listed() -> Sequence[Tool]:
        connection = _connection(crew, server)
        offered = await offered_by(connection)
        names = offered if wanted == ALL else [_find(server, offered, wanted)]
        found = {name: _of_server(connection, server, offered, name) for name in names}
        return [replace(one, needs_approval=needs(approved, f"{server.name}/{name}")) for name, one in found.items()]

    async def offered_by(connection: Connection) -> Mapping[str, Any]:
        offered = await connection.tools()
        for cited in approved:  # a misspelt one must not let calls pass
            of_server = REFERENCE.fullmatch(cited)
            if of_server and of_server[1] == server.name and of_server[2] != ALL:
                _find(server, offered, of_server[2])
        return offered

    about, declaration = f"A tool of the server {server.name!r}.", _declaration(server, wanted)
    return Tool(reference, call, about=about, listed=listed, declaration=declaration)


def _of_server(connection: Connection, server: ToolServer, offered: Mapping[str, Any], name: str) -> Tool:
    async def call(**arguments: Any) -> Any:
        return await connection.call(name, arguments)

    shown = _NAME.sub("_", f"{server.name}_{name}")[:_NAME_MAX]
    about, declaration = offered[name].description or "", _declaration(server, name)
    return Tool(shown, call, schema=offered[name].input_schema, about=about, declaration=declaration)


def _declaration(server: ToolServer, name: str) -> str:
    return f"{name} {server.model_dump_json(exclude_defaults=True)}"


def _find(server: ToolServer, offered: Mapping[str, Any], name: str) -> str:
    if name in offered:
        return name
    listed = ", ".join(offered) or "none"
    raise UserActionRequired(
        f"tool server {server.name!r} has no tool {name!r}{suggest(name, offered)}. It has: {listed}"
    )


def _connection(crew: str, server: ToolServer) -> Connection:
    from watchbill.agents.mcp_client import Connection  # half a second, and most crews have no server

    for old in [known for known in _connections if known.is_closed()]:
        _connections.pop(old, None)
    shared = _connections.setdefault(asyncio.get_running_loop(), {})
    key = f"{crew} {server.model_dump_json()}"
    if key not in shared:
        shared[key] = Connection(crew, server)
    return shared[key]


async def aclose() -> None:
    """Ends the connections of the running event loop, and the processes of their servers."""
    ours = _connections.pop(asyncio.get_running_loop(), {}).values()
    await asyncio.gather(*(each.aclose() for each in ours))
