"""Requests of BACKGROUND tasks by the batches of their model's provider, at half the price.

A request is stored, and its task is set aside until the batch that it went with is answered. Then the task begins anew,
its conversation goes on from its checkpoints, and this returns the answer in place of asking. A worker sends batches
and fetches answers (worker/batch_sender.py). What a batch can't answer in time is asked at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Final, Protocol, cast

from pydantic import TypeAdapter

from watchbill.agents import model_errors, model_hosts, providers, spending
from watchbill.agents.checkpoints import Conversation
from watchbill.agents.context import Context
from watchbill.api.batches import Batch as Bounds
from watchbill.errors import Postponed, Problem, needed
from watchbill.plan import batches as plan
from watchbill.plan.batches import Group
from watchbill.plan.budget import Amount, iso, usd
from watchbill.records import AgentDefinition
from watchbill.store.packed import Batched

with needed("LLMAgent", "llm"):
    from pydantic_ai.exceptions import ModelAPIError, UserError
    from pydantic_ai.messages import ModelMessage, ModelResponse
    from pydantic_ai.models import Model, ModelRequestParameters, parse_model_id
    from pydantic_ai.models.batch import BatchRequest, BatchResult, EncodedBatchRequest
    from pydantic_ai.models.wrapper import WrapperModel
    from pydantic_ai.settings import ModelSettings

RESULT: Final[TypeAdapter[BatchResult]] = TypeAdapter(BatchResult)
_OWN: Final = frozenset({"openai", "openai-responses", "anthropic"})
"""The providers whose batches are spoken."""
_WORTH_ANOTHER: Final = frozenset({408, 409, 429})
_NOT_IN_BATCHES: Final = ("timeout", "max_retries")
_NANO: Final = "batch_nano"
_NOTE: Final = "batched"


class Lane(Protocol):
    """The way to the batches for one attempt of a task."""

    def now_ms(self) -> int:
        """The time by the store's clock."""
        ...

    async def find(self) -> tuple[Batched | None, str]:
        """Returns the task's last request, and the answer to it; None: it has made none."""
        ...

    async def gather(self, own: Batched, call: str, body: str, group: Group, seal_ms: int) -> bool:
        """Stores a request, which the task waits for from now on. False: the store has lost the task."""
        ...

    async def leave(self, own: Batched) -> None:
        """The task waits for this request no longer."""
        ...


def check(agent: AgentDefinition, runs_in: str | None) -> list[Problem]:
    """Problems with an agent whose requests are to go by batches, and with its model. Needs no key and no network.
    `runs_in`: as its class says."""
    if agent.batch is None or agent.model is None:
        return []
    if runs_in == "process":
        reason = f"agent class {agent.agent_class!r} runs in a process of its own, which has no way to batches"
        return [Problem(reason, "Remove batch, or let the class run in its worker.", "batch")]
    provider = parse_model_id(agent.model)[0]
    reason = f"model {agent.model!r} has no batches that Watchbill speaks"
    if provider not in _OWN:
        fix = "Remove batch, or use a model of OpenAI's Responses API or of Anthropic."
        return [Problem(reason, fix, "batch")]
    host = model_hosts.host_of(providers.server(agent.model, agent.base_url) or "")
    if provider == "openai" and host not in (None, providers.OPENAI):
        name = f"openai-responses:{agent.model.partition(':')[2]}"
        fix = f"If its server has OpenAI's Responses and Batch APIs, write the model as {name}; else remove batch."
        return [Problem(f"{reason}: its server is asked for chat completions", fix, "batch")]
    return []


def lane_of(context: Context) -> Lane | None:
    """The way to the batches; None: this task's requests are made at once."""
    if context.agent.batch is None or context.spending is None or context.connect_checkpoints is None:
        return None
    return context.checkpoints.lane


def tell(context: Context, messages: Iterable[ModelMessage]) -> None:
    """Adds to the result how many answers came by batches, and what these did cost where that is known."""
    answers = [one.provider_details or {} for one in messages if isinstance(one, ModelResponse)]
    nano = [details[_NANO] for details in answers if _NANO in details]
    if nano:
        cost = {} if None in nano else {"usd": usd(sum(nano))}
        context.annotate(_NOTE, {"requests": len(nano), **cost})


def packed_answer(result: BatchResult, nano: int | None) -> str:
    """The answer of a batch to a request, as it is stored. `nano`: what it did cost; None: that is not known."""
    return json.dumps({"result": RESULT.dump_python(result, mode="json"), "nano": nano})


class BatchedModel(WrapperModel):
    """A model whose requests wait for batches until the time for that is over, and then are made at once."""

    def __init__(
        self, wrapped: Model, name: str, context: Context, conversation: Conversation, lane: Lane, bounds: Bounds
    ) -> None:
        """`name`: as the crew has it."""
        super().__init__(wrapped)
        self._name = name
        self._context = context
        self._conversation = conversation
        self._lane = lane
        self._bounds = bounds

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        turn = self._conversation.current
        asked = BatchRequest(
            custom_id="",
            messages=messages,
            model_settings=_for_batches(model_settings),
            model_request_parameters=model_request_parameters,
        )
        own, answer = await self._lane.find()
        now = self._lane.now_ms()
        until = own.until_ms if own is not None else now + self._bounds.max_wait_seconds * 1000
        if own is None or (own.turn, own.model) != (turn, self._name):
            if now < until and await self._gather(asked, turn, now, until):
                raise self._waits(until)
        elif own.state == "answered":
            if (response := await self._read(own, answer, asked)) is not None:
                return response
        elif own.state == "waiting":
            if now < until:
                raise self._waits(until)
            await self._lane.leave(own)
            self._context.logger.info("no batch has answered in time: model %r is asked at once", self._name)
        return await super().request(messages, model_settings, model_request_parameters)

    def _waits(self, until_ms: int) -> Postponed:
        text = f"waits for a batch of the provider of model {self._name!r}, until {iso(until_ms)} at most"
        return Postponed(text, until_ms=until_ms)

    async def _gather(self, asked: BatchRequest, turn: str, now: int, until: int) -> bool:
        """Stores the request for a batch. False: it can't go by one."""
        spent = self._context.spending
        if spent is None:
            return False
        parameters = asked.model_request_parameters
        writes, estimate = spending.estimated(
            self._name, asked.messages, asked.model_settings, parameters, in_batch=True
        )
        reserved = await spent.reserve(self._name, estimate, in_batch=True)
        if reserved.is_bounded:
            settings = cast("ModelSettings", {**(asked.model_settings or {}), "max_tokens": writes})
            asked = replace(asked, model_settings=settings)
        try:
            encoded = await self._encoded(asked)
            if encoded is None:
                reserved.settle(Amount())
                return False
            group = Group(self._name, self._context.agent.base_url, encoded.group, self._bounds.max_requests)
            seal_ms = now + min(self._bounds.max_gather_seconds * 1000, (until - now) // 2)
            own = Batched("waiting", plan.request_id(self._context.crew, reserved.call), turn, self._name, until)
        except BaseException:
            reserved.settle(Amount())
            raise
        try:
            is_gathered = await self._lane.gather(own, reserved.call, encoded.body, group, seal_ms)
        except Exception:  # where it is cut off, nobody knows whether a batch will take the request
            reserved.settle(Amount())
            raise
        if not is_gathered:
            reserved.settle(Amount())
        return is_gathered

    async def _encoded(self, asked: BatchRequest) -> EncodedBatchRequest | None:
        try:
            encoded = await self.batch_encode(asked)
        except UserError as error:
            self._context.logger.warning("a request can't go by a batch, and is made at once: %s", error)
            return None
        return encoded if len(encoded.body) <= plan.REQUEST_MAX else None

    async def _read(self, own: Batched, answer: str, asked: BatchRequest) -> ModelResponse | None:
        """Returns the answer of a batch; None: the model is to be asked at once. Raises what a model raises that
        refuses the request."""
        found = json.loads(answer)
        result = RESULT.validate_python(found["result"])
        try:
            response = self.batch_decode(result, replace(asked, custom_id=own.request))
        except Exception as error:
            await self._lane.leave(own)  # else another attempt would fail by the same answer
            if result.status != "errored" or _may_pass(error):
                self._context.logger.warning(
                    "a batch had no answer, so model %r is asked at once: %s", self._name, error
                )
                return None
            raise
        details = {**(response.provider_details or {}), _NANO: found["nano"]}
        return replace(response, provider_details=details)


def _for_batches(settings: ModelSettings | None) -> ModelSettings:
    return cast("ModelSettings", {k: v for k, v in (settings or {}).items() if k not in _NOT_IN_BATCHES})


def _may_pass(error: Exception) -> bool:
    """Returns whether the same request may succeed when it is made again."""
    status = model_errors.status(error)
    return isinstance(error, ModelAPIError) and (status is None or status >= 500 or status in _WORTH_ANOTHER)
