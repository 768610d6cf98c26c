"""`LLMAgent` sends its prompt to a model, and offers it tools, through pydantic-ai.

It is imported only when a crew uses it, because pydantic-ai takes more than a second to import. It repeats no request:
a failed task is repeated by the queue, which counts attempts and survives a crash.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from watchbill.agents import (
    batching,
    judging,
    memory,
    model_answers,
    model_tools,
    model_traces,
    providers,
    spending,
    structured,
)
from watchbill.agents.checkpoints import Conversation, told
from watchbill.agents.context import Context
from watchbill.agents.fallbacks import Candidate, Fallbacks
from watchbill.agents.memory import HistoryConfig
from watchbill.agents.model_requests import Counted
from watchbill.agents.partial import Partial
from watchbill.agents.text import sound
from watchbill.agents.tools import Tool
from watchbill.api.models import ModelChoice
from watchbill.errors import Problem, RetryLater, TaskFailed, UserActionRequired, WatchbillError, needed
from watchbill.records import AgentDefinition
from watchbill.tasks import Usage

with needed("LLMAgent", "llm"):
    from pydantic_ai import Agent, UsageLimits
    from pydantic_ai.capabilities import AbstractCapability, WrapModelRequestHandler
    from pydantic_ai.messages import ModelResponse, ToolCallPart
    from pydantic_ai.models import ModelRequestContext
    from pydantic_ai.settings import ModelSettings
    from pydantic_ai.tools import RunContext, ToolDefinition
    from pydantic_ai.usage import RunUsage

__all__ = ["LLMAgent", "LLMConfig"]


OWN_SETTINGS: Final = ("history", "request_limit", "output_retries", "stream", "truncated")
"""The fields of LLMConfig that are Watchbill's own. All others go to pydantic-ai."""


class LLMConfig(BaseModel):
    """Fields of the agent's `config`: the common settings of pydantic-ai, and those of Watchbill at the end.

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
    history: HistoryConfig | None = Field(
        default=None, description="How much the model is told of the task's session; without it, nothing is remembered."
    )
    output_retries: int = Field(
        default=2,
        ge=0,
        le=20,
        description="Times that the model may correct an answer that doesn't fit outputSchema, or that its crew "
        "can't use.",
    )
    stream: bool = Field(default=False, description="Tells the feed the text of answers while it comes.")
    truncated: Literal["accept", "fail"] = Field(
        default="accept",
        description="What becomes of an answer that was cut off, by max_tokens or a filter: accept returns it, with "
        "finish_reason in the result's metadata and an event; fail makes the task a dead letter.",
    )

    def settings(self) -> ModelSettings:
        """The settings for pydantic-ai, without those that weren't given."""
        chosen: dict[str, Any] = self.model_dump(exclude=set(OWN_SETTINGS), exclude_none=True)
        return cast("ModelSettings", chosen | {"max_retries": 0})


class LLMAgent:
    """Returns a model's answer to the prompt. The model is given `systemPrompt` as instructions, and the tools.

    The answer is text; an object that fits the agent's `outputSchema` where it has one.
    """

    Config = LLMConfig
    uses_models = True
    """The definition's fields about models and their outputs mean something to this class."""

    def __init__(self, config: LLMConfig) -> None:
        self._config = config

    @classmethod
    def check(cls, agent: AgentDefinition, tools: Mapping[str, Tool]) -> list[Problem]:
        """Problems with a model's name, its server, the schema of the output, or a tool's signature. Needs no key and
        no network."""
        problems = []
        if agent.model is None:
            reason = f"agent {agent.agent_id!r} is an LLMAgent and has no model"
            problems.append(Problem(reason, "Set model on the agent or spec.model, as in openai:gpt-5-mini.", "model"))
        for place, choice in _choices(agent):
            found = providers.check(choice.model, choice.base_url)
            problems += [replace(problem, path=place + problem.path) for problem in found]
        if agent.output_schema:
            problems += structured.check(agent.output_schema)
        return [*problems, *batching.check(agent, getattr(cls, "runs_in", None)), *model_tools.check(tools.values())]

    @classmethod
    def ready(cls, agent: AgentDefinition) -> list[Problem]:
        """Problems with the environment: the key of a model's provider is missing. Needs no network."""
        return [
            replace(problem, path=place + problem.path)
            for place, choice in _choices(agent)
            for problem in providers.ready(choice.model, choice.base_url)
        ]

    async def run(self, context: Context) -> str | dict[str, Any]:
        """The model's answer. Usage is reported even if the run fails.

        Raises RetryLater when no provider can answer now (RetryAfter if one says when it can), UserActionRequired
        when none ever will, TaskFailed when the answer can't be used, and ToolError when a tool failed.
        """
        definition = context.agent
        if definition.model is None:
            raise UserActionRequired(f"agent {definition.agent_id!r} has no model. Set model on it or spec.model")
        conversation, lane = Conversation(context), batching.lane_of(context)
        candidates = [_candidate(context, choice) for _, choice in _choices(definition)]
        if lane is not None and definition.batch is not None:
            first = candidates[0]
            batched = batching.BatchedModel(first.model, first.name, context, conversation, lane, definition.batch)
            candidates[0] = replace(first, model=batched)
        models = Fallbacks(context, candidates)
        judge = judging.Judge(context)
        output = structured.of(judge.schema) if judge.schema else None
        agent: Agent[None, Any] = Agent(
            models.current.model,
            output_type=output.type if output else str,
            name=definition.agent_id,
            instructions=sound(definition.system_prompt),
            model_settings=self._config.settings(),
            toolsets=await model_tools.offered(context),
            capabilities=[_Hooks(conversation, model_answers.Answers(context), models), *model_traces.capabilities()],
            retries={"tools": model_tools.RETRIES, "output": self._config.output_retries},
        )
        if output:
            agent.output_validator(output.fitting)
        agent.output_validator(judge.fitting)
        prompt = sound(context.prompt)
        if prompt is not context.prompt:
            await model_answers.tell_replaced(context, "the prompt")
        limit, history = self._config.request_limit, self._config.history
        before = told(await memory.recall(context, history)) if history else None
        spent = RunUsage()
        partial = Partial(context, models) if self._config.stream and lane is None else None
        try:
            async with conversation:
                limits = UsageLimits(request_limit=limit)
                result = await agent.run(
                    prompt, message_history=before, usage=spent, usage_limits=limits, event_stream_handler=partial
                )
                await self._check_is_complete(context, result.response, models.current, streams=partial is not None)
                batching.tell(context, result.new_messages())
                if history:
                    await memory.remember(context, prompt, structured.as_text(result.output), history)
            return result.output  # type: ignore[no-any-return]
        except WatchbillError:
            raise
        except Exception as error:
            if misfit := judge.misfit(error):
                raise TaskFailed(f"{models.said}: {misfit}") from None
            raise models.explain(error, limit, datetime.now(UTC)) from None  # noqa: TID251 - until when to wait
        finally:
            if partial:
                await partial.aclose()
            models.tell()
            usage = conversation.usage(spent) + Usage(requests=models.refused)
            if usage.requests:
                context.report_usage(usage)

    async def _check_is_complete(
        self, context: Context, response: ModelResponse, asked: Candidate, *, streams: bool
    ) -> None:
        why = model_answers.why_incomplete(response)
        if why is None and streams and response.finish_reason is None:
            raise RetryLater(f"the answer of model {asked.name!r} ended before its stream said so")
        if why is None:
            return
        text = f"the answer of model {asked.name!r} is incomplete: {why}"
        if self._config.truncated == "fail":
            raise UserActionRequired(text)
        context.annotate("finish_reason", response.finish_reason)
        await context.emit(text)


class _Hooks(AbstractCapability[None]):
    """All that is done around each request, as one capability: each one costs every request a tenth of its CPU."""

    def __init__(self, conversation: Conversation, answers: model_answers.Answers, models: Fallbacks) -> None:
        self._conversation = conversation
        self._answers = answers
        self._models = models

    async def before_model_request(
        self, ctx: RunContext[None], request_context: ModelRequestContext
    ) -> ModelRequestContext:
        return await self._models.before_model_request(ctx, request_context)

    async def wrap_model_request(
        self, ctx: RunContext[None], *, request_context: ModelRequestContext, handler: WrapModelRequestHandler
    ) -> ModelResponse:
        wrap = self._conversation.wrap_model_request
        return await wrap(ctx, request_context=request_context, handler=handler)

    async def on_model_request_error(
        self, ctx: RunContext[None], *, request_context: ModelRequestContext, error: Exception
    ) -> ModelResponse:
        return await self._models.on_model_request_error(ctx, request_context=request_context, error=error)

    async def after_model_request(
        self, ctx: RunContext[None], *, request_context: ModelRequestContext, response: ModelResponse
    ) -> ModelResponse:
        for each in (self._models, self._answers):
            response = await each.after_model_request(ctx, request_context=request_context, response=response)
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
        wrap = self._conversation.wrap_tool_execute
        return await wrap(ctx, call=call, tool_def=tool_def, args=args, handler=handler)


def _choices(agent: AgentDefinition) -> list[tuple[str, ModelChoice]]:
    """The models that the agent may ask, in order, each with the place of its fields."""
    own = [("", ModelChoice(model=agent.model, base_url=agent.base_url))] if agent.model is not None else []
    return own + [(f"fallbackModels[{i}].", choice) for i, choice in enumerate(agent.fallback_models)]


def _candidate(context: Context, choice: ModelChoice) -> Candidate:
    model = providers.build(choice.model, choice.base_url)
    counted = Counted(model, context.crew, choice.model)
    return Candidate(choice.model, choice.base_url, spending.metered(counted, choice.model, context))
