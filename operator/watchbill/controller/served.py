"""Compares the kinds that the API server serves with those that this program knows.

Older CRDs lack fields that this program writes: its statuses would be refused, and what a Crew says would be lost.
Newer ones have more, which does no harm, so that one can go back to an older operator.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from watchbill import cluster_names, crd
from watchbill.clock import Clock
from watchbill.errors import KubernetesForbids, NotFound, WatchbillError
from watchbill.kubernetes_api import KubernetesApi

logger = logging.getLogger("watchbill.operator")

LOOK_SECONDS: Final = 10.0
"""The pause between two questions whether the API server still serves what it did."""
_API = f"{cluster_names.API_GROUP}/{cluster_names.API_VERSION}"


async def schemas(api: KubernetesApi) -> dict[str, dict[str, Any]]:
    """Returns kind → schema of our kinds as the API server describes them, which everyone may read."""
    try:
        described = (await api.read(f"/openapi/v3/apis/{_API}"))["components"]["schemas"]
    except NotFound:
        return {}
    return {kind: schema for schema in described.values() if (kind := _kind(schema))}


def fields(schema: dict[str, Any]) -> set[str]:
    """Returns the paths of all fields of spec and status, as in `spec.agents[].name`."""
    parts = {part: schema["properties"].get(part, {}) for part in ("spec", "status")}
    return crd.field_paths({"properties": parts})


async def until_lacking(api: KubernetesApi, clock: Clock) -> None:
    """Returns once the API server serves kinds that lack fields that this program knows, as after a rollback of the
    CRDs. The description is read only when its hash has changed, which the API server keeps in an index. Of several API
    servers, another one may give the description than the index: the hash is known once two looks in a row had it."""
    known = before = ""
    while True:
        try:
            paths = (await api.read("/openapi/v3"))["paths"]
            now = str(paths.get(f"apis/{_API}", {}).get("serverRelativeURL", ""))
            if now != known and await lacking(api):
                return
            known, before = (now if now == before else known), now
        except WatchbillError as error:
            logger.debug("the CRDs can't be looked at: %s", error)
        await clock.sleep(LOOK_SECONDS)


async def lacking(api: KubernetesApi) -> list[str]:
    """Returns the fields that this program knows and the API server doesn't, as in `Crew spec.suspend`; nothing where
    it doesn't say what it serves."""
    try:
        served = await schemas(api)
    except KubernetesForbids:
        return []
    found = []
    for definition in crd.definitions():
        kind, version = definition["spec"]["names"]["kind"], definition["spec"]["versions"][0]
        if kind in served:
            missing = fields(version["schema"]["openAPIV3Schema"]) - fields(served[kind])
            found += [f"{kind} {path}" for path in sorted(missing)]
    return found


def _kind(schema: dict[str, Any]) -> str:
    for kind in schema.get("x-kubernetes-group-version-kind", ()):
        if kind["group"] == cluster_names.API_GROUP and not kind["kind"].endswith("List"):
            return str(kind["kind"])
    return ""
