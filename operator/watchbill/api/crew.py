"""The Crew: its agents, their order, and the bounds of its tasks. Pure.

It is the only source of the CRD and of the manifests that `watchbill run` accepts. A rule that joins several fields
stands twice, side by side: for Python (with the place of every finding) and for the API server (CEL).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, model_validator

from watchbill import names
from watchbill.api import approvals, batches, limits, modes
from watchbill.api import budgets as spending
from watchbill.api import hierarchy as hierarchies
from watchbill.api import watches as watching
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
    Roles,
    Strict,
    Template,
    UniqueNames,
    by_key,
    bytes_rule,
    refuse_reserved,
)
from watchbill.api.models import LLM_AGENT, BaseUrl, FallbackModels, OutputSchema, key_in_config, no_user_rule
from watchbill.api.problems import Finding, raise_findings
from watchbill.api.task_bounds import Tasks
from watchbill.api.tool_sources import HttpTools, ToolServers
from watchbill.api.workers import Workers

AGENTS_MAX: Final = 100
RELATIONS_MAX: Final = 200
TOOLS_MAX: Final = 100
ROLES_MAX: Final = 10
CREW_ROLES_MAX: Final = 100
"""Different roles of a crew: each call of its workers reads their names and members."""
INPUTS_MAX: Final = 64


class Agent(Strict):
    """One agent of a crew."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                bytes_rule("systemPrompt", TEMPLATE_MAX_BYTES),
                bytes_rule("prompt", TEMPLATE_MAX_BYTES),
                no_user_rule(),
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
    base_url: BaseUrl = Field(
        default="",
        alias="baseURL",
        description="URL of a server that speaks the provider's protocol, http(s)://, without user and password. "
        "Default: spec.baseURL for a model of OpenAI's protocol, else the provider's own.",
    )
    fallback_models: FallbackModels = Field(default_factory=list)
    output_schema: OutputSchema = Field(default_factory=dict)
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
        description="Tools the agent may use: a tool that comes with Watchbill, an entry point, module:function, the "
        "name of one of httpTools, or SERVER/TOOL or SERVER/* of one of toolServers.",
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
    when: modes.When | None = Field(
        default=None, description="Condition of the step: it is skipped if the condition does not hold."
    )
    for_each: modes.ForEach | None = Field(
        default=None,
        description="List, {steps.AGENT.FIELD} or {inputs.NAME}, for each of whose items the agent has a step of its "
        "own; the prompt may cite {item} and {item.FIELD}. The output is the list of theirs, in order.",
    )
    on_error: modes.OnError | None = Field(
        default=None,
        description="Fail: what comes after a failed step of the agent does not run. Continue: it runs, and gets the "
        "error in place of an output. Default: spec.onError.",
    )
    batch: batches.OfAgent = None
    max_concurrent: limits.MaxConcurrent = None
    rate_limit: limits.AgentRate = None
    roles: Roles = Field(
        default_factory=list,
        max_length=ROLES_MAX,
        description="Roles of the agent. Work that is submitted for a role goes to one of its agents that has room. A "
        "crew has 100 different ones at most.",
        json_schema_extra=SET,
    )

    @model_validator(mode="after")
    def _no_key(self) -> Agent:
        if self.agent_class in ("", *LLM_AGENT) and (found := key_in_config(self.config)):
            raise_findings(type(self), [found])
        return self


class CrewSpec(Strict):
    """The desired state of the crew."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                no_user_rule(),
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
                *modes.RULES,
                approvals.RULE,
                spending.RULE,
                *watching.RULES,
                *hierarchies.RULES,
            ]
        }
    )

    description: str = Field(default="", max_length=TEXT_MAX, description="Purpose of the crew, in words for people.")
    execution_mode: Literal["sequential", "parallel", "flow", "loop", "hierarchical"] = Field(
        default="sequential",
        description="Order of the agents: one after the other, each with all outputs before it; all at once; by "
        "flowRelations; one after the other again and again, within the bounds of loop; or as the manager of "
        "hierarchy delegates work to them.",
    )
    agents: list[Agent] = Field(
        min_length=1, max_length=AGENTS_MAX, description="Agents of the crew.", json_schema_extra=by_key("name")
    )
    model: str = Field(default="", max_length=NAME_MAX, description="Model of the agents that name none.")
    base_url: BaseUrl = Field(
        default="",
        alias="baseURL",
        description="URL of the server of all models of OpenAI's protocol (openai:) that name none: a gateway.",
    )
    shared_tools: UniqueNames = Field(
        default_factory=list,
        max_length=TOOLS_MAX,
        description="Tools of every agent that has no tool of that name.",
        json_schema_extra=SET,
    )
    tool_servers: ToolServers = Field(default_factory=list)
    http_tools: HttpTools = Field(default_factory=list)
    flow_relations: list[modes.FlowRelation] = Field(
        default_factory=list,
        max_length=RELATIONS_MAX,
        description="Order of the agents in executionMode flow; an agent that no relation names starts at once.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    max_parallel_tasks: int = Field(
        default=10, ge=1, le=1000, description="Number of steps of one run that run at once."
    )
    loop: modes.Loop | None = Field(default=None, description="Bounds of a crew in executionMode loop.")
    on_error: modes.OnError = Field(
        default="Fail",
        description="Fail: what comes after a failed step does not run. Continue: it runs, and gets the error in place "
        "of an output.",
    )
    synthesis: modes.Synthesis | None = Field(
        default=None,
        description="Agent that sums up all outputs once everything else of a run has ended. Its output is the run's; "
        "its failure does not fail the run.",
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
    hierarchy: hierarchies.Hierarchy | None = Field(
        default=None, description="Manager, reviewer and bounds of a crew in executionMode hierarchical."
    )
    requires_approval: approvals.RequiresApproval = Field(default_factory=list)
    approval_timeout_seconds: approvals.ApprovalTimeout = approvals.APPROVAL_SECONDS
    budgets: spending.Budgets = Field(default_factory=list)
    prices: spending.Prices = Field(default_factory=list)
    model_limits: limits.ModelLimits = Field(default_factory=list)
    watches: watching.Watches = Field(default_factory=list)

    @model_validator(mode="after")
    def _sound(self) -> CrewSpec:
        raise_findings(
            type(self),
            [
                *self._repeated_agents(),
                *self._idle_agents(),
                *self._idle_relations(),
                *self._strangers(),
                *modes.loop_findings(self.execution_mode, [agent.name for agent in self.agents], self.loop),
                *modes.synthesis_findings(self.synthesis, [agent.name for agent in self.agents], self.model),
                *hierarchies.broken_rules(self.execution_mode, self.hierarchy, [agent.name for agent in self.agents]),
                *approvals.strangers(self.requires_approval, {a.name: a.tools for a in self.agents}, self.shared_tools),
                *(found._replace(loc=("delivery", *found.loc)) for found in repeated(self.delivery)),
                *spending.broken_rules(self.budgets, self.prices, [agent.name for agent in self.agents]),
                *limits.repeated(self.model_limits),
                *watching.broken_rules(
                    self.watches, [a.name for a in self.agents], {role for a in self.agents for role in a.roles}
                ),
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

    @property
    def suspends(self) -> bool | None:
        """True or False where it says whether it is to be suspended; None: it stays as it is."""
        return self.spec.suspend if "suspend" in self.spec.model_fields_set else None
