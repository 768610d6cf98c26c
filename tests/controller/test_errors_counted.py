"""Errors that a reconciliation goes on after are counted, so that an alert tells of them."""

from __future__ import annotations

import pytest
import redis.exceptions
from test_reconcile import Room, counted

from watchbill.errors import KubernetesForbids, KubernetesRefuses, StoreRefuses

pytestmark = pytest.mark.pure


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (StoreRefuses("no right to a command"), "store-refuses"),
        (redis.exceptions.ResponseError("WRONGTYPE"), "store-refuses"),
        (KubernetesForbids("no right", 403), "api-server-forbids"),
        (KubernetesRefuses("no such field", 422), "api-server-refuses"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_an_error_that_ends_no_reconciliation_is_counted_too(error: Exception, reason: str) -> None:
    room, before = Room(), counted(reason)
    if reason == "store-refuses":
        room.store.error = error
    else:
        room.server.error = error
    await room.reconcile()
    assert room.condition()[0] == "False"
    assert counted(reason) - before == 1
