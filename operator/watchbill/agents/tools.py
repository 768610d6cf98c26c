"""Tools: plain functions that agents call by name, and models through pydantic-ai.

The arguments of a tool are read from its signature. Nothing here depends on a model.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

ENTRY_POINTS: Final = "watchbill.tools"
"""The entry point group in which an installed package offers tools."""

BUILT_IN: Final[Mapping[str, str]] = {"calculator": "watchbill.agents.calculator:calculator"}


@dataclass(frozen=True, slots=True)
class Tool:
    """A function and the name by which agents and models call it."""

    name: str
    function: Callable[..., Any]
    """The function, sync or async. It raises ValueError for a wrong argument; a model may then try again."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function; a coroutine, to be awaited, where `is_async`."""
        return self.function(*args, **kwargs)

    @property
    def description(self) -> str:
        """The function's docstring, or empty."""
        return inspect.getdoc(self.function) or ""

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.function)


def is_tool(found: object) -> bool:
    """Returns whether the object can be a tool: it is callable, and not a class."""
    return callable(found) and not isinstance(found, type)
