"""Talks to the Kubernetes API: no other module does. Objects go in and come out as plain dicts.

Not the models of the kubernetes package, because: plain dicts keep fields that a model doesn't know, and a server-side
apply sends exactly what is meant.

Writes are server-side applies under one field manager, each the full intent: a field left out is a field removed. A
`resourceVersion` in the body fences the write (409 when the object has changed since it was seen). What was not seen is
written with a version that no object has: that creates, and changes nothing that somebody else has made meanwhile.

When the API server asks for a pause (429, or 503 with Retry-After), no request of ours is sent before its end. Requests
for Leases are an exception: a leader that waited would lose its Lease, and they are few.

Credentials are read anew when the API server doesn't accept them any longer: tokens of pods are short-lived.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal

import aiohttp

from watchbill import cluster_names, metrics
from watchbill.clock import SYSTEM, Clock, Patience
from watchbill.errors import (
    Conflict,
    KubernetesForbids,
    KubernetesRefuses,
    KubernetesUnavailable,
    ListingExpired,
    NotFound,
    UserActionRequired,
    needed,
)
from watchbill.kubernetes_credentials import configuration

with needed("The operator", "operator"):
    from kubernetes.aio import client, config
    from kubernetes.aio.client.exceptions import ApiException

REQUEST_TIMEOUT_SECONDS: Final = 10.0
WRITE_TIMEOUT_SECONDS: Final = 5.0
"""A leader's write must end before another replica may lead: a third of the Lease's 15 seconds."""
_APPLY: Final = "application/apply-patch+yaml; charset=utf-8"  # the kubernetes package writes the bare type as JSON
UNSEEN: Final = "1"
"""The version that an object has which is to be made: etcd gives it to none."""
PAGE: Final = 100
"""Objects of one page of a listing. To parse a page of Deployments of this size takes 10 ms, in which nothing else goes
on."""
BUSY_SECONDS: Final = 1.0
"""The pause where the API server is busy and names none."""
BUSY_MOST_SECONDS: Final = 30.0
BUSY_TRIES: Final = 10
"""Number of times that a request is sent to an API server that is busy."""

Kind = Literal["crews", "heartbeats", "deployments", "serviceaccounts", "secrets", "pods"]

_EVENTS: Final = "/apis/events.k8s.io/v1/namespaces/{}/events"
_LEASES: Final = "/apis/coordination.k8s.io/v1/namespaces/{}/leases"
_BASE: Final[dict[Kind, str]] = {
    "crews": f"/apis/{cluster_names.API_GROUP}/{cluster_names.API_VERSION}",
    "heartbeats": f"/apis/{cluster_names.API_GROUP}/{cluster_names.API_VERSION}",
    "deployments": "/apis/apps/v1",
    "serviceaccounts": "/api/v1",
    "secrets": "/api/v1",
    "pods": "/api/v1",
}

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Listing:
    """All objects of a kind, or a page of them, as of one moment."""

    objects: list[Object]
    version: int
    """The resourceVersion of that moment. Versions of one kind can be compared."""
    is_consistent: bool = True
    """False: some of the objects are as of a later moment."""


class KubernetesApi:
    """A connection to one API server; an async context manager."""

    def __init__(self, api: client.ApiClient, clock: Clock = SYSTEM) -> None:
        self._api = api
        self._clock = clock
        self._quiet_until = 0.0
        """The API server has asked for a pause until then, by the clock's `monotonic`."""
        self._replaced: client.ApiClient | None = None
        """The client with the replaced credentials. Its requests may still be under way."""
        self._renewing = asyncio.Lock()
        self.seconds_to_write: Callable[[], float] | None = None
        """Called before each write but those of Leases. Returns how long it may take; raises to forbid it."""

    @classmethod
    async def connect(cls, clock: Clock = SYSTEM) -> KubernetesApi:
        """Connects with the pod's ServiceAccount, or else as the kubeconfig says. Raises UserActionRequired without
        either."""
        try:
            return cls(client.ApiClient(configuration=await configuration()), clock)
        except (OSError, config.ConfigException) as error:
            raise UserActionRequired(
                f"this is no pod with a ServiceAccount, and no kubeconfig says which cluster is meant ({error}). "
                "Set KUBECONFIG"
            ) from error

    async def __aenter__(self) -> KubernetesApi:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for api in (self._api, self._replaced):
            if api is not None:
                await api.close()  # type: ignore[no-untyped-call]

    # ------------------------------------------------------------ reading

    async def list(self, kind: Kind, namespace: str | None, *, selector: str = "") -> Listing:
        """Lists all objects of the kind, as `pages` does."""
        pages = [page async for page in self.pages(kind, namespace, selector=selector)]
        return Listing([one for page in pages for one in page.objects], pages[-1].version, pages[-1].is_consistent)

    async def pages(self, kind: Kind, namespace: str | None, *, selector: str = "") -> AsyncIterator[Listing]:
        """Yields all objects of the kind, page by page, as of one moment.

        A listing that lasts longer than the API server keeps that moment (five minutes) goes on with what is left as of
        a later one: begun anew, it might never end. Whatever has changed since the moment that it tells, a watch tells.
        """
        token, version, is_consistent, is_refused = "", 0, True, False
        while True:
            query = {"limit": str(PAGE), "continue": token, "labelSelector": selector}
            try:
                page = await self._request("GET", self._path(kind, namespace), query)
            except ListingExpired as error:
                if not error.token or is_refused:
                    raise
                token, is_consistent, is_refused = error.token, False, True
                continue
            version, is_refused = version or int(page["metadata"]["resourceVersion"]), False
            yield Listing(page.get("items") or [], version, is_consistent)
            token = page["metadata"].get("continue") or ""
            if not token:
                return

    async def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """Returns the object; None where there is none."""
        try:
            return await self._request("GET", self._path(kind, namespace, name))
        except NotFound:
            return None

    async def metadata(self, plural: Literal["secrets", "configmaps"], namespace: str, name: str) -> Object | None:
        """Returns the metadata of a Secret or ConfigMap, never what it holds; None where there is none."""
        accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
        try:
            found = await self._request("GET", f"/api/v1/namespaces/{namespace}/{plural}/{name}", accept=accept)
        except NotFound:
            return None
        return dict(found["metadata"])

    async def uid(self) -> str:
        """Returns what tells this cluster from all others: the uid of its namespace kube-system."""
        found = await self._request("GET", "/api/v1/namespaces/kube-system")
        return str(found["metadata"]["uid"])

    async def is_established(self, plural: str) -> bool:
        """Returns whether the API server serves this kind of Watchbill's."""
        try:
            found = await self._request("GET", _BASE["crews"])  # discovery, which everyone may read
        except NotFound:
            return False
        return any(resource["name"] == plural for resource in found.get("resources", []))

    async def read(self, path: str, *, selector: str = "") -> Object:
        """Returns what the API server has at any path. Raises NotFound, KubernetesForbids."""
        return await self._request("GET", path, {"labelSelector": selector})

    async def review(self, question: Object) -> Object:
        """Returns the answer to a review, such as a SelfSubjectAccessReview, which the API server doesn't store."""
        return await self._request("POST", f"/apis/{question['apiVersion']}/{question['kind'].lower()}s", body=question)

    # ------------------------------------------------------------ writing

    async def apply(self, kind: Kind, manifest: Object) -> Object:
        """Applies the manifest on the server. Raises KubernetesRefuses; Conflict when its resourceVersion is old, or it
        has none and the object is there."""
        metadata = {"resourceVersion": UNSEEN, **manifest["metadata"]}
        query = {"fieldManager": cluster_names.FIELD_MANAGER, "force": "true", "fieldValidation": "Strict"}
        path = self._path(kind, metadata["namespace"], metadata["name"])
        body = _yaml({**manifest, "metadata": metadata})
        return await self._request("PATCH", path, query, body=body, content_type=_APPLY)

    async def create(self, kind: Kind, manifest: Object) -> Object:
        """Creates the object. Raises Conflict when there is one of that name, KubernetesRefuses."""
        query = {"fieldManager": cluster_names.FIELD_MANAGER, "fieldValidation": "Strict"}
        return await self._request("POST", self._path(kind, manifest["metadata"]["namespace"]), query, body=manifest)

    async def apply_status(self, kind: Kind, manifest: Object) -> Object:
        """Applies the full status of a Crew or Heartbeat. Raises KubernetesRefuses, NotFound."""
        metadata = manifest["metadata"]
        query = {"fieldManager": f"{cluster_names.FIELD_MANAGER}-status", "force": "true"}
        path = self._path(kind, metadata["namespace"], metadata["name"]) + "/status"
        return await self._request("PATCH", path, query, body=_yaml(manifest), content_type=_APPLY)

    async def merge(self, kind: Kind, namespace: str, name: str, fields: Object) -> Object:
        """Changes these fields of an object, as a person asks for it. Raises KubernetesRefuses, KubernetesForbids,
        NotFound."""
        query = {"fieldManager": f"{cluster_names.FIELD_MANAGER}-cli"}
        path = self._path(kind, namespace, name)
        return await self._request("PATCH", path, query, body=fields, content_type="application/merge-patch+json")

    async def scale(self, namespace: str, name: str, replicas: int, *, resource_version: str) -> Object:
        """Sets only the size of a Deployment whose manifest is no longer known. Raises KubernetesRefuses; Conflict when
        the version is old."""
        body = {"metadata": {"resourceVersion": resource_version}, "spec": {"replicas": replicas}}
        query = {"fieldManager": f"{cluster_names.FIELD_MANAGER}-scale"}
        path = self._path("deployments", namespace, name)
        return await self._request("PATCH", path, query, body=body, content_type="application/merge-patch+json")

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str, resource_version: str = "") -> None:
        """Deletes exactly this object, if it is still there; its children in the background. With a `resource_version`
        it raises Conflict when the object has changed since."""
        seen = {"uid": uid, **({"resourceVersion": resource_version} if resource_version else {})}
        body = {"preconditions": seen, "propagationPolicy": "Background"}
        try:
            await self._request("DELETE", self._path(kind, namespace, name), body=body)
        except NotFound:
            return
        except Conflict:
            if resource_version:
                raise

    async def create_event(self, event: Object) -> None:
        """Creates an Event of events.k8s.io."""
        await self._request("POST", _EVENTS.format(event["metadata"]["namespace"]), body=event)

    async def count_event(self, namespace: str, name: str, series: Object) -> None:
        """Writes how often the change that an Event tells of has come, and when last. Raises NotFound."""
        path = f"{_EVENTS.format(namespace)}/{name}"
        await self._request("PATCH", path, body={"series": series}, content_type="application/merge-patch+json")

    # ------------------------------------------------------------ leases

    async def lease(self, namespace: str, name: str, *, timeout: float | None = None) -> Object | None:
        """Returns the Lease; None where there is none. `timeout` is in seconds, for a replica that would lead."""
        try:
            return await self._request("GET", f"{_LEASES.format(namespace)}/{name}", timeout=timeout)
        except NotFound:
            return None

    async def write_lease(self, metadata: Object, spec: Object, *, timeout: float) -> Object:
        """Replaces the Lease whose metadata were read, or creates it if they have no resourceVersion. Raises Conflict
        when it has changed since, NotFound."""
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
        path = _LEASES.format(metadata["namespace"])
        if "resourceVersion" in metadata:
            return await self._request("PUT", f"{path}/{metadata['name']}", body=body, timeout=timeout)
        return await self._request("POST", path, body=body, timeout=timeout)

    # ------------------------------------------------------------ within

    @staticmethod
    def _path(kind: Kind, namespace: str | None, name: str = "") -> str:
        inside = f"/namespaces/{namespace}" if namespace else ""
        return f"{_BASE[kind]}{inside}/{kind}" + (f"/{name}" if name else "")

    async def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Object | bytes | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        timeout: float | None = None,
    ) -> Object:
        """A `timeout` in seconds, or the time that a write may take (`seconds_to_write`), ends whatever keeps us."""
        may_renew, is_lease = True, timeout is not None
        headers = {"Accept": accept, "Content-Type": content_type}
        for _ in range(BUSY_TRIES):
            while not is_lease and (pause := self._quiet_until - self._clock.monotonic()) > 0:
                await self._clock.sleep(pause)
            api = self._api
            limit = self._limit(method, timeout)
            began = self._clock.monotonic()
            try:
                async with limit:  # a connection's making included
                    status, data, busy = await self._send(api, method, path, query or {}, body, headers)
            except ApiException as error:
                status, data, busy = error.status or 0, error.body or error.reason or "", None
            except (OSError, TimeoutError, aiohttp.ClientError, config.ConfigException) as error:
                metrics.count_api_request(method, query)
                text = str(error) or type(error).__name__
                raise KubernetesUnavailable(f"the API server doesn't answer: {text}") from error
            metrics.count_api_request(method, query, status, self._clock.monotonic() - began)
            if status == 401 and may_renew:
                may_renew = False
                await self._renew(api)
            elif busy is not None and not is_lease:
                metrics.API_SERVER_BUSY.inc()
                self._quiet_until = max(self._quiet_until, self._clock.monotonic() + busy)
            elif 200 <= status < 300:
                return json.loads(data) if data else {}
            else:
                break
        raise _meaning(status, data, path)

    def _limit(self, method: str, timeout: float | None) -> asyncio.Timeout | Patience:
        if timeout is None and method != "GET" and self.seconds_to_write is not None:
            timeout = self.seconds_to_write()
        return Patience(REQUEST_TIMEOUT_SECONDS) if timeout is None else asyncio.timeout(timeout)

    @staticmethod
    async def _send(
        api: client.ApiClient,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Object | bytes | None,
        headers: Mapping[str, str],
    ) -> tuple[int, Any, float | None]:
        """Returns the status, the body, and for how many seconds the API server asks to be left alone."""
        serialize: Any = api.param_serialize
        call: Any = api.call_api
        request = await serialize(
            method=method,
            resource_path=path,
            query_params=[(key, value) for key, value in query.items() if value],
            header_params=dict(headers),
            body=body,
            auth_settings=["BearerToken"],
        )
        response = await call(*request)  # for 300 s at most
        return response.status, await response.read(), _busy(response.status, response.headers.get("Retry-After"))

    async def _renew(self, refused: client.ApiClient) -> None:
        """Reads the credentials anew, once for all requests that were refused with the replaced credentials."""
        async with self._renewing:
            if self._api is not refused:
                return
            try:
                fresh = await configuration()
            except (OSError, config.ConfigException) as error:
                raise KubernetesUnavailable(f"the credentials can't be read: {error}") from error
            if self._replaced is not None:  # a token's lifetime has passed since its last request
                await self._replaced.close()  # type: ignore[no-untyped-call]
            self._replaced, self._api = refused, client.ApiClient(configuration=fresh)


def _yaml(manifest: Object) -> bytes:
    """JSON that is YAML too: YAML has no surrogates for what is beyond 16 bits, and wants some of the rest escaped."""
    plain = json.dumps(manifest, ensure_ascii=False)
    return re.sub("[\x7f-\uffff]", lambda found: f"\\u{ord(found[0]):04x}", plain).encode()


def _busy(status: int, retry_after: str | None) -> float | None:
    """Returns the pause in seconds that an answer asks for; None: it asks for none."""
    if status != 429 and not (status == 503 and retry_after):
        return None
    try:
        return min(max(float(retry_after or BUSY_SECONDS), 0.0), BUSY_MOST_SECONDS)
    except ValueError:  # a date, which no API server sends
        return BUSY_SECONDS


def _meaning(status: int, body: Any, path: str) -> Exception:
    """Turns an answer of the API server into an error. Nothing else decides what an answer means."""
    text = body.decode(errors="replace") if isinstance(body, bytes) else str(body)
    token = ""
    try:
        said = json.loads(text)
        message, token = said.get("message") or text, (said.get("metadata") or {}).get("continue") or ""
    except (ValueError, AttributeError):
        message = text
    match status:
        case 410:
            return ListingExpired(f"{path}: {message}", token)
        case 404:
            return NotFound(f"{path}: {message}")
        case 409:
            return Conflict(f"{path}: {message}")
        case 401:
            return KubernetesUnavailable(f"the API server doesn't accept our credentials: {message}")
        case 403:
            return KubernetesForbids(f"{path}: {message}", status)
        case 400 | 405 | 413 | 415 | 422:
            return KubernetesRefuses(message, status)
        case 500 if re.search("failed to (create typed patch|convert new) object|strict decoding error", message):
            return KubernetesRefuses(message, status)  # the server takes a typo in a template for its own fault
        case _:
            return KubernetesUnavailable(f"{path}: {status} {message}")
