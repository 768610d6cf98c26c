"""Is this submission one that the crew can work on? Asked before anything is stored. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic_core import from_json

from watchbill import names
from watchbill.errors import InvalidInput, Problem
from watchbill.plan import prompts, texts
from watchbill.records import AGENT_NAME_MAX_BYTES, CrewDefinition
from watchbill.tasks import (
    INPUT_MAX_BYTES,
    INPUTS_MAX,
    INPUTS_MAX_BYTES,
    LABEL_MAX_BYTES,
    METADATA_MAX_BYTES,
    METADATA_MAX_ENTRIES,
    PROMPT_MAX_BYTES,
)


def check(
    crew: CrewDefinition,
    prompt: str,
    *,
    agent: str | None = None,
    role: str | None = None,
    inputs: Mapping[str, str],
    task_id: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> list[Problem]:
    """Warnings about a submission. Raises InvalidInput with everything that makes it impossible."""
    errors = [*_own(prompt, task_id, metadata or {}, {}), *sizes(inputs), *_names(crew, agent, role, inputs)]
    warnings: list[Problem] = []
    if not errors:
        asked = [name for name in (agent,) if name] if role is None else agents_of(crew, role)
        for one in [alone(crew, name) for name in asked] or [crew]:
            missing, found = prompts.check_inputs(one, inputs)
            errors += missing
            warnings += found
            if asked:
                errors += _steps_cited(one)
    if errors:
        raise InvalidInput(errors)
    return warnings


def agents_of(crew: CrewDefinition, role: str) -> list[str]:
    """Returns the agents of a role, by agent_id, in order of declaration."""
    return [agent.agent_id for agent in crew.agents if role in agent.roles]


def addressee(crew: CrewDefinition, agent: str | None, role: str | None) -> str:
    """Returns what the queue has as the agent of this work; empty: it is for the whole crew."""
    if role is not None:
        return names.ROLE + role
    found = None if agent is None else crew.agent(agent)
    return found.agent_id if found else agent or ""


def check_own(prompt: str, task_id: str | None, metadata: Mapping[str, Any], labels: Mapping[str, str | None]) -> None:
    """Checks the arguments of one submission that do not depend on the crew. `labels`: user_id, session_id,
    dedupe_key. Raises InvalidInput."""
    if errors := list(_own(prompt, task_id, metadata, labels)):
        raise InvalidInput(errors)


def is_plain(prompt: str, task_id: str, metadata: Mapping[str, Any], labels: Mapping[str, str | None]) -> bool:
    """`check_own` needn't look at it: for whoever has very many."""
    return (
        not (metadata or labels)
        and prompt.isascii()
        and len(prompt) <= PROMPT_MAX_BYTES
        and names.TASK_ID.fullmatch(task_id) is not None
    )


def work(agent: str, prompt: str, inputs: Mapping[str, str]) -> str:
    """A digest of what is to be done: one id stands for one such. `agent`: its agent_id; empty: the whole crew.

    Priority, time, user, session and metadata are not part of it: they say how it is done, or for whom.
    """
    text = f"{agent}\x1f{len(prompt)}\x1f{prompt}"
    if inputs:
        text += "".join(f"\x1f{name}\x1f{len(inputs[name])}\x1f{inputs[name]}" for name in sorted(inputs))
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


def _own(
    prompt: str, task_id: str | None, metadata: Mapping[str, Any], labels: Mapping[str, str | None]
) -> Iterator[Problem]:
    """Checks the parts that belong to this one submission only."""
    wrong = list(texts.problems({"prompt": prompt}, needed=("prompt",)))
    yield from wrong
    if not wrong and (size := len(prompt) if prompt.isascii() else len(prompt.encode())) > PROMPT_MAX_BYTES:
        yield Problem(
            f"the prompt has {size} bytes; the limit is {PROMPT_MAX_BYTES} (256 KiB)",
            "Give larger text as an input (--input NAME=@FILE) and cite it as {inputs.NAME} in an agent's prompt.",
            path="prompt",
        )
    if task_id is not None and not (isinstance(task_id, str) and names.TASK_ID.fullmatch(task_id)):
        yield Problem(
            f"{repr(task_id)[:200]} can't be an id",
            "Use 1 to 128 letters, digits, dots, dashes and underscores.",
            path="id",
        )
    yield from texts.problems(labels, LABEL_MAX_BYTES)
    if metadata:
        yield from _of_metadata(metadata)


def _of_metadata(metadata: Mapping[str, Any]) -> Iterator[Problem]:
    if len(metadata) > METADATA_MAX_ENTRIES:
        yield Problem(
            f"there are {len(metadata)} metadata entries", f"Give {METADATA_MAX_ENTRIES} at most.", path="metadata"
        )
        return
    wrong = [problem for name in metadata for problem in texts.problems({"metadata": name})]
    size = 0
    for name, value in metadata.items() if not wrong else ():
        text = value
        if not isinstance(value, str):
            try:
                text = json.dumps(value, allow_nan=False, ensure_ascii=False)
                # readers give up where it is nested too deeply, and it stands within two objects: metadata, a task
                from_json(b"[[%b]]" % text.encode("utf-8", "replace"))
            except (TypeError, ValueError, RecursionError) as error:
                reason, fix = (
                    f"this can't be stored as JSON: {error}",
                    "Give text, numbers, and lists and dicts of them.",
                )
                wrong.append(Problem(reason, fix, path=f"metadata.{name}"))
                continue
        wrong += texts.problems({f"metadata.{name}": text})
        size += len(name.encode()) + len(text.encode("utf-8", "replace"))
    yield from wrong
    if not wrong and size > METADATA_MAX_BYTES:
        reason = f"the metadata have {size} bytes; the limit is {METADATA_MAX_BYTES} (64 KiB)"
        yield Problem(reason, "Give what is larger as an input, or a reference to it.", path="metadata")


_ELSEWHERE: Final = "Put larger data into a store of its own and give a reference to it."


def sizes(inputs: Mapping[str, object]) -> Iterator[Problem]:
    """Checks inputs by themselves."""
    if len(inputs) > INPUTS_MAX:
        yield Problem(f"there are {len(inputs)} inputs; the limit is {INPUTS_MAX}", "Join some.", path="inputs")
        return
    whole = 0
    for name, text in inputs.items():
        if not isinstance(text, str):
            yield Problem(f"input {name!r} is no text: {repr(text)[:80]}", "Give it as a str.", path=f"inputs.{name}")
            continue
        try:
            size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogateescape"))
        except UnicodeEncodeError as error:
            reason = f"input {name!r} is neither text nor bytes: half a character at position {error.start}"
            yield Problem(reason, "Decode bytes with errors='surrogateescape'.", path=f"inputs.{name}")
            continue
        whole += size
        if size > INPUT_MAX_BYTES:
            reason = f"input {name!r} has {size} bytes; the limit is {INPUT_MAX_BYTES} (16 MiB)"
            yield Problem(reason, _ELSEWHERE, path=f"inputs.{name}")
    if whole > INPUTS_MAX_BYTES:
        yield Problem(
            f"the inputs have {whole} bytes together; the limit is {INPUTS_MAX_BYTES} (64 MiB)",
            _ELSEWHERE,
            path="inputs",
        )


def _names(crew: CrewDefinition, agent: str | None, role: str | None, inputs: Mapping[str, str]) -> Iterator[Problem]:
    if role is not None:
        yield from of_role(crew, agent, role)
    elif crew.takes_any and (agent is None or crew.agent(agent) is None):
        yield Problem(
            f"crew {crew.name!r} takes tasks for agents of any name, and "
            + ("none is named" if agent is None else f"{agent!r} can't be a name"),
            f"Name an agent: 1 to {AGENT_NAME_MAX_BYTES} bytes of printable characters.",
            path="agent",
        )
    elif agent is not None and crew.agent(agent) is None:
        yield Problem(
            f"crew {crew.name!r} has no agent {agent!r}",
            f"Use one of: {', '.join(a.agent_id for a in crew.agents)}; or none, for the whole crew.",
            path="agent",
        )
    for name in inputs:
        if not (isinstance(name, str) and names.INPUT_NAME.fullmatch(name)):
            yield Problem(
                f"{repr(name)[:80]} can't be the name of an input",
                "Use a letter, then letters, digits, - and _ (63 at most).",
                path="inputs",
            )


def of_role(crew: CrewDefinition, agent: str | None, role: str) -> Iterator[Problem]:
    """Checks the role of a submission. `agent`: the one that it names."""
    if agent is not None:
        yield Problem(f"the work is for agent {agent!r} and for role {role!r}", "Name one of the two.", path="role")
    elif not agents_of(crew, role):
        known = sorted({name for one in crew.agents for name in one.roles})
        fix = (
            f"Use one of: {', '.join(known)}."
            if known
            else "Give an agent the role (agents[].roles), or name an agent."
        )
        yield Problem(f"crew {crew.name!r} has no agent of role {role!r}", fix, path="role")


def alone(crew: CrewDefinition, agent: str) -> CrewDefinition:
    """The crew as one agent sees it that is asked alone."""
    found = crew.agent(agent)
    return crew.model_copy(update={"agents": [found] if found else [], "synthesis": None})


def _steps_cited(alone: CrewDefinition) -> Iterator[Problem]:
    chosen = alone.agents[0]
    if chosen.for_each is not None:
        reason = f"agent {chosen.agent_id!r} runs for each item of {chosen.for_each}, which exists only in a run"
        yield Problem(reason, "Submit to the whole crew instead (no agent).", path="agent")
    for name in prompts.references(chosen.prompt or "")[1]:
        yield Problem(
            f"the prompt of agent {chosen.agent_id!r} cites {{steps.{name}}}, which exists only in a run of the crew",
            "Submit to the whole crew instead (no agent), or remove the reference.",
            path="agent",
        )
