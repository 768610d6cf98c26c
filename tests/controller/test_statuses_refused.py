"""A status that the API server refuses: told, tried again, and no matter for the rest of the crew."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from test_reconcile import ECHO, Room, counted

from watchbill.api.conditions import Reason
from watchbill.controller.stored import StoreState
from watchbill.errors import KubernetesRefuses, NotFound

pytestmark = pytest.mark.pure


class Refusing(Room):
    """A crew with a heartbeat, whose status the API server refuses by this error."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error: Exception | None = error
        self.change("heartbeats", "beat", generation=1)
        write, sync = self.server.apply_status, self.store.sync

        async def apply_status(kind: str, manifest: dict[str, Any]) -> dict[str, Any]:
            if kind == "heartbeats" and self.error is not None:
                self.server.asked.append("refused")
                raise self.error
            return await write(kind, manifest)

        async def with_heartbeat(*arguments: Any) -> StoreState:
            return dataclasses.replace(await sync(*arguments), verdicts={"beat": (Reason.AVAILABLE, "it fires")})

        self.server.apply_status = apply_status  # type: ignore[method-assign]
        self.store.sync = with_heartbeat  # type: ignore[method-assign]

    @property
    def counted(self) -> float:
        return counted("api-server-refuses")


@pytest.mark.parametrize(
    "error",
    [KubernetesRefuses("status.lastSlot: Invalid value", 422), NotFound('heartbeats "beat" not found')],
    ids=type,
)
async def test_a_heartbeat_whose_status_is_refused_keeps_nothing_of_its_crew_from_going_on(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    room = Refusing(error)
    before = room.counted
    assert await room.reconcile() == 60, "it is tried again then"
    assert room.condition() == ("True", "Available")
    assert room.counted == before + 1
    assert "team/beat: the API server refuses the status of this Heartbeat" in caplog.text
    assert str(error) in caplog.text

    room.clock.advance(20)
    assert "refused" not in await room.asks()
    assert await room.reconcile() == 40
    room.clock.advance(40)
    assert "refused" in await room.asks()
    assert caplog.text.count("team/beat") == 1, "that is said once"
    room.change("heartbeats", "beat", generation=2)
    assert "refused" in await room.asks(), "a change is tried at once"
    room.error = None
    room.clock.advance(60)
    await room.reconcile()
    assert room.condition("Ready", "heartbeats", "beat") == ("True", "Available")
    assert room.memory.of(ECHO).refused == {}


async def test_a_heartbeat_that_was_deleted_meanwhile_is_no_refusal(caplog: pytest.LogCaptureFixture) -> None:
    room = Refusing(NotFound("gone"))
    del room.server.objects["heartbeats", "beat"]
    before = room.counted
    await room.reconcile()
    assert (room.counted, room.memory.of(ECHO).refused) == (before, {})
    assert "refuses" not in caplog.text
