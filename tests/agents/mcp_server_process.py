"""A tool server that speaks MCP: `mcp_server_process.py stdio`, or `http PORT`."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("shop", version="1.2")


@server.tool()
def price(item: str, count: int = 1) -> float:
    """The price of so many items, in euros."""
    return {"lamp": 12.5, "chair": 80.0}[item] * count


@server.tool()
def variables() -> list[str]:
    """The names of the variables of the environment."""
    return sorted(os.environ)


@server.tool()
def stock(item: str) -> str:
    """How many there are. Nobody knows."""
    raise ToolError(f"nobody has counted {item}")


@server.tool()
def linger() -> int:
    """Starts a process that would outlive this one, and returns its id."""
    return subprocess.Popen(["sleep", "600"]).pid


@server.tool()
def die() -> None:
    """Ends the server at once."""
    sys.stderr.write("the shop burns\n")
    sys.stderr.flush()
    os._exit(3)


@server.tool()
def die_once(marker: str) -> str:
    """Ends the server at once, unless the file is there; makes it."""
    if os.path.exists(marker):
        return "alive"
    open(marker, "w").close()
    sys.stderr.write("the shop burns\n")
    sys.stderr.flush()
    os._exit(3)


@server.tool()
def pid() -> int:
    """The id of this process."""
    return os.getpid()


@server.tool()
def hang() -> None:
    """Answers too late."""
    time.sleep(600)


@server.tool()
def flood(size: int) -> str:
    """Returns so many letters."""
    return "x" * size


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        server.run("stdio")
    else:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[2]), stateless_http="stateless" in sys.argv)
