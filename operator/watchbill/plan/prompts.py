"""The prompts of steps: templates over the submitted prompt, the inputs and earlier outputs. Pure.

A template knows `{input}`, `{inputs.NAME}`, `{steps.AGENT}` and `{steps.AGENT.FIELD}`; for the items of a list also
`{item}` and `{item.FIELD}`. All other braces are text, so JSON and code need no escaping. `{{input}}` is the text
`{input}`. What is nearly a reference, as `{input.log}`, or is one elsewhere, as a Heartbeat's `{now}`, is refused when
the crew is checked.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from watchbill.api.modes import When
from watchbill.errors import Problem
from watchbill.plan import fields, flow, values
from watchbill.records import DEFAULT_CLASS, AgentDefinition, CrewDefinition

_REFERENCE: Final = re.compile(r"\{(\{)?(input|inputs\.[A-Za-z0-9_-]+|steps\.[A-Za-z0-9._-]+)\}(?(1)\})")
_NEAR_MISS: Final = re.compile(
    r"\{(\{)?((?:(?:inputs?|steps?)(?:\.[A-Za-z0-9_.-]*|\[[^\[\]{}\n]*\])*|slot|now)(?:![rsa])?)\}(?(1)\})"
)
"""Texts that were probably meant as references: `{input.log}`, `{steps}`, `{input!r}`, `{now}`. References are among
them."""
_ITEM: Final = re.compile(r"\{(\{)?(item(?:\.[A-Za-z0-9._-]+)?)\}(?(1)\})")
"""References of steps that are for one item each. Elsewhere these are text."""
READS_ITS_PROMPT_ONLY: Final = frozenset({DEFAULT_CLASS, "EchoAgent"})
"""The classes that look at no input but those that are cited."""

EARLIER: Final = "\n\nWhat came before:"
"""Stands between the prompt and the outputs of earlier steps, in the default prompt of a step that has any."""
ITEM: Final = "\n\nThis item:\n\n"
"""Stands between the prompt and the item, in the default prompt of a step that is for one."""


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


def resolve(name: str, known: Collection[str]) -> tuple[str, str]:
    """(agent, path of a field or empty) that a reference `steps.NAME` means, where names may have dots, too. The agent
    is empty if none of the known ones is meant."""
    parts = name.split(".")
    for number in range(len(parts), 0, -1):
        if (agent := ".".join(parts[:number])) in known:
            return agent, ".".join(parts[number:])
    return "", name


def cited(template: str | None, known: Mapping[str, str]) -> list[str]:
    """The ids of the agents that a template cites, each once, in order. `known`: names of agents → their ids."""
    found = (resolve(name, known)[0] for name in references(template or "")[1])
    return list(dict.fromkeys(known[name] for name in found if name))


def compose(
    template: str | None,
    prompt: str,
    inputs: Mapping[str, str],
    outputs: Mapping[str, Any],
    item: Any = values.MISSING,
) -> str:
    """The prompt of a step. Without a template: the submitted prompt, then the outputs of the steps before, in full, or
    the item that the step is for.

    `outputs` must know every name that the template cites (agent ids and effective names); what is values.MISSING, as
    the output of a step that was skipped, is empty, and so is each of its fields. Raises KeyError for a reference to
    what it doesn't know, which `check` finds before anything starts; values.Unusable for a field that an output doesn't
    have.
    """
    if template is None:
        return _default(prompt, outputs, item)
    if "{" not in template:
        return template

    def value(match: re.Match[str]) -> str:
        escaped, reference = match.groups()
        if escaped:
            return "{" + reference + "}"
        if not _REFERENCE.fullmatch(match[0]):
            return match[0]
        kind, _, name = reference.partition(".")
        if kind == "input":
            return prompt
        if kind == "inputs":
            return inputs[name]
        agent, path = resolve(name, outputs)
        if not agent:
            raise KeyError(name)
        output = outputs[agent]
        return "" if output is values.MISSING else values.as_text(values.field(output, path, repr(agent)))

    def of_item(match: re.Match[str]) -> str:
        escaped, reference = match.groups()
        return "{" + reference + "}" if escaped else values.as_text(values.field(item, reference[5:], "the item"))

    if item is values.MISSING:
        return _NEAR_MISS.sub(value, template)
    texts = [_NEAR_MISS.sub(value, text) for text in _ITEM.split(template)[::3]]  # between references to the item
    items = [of_item(match) for match in _ITEM.finditer(template)]
    return "".join(itertools.chain.from_iterable(itertools.zip_longest(texts, items, fillvalue="")))


def compose_asked(template: str | None, asked: str, inputs: Mapping[str, str], outputs: Mapping[str, Any]) -> str:
    """The prompt of a delegated step: what it is asked, where its template cites that or else behind it, and then the
    outputs that it is asked about. No template can cite these, and without them the step could not do its work."""
    if template is None:
        return _default(asked, outputs, values.MISSING)
    prompt = compose(template, asked, inputs, {})
    is_cited = any(reference == "input" and not escaped for escaped, reference in _REFERENCE.findall(template))
    return _default(prompt if is_cited else f"{prompt}\n\n{asked}", outputs, values.MISSING)


def _default(prompt: str, outputs: Mapping[str, Any], item: Any) -> str:
    if item is not values.MISSING:
        return f"{prompt}{ITEM}{values.as_text(item)}"
    parts = [prompt]
    if given := {name: output for name, output in outputs.items() if output is not values.MISSING}:
        parts.append(EARLIER)
        parts += [f"\n\n## {name}\n\n{values.as_text(output)}" for name, output in given.items()]
    return "".join(parts)


@dataclass(frozen=True, slots=True)
class _Checked:
    """A crew that is checked, with what each of its references is looked up in: they may be ten thousand."""

    crew: CrewDefinition
    ids: Mapping[str, str]
    """Names of agents → their ids."""
    agents: Mapping[str, AgentDefinition]
    """By their ids."""


def check(definition: CrewDefinition) -> list[Problem]:
    """References to steps that aren't there, or haven't run when they are needed; to fields that outputs will not have;
    and what is nearly a reference."""
    crew = _Checked(definition, definition.agent_ids(), {agent.agent_id: agent for agent in definition.agents})
    before = flow.before(definition)
    problems: list[Problem] = []
    for i, agent in enumerate(definition.agents):
        path, known = f"spec.agents[{i}]", before.get(agent.agent_id, frozenset())
        whose = f"agent {agent.agent_id!r}"
        problems += _of_template(crew, agent.prompt or "", known, f"the prompt of {whose}", f"{path}.prompt")
        if agent.when is not None:
            problems += _of_condition(crew, agent.when, known, whose, f"{path}.when")
        if agent.for_each is not None and (named := list_of(agent.for_each))[0] == "steps":
            what = f"forEach of {whose} cites {agent.for_each}"
            problems += _of_step(crew, named[1], known, what, f"{path}.forEach")
            cited = resolve(named[1], crew.ids)
            problems += _of_field(crew, *cited, what, f"{path}.forEach", "array")
    until = definition.loop.until if definition.loop else None
    if until is not None and until.agent is not None:
        what = f"the loop ends by field {until.field!r} of the output of {until.agent!r}"
        problems += _of_field(crew, until.agent, until.field or "", what, "spec.loop.until.field", "boolean")
    if definition.synthesis is not None:
        everyone = frozenset(crew.agents)
        text = definition.synthesis.prompt
        where = "spec.synthesis.prompt"
        problems += _of_template(crew, text, everyone, "the prompt of the synthesis", where, gets_errors=True)
    return problems


def list_of(reference: str) -> tuple[str, str]:
    """(`steps` or `inputs`, name) of a reference to a list, as in `{steps.finder.documents}`."""
    kind, _, name = reference.strip("{}").partition(".")
    return kind, name


def _of_template(
    crew: _Checked, template: str, known: frozenset[str], whose: str, path: str, *, gets_errors: bool = False
) -> Iterator[Problem]:
    for name in references(template)[1]:
        what = f"{whose} cites {{steps.{name}}}"
        yield from _of_step(crew, name, known, what, path)
        yield from _of_field(crew, *resolve(name, crew.ids), what, path, gets_errors=gets_errors)
    for wrong in _near_misses(template):
        reason = f"{whose} has {{{wrong}}}, which is no reference"
        fix = f"{_meant(wrong)} Double the braces for the text itself: {{{{{wrong}}}}}."
        yield Problem(reason, fix, path=path)


def _of_step(crew: _Checked, name: str, known: frozenset[str], what: str, path: str) -> Iterator[Problem]:
    """The problem with a reference to a step; `known` are the agents that have run when it is needed."""
    found = resolve(name, crew.ids)[0]
    if not found:
        reason = f"{what}, but no agent is called {name!r}"
        yield Problem(reason, f"Use one of: {', '.join(crew.agents)}.", path=path)
    elif crew.ids[found] not in known:
        reason = f"{what}, but {found!r} does not run before it in mode {crew.crew.execution_mode.value}"
        fix = f"Remove the reference, or have {found!r} run first (flowRelations, or the order of agents)."
        yield Problem(reason, fix, path=path)


def _of_field(
    crew: _Checked,
    name: str,
    field: str,
    what: str,
    path: str,
    wanted: fields.Wanted = "",
    *,
    gets_errors: bool = False,
) -> Iterator[Problem]:
    """The problem with a field of the output of an agent that is there."""
    agent = crew.agents.get(crew.ids.get(name, ""))
    if agent is None:
        return
    found = fields.check(crew.crew, agent, field, what, path, wanted, gets_errors=gets_errors)
    if found is not None:
        yield found


def _of_condition(crew: _Checked, when: When, known: frozenset[str], whose: str, path: str) -> Iterator[Problem]:
    what = f"the condition of {whose} compares the output of {when.step!r}"
    agent, field = resolve(when.step, crew.ids)
    if agent and field:
        yield Problem(f"{what}, which is no agent", f"Write step: {agent}, field: {field}.", path=f"{path}.step")
        return
    yield from _of_step(crew, when.step, known, what, f"{path}.step")
    what = (
        f"the condition of {whose} compares field {when.field!r} of the output of {when.step!r}" if when.field else what
    )
    wanted: fields.Wanted = "" if set(when.bounds().values()) == {None} else "number"
    field = when.field or ""
    if when.exists is not None:  # it asks for what may not be there
        field = field.rpartition(".")[0]
    yield from _of_field(crew, when.step, field, what, f"{path}.field", wanted)


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
    known = all(agent.inputs or agent.agent_class in READS_ITS_PROMPT_ONLY for agent in crew.agents)
    cited: dict[str, str] = {}
    for agent in crew.agents:
        for name in references(f"{agent.prompt or ''}{agent.for_each or ''}")[0]:
            cited.setdefault(name, f"agent {agent.agent_id!r}")
    for name in references(crew.synthesis.prompt)[0] if crew.synthesis else ():
        cited.setdefault(name, "the synthesis")
    errors = [
        Problem(
            f"the prompt of {agent} cites {{inputs.{name}}}, but no such input was given",
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
