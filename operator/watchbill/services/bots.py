"""Bots: objects that answer a prompt. A manager has them by name; a task's bot is looked up when the task runs."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import is_dataclass
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel

from watchbill.errors import UserActionRequired


@runtime_checkable
class Bot(Protocol):
    """An object that answers prompts by a method `ask`, sync or async. It may be asked many things at the same time.

    `ask(prompt, user_id=…, session_id=…)` is given those of the two that the task has and that it takes; with a
    parameter `context` also the `watchbill.agents.Context` of the task. The class attribute `task_methods` names the
    methods that a task may call instead, by its `method_name`.
    """

    @property
    def ask(self) -> Callable[..., Any]: ...


class FindsBots(Protocol):
    """The interface of a manager of bots that an AgentService needs."""

    def get_bot(self, name: str, /) -> Any | Awaitable[Any]:
        """The bot of this name; None if there is none. May be async."""


class BotManager:
    """Bots by name, in this process."""

    def __init__(self, bots: Mapping[str, Any] | Iterable[Any] = ()) -> None:
        """`bots`: by name, or each with an attribute `name`."""
        self._bots: dict[str, Any] = {}
        if isinstance(bots, Mapping):
            for name, bot in bots.items():
                self.add_bot(bot, name)
        else:
            for bot in bots:
                self.add_bot(bot)

    def add_bot(self, bot: Any, name: str | None = None) -> None:
        """Adds a bot, in place of any other of its name. `name` default: the bot's attribute `name`.

        Raises ValueError when it has none, TypeError when it has no method `ask` and declares no `task_methods`.
        """
        name = name or getattr(bot, "name", None)
        if not isinstance(name, str) or not name:
            raise ValueError(f"{bot!r} has no name. Give one, as in add_bot(bot, 'MyAgent')")
        if not callable(getattr(bot, "ask", None)) and not declared(bot):
            raise TypeError(f"bot {name!r} has no method ask. Add one, or declare others in its class's task_methods")
        self._bots[name] = bot

    def remove_bot(self, name: str) -> bool:
        """Removes a bot. False if there was none."""
        return self._bots.pop(name, None) is not None

    def get_bot(self, name: str, /) -> Any | None:
        """The bot of this name; None if there is none."""
        return self._bots.get(name)

    @property
    def names(self) -> list[str]:
        """The names of all bots, sorted."""
        return sorted(self._bots)


def declared(bot: Any) -> tuple[str, ...]:
    """The methods that its class lets tasks call. Raises TypeError for what is no list of names."""
    listed = getattr(type(bot), "task_methods", ())
    if isinstance(listed, str) or not all(isinstance(name, str) for name in listed):
        raise TypeError(f"{type(bot).__name__}.task_methods is {listed!r}. Make it a tuple of names of methods")
    return tuple(listed)


def method_of(bot: Any, name: str, method: str | None) -> Callable[..., Any]:
    """Returns the method that a task calls. Raises UserActionRequired when the bot has no such method or doesn't
    declare it."""
    if method is not None and method not in (known := declared(bot)):
        listed = ", ".join(known) or "none"
        raise UserActionRequired(
            f"Agent {name!r} declares no task method {method!r}. It declares: {listed}. "
            f"Name it in {type(bot).__name__}.task_methods"
        )
    found = getattr(bot, method or "ask", None)
    if not callable(found):
        raise UserActionRequired(f"Agent {name!r} has no method {method or 'ask'!r}")
    return found  # type: ignore[no-any-return]


def answer_of(answer: Any) -> Any:
    """Returns the part of a bot's answer that is stored: of a response object its `to_text`, or its `output` or
    `response`; anything else as it is.

    A model of pydantic that has no `to_text` is stored whole, and so is a dataclass.
    """
    names = ("to_text",) if isinstance(answer, BaseModel) or is_dataclass(answer) else ("to_text", "output", "response")
    for name in names:
        found = getattr(answer, name, None)
        found = found() if callable(found) else found
        if found is not None:
            return found
    return answer


def options(method: Callable[..., Any], given: Mapping[str, Any], on_request: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the items of `given` that the method takes, and the items of `on_request` that it names."""
    try:
        parameters = inspect.signature(method).parameters
    except ValueError:  # written in C
        return {}
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = {n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    found = {name: value for name, value in given.items() if takes_all or name in named}
    return found | {name: value for name, value in on_request.items() if name in named}
