"""Answers of a model by script, as bodies and as streams of the providers' APIs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

CHAT: Final = "chat"
RESPONSES: Final = "responses"
ANTHROPIC: Final = "anthropic"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model asks for a tool."""

    name: str
    arguments: Mapping[str, Any] | str
    """A text is sent as it is, be it JSON or not."""

    @property
    def as_text(self) -> str:
        return self.arguments if isinstance(self.arguments, str) else json.dumps(dict(self.arguments))

    @property
    def as_input(self) -> Any:
        """As Anthropic's messages have it, which are JSON with it."""
        return self.arguments if isinstance(self.arguments, str) else dict(self.arguments)


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


@dataclass(frozen=True, slots=True)
class Refusal:
    """The provider's content filter stops the answer, after this text."""

    text: str = ""


@dataclass(frozen=True, slots=True)
class Streamed:
    """Text in pieces, for a request that asks for a stream."""

    pieces: Sequence[str]
    between: Callable[[], Awaitable[Any]] | None = None
    """Awaited after each piece."""
    broken: bool = False
    """The connection ends after the last piece, before the answer does."""
    unfinished: bool = False
    """The stream ends after the last piece in good order, and doesn't say that the answer has ended."""


@dataclass(frozen=True, slots=True)
class Dribbled:
    """Text whose body, or stream, comes in bits of so many bytes."""

    text: str
    size: int = 1
    between: Callable[[], Awaitable[Any]] | None = None
    """Awaited after each bit."""


@dataclass(frozen=True, slots=True)
class Raw:
    """A body with status 200 that is sent as it is, whatever its API says."""

    body: str
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Expired:
    """The batch ends before the model has answered this request."""


Answer = str | CutOff | Refusal | Streamed | Dribbled | ToolCall | Sequence[ToolCall] | ErrorAnswer | Raw | Expired
"""An answer of a model: text, also cut off, refused, in pieces or slow; one or more tool calls; an error, or any other
body; none in time."""

Event = tuple[str, dict[str, Any]]
"""One event of a stream: its type, and its data."""


@dataclass(frozen=True, slots=True)
class Made:
    """One answer on its way: what it says, and what it claims to have cost."""

    answer: Answer
    model: str
    spent: int
    made: int
    ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def calls(self) -> Sequence[ToolCall]:
        if isinstance(self.answer, ToolCall):
            return [self.answer]
        return self.answer if isinstance(self.answer, list | tuple) else []

    @property
    def text(self) -> str | None:
        match self.answer:
            case CutOff() | Refusal() | Dribbled():
                return self.answer.text
            case Streamed():
                return "".join(self.answer.pieces)
            case str():
                return self.answer
        return None

    @property
    def pieces(self) -> Sequence[str]:
        return self.answer.pieces if isinstance(self.answer, Streamed) else [self.text] if self.text else []

    def ends(self, whole: str, cut: str, refused: str, calls: str) -> str:
        """The word of an API for the way in which this ends."""
        if isinstance(self.answer, CutOff):
            return cut
        if isinstance(self.answer, Refusal):
            return refused
        return calls if self.calls else whole

    def id(self, kind: str) -> str:
        return f"{kind}_{next(self.ids)}"


def chat(made: Made) -> dict[str, Any]:
    """The body of a chat completion."""
    message: dict[str, Any] = {"role": "assistant", "content": made.text}
    if calls := _chat_calls(made):
        message["tool_calls"] = calls
    finish = made.ends("stop", "length", "content_filter", "tool_calls")
    return {
        "id": made.id("chatcmpl"),
        "object": "chat.completion",
        "created": 0,
        "model": made.model,
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": made.spent, "completion_tokens": made.made, "total_tokens": made.spent + made.made},
    }


def _chat_calls(made: Made) -> list[dict[str, Any]]:
    return [
        {
            "id": made.id("call"),
            "type": "function",
            "function": {"name": call.name, "arguments": call.as_text},
        }
        for call in made.calls
    ]


def chat_events(made: Made) -> Iterator[Event]:
    """The chunks of a chat completion."""
    whole = chat(made)
    head = {"id": whole["id"], "object": "chat.completion.chunk", "created": 0, "model": made.model}

    def chunk(delta: dict[str, Any], finish: str | None = None) -> Event:
        return "", {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    yield chunk({"role": "assistant", "content": ""})
    for piece in made.pieces:
        yield chunk({"content": piece})
    for i, call in enumerate(whole["choices"][0]["message"].get("tool_calls", ())):
        yield chunk({"tool_calls": [{"index": i, **call}]})
    yield chunk({}, whole["choices"][0]["finish_reason"])
    yield "", {**head, "choices": [], "usage": whole["usage"]}


def responses(made: Made) -> dict[str, Any]:
    """The body of a response of OpenAI's newer API."""
    output: list[dict[str, Any]] = [
        {
            "type": "function_call",
            "id": made.id("fc"),
            "call_id": made.id("call"),
            "name": call.name,
            "arguments": call.as_text,
            "status": "completed",
        }
        for call in made.calls
    ]
    reason = made.ends("", "max_output_tokens", "content_filter", "")
    status = "incomplete" if reason else "completed"
    if (text := made.text) is not None:
        content = [{"type": "output_text", "text": text, "annotations": []}]
        identity = {"type": "message", "id": made.id("msg"), "role": "assistant"}
        output.append({**identity, "status": status, "content": content})
    return {
        "id": made.id("resp"),
        "object": "response",
        "created_at": 0,
        "model": made.model,
        "status": status,
        "incomplete_details": {"reason": reason} if reason else None,
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": made.spent,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": made.made,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": made.spent + made.made,
        },
    }


def responses_events(made: Made) -> Iterator[Event]:
    """The events of a response of OpenAI's newer API."""
    whole = responses(made)
    numbers = itertools.count()

    def event(kind: str, **data: Any) -> Event:
        return kind, {"type": kind, "sequence_number": next(numbers), **data}

    begun = {**whole, "status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
    yield event("response.created", response=begun)
    for i, item in enumerate(whole["output"]):
        place = {"output_index": i, "item_id": item["id"]}
        if item["type"] == "message":
            text, part = item["content"][0]["text"], {"type": "output_text", "text": "", "annotations": []}
            yield event("response.output_item.added", output_index=i, item={**item, "content": []})
            yield event("response.content_part.added", **place, content_index=0, part=part)
            for piece in made.pieces:
                yield event("response.output_text.delta", **place, content_index=0, delta=piece, logprobs=[])
            yield event("response.output_text.done", **place, content_index=0, text=text, logprobs=[])
            yield event("response.content_part.done", **place, content_index=0, part={**part, "text": text})
        else:
            yield event("response.output_item.added", output_index=i, item={**item, "arguments": ""})
            yield event("response.function_call_arguments.delta", **place, delta=item["arguments"])
            yield event(
                "response.function_call_arguments.done", **place, arguments=item["arguments"], name=item["name"]
            )
        yield event("response.output_item.done", output_index=i, item=item)
    yield event(f"response.{whole['status']}", response=whole)


def anthropic(made: Made) -> dict[str, Any]:
    """The body of a message of Anthropic's API."""
    content: list[dict[str, Any]] = [{"type": "text", "text": made.text}] if made.text else []
    content += [
        {"type": "tool_use", "id": made.id("toolu"), "name": call.name, "input": call.as_input} for call in made.calls
    ]
    return {
        "id": made.id("msg"),
        "type": "message",
        "role": "assistant",
        "model": made.model,
        "content": content,
        "stop_reason": made.ends("end_turn", "max_tokens", "refusal", "tool_use"),
        "stop_sequence": None,
        "usage": {"input_tokens": made.spent, "output_tokens": made.made},
    }


def anthropic_events(made: Made) -> Iterator[Event]:
    """The events of a message of Anthropic's API."""
    whole = anthropic(made)
    usage = {"input_tokens": made.spent, "output_tokens": 0}

    def event(kind: str, **data: Any) -> Event:
        return kind, {"type": kind, **data}

    yield event("message_start", message={**whole, "content": [], "stop_reason": None, "usage": usage})
    for i, block in enumerate(whole["content"]):
        empty = {**block, "text": ""} if block["type"] == "text" else {**block, "input": {}}
        yield event("content_block_start", index=i, content_block=empty)
        if block["type"] == "text":
            for piece in made.pieces:
                yield event("content_block_delta", index=i, delta={"type": "text_delta", "text": piece})
        else:
            text = block["input"] if isinstance(block["input"], str) else json.dumps(block["input"])
            yield event("content_block_delta", index=i, delta={"type": "input_json_delta", "partial_json": text})
        yield event("content_block_stop", index=i)
    ended = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    yield event("message_delta", delta=ended, usage={"output_tokens": made.made})
    yield event("message_stop")


BODIES: Final[Mapping[str, Callable[[Made], dict[str, Any]]]] = {
    CHAT: chat,
    RESPONSES: responses,
    ANTHROPIC: anthropic,
}
STREAMS: Final[Mapping[str, Callable[[Made], Iterator[Event]]]] = {
    CHAT: chat_events,
    RESPONSES: responses_events,
    ANTHROPIC: anthropic_events,
}
_TEXT_EVENTS: Final = ("response.output_text.delta", "content_block_delta")


def has_text(event: Event) -> bool:
    """Returns whether this event has a piece of the text."""
    kind, data = event
    if kind:
        return kind in _TEXT_EVENTS
    return any(choice["delta"].get("content") for choice in data["choices"])


def error(answer: ErrorAnswer, api: str) -> dict[str, Any]:
    """The body of an error."""
    inner = {"message": answer.message, "type": "scripted", "code": answer.code}
    return {"type": "error", "error": inner} if api == ANTHROPIC else {"error": inner}
