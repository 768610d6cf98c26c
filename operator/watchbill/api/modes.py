"""Parts of a Crew that say which of its steps run, and how often: loops, conditions, lists and the synthesis. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, PlainSerializer, model_validator

from watchbill import names
from watchbill.api.meta import (
    AGENT_NAME_HINT,
    NAME_MAX,
    SET,
    TEMPLATE_MAX_BYTES,
    TEXT_MAX,
    AgentName,
    Strict,
    Template,
    bytes_rule,
    first_repeated,
)
from watchbill.api.models import BaseUrl, FallbackModels, no_user_rule
from watchbill.api.problems import Finding, Hint, raise_findings

ITERATIONS_MAX: Final = 100
ITEMS_MAX: Final = 10_000
ENDS_MAX: Final = 16
_CHOICES_MAX: Final = 100

OnError = Literal["Fail", "Continue"]

_PATH: Final = r"^[^.]+(\.[^.]+)*$"
FieldPath = Annotated[
    str,
    Field(max_length=NAME_MAX, pattern=_PATH),
    Hint("Write the names of fields with dots between them, as in review.score; a number counts from 0 in a list."),
]


Ends = Annotated[list[AgentName], AGENT_NAME_HINT]


class FlowRelation(Strict):
    """A relation of agents: those of `target` start once all of `source` are done."""

    source: Ends = Field(
        min_length=1, max_length=ENDS_MAX, description="Names of the agents that run first.", json_schema_extra=SET
    )
    target: Ends = Field(
        min_length=1, max_length=ENDS_MAX, description="Names of the agents that run after them.", json_schema_extra=SET
    )

    @model_validator(mode="after")
    def _each_once(self) -> FlowRelation:
        raise_findings(type(self), self._repeated())
        return self

    def _repeated(self) -> Iterator[Finding]:
        for end, listed in (("source", self.source), ("target", self.target)):
            if again := first_repeated(listed):
                position, name = again
                yield Finding((end, position), f"agent {name!r} is listed twice", "Remove one of the two.")


class Until(Strict):
    """The condition that ends a loop: a boolean field of an agent's output, or a function of yours."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": "has(self.predicate) ? !has(self.agent) && !has(self.field) : has(self.agent) && "
                    "has(self.field)",
                    "message": "a condition is either a predicate, or an agent and a field of its output. Give one of "
                    "the two",
                }
            ]
        }
    )

    agent: Annotated[AgentName, AGENT_NAME_HINT] | None = Field(
        default=None, description="Name of the agent whose output has the field."
    )
    field: FieldPath | None = Field(
        default=None,
        description="Field of the agent's output that must be true or false: true ends the loop. The output must be "
        "JSON; no text is searched for words.",
    )
    predicate: Annotated[str, Hint("Write package.module:function.")] | None = Field(
        default=None,
        max_length=NAME_MAX,
        pattern="^[^:]+:[^:]+$",
        description="Function, package.module:function, that gets the iteration's outputs by the names of the agents, "
        "and returns True to end the loop, else False.",
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> Until:
        of_field = self.agent is not None and self.field is not None
        mixed = self.predicate is not None and (self.agent is not None or self.field is not None)
        if mixed or (self.predicate is None and not of_field):
            reason = "a condition is either a predicate, or an agent and a field of its output"
            raise_findings(type(self), [Finding((), reason, "Give one of the two.")])
        return self


class Loop(Strict):
    """The bounds of a loop."""

    max_iterations: int = Field(
        ge=1, le=ITERATIONS_MAX, description="Number of iterations after which the loop ends, whatever was judged."
    )
    until: Until | None = Field(
        default=None,
        description="Condition that is judged after each iteration, and ends the loop. Without it there are "
        "maxIterations iterations.",
    )


_Compared = Annotated[str, Field(max_length=TEXT_MAX)]


class When(Strict):
    """A condition over the output of a step before: the comparison must hold, else the step is skipped."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": "[has(self.eq), has(self.ne), has(self.gt), has(self.atLeast), has(self.lt), "
                    "has(self.atMost), has(self.__in__), has(self.exists)].filter(given, given).size() == 1",
                    "message": "exactly one comparison is needed. Give one of eq, ne, gt, atLeast, lt, atMost, in, "
                    "exists",
                }
            ]
        }
    )

    step: Annotated[AgentName, AGENT_NAME_HINT] = Field(description="Name of the agent whose output is compared.")
    field: FieldPath | None = Field(default=None, description="Field of that output. Default: all of it.")
    eq: _Compared | None = Field(
        default=None,
        description="It must be this text, as a prompt would show it: true, 7 and open are texts. A number is compared "
        "as a number: 7 is 7.0.",
    )
    ne: _Compared | None = Field(default=None, description="It must be another text, or number, than this one.")
    gt: float | None = Field(default=None, description="It must be a number above this one.")
    at_least: float | None = Field(default=None, description="It must be this number, or one above it.")
    lt: float | None = Field(default=None, description="It must be a number below this one.")
    at_most: float | None = Field(default=None, description="It must be this number, or one below it.")
    one_of: list[_Compared] | None = Field(
        default=None,
        alias="in",
        min_length=1,
        max_length=_CHOICES_MAX,
        description="It must be one of these texts, or numbers.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    exists: bool | None = Field(
        default=None,
        description="true: it must be there; false: it must not, because the output has no such field, or the step was "
        "skipped.",
    )

    @model_validator(mode="after")
    def _one_comparison(self) -> When:
        given = [name for name, value in self.comparisons().items() if value is not None]
        if len(given) != 1:
            found = f"{len(given)} are given: {', '.join(given)}" if given else "none is given"
            reason = f"exactly one comparison is needed, and {found}"
            raise_findings(type(self), [Finding((), reason, f"Give one of {', '.join(self.comparisons())}.")])
        return self

    def comparisons(self) -> dict[str, Any]:
        """The comparisons by their names in YAML; None: it isn't given."""
        return {
            "eq": self.eq,
            "ne": self.ne,
            **self.bounds(),
            "in": self.one_of,
            "exists": self.exists,
        }

    def bounds(self) -> dict[str, float | None]:
        """The comparisons that are of numbers."""
        return {"gt": self.gt, "atLeast": self.at_least, "lt": self.lt, "atMost": self.at_most}


ForEach = Annotated[
    str,
    Field(max_length=NAME_MAX, pattern=r"^\{(inputs\.[A-Za-z0-9_-]+|steps\.[^{}]+)\}$"),
    Hint("Write {steps.AGENT.FIELD}, {steps.AGENT} or {inputs.NAME}."),
]


class Synthesis(Strict):
    """The agent that sums a run up."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                bytes_rule("systemPrompt", TEMPLATE_MAX_BYTES),
                bytes_rule("prompt", TEMPLATE_MAX_BYTES),
                no_user_rule(),
            ]
        }
    )

    agent_class: str = Field(
        default="", alias="class", max_length=NAME_MAX, description="Class of the agent. Default: LLMAgent."
    )
    model: str = Field(default="", max_length=NAME_MAX, description="Model of the agent. Default: spec.model.")
    base_url: BaseUrl = Field(
        default="",
        alias="baseURL",
        description="URL of the model's server, as an agent has it. Default: spec.baseURL for a model of OpenAI's "
        "protocol, else the provider's own; never that of an agent.",
    )
    fallback_models: FallbackModels = Field(default_factory=list)
    system_prompt: Template = Field(default="", description="Instructions that the model gets before the prompt.")
    prompt: Template = Field(
        default="",
        description="Prompt; may cite {input}, {inputs.NAME} and {steps.AGENT}. Default: the submitted prompt, and all "
        "outputs.",
    )
    config: dict[str, Any] = Field(
        default_factory=dict,
        max_length=64,
        description="Arguments of the class, which checks them.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )
    timeout_seconds: int | None = Field(
        default=None, ge=1, le=604_800, description="Seconds that it may take. Default: tasks.timeoutSeconds."
    )


def _as_written(part: Strict) -> dict[str, Any]:
    return part.model_dump(mode="json", by_alias=True, exclude_unset=True)


StoredLoop = Annotated[Loop, PlainSerializer(_as_written)]
StoredSynthesis = Annotated[Synthesis, PlainSerializer(_as_written)]
StoredWhen = Annotated[When, PlainSerializer(_as_written)]
"""The conditions of steps. A record has such parts by the names that they have in YAML."""


RULES: Final[list[dict[str, Any]]] = [
    {
        "rule": "self.executionMode == 'loop' ? has(self.loop) : !has(self.loop)",
        "message": "loop and executionMode loop belong together. Give loop.maxIterations, and loop.until if a "
        "condition is to end it; or leave out loop in another mode",
        "fieldPath": ".loop",
    },
    {
        "rule": "self.executionMode != 'loop' || !self.agents.exists(a, a.name == 'until')",
        "message": "in executionMode loop the name until stands for the condition. Give the agent another name",
        "fieldPath": ".agents",
    },
    {
        "rule": "!has(self.loop) || !has(self.loop.until) || !has(self.loop.until.agent) || "
        "self.agents.exists(a, a.name == self.loop.until.agent)",
        "message": "loop.until cites an agent that is not in this crew. Add it to agents, or cite one that is there",
        "fieldPath": ".loop.until",
    },
    {
        "rule": "!has(self.synthesis) || !self.agents.exists(a, a.name == 'synthesis')",
        "message": "the name synthesis stands for the crew's synthesis. Give the agent another name",
        "fieldPath": ".agents",
    },
    {
        "rule": "!has(self.synthesis) || (has(self.model) && self.model != '') || (has(self.synthesis.model) && "
        "self.synthesis.model != '') || (has(self.synthesis.class) && self.synthesis.class != '')",
        "message": "the synthesis has neither a class nor a model. Give it a model, spec.model for all agents, or a "
        "class",
        "fieldPath": ".synthesis",
    },
]
"""CEL: what `loop_findings` and `synthesis_findings` say for Python."""


def loop_findings(mode: str, agents: Iterable[str], loop: Loop | None) -> Iterator[Finding]:
    """The ways in which a loop doesn't fit its crew."""
    known = list(agents)
    if mode == "loop" and loop is None:
        reason = "executionMode loop has no bound"
        yield Finding(("loop",), reason, "Give loop.maxIterations, and loop.until if a condition is to end it.")
    if mode != "loop" and loop is not None:
        yield Finding(
            ("loop",), f"loop means nothing in executionMode {mode!r}", "Set executionMode: loop, or remove it."
        )
    if mode == "loop" and names.UNTIL in known:
        where = ("agents", known.index(names.UNTIL), "name")
        reason = f"in executionMode loop the name {names.UNTIL!r} stands for the condition"
        yield Finding(where, reason, "Give the agent another name.")
    asked = loop.until.agent if loop is not None and loop.until is not None else None
    if asked is not None and asked not in known:
        reason = f"no agent of this crew is called {asked!r}"
        yield Finding(("loop", "until"), reason, f"Name one of its agents: {', '.join(known)}.")


def synthesis_findings(synthesis: Synthesis | None, agents: Iterable[str], model: str) -> Iterator[Finding]:
    """The ways in which a synthesis doesn't fit its crew. `model`: the crew's."""
    if synthesis is None:
        return
    if names.SYNTHESIS in (known := list(agents)):
        reason = f"the name {names.SYNTHESIS!r} stands for the crew's synthesis"
        yield Finding(("agents", known.index(names.SYNTHESIS), "name"), reason, "Give the agent another name.")
    if not (synthesis.model or synthesis.agent_class or model):
        reason = "the synthesis has neither a class nor a model, so nothing could run it"
        yield Finding(("synthesis", "model"), reason, "Give it a model, spec.model for all agents, or a class.")
