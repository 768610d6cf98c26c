"""The base of the client: its connection, and the crews that it has read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from watchbill import connection, names
from watchbill.connection import outages
from watchbill.connection.url import Target
from watchbill.errors import (
    CrewGone,
    DefinitionChanged,
    InvalidInput,
    NewerRecord,
    NotFound,
    Problem,
    WatchbillError,
)
from watchbill.plan import texts
from watchbill.store import definitions

T = TypeVar("T")


_NEEDED: Final = frozenset({"delivery_id", "letter_or_task", "run_id", "session_id", "task_id", "worker"})
"""Arguments that are never None."""


class Connected:
    """A connection to a store, and the last known state of its crews."""

    def __init__(self, url: str | Target, *, namespace: str = "default") -> None:
        self._redis = connection.connect(url)
        self._namespace = namespace
        self._crews: dict[str, definitions.Current] = {}
        self._keys: dict[str, names.CrewKeys] = {}

    def keys(self, crew: str) -> names.CrewKeys:
        """The crew's keys. Raises InvalidInput if `crew` can't be a crew's name."""
        if isinstance(crew, str) and (known := self._keys.get(crew)):
            return known
        texts.check(("crew",), crew=crew, namespace=self._namespace)
        namespace, separator, name = crew.rpartition("/")
        namespace = namespace if separator else self._namespace
        if not name or not namespace or any(c in crew for c in "{}:") or "/" in namespace:
            raise InvalidInput(Problem(f"{crew!r} is not a crew", "Write NAME or NAMESPACE/NAME.", path="crew"))
        return self._keys.setdefault(crew, names.CrewKeys(namespace, name))

    def _door(self, crew: str, **given: object) -> names.CrewKeys:
        """Checks the arguments of a call, and returns the crew's keys. Raises InvalidInput if one is no text, or if one
        without which there is no such call is None."""
        texts.check(_NEEDED, **given)
        return self.keys(crew)

    async def _current(self, keys: names.CrewKeys) -> definitions.Current:
        """Reads the crew. Raises NotFound, also when it was read before."""
        found = self._crews[keys.crew] = await definitions.current(self._redis, keys)
        return found

    async def _of_crew(self, keys: names.CrewKeys, work: Awaitable[T]) -> T:
        """The result of `work`, which reads from a crew. Raises NotFound of the crew if it is gone."""
        try:
            return await work
        except NotFound:
            await outages.persist(lambda: definitions.current(self._redis, keys))
            raise

    async def _with_current(self, keys: names.CrewKeys, give: Callable[[definitions.Current], Awaitable[T]]) -> T:
        """Calls `give` with the known state of the crew. If the store refuses it, reads the crew again and repeats.

        The crew may have another definition by now, or be a new one of the same name. The last error's `stored` has
        the ids that were stored before.
        """
        stored: Sequence[str] = ()
        if keys.crew in self._crews:
            try:
                return await give(self._crews[keys.crew])
            except (DefinitionChanged, InvalidInput, NewerRecord) as error:
                stored = error.stored
            except CrewGone:
                pass  # and with it all that was stored
        try:
            for _ in range(3):
                try:
                    return await give(await self._current(keys))
                except DefinitionChanged as error:
                    stored = error.stored or stored
            raise DefinitionChanged(f"the definition of crew {keys.crew!r} changes all the time")
        except WatchbillError as error:
            error.stored = error.stored or stored
            raise
