"""The prompts of steps: templates over the submitted prompt, the inputs and earlier outputs. Pure.

A template knows `{input}`, `{inputs.NAME}` and `{steps.AGENT}`, and nothing else: all other braces are text, so
JSON and code need no escaping. `{{input}}` is the text `{input}`. What is nearly a reference, as `{input.log}`, or is
one elsewhere, as a Heartbeat's `{now}`, is refused when the crew is checked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from watchbill.errors import Problem
from watchbill.plan import flow
from watchbill.records import DEFAULT_CLASS, CrewDefinition

_REFERENCE: Final = re.compile(r"\{(\{)?(input|inputs\.[A-Za-z0-9_-]+|steps\.[A-Za-z0-9._-]+)\}(?(1)\})")
_NEAR_MISS: Final = re.compile(
    r"\{(\{)?((?:(?:inputs?|steps?)(?:\.[A-Za-z0-9_.-]*|\[[^\[\]{}\n]*\])*|slot|now)(?:![rsa])?)\}(?(1)\})"
)
"""Texts that were probably meant as references: `{input.log}`, `{steps}`, `{input!r}`, `{now}`. References are among
them."""
_READS_ITS_PROMPT_ONLY: Final = frozenset({DEFAULT_CLASS, "EchoAgent"})

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
        if not _REFERENCE.fullmatch(match[0]):
            return match[0]
        kind, _, name = reference.partition(".")
        if kind == "input":
            return prompt
        return inputs[name] if kind == "inputs" else as_text(outputs[name])

    return _NEAR_MISS.sub(value, template)


def as_text(value: Any) -> str:
    """An output as it is put into a prompt, or shown to a person: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)


def check(crew: CrewDefinition) -> list[Problem]:
    """References to steps that aren't there, or haven't run when the prompt is composed; and what is nearly one."""
    before = flow.ancestors(flow.steps(crew))
    known = crew.agent_ids()
    problems = []
    for i, agent in enumerate(crew.agents):
        path, whose = f"spec.agents[{i}].prompt", f"the prompt of agent {agent.agent_id!r}"
        for name in references(agent.prompt or "")[1]:
            if name not in known:
                reason = f"{whose} cites {{steps.{name}}}, but no agent is called {name!r}"
                fix = f"Use one of: {', '.join(a.agent_id for a in crew.agents)}."
                if (whole := name.rpartition(".")[0]) in known:
                    fix = f"Fields of an output can't be cited: use {{steps.{whole}}}, which is all of it."
            elif known[name] not in before[agent.agent_id]:
                reason = (
                    f"{whose} cites {{steps.{name}}}, but {name!r} does not run before it in mode "
                    f"{crew.execution_mode.value}"
                )
                fix = f"Remove the reference, or have {name!r} run first (flowRelations, or the order of agents)."
            else:
                continue
            problems.append(Problem(reason, fix, path=path))
        for wrong in _near_misses(agent.prompt or ""):
            reason = f"{whose} has {{{wrong}}}, which is no reference"
            fix = f"{_meant(wrong)} Double the braces for the text itself: {{{{{wrong}}}}}."
            problems.append(Problem(reason, fix, path=path))
    return problems


def _near_misses(template: str) -> list[str]:
    found = {
        match[2]: None for match in _NEAR_MISS.finditer(template) if not match[1] and not _REFERENCE.fullmatch(match[0])
    }
    return list(found)


def _meant(wrong: str) -> str:
    if wrong.startswith(("slot", "now")):
        time = wrong.partition("!")[0]
        return f"Only a Heartbeat knows it: write {{{time}}} in the Heartbeat's prompt, and cite that as {{input}}."
    kind = "inputs" if wrong.startswith("input") else "steps"
    _, *names = [part.strip(" '\"") for part in re.split(r"[.\[\]]", wrong.partition("!")[0])]
    if names and names[0]:
        return f"Did you mean {{{kind}.{names[0]}}}?"
    return (
        "Cite the prompt as {input}, an input as {inputs.NAME}." if kind == "inputs" else "Cite one as {steps.AGENT}."
    )


def check_inputs(crew: CrewDefinition, given: Iterable[str]) -> tuple[list[Problem], list[Problem]]:
    """(errors, warnings) about the inputs of one submission: cited but not given; given but used by nobody.

    The latter only where it is known what each agent reads: it declares that, or its class reads its prompt only.
    """
    given = list(given)
    declared = {name for agent in crew.agents for name in agent.inputs}
    known = all(agent.inputs or agent.agent_class in _READS_ITS_PROMPT_ONLY for agent in crew.agents)
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
            f"input {name!r} is used by no agent",
            f"Cite it as {{inputs.{name}}} in the prompt of the agent that needs it, name it in that agent's inputs if "
            "its class reads it, or leave it out.",
            path=f"inputs.{name}",
        )
        for name in given
        if known and name not in cited and name not in declared
    ]
    return errors, warnings
