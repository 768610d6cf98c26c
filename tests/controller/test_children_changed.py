"""Children of a crew that somebody deletes or changes. An API server and a store in memory."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from test_reconcile import Room

from watchbill.errors import Conflict
from watchbill.plan.replicas import Load

pytestmark = pytest.mark.pure


async def test_a_service_account_is_made_once_and_again_when_it_is_gone_or_changed_at_a_resync() -> None:
    room = Room()
    assert "apply serviceaccounts" in await room.asks()
    await room.reconcile()
    [account] = [key for key in room.server.objects if key[0] == "serviceaccounts"]
    del room.server.objects[account]
    assert "apply serviceaccounts" not in await room.asks(), "it was there"
    room.memory.invalidate()
    assert "apply serviceaccounts" in await room.asks()
    room.server.objects[account]["automountServiceAccountToken"] = True
    room.memory.invalidate()
    assert "apply serviceaccounts" in await room.asks()
    room.server.objects[account]["metadata"]["labels"]["theirs"] = "1"
    room.memory.invalidate()
    assert "apply serviceaccounts" not in await room.asks()


async def test_a_deployment_whose_labels_somebody_removed_gets_them_back_and_keeps_its_size() -> None:
    """Made anew, it would begin with as many workers as are wanted now, and stop some that are busy."""
    room = Room()
    room.store.load = Load(0, 25, None)
    await room.reconcile()
    room.store.load = Load(0, 5, None)
    [deployment] = [key for key in room.server.objects if key[0] == "deployments"]
    labels = room.server.objects[deployment]["metadata"].pop("labels")
    room.server.version += 1
    room.server.objects[deployment]["metadata"]["resourceVersion"] = version = str(room.server.version)
    room.cache.take("deployments", "DELETED", room.server.objects[deployment])
    applied: list[dict[str, Any]] = []

    def answer(manifest: dict[str, Any]) -> None:
        if manifest["metadata"].get("resourceVersion") != version:
            raise Conflict("it is there")
        applied.append(manifest)

    room.server.on_apply = answer
    await room.reconcile()
    assert room.server.objects[deployment]["metadata"]["labels"] == labels
    assert [(a["spec"]["replicas"], a["metadata"]["resourceVersion"]) for a in applied] == [(3, version)]
    assert room.workers() == 3


async def test_a_deployment_that_somebody_gives_the_label_of_another_crew_is_kept_and_gets_its_own_back() -> None:
    """The other crew would delete it with its busy workers, as a former crew's."""
    room = Room()
    room.store.load = Load(0, 25, None)
    await room.reconcile()
    [deployment] = [key for key in room.server.objects if key[0] == "deployments"]
    changed = copy.deepcopy(room.server.objects[deployment])
    labels = dict(changed["metadata"]["labels"])
    changed["metadata"]["labels"]["watchbill.dev/crew"] = "other"
    other = copy.deepcopy(room.server.objects["crews", "echo"])
    other["metadata"] |= {"name": "other", "uid": "v"}
    room.cache.take("crews", "ADDED", room.server.store("crews", other))
    room.cache.take("deployments", "MODIFIED", room.server.store("deployments", changed))
    await room.reconciler.reconcile(("team", "other"))
    await room.reconcile()
    assert room.server.objects[deployment]["metadata"]["labels"] == labels
    assert room.workers() == 3


async def test_a_service_account_that_is_there_before_the_first_status_is_taken_over_as_it_is() -> None:
    """A replica that led has made it, and ended before it wrote the status."""
    room = Room()
    await room.reconcile()
    [account] = [key for key in room.server.objects if key[0] == "serviceaccounts"]
    version = room.server.objects[account]["metadata"]["resourceVersion"]
    again = Room()
    again.server.objects[account] = room.server.objects[account]
    applied: list[str | None] = []

    def answer(manifest: dict[str, Any]) -> None:
        applied.append(manifest["metadata"].get("resourceVersion"))
        if manifest["kind"] == "ServiceAccount" and applied[-1] != version:
            raise Conflict("it is there")

    again.server.on_apply = answer
    await again.reconcile()
    assert applied[:2] == [None, version]
    assert again.condition("Ready")[0] == "True"
