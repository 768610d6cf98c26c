"""Models that refuse what they have no field for. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, model_validator

from watchbill.api.problems import Finding, raise_findings, suggest


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
