"""Crew records as text: what may be stored, what was stored, and which version of it. No I/O.

The checks are the same on saving and on loading, so that what is stored can be read again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import to_jsonable_python

from watchbill import errors, names
from watchbill.records import CrewDefinition

logger = logging.getLogger(__name__)

_REASON_MAX: Final = 1000
"""Characters of a reason, which may quote what another program wrote."""


def part_problem(value: object) -> str | None:
    """Returns why the text can't be part of a key; None if it can."""
    if isinstance(value, str) and 0 < len(value) <= 253 and value.isprintable() and not set(value) & set("{}:/"):
        return None
    return f"{value!r} can't be part of a key"


def name_problem(name: str) -> str | None:
    """Returns why no crew can have this name, which could lead to an index, an id, or another tenant's record; None if
    one can."""
    if name in names.RESERVED_CREW_NAMES:
        return f"{name!r} is the name of an index of the crew records"
    return part_problem(name)


def id_problem(crew_id: object) -> str | None:
    return None if isinstance(crew_id, str) and crew_id and crew_id.isprintable() else f"{crew_id!r} is no id"


def check_crew(crew: object) -> None:
    """Raises InvalidInput for what is no CrewDefinition."""
    if not isinstance(crew, CrewDefinition):
        reason = f"a {type(crew).__name__} is no crew"
        raise errors.InvalidInput(errors.Problem(reason, "Give a CrewDefinition.", path="crew"))


def check(reason: str | None, path: str) -> None:
    if reason:
        fix = "Use another, of 1 to 253 printable characters other than { } : /."
        raise errors.InvalidInput(errors.Problem(reason, fix, path))


def parse(record: bytes | str, source: str, name: str) -> CrewDefinition:
    """Returns the crew of the record that is at the key `source`. The crew is called `name`, as its key says, whatever
    the record says: index, id, save and delete go by the key."""
    try:
        crew = CrewDefinition.model_validate_json(record)
    except ValidationError as error:
        raise errors.InvalidInput(list(problems(error, source))) from error
    if crew.name == name:
        return crew
    logger.warning("the record at %r says that it is the crew %r. It is loaded as %r", source, crew.name, name)
    return crew.model_copy(update={"name": name})


def problems(error: ValidationError, source: str) -> Iterator[errors.Problem]:
    for detail in error.errors(include_url=False):
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in detail["loc"]).lstrip(".")
        message, value = detail["msg"].removeprefix("Value error, "), detail["input"]
        # Our own messages hold reason and fix. A whole record is no help in a message, so only scalars are quoted.
        reason, _, fix = message.partition(". ")
        if not fix and isinstance(value, str | int | float) and path:
            reason += f", and is {value if len(str(value)) <= 80 else str(value)[:80] + '…'!r}"
        fix = fix or "Save the crew again, or delete its record."
        yield errors.Problem(reason[:_REASON_MAX], fix, path=path, source=source)


def storable(crew: CrewDefinition, source: str) -> dict[str, Any]:
    """The crew's fields as JSON values, after the same checks as on loading: what is stored can be read again."""
    fields = jsonable(crew.model_dump(warnings=False), source)
    parse(dump(fields), source, crew.name)
    return dict(fields)


def jsonable(value: object, source: str) -> Any:
    try:
        plain = to_jsonable_python(value)
        json.dumps(plain, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, TypeError, RecursionError) as error:
        problem = errors.Problem(f"not everything is JSON ({error})", "Use JSON values and datetimes.", source=source)
        raise errors.InvalidInput(problem) from error
    return plain


def dump(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, separators=(",", ":"))


def fields(record: bytes | str) -> dict[str, Any]:
    """The fields of a record as they are, even if it is no crew; none if it isn't a JSON object."""
    try:
        fields = json.loads(record)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def aware(value: object) -> datetime | None:
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time


def stamped(fields: Mapping[str, Any], before: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """The next version of a record: created when the first was, updated after the one before, whatever the clock."""
    last, version = aware(before.get("updated_at")), before.get("record_version")
    created = aware(before.get("created_at")) or aware(fields.get("created_at")) or now
    updated = max(now, last + timedelta(microseconds=1)) if last else now
    return {
        **fields,
        "created_at": created.astimezone(UTC).isoformat(),
        "updated_at": updated.astimezone(UTC).isoformat(),
        "record_version": version + 1 if isinstance(version, int) else 1,
    }
