"""The rights that the operator has by the chart, and no others: a test compares them with what an install grants."""

from __future__ import annotations

from typing import Final, NamedTuple


class Right(NamedTuple):
    """One verb on one resource."""

    group: str
    resource: str
    """With a subresource (`crews/status`)."""
    verb: str
    name: str = ""
    """Only on the object of this name."""

    def __str__(self) -> str:
        group = f".{self.group}" if self.group else ""
        resource, _, sub = self.resource.partition("/")
        return f"{self.verb} {resource}{group}{f'/{sub}' if sub else ''}{f' {self.name}' if self.name else ''}"


_GROUP: Final = "watchbill.dev"

IN_NAMESPACES: Final = (
    *(Right(_GROUP, kind, verb) for kind in ("crews", "heartbeats") for verb in ("list", "watch")),
    Right(_GROUP, "crews", "get"),
    *(Right(_GROUP, f"{kind}/status", "patch") for kind in ("crews", "heartbeats")),
    Right(_GROUP, "crews/finalizers", "update"),
    *(Right("events.k8s.io", "events", verb) for verb in ("create", "patch")),
    *(Right("apps", "deployments", verb) for verb in ("get", "list", "watch", "create", "patch", "delete")),
    *(Right("", "serviceaccounts", verb) for verb in ("get", "create", "patch")),
    Right("", "secrets", "get"),
    Right("", "configmaps", "get"),
)
"""In each watched namespace."""

OPTIONAL: Final = frozenset({Right("", "secrets", "get"), Right("", "configmaps", "get")})
"""Rights that a value of the chart takes away (rbac.readSecrets, rbac.readConfigMaps)."""
FOR_USERS: Final = (Right("", "secrets", "create"), Right("", "secrets", "patch"))
"""In each watched namespace, where each crew gets a user of its own in the store."""

IN_CLUSTER: Final = (Right("", "namespaces", "get", "kube-system"),)


def on_lease(name: str) -> tuple[Right, ...]:
    """In the operator's own namespace, for the Lease by which its replicas choose a leader."""
    group, leases = "coordination.k8s.io", "leases"
    return (Right(group, leases, "create"), *(Right(group, leases, verb, name) for verb in ("get", "update")))
