"""Checks each answer of a model before it is used: it may be cut off, or hold text that UTF-8 can't encode.

The answers of tools to a model are checked likewise. Changes and problems are reported on the event feed.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from watchbill.agents.context import Context
from watchbill.agents.text import sound
from watchbill.errors import needed

with needed("LLMAgent", "llm"):
    from pydantic_ai.capabilities import AbstractCapability
    from pydantic_ai.messages import ModelResponse, TextPart, ThinkingPart, ToolCallPart, ToolReturn, tool_return_ta
    from pydantic_ai.models import ModelRequestContext
    from pydantic_ai.tools import RunContext

_HALF: Final = re.compile(r"\\u[dD][89a-fA-F]")

_WHY: Final = {
    "length": "the limit of its tokens was reached: raise max_tokens in the agent's config",
    "content_filter": "the provider's content filter cut it off",
    "error": "the provider says that making it failed",
}


class Answers(AbstractCapability[None]):
    """The answers of a model in one run. Lone surrogates in them become U+FFFD before they are sent anywhere."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def after_model_request(
        self, ctx: RunContext[None], *, request_context: ModelRequestContext, response: ModelResponse
    ) -> ModelResponse:
        parts = [_sound_part(part) for part in response.parts]
        if all(new is old for new, old in zip(parts, response.parts, strict=True)):
            return response
        await tell_replaced(self._context, "the model's answer")
        return replace(response, parts=parts)


def why_incomplete(response: ModelResponse) -> str | None:
    """The reason why an answer is incomplete; None if it is complete, as far as its provider says."""
    return _WHY.get(response.finish_reason or "")


async def of_tool(context: Context, name: str, result: Any) -> Any:
    """The value that a tool returned, in a form that can be sent to a model.

    Raises TypeError if JSON can't hold the value, and the errors of an iterator of the tool."""
    if isinstance(result, Iterator):
        result = await asyncio.to_thread(list, result)
    if isinstance(result, ToolReturn):  # and so pydantic-ai's own
        return result
    cleaned = sound(result)
    if cleaned is not result:
        await tell_replaced(context, f"the result of tool {name!r}")
    if not isinstance(cleaned, str):
        try:
            tool_return_ta.dump_json(cleaned)
        except ValueError as error:
            raise TypeError(f"it returned a value of type {type(result).__name__}, which is no JSON: {error}") from None
    return cleaned


async def tell_replaced(context: Context, where: str) -> None:
    await context.emit(f"{where} had half characters (lone surrogates), which are U+FFFD now")


def _sound_part(part: Any) -> Any:
    if isinstance(part, TextPart | ThinkingPart):
        text = sound(part.content)
        return part if text is part.content else replace(part, content=text)
    if isinstance(part, ToolCallPart):
        arguments = part.args
        if isinstance(arguments, str) and _HALF.search(arguments):
            try:
                arguments = json.dumps(sound(json.loads(arguments)))
            except ValueError:
                return part  # the model is told that they are no JSON
        arguments = sound(arguments)
        return part if arguments is part.args else replace(part, args=arguments)
    return part
