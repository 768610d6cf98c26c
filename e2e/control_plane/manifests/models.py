"""Manifests about language models and tools: what both take, what both refuse, and what only `parse` can refuse."""

from __future__ import annotations

from typing import Any, Final

from e2e.control_plane.manifests import Refused, changed, crew

_AGENT: Final = "spec.agents[0]"
_SERVER: Final = {"name": "docs", "url": "https://docs.example.com/mcp"}
_COMMAND: Final = {"name": "git", "command": ["mcp-server-git", "--read-only"], "env": ["GIT_TOKEN"]}
_TOOL: Final[dict[str, Any]] = {
    "name": "price",
    "description": "The price of an item.",
    "url": "https://shop.example.com/items/{item}",
    "parameters": {"type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]},
}
_SCHEMA: Final[dict[str, Any]] = {"type": "object", "properties": {"done": {"type": "boolean"}}, "required": ["done"]}
_FALLBACK: Final = {"model": "openai:x", "baseURL": "https://models.example.com/v1"}


def _crew(servers: Any = (_SERVER, _COMMAND), tools: Any = (_TOOL,), **agent: Any) -> dict[str, Any]:
    given = {"spec.toolServers": list(servers), "spec.httpTools": list(tools)}
    return crew({**given, **{f"{_AGENT}.{field}": value for field, value in agent.items()}})


def _server(**changes: Any) -> dict[str, Any]:
    return _crew(servers=[changed(_SERVER, changes)])


def _tool(**changes: Any) -> dict[str, Any]:
    return _crew(tools=[changed(_TOOL, changes)])


ACCEPTED: Final = {
    "all of models and tools": changed(
        _crew(outputSchema=_SCHEMA, fallbackModels=[_FALLBACK, {"model": "test"}]),
        {
            "spec.baseURL": "https://gateway.example.com/v1",
            "spec.sharedTools": ["price", "docs/search", "git/*"],
        },
    ),
    "8 fallback models": _crew(fallbackModels=[_FALLBACK] * 8),
    "a synthesis on a server of its own": crew(
        {"spec.synthesis": {"model": "openai:x", "baseURL": "http://h/v1", "fallbackModels": [_FALLBACK] * 8}}
    ),
    "16 tool servers with 16 headers each": _crew(
        servers=[
            {**_SERVER, "name": f"d{i}", "headers": {f"X-{j}": f"Bearer env:{'A' * 245}" for j in range(16)}}
            for i in range(16)
        ]
    ),
    "50 tools with URLs of 2048 characters": _crew(
        tools=[{"name": f"t{i}", "description": "d", "url": "https://h/".ljust(2048, "x")} for i in range(50)]
    ),
}

_USER: Final = "has a user or password in it"
_WRITTEN: Final = "the value of a header is written out"
REFUSED: Final = [
    Refused("a server of neither kind", _crew(servers=[{"name": "d"}]), "spec.toolServers[0].url", says="has a url or"),
    Refused("a server of both kinds", _server(command=["x"]), "spec.toolServers[0].url", says="has a url or a command"),
    Refused("a server with a password", _server(url="https://a:b@h/"), "spec.toolServers[0].url", says=_USER),
    Refused("a tool with a password", _tool(url="https://a:b@h/{item}"), "spec.httpTools[0].url", says=_USER),
    Refused("a server with a key", _server(headers={"X-Key": "k-1"}), "spec.toolServers[0].headers", says=_WRITTEN),
    Refused("a tool with a key", _tool(headers={"X-Key": "k-1"}), "spec.httpTools[0].headers", says=_WRITTEN),
    Refused("a server of ftp", _server(url="ftp://h/"), "spec.toolServers[0].url"),
    Refused("a server with a slash in its name", _server(name="a/b"), "spec.toolServers[0].name"),
    Refused("a tool without a description", _tool(description=""), "spec.httpTools[0].description"),
    Refused("a tool of method HEAD", _tool(method="HEAD"), "spec.httpTools[0].method"),
    Refused("a crew's server with a password", crew({"spec.baseURL": "http://a:b@h/"}), "spec.baseURL", says=_USER),
    Refused(
        "a fallback with a password",
        _crew(fallbackModels=[{"model": "openai:x", "baseURL": "http://a:b@h/"}]),
        f"{_AGENT}.fallbackModels[0].baseURL",
        says=_USER,
    ),
    Refused(
        "a synthesis's server with a password",
        crew({"spec.synthesis": {"model": "openai:x", "baseURL": "http://a:b@h/"}}),
        "spec.synthesis.baseURL",
        says=_USER,
    ),
    Refused(
        "a synthesis with 9 fallback models",
        crew({"spec.synthesis": {"model": "openai:x", "fallbackModels": [_FALLBACK] * 9}}),
        "spec.synthesis.fallbackModels",
    ),
    Refused("9 fallback models", _crew(fallbackModels=[_FALLBACK] * 9), f"{_AGENT}.fallbackModels"),
    Refused("a schema that is a text", _crew(outputSchema="object"), f"{_AGENT}.outputSchema"),
]

CHECKED: Final = [
    Refused(
        "a schema of a list", _crew(outputSchema={"type": "array"}), f"{_AGENT}.outputSchema.type", problem="object"
    ),
    Refused(
        "a misspelt keyword",
        _crew(outputSchema={**_SCHEMA, "requird": []}),
        f"{_AGENT}.outputSchema.requird",
        problem="requird",
    ),
    Refused("a host by argument", _tool(url="https://{item}/"), "spec.httpTools[0].url", problem="in the host"),
    Refused(
        "a tool of a server that is not there",
        crew({"spec.sharedTools": ["dox/a"]}),
        "spec.sharedTools[0]",
        problem="no tool server",
    ),
]
