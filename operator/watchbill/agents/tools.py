"""Tools: plain functions that agents call by name, and models through the library that speaks to them.

What a tool takes is read from its signature; nothing here knows a model.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

ENTRY_POINTS: Final = "watchbill.tools"
"""The entry point group by which an installed package offers tools."""

BUILT_IN: Final[Mapping[str, str]] = {"calculator": "watchbill.agents.calculator:calculator"}


@dataclass(frozen=True, slots=True)
class Tool:
    """A function under the name by which agents and models call it."""

    name: str
    function: Callable[..., Any]
    """Sync or async. A ValueError tells the caller that an argument was wrong; a model may then try again."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function; a coroutine, to be awaited, where `is_async`."""
        return self.function(*args, **kwargs)

    @property
    def description(self) -> str:
        """What the function's docstring says, or nothing."""
        return inspect.getdoc(self.function) or ""

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.function)


def is_tool(found: object) -> bool:
    """Whether this can be a tool: something to call, and not a class."""
    return callable(found) and not isinstance(found, type)
