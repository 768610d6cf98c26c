"""What a step is asked: templates over the submitted prompt, the inputs and earlier outputs. Pure.

A template knows `{input}`, `{inputs.NAME}` and `{steps.AGENT}`, and nothing else: all other braces are text, so
JSON and code need no escaping. `{{input}}` is the text `{input}`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from watchbill.errors import Problem
from watchbill.plan import flow
from watchbill.records import CrewDefinition

_REFERENCE: Final = re.compile(r"\{(\{)?(input|inputs\.[A-Za-z0-9_-]+|steps\.[A-Za-z0-9._-]+)\}(?(1)\})")

EARLIER: Final = "\n\nWhat came before:"
"""Stands between the prompt and the outputs of earlier steps, in the default prompt of a step that has any."""


def references(template: str) -> tuple[list[str], list[str]]:
    """(inputs, steps) that a template cites, each once, in order."""
    inputs: dict[str, None] = {}
    steps: dict[str, None] = {}
    for escaped, reference in _REFERENCE.findall(template):
        if not escaped:
            kind, _, name = reference.partition(".")
            if kind == "inputs":
                inputs[name] = None
            elif kind == "steps":
                steps[name] = None
    return list(inputs), list(steps)


def compose(template: str | None, prompt: str, inputs: Mapping[str, str], outputs: Mapping[str, Any]) -> str:
    """The prompt of a step. Without a template: the submitted prompt, then the outputs of the steps before, in full.

    `outputs` must know every name that the template cites (agent ids and effective names). Raises KeyError for a
    reference that has no value; `check` finds these before anything starts.
    """
    if template is None:
        parts = [prompt]
        if outputs:
            parts.append(EARLIER)
            parts += [f"\n\n## {name}\n\n{as_text(value)}" for name, value in outputs.items()]
        return "".join(parts)

    def value(match: re.Match[str]) -> str:
        escaped, reference = match.groups()
        if escaped:
            return "{" + reference + "}"
        kind, _, name = reference.partition(".")
        if kind == "input":
            return prompt
        return inputs[name] if kind == "inputs" else as_text(outputs[name])

    return _REFERENCE.sub(value, template)


def as_text(value: Any) -> str:
    """An output as it is put into a prompt, or shown to a person: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)


def check(crew: CrewDefinition) -> list[Problem]:
    """References to steps that aren't there, or haven't run when the prompt is composed."""
    before = flow.ancestors(flow.steps(crew))
    known = crew.agent_ids()
    problems = []
    for i, agent in enumerate(crew.agents):
        for name in references(agent.prompt or "")[1]:
            if name not in known:
                reason = (
                    f"the prompt of agent {agent.agent_id!r} cites {{steps.{name}}}, but no agent is called {name!r}"
                )
                fix = f"Use one of: {', '.join(a.agent_id for a in crew.agents)}."
            elif known[name] not in before[agent.agent_id]:
                reason = (
                    f"the prompt of agent {agent.agent_id!r} cites {{steps.{name}}}, but {name!r} "
                    f"does not run before it in mode {crew.execution_mode.value}"
                )
                fix = f"Remove the reference, or have {name!r} run first (flowRelations, or the order of agents)."
            else:
                continue
            problems.append(Problem(reason, fix, path=f"spec.agents[{i}].prompt"))
    return problems


def check_inputs(crew: CrewDefinition, given: Iterable[str]) -> tuple[list[Problem], list[Problem]]:
    """(errors, warnings) about the inputs of one submission: cited but not given; given but cited by no template."""
    given = list(given)
    cited: dict[str, str] = {}
    for agent in crew.agents:
        for name in references(agent.prompt or "")[0]:
            cited.setdefault(name, agent.agent_id)
    errors = [
        Problem(
            f"the prompt of agent {agent!r} cites {{inputs.{name}}}, but no such input was given",
            f"Give it with --input {name}=@FILE (or {name}=TEXT).",
            path=f"inputs.{name}",
        )
        for name, agent in cited.items()
        if name not in given
    ]
    warnings = [
        Problem(
            f"input {name!r} is used by no agent's prompt",
            f"Cite it as {{inputs.{name}}} in the prompt of the agent that needs it, or leave it out.",
            path=f"inputs.{name}",
        )
        for name in given
        if name not in cited
    ]
    return errors, warnings
