"""A conversation with a model, of which each turn and each call of a tool is a step of the task (`Context.step`).

So another attempt goes on where the last one stood: no turn is asked for again, and no tool called again, but what was
under way. For any agent of pydantic-ai: give it to `capabilities` as the first one, and run it within `async with`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Final, Self

from pydantic import TypeAdapter

from watchbill.agents import approving, steps
from watchbill.agents.context import Context
from watchbill.agents.memory import Turn
from watchbill.errors import ApprovalRejected, CrewGone, Fenced, InvalidInput, StoreUnavailable, needed
from watchbill.tasks import Usage

with needed("LLMAgent", "llm"):
    from pydantic_ai.capabilities import AbstractCapability, WrapModelRequestHandler
    from pydantic_ai.exceptions import ModelRetry, ToolRetryError, UsageLimitExceeded
    from pydantic_ai.messages import (
        ModelMessage,
        ModelMessagesTypeAdapter,
        ModelRequest,
        ModelResponse,
        TextPart,
        ToolCallPart,
        ToolReturn,
        UserPromptPart,
    )
    from pydantic_ai.models import ModelRequestContext
    from pydantic_ai.tools import RunContext, ToolDefinition
    from pydantic_ai.usage import RunUsage

REPEATED: Final = "watchbill_is_repeated"
"""The entry of a tool's metadata, as pydantic-ai has it, which says that each attempt makes its calls anew."""
_RETURNED: Final[TypeAdapter[ToolReturn[Any]]] = TypeAdapter(ToolReturn)
_NAME_MAX: Final = 100
_NOT_BY_AN_ANSWER: Final = (UsageLimitExceeded, StoreUnavailable, CrewGone, Fenced)


class Conversation(AbstractCapability[None]):
    """The checkpoints of one conversation with a model.

    Where an attempt fails by the model's last answer, because that can't be used or was cut off and may not be, the
    next attempt asks for this turn again: the same answer would end in the same way. After an error of the provider or
    of a tool it goes on with what has failed.

    Without a place for checkpoints it is as if it were not there.
    """

    def __init__(self, context: Context, name: str = "") -> None:
        """`name` tells several conversations of one task apart."""
        self._context = context
        self._prefix = f"{name}: " if name else ""
        self._turn = 0
        self._current = ""
        self._items_before = 0
        """Items of work that were delegated before the current turn."""
        self._has_failed = False
        """A call has failed since the last turn, and so has no checkpoint: the next attempt makes it again."""
        self._replayed = RunUsage()
        self._calls = approving.Calls(context)

    @property
    def _is_kept(self) -> bool:
        return self._context.connect_checkpoints is not None

    @property
    def current(self) -> str:
        """The name of the turn that was asked for last."""
        return self._current

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        is_of_answer = isinstance(error, Exception) and not isinstance(error, _NOT_BY_AN_ANSWER)
        if is_of_answer and self._is_kept and self._current and not self._has_failed:
            await self._context.checkpoints.keep(_given_up(self._current), str(self._items - self._items_before))

    async def _next_turn(self) -> str:
        """Returns the name of the next turn, behind those of its answers that came to nothing."""
        self._turn += 1
        name, number = f"{self._prefix}turn {self._turn}", 1
        while (items := await self._context.checkpoints.find(_given_up(name))) is not None:
            if (team := self._context.team) is not None:
                team.items += steps.decode(items) or 0  # their numbers are taken
            number += 1
            name = f"{self._prefix}turn {self._turn} ({number})"
        self._items_before = self._items
        return name

    @property
    def _items(self) -> int:
        """The items of work that this attempt has delegated so far."""
        return self._context.team.items if self._context.team is not None else 0

    def usage(self, spent: RunUsage) -> Usage:
        """Returns the usage of this attempt: without the turns that earlier ones had asked for."""
        return Usage(
            input_tokens=spent.input_tokens - self._replayed.input_tokens,
            output_tokens=spent.output_tokens - self._replayed.output_tokens,
            requests=spent.requests - self._replayed.requests,
        )

    async def wrap_model_request(
        self, ctx: RunContext[None], *, request_context: ModelRequestContext, handler: WrapModelRequestHandler
    ) -> ModelResponse:
        if not self._is_kept:
            return await handler(request_context)
        asked: list[ModelResponse] = []

        async def ask() -> Any:
            asked.append(await handler(request_context))
            return ModelMessagesTypeAdapter.dump_python([*asked], mode="json")

        self._current = await self._next_turn()
        stored = await self._step(self._current, ask)
        self._has_failed = False
        if asked:
            return asked[0]
        (response,) = ModelMessagesTypeAdapter.validate_python(stored)
        if not isinstance(response, ModelResponse):
            raise TypeError(f"a checkpoint of a model's turn holds a {type(response).__name__}")
        self._replayed.incr(response.usage)
        self._replayed.requests += 1
        return response

    async def wrap_tool_execute(
        self,
        ctx: RunContext[None],
        *,
        call: ToolCallPart,
        tool_def: ToolDefinition,
        args: dict[str, Any],
        handler: Callable[[dict[str, Any]], Awaitable[Any]],
    ) -> Any:
        async def make() -> Any:
            declaration = (tool_def.metadata or {}).get(approving.MARK)
            if declaration is not None and (why := await self._refused(call, declaration)):
                return why
            return await handler(args)

        with self._calls.under_way():
            if not self._is_kept:
                return await make()
            return await (self._anew(make) if REPEATED in (tool_def.metadata or {}) else self._kept(call, make))

    async def _refused(self, call: ToolCallPart, declaration: str) -> str | None:
        """Returns what the model is told of a call that somebody has rejected; None: it is approved. Ends the attempt
        where nobody has decided. Raises ModelRetry for arguments that can't be shown."""
        try:
            call_id = f"{self._current} {call.tool_call_id}"
            asked = approving.Call.of(call.tool_name, call.args_as_dict(), call_id, declaration)
        except InvalidInput as error:
            raise ModelRetry(str(error)) from error
        try:
            await self._calls.approved(asked)
        except ApprovalRejected as error:
            return f"This call was not made: {error}"
        return None

    async def _anew(self, make: Callable[[], Awaitable[Any]]) -> Any:
        """Returns the result of a call that each attempt makes."""
        try:
            return await make()
        except ToolRetryError:  # an answer to the model, and the same one each time
            raise
        except Exception:
            self._has_failed = True
            raise

    async def _kept(self, call: ToolCallPart, make: Callable[[], Awaitable[Any]]) -> Any:
        """Returns the result of a call, which is made in a step of the task."""
        outcome: list[Any] = []

        async def execute() -> Any:
            try:
                outcome.append(await make())
            except ToolRetryError as error:  # the tool has told the model what is wrong
                if not isinstance(error.__cause__, ModelRetry):
                    raise
                outcome.append(error)
                return {"retry": error.__cause__.message}
            is_plain = not isinstance(outcome[0], ToolReturn)
            whole = ToolReturn(return_value=outcome[0]) if is_plain else outcome[0]
            return {"returned": _RETURNED.dump_python(whole, mode="json"), "is_plain": is_plain}

        of_turn = f"{self._current}: tool {call.tool_name[:_NAME_MAX]} {_digest(call.tool_call_id)}"
        stored = await self._step(of_turn, execute)
        if outcome and isinstance(outcome[0], ToolRetryError):
            raise outcome[0]
        if outcome:
            return outcome[0]
        if "retry" in stored:
            raise ModelRetry(stored["retry"])
        whole = _RETURNED.validate_python(stored["returned"])
        return whole.return_value if stored["is_plain"] else whole

    async def _step(self, name: str, function: Callable[[], Awaitable[Any]]) -> Any:
        try:
            return await self._context.step(name, function)
        except Exception:
            self._has_failed = True
            raise


def told(turns: Sequence[Turn]) -> list[ModelMessage]:
    """Returns the turns of a session as a conversation."""
    messages: list[ModelMessage] = []
    for turn in turns:
        messages.append(ModelRequest(parts=[UserPromptPart(turn.prompt)]))
        messages.append(ModelResponse(parts=[TextPart(turn.answer)]))
    return messages


def _given_up(turn: str) -> str:
    """The name of the checkpoint which says that the answer of this turn came to nothing."""
    return f"{turn} given up#1"


def _digest(text: str) -> str:
    """The id of a call is any text; a name is not."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]
