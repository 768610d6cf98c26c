"""Errors that go over the line between a worker and an agent's process: Watchbill's own arrive as what they are.

Also used in agents' own processes: imports no store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from watchbill import errors
from watchbill.errors import InvalidInput, Postponed, Problem, RetryAfter, WatchbillError
from watchbill.worker.execution.failures import describe


def packed(error: Exception) -> dict[str, Any]:
    """Returns the error as JSON can hold it."""
    if isinstance(error, InvalidInput):
        return {"type": "InvalidInput", "problems": [asdict(problem) for problem in error.problems]}
    name = type(error).__name__
    if not isinstance(error, WatchbillError) or getattr(errors, name, None) is not type(error):
        return {"type": "ValueError" if isinstance(error, ValueError) else "RuntimeError", "text": describe(error)}
    told = {"type": name, "text": str(error)}
    if isinstance(error, Postponed):
        return {**told, "later_ms": error.later_ms, "of_model": error.of_model}
    return {**told, "seconds": error.retry_after} if isinstance(error, RetryAfter) else told


def unpacked(told: Mapping[str, Any]) -> Exception:
    """Returns the error that was packed so."""
    kind, text = told["type"], told.get("text", "")
    if kind == "InvalidInput":
        return InvalidInput([Problem(**problem) for problem in told["problems"]])
    if kind == "Postponed":
        ms: int = told["later_ms"]
        if ms < 0:
            return Postponed(text, until_ms=-ms, of_model=told["of_model"])
        return Postponed(text, seconds=ms / 1000, of_model=told["of_model"])
    if kind == "RetryAfter":
        return RetryAfter(text, told["seconds"])
    cls: type[Exception] | None = getattr(errors, kind, None)
    return cls(text) if cls is not None else ValueError(text) if kind == "ValueError" else RuntimeError(text)
