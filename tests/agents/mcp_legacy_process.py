"""A tool server of protocol 2025-11-25, by standard input and output, without any library."""

from __future__ import annotations

import json
import sys
from typing import Any

TOOL = {"name": "upper", "description": "In capitals.", "inputSchema": {"type": "object", "properties": {"text": {}}}}


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    match asked["method"]:
        case "initialize":
            info = {"name": "old", "version": "0"}
            found = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info}
            return {"result": found}
        case "tools/list":
            return {"result": {"tools": [TOOL]}}
        case "tools/call":
            text = asked["params"]["arguments"]["text"].upper()
            return {"result": {"content": [{"type": "text", "text": text}]}}
    return {"error": {"code": -32601, "message": f"no method {asked['method']}"}}


if __name__ == "__main__":
    for line in sys.stdin:
        if "id" in (read := json.loads(line)):
            print(json.dumps({"jsonrpc": "2.0", "id": read["id"], **answer(read)}), flush=True)
