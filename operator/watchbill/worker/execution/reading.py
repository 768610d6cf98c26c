"""Data that are read from the store before a task begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from watchbill.plan import values
from watchbill.plan.hierarchy import Asked
from watchbill.tasks import Approval


@dataclass(frozen=True, slots=True)
class Read:
    """The inputs of a task, and what is known of it beside them."""

    inputs: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)
    """Outputs of the steps that its agent is given, and of the one that its condition is about, by their agents. An
    agent that has no output yet is missing."""
    item: Any = values.MISSING
    """The item of a list that it is for."""
    kept: frozenset[str] = frozenset()
    """Agents without an output, since something failed before them. Only a synthesis begins all the same."""
    approvals: Sequence[Approval] = ()
    asked: Asked | None = None
    """The request of the step that has delegated this one; None: none has."""


NOTHING: Final = Read()
