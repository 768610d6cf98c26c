"""The two kinds of each class behind one face, so that one test says what both do."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from watchbill import messaging


class Twin:
    """Makes `RedisX` or `AsyncRedisX`, and calls its methods."""

    def __init__(self, *, is_async: bool) -> None:
        self.is_async = is_async
        self._made: list[Any] = []

    def __call__(self, name: str, *args: Any, **options: Any) -> Any:
        """An object of `name` or of its async twin. `url` gives it a client of its own."""
        url = options.pop("url", None)
        if url is not None and name != "RedisClient":
            options["client"] = self("RedisClient", url)
        elif url is not None:
            args = (url, *args)
        made = getattr(messaging, "Async" * self.is_async + name)(*args, **options)
        self._made.append(made)
        return made

    async def close(self) -> None:
        for made in reversed(self._made):
            await ask(made.close)


async def ask(method: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """The answer of a method of either kind. What blocks does so in a thread."""
    if inspect.iscoroutinefunction(method):
        return await method(*args, **options)
    return await asyncio.to_thread(method, *args, **options)


@asynccontextmanager
async def entered(context: Any) -> AsyncIterator[Any]:
    """A context manager of either kind."""
    if hasattr(context, "__aenter__"):
        async with context as found:
            yield found
    else:
        found = await asyncio.to_thread(context.__enter__)
        try:
            yield found
        except BaseException as error:
            if not await asyncio.to_thread(context.__exit__, type(error), error, error.__traceback__):
                raise
        else:
            await asyncio.to_thread(context.__exit__, None, None, None)


def threads() -> set[str]:
    """The names of the threads that live."""
    return {thread.name for thread in threading.enumerate()}
