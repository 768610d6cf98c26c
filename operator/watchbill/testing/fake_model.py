"""A model that answers by script, behind a real HTTP server that speaks OpenAI's two APIs and Anthropic's."""

from __future__ import annotations

import functools
import inspect
import itertools
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

from aiohttp import web

from watchbill.testing.fake_answers import (
    ANTHROPIC,
    BODIES,
    CHAT,
    RESPONSES,
    STREAMS,
    Answer,
    Dribbled,
    ErrorAnswer,
    Event,
    Expired,
    Made,
    Raw,
    Streamed,
    error,
    has_text,
)
from watchbill.testing.fake_batches import FakeBatches

_DONE: Final = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Request:
    """A request to the model."""

    api: str
    """`chat` or `responses`, which are OpenAI's two APIs, or `anthropic`."""
    body: dict[str, Any]
    """The request as sent."""
    headers: Mapping[str, str] = field(repr=False)
    batch: str = ""
    """The id of the batch that it came with; empty: it came by itself."""

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation so far, in the form of its API."""
        found: list[dict[str, Any]] = self.body["input" if self.api == RESPONSES else "messages"]
        return found

    @property
    def prompt(self) -> str:
        """The last thing the user said."""
        said = [_text(m["content"]) for m in self.messages if m.get("role") == "user"]
        return next((text for text in reversed(said) if text or self.api != ANTHROPIC), "")

    @property
    def instructions(self) -> str:
        """The system prompt."""
        given = [self.body.get("instructions") or "", _text(self.body.get("system") or "")]
        given += [_text(m["content"]) for m in self.messages if m.get("role") in {"system", "developer"}]
        return "\n".join(filter(None, given))

    @property
    def tools(self) -> list[str]:
        """The names of the tools that were offered."""
        return [tool.get("function", tool)["name"] for tool in self.body.get("tools") or []]

    @property
    def tool_results(self) -> list[str]:
        """The results of tools so far, in order."""
        if self.api == ANTHROPIC:
            parts = [part for m in self.messages if isinstance(m["content"], list) for part in m["content"]]
            return [_text(part.get("content") or "") for part in parts if part["type"] == "tool_result"]
        if self.api == CHAT:
            return [_text(m["content"]) for m in self.messages if m.get("role") == "tool"]
        return [_text(m["output"]) for m in self.messages if m.get("type") == "function_call_output"]


class FakeModel:
    """A model behind a real HTTP server, speaking OpenAI's chat completions and responses, and Anthropic's
    messages, at once or as a stream.

    `answers` is a list, given out in order, or a function of the `Request`, sync or async (await something that
    never comes, to try a timeout). A request beyond the list is answered with HTTP 500, and the message says so.
    Every answer claims to have cost `input_tokens` and `output_tokens`. It listens at `host` and `port`, 0 for one that
    is free: in a pod, `host="0.0.0.0"` lets a crew's workers in.

    Use it as an async context manager, and its `base_url` as the agent's `baseURL`; for models of `anthropic:` its
    `anthropic_url`. `requests` has what was asked; what comes in a batch (`batches`) is asked when that ends.
    """

    def __init__(
        self,
        answers: Sequence[Answer] | Callable[[Request], Answer | Awaitable[Answer]],
        *,
        input_tokens: int = 10,
        output_tokens: int = 5,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.requests: list[Request] = []
        self._address = (host, port)
        self.batches = FakeBatches(self._respond)
        """Its batch APIs."""
        self._answers = answers
        self._usage = (input_tokens, output_tokens)
        self._ids = itertools.count(1)
        self._runner: web.AppRunner | None = None
        self._base_url: str | None = None

    @property
    def base_url(self) -> str:
        """Ends with `/v1`."""
        if self._base_url is None:
            raise RuntimeError("FakeModel isn't started: use it as `async with FakeModel(...) as model:`")
        return self._base_url

    @property
    def anthropic_url(self) -> str:
        """The server's URL as Anthropic's library takes it."""
        return self.base_url.removesuffix("/v1")

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        for path, api in (("chat/completions", CHAT), ("responses", RESPONSES), ("messages", ANTHROPIC)):
            app.router.add_post(f"/v1/{path}", functools.partial(self._handle, api))
        self.batches.add_routes(app.router)
        # A handler that waits for ever, as a timeout's test wants, must not hold up the end.
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, *self._address).start()
        host, port = self._runner.addresses[0][:2]
        self._base_url = f"http://{host}:{port}/v1"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _respond(
        self, api: str, body: dict[str, Any], headers: Mapping[str, str], batch: str
    ) -> tuple[Answer, dict[str, Any]]:
        answer = await self._scripted(Request(api, body, headers, batch))
        if isinstance(answer, Raw):
            answer = ErrorAnswer(500, "the answer to a request of a batch can't be any body")
        if isinstance(answer, ErrorAnswer | Expired):
            return answer, {}
        return answer, BODIES[api](Made(answer, body.get("model", ""), *self._usage, self._ids))

    async def _answer(self, api: str, received: web.Request) -> tuple[Request, Answer]:
        request = Request(api, await received.json(), dict(received.headers))
        return request, await self._scripted(request)

    async def _scripted(self, request: Request) -> Answer:
        self.requests.append(request)
        if callable(self._answers):
            answer = self._answers(request)
            return await answer if inspect.isawaitable(answer) else answer
        number = len(self.requests)
        if number > len(self._answers):
            return ErrorAnswer(500, f"FakeModel has {len(self._answers)} answers, and this is request {number}")
        return self._answers[number - 1]

    async def _handle(self, api: str, received: web.Request) -> web.StreamResponse:
        request, answer = await self._answer(api, received)
        if isinstance(answer, Expired):
            answer = ErrorAnswer(500, "only a request of a batch can expire")
        if isinstance(answer, ErrorAnswer):
            return web.json_response(error(answer, api), status=answer.status, headers=answer.headers)
        if isinstance(answer, Raw):
            return web.Response(text=answer.body, content_type=answer.content_type)
        body = request.body
        made = Made(answer, body.get("model", ""), *self._usage, self._ids)
        if isinstance(answer, Dribbled):
            return await _dribble(api, made, answer, received, stream=bool(body.get("stream")))
        if body.get("stream"):
            return await _stream(api, made, received)
        return web.json_response(BODIES[api](made))


async def _stream(api: str, made: Made, received: web.Request) -> web.StreamResponse:
    """Sends an answer as events, one by one."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(received)
    told = made.answer if isinstance(made.answer, Streamed) else Streamed(made.pieces)
    left = len(told.pieces)
    for event in STREAMS[api](made):
        await response.write(_line(event))
        if has_text(event):
            left -= 1
            if told.between:
                await told.between()
        if told.unfinished and left <= 0:
            await response.write_eof()
            return response
        if told.broken and left <= 0:
            if received.transport is not None:
                received.transport.abort()
            return response
    if api == CHAT:
        await response.write(_DONE)
    await response.write_eof()
    return response


async def _dribble(
    api: str, made: Made, answer: Dribbled, received: web.Request, *, stream: bool
) -> web.StreamResponse:
    """Sends an answer in bits, which end anywhere."""
    if stream:
        whole = b"".join(map(_line, STREAMS[api](made))) + (_DONE if api == CHAT else b"")
    else:
        whole = json.dumps(BODIES[api](made), ensure_ascii=False).encode()
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream" if stream else "application/json"})
    await response.prepare(received)
    for at in range(0, len(whole), answer.size):
        await response.write(whole[at : at + answer.size])
        if answer.between:
            await answer.between()
    await response.write_eof()
    return response


def _line(event: Event) -> bytes:
    kind, data = event
    return (f"event: {kind}\n" if kind else "").encode() + f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def _text(content: Any) -> str:
    """Text content, which both APIs allow as a string or as a list of parts."""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content or ())
