"""Loads agents from their definitions: the class or function, its config, its tools.

A definition names a built-in agent, an entry point, or `package.module:Name` (see `sources`). An agent is

- a class with a `run(self, context)` method, made anew for every task as `cls(**config)`, so that concurrent runs
  share nothing; with a pydantic model as its attribute `Config`, that validates and it is `cls(config=Config(...))`;
- or a function of the context, which takes no config.

Both may be sync or async. With an attribute `runs_in = "process"` an agent runs in a process of its own, for CPU-heavy
work that would hold up the other agents of its worker. A class may also have a classmethod `check(agent, tools)` that
returns problems with its definition, as `Problem`s with paths below the agent, and a classmethod `ready(agent)` that
returns problems with the environment. Nothing is instantiated or run here before `Runner.run`.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from pydantic import BaseModel, TypeAdapter, ValidationError

from watchbill.agents import approving, declared_tools, defaults, tools
from watchbill.agents.context import Context
from watchbill.agents.importing import Finder, Unusable, suggest
from watchbill.agents.sources import Sources
from watchbill.agents.tools import Tool
from watchbill.api.approvals import needs
from watchbill.errors import AgentNotLoadable, Problem, sentence
from watchbill.names import SYNTHESIS, UNTIL
from watchbill.plan import flow
from watchbill.records import AgentDefinition, CrewDefinition, tool_name

ENTRY_POINTS: Final = "watchbill.agents"
"""The entry point group in which an installed package offers agents."""

BUILT_IN: Final[Mapping[str, str]] = {
    "BasicAgent": "watchbill.agents.llm:LLMAgent",  # as records of other programs call it
    "EchoAgent": "watchbill.agents.echo:EchoAgent",
    "LLMAgent": "watchbill.agents.llm:LLMAgent",
}


_RUNS_IN: Final = "runs_in"
_PROCESS: Final = "process"


@dataclass(frozen=True, slots=True)
class Runner:
    """A loaded agent, which can run any number of tasks, also at the same time."""

    is_async: bool
    """False: `run` may block, and must be called in a thread."""
    agent: AgentDefinition
    _start: Callable[[Context], Any]
    in_process: bool = False
    """True: the agent must run in a process of its own."""

    def run(self, context: Context) -> Any | Awaitable[Any]:
        """The agent's output; an awaitable of it if `is_async`. Raises the errors of the agent.

        The agent's definition in `context` is copied, so that an agent can't change it for other runs.
        """
        agent = self.agent
        mine = {"config": copy.deepcopy(agent.config) if agent.config else {}, "tools": list(agent.tools)}
        context.agent, context.tools = agent.model_copy(update=mine), dict(context.tools)
        if gated := {name: tool for name, tool in context.tools.items() if tool.needs_approval}:
            uses: Counter[str] = Counter()
            context.tools |= {name: approving.gated(tool, context, uses) for name, tool in gated.items()}
        return self._start(context)

    def call(self, argument: Any) -> Any | Awaitable[Any]:
        """Calls it with another argument than a context, as a loop's predicate with the outputs of an iteration."""
        return self._start(argument)


class AgentLoader:
    """Loads agents and tools."""

    def __init__(
        self, folders: Iterable[Path] = (), *, modules: Iterable[str] = (), chosen: Iterable[str] = ()
    ) -> None:
        """`folders`: those of the YAML files, whose modules agents may name. `modules`: installed modules that they may
        name, with all below them. `chosen`: further references, written by the person who starts this."""
        self.sources = Sources.of(folders, modules, chosen)
        self._finder = Finder(self.sources)
        self._classes: dict[str, Any] = {}
        """Reference → what it names, of those that were found to be agents. A crew may have thousands of one class."""

    def check(self, crew: CrewDefinition) -> list[Problem]:
        """The problems of the crew's agents and tools, by path; empty if every agent can be loaded.

        Modules are imported; no agent is run.
        """
        found: list[Problem] = []
        for j, reference in enumerate(crew.shared_tools):
            path = f"spec.sharedTools[{j}]"
            found += self._check_tool(crew, reference, crew.shared_tools[:j], path)
        for agent, place in _places(crew):
            for j, reference in enumerate(agent.tools):
                found += self._check_tool(crew, reference, agent.tools[:j], f"{place}.tools[{j}]")
            for problem in self._check_agent(crew, agent):
                path = defaults.path(crew, agent, place, problem.path).replace(".predicate.class", ".predicate")
                found.append(dataclasses.replace(problem, path=path))
        return list(dict.fromkeys(found))

    def ready(self, crew: CrewDefinition, agents: Iterable[str] | None = None) -> list[Problem]:
        """Problems with this process's environment, for example a missing key of a model.

        `agents`: the agents to check; default: all of the crew. `check` must have found no problem with them."""
        found: list[Problem] = []
        for agent, place in _places(crew):
            if agents is not None and agent.agent_id not in agents:
                continue
            lacking = getattr(self._class(agent), "ready", None)
            if callable(lacking):
                problems = cast("list[Problem]", lacking(defaults.filled(crew, agent)))
                found += [dataclasses.replace(each, path=f"{place}.{each.path}") for each in problems]
        return found

    def load(self, crew: CrewDefinition, agent: AgentDefinition) -> Runner:
        """Loads the agent. Raises AgentNotLoadable."""
        try:
            found = self._class(agent)
        except Unusable as error:
            raise AgentNotLoadable(f"agent {agent.agent_id!r}: {sentence(error.reason)} {error.fix}") from error
        if problems := _check_config(found, agent.config):
            raise AgentNotLoadable(f"agent {agent.agent_id!r}: " + "; ".join(str(problem) for problem in problems))
        start, is_async = _runnable(found, agent.config)
        return Runner(is_async, defaults.filled(crew, agent), start, getattr(found, _RUNS_IN, None) == _PROCESS)

    def tools(self, crew: CrewDefinition, agent: AgentDefinition, place: str = "") -> dict[str, Tool]:
        """The agent's tools by name: its own, and the shared ones of other names. Raises AgentNotLoadable.

        `place` is the crew's `namespace/name`, by which the metrics of its tool servers name it.
        """
        try:
            return {
                tool_name(one): dataclasses.replace(
                    self._tool(crew, one, place), needs_approval=needs(crew.requires_approval, one)
                )
                for one in crew.tools_of(agent)
            }
        except Unusable as error:
            raise AgentNotLoadable(f"agent {agent.agent_id!r}: {sentence(error.reason)} {error.fix}") from error

    def _check_tool(self, crew: CrewDefinition, reference: str, before: Sequence[str], path: str) -> Iterator[Problem]:
        name = tool_name(reference)
        if name in map(tool_name, before):
            yield Problem(f"there are two tools called {name!r}", "Remove one, or rename its function.", path)
        try:
            self._tool(crew, reference)
        except Unusable as error:
            yield Problem(error.reason, error.fix, path)

    def _check_agent(self, crew: CrewDefinition, agent: AgentDefinition) -> Iterator[Problem]:
        """Problems of one agent, with paths below it."""
        try:
            found = self._class(agent)
        except Unusable as error:
            yield Problem(error.reason, error.fix, "class")
            return
        yield from _check_config(found, agent.config)
        of_models = {"outputSchema": agent.output_schema, "fallbackModels": agent.fallback_models, "batch": agent.batch}
        for field, value in of_models.items():
            if value and not getattr(found, "uses_models", False):
                reason = f"agent class {agent.agent_class!r} doesn't use {field}"
                yield Problem(reason, "Remove it, or use the class LLMAgent.", field)
        if inspect.isclass(found) and callable(check := getattr(found, "check", None)):
            usable = {}
            for reference in crew.tools_of(agent):
                try:
                    usable[tool_name(reference)] = self._tool(crew, reference)
                except Unusable:
                    continue  # told where it is declared
            yield from cast("list[Problem]", check(defaults.filled(crew, agent), usable))

    def _class(self, agent: AgentDefinition) -> Any:
        reference = agent.agent_class
        if (known := self._classes.get(reference)) is not None:
            return known
        found = self._finder.find(reference, what="agent class", group=ENTRY_POINTS, built_in=BUILT_IN)
        if reason := _not_an_agent(found):
            raise Unusable(
                f"agent class {reference!r} {reason}",
                "Name a class with a run(self, context) method, or a function of the context.",
            )
        if (asked := getattr(found, _RUNS_IN, None)) not in (None, _PROCESS):
            raise Unusable(
                f"agent class {reference!r} says {_RUNS_IN} = {asked!r}",
                f'Write {_RUNS_IN} = "{_PROCESS}", or leave it out: then a `def run` runs in a thread, and an `async '
                "def run` on the event loop.",
            )
        self._classes[reference] = found
        return found

    def _tool(self, crew: CrewDefinition, reference: str, place: str = "") -> Tool:
        if declared := declared_tools.find(crew, reference, self.sources, place):
            return declared
        found = self._finder.find(reference, what="tool", group=tools.ENTRY_POINTS, built_in=tools.BUILT_IN)
        if not tools.is_tool(found):
            raise Unusable(f"tool {reference!r} is {_kind(found)}, not a function", "Name a function.")
        return Tool(tool_name(reference), found, declaration=reference)


def _places(crew: CrewDefinition) -> list[tuple[AgentDefinition, str]]:
    """The members of a crew, with their places in its resource."""
    elsewhere = {UNTIL: "spec.loop.until.predicate", SYNTHESIS: "spec.synthesis"}
    listed = [f"spec.agents[{i}]" for i in range(len(crew.agents))]
    members = flow.members(crew)
    return list(zip(members, [*listed, *(elsewhere[one.agent_id] for one in members[len(listed) :])], strict=True))


def _not_an_agent(found: Any) -> str | None:
    """The reason why the object can't be an agent; None if it can."""
    if inspect.isclass(found):
        run = getattr(found, "run", None)
        if not callable(run):
            return "has no run method"
        bound = isinstance(inspect.getattr_static(found, "run"), (staticmethod, classmethod))
        called, arguments, name = run, [None] if bound else [None, None], "run method"
    elif inspect.isroutine(found):
        called, arguments, name = found, [None], "function"
    else:
        return f"is {_kind(found)}, neither a class nor a function"
    if inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
        return f"yields: its {name} must return the output"
    try:
        inspect.signature(called).bind(*arguments)
    except TypeError:
        return f"can't run: its {name} takes {inspect.signature(called)}, and is called with the context"
    except ValueError:
        return None  # written in C, without a signature to check
    return None


def _kind(found: Any) -> str:
    if inspect.ismodule(found):
        return "a module"
    return f"a class ({found.__name__})" if inspect.isclass(found) else f"a value of type {type(found).__name__}"


def _check_config(found: Any, config: Mapping[str, Any]) -> list[Problem]:
    """Problems with `config`, with paths below the agent."""
    if not inspect.isclass(found):
        if not config:
            return []
        reason = f"{found.__name__!r} is a function and takes no config, but {', '.join(map(repr, config))} was given"
        return [Problem(reason, "Remove config, or name a class.", "config")]
    model = _config_model(found)
    return _check_by_model(model, config) if model else _check_by_signature(found, config)


def _config_model(found: type) -> type[BaseModel] | None:
    model = getattr(found, "Config", None)
    return model if inspect.isclass(model) and issubclass(model, BaseModel) else None


def _check_by_model(model: type[BaseModel], config: Mapping[str, Any]) -> list[Problem]:
    fields = model.model_fields.items()
    accepted = [field.validation_alias if isinstance(field.validation_alias, str) else name for name, field in fields]
    problems = []
    # A model that doesn't say what it thinks of unknown fields would drop them in silence: a typo must be told.
    if model.model_config.get("extra") is None:
        problems += [_unknown(name, accepted) for name in config if name not in {*accepted, *model.model_fields}]
    try:
        model.model_validate(dict(config))
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            path = ".".join(map(str, ("config", *detail["loc"])))
            if detail["type"] == "extra_forbidden" and len(detail["loc"]) == 1:
                problems.append(_unknown(str(detail["loc"][0]), accepted))
            elif detail["type"] == "missing":
                problems.append(Problem(f"{path} is missing", "Add it.", path))
            else:
                problems.append(Problem(f"{detail['input']!r}: {detail['msg']}", "Correct the value.", path))
    return problems


def _check_by_signature(found: type, config: Mapping[str, Any]) -> list[Problem]:
    try:
        parameters = inspect.signature(found).parameters.values()
    except ValueError:
        return []  # written in C, without a signature to check
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    accepted = [p.name for p in named]
    problems = []
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        problems += [_unknown(name, accepted) for name in config if name not in accepted]
    problems += [
        Problem(f"config.{p.name} is missing: {found.__name__} needs it", "Add it.", f"config.{p.name}")
        for p in named
        if p.default is p.empty and p.name not in config
    ]
    return [*problems, *_check_types(found, [p.name for p in named if p.name in config], config)]


def _check_types(found: type, given: Sequence[str], config: Mapping[str, Any]) -> list[Problem]:
    """Problems with the types of `config` by the annotations, if they can be read. Convertible values are good."""
    problems = []
    try:
        hints = inspect.get_annotations(found.__init__, eval_str=True)  # type: ignore[misc]
    except Exception:  # names that exist for type checkers only
        return []
    for name in given:
        try:
            TypeAdapter(hints.get(name, Any)).validate_python(config[name])
        except ValidationError as error:
            detail = error.errors(include_url=False)[0]
            reason = f"{detail['input']!r}: {detail['msg']}"
            problems.append(Problem(reason, "Correct the value.", f"config.{name}"))
        except Exception:  # noqa: S112 - an annotation that pydantic has no notion of
            continue
    return problems


def _unknown(name: str, accepted: Sequence[str]) -> Problem:
    fix = f"Use only: {', '.join(accepted)}." if accepted else "Remove it: this class takes no config."
    return Problem(f"there is no setting {name!r}{suggest(name, accepted)}", fix, f"config.{name}")


def _is_immutable(arguments: Mapping[str, Any]) -> bool:
    """Returns whether runs may share the values, because an agent can't change them."""
    atoms = (str, bytes, int, float, bool, type(None))
    for value in arguments.values():
        if isinstance(value, BaseModel):
            if not value.model_config.get("frozen") or not _is_immutable(vars(value)) or value.model_extra:
                return False
        elif type(value) not in atoms:
            return False
    return True


def _runnable(found: Any, config: Mapping[str, Any]) -> tuple[Callable[[Context], Any], bool]:
    """The function that takes the context, and whether it returns an awaitable."""
    if not inspect.isclass(found):
        return found, inspect.iscoroutinefunction(found)
    cls: Any = found
    model = _config_model(found)
    arguments = {"config": model.model_validate(dict(config))} if model else dict(config)
    shared = _is_immutable(arguments)

    def start(context: Context) -> Any:
        return cls(**(arguments if shared else copy.deepcopy(arguments))).run(context)

    return start, inspect.iscoroutinefunction(cls.run)
