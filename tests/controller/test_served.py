"""Whether the API server still serves all that the operator knows."""

from __future__ import annotations

import asyncio
import copy
from typing import Any, cast

import pytest

from waiting import until
from watchbill import crd
from watchbill.controller import served
from watchbill.kubernetes_api import KubernetesApi
from watchbill.testing import FakeClock

pytestmark = pytest.mark.pure

PATH = "apis/watchbill.dev/v1alpha1"


def described(*, lacks: str = "") -> dict[str, Any]:
    """How an API server describes our kinds, without a field of the spec of Crew."""
    found = {}
    for definition in crd.definitions():
        kind = definition["spec"]["names"]["kind"]
        schema = copy.deepcopy(definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
        if lacks and kind == "Crew":
            del schema["properties"]["spec"]["properties"][lacks]
        found[kind] = schema | {"x-kubernetes-group-version-kind": [{"group": "watchbill.dev", "kind": kind}]}
    return {"components": {"schemas": found}}


class Servers:
    """Several API servers at one address: any of them answers."""

    def __init__(self, looks: list[tuple[str, dict[str, Any] | None]]) -> None:
        """`looks`: the hash of one server, and the description of that server or of another; None: nobody asks."""
        self.looks = looks
        self._described: dict[str, Any] | None = None

    async def read(self, path: str) -> dict[str, Any]:
        if path == "/openapi/v3":
            digest, self._described = self.looks.pop(0)
            return {"paths": {PATH: {"serverRelativeURL": f"/openapi/v3/{PATH}?hash={digest}"}}}
        assert self._described is not None, "this hash is known"
        return self._described


async def test_a_hash_is_known_only_when_two_looks_in_a_row_had_it() -> None:
    new, old = described(), described(lacks="suspend")
    clock, api = FakeClock(), Servers([("1", new), ("1", new), ("1", None), ("2", new), ("2", old)])
    looking = asyncio.create_task(served.until_lacking(cast(KubernetesApi, api), clock))
    for _ in range(4):
        await until(lambda: looking.done() or clock.sleepers == [served.LOOK_SECONDS])
        clock.advance(served.LOOK_SECONDS)
    async with asyncio.timeout(180):
        await looking
    assert not api.looks


async def test_a_hash_that_is_another_at_each_look_is_never_known() -> None:
    new = described()
    looks = [("1", new), ("2", new), ("1", new), ("2", new), ("1", new), ("2", described(lacks="suspend"))]
    clock, api = FakeClock(), Servers([*looks])
    looking = asyncio.create_task(served.until_lacking(cast(KubernetesApi, api), clock))
    for _ in looks[1:]:
        await until(lambda: looking.done() or clock.sleepers == [served.LOOK_SECONDS])
        clock.advance(served.LOOK_SECONDS)
    async with asyncio.timeout(180):
        await looking
    assert not api.looks
