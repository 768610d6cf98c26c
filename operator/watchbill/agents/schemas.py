"""Values against a JSON Schema, with faults that a model can read. Imports jsonschema when it is used."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any, Final

from watchbill.errors import needed

with needed("A JSON Schema of an agent", "llm"):
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError

_MOST_TOLD: Final = 10
"""Faults of one value that a model is told of. It mends them faster than a list of hundreds."""
_LONGEST: Final = 300


def faults(schema: Mapping[str, Any], value: Any, name: str) -> str:
    """One line for each of the first faults, with its place, as in `output.rows[3].price: 'x' is not of type
    'number'`; empty if the value fits. `name` begins the place. Raises SchemaError for a schema that is none."""
    errors = _validator(json.dumps(schema)).iter_errors(value)
    return "\n".join(_line(error, name) for error, _ in zip(errors, range(_MOST_TOLD), strict=False))


def check(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Raises ValueError, for the model to mend, if a tool's arguments don't fit."""
    if told := faults(schema, arguments, "arguments"):
        raise ValueError(told)


@functools.lru_cache(512)
def _validator(schema: str) -> Any:
    """The validator of a schema, made once: that takes milliseconds. It may be shared by threads."""
    read = json.loads(schema)
    Draft202012Validator.check_schema(read)
    return Draft202012Validator(read, format_checker=Draft202012Validator.FORMAT_CHECKER)


def _line(error: ValidationError, name: str) -> str:
    place = name + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
    said = str(error.message)
    return f"{place}: {said if len(said) <= _LONGEST else said[:_LONGEST] + '…'}"
