"""The part of a worker Deployment that plans depend on. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from watchbill import cluster_names

Object = dict[str, Any]

ANNOTATION_TEMPLATE: Final = f"{cluster_names.API_GROUP}/template"
"""Annotation of a Deployment: the hash of its pods' template."""
ANNOTATION_CONFIG: Final = f"{cluster_names.API_GROUP}/config"
"""Annotation of a Deployment: the Secrets and ConfigMaps that its pods were made with, and the state of each, as
JSON."""

_POD_NAME: Final = re.compile(r'^pods "[^"]*"')


@dataclass(frozen=True, slots=True)
class Child:
    """A worker Deployment, as small as it can be kept. Two are equal if no plan can tell them apart."""

    name: str
    uid: str
    resource_version: str = field(compare=False)
    revision: str
    owner: str
    """The uid of the crew whose it is; empty where none is named."""
    created: str
    replicas: int
    ready: int
    trouble: str
    """The reason why its pods can't be made, or don't become ready, as its controller says; empty where it says
    none."""
    unavailable_since: datetime | None
    """Since when it has too few ready workers; None: it has enough, or that is not known."""
    content: str
    """Labels, annotations of ours, owners and spec as JSON, for comparison."""
    there: int | None = 0
    """The number of its pods; None while its status is of an earlier spec."""
    template: str = ""
    """The hash of its template; empty where the Deployment does not say it."""
    config: str = ""
    """The states of the Secrets and ConfigMaps that its pods were made with, as JSON; empty where it does not say."""

    @property
    def is_idle(self) -> bool:
        """It has no pods."""
        return self.replicas == 0 and self.there == 0


def project(deployment: Mapping[str, Any]) -> Child:
    """The part of a Deployment that plans depend on."""
    metadata, spec, status = deployment["metadata"], deployment.get("spec", {}), deployment.get("status", {})
    conditions = {c["type"]: c for c in status.get("conditions") or []}
    generation, replicas = metadata.get("generation") or 0, spec.get("replicas", 1)
    never_had_pods = generation == 1 and not replicas  # so nothing has to wait for its controller
    is_current = never_had_pods or (status.get("observedGeneration") or 0) >= generation
    return Child(
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        revision=_revision(spec),
        owner=next((o["uid"] for o in metadata.get("ownerReferences") or [] if o.get("controller")), ""),
        created=metadata.get("creationTimestamp") or "",
        replicas=replicas,
        ready=status.get("readyReplicas") or 0,
        trouble=_message_if(conditions.get("ReplicaFailure"), "True")
        or _message_if(conditions.get("Progressing"), "False"),
        unavailable_since=_since(conditions.get("Available")),
        content=json.dumps(compared(deployment)),
        there=(status.get("replicas") or 0) if is_current else None,
        template=_ours(metadata).get(ANNOTATION_TEMPLATE, ""),
        config=_ours(metadata).get(ANNOTATION_CONFIG, ""),
    )


def compared(deployment: Mapping[str, Any]) -> Object:
    """The part of a Deployment that is compared with the desired one."""
    metadata = deployment["metadata"]
    return {
        "labels": metadata.get("labels", {}),
        "annotations": _ours(metadata),
        "ownerReferences": metadata.get("ownerReferences", []),
        "spec": deployment.get("spec", {}),
    }


def _ours(metadata: Mapping[str, Any]) -> dict[str, str]:
    annotations = metadata.get("annotations") or {}
    return {k: annotations[k] for k in (ANNOTATION_TEMPLATE, ANNOTATION_CONFIG) if k in annotations}


def _revision(spec: Mapping[str, Any]) -> str:
    """Returns the revision of the pods that a Deployment selects. Nobody can change that, unlike its own label."""
    return str(spec.get("selector", {}).get("matchLabels", {}).get(cluster_names.LABEL_REVISION, ""))


def _message_if(condition: Mapping[str, Any] | None, status: str) -> str:
    if condition is None or condition["status"] != status:
        return ""
    # Each attempt is a pod of another name, and would be another message.
    return _POD_NAME.sub("pods", condition.get("message") or condition.get("reason") or "unknown")


def _since(available: Mapping[str, Any] | None) -> datetime | None:
    if available is None or available["status"] != "False" or not available.get("lastTransitionTime"):
        return None
    return datetime.fromisoformat(available["lastTransitionTime"]).astimezone(UTC)
