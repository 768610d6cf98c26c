"""Outputs that must fit a JSON Schema: the form in which a model is asked for one, and the check of what it gave.

pydantic-ai shows a model the schema and does not check its answer by it; jsonschema does.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from watchbill.agents import schemas
from watchbill.errors import Problem, needed, sentence
from watchbill.redaction import redact

with needed("LLMAgent", "llm"):
    from jsonschema.exceptions import SchemaError
    from pydantic_ai import ModelRetry, StructuredDict
    from pydantic_ai.exceptions import UnexpectedModelBehavior, UserError

_MOST_SAID: Final = 1000
_EXCEEDED: Final = "Exceeded maximum output retries"
"""The beginning of the library's message. It has no type of error for this."""
_COUNT: Final = re.compile(r"\((\d+)\)")


class Output:
    """One schema of outputs. It may be shared by runs, also by those that go on at the same time."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        """Raises SchemaError or UserError for a schema that can't be used."""
        schemas.faults(schema, {}, "output")  # which has the schema read
        self._schema = schema
        self.type = StructuredDict(json.loads(json.dumps(schema)))
        """The type to give to pydantic-ai, which shows the model the schema."""

    def fitting(self, output: dict[str, Any]) -> dict[str, Any]:
        """Returns the output. Raises ModelRetry, which tells the model what doesn't fit the schema."""
        if told := schemas.faults(self._schema, output, "output"):
            raise ModelRetry(told)
        return output


def misfit(
    error: Exception,
    lacks: str = "doesn't fit the agent's outputSchema",
    fix: str = "Make the schema simpler, describe its properties",
) -> str | None:
    """The reason why the model has given no output that fits, after all its corrections; None for another error."""
    if not isinstance(error, UnexpectedModelBehavior) or not str(error).startswith(_EXCEEDED):
        return None
    said = redact(str(error.__cause__ or error))
    tries = int((_COUNT.search(str(error)) or ["", "0"])[1]) + 1
    times = "once" if tries == 1 else f"{tries} times"
    said = sentence(said[:_MOST_SAID])
    return f"its answer {lacks}, {times}: {said} {fix}, or raise output_retries in the agent's config"


def as_text(output: Any) -> str:
    """An answer as the model has given it: its text, or the object as JSON."""
    return output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)


def check(schema: Mapping[str, Any]) -> list[Problem]:
    """Problems for which no model can be given this schema."""
    try:
        of(schema)
    except (SchemaError, UserError) as error:
        reason = error.message if isinstance(error, SchemaError) else str(error)
        return [Problem(f"this schema can't be given to a model: {reason}", "Correct it.", "outputSchema")]
    return []


def of(schema: Mapping[str, Any]) -> Output:
    """The schema, made ready once: that takes milliseconds. Raises as `Output` does."""
    return _made(json.dumps(schema, sort_keys=False))


@functools.lru_cache(256)
def _made(schema: str) -> Output:
    return Output(json.loads(schema))
