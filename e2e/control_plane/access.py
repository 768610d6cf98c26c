"""Rights at the API server, which knows of roles and bindings some time after it has taken them: a test that asks for
what they allow waits for that here."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from typing import Any

from e2e.cluster import machine
from e2e.cluster.control_plane import ControlPlane
from e2e.control_plane.crds_server import Server

SECONDS = 120.0


def until_allowed(
    plane: ControlPlane, account: str, namespace: str, group: str, resource: str, verb: str, *, allowed: bool = True
) -> None:
    """Waits until the account has this right in the namespace, or until it has it no longer."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": account,
            "resourceAttributes": {"namespace": namespace, "group": group, "resource": resource, "verb": verb},
        },
    }
    with contextlib.closing(Server(plane)) as server:

        def holds() -> bool:
            answer = server.send("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
            return bool(answer.body["status"]["allowed"]) is allowed

        machine.until(holds, within=SECONDS, what=f"{account} may {verb} {resource} in {namespace}: {allowed}")


def until_known(plane: ControlPlane, namespace: str) -> None:
    """Waits until the API server knows all roles and bindings that it has taken before, cluster-wide ones included: it
    learns of those of a kind in their order, so it is enough that it knows one more of each."""
    name = f"e2e-{secrets.token_hex(4)}"
    made = list(_probes(name, namespace))
    plane.kubectl.apply(*made)
    try:
        for kind in ("Role", "ClusterRole"):
            until_allowed(plane, name, namespace, "e2e.watchbill.dev", kind.lower(), "get")
    finally:
        plane.kubectl("delete", "rolebinding,role", name, f"--namespace={namespace}")
        plane.kubectl("delete", "clusterrolebinding,clusterrole", name)


def _probes(name: str, namespace: str) -> Iterator[dict[str, Any]]:
    """A right of a user that nobody is, to get something that nobody has, by each kind of role."""
    version, group = "rbac.authorization.k8s.io/v1", "rbac.authorization.k8s.io"
    subjects = [{"kind": "User", "name": name, "apiGroup": group}]
    for kind, metadata in (("Role", {"name": name, "namespace": namespace}), ("ClusterRole", {"name": name})):
        rules = [{"apiGroups": ["e2e.watchbill.dev"], "resources": [kind.lower()], "verbs": ["get"]}]
        role = {"kind": kind, "name": name, "apiGroup": group}
        yield {"apiVersion": version, "kind": kind, "metadata": metadata, "rules": rules}
        binding = {"apiVersion": version, "kind": f"{kind}Binding", "metadata": metadata}
        yield {**binding, "roleRef": role, "subjects": subjects}
