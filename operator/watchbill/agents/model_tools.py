"""The tools of a run, as a model is offered them, and what becomes of their errors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from watchbill.agents import approving, checkpoints, model_answers
from watchbill.agents.context import Context
from watchbill.agents.tools import Tool
from watchbill.errors import Problem, ToolError, UserActionRequired, needed
from watchbill.plan import retry_after
from watchbill.redaction import redact

with needed("LLMAgent", "llm"):
    from pydantic_ai import ModelRetry
    from pydantic_ai import Tool as ModelTool
    from pydantic_ai.tools import RunContext
    from pydantic_ai.toolsets import FunctionToolset, ToolsetTool

RETRIES: Final = 2
"""Number of times that a model may correct its arguments to one tool before the task fails."""


def check(tools: Iterable[Tool]) -> list[Problem]:
    """Problems for which a tool can't be offered to a model. Asks no server."""
    problems = []
    for tool in tools:
        try:
            if tool.listed is None:
                _of_model(tool)
        except Exception as error:  # whatever making a schema of a stranger's annotations brings up
            reason = f"tool {tool.name!r} can't be offered to a model: {error}"
            problems.append(Problem(reason, "Annotate its parameters with types that JSON has.", "tools"))
    return problems


async def offered(context: Context) -> list[FunctionToolset[None]]:
    """The run's tools, as toolsets: none where it has no tool. Servers are asked for theirs. Raises the errors of a
    server, and UserActionRequired when two tools have one name."""
    tools: dict[str, Tool] = {}
    for tool in context.tools.values():
        for each in [tool] if tool.listed is None else await tool.listed():
            if each.name in tools and tool.listed is None:
                raise UserActionRequired(f"two tools are called {each.name!r}. Rename one of them")
            tools[each.name] = each
    return [_Tools(context, list(tools.values()))] if tools else []  # an empty one costs time, too


def _of_model(tool: Tool) -> ModelTool[None]:
    function = tool.bare or tool.function  # `Conversation` asks for approval
    if tool.schema is None:
        made: ModelTool[None] = ModelTool(function, name=tool.name)
    else:
        made = ModelTool.from_schema(function, tool.name, tool.description, dict(tool.schema))
    if tool.needs_approval:
        made.metadata = {approving.MARK: tool.declaration}
    elif tool.is_repeated:
        made.metadata = {checkpoints.REPEATED: True}
    return made


class _Tools(FunctionToolset[None]):
    """Passes a tool's ValueError to the model, which may correct its arguments; any other error fails the attempt.

    A ValueError that has `retryable`, `retry_after` or `response` fails the attempt, too.
    """

    def __init__(self, context: Context, tools: Sequence[Tool]) -> None:
        super().__init__([_of_model(tool) for tool in tools])
        self._context = context

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[None], tool: ToolsetTool[None]
    ) -> Any:
        try:
            result = await super().call_tool(name, tool_args, ctx, tool)
            return await model_answers.of_tool(self._context, name, result)
        except Exception as error:
            if type(error).__module__.startswith("pydantic_ai."):
                raise  # how tools and the library steer a run, as by ModelRetry
            says = [retry_after.attribute(error, told) for told in ("retryable", "retry_after", "response")]
            if isinstance(error, ValueError) and says == [None] * 3:
                raise ModelRetry(str(error)) from error
            text = redact(f"{type(error).__name__}: {error}")
            raise ToolError(f"tool {name!r} failed: {text}") from error
