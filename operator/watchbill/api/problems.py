"""Findings: what is wrong with a resource, in words for the person who wrote it. Pure.

A finding is a place in a resource, a reason and a fix. The models raise findings of their own for rules that join
several fields; `explain` turns everything else that pydantic reports into the same form.
"""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, NoReturn, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

Loc = tuple[str | int, ...]

BROKEN: Final = "broken_rule"
"""The type of pydantic's errors that findings become: their context has `reason` and `fix`."""
_TEXT: Final = "text"
_LARGEST_QUOTE: Final = 80


class Finding(NamedTuple):
    """One thing that is wrong, and where: keys and list positions from the resource's root, or from a model's."""

    loc: Loc
    reason: str
    fix: str

    @property
    def path(self) -> str:
        """The place as people write it: `spec.agents[1].class`."""
        return path_of(self.loc)


class NotYaml(Exception):
    """The text can't be read any further; says where and why."""

    def __init__(self, line: int, reason: str, fix: str) -> None:
        super().__init__(reason)
        self.line = line
        self.reason = reason
        self.fix = fix


@dataclass(frozen=True, slots=True)
class Hint:
    """Put among a field's annotations: the fix to give when its value has the wrong form or length."""

    text: str


def path_of(loc: Loc) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")


def raise_findings(model: type[BaseModel], findings: Iterable[Finding]) -> None:
    """Raises, from within a validator, one error per finding, each at its own place; nothing when there is none."""
    details = [
        InitErrorDetails(
            type=PydanticCustomError(BROKEN, "{reason}. {fix}", {"reason": f.reason, "fix": f.fix}),
            loc=f.loc,
            input=None,
        )
        for f in findings
    ]
    if details:
        raise ValidationError.from_exception_data(model.__name__, details)


def refuse(reason: str, fix: str) -> NoReturn:
    """Raises, from within a field's validator, an error about that very field."""
    raise PydanticCustomError(BROKEN, "{reason}. {fix}", {"reason": reason, "fix": fix})


def explain(model: type[BaseModel], error: ValidationError) -> list[Finding]:
    """Everything that pydantic found wrong with a value of this model."""
    return [_finding(model, details) for details in error.errors(include_url=False)]


def nearest(name: Any, known: Iterable[str]) -> str | None:
    """The known name that was probably meant."""
    by_lower = {k.lower(): k for k in known}
    found = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.7)
    return by_lower[found[0]] if found else None


def suggest(name: Any, known: Iterable[str]) -> str:
    """A sentence that names the known names, the likeliest first."""
    known = list(known)
    meant = nearest(name, known)
    listed = ", ".join(known)
    if meant is None:
        return f"Use one of: {listed}."
    return f"Write {meant!r}, or another of: {listed}." if len(known) > 1 else f"Write {meant!r}."


def quote(value: Any) -> str:
    """The value as it is shown in a reason: never longer than a line."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = _LARGEST_QUOTE
    return short.repr(value)


def field_at(model: type[BaseModel], loc: Loc) -> FieldInfo | None:
    """The declared field at this place, or None for an unknown one, or an element of a map or list."""
    owner = model_at(model, loc[:-1])
    return _fields(owner).get(loc[-1]) if owner and loc else None


def model_at(model: type[BaseModel], loc: Loc) -> type[BaseModel] | None:
    """The model whose fields are written at this place."""
    current: type[BaseModel] | None = model
    for part in loc:
        if isinstance(part, int):
            continue
        field = _fields(current).get(part) if current else None
        current = next(_models(field.annotation), None) if field else None
    return current


def _fields(model: type[BaseModel]) -> dict[str | int, FieldInfo]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _finding(model: type[BaseModel], details: ErrorDetails) -> Finding:
    # pydantic marks an error about a map's key by this last part
    loc = tuple(part for part in details["loc"] if part != "[key]")
    context: dict[str, Any] = details.get("ctx", {})
    kind = details["type"]
    if kind == BROKEN:
        return Finding(loc, context["reason"], context["fix"])
    if kind == "missing":
        return Finding(loc, f"{loc[-1]!r} is missing", f"Add {loc[-1]!r}: {_meaning(model, loc)}")
    if kind == "extra_forbidden":
        return _unknown(model, loc)
    if kind in _EXPECTED:
        return Finding(loc, *_wrong_type(details["input"], _EXPECTED[kind]))
    if kind == "literal_error":
        allowed = [str(value) for value in get_args(_literal(model, loc))]
        if details["input"] is None:
            fix = f"Write one of: {', '.join(allowed)}; or remove the field."
            return Finding(loc, "nothing is given where a value is expected", fix)
        return Finding(
            loc, f"{quote(details['input'])} is not a value that is known here", suggest(details["input"], allowed)
        )
    if kind in _BOUNDS:
        return Finding(loc, *_BOUNDS[kind](details["input"], context, _hint(model, loc)))
    reason = re.sub(r"^(Input|Value|String|List) should", "this should", details["msg"]).rstrip(".")
    return Finding(loc, f"{reason}, and is {quote(details['input'])}", "Correct the value.")


def _unknown(model: type[BaseModel], loc: Loc) -> Finding:
    name = str(loc[-1])
    owner = model_at(model, loc[:-1])
    known = sorted(str(field) for field in _fields(owner)) if owner else []
    meant = nearest(name, known)
    fix = f"Write {meant!r} instead, or remove it." if meant else "Remove it."
    return Finding(loc, f"there is no field {name!r} here", f"{fix} The fields here are: {', '.join(known)}.")


_EXPECTED: Final = {
    "string_type": _TEXT,
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping of names to values",
    "model_type": "a mapping of names to values",
    "model_attributes_type": "a mapping of names to values",
}


def _wrong_type(value: Any, expected: str) -> tuple[str, str]:
    if value is None:
        return f"nothing is given where {expected} is expected", f"Write {expected}, or remove the field."
    fix = f"Write {expected}."
    if expected == _TEXT and isinstance(value, bool | int | float):
        fix = "Put it in quotes, so that it is read as text."
    elif isinstance(value, str) and expected != _TEXT:
        if expected == "a list":
            fix = f"Write a list: [{value if len(value) <= _LARGEST_QUOTE else '…'}]."
        elif expected != "a mapping of names to values":
            fix = f"Write {expected}, without quotes."
    return f"{quote(value)} is {_kind_of(value)}, where {expected} is expected", fix


def _kind_of(value: Any) -> str:
    match value:
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return _TEXT
        case dict():
            return "a mapping"
    return f"a {type(value).__name__}"


def _too_small(value: Any, context: dict[str, Any], hint: str) -> tuple[str, str]:
    return f"{quote(value)} is below the least value, {context['ge']}", f"Use {context['ge']} or more."


def _too_large(value: Any, context: dict[str, Any], hint: str) -> tuple[str, str]:
    return f"{quote(value)} is above the largest value, {context['le']}", f"Use {context['le']} or less."


def _long_text(value: Any, context: dict[str, Any], hint: str) -> tuple[str, str]:
    limit = context["max_length"]
    return f"the text has {len(value)} characters, and at most {limit} are possible", hint or f"Shorten it to {limit}."


def _short_text(value: Any, context: dict[str, Any], hint: str) -> tuple[str, str]:
    return "the text is empty", hint or "Write something, or remove the field."


def _many(value: Any, context: dict[str, Any], hint: str) -> tuple[str, str]:
    limit = context["max_length"]
    return f"there are {len(value)} entries, and at most {limit} are possible", f"Leave {limit} or fewer."


def _few(value: Any, context: dict[str, Any], hint: str) -> tuple[str, str]:
    return "there is no entry, and at least one is needed", "Add one."


def _form(value: Any, context: dict[str, Any], hint: str) -> tuple[str, str]:
    return f"{quote(value)} does not have the right form", hint or f"Write it to match {context['pattern']}."


_BOUNDS: Final[dict[str, Callable[[Any, dict[str, Any], str], tuple[str, str]]]] = {
    "greater_than_equal": _too_small,
    "less_than_equal": _too_large,
    "string_too_long": _long_text,
    "string_too_short": _short_text,
    "too_long": _many,
    "too_short": _few,
    "string_pattern_mismatch": _form,
}


def _literal(model: type[BaseModel], loc: Loc) -> Any:
    """The type of a value, or of each value of a list, that is one of a few words."""
    field = field_at(model, loc[:-1] if isinstance(loc[-1], int) else loc)
    annotation = field.annotation if field else None
    # a field that may be left out, and a list, have it as an argument
    return next((part for part in get_args(annotation) if get_origin(part) is Literal), annotation)


def _meaning(model: type[BaseModel], loc: Loc) -> str:
    field = field_at(model, loc)
    return field.description or "" if field else ""


def _hint(model: type[BaseModel], loc: Loc) -> str:
    while loc and isinstance(loc[-1], int):
        loc = loc[:-1]
    field = field_at(model, loc)
    return next((m.text for m in field.metadata if isinstance(m, Hint)), "") if field else ""
