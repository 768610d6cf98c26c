"""Explains why no worker pod of a crew runs, from its Crew, Deployments and pods, in Kubernetes' own words. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from watchbill import cluster_names
from watchbill.plan.children import project

Object = Mapping[str, Any]

MOST: Final = 5
"""Sentences, at most."""
_USUAL: Final = frozenset({"ContainerCreating", "PodInitializing"})
"""Reasons of a container that waits for nothing unusual."""


def explain(crew: Object, deployments: Sequence[Object], pods: Sequence[Object]) -> tuple[str, ...]:
    """Returns what keeps workers from running, one sentence each, the most frequent first."""
    children = [project(one) for one in deployments]
    wanted = sum(child.replicas for child in children)
    told = list(_conditions(crew))
    said = Counter(text for pod in pods for text in _pod(pod))
    said.update(f"Deployment {child.name}: {child.trouble}" for child in children if child.trouble and child.replicas)
    told += [f"{count} times: {text}" if count > 1 else text for text, count in said.most_common()]
    if told:
        return tuple(told[:MOST])
    if not children:
        return ("the operator has made no Deployment yet; is it running?",)
    if not wanted:
        return ("the operator wants no worker now",)
    ready = sum(child.ready for child in children)
    if ready:
        return (f"{ready} of {wanted} worker pods are ready, and have not come to the store yet",)
    return (f"{wanted} worker pods are wanted, and none is ready yet; {len(pods)} have been made",)


def _conditions(crew: Object) -> Iterator[str]:
    """The Crew's own condition, where it says that somebody must act."""
    for condition in (crew.get("status") or {}).get("conditions") or []:
        if condition["type"] == "Stalled" and condition["status"] == "True":
            yield f"crew {_named(crew)} is stalled ({condition['reason']}): {condition['message']}"


def _pod(pod: Object) -> Iterator[str]:
    status = pod.get("status") or {}
    if pod["metadata"].get("deletionTimestamp"):
        yield "a pod is being deleted"
        return
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            yield f"a pod can't be scheduled ({condition.get('reason') or 'unknown'}): {condition.get('message') or ''}"
            return
    if status.get("phase") == "Failed":
        yield f"a pod has failed ({status.get('reason') or 'unknown'}): {status.get('message') or ''}"
        return
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        yield from _container(container)


def _container(container: Object) -> Iterator[str]:
    waiting = (container.get("state") or {}).get("waiting") or {}
    reason = waiting.get("reason")
    if not reason or reason in _USUAL:
        return
    of = f"container {container['name']}"
    if ended := (container.get("lastState") or {}).get("terminated"):
        why = f"its last start ended as {ended.get('reason') or 'unknown'} with exit code {ended.get('exitCode')}"
        if ended.get("message"):
            why += f": {ended['message'].strip()}"
        if container["name"] == cluster_names.WORKER_CONTAINER:
            why += "; its log says more (kubectl logs --previous)"
        yield f"{of} doesn't stay up ({reason}): {why}"
    else:
        yield f"{of} doesn't start ({reason}): {waiting.get('message') or container.get('image') or ''}"


def _named(crew: Object) -> str:
    return f"{crew['metadata']['namespace']}/{crew['metadata']['name']}"
