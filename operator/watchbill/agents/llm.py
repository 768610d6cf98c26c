"""`LLMAgent` sends its prompt to a model, and offers it tools, through pydantic-ai.

It is imported only when a crew uses it, because pydantic-ai takes more than a second to import. It repeats no request:
a failed task is repeated by the queue, which counts attempts and survives a crash.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from watchbill.agents import model_answers, model_errors, providers
from watchbill.agents.context import Context
from watchbill.agents.providers import aclose as aclose_clients
from watchbill.agents.text import sound
from watchbill.agents.tools import Tool
from watchbill.errors import Problem, ToolError, UserActionRequired, WatchbillError, needed
from watchbill.plan import retry_after
from watchbill.records import AgentDefinition
from watchbill.redaction import redact
from watchbill.tasks import Usage

with needed("LLMAgent", "llm"):
    from pydantic_ai import Agent, ModelRetry, UsageLimits
    from pydantic_ai import Tool as ModelTool
    from pydantic_ai.messages import ModelResponse
    from pydantic_ai.models import Model
    from pydantic_ai.settings import ModelSettings
    from pydantic_ai.tools import RunContext
    from pydantic_ai.toolsets import FunctionToolset, ToolsetTool
    from pydantic_ai.usage import RunUsage

__all__ = ["LLMAgent", "LLMConfig", "aclose_clients"]

_TOOL_RETRIES: Final = 2
"""Number of times that a model may correct its arguments to one tool before the task fails."""


class LLMConfig(BaseModel):
    """Fields of the agent's `config`: the common settings of pydantic-ai, and two of Watchbill at the end.

    They are checked here, because pydantic-ai accepts a misspelt one. A model ignores settings that it doesn't know.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1, description="Of one answer.")
    seed: int | None = None
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    logit_bias: dict[str, int] | None = None
    stop_sequences: list[str] | None = None
    parallel_tool_calls: bool | None = None
    timeout: float | None = Field(default=None, gt=0, description="Seconds, for one request.")
    request_limit: int = Field(default=50, ge=1, description="Requests to the model in one task.")
    truncated: Literal["accept", "fail"] = Field(
        default="accept",
        description="What becomes of an answer that was cut off, by max_tokens or a filter: accept returns it, with "
        "finish_reason in the result's metadata and an event; fail makes the task a dead letter.",
    )

    def settings(self, model: Model) -> ModelSettings:
        """The settings for pydantic-ai, without those that weren't given."""
        chosen: dict[str, Any] = self.model_dump(exclude={"request_limit", "truncated"}, exclude_none=True)
        if "max_retries" not in model.unsupported_settings:
            chosen["max_retries"] = 0
        return cast("ModelSettings", chosen)


class LLMAgent:
    """Returns a model's answer to the prompt. The model is given `systemPrompt` as instructions, and the tools."""

    Config = LLMConfig

    def __init__(self, config: LLMConfig) -> None:
        self._config = config

    @classmethod
    def check(cls, agent: AgentDefinition, tools: Mapping[str, Tool]) -> list[Problem]:
        """Problems with the model's name, its server, or a tool's signature. Needs no key and no network."""
        problems = []
        if agent.model is None:
            reason = f"agent {agent.agent_id!r} is an LLMAgent and has no model"
            problems.append(Problem(reason, "Set model on the agent or spec.model, as in openai:gpt-5-mini.", "model"))
        else:
            problems += providers.check(agent.model, agent.base_url)
        for tool in tools.values():
            try:
                ModelTool(tool.function, name=tool.name)
            except Exception as error:  # whatever making a schema of a stranger's annotations brings up
                reason = f"tool {tool.name!r} can't be offered to a model: {error}"
                problems.append(Problem(reason, "Annotate its parameters with types that JSON has.", "tools"))
        return problems

    @classmethod
    def ready(cls, agent: AgentDefinition) -> list[Problem]:
        """Problems with the environment: the key of the model's provider is missing. Needs no network."""
        return providers.ready(agent.model, agent.base_url) if agent.model else []

    async def run(self, context: Context) -> str:
        """The model's answer. Usage is reported even if the run fails.

        Raises RetryLater when the provider can't answer now (RetryAfter if it says when it can), UserActionRequired
        when it never will, TaskFailed when the answer can't be used, and ToolError when a tool failed.
        """
        definition = context.agent
        if definition.model is None:
            raise UserActionRequired(f"agent {definition.agent_id!r} has no model. Set model on it or spec.model")
        model = providers.build(definition.model, definition.base_url)
        agent = Agent(
            model,
            name=definition.agent_id,
            instructions=sound(definition.system_prompt),
            model_settings=self._config.settings(model),
            toolsets=[_Tools(context)],
            capabilities=[model_answers.Answers(context)],
            retries=_TOOL_RETRIES,
        )
        prompt = sound(context.prompt)
        if prompt is not context.prompt:
            await model_answers.tell_replaced(context, "the prompt")
        limit = self._config.request_limit
        spent = RunUsage()
        try:
            result = await agent.run(prompt, usage=spent, usage_limits=UsageLimits(request_limit=limit))
            await self._check_is_complete(context, result.response)
            return result.output
        except WatchbillError:
            raise
        except Exception as error:
            now = datetime.now(UTC)  # noqa: TID251 - a provider may say until when to wait
            without_key = providers.without_key(definition.model, definition.base_url)
            asked = providers.server(definition.model, definition.base_url)
            raise model_errors.explain(error, definition.model, asked, limit, now, without_key) from None
        finally:
            if spent.requests:
                context.report_usage(
                    Usage(input_tokens=spent.input_tokens, output_tokens=spent.output_tokens, requests=spent.requests)
                )

    async def _check_is_complete(self, context: Context, response: ModelResponse) -> None:
        why = model_answers.why_incomplete(response)
        if why is None:
            return
        text = f"the answer of model {context.agent.model!r} is incomplete: {why}"
        if self._config.truncated == "fail":
            raise UserActionRequired(text)
        context.annotate("finish_reason", response.finish_reason)
        await context.emit(text)


class _Tools(FunctionToolset[None]):
    """Passes a tool's ValueError to the model, which may correct its arguments; any other error fails the attempt.

    A ValueError that has `retryable`, `retry_after` or `response` fails the attempt, too.
    """

    def __init__(self, context: Context) -> None:
        super().__init__([ModelTool(t.function, name=t.name) for t in context.tools.values()])
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
