"""The only module that talks to the Kubernetes API. Objects go in and come out as plain dicts.

Writes are server-side applies under one field manager, each the full intent: a field left out is a field removed. A
`resourceVersion` in the body fences the write (409 when the object has changed since it was seen).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Literal

from kubernetes.aio import client, config
from kubernetes.aio.client.exceptions import ApiException

from watchbill import names
from watchbill.errors import Conflict, NotFound, RetryLater, UserActionRequired

REQUEST_TIMEOUT_SECONDS: Final = 10.0
PAGE: Final = 500

Kind = Literal["crews", "heartbeats", "deployments", "serviceaccounts"]

_BASE: Final[dict[Kind, str]] = {
    "crews": f"/apis/{names.API_GROUP}/{names.API_VERSION}",
    "heartbeats": f"/apis/{names.API_GROUP}/{names.API_VERSION}",
    "deployments": "/apis/apps/v1",
    "serviceaccounts": "/api/v1",
}

Object = dict[str, Any]


class ClusterUnavailable(RetryLater):
    """The API server can't be reached, or asks to be left alone for a while."""


class Refused(UserActionRequired):
    """The API server refuses what we ask for; the same request will be refused again."""

    def __init__(self, message: str, status: int) -> None:
        self.status = status
        super().__init__(message)


class Forbidden(Refused):
    """We may not do that: a right is missing."""


class Cluster:
    """A connection to one API server; an async context manager."""

    def __init__(self, api: client.ApiClient) -> None:
        self._api = api

    @classmethod
    async def connect(cls) -> Cluster:
        """As a pod where we are one, else as the kubeconfig says."""
        settings = client.Configuration()
        try:
            config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
        except config.ConfigException:
            await config.load_kube_config(client_configuration=settings)  # type: ignore[no-untyped-call]
        return cls(client.ApiClient(configuration=settings))

    async def __aenter__(self) -> Cluster:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._api.close()  # type: ignore[no-untyped-call]

    # ------------------------------------------------------------ reading

    async def list(self, kind: Kind, namespace: str | None, *, selector: str = "") -> list[Object]:
        """Every object of the kind, as of one moment (pages of one consistent read)."""
        found: list[Object] = []
        token = ""
        while True:
            query = {"limit": str(PAGE), "continue": token, "labelSelector": selector}
            page = await self._request("GET", self._path(kind, namespace), query)
            found += page.get("items") or []
            token = page.get("metadata", {}).get("continue") or ""
            if not token:
                return found

    async def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """The object; None where there is none."""
        try:
            return await self._request("GET", self._path(kind, namespace, name))
        except NotFound:
            return None

    async def secret_exists(self, namespace: str, name: str) -> bool:
        """Whether there is such a Secret. Asks for its metadata only: what it holds is none of our business."""
        accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
        try:
            await self._request("GET", f"/api/v1/namespaces/{namespace}/secrets/{name}", accept=accept)
        except NotFound:
            return False
        return True

    async def is_established(self, plural: str) -> bool:
        """Whether the API server serves this kind of ours."""
        try:
            found = await self._request("GET", _BASE["crews"])  # discovery, which everyone may read
        except NotFound:
            return False
        return any(resource["name"] == plural for resource in found.get("resources", []))

    # ------------------------------------------------------------ writing

    async def apply(self, kind: Kind, manifest: Object) -> Object:
        """Server-side apply. Raises Refused, and Conflict when the manifest's resourceVersion is an old one."""
        metadata = manifest["metadata"]
        query = {"fieldManager": names.FIELD_MANAGER, "force": "true", "fieldValidation": "Strict"}
        path = self._path(kind, metadata["namespace"], metadata["name"])
        return await self._request("PATCH", path, query, body=manifest, content_type="application/apply-patch+yaml")

    async def apply_status(self, kind: Kind, manifest: Object) -> Object:
        """The same for the status of a resource of ours: the full status."""
        metadata = manifest["metadata"]
        query = {"fieldManager": f"{names.FIELD_MANAGER}-status", "force": "true"}
        path = self._path(kind, metadata["namespace"], metadata["name"]) + "/status"
        return await self._request("PATCH", path, query, body=manifest, content_type="application/apply-patch+yaml")

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str) -> None:
        """Deletes exactly this object, if it is still there; its children in the background."""
        body = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        try:
            await self._request("DELETE", self._path(kind, namespace, name), body=body)
        except (NotFound, Conflict):
            return

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
        body: Object | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> Object:
        serialize: Any = self._api.param_serialize
        request = await serialize(
            method=method,
            resource_path=path,
            query_params=[(key, value) for key, value in (query or {}).items() if value],
            header_params={"Accept": accept, "Content-Type": content_type},
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            call: Any = self._api.call_api
            response = await call(*request, _request_timeout=REQUEST_TIMEOUT_SECONDS)
            data = await response.read()
        except ApiException as error:
            raise _meaning(error.status or 0, error.body or error.reason or "", path) from error
        except (OSError, TimeoutError) as error:
            raise ClusterUnavailable(f"the API server doesn't answer: {error or type(error).__name__}") from error
        if response.status >= 400:
            raise _meaning(response.status, data, path)
        return json.loads(data) if data else {}


def _meaning(status: int, body: Any, path: str) -> Exception:
    """What an answer of the API server means to us. The only place where this is decided."""
    text = body.decode(errors="replace") if isinstance(body, bytes) else str(body)
    try:
        message = json.loads(text).get("message") or text
    except (ValueError, AttributeError):
        message = text
    match status:
        case 404:
            return NotFound(f"{path}: {message}")
        case 409:
            return Conflict(f"{path}: {message}")
        case 401 | 403:
            return Forbidden(f"{path}: {message}", status)
        case 400 | 405 | 413 | 415 | 422:
            return Refused(message, status)
        case 500 if "failed to create typed patch object" in message or "strict decoding error" in message:
            return Refused(message, status)  # a template typo, told as the server's own fault
        case _:
            return ClusterUnavailable(f"{path}: {status} {message}")
