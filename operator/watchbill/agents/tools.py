"""Tools: functions that agents call by name, and models through pydantic-ai. A crew's own are made in `http_tools` and
`tool_servers`.

The arguments of a function are read from its signature, or from a schema beside it. Nothing here depends on a model.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from watchbill import tracing

ENTRY_POINTS: Final = "watchbill.tools"
"""The entry point group in which an installed package offers tools."""

BUILT_IN: Final[Mapping[str, str]] = {"calculator": "watchbill.agents.calculator:calculator"}


@dataclass(frozen=True, slots=True)
class Tool:
    """A function and the name by which agents and models call it."""

    name: str
    function: Callable[..., Any]
    """The function, sync or async. It raises ValueError for a wrong argument; a model may then try again."""
    schema: Mapping[str, Any] | None = None
    """The JSON Schema of its arguments, all given by name. None: its signature says it."""
    about: str = ""
    """The purpose. Empty: the function's docstring says it."""
    listed: Callable[[], Awaitable[Sequence[Tool]]] | None = None
    """Asks a server for the tools that models are offered in place of this one, with their schemas. None: this one."""
    needs_approval: bool = False
    """Somebody must approve of each call before it is made."""
    declaration: str = ""
    """All that its crew says of it. An approval of a call doesn't hold for a tool that was declared anew."""
    is_repeated: bool = False
    """Each attempt of a task calls it anew, and finds what came of the call before: its results need no checkpoints."""
    bare: Callable[..., Any] | None = None
    """The function itself, where `function` asks for approval before it calls it."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function; a coroutine, to be awaited, where `is_async`."""
        if tracing.active is not None:
            return tracing.active.call_tool(self.name, self.function, *args, **kwargs)
        return self.function(*args, **kwargs)

    @property
    def description(self) -> str:
        """The purpose, or the function's docstring, or empty."""
        return self.about or inspect.getdoc(self.function) or ""

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.function)


def is_tool(found: object) -> bool:
    """Returns whether the object can be a tool: it is callable, and not a class."""
    return callable(found) and not isinstance(found, type)
