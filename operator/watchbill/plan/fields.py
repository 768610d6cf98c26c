"""Fields that a crew cites of an output, held against the `outputSchema` of the agent whose output it is. Pure.

A model's answer may have more than its schema declares, unless that forbids it. Still nobody can rely on such a field,
so one that is cited must be declared. A schema that says that there are others (by additionalProperties, for example)
is open, and says nothing of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from watchbill.api.models import LLM_AGENT
from watchbill.api.problems import suggest
from watchbill.errors import Problem
from watchbill.plan import flow
from watchbill.records import AgentDefinition, CrewDefinition

Wanted = Literal["", "boolean", "number", "array"]
"""The type that a field must have; empty: any."""
_OPEN: Final = ("$ref", "oneOf", "anyOf", "allOf", "if", "patternProperties", "dependentSchemas")
"""Keywords by which a schema may declare more fields than those in its `properties`."""


def check(
    crew: CrewDefinition,
    agent: AgentDefinition,
    field: str,
    what: str,
    path: str,
    wanted: Wanted = "",
    *,
    gets_errors: bool = False,
) -> Problem | None:
    """Returns the problem with a field of an agent's output, or with all of it where `field` is empty; None: there is
    none, as far as can be told.

    `what`: who cites it, as the beginning of a sentence; `path`: where. `gets_errors`: an error value may stand there.
    """
    if agent.output_schema is None or agent.agent_class not in LLM_AGENT:
        return None
    schema: Any = {"type": "array", "items": agent.output_schema} if agent.for_each else agent.output_schema
    may_fail = gets_errors or flow.is_lenient(crew, agent)
    names = field.split(".") if field else []
    for number, name in enumerate(names):
        inner = _inner(schema, name)
        if inner is None and may_fail and name == "error" and schema is agent.output_schema:
            return None
        if inner is None:
            at = f" in {'.'.join(names[:number])!r}" if number else ""
            reason = f"{what}, but the outputSchema of {agent.agent_id!r} declares no field {name!r}{at}"
            return Problem(reason, _declared(schema, name), path=path)
        schema = inner
    types = _types(schema)
    if not wanted or not types or _fits(types, wanted) or (wanted == "array" and "string" in types):
        return None  # a text may be a list in JSON
    reason = f"{what}, but by the outputSchema of {agent.agent_id!r} that is of type {' or '.join(types)}, not {wanted}"
    return Problem(reason, _of_type(agent, wanted), path=path)


def _inner(schema: Any, name: str) -> Any:
    """Returns the schema of a field, or of an item by its number; None: there is no such field."""
    types = _types(schema)
    if not types:
        return True
    if "array" in types and name.isdecimal():
        return True if "prefixItems" in schema else schema.get("items", True)
    if "object" not in types:
        return None
    properties = _properties(schema)
    is_open = (
        not properties
        or name in schema.get("required", ())
        or schema.get("additionalProperties", False) is not False
        or any(map(schema.get, _OPEN))
    )
    return properties.get(name, True if is_open else None)


def _types(schema: Any) -> list[str]:
    """The types that a schema allows; empty: any, as far as it says."""
    said = schema.get("type", []) if isinstance(schema, Mapping) else []
    return [said] if isinstance(said, str) else list(said)


def _fits(types: list[str], wanted: Wanted) -> bool:
    return wanted in types or (wanted == "number" and "integer" in types)


def _properties(schema: Any) -> Mapping[str, Any]:
    found = schema.get("properties") if isinstance(schema, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _declared(schema: Any, name: str) -> str:
    """The fix for a field that is not declared."""
    if declared := _properties(schema):
        return f"{suggest(name, declared)} Or declare it there."
    if "array" in _types(schema):
        return "Write the number of an item, counted from 0, or cite the whole list."
    return f"Cite it without a field: it is of type {' or '.join(_types(schema))}."


def _of_type(agent: AgentDefinition, wanted: Wanted) -> str:
    """The fix for a field of another type."""
    fitting = [name for name, one in _properties(agent.output_schema).items() if _fits(_types(one), wanted)]
    return (
        f"Name a field of that type: {', '.join(fitting)}." if fitting else "Declare a field of that type, and name it."
    )
