"""Checks the JSON Schema of an output or of a tool's arguments: a mistake is told by its place. Pure.

JSON Schema itself ignores a keyword that it doesn't know, so that a typo would let every output pass. What is taken is
the part of draft 2020-12 that models are given: an object, described in one document, without references that go in a
circle.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from watchbill.api.problems import Finding, Loc, nearest, quote

SCHEMA_MAX_BYTES: Final = 64 * 1024
_DEEPEST: Final = 20
_TYPES: Final = ("object", "array", "string", "integer", "number", "boolean", "null")
_DEFS: Final = "#/$defs/"

_Check = Callable[[Any], str | None]
"""Returns what the value should be, as in `a text`; None if it is that."""


def _kind(said: str, fits: Callable[[Any], bool]) -> _Check:
    return lambda value: None if fits(value) else said


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value) and len(set(value)) == len(value)


def _are_types(value: Any) -> bool:
    listed = value if isinstance(value, list) and value else [value]
    return all(isinstance(name, str) and name in _TYPES for name in listed)


def _is_pattern(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(re.compile(value))
    except re.error:
        return False


_TEXT: Final = _kind("a text", lambda value: isinstance(value, str))
_TRUTH: Final = _kind("true or false", lambda value: isinstance(value, bool))
_NUMBER: Final = _kind("a number", _is_number)
_COUNT: Final = _kind("a whole number, 0 or more", _is_count)
_ANY: Final = _kind("", lambda value: True)
_VALUES: Final[dict[str, _Check]] = {
    "type": _kind(f"one of {', '.join(_TYPES)}, or a list of these", _are_types),
    "enum": _kind("a list with at least one value", lambda value: isinstance(value, list) and bool(value)),
    "const": _ANY,
    "default": _ANY,
    "examples": _kind("a list", lambda value: isinstance(value, list)),
    **dict.fromkeys(("title", "description", "format", "$comment", "$schema", "$ref"), _TEXT),
    "pattern": _kind("a regular expression of Python's", _is_pattern),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _NUMBER),
    "multipleOf": _kind("a number above 0", lambda value: _is_number(value) and value > 0),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), _COUNT),
    **dict.fromkeys(("uniqueItems", "deprecated", "readOnly", "writeOnly"), _TRUTH),
    "required": _kind("a list of names, each once", _are_names),
}
_SCHEMA: Final = ("items", "additionalProperties", "propertyNames", "contains", "not", "if", "then", "else")
_LISTS: Final = ("prefixItems", "anyOf", "oneOf", "allOf")
_MAPS: Final = ("properties", "patternProperties", "dependentSchemas", "$defs")
KEYWORDS: Final = tuple(sorted((*_VALUES, *_SCHEMA, *_LISTS, *_MAPS)))


def findings(schema: Mapping[str, Any]) -> list[Finding]:
    """Returns what is wrong with the schema of an object, with places within it; empty if a model can be given it."""
    try:
        size = len(json.dumps(schema, allow_nan=False).encode("utf-8", "surrogatepass"))
    except (TypeError, ValueError, RecursionError):
        return [Finding((), "the schema has a value that is no JSON", "Write JSON's values only.")]
    if size > SCHEMA_MAX_BYTES:
        return [Finding((), f"the schema has {size} bytes, and at most {SCHEMA_MAX_BYTES} are possible", "Shorten it.")]
    if schema.get("type") != "object":
        fix = "Write type: object, and name its parts in properties."
        return [Finding(("type",), "it is an object that is described, and the schema doesn't say so", fix)]
    found = list(_of_schema(schema, (), schema))
    if not found and (circle := _circle(schema)):
        reason = f"$defs cite each other in a circle: {' -> '.join(circle)}"
        found.append(Finding(("$defs",), reason, "Write out as many levels as are needed."))
    return found


def _of_schema(schema: Any, loc: Loc, root: Mapping[str, Any]) -> Iterator[Finding]:
    if isinstance(schema, bool) and loc:
        return
    if not isinstance(schema, Mapping):
        yield Finding(loc, f"{quote(schema)} is no schema", "Write a mapping of keywords, as in {type: string}.")
        return
    if len(loc) > 2 * _DEEPEST:
        yield Finding(loc, f"the schema has more than {_DEEPEST} levels", "Make it flatter.")
        return
    for key, value in schema.items():
        place = (*loc, key)
        if key in _VALUES:
            if expected := _VALUES[key](value):
                yield Finding(place, f"{quote(value)} is not a value of {key!r}", f"Write {expected}.")
        elif key in _SCHEMA:
            yield from _of_schema(value, place, root)
        elif key in _LISTS:
            yield from _of_list(value, place, root)
        elif key in _MAPS:
            yield from _of_map(value, place, root)
        else:
            yield _unknown(key, place)
    yield from _of_reference(schema, loc, root)
    yield from _of_required(schema, loc)


def _of_list(value: Any, loc: Loc, root: Mapping[str, Any]) -> Iterator[Finding]:
    if not isinstance(value, list) or not value:
        yield Finding(loc, f"{quote(value)} is not a list of schemas", "Write a list with at least one schema.")
        return
    for i, each in enumerate(value):
        yield from _of_schema(each, (*loc, i), root)


def _of_map(value: Any, loc: Loc, root: Mapping[str, Any]) -> Iterator[Finding]:
    if not isinstance(value, Mapping):
        yield Finding(loc, f"{quote(value)} is not a mapping", "Write a mapping of names to schemas.")
        return
    for name, each in value.items():
        if loc[-1] == "patternProperties" and not _is_pattern(name):
            fix = "Write a regular expression of Python's."
            yield Finding((*loc, name), f"{quote(name)} is no regular expression", fix)
        yield from _of_schema(each, (*loc, name), root)


def _unknown(key: Any, loc: Loc) -> Finding:
    meant = nearest(key, KEYWORDS)
    fix = f"Write {meant!r} instead, or remove it." if meant else f"Remove it. The keywords are: {', '.join(KEYWORDS)}."
    return Finding(loc, f"JSON Schema has no keyword {quote(key)} that is known here", fix)


def _of_reference(schema: Mapping[str, Any], loc: Loc, root: Mapping[str, Any]) -> Iterator[Finding]:
    cited = schema.get("$ref")
    if not isinstance(cited, str):
        return
    defs = root.get("$defs")
    known = sorted(defs) if isinstance(defs, Mapping) else []
    if not cited.startswith(_DEFS) or cited.removeprefix(_DEFS) not in known:
        listed = ", ".join(_DEFS + name for name in known) or "none yet"
        fix = f"Cite an entry of the $defs at the top ({listed}), or write the schema out."
        yield Finding((*loc, "$ref"), f"{quote(cited)} is not in this schema", fix)


def _of_required(schema: Mapping[str, Any], loc: Loc) -> Iterator[Finding]:
    """A required property that may not be there, so that nothing fits the schema."""
    required, properties = schema.get("required"), schema.get("properties", {})
    if not _are_names(required) or not isinstance(properties, Mapping) or schema.get("patternProperties"):
        return
    if schema.get("additionalProperties") is not False:
        return
    for i, name in enumerate(required or ()):
        if name not in properties:
            meant = nearest(name, properties)
            fix = f"Write {meant!r}, or add it to properties." if meant else "Add it to properties."
            reason = f"{name!r} is required, and additionalProperties: false forbids it"
            yield Finding((*loc, "required", i), reason, fix)


def _circle(schema: Mapping[str, Any]) -> list[str]:
    """The names of `$defs` that cite each other in a circle, the first one again at the end; empty if none do."""
    cites = {name: sorted(_cited(each)) for name, each in schema.get("$defs", {}).items()}

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        return next((found for cited in cites.get(name, ()) if (found := walk(cited, [*path, name]))), [])

    return next((found for name in cites if (found := walk(name, []))), [])


def _cited(node: Any) -> set[str]:
    if isinstance(node, Mapping):
        own = node.get("$ref")
        names = {own.removeprefix(_DEFS)} if isinstance(own, str) else set()
        return names.union(*map(_cited, node.values()))
    return set().union(*map(_cited, node)) if isinstance(node, list) else set()
