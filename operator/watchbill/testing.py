"""What you test your own agents with: a model that answers by script, a clock that you move, a throwaway store.

An agent of your own, without a crew or a store:

    from watchbill import testing

    class Shorten:
        def __init__(self, words: int) -> None:
            self.words = words

        async def run(self, context):
            await context.emit("shortening")
            return " ".join(context.prompt.split()[: self.words])

    async def test_the_answer_is_short():
        context = testing.context(prompt="a rather long text")
        assert await Shorten(words=2).run(context) == "a rather"
        assert context.messages == ["shortening"]

An `LLMAgent`, against a real HTTP server that speaks OpenAI's protocol and costs nothing:

    from watchbill.agents import AgentLoader
    from watchbill.records import AgentDefinition, CrewDefinition

    async def test_the_model_is_asked():
        async with testing.FakeModel(["42"]) as model:
            agent = AgentDefinition(agent_id="guide", model="openai:any", base_url=model.base_url)
            runner = AgentLoader().load(CrewDefinition(name="crew", agents=[agent]), agent)
            assert await runner.run(testing.context(prompt="6 * 7?")) == "42"
            assert model.requests[0].prompt == "6 * 7?"

Everything listens on loopback only, and is gone when its block ends.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from aiohttp import web

from watchbill.agents.context import Context, spoken
from watchbill.agents.tools import Tool
from watchbill.clock import Timer
from watchbill.embedded import EmbeddedStore
from watchbill.records import AgentDefinition
from watchbill.tasks import AgentTask

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
"""What a model can answer: text, text that is cut off, one or more tool calls, or an error."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the model was asked."""

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
        """What tools have returned so far, in order."""
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


class FakeClock:
    """A clock that stands still until it is moved: a `watchbill.clock.Clock` for tests."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        if start.tzinfo is None:
            raise ValueError(f"{start.isoformat()} has no time zone")
        self._now = start.astimezone(UTC)
        self._passed = 0.0
        self._sleepers: dict[asyncio.Future[None], float] = {}
        self._timers: list[_Timer] = []

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        """Seconds by which it was moved."""
        return self._passed

    async def sleep(self, seconds: float) -> None:
        """Returns once the clock was moved by so much."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        self._sleepers[woken] = self._passed + seconds
        try:
            await woken
        finally:
            self._sleepers.pop(woken, None)

    def call_later(self, seconds: float, callback: Callable[..., object], *args: Any) -> Timer:
        """`advance` calls it, once the clock was moved by so much."""
        timer = _Timer(self._passed + max(seconds, 0.0), partial(callback, *args), self._timers)
        self._timers.append(timer)
        return timer

    @property
    def sleepers(self) -> list[float]:
        """In how many seconds each who sleeps is woken, and each timer calls back, the next one first."""
        return sorted(due - self._passed for due in (*self._sleepers.values(), *(timer.due for timer in self._timers)))

    def advance(self, seconds: float) -> datetime:
        """Move on, wake whose time has come, call what is due, and return the new time."""
        if seconds < 0:
            raise ValueError(f"time goes forward, not by {seconds} seconds")
        self._now += timedelta(seconds=seconds)
        self._passed += seconds
        for woken, due in sorted(self._sleepers.items(), key=lambda sleeper: sleeper[1]):
            if due <= self._passed + 1e-9 and not woken.done():  # sums of fractions
                woken.set_result(None)
        while timers := [timer for timer in self._timers if timer.due <= self._passed + 1e-9]:
            timer = min(timers, key=lambda one: one.due)
            timer.cancel()
            timer.call()  # which may cancel others, and set new ones
        return self._now


@dataclass(slots=True, eq=False)
class _Timer:
    due: float
    call: Callable[[], object]
    timers: list[_Timer]

    def cancel(self) -> None:
        if self in self.timers:
            self.timers.remove(self)


@asynccontextmanager
async def store() -> AsyncIterator[str]:
    """The URL of a store of your own, with nothing in it, and nothing left of it at the end."""
    opened = await EmbeddedStore.open(None)
    try:
        yield opened.url
    finally:
        await opened.close()


@dataclass(slots=True, kw_only=True)
class RecordingContext(Context):
    """A `Context` that keeps what was said."""

    messages: list[str] = field(default_factory=list)
    """What the agent emitted, in order."""

    def emit_sync(self, message: str) -> None:
        """As ever; without an event loop, as in a test that isn't async, the message is just kept."""
        if self.loop is None:
            self.messages.append(spoken(message))
        else:
            Context.emit_sync(self, message)


def context(
    prompt: str = "",
    *,
    inputs: Mapping[str, str] | None = None,
    outputs: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    tools: Mapping[str, Callable[..., Any]] | None = None,
    agent: AgentDefinition | None = None,
    run_id: str | None = None,
    deadline: datetime | None = None,
) -> RecordingContext:
    """The context of a task that was never submitted.

    `tools` are functions by name; `agent` is a definition to use instead of one made from `config`. What the agent
    emits is in `messages` of the result, and what it reports as used in `usage`.
    """
    definition = agent or AgentDefinition(agent_id="agent", agent_class="EchoAgent", config=dict(config or {}))
    messages: list[str] = []
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        loop = None

    async def emit(message: str) -> None:
        messages.append(spoken(message))

    return RecordingContext(
        crew="test/crew",
        agent=definition,
        task=AgentTask(task_id="task", agent_name=definition.agent_id, prompt=prompt, crew_name="crew"),
        run_id=run_id,
        prompt=prompt,
        inputs=dict(inputs or {}),
        outputs=dict(outputs or {}),
        tools={name: Tool(name, function) for name, function in (tools or {}).items()},
        logger=logging.LoggerAdapter(logging.getLogger("watchbill.testing"), {}),
        deadline=deadline,
        attempt=1,
        fence=1,
        emit=emit,
        loop=loop,
        messages=messages,
    )


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
