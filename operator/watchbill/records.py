"""Crew records: the definition of a crew as it is stored (the CrewDefinition of seed 000). Pure.

JSON with the seed's snake_case field names, so that other readers of such records understand ours; what our
API knows beyond the seed is added as further fields. Strict about what makes a crew unrunnable (names,
references, cycles), lenient about fields it doesn't know, so that an older worker reads a newer record.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from watchbill import api, names
from watchbill.api.approvals import is_tool
from watchbill.api.batches import StoredBatch
from watchbill.api.budgets import Budget, Price
from watchbill.api.delivery import Destination
from watchbill.api.hierarchy import StoredHierarchy, fault
from watchbill.api.limits import ModelLimit, StoredRate
from watchbill.api.models import ModelChoice
from watchbill.api.modes import OnError, StoredLoop, StoredSynthesis, StoredWhen
from watchbill.api.problems import explain
from watchbill.api.relations import edges, find_cycle
from watchbill.api.tool_sources import HttpTool, ToolServer
from watchbill.api.watches import Watch, stray
from watchbill.errors import InvalidInput, Problem

DEFAULT_CLASS: Final = "LLMAgent"
AGENT_NAME_MAX_BYTES: Final = 253


class ExecutionMode(StrEnum):
    """The way in which the agents of a crew work together."""

    SEQUENTIAL = "sequential"
    PARALLEL = "parallel"
    FLOW = "flow"
    HIERARCHICAL = "hierarchical"
    LOOP = "loop"
    """A record may have it without the bounds of its loop. No such crew can be run."""


def _is_agent_name(value: str) -> bool:
    return bool(value) and value.isprintable() and len(value.encode("utf-8", "replace")) <= AGENT_NAME_MAX_BYTES


def _agent_name(value: str) -> str:
    """Names of agents and their roles become parts of ids, keys and packed values."""
    if not _is_agent_name(value):
        fix = f"Use 1 to {AGENT_NAME_MAX_BYTES} bytes of printable characters"
        raise ValueError(f"{value!r} can't be an agent's name. {fix}")
    return value


class AgentDefinition(BaseModel):
    """One agent of a crew."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)

    agent_id: Annotated[str, AfterValidator(_agent_name)]
    agent_class: str = DEFAULT_CLASS
    name: Annotated[str, AfterValidator(_agent_name)] | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    tools: list[str] = Field(default_factory=list)
    system_prompt: str | None = None
    model: str | None = None
    base_url: str | None = None
    prompt: str | None = None
    timeout_seconds: int | None = None
    inputs: list[str] = Field(default_factory=list)
    """That it reads by itself, beside those that its prompt cites."""
    when: StoredWhen | None = None
    for_each: str | None = None
    on_error: OnError | None = None
    """None: the crew's."""
    fallback_models: list[ModelChoice] = Field(default_factory=list)
    output_schema: dict[str, Any] | None = None
    batch: StoredBatch | None = None
    max_concurrent: int | None = None
    rate_limit: StoredRate | None = None
    roles: list[Annotated[str, AfterValidator(_agent_name)]] = Field(default_factory=list)

    @property
    def effective_name(self) -> str:
        return self.name or self.agent_id


class FlowRelation(BaseModel):
    """`target` runs once all of `source` are done. Either is an agent_id or effective name, or a list of them."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)

    source: str | list[str]
    target: str | list[str]

    @property
    def sources(self) -> list[str]:
        return [self.source] if isinstance(self.source, str) else self.source

    @property
    def targets(self) -> list[str]:
        return [self.target] if isinstance(self.target, str) else self.target


class TaskPolicy(BaseModel):
    """The bounds of a crew's tasks; units are in the names."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)

    timeout_seconds: int = 300
    max_attempts: int = 3
    backoff_seconds: int | float = 2
    """Fractions are for the library; a resource has whole seconds."""
    max_queued: int = 100_000
    result_ttl_seconds: int = 3600
    max_results: int = 100_000
    lease_seconds: int = 15


class CrewDefinition(BaseModel):
    """A crew as it is stored.

    Raises (as pydantic's ValidationError) when two agents share a name, when a relation cites an agent that
    isn't there, or when the relations form a cycle: each names the culprit.
    """

    model_config = ConfigDict(extra="ignore", defer_build=True)

    crew_id: str = Field(default_factory=lambda: str(uuid.uuid4()))
    name: str
    description: str | None = None
    execution_mode: ExecutionMode = ExecutionMode.SEQUENTIAL
    agents: list[AgentDefinition] = Field(min_length=1)
    flow_relations: list[FlowRelation] = Field(default_factory=list)
    shared_tools: list[str] = Field(default_factory=list)
    max_parallel_tasks: int = Field(default=10, ge=1)
    loop: StoredLoop | None = None
    on_error: OnError = "Fail"
    synthesis: StoredSynthesis | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    model: str | None = None
    base_url: str | None = None
    """The server of models of OpenAI's protocol that name none."""
    tasks: TaskPolicy = TaskPolicy()
    concurrency: int = Field(default=10, ge=1)
    delivery: list[Destination] = Field(default_factory=list)
    """The destinations of results, unless a task says otherwise."""
    tool_servers: list[ToolServer] = Field(default_factory=list)
    http_tools: list[HttpTool] = Field(default_factory=list)
    hierarchy: StoredHierarchy | None = None
    requires_approval: list[str] = Field(default_factory=list)
    """Agents and tools, of each of whose tasks or calls somebody must approve before it begins."""
    approval_timeout_seconds: int = Field(default=86_400, ge=1)
    budgets: list[Budget] = Field(default_factory=list)
    prices: list[Price] = Field(default_factory=list)
    model_limits: list[ModelLimit] = Field(default_factory=list)
    watches: list[Watch] = Field(default_factory=list)
    """Events of its own feed that begin work."""
    created_at: datetime | None = None
    updated_at: datetime | None = None

    @field_validator("name")
    @classmethod
    def _storable(cls, value: str) -> str:
        if value in names.RESERVED_CREW_NAMES:
            fix = f"Choose another name than {', '.join(sorted(names.RESERVED_CREW_NAMES))}"
            raise ValueError(f"{value!r} is the name of an index of the crew records. {fix}")
        if not value or len(value) > 253 or any(c in value for c in "{}:/") or not value.isprintable():
            raise ValueError(f"{value!r} can't be part of a key. Use printable characters other than {{ }} : /")
        return value

    @field_validator("created_at", "updated_at")
    @classmethod
    def _aware(cls, value: datetime | None) -> datetime | None:
        """Take a time without a zone as UTC, in which the original of seed 000 wrote its records."""
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value

    @model_validator(mode="after")
    def _runnable(self) -> CrewDefinition:
        known: dict[str, str] = {}
        for agent in self.agents:
            for name in dict.fromkeys((agent.agent_id, agent.effective_name)):
                if name in known:
                    raise ValueError(f"two agents are called {name!r}. Give each agent a name of its own")
                known[name] = agent.agent_id
        cited = [("flow_relations", name) for r in self.flow_relations for name in (*r.sources, *r.targets)]
        tools = {*self.shared_tools, *(tool for agent in self.agents for tool in agent.tools)}
        cited += [("requires_approval", name) for name in self.requires_approval if not is_tool(name, tools)]
        cited += [("watches", name) for w in self.watches for name in (w.agent, w.of_agent) if name is not None]
        for field, name in cited:
            if name not in known:
                fix = f"Add it to agents, or use one of: {', '.join(a.agent_id for a in self.agents)}"
                raise ValueError(f"{field} cites the agent {name!r}, which is not in this crew. {fix}")
        roles = {role for agent in self.agents for role in agent.roles}
        if why := fault(self.execution_mode, self.hierarchy, known) or stray(self.watches, roles):
            raise ValueError(why)
        if cycle := find_cycle([a.agent_id for a in self.agents], self.edges()):
            raise ValueError(f"flow_relations form a cycle: {' -> '.join(cycle)}. Remove one of these relations")
        return self

    @field_serializer("delivery", "tool_servers", "http_tools", "budgets", "prices", "model_limits", "watches")
    def _as_written(self, value: list[BaseModel]) -> list[dict[str, Any]]:
        return [part.model_dump(mode="json", by_alias=True, exclude_unset=True) for part in value]

    def agent_ids(self) -> dict[str, str]:
        """Every name by which an agent may be cited (agent_id, effective name) → its agent_id."""
        return {name: a.agent_id for a in self.agents for name in (a.agent_id, a.effective_name)}

    def agent(self, name: str) -> AgentDefinition | None:
        """The agent of this agent_id or effective name. A crew with an agent `*` has one of any name."""
        found = next((a for a in self.agents if name in (a.agent_id, a.effective_name)), None)
        if found is None and self.takes_any and _is_agent_name(name):
            return next(a for a in self.agents if a.agent_id == names.ANY_AGENT).model_copy(update={"agent_id": name})
        return found

    @property
    def takes_any(self) -> bool:
        """True if it has an agent of any name."""
        return any(agent.agent_id == names.ANY_AGENT for agent in self.agents)

    def edges(self) -> list[tuple[str, str]]:
        """(source, target) of the flow by agent_id, each once."""
        known = self.agent_ids()
        return edges(
            ([known[s] for s in relation.sources], [known[t] for t in relation.targets])
            for relation in self.flow_relations
        )

    def tools_of(self, agent: AgentDefinition) -> Iterator[str]:
        """The agent's own tools, then the shared ones of which it has none of that name."""
        own = {tool_name(tool) for tool in agent.tools}
        yield from agent.tools
        yield from (tool for tool in self.shared_tools if tool_name(tool) not in own)

    def content(self) -> str:
        """Returns the parts that runs depend on, as canonical JSON: all but identity, times and metadata."""
        return self.model_dump_json(exclude={"crew_id", "metadata", "created_at", "updated_at"})

    def digest(self, content: str = "") -> str:
        """The content's address: equal definitions share one stored copy. `content`: what `content` returned before."""
        return hashlib.sha256((content or self.content()).encode()).hexdigest()[:16]


def tool_name(reference: str) -> str:
    """The name a tool goes by: `search` for both `search` and `my_tools.web:search`."""
    return reference.rpartition(":")[2]


_SAME: Final = ("timeout_seconds", "when", "for_each", "on_error", "batch", "max_concurrent", "rate_limit")
_SAME_OF_CREW: Final = ("max_parallel_tasks", "loop", "on_error", "synthesis", "hierarchy", "approval_timeout_seconds")
_LISTS: Final = {"delivery", "tool_servers", "http_tools", "budgets", "prices", "model_limits", "watches"}
_KEPT_IN_METADATA: Final = frozenset({"labels", "annotations", "workers"})
"""Parts of a Crew for which a crew record has no field. Runs don't depend on them, so they aren't in the digest."""
_KUBECTL_COPY: Final = "kubectl.kubernetes.io/last-applied-configuration"
"""An annotation that repeats the whole resource."""


def from_crew(crew: api.Crew, crew_id: str | None = None) -> CrewDefinition:
    """The definition to store for a Crew; `crew_id` defaults to a new one. Raises InvalidInput when the crew can't run
    (a cycle in its flow)."""
    if problems := api.check(crew):
        raise InvalidInput(problems)
    spec = crew.spec
    annotations = {key: value for key, value in crew.metadata.annotations.items() if key != _KUBECTL_COPY}
    kept = {
        "labels": dict(crew.metadata.labels),
        "annotations": annotations,
        "workers": spec.workers.model_dump(by_alias=True, exclude={"concurrency"}, exclude_defaults=True),
    }
    given: dict[str, Any] = {part: list(getattr(spec, part)) for part in _LISTS}
    given |= {part: getattr(spec, part) for part in _SAME_OF_CREW}
    given |= {} if crew_id is None else {"crew_id": crew_id}
    return CrewDefinition(
        **given,
        name=crew.name,
        description=spec.description or None,
        execution_mode=ExecutionMode(spec.execution_mode),
        agents=[
            AgentDefinition(
                agent_id=agent.name,
                agent_class=agent.agent_class or DEFAULT_CLASS,
                config=dict(agent.config),
                system_prompt=agent.system_prompt or None,
                model=agent.model or None,
                base_url=agent.base_url or None,
                prompt=agent.prompt or None,
                **{part: list(getattr(agent, part)) for part in ("tools", "inputs", "roles")},
                fallback_models=list(map(ModelChoice.of, agent.fallback_models)),
                output_schema=dict(agent.output_schema) or None,
                **{part: getattr(agent, part) for part in _SAME},
            )
            for agent in spec.agents
        ],
        flow_relations=[FlowRelation(source=list(r.source), target=list(r.target)) for r in spec.flow_relations],
        shared_tools=list(spec.shared_tools),
        metadata={name: value for name, value in kept.items() if value},
        model=spec.model or None,
        base_url=spec.base_url or None,
        tasks=TaskPolicy(**spec.tasks.model_dump()),
        concurrency=spec.workers.concurrency,
        requires_approval=list(spec.requires_approval),
    )


def to_crew(definition: CrewDefinition, namespace: str) -> api.Crew:
    """The Crew that says the same, without identity and times.

    Raises InvalidInput, naming the field, for what a Crew can't say: names that Kubernetes refuses, a display name
    beside the agent_id, metadata of other programs.
    """
    problems = [
        Problem(
            f"agent {agent.agent_id!r} has a second name, {agent.name!r}, for which a Crew has no place",
            "Remove name, or use it as the agent_id.",
            path=f"agents[{i}].name",
        )
        for i, agent in enumerate(definition.agents)
        if agent.effective_name != agent.agent_id
    ]
    problems += [
        Problem(f"a Crew has no place for the metadata {key!r}", "Remove it.", path=f"metadata.{key}")
        for key in definition.metadata
        if key not in _KEPT_IN_METADATA
    ]
    try:
        crew = api.Crew.model_validate(_as_written(definition, namespace))
    except ValidationError as error:
        problems += [Problem(f.reason, f.fix, path=f.path) for f in explain(api.Crew, error)]
    if problems:
        raise InvalidInput(problems)
    return crew


def _as_written(definition: CrewDefinition, namespace: str) -> dict[str, Any]:
    """The fields of a Crew by the names they have in YAML; what is not set is left out."""
    known = definition.agent_ids()
    metadata = definition.metadata
    # other programs write records too: what isn't as we write it is passed on, to be refused with its place
    workers = metadata.get("workers", {})
    named = {"labels": metadata.get("labels"), "annotations": metadata.get("annotations")}
    agents = [
        {
            "name": agent.agent_id,
            "class": agent.agent_class,
            **{
                part: getattr(agent, part) or None for part in ("model", "prompt", "tools", "config", "inputs", "roles")
            },
            "baseURL": agent.base_url,
            "systemPrompt": agent.system_prompt,
            **{to_camel(part): value for part, value in agent.model_dump(include=set(_SAME)).items()},
            "fallbackModels": [each.as_written() for each in agent.fallback_models] or None,
            "outputSchema": agent.output_schema,
        }
        for agent in definition.agents
    ]
    spec = {
        "description": definition.description,
        "executionMode": definition.execution_mode.value,
        "agents": [_set_only(agent) for agent in agents],
        "model": definition.model,
        "baseURL": definition.base_url,
        "sharedTools": definition.shared_tools,
        "flowRelations": [
            {"source": [known[name] for name in r.sources], "target": [known[name] for name in r.targets]}
            for r in definition.flow_relations
        ],
        "maxParallelTasks": definition.max_parallel_tasks,
        "onError": definition.on_error,
        **definition.model_dump(include={"loop", "synthesis", "hierarchy"}),
        "tasks": {
            api.Tasks.model_fields[name].alias: value
            for name, value in definition.tasks.model_dump().items()
            if name in api.Tasks.model_fields
        },
        "workers": {**workers, "concurrency": definition.concurrency} if isinstance(workers, dict) else workers,
        **{to_camel(part): written or None for part, written in definition.model_dump(include=_LISTS).items()},
        "requiresApproval": [known.get(name, name) for name in definition.requires_approval] or None,
        "approvalTimeoutSeconds": definition.approval_timeout_seconds,
    }
    return {"metadata": {"name": definition.name, "namespace": namespace, **_set_only(named)}, "spec": _set_only(spec)}


def _set_only(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
