"""Reads what became of deliveries."""

from __future__ import annotations

from watchbill.client import arguments
from watchbill.client.connected import Connected
from watchbill.store import deliveries
from watchbill.store.deliveries import Delivery


class Deliveries(Connected):
    """The client's methods for deliveries. Their dead letters are those of Control."""

    async def deliveries(self, crew: str, *, count: int = 100) -> list[Delivery]:
        """The newest deliveries, unfinished ones first. Those that have ended are kept for tasks.resultTTLSeconds.

        Raises NotFound when there is no such crew.
        """
        keys = self._door(crew)
        arguments.count(count, "count")
        await self._current(keys)
        return await deliveries.listed(self._redis, keys, count)

    async def delivery(self, crew: str, delivery_id: str) -> Delivery:
        """One delivery, with its attempts and its message. Raises NotFound."""
        keys = self._door(crew, delivery_id=delivery_id)
        return await self._of_crew(keys, deliveries.get(self._redis, keys, delivery_id))
