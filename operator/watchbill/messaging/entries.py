"""Entries of a stream as what users give and get: a dict of named values. No I/O.

Text is stored as it is. Everything else is stored as JSON, and the entry's field `wb:json` lists the fields that are
JSON, itself as JSON. So a text that looks like JSON stays a text, and an entry of another program is all text. Names
that begin with `wb:` are Watchbill's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from watchbill import message_names
from watchbill.errors import InvalidInput, Problem
from watchbill.messaging import checks

FIELDS_MAX: Final = 1000
"""A script passes on so many, and not many more."""

Message = dict[str, Any]
"""`{"id": …, "data": {…}}`."""


def encode(data: object, field: str = "data") -> list[str]:
    """Returns the fields of an entry: names and values by turns. Raises InvalidInput, which names the field."""
    if not isinstance(data, Mapping):
        fix = "Give a dict, as in {'type': 'analysis'}."
        raise InvalidInput(Problem(f"a {type(data).__name__} is no message", fix, path=field))
    if len(data) > FIELDS_MAX:
        fix = f"Give at most {FIELDS_MAX}, or put them into one field as a dict."
        raise InvalidInput(Problem(f"a message with {len(data)} fields is too wide", fix, path=field))
    fields: list[str] = []
    as_json: list[str] = []
    for name, value in data.items():
        fields += (_name(name, field), value if checks.is_text(value) else checks.to_json(value, f"{field}[{name!r}]"))
        if fields[-1] is not value:
            as_json.append(name)
    if as_json or not fields:  # Redis keeps no entry without a field
        fields += (message_names.JSON_FIELDS, json.dumps(as_json, ensure_ascii=False))
    return fields


def decode(fields: Mapping[str, str]) -> dict[str, Any]:
    """Returns what `encode` was given. What isn't as it writes it comes as the text that it is."""
    as_json = checks.from_json_or_text(fields.get(message_names.JSON_FIELDS, "[]"))
    if not isinstance(as_json, list):
        return dict(fields)
    shown = {name: value for name, value in fields.items() if not name.startswith(message_names.FIELDS_OF_ENTRY)}
    return shown | {
        name: checks.from_json_or_text(shown[name]) for name in as_json if isinstance(name, str) and name in shown
    }


def message(entry: Sequence[Any]) -> Message:
    """Returns an entry, an id and its fields, as users get it."""
    return {"id": str(entry[0]), "data": decode(_fields(entry[1]))}


def letter(entry: Sequence[Any]) -> Message:
    """Returns a dead letter as users get it."""
    fields = _fields(entry[1])
    deliveries = fields.get(message_names.LETTER_DELIVERIES, "")
    return {
        **message(entry),
        "message_id": fields.get(message_names.LETTER_ID, ""),
        "group": fields.get(message_names.LETTER_GROUP, ""),
        "deliveries": int(deliveries) if deliveries.isdecimal() and len(deliveries) < 20 else 0,  # another program's
        "error": fields.get(message_names.LETTER_ERROR, ""),
    }


def of_reading(answer: Any) -> list[Sequence[Any]]:
    """Returns the entries that XREADGROUP found in one stream, in the answers of both of Redis's protocols."""
    if not answer:
        return []
    found = next(iter(answer.values())) if isinstance(answer, dict) else answer[0][1]
    return list(found[0] if isinstance(answer, dict) else found)


def _fields(found: Any) -> dict[str, str]:
    """Commands answer with a dict, scripts with a list, and both with nothing for an entry without fields."""
    if isinstance(found, Mapping):
        return dict(found)
    flat: Iterable[str] = iter(found or ())
    return dict(zip(flat, flat, strict=True))


def _name(name: object, field: str) -> str:
    if not isinstance(name, str) or not checks.is_text(name):
        raise InvalidInput(Problem(f"{name!r} is no name of a field", "Use text.", path=field))
    if name.startswith(message_names.FIELDS_OF_ENTRY):
        fix = f"Use a name that doesn't begin with {message_names.FIELDS_OF_ENTRY!r}."
        raise InvalidInput(Problem(f"{name!r} is Watchbill's own", fix, path=field))
    return name
