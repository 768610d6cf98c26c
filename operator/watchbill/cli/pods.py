"""Asks a Kubernetes cluster why no worker of a crew runs. Only reads, with the caller's own rights."""

from __future__ import annotations

import asyncio
from typing import Final

from watchbill import cluster_names
from watchbill.errors import NotFound, UserActionRequired, WatchbillError
from watchbill.kubernetes_api import KubernetesApi
from watchbill.plan import pods

SECONDS: Final = 4.0
"""A cluster that needs longer than this to answer is not waited for."""


async def of_crew(namespace: str, name: str) -> tuple[str, ...]:
    """Returns what keeps workers of the crew from running, one sentence each, or why that can't be told."""
    selector = f"{cluster_names.WORKER_SELECTOR},{cluster_names.LABEL_CREW}={name}"
    try:
        async with asyncio.timeout(SECONDS), await KubernetesApi.connect() as api:
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
