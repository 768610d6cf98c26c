"""Writes of an operator that no longer leads, which reach the API server late: they have no effect where they would do
harm."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from e2e.cluster import machine
from e2e.cluster.control_plane import ControlPlane
from e2e.control_plane import operator_team
from e2e.control_plane.operator_team import NARROW, RELEASE, SOON, Team, crew
from watchbill.api import Crew
from watchbill.clock import SYSTEM
from watchbill.controller.acting import Actor, Outdated
from watchbill.controller.cache import Cache
from watchbill.controller.memory import CrewMemory
from watchbill.controller.stored import Stored
from watchbill.errors import StaleObject
from watchbill.kubernetes_api import KubernetesApi
from watchbill.plan import crew as plan
from watchbill.plan import manifests

team = operator_team.team
store = operator_team.store
installed = operator_team.installed

WORKERS = manifests.Defaults(image="worker:1")


class OldLeader:
    """Acts on what it saw of a crew that others scale, with the rights of the operator."""

    def __init__(self, team: Team, image: str) -> None:
        self._team = team
        found = team.crew()
        found["spec"]["workers"]["image"] = image
        self._crew = Crew.model_validate({k: v for k, v in found.items() if k != "status"}, extra="ignore")
        self._uid = str(found["metadata"]["uid"])
        self._cache = Cache()

    def look(self) -> None:
        self._cache = Cache()
        for one in self._team.deployments():
            self._cache.take("deployments", "ADDED", one)

    def act(self) -> plan.Plan:
        key = (self._team.namespace, "echo")
        observed = plan.Observed(
            crew=self._crew,
            namespace=key[0],
            uid=self._uid,
            generation=2,
            status={"observedGeneration": -1},
            template=manifests.pod_template(self._crew, key[0], WORKERS),
            children=self._cache.deployments.of(key),
            has_service_account=False,
            has_redis_secret=True,
            load=None,
            store_error=None,
            idle_for=None,
        )

        async def work(kubernetes: KubernetesApi) -> plan.Plan:
            actor = Actor(kubernetes, self._cache, cast(Stored, None), WORKERS, SYSTEM)
            return await actor.act(key, observed, CrewMemory())

        return asyncio.run(connected(work))


async def connected(work: Callable[[KubernetesApi], Awaitable[Any]]) -> Any:
    async with await KubernetesApi.connect() as kubernetes:
        return await work(kubernetes)


@pytest.fixture(autouse=True)
def _account(control_plane: ControlPlane, installed: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    kubeconfig = control_plane.service_account_kubeconfig(NARROW, RELEASE)
    monkeypatch.setattr("kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig))


def settled(team: Team) -> list[dict[str, Any]]:
    """The crew's Deployments, once their controller knows their sizes."""

    def found() -> list[dict[str, Any]]:
        seen = team.deployments()
        is_settled = all(
            one["status"].get("observedGeneration") == one["metadata"]["generation"]
            and one["status"].get("replicas", 0) == one["spec"]["replicas"]
            for one in seen
        )
        return seen if is_settled else []

    return machine.until(found, within=SOON, what="the Deployments are settled")


def test_a_deployment_that_another_has_made_meanwhile_is_not_made_anew(team: Team) -> None:
    team.apply(crew(scaling={"mode": "External"}, replicas=1))
    late = OldLeader(team, "worker:1")  # it has seen no Deployment
    OldLeader(team, "worker:1").act()
    (made,) = settled(team)
    team.kubectl("scale", "deployment", made["metadata"]["name"], "--replicas=3")  # the new leader has work for three
    with pytest.raises(Outdated):
        late.act()
    (left,) = settled(team)
    assert (left["metadata"]["uid"], left["spec"]["replicas"]) == (made["metadata"]["uid"], 3)


def test_an_old_revision_that_a_template_which_came_back_has_scaled_up_is_not_deleted(team: Team) -> None:
    team.apply(crew(scaling={"mode": "External"}, replicas=1))
    before, after = OldLeader(team, "worker:1"), OldLeader(team, "worker:2")
    before.act()
    (first,) = settled(team)
    team.kubectl("scale", "deployment", first["metadata"]["name"], "--replicas=0")
    settled(team)
    after.look()  # it is to be deleted: its revision is an old one, and it has no pods

    team.kubectl("scale", "deployment", first["metadata"]["name"], "--replicas=2")  # the new leader takes it up again
    with pytest.raises(StaleObject):
        after.act()
    sizes = {one["metadata"]["uid"]: one["spec"]["replicas"] for one in settled(team)}
    assert sizes[first["metadata"]["uid"]] == 2
    after.look()
    assert not after.act().deletes, "it has looked again"

    team.kubectl("scale", "deployment", first["metadata"]["name"], "--replicas=0")
    settled(team)

    def deleted() -> bool:
        """The Deployment's controller may have more to say of it after a look."""
        after.look()
        after.act()
        left = [one["metadata"]["uid"] for one in team.deployments()]
        return len(left) == 1 and first["metadata"]["uid"] not in left

    machine.until(deleted, within=SOON, what="the old revision is deleted", ignoring=(StaleObject,))
