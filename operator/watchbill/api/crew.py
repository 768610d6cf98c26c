"""The Crew: its agents, their order, and the bounds of its tasks. Pure.

It is the only source of the CRD and of the manifests that `watchbill run` accepts. A rule that joins several fields
stands twice, side by side: for Python (with the place of every finding) and for the API server (CEL).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, model_validator

from watchbill import names
from watchbill.api.conditions import NO_STATUS
from watchbill.api.crew_status import CrewStatus
from watchbill.api.delivery import DESTINATIONS_MAX, Destination, repeated
from watchbill.api.meta import (
    AGENT_NAME_HINT,
    API_VERSION,
    NAME_MAX,
    NAME_RULE,
    SET,
    TEMPLATE_MAX_BYTES,
    TEXT_MAX,
    AgentName,
    InputNames,
    ObjectMeta,
    Strict,
    Template,
    UniqueNames,
    by_key,
    bytes_rule,
    first_repeated,
    refuse_reserved,
)
from watchbill.api.problems import Finding, Hint, raise_findings
from watchbill.api.workers import Workers

AGENTS_MAX: Final = 100
RELATIONS_MAX: Final = 200
ENDS_MAX: Final = 16
TOOLS_MAX: Final = 100
INPUTS_MAX: Final = 64

LLM_AGENT: Final = ("LLMAgent", "watchbill.agents.llm:LLMAgent")
"""The names of the class that needs a model."""


_WITH_USER: Final = "^[^/]*//[^/?#]*@"


class Agent(Strict):
    """One agent of a crew."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                bytes_rule("systemPrompt", TEMPLATE_MAX_BYTES),
                bytes_rule("prompt", TEMPLATE_MAX_BYTES),
                {
                    # not a pattern: what fails one is quoted
                    "rule": f"!has(self.baseURL) || !self.baseURL.matches('{_WITH_USER}')",
                    "message": "baseURL has a user or password in it. Remove it: the key belongs into the workers' "
                    "environment",
                    "fieldPath": ".baseURL",
                },
            ]
        }
    )

    name: Annotated[AgentName, AGENT_NAME_HINT] = Field(
        description="Name of the agent, unique in the crew. Relations, heartbeats and {steps.NAME} cite it."
    )
    agent_class: str = Field(
        default="",
        alias="class",
        max_length=NAME_MAX,
        description="Class of the agent: one that comes with Watchbill (LLMAgent, EchoAgent), an entry point, or "
        "package.module:Class. Default: LLMAgent, if there is a model.",
    )
    model: str = Field(
        default="",
        max_length=NAME_MAX,
        description="Model of the agent, for example openai:gpt-5-mini. Default: spec.model.",
    )
    base_url: Annotated[str, Hint("Begin it with http:// or https://.")] = Field(
        default="",
        alias="baseURL",
        max_length=2048,
        pattern="^(https?://.*)?$",
        description="URL of a server that speaks the provider's protocol, http(s)://, without user and password. "
        "Default: the provider's own.",
    )
    system_prompt: Template = Field(
        default="", description="Instructions that the model gets before the prompt of every step."
    )
    prompt: Template = Field(
        default="",
        description="Prompt of the step; may cite {input}, {inputs.NAME} and {steps.AGENT}. Default: the submitted "
        "prompt, followed by the outputs of the steps before.",
    )
    tools: UniqueNames = Field(
        default_factory=list,
        max_length=TOOLS_MAX,
        description="Tools the agent may use: a tool that comes with Watchbill, an entry point, or module:function.",
        json_schema_extra=SET,
    )
    inputs: InputNames = Field(
        default_factory=list,
        max_length=INPUTS_MAX,
        description="Inputs that the agent reads by context.inputs, besides those that its prompt cites. Without it a "
        "warning says that they are not used.",
        json_schema_extra=SET,
    )
    config: dict[str, Any] = Field(
        default_factory=dict,
        max_length=64,
        description="Arguments of the class, which checks them.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )
    timeout_seconds: int | None = Field(
        default=None,
        ge=1,
        le=604_800,
        description="Seconds that one step of the agent may take. Default: tasks.timeoutSeconds.",
    )

    @model_validator(mode="after")
    def _no_password(self) -> Agent:
        if re.match(_WITH_USER, self.base_url):
            reason = "baseURL has a user or password in it, which whoever may read the crew would see"
            fix = "Remove it: the key belongs into the workers' environment."
            raise_findings(type(self), [Finding(("baseURL",), reason, fix)])
        return self


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


class Tasks(Strict):
    """Bounds of the crew's tasks."""

    timeout_seconds: int = Field(
        default=300, ge=1, le=604_800, description="Seconds a task may run before it counts as failed."
    )
    max_attempts: int = Field(
        default=3,
        ge=1,
        le=100,
        description="Attempts of a task, including those whose worker died, before it becomes a dead letter.",
    )
    backoff_seconds: int = Field(
        default=2,
        ge=0,
        le=3600,
        description="Longest pause in seconds before the second attempt; it doubles with each further attempt, and the "
        "actual pause is random. A delay that the failure asks for (HTTP Retry-After) is added.",
    )
    max_queued: int = Field(
        default=100_000,
        ge=1,
        le=10_000_000,
        description="Number of tasks in the queue above which new ones are refused.",
    )
    result_ttl_seconds: int = Field(
        default=3600,
        ge=1,
        le=2_592_000,
        alias="resultTTLSeconds",
        description="Seconds for which a finished task and its result are kept.",
    )
    max_results: int = Field(
        default=100_000,
        ge=100,
        le=10_000_000,
        description="Finished tasks and runs above which the oldest are removed, even before resultTTLSeconds.",
    )
    lease_seconds: int = Field(
        default=15,
        ge=3,
        le=3600,
        description="Seconds without a renewal after which a worker counts as dead, and others take over its tasks.",
    )


class CrewSpec(Strict):
    """The desired state of the crew."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": "(has(self.model) && self.model != '') || self.agents.all(a, "
                    "(has(a.model) && a.model != '') || (has(a.class) && a.class != ''))",
                    "message": "an agent has neither a class nor a model. Give it a class, or a model "
                    "(its own, or spec.model for all agents)",
                    "fieldPath": ".agents",
                },
                {
                    "rule": "(has(self.model) && self.model != '') || self.agents.all(a, "
                    f"(has(a.model) && a.model != '') || !has(a.class) || !(a.class in {list(LLM_AGENT)}))",
                    "message": "an agent is an LLMAgent and has no model. Give it a model (its own, or spec.model for "
                    "all agents)",
                    "fieldPath": ".agents",
                },
                {
                    "rule": "self.executionMode == 'flow' || !has(self.flowRelations) || size(self.flowRelations) == 0",
                    "message": "flowRelations mean something in executionMode flow only. Set executionMode: flow, "
                    "or remove flowRelations",
                    "fieldPath": ".flowRelations",
                },
                {
                    # the list of one list names the agents once: naming them per relation costs too much
                    "rule": "!has(self.flowRelations) || [self.agents.map(a, a.name)].all(names, "
                    "self.flowRelations.all(r, r.source.all(n, n in names) && r.target.all(n, n in names)))",
                    "message": "flowRelations cite an agent that is not in this crew. Add it to agents, "
                    "or cite one that is there",
                    "fieldPath": ".flowRelations",
                },
            ]
        }
    )

    description: str = Field(default="", max_length=TEXT_MAX, description="Purpose of the crew, in words for people.")
    execution_mode: Literal["sequential", "parallel", "flow"] = Field(
        default="sequential",
        description="Order of the agents: one after the other, each with all outputs before it; all at once; or by "
        "flowRelations.",
    )
    agents: list[Agent] = Field(
        min_length=1, max_length=AGENTS_MAX, description="Agents of the crew.", json_schema_extra=by_key("name")
    )
    model: str = Field(default="", max_length=NAME_MAX, description="Model of the agents that name none.")
    shared_tools: UniqueNames = Field(
        default_factory=list,
        max_length=TOOLS_MAX,
        description="Tools of every agent that has no tool of that name.",
        json_schema_extra=SET,
    )
    flow_relations: list[FlowRelation] = Field(
        default_factory=list,
        max_length=RELATIONS_MAX,
        description="Order of the agents in executionMode flow; an agent that no relation names starts at once.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    max_parallel_tasks: int = Field(
        default=10, ge=1, le=1000, description="Number of steps of one run that run at once."
    )
    suspend: bool = Field(
        default=False,
        description="While true, no task begins: those that run go on to their end, the workers then leave, what is "
        "submitted waits, and heartbeats don't fire nor make up for it. Results are still delivered.",
    )
    deletion_policy: Literal["Drain", "Cancel"] = Field(
        default="Drain",
        description="Fate of the work when the Crew is deleted. Drain: tasks that run may end within the grace period "
        "of the workers' pods; what waits is removed unrun. Cancel: all work is cancelled, and told so.",
    )
    tasks: Tasks = Field(default_factory=Tasks, description="Bounds of the crew's tasks.")
    workers: Workers = Field(default_factory=Workers, description="Number and properties of the crew's workers.")
    delivery: list[Destination] = Field(
        default_factory=list,
        max_length=DESTINATIONS_MAX,
        description="Destinations of the results of tasks and runs, unless one names others.",
        json_schema_extra=by_key("name"),
    )

    @model_validator(mode="after")
    def _sound(self) -> CrewSpec:
        raise_findings(
            type(self),
            [
                *self._repeated_agents(),
                *self._idle_agents(),
                *self._idle_relations(),
                *self._strangers(),
                *(found._replace(loc=("delivery", *found.loc)) for found in repeated(self.delivery)),
            ],
        )
        return self

    def _repeated_agents(self) -> Iterator[Finding]:
        first: dict[str, int] = {}
        for i, agent in enumerate(self.agents):
            if agent.name in first:
                reason = f"two agents are called {agent.name!r}: agents[{first[agent.name]}] and agents[{i}]"
                yield Finding(("agents", i, "name"), reason, "Give each agent a name of its own.")
            first.setdefault(agent.name, i)

    def _idle_agents(self) -> Iterator[Finding]:
        for i, agent in enumerate(self.agents):
            if agent.model or self.model:
                continue
            if agent.agent_class in LLM_AGENT:
                reason = f"agent {agent.name!r} is an LLMAgent and has no model"
                yield Finding(
                    ("agents", i, "model"), reason, "Give it a model (its own, or spec.model for all agents)."
                )
            elif not agent.agent_class:
                reason = f"agent {agent.name!r} has neither a class nor a model, so nothing could run it"
                fix = "Give it a class, or a model (its own, or spec.model for all agents)."
                yield Finding(("agents", i, "class"), reason, fix)

    def _idle_relations(self) -> Iterator[Finding]:
        if self.flow_relations and self.execution_mode != "flow":
            reason = f"flowRelations mean nothing in executionMode {self.execution_mode!r}"
            yield Finding(("flowRelations",), reason, "Set executionMode: flow, or remove flowRelations.")

    def _strangers(self) -> Iterator[Finding]:
        known = [agent.name for agent in self.agents]
        for i, relation in enumerate(self.flow_relations):
            for end, cited in (("source", relation.source), ("target", relation.target)):
                for j, name in enumerate(cited):
                    if name not in known:
                        yield Finding(
                            ("flowRelations", i, end, j),
                            f"no agent of this crew is called {name!r}",
                            f"Add it to agents, or cite one that is there: {', '.join(known)}.",
                        )


class Crew(Strict):
    """A crew of agents that share a queue of tasks."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                NAME_RULE,
                {
                    "rule": f"!(self.metadata.name in {sorted(names.RESERVED_CREW_NAMES)})",
                    "message": "this name is reserved for an index of the crew records. Choose another name than "
                    + ", ".join(sorted(names.RESERVED_CREW_NAMES)),
                    "fieldPath": ".metadata.name",
                },
            ]
        }
    )

    api_version: Literal["watchbill.dev/v1alpha1"] = Field(default=API_VERSION, description="The API's version.")
    kind: Literal["Crew"] = Field(default="Crew", description="Crew.")
    metadata: ObjectMeta = Field(description="Name and labels.")
    spec: CrewSpec = Field(description="Desired state of the crew.")
    status: CrewStatus | None = Field(
        default=None,
        description="Last observed state of the crew. The operator writes it.",
        json_schema_extra=NO_STATUS,
    )

    @model_validator(mode="after")
    def _not_reserved(self) -> Crew:
        refuse_reserved(type(self), self.metadata.name)
        return self

    @property
    def name(self) -> str:
        return self.metadata.name
