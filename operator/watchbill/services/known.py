"""Models that refuse what they have no field for, and what is wrong with a value of one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError, model_validator

from watchbill.api.problems import BROKEN, Finding, path_of, raise_findings, suggest
from watchbill.errors import Problem


class Known(BaseModel):
    """A model that refuses unknown fields, and names the one that was probably meant.

    The error doesn't show the value, which may be a secret.
    """

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        if isinstance(given, Mapping):
            raise_findings(cls, (_finding(cls, str(name)) for name in given if name not in cls.model_fields))
        return given


def _finding(model: type[BaseModel], name: str) -> Finding:
    return Finding((name,), f"{model.__name__} has no field {name!r}", suggest(name, model.model_fields))


def problems(error: ValidationError, path: str = "") -> list[Problem]:
    """Returns everything that pydantic found wrong, each with its field. Shows no value, which may be a secret.

    `path`: the place of the model itself.
    """
    found = []
    for details in error.errors(include_url=False, include_input=False):
        where = path_of((*([path] if path else []), *details["loc"]))
        context = details.get("ctx", {})
        reason, fix = details["msg"].removeprefix("Value error, "), f"Correct {where or 'it'}."
        if details["type"] == BROKEN:
            reason, fix = context["reason"], context["fix"]
        elif details["type"] == "missing":
            reason, fix = f"{details['loc'][-1]!r} is missing", f"Give {where}."
        found.append(Problem(reason, fix, path=where))
    return found
