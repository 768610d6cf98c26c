"""Asks a Kubernetes cluster why no worker of a crew runs. Only reads, with the caller's own rights."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from watchbill import cluster_names
from watchbill.clock import Patience
from watchbill.errors import NotFound, UserActionRequired, WatchbillError
from watchbill.kubernetes_api import KubernetesApi
from watchbill.plan import paused as crew_paused
from watchbill.plan import pods

SECONDS: Final = 4.0
"""A cluster that needs longer than this to answer is not waited for."""


async def of_crew(namespace: str, name: str) -> tuple[str, ...]:
    """Returns what keeps workers of the crew from running, one sentence each, or why that can't be told."""
    selector = f"{cluster_names.WORKER_SELECTOR},{cluster_names.LABEL_CREW}={name}"
    try:
        async with Patience(SECONDS), await KubernetesApi.connect() as api:
            crew = await api.get("crews", namespace, name)
            if crew is None:
                return (f"the cluster of the current kubeconfig has no crew {namespace}/{name}",)
            deployments = await api.list("deployments", namespace, selector=selector)
            found = await api.list("pods", namespace, selector=selector)
    except UserActionRequired:
        return ()  # no cluster is at hand
    except NotFound:
        return ("the cluster of the current kubeconfig has no crews: Watchbill's CRDs are not installed there",)
    except (WatchbillError, TimeoutError) as error:
        return (f"the cluster can't be asked: {error or 'it does not answer'}",)
    return pods.explain(crew, deployments.objects, found.objects)


async def paused(crews: Collection[str]) -> list[str]:
    """Returns a sentence about each of these crews (`namespace/name`) that an annotation keeps the operator from
    managing, as far as a cluster is at hand and can be asked."""
    try:
        async with Patience(SECONDS), await KubernetesApi.connect() as api:
            if len(crews) == 1:
                found = [await api.get("crews", *crew.split("/", 1)) for crew in crews]
            else:
                spaces = sorted({crew.partition("/")[0] for crew in crews})
                found = [one for space in spaces for one in (await api.list("crews", space)).objects]
    except (WatchbillError, TimeoutError):
        return []
    named = (one for one in found if one and f"{one['metadata']['namespace']}/{one['metadata']['name']}" in crews)
    return [sentence for one in named if (sentence := crew_paused.told(one))]
