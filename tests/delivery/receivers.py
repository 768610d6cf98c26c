"""Receivers to deliver to: real servers on this machine, which note what they get."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from watchbill.api.delivery import Destination
from watchbill.delivery import Message
from watchbill.tasks import TaskResult


def message(**changes: Any) -> Message:
    result = TaskResult(task_id="t1", agent_name="writer", success=True, output="Done.", execution_time_ms=1234.5)
    return Message.of(result, "t1.ops", 1).model_copy(update=changes)


def destination(**channel: Any) -> Destination:
    return Destination.model_validate({"name": "ops", **channel})


@dataclass
class Got:
    """One request."""

    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Receiver:
    """An HTTP server that answers as it is told, and with 200 otherwise."""

    url: str = ""
    got: list[Got] = field(default_factory=list)
    answers: list[web.StreamResponse] = field(default_factory=list)
    hold: asyncio.Event | None = None
    """Set: no answer before that."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.got.append(Got(request.raw_path, request.headers, await request.read()))
        if self.hold is not None:
            await self.hold.wait()
        return self.answers.pop(0) if self.answers else web.Response()

    def answer(self, status: int, text: str = "", **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers.append(web.Response(status=status, text=text, headers=named))


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def raw(serve: Serve, tls: ssl.SSLContext | None = None) -> tuple[asyncio.Server, int]:
    """A TCP server that speaks for itself, and its port."""

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(one, "127.0.0.1", 0, ssl=tls)
    return server, server.sockets[0].getsockname()[1]


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and localhost that vouches for itself, and its key."""
    key, found = folder / "server.key", folder / "server.crt"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    command += ["-keyout", str(key), "-out", str(found), "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    return found, key
