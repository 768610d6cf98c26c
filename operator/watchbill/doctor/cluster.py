"""Examines the cluster: CRDs, rights, clock, leader, quotas, and what the API server says of each crew. Writes nothing.

Who may not read something is told so by a finding that was skipped. The rights are examined of a ServiceAccount only:
a person's own are nothing that the operator needs.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from watchbill import cluster_names, crd
from watchbill.controller import served
from watchbill.doctor import quotas, rights
from watchbill.doctor.findings import (
    Finding,
    Severity,
    crd_version,
    crew_findings,
    describe,
    overlaps,
    skew,
    used_up,
)
from watchbill.errors import KubernetesForbids, KubernetesUnavailable, UserActionRequired
from watchbill.kubernetes_api import KubernetesApi, Object
from watchbill.plan.quotas import Hard

_API: Final = f"{cluster_names.API_GROUP}/{cluster_names.API_VERSION}"
_ACCOUNT: Final = "system:serviceaccount:"
TRIES: Final = 60
TRY_SECONDS: Final = 1.0
_IMAGE_TROUBLE: Final = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")


@dataclass(slots=True)
class Cluster:
    """The findings, and the crews of the watched namespaces; None where these couldn't be listed."""

    findings: list[Finding] = field(default_factory=list)
    crews: list[str] | None = None
    """Each as `namespace/name`."""

    def add(self, check: str, severity: Severity, message: str, fix: str = "") -> None:
        self.findings.append(Finding(check, severity, message, fix))


async def examine(
    namespaces: Sequence[str],
    *,
    asked: bool,
    worker_image: str = "",
    lease: str = "",
    user_per_crew: bool = False,
    hard: Callable[[str], Hard] = lambda _: Hard(),
) -> Cluster:
    """`namespaces`: the watched ones; empty: all. `asked`: a cluster without Watchbill is an error. `worker_image`: of
    crews that name none. `lease`: that of the operator's replicas, as `namespace/name`. `user_per_crew`: the operator
    makes a user of the store for each crew. `hard(namespace)`: the operator's own quotas. Raises nothing."""
    found = Cluster()
    lacking = Severity.ERROR if asked else Severity.SKIPPED
    try:
        async with await KubernetesApi.connect() as api:
            here = time.time  # noqa: TID251 - compared with the API server's
            before = here()
            who = await api.review({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"})
            now = datetime.fromisoformat(who["metadata"]["creationTimestamp"])
            # It counts whole seconds.
            found.findings.append(skew("clock", "the API server", now.timestamp(), before, here(), uncertain=1.0))
            if not await _crds(api, found, lacking):
                return found
            account = str(who["status"]["userInfo"].get("username", ""))
            wanted = (*rights.IN_NAMESPACES, *(rights.FOR_USERS if user_per_crew else ()))
            await _rights(api, found, account, [(one, name) for name in namespaces or [""] for one in wanted], lease)
            await _leader(api, found, lease, now)
            crews = await _listed(api, found, "crews", f"/apis/{_API}", namespaces)
            if crews is not None:
                found.findings += crew_findings(crews, worker_image, now) + quotas.findings(crews, hard)
                found.crews = sorted(f"{c['metadata']['namespace']}/{c['metadata']['name']}" for c in crews)
            await _overlaps(api, found)
            await _pods(api, found, namespaces)
            await _quotas(api, found, namespaces)
    except UserActionRequired as error:
        found.add("cluster", lacking, f"no cluster is examined: {error}".rstrip("."), "kubectl config get-contexts")
    except KubernetesUnavailable as error:
        severity = Severity.ERROR if asked else Severity.WARNING
        found.add("cluster", severity, str(error), "kubectl get --raw /readyz")
    return found


async def _crds(api: KubernetesApi, found: Cluster, lacking: Severity) -> bool:
    """Returns whether they are installed. Their fields are compared by what everyone may read."""
    by_kind = await served.schemas(api)
    known = {d["spec"]["names"]["kind"]: d["spec"] for d in crd.definitions()}
    if missing := [kind for kind in known if kind not in by_kind]:
        install = "helm install watchbill charts/watchbill --namespace watchbill --create-namespace"
        if len(missing) < len(known):
            lacking, install = Severity.ERROR, "watchbill crds | kubectl apply --server-side -f -"
        found.add("crds", lacking, f"the cluster has no CRD of {' and '.join(missing)}", install)
        return False
    for kind, spec in known.items():
        wanted = served.fields(spec["versions"][0]["schema"]["openAPIV3Schema"])
        found.findings.append(crd_version(kind, served.fields(by_kind[kind]), wanted))
    return True


async def _rights(
    api: KubernetesApi, found: Cluster, account: str, inside: Sequence[tuple[rights.Right, str]], lease: str
) -> None:
    """`inside`: rights in namespaces."""
    if not account.startswith(_ACCOUNT):
        fix = "kubectl exec -n watchbill deploy/watchbill -- watchbill doctor"
        found.add("rbac", Severity.SKIPPED, "the operator's rights are examined in its own pod", fix)
        return
    wanted = [*inside, *((right, "") for right in rights.IN_CLUSTER)]
    if lease:
        namespace, _, name = lease.partition("/")
        wanted += [(right, namespace) for right in rights.on_lease(name)]
    allowed = await asyncio.gather(*(_may(api, right, namespace) for right, namespace in wanted))
    lacking = [right for right, may in zip(wanted, allowed, strict=True) if not may]
    who = account.removeprefix(_ACCOUNT).replace(":", "/")
    if refused := _listed_rights(one for one in lacking if one[0] not in rights.OPTIONAL):
        fix = "helm upgrade watchbill charts/watchbill --reuse-values   # or: kubectl auth can-i --list --as=" + account
        found.add("rbac", Severity.ERROR, f"ServiceAccount {who} may not {refused}", fix)
    if kept := _listed_rights(one for one in lacking if one[0] in rights.OPTIONAL):
        message = f"ServiceAccount {who} may not {kept}, so what changes there replaces no workers"
        values = "rbac.readSecrets=true,rbac.readConfigMaps=true"
        fix = f"helm upgrade watchbill charts/watchbill --reuse-values --set {values}"
        found.add("rbac", Severity.WARNING, message, fix)
    if not lacking:
        found.add("rbac", Severity.OK, f"ServiceAccount {who} has the {len(wanted)} rights that the operator needs")


def _listed_rights(lacking: Iterable[tuple[rights.Right, str]]) -> str:
    return ", ".join(f"{right}{f' in {namespace}' if namespace else ''}" for right, namespace in lacking)


async def _may(api: KubernetesApi, right: rights.Right, namespace: str) -> bool:
    resource, _, subresource = right.resource.partition("/")
    attributes = {
        "group": right.group,
        "resource": resource,
        "subresource": subresource,
        "verb": right.verb,
        "name": right.name,
        "namespace": namespace,
    }
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    return bool((await api.review(body))["status"]["allowed"])


async def _leader(api: KubernetesApi, found: Cluster, lease: str, now: datetime) -> None:
    if not lease:
        return
    namespace, _, name = lease.partition("/")
    fix = f"kubectl logs -n {namespace} -l app.kubernetes.io/component=operator --tail=50"
    try:
        seen = await api.lease(namespace, name)
    except KubernetesForbids as error:
        found.add("leader", Severity.SKIPPED, f"the Lease {lease} can't be read: {error}")
        return
    if seen is None:
        found.add("leader", Severity.ERROR, f"there is no Lease {lease}: no operator has ever led", fix)
        return
    spec = seen.get("spec") or {}
    holder, renewed = spec.get("holderIdentity"), spec.get("renewTime")
    lasts = float(spec.get("leaseDurationSeconds") or 0)
    age = (now - datetime.fromisoformat(renewed)).total_seconds() if renewed else float("inf")
    if not holder:
        found.add("leader", Severity.ERROR, f"nobody holds the Lease {lease}", fix)
    elif age > lasts + 1:
        message = f"the leader {holder} has not renewed the Lease {lease} for {age:.0f} s, and it lasts {lasts:.0f} s"
        found.add("leader", Severity.ERROR, message, fix)
    else:
        found.add("leader", Severity.OK, f"{holder} leads")


async def _patiently(read: Callable[[], Awaitable[Object]]) -> Object:
    """Tries again for a minute: the API server has no answer (429) until a new CRD's storage is ready."""
    for _ in range(TRIES - 1):
        try:
            return await read()
        except KubernetesUnavailable:
            await asyncio.sleep(TRY_SECONDS)
    return await read()


async def _listed(
    api: KubernetesApi, found: Cluster, plural: str, base: str, namespaces: Sequence[str], selector: str = ""
) -> list[Object] | None:
    """All objects of a kind in the watched namespaces; None where that is forbidden, which becomes a finding."""
    objects: list[Object] = []
    for path in [f"{base}/namespaces/{name}/{plural}" for name in namespaces] or [f"{base}/{plural}"]:
        try:
            objects += (await _patiently(functools.partial(api.read, path, selector=selector))).get("items") or []
        except KubernetesForbids:
            found.add(plural, Severity.SKIPPED, f"this user may not list {plural}")
            return None
    return objects


async def _overlaps(api: KubernetesApi, found: Cluster) -> None:
    selector = f"{cluster_names.LABEL_NAME}=watchbill,{cluster_names.LABEL_COMPONENT}=operator"
    try:
        operators = await api.read("/apis/apps/v1/deployments", selector=selector)
    except KubernetesForbids:
        found.add("overlap", Severity.SKIPPED, "this user may not list the operators of all namespaces")
        return
    found.findings += overlaps(operators.get("items") or []) or [
        Finding("overlap", Severity.OK, "no two operators watch the same namespace")
    ]


async def _pods(api: KubernetesApi, found: Cluster, namespaces: Sequence[str]) -> None:
    pods = await _listed(api, found, "pods", "/api/v1", namespaces, cluster_names.LABEL_CREW)
    for pod in pods or ():
        for container in (pod.get("status") or {}).get("containerStatuses") or ():
            waiting = (container.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") in _IMAGE_TROUBLE:
                crew = f"{pod['metadata']['namespace']}/{pod['metadata']['labels'][cluster_names.LABEL_CREW]}"
                said = f"{waiting['reason']}: {waiting.get('message', '')}".rstrip(": .")
                message = f"a worker of crew {crew} has no image {container['image']} ({said})"
                found.add("image", Severity.ERROR, message, describe("pod", pod["metadata"]))


async def _quotas(api: KubernetesApi, found: Cluster, namespaces: Sequence[str]) -> None:
    quotas = await _listed(api, found, "resourcequotas", "/api/v1", namespaces)
    with_crews = {crew.partition("/")[0] for crew in found.crews or ()}
    bad = False
    for quota in quotas or ():
        metadata = quota["metadata"]
        if metadata["namespace"] in with_crews and (spent := used_up(quota)):
            bad = True
            message = f"quota {metadata['namespace']}/{metadata['name']} has nothing left of {', '.join(spent)}"
            found.add("quotas", Severity.WARNING, message, describe("quota", metadata))
    if quotas is not None and not bad:
        found.add("quotas", Severity.OK, "no ResourceQuota in a namespace of crews is used up")
