"""Tools that a crew declares as HTTP requests. Imported only if a crew has one.

A model gives the arguments. They fill the path and the query of a URL, percent-encoded, or a JSON body; they can't
change the host, nor a header.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote, urlencode

import aiohttp
from yarl import URL

from watchbill.agents import outgoing, schemas
from watchbill.agents.tools import Tool
from watchbill.api.tool_sources import PLACEHOLDER, HttpTool
from watchbill.errors import RetryAfter, RetryLater, UserActionRequired
from watchbill.plan import retry_after
from watchbill.redaction import redact

_BODY: Final = frozenset({"POST", "PUT", "PATCH"})
_NOT_THE_MODELS: Final = frozenset({401, 403, 407})
_LATER: Final = frozenset({408, 425, 429})
_SAID_MAX: Final = 1000
_NO_ARGUMENTS: Final[Mapping[str, Any]] = {"type": "object", "properties": {}, "additionalProperties": False}


def tool(declared: HttpTool) -> Tool:
    """The tool that a crew declares. Makes no request."""
    schema = declared.parameters or _NO_ARGUMENTS

    async def request(**arguments: Any) -> Any:
        schemas.check(schema, arguments)
        return await _send(declared, arguments)

    declaration = declared.model_dump_json(exclude_defaults=True)
    return Tool(declared.name, request, schema=schema, about=declared.description, declaration=declaration)


async def _send(declared: HttpTool, arguments: Mapping[str, Any]) -> Any:
    url, body = _written(declared, arguments)
    given = outgoing.headers(declared.headers, f"tool {declared.name!r}")
    data = None
    if body is not None:
        data = json.dumps(body).encode()
        given = {"Content-Type": "application/json", **given}
    try:
        async with asyncio.timeout(declared.timeout_seconds):
            target = URL(url, encoded=True)
            async with outgoing.session(url).request(
                declared.method, target, data=data, headers=given, allow_redirects=False
            ) as response:
                return _judged(response, await outgoing.read(response))
    except (aiohttp.InvalidURL, aiohttp.ClientError, OSError, TimeoutError) as error:
        raise outgoing.unreachable(error, url) from None


def _written(declared: HttpTool, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any] | None]:
    """The URL and the body of the request. Raises ValueError for an argument that can't be part of a path."""
    rest = dict(arguments)
    cited = set(PLACEHOLDER.findall(declared.url))

    def filled(name: str) -> str:
        text = _text(arguments[name])
        if text in ("", ".", ".."):  # would name another place
            raise ValueError(f"{name} can't be {text!r}")
        return quote(text, safe="")

    url = PLACEHOLDER.sub(lambda match: filled(match[1]), declared.url)
    for name in cited:
        rest.pop(name)
    if declared.method in _BODY:
        return url, rest
    pairs = [
        (name, _text(each))
        for name, value in rest.items()
        for each in (value if isinstance(value, list) else [value])
        if each is not None
    ]
    before, hash_, fragment = url.partition("#")
    if pairs:
        before += ("&" if "?" in before else "?") + urlencode(pairs)
    return before + hash_ + fragment, None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _judged(response: aiohttp.ClientResponse, body: bytes) -> Any:
    """The answer for the model. Raises ValueError for what it may mend, else the errors that agents raise."""
    status, text = response.status, body.decode("utf-8", "replace")
    if 200 <= status < 300:
        if "json" in response.headers.get("Content-Type", ""):
            try:
                return json.loads(text)
            except ValueError:
                return text
        return text
    said = f"HTTP {status}: {redact(text)[:_SAID_MAX]}"
    if 300 <= status < 400:
        raise UserActionRequired(f"HTTP {status}. Redirects are not followed: write the URL that it leads to")
    if status in _NOT_THE_MODELS:
        raise UserActionRequired(f"{said}. Check the tool's headers")
    if status >= 500 or status in _LATER:
        now = datetime.now(UTC)  # noqa: TID251 - a server may say until when to wait
        wait = retry_after.in_headers(response.headers, now)
        raise RetryLater(said) if wait is None else RetryAfter(said, wait)
    raise ValueError(said)
