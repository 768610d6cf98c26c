"""Whose a crew is: the status says so once for each generation, and counts as having said so once it has."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from barriers import settle
from test_reconcile import Room

from watchbill.errors import KubernetesUnavailable, NameTaken, StoreUnavailable

pytestmark = pytest.mark.pure


async def test_a_conflict_that_could_not_be_told_is_told_later() -> None:
    room = Room()
    write = room.server.apply_status

    async def apply_status(kind: str, manifest: dict[str, Any]) -> dict[str, Any]:
        raise KubernetesUnavailable("timed out")

    room.server.apply_status = apply_status  # type: ignore[method-assign]
    room.store.error = NameTaken("another's")
    with pytest.raises(KubernetesUnavailable):
        await room.reconcile()
    room.server.apply_status = write  # type: ignore[method-assign]
    assert "status of crews" in await room.asks()
    assert room.condition("Stalled") == ("True", "OwnerConflict")
    assert await room.asks() == []


async def test_a_conflict_that_waits_for_its_turn_is_told_then() -> None:
    room = Room()
    await room.reconcile()
    room.store.error = StoreUnavailable("away")
    await room.reconcile()
    room.clock.advance(60)
    await room.reconcile()
    assert room.condition() == ("False", "StoreUnavailable")
    room.clock.advance(1)
    room.store.error = NameTaken("another's")
    assert room.statuses.turns.take(("crews", "team", "other"), ("team", "other"), first=True)
    assert "status of crews" not in await room.asks(), "it is not its turn"
    turns = asyncio.create_task(room.statuses.turns.run())
    await settle()
    room.clock.advance(1)
    await settle()
    assert "status of crews" in await room.asks()
    assert room.condition("Stalled") == ("True", "OwnerConflict")
    turns.cancel()
