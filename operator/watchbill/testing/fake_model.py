"""A model that answers by script, behind a real HTTP server that speaks OpenAI's two APIs."""

from __future__ import annotations

import inspect
import itertools
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

from aiohttp import web

CHAT: Final = "chat"
RESPONSES: Final = "responses"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model asks for a tool."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """The provider answers with this HTTP status instead, and with these headers, as `{"Retry-After": "25"}`."""

    status: int
    message: str = "scripted error"
    headers: Mapping[str, str] = field(default_factory=dict)
    code: int | str | None = None
    """Code of the error in the body. Gateways answer with status 200, and put the real status here."""


@dataclass(frozen=True, slots=True)
class CutOff:
    """The model's text ends here, because it has reached its limit of tokens (`max_tokens`)."""

    text: str


Answer = str | CutOff | ToolCall | Sequence[ToolCall] | ErrorAnswer
"""An answer of a model: text, text that is cut off, one or more tool calls, or an error."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request to the model."""

    api: str
    """`chat` or `responses`: which of OpenAI's two APIs was used."""
    body: dict[str, Any]
    """The request as sent."""
    headers: Mapping[str, str] = field(repr=False)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation so far, in the form of its API."""
        found: list[dict[str, Any]] = self.body["messages" if self.api == CHAT else "input"]
        return found

    @property
    def prompt(self) -> str:
        """The last thing the user said."""
        said = [m["content"] for m in self.messages if m.get("role") == "user"]
        return _text(said[-1]) if said else ""

    @property
    def instructions(self) -> str:
        """The system prompt."""
        given = [self.body.get("instructions") or ""]
        given += [_text(m["content"]) for m in self.messages if m.get("role") in {"system", "developer"}]
        return "\n".join(filter(None, given))

    @property
    def tools(self) -> list[str]:
        """The names of the tools that were offered."""
        return [tool.get("function", tool)["name"] for tool in self.body.get("tools") or []]

    @property
    def tool_results(self) -> list[str]:
        """The results of tools so far, in order."""
        if self.api == CHAT:
            return [_text(m["content"]) for m in self.messages if m.get("role") == "tool"]
        return [_text(m["output"]) for m in self.messages if m.get("type") == "function_call_output"]


class FakeModel:
    """A model behind a real HTTP server on 127.0.0.1, speaking OpenAI's chat completions and responses.

    `answers` is a list, given out in order, or a function of the `Request`, sync or async (await something that
    never comes, to try a timeout). A request beyond the list is answered with HTTP 500, and the message says so.
    Every answer claims to have cost `input_tokens` and `output_tokens`.

    Use it as an async context manager, and its `base_url` as the agent's `baseURL`. `requests` has what was asked.
    """

    def __init__(
        self,
        answers: Sequence[Answer] | Callable[[Request], Answer | Awaitable[Answer]],
        *,
        input_tokens: int = 10,
        output_tokens: int = 5,
    ) -> None:
        self.requests: list[Request] = []
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

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/responses", self._responses)
        # A handler that waits for ever, as a timeout's test wants, must not hold up the end.
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self._base_url = f"http://{host}:{port}/v1"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _answer(self, api: str, received: web.Request) -> Answer:
        request = Request(api, await received.json(), dict(received.headers))
        self.requests.append(request)
        if callable(self._answers):
            answer = self._answers(request)
            return await answer if inspect.isawaitable(answer) else answer
        number = len(self.requests)
        if number > len(self._answers):
            return ErrorAnswer(500, f"FakeModel has {len(self._answers)} answers, and this is request {number}")
        return self._answers[number - 1]

    async def _chat(self, received: web.Request) -> web.Response:
        answer = await self._answer(CHAT, received)
        if isinstance(answer, ErrorAnswer):
            return _error(answer)
        calls = [
            {
                "id": self._id("call"),
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(dict(call.arguments))},
            }
            for call in _calls(answer)
        ]
        text, finish = _said(answer), "length" if isinstance(answer, CutOff) else "tool_calls" if calls else "stop"
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if calls:
            message["tool_calls"] = calls
        spent, made = self._usage
        return web.json_response(
            {
                "id": self._id("chatcmpl"),
                "object": "chat.completion",
                "created": 0,
                "model": self.requests[-1].body.get("model"),
                "choices": [{"index": 0, "message": message, "finish_reason": finish}],
                "usage": {"prompt_tokens": spent, "completion_tokens": made, "total_tokens": spent + made},
            }
        )

    async def _responses(self, received: web.Request) -> web.Response:
        answer = await self._answer(RESPONSES, received)
        if isinstance(answer, ErrorAnswer):
            return _error(answer)
        output: list[dict[str, Any]] = [
            {
                "type": "function_call",
                "id": self._id("fc"),
                "call_id": self._id("call"),
                "name": call.name,
                "arguments": json.dumps(dict(call.arguments)),
                "status": "completed",
            }
            for call in _calls(answer)
        ]
        status = "incomplete" if isinstance(answer, CutOff) else "completed"
        if (text := _said(answer)) is not None:
            content = [{"type": "output_text", "text": text, "annotations": []}]
            identity = {"type": "message", "id": self._id("msg"), "role": "assistant"}
            output.append({**identity, "status": status, "content": content})
        spent, made = self._usage
        return web.json_response(
            {
                "id": self._id("resp"),
                "object": "response",
                "created_at": 0,
                "model": self.requests[-1].body.get("model"),
                "status": status,
                "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
                "output": output,
                "parallel_tool_calls": True,
                "tool_choice": "auto",
                "tools": [],
                "usage": {
                    "input_tokens": spent,
                    "input_tokens_details": {"cached_tokens": 0},
                    "output_tokens": made,
                    "output_tokens_details": {"reasoning_tokens": 0},
                    "total_tokens": spent + made,
                },
            }
        )

    def _id(self, kind: str) -> str:
        return f"{kind}_{next(self._ids)}"


def _calls(answer: Answer) -> Sequence[ToolCall]:
    if isinstance(answer, ToolCall):
        return [answer]
    return [] if isinstance(answer, str | CutOff | ErrorAnswer) else answer


def _said(answer: Answer) -> str | None:
    if isinstance(answer, CutOff):
        return answer.text
    return answer if isinstance(answer, str) else None


def _error(answer: ErrorAnswer) -> web.Response:
    error = {"message": answer.message, "type": "scripted", "code": answer.code}
    return web.json_response({"error": error}, status=answer.status, headers=answer.headers)


def _text(content: Any) -> str:
    """Text content, which both APIs allow as a string or as a list of parts."""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content or ())
